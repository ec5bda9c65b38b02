package gossip_test

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// countedLinks counts the streams it opens that are not memberlist's.
type countedLinks struct {
	overlay.Links
	opened *atomic.Int64
}

func (l countedLinks) Open(ctx context.Context, p peer.ID, proto overlay.Protocol) (overlay.Stream, error) {
	if proto != overlay.ProtoMember {
		l.opened.Add(1)
	}
	return l.Links.Open(ctx, p, proto)
}

// opened is how many sessions and follows all of them opened so far.
func opened(all ...*pillar) (n int64) {
	for _, p := range all {
		n += p.opened.Load()
	}
	return n
}

// memberNode is what key says of itself in memberlist.
func memberNode(network identity.NetworkID, key *identity.PillarKey, rec *overlay.Record, run string, incarnation uint32) *memberlist.Node {
	n := &memberlist.Node{Name: key.ID().String() + "." + run, Addr: gossip.MemberAddr(key.ID()), Port: 1}
	meta := binary.BigEndian.AppendUint64(append([]byte{}, rec.ID[:]...), rec.Created)
	n.Meta = append(meta, key.Sign(identity.TagMember, network, gossip.MetaSigned(meta, incarnation, n.Name))...)
	return n
}

func TestForgedMembers(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		rec, _ := a.roster.Lookup(b.key.ID())
		stranger := identity.NewPillarKey()
		of := func(run string, incarnation uint32) *memberlist.Node {
			return memberNode(w.key.ID(), b.key, rec.Record, run, incarnation)
		}
		good := of("5", 7)
		changed := func(change func(n *memberlist.Node)) *memberlist.Node {
			n := of("9", 7)
			change(n)
			return n
		}
		for _, c := range []struct {
			name        string
			node        *memberlist.Node
			incarnation uint32
			why         string
		}{
			{"as it should be", good, 7, ""},
			{"again", good, 7, ""},
			{"an incarnation it did not sign", good, 8, "forged"},
			{"the last incarnation there is", good, 1<<32 - 1, "forged"},
			{"a newer incarnation", of("5", 8), 8, ""},
			{"an older incarnation", good, 7, "stale"},
			{"an older run", of("4", 9), 9, "run"},
			{"signed by somebody else", changed(func(n *memberlist.Node) {
				n.Meta = memberNode(w.key.ID(), stranger, rec.Record, "9", 7).Meta
			}), 7, "forged"},
			{"signed for another run", changed(func(n *memberlist.Node) { n.Name = b.key.ID().String() + ".99" }), 7, "forged"},
			{"signed in another network", memberNode(identity.NewNetworkKey().ID(), b.key, rec.Record, "9", 7), 7, "forged"},
			{"altered record", changed(func(n *memberlist.Node) { n.Meta[3] ^= 1 }), 7, "forged"},
			{"altered time", changed(func(n *memberlist.Node) { n.Meta[33] ^= 1 }), 7, "forged"},
			{"another address", changed(func(n *memberlist.Node) { n.Addr[5] ^= 1 }), 7, "forged"},
			{"another port", changed(func(n *memberlist.Node) { n.Port = 2 }), 7, "forged"},
			{"no meta", changed(func(n *memberlist.Node) { n.Meta = nil }), 7, "forged"},
			{"no name", changed(func(n *memberlist.Node) { n.Name = "" }), 7, "malformed"},
			{"no run", changed(func(n *memberlist.Node) { n.Name = b.key.ID().String() }), 7, "malformed"},
			{"a run that is none", changed(func(n *memberlist.Node) { n.Name = b.key.ID().String() + ".A" }), 7, "malformed"},
			{"not in the roster", memberNode(w.key.ID(), stranger, rec.Record, "9", 7), 7, "stranger"},
			{"this pillar", memberNode(w.key.ID(), a.key, a.record.Load(), "zzzzzzzzzzz", 7), 7, "echo"},
			{"a newer run", of("10", 1), 1, ""},
		} {
			if why := a.mesh.CheckMember(c.node, c.incarnation); why != c.why {
				w.t.Errorf("%s: %q, want %q", c.name, why, c.why)
			}
		}
		stopAll([]*pillar{a, b})
	})
}

// A member whose record is not known is refused, its record fetched from
// whoever has it, and the next time it passes.
func TestUnknownMemberIsFetched(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		key := identity.NewPillarKey()
		rec := replicatest.PillarRecord(w.t, w.key, key, time.Now(), time.Hour)
		b.disk.Keep(rec) // b answers a Get with it, but does not spread it
		n := memberNode(w.key.ID(), key, rec, "1", 1)
		if why := a.mesh.CheckMember(n, 1); why != "stranger" {
			w.t.Fatalf("an unknown member: %q", why)
		}
		until(w.t, 2*time.Second, "its record", func() bool { return a.mesh.CheckMember(n, 1) == "" })
		unknown := identity.NewPillarKey()
		if why := a.mesh.CheckMember(memberNode(w.key.ID(), unknown, rec, "1", 1), 1); why != "stranger" {
			w.t.Fatalf("somebody else's record let a stranger in: %q", why)
		}
	})
}

// Memberlist finds everybody and loses who is gone; a session overrules it.
func TestMembership(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		c := w.pillar().start(a)
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		time.Sleep(time.Minute)
		state := func(of *pillar) overlay.PillarState {
			for _, st := range a.mesh.Pillars() {
				if st.ID == of.key.ID() {
					return st.State
				}
			}
			return ""
		}
		w.net.Cut(a.id(), b.id()) // c still reaches both
		until(w.t, 2*time.Second, "suspect", func() bool { return state(b) == overlay.PillarSuspect })
		time.Sleep(2 * time.Minute)
		if s := state(b); s != overlay.PillarSuspect {
			w.t.Errorf("reached by others only: %s, want suspect", s)
		}
		b.stop()
		until(w.t, 2*time.Minute, "dead", func() bool { return state(b) == overlay.PillarDead })
		if s := state(c); s != overlay.PillarAlive {
			w.t.Errorf("the third is %s", s)
		}
		stopAll([]*pillar{a, c})
	})
}

// Stopping does not wait for memberlist's probes, and leaves none behind: the
// bubble would not end.
func TestMemberStops(t *testing.T) {
	for range 3 {
		inBubble(t, func(w *world) {
			w.member = true
			a := w.pillar().start()
			b := w.pillar().start(a)
			c := w.pillar().start(a)
			until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b, c) })
			time.Sleep(7 * time.Second)
			w.net.Cut(a.id(), b.id())
			w.net.Cut(a.id(), c.id())
			time.Sleep(2 * time.Second) // probes are out
			began := time.Now()
			a.stop()
			b.stop()
			c.stop()
			if took := time.Since(began); took > 500*time.Millisecond {
				w.t.Errorf("stopping took %s", took)
			}
			synctest.Wait()
		})
	}
}
