// Package gossip connects pillars: it finds them, keeps sessions with all of
// them, replicates their logs and says what each of them holds. It implements
// overlay.Mesh for a pillar and asks the pillar, through Replica, Records and
// Notes, for everything durable. It knows connections only through
// overlay.Links, Packets and Peers.
//
// It is not where records are judged (the Replica does that), stored or pushed
// to nodes.
//
//	mesh, err := gossip.New(gossip.Config{Network: network, Key: key, Links: host, …})
//	…
//	go pillar.Run(ctx, mesh)
//	err = mesh.Run(ctx)
//
// A record's way, with the file of each step:
//
//	the pillar commits          Mesh.Committed       logs.go, tail.go
//	every follower is woken     Mesh.serve           provide.go
//	the other pillar reads      follow.read          follow.go
//	checks order, chain, head   chain.take           chain.go
//	stores                      Replica.Apply        follow.go
//	and says so                 Ack
//	copies are counted          acks.add             acks.go
//
// Of each log there is one live follow, chosen in follows.go; what is missing
// below it comes by ranges, chosen in fill.go. What is held is told in vectors.go
// and served from logs.go, tail.go and heads.go. Where histories differ,
// doubts.go asks and forks.go proves; who breaks the rules is counted in
// score.go.
//
// Beneath the logs lies the audit, which relies on none of them: every few
// seconds two pillars compare all that they hold, and repair what differs.
//
//	every record is counted     holdings.committed   holdings.go, ledger.go
//	a round is begun            audit.run            audit.go
//	the other side answers      host.answer          audit_answer.go, audit_link.go
//	samples of the disks        compareSpots         spot.go
//	what differs is found       reconcile            audit_cells.go, gossip/sketch
//	also if that is not enough  goDeep               audit_deep.go
//	and repaired                exchange             repair.go
//	records of bodiless entries wants.run            wants.go
package gossip
