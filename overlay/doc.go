// Package overlay is the domain: what records are and when they are valid, what
// a pillar and a node do with them, what they say to each other, and the
// contracts they need from below. It knows no transport, no database and no
// HTTP: connections are Links, disks are a Store (a pillar's) or a Table (a
// node's), replication is a Mesh; package relay, store and gossip have the real
// ones, overlay/memnet and store.NewMemory those for tests.
//
//	record.go, kinds.go, verify.go   records: parsing, signing, validity
//	position.go, summary.go, mesh.go logs, vectors, heads, digests
//	roster.go, hello.go, addrs.go    who is a pillar, and what a link says
//	frame.go, wire_*.go              the messages (docs/protocol.md)
//	links.go, store.go, mesh.go      the contracts
//	pillar*.go                       Pillar; pillar_submit.go draws its pipeline
//	node*.go                         Node; node.go draws its parts
//
// A pillar:
//
//	p, err := overlay.NewPillar(overlay.PillarConfig{Network: network, Key: key, Store: st, Links: host, Peers: host, …})
//	err = p.Run(ctx, overlay.NoMesh{}) // a network of its own; gossip.New(…) replicates
//
// A node:
//
//	n, err := overlay.NewNode(overlay.NodeConfig{Account: account, Device: device, Table: table, Links: host, …})
//	go n.Run(ctx)
//	sent, err := n.Send(ctx, overlay.Outgoing{To: to, Body: body})
package overlay
