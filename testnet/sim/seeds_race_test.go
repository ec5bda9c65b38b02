//go:build race

package sim_test

// seeds is how many seeds are run unless -sim.seeds says otherwise: with the
// race detector each costs several times as much.
const seeds = 30
