// Package sim lives through networks of real pillars in virtual time: every
// pillar is an overlay.Pillar over a store in memory and a gossip.Mesh over a
// network in memory, and what a seed says happens to them. Links lose and delay
// packets and break, networks split, processes crash before and after a commit
// is durable and come back with their disk, with an older copy of it or with
// none, clocks jump, a pillar lies. Meanwhile devices write and read. Then
// everything heals, and what must hold is checked:
//
//   - all honest pillars hold the same unexpired records and sign the same summary;
//   - nothing acknowledged by k pillars is lost after at most k-1 of their disks
//     were lost or put back; a pillar that lies counts as lost;
//   - no device misses a record addressed to it, whatever it resumed from;
//   - nothing is stored or delivered that no author signed;
//   - the work done is bounded.
//
// A seed decides everything that happens to the network and when. It does not
// decide how goroutines are scheduled within one instant of virtual time, so a
// seed replays a history of faults, not every interleaving: what fails once in a
// hundred runs of a seed is looked for by running the seed a hundred times.
//
//	go test ./testnet/sim -sim.seed=17 -v        one seed, with its history
//	go test ./testnet/sim -sim.seeds=5000        seeds 1 to 5000
//
// Run must be called in a testing/synctest bubble. The package is for tests; it
// holds no protocol and knows of the product what its exported API says.
package sim
