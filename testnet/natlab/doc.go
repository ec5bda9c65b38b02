// Package natlab is a laboratory for what NATs do to Obelisk: pillars and nodes
// are processes of the real binary, each in a network namespace of its own,
// behind kernel NAT as home routers do it, and the internet between them is a
// Router in this process that adds delay, jitter and loss. All public addresses
// exist inside the namespaces only, and there is no way out of them.
//
//	pillar-1 ── tun ──┐                  ┌── tun ── gateway-1 ── bridge ── veth ── alice
//	pillar-2 ── tun ──┤ Router (user     ├── tun ── gateway-2 ── bridge ── veth ── bob
//	pillar-3 ── tun ──┘ space, one Path) └── …        NAT: iptables, conntrack
//
// Scenarios is the table of what must hold; each is run a number of times, with
// new identities every time:
//
//	result, err := natlab.Play(ctx, scenario, natlab.Options{Binary: binary, Runs: 20})
//
// What a run says about "direct" is not taken from the binary alone: the Router
// sees who talks to whom.
//
// It needs Linux, root, /dev/net/tun and the commands ip, iptables-restore and
// conntrack; Missing says what is not there. `go run ./testnet/natlab/lab` is
// its command, docs/nat.md its guide.
package natlab
