// Package testnet runs Obelisk networks on one machine as they run anywhere
// else: every pillar and every node is a process of the real binary, with its
// own data directory, keys and sockets on 127.0.0.1. It starts them, knows when
// they are ready, kills, pauses and restarts them, and asks them how they are.
//
// It is not a simulation and holds no protocol: what it knows of a process it
// reads from run.json and asks over the admin port or the local API.
//
//	net, err := testnet.Create(dir, binary, testnet.Options{})
//	first, err := net.StartPillar(ctx, "pillar-1") // makes the network's key
//	alice, err := net.StartNode(ctx, "alice", first)
//	…
//	err = net.Down(ctx)
//
// testnet/run.sh is its command (testnet/local), testnet/bench its load
// generator.
package testnet
