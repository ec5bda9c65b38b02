//go:build !race

package sim_test

// seeds is how many seeds are run unless -sim.seeds says otherwise.
const seeds = 200
