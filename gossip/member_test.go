package gossip_test

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// memberNode is what key says of itself in memberlist.
func memberNode(network identity.NetworkID, key *identity.PillarKey, rec *overlay.Record, run string) *memberlist.Node {
	n := &memberlist.Node{Name: key.ID().String() + "." + run, Addr: gossip.MemberAddr(key.ID()), Port: 1}
	meta := binary.BigEndian.AppendUint64(append([]byte{}, rec.ID[:]...), rec.Created)
	n.Meta = append(meta, key.Sign(identity.TagMember, network, append(meta[:40:40], n.Name...))...)
	return n
}

func TestForgedMembers(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		rec, _ := a.roster.Lookup(b.key.ID())
		good := func() *memberlist.Node { return memberNode(w.key.ID(), b.key, rec.Record, "5") }
		stranger := identity.NewPillarKey()
		for _, c := range []struct {
			name string
			node func(n *memberlist.Node) *memberlist.Node
			ok   bool
		}{
			{"as it should be", func(n *memberlist.Node) *memberlist.Node { return n }, true},
			{"again", func(n *memberlist.Node) *memberlist.Node { return n }, true},
			{"an older run", func(*memberlist.Node) *memberlist.Node {
				return memberNode(w.key.ID(), b.key, rec.Record, "4")
			}, false},
			{"a newer run", func(*memberlist.Node) *memberlist.Node {
				return memberNode(w.key.ID(), b.key, rec.Record, "10")
			}, true},
			{"signed by somebody else", func(n *memberlist.Node) *memberlist.Node {
				x := memberNode(w.key.ID(), stranger, rec.Record, "11")
				n.Meta = x.Meta
				return n
			}, false},
			{"signed for another run", func(n *memberlist.Node) *memberlist.Node {
				n.Name = b.key.ID().String() + ".99"
				return n
			}, false},
			{"signed in another network", func(*memberlist.Node) *memberlist.Node {
				return memberNode(identity.NewNetworkKey().ID(), b.key, rec.Record, "12")
			}, false},
			{"altered record", func(n *memberlist.Node) *memberlist.Node { n.Meta[3] ^= 1; return n }, false},
			{"altered time", func(n *memberlist.Node) *memberlist.Node { n.Meta[33] ^= 1; return n }, false},
			{"another address", func(n *memberlist.Node) *memberlist.Node { n.Addr[5] ^= 1; return n }, false},
			{"another port", func(n *memberlist.Node) *memberlist.Node { n.Port = 2; return n }, false},
			{"no meta", func(n *memberlist.Node) *memberlist.Node { n.Meta = nil; return n }, false},
			{"no name", func(n *memberlist.Node) *memberlist.Node { n.Name = ""; return n }, false},
			{"not in the roster", func(*memberlist.Node) *memberlist.Node {
				return memberNode(w.key.ID(), stranger, rec.Record, "5")
			}, false},
		} {
			if err := a.mesh.CheckMember(c.node(good())); (err == nil) != c.ok {
				w.t.Errorf("%s: %v", c.name, err)
			}
		}
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
		n := memberNode(w.key.ID(), key, rec, "1")
		if err := a.mesh.CheckMember(n); err == nil {
			w.t.Fatal("an unknown member passed")
		}
		until(w.t, 2*time.Second, "its record", func() bool { return a.mesh.CheckMember(n) == nil })
		unknown := identity.NewPillarKey()
		if err := a.mesh.CheckMember(memberNode(w.key.ID(), unknown, rec, "1")); err == nil {
			w.t.Fatal("somebody else's record let a stranger in")
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
