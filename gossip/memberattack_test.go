package gossip_test

import (
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// memberPackets is the kind of memberlist's packets.
const memberPackets = overlay.PacketKind(1)

// known is what a liar has learned of the members.
type known struct {
	mu      sync.Mutex
	members map[identity.PillarID]gossip.MemberWord // newest alive
	last    uint32                                  // newest sequence number of a ping
}

func (k *known) note(words []gossip.MemberWord) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range words {
		if w.Kind == gossip.WordPing {
			k.last = max(k.last, w.Seq)
		}
		if len(w.Meta) == 0 || w.State != 0 {
			continue
		}
		var p identity.PillarID
		for i := range w.Node {
			if w.Node[i] == '.' {
				p, _ = identity.ParsePillar(w.Node[:i])
			}
		}
		if w.Incarnation >= k.members[p].Incarnation {
			w.Kind = gossip.WordAlive
			k.members[p] = w
		}
	}
}

func (k *known) of(p *pillar) gossip.MemberWord {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.members[p.key.ID()]
}

// member makes the liar a member that listens: what it hears is in known.
func (l *liar) member() (*known, gossip.MemberWord) {
	k := &known{members: map[identity.PillarID]gossip.MemberWord{}}
	l.host.Receive(memberPackets, func(_ peer.ID, b []byte) {
		if words, why := gossip.ReadMemberPacket(b); why == "" {
			k.note(words)
		}
	})
	rec := replicatest.PillarRecord(l.w.t, l.w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...)
	n := memberNode(l.w.key.ID(), l.key, rec, "1", 1)
	self := gossip.MemberWord{Kind: gossip.WordAlive, Node: n.Name, Incarnation: 1, Meta: n.Meta}
	l.host.Handle(overlay.ProtoMember, func(s overlay.Stream) {
		defer s.Close()
		s.SetReadDeadline(time.Now().Add(time.Second))
		words, _, _ := gossip.ReadMemberPush(s)
		k.note(words)
		s.Write(gossip.MemberPush(nil, self))
	})
	return k, self
}

// push exchanges states with p, as a member that starts a push/pull.
func (l *liar) push(k *known, p *pillar, words ...gossip.MemberWord) {
	s, err := l.host.Open(l.w.t.Context(), p.id(), overlay.ProtoMember)
	if err != nil {
		l.w.t.Fatal(err)
	}
	defer s.Close()
	s.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := s.Write(gossip.MemberPush(nil, words...)); err != nil {
		return // refused
	}
	if answer, _, err := gossip.ReadMemberPush(s); err == nil {
		k.note(answer)
	}
}

// An admitted pillar says of the others, ten times a second and to everybody,
// whatever memberlist would believe. Nobody honest is missing anywhere for
// longer than a probe takes; who really dies is found dead all the same.
func TestMemberLiar(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		all := make([]*pillar, 4)
		for i := range all {
			all[i] = w.pillar()
			all[i].config = (*gossip.Config).Tolerant // or it would be over soon
			all[i].start(all[:min(i, 1)]...)
		}
		until(t, 10*time.Second, "meshed", func() bool { return meshed(all...) })
		for _, p := range all {
			p.submit(10)
		}
		until(t, 10*time.Second, "converged", func() bool { return all[0].disk.Count() == 40 && converged(all...) })
		l := w.liar()
		k, self := l.member()
		for _, p := range all {
			l.start(p)
		}
		until(t, 10*time.Second, "everybody a member", func() bool {
			for _, p := range all {
				l.push(k, p, self)
				if len(p.mesh.MembersAlive()) != 5 {
					return false
				}
			}
			return len(k.members) == 5 // the liar among them
		})
		before := opened(all...)

		missing := map[[2]int]time.Duration{}
		var longest time.Duration
		watch := func() {
			for i, p := range all {
				alive := p.mesh.MembersAlive()
				for j, q := range all {
					at := [2]int{i, j}
					if alive[q.key.ID()] {
						missing[at] = 0
						continue
					}
					missing[at] += 100 * time.Millisecond
					longest = max(longest, missing[at])
				}
			}
			if !meshedAmong(all) {
				t.Error("memberlist overruled a session")
			}
		}
		const last = 1<<32 - 1
		for round := range 300 {
			for _, to := range all {
				for v, victim := range all {
					at := k.of(victim)
					name, other := at.Node, k.of(all[(v+1)%len(all)]).Node
					packets := [][]byte{
						gossip.MemberPacket(
							gossip.MemberWord{Kind: gossip.WordDead, Node: name, From: self.Node, Incarnation: last},
							gossip.MemberWord{Kind: gossip.WordDead, Node: name, From: name, Incarnation: last},
							gossip.MemberWord{Kind: gossip.WordDead, Node: name, From: name, Incarnation: at.Incarnation},
							gossip.MemberWord{Kind: gossip.WordDead, Node: name, From: other, Incarnation: at.Incarnation},
							gossip.MemberWord{Kind: gossip.WordDead, Node: name, From: self.Node, Incarnation: at.Incarnation + 1<<20}),
						gossip.MemberPacket(
							gossip.MemberWord{Kind: gossip.WordSuspect, Node: name, From: self.Node, Incarnation: at.Incarnation},
							gossip.MemberWord{Kind: gossip.WordSuspect, Node: name, From: other, Incarnation: at.Incarnation},
							gossip.MemberWord{Kind: gossip.WordSuspect, Node: name, From: k.of(all[(v+2)%len(all)]).Node, Incarnation: at.Incarnation},
							gossip.MemberWord{Kind: gossip.WordSuspect, Node: name, From: self.Node, Incarnation: last},
							gossip.MemberWord{Kind: gossip.WordSuspect, Node: name, From: self.Node, Incarnation: at.Incarnation + 1}),
						gossip.MemberPacket(
							gossip.MemberWord{Kind: gossip.WordAlive, Node: name, Meta: at.Meta, Incarnation: last},
							gossip.MemberWord{Kind: gossip.WordAlive, Node: name, Meta: at.Meta, Incarnation: at.Incarnation + 1},
							gossip.MemberWord{Kind: gossip.WordAlive, Node: name, Meta: self.Meta, Incarnation: at.Incarnation + 1},
							gossip.MemberWord{Kind: gossip.WordAlive, Node: name + "z", Meta: at.Meta, Incarnation: 1}),
						gossip.MemberPacket(
							gossip.MemberWord{Kind: gossip.WordAck, Seq: uint32(round)},
							gossip.MemberWord{Kind: gossip.WordNack, Seq: uint32(round)},
							gossip.MemberWord{Kind: gossip.WordPing, Seq: 1, Node: k.of(to).Node, From: name},
							gossip.MemberWord{Kind: gossip.WordPingFor, Seq: 1, Node: other, From: self.Node, Nack: true}),
						append([]byte{gossip.WordCompressed}, gossip.MemberPacket(gossip.MemberWord{Kind: gossip.WordDead, Node: name, From: name, Incarnation: last})...),
					}
					for _, b := range packets {
						l.host.Send(to.id(), memberPackets, b)
					}
					if round%10 == v {
						l.push(k, to, self,
							gossip.MemberWord{Node: name, State: 3, Incarnation: last},
							gossip.MemberWord{Node: name, State: 3, Incarnation: at.Incarnation},
							gossip.MemberWord{Node: name, State: 2, Incarnation: last},
							gossip.MemberWord{Node: name, State: 2, Incarnation: at.Incarnation},
							gossip.MemberWord{Node: name, State: 1, Incarnation: at.Incarnation + 1<<20},
							gossip.MemberWord{Node: name, State: 0, Incarnation: last, Meta: at.Meta})
					}
				}
			}
			time.Sleep(100 * time.Millisecond)
			watch()
		}
		if longest > 2*time.Second {
			t.Errorf("somebody honest was dead for %s", longest)
		}
		t.Logf("longest absence %s", longest)
		for _, p := range all {
			if at := k.of(p); at.Incarnation > 100 {
				t.Errorf("driven to incarnation %d", at.Incarnation)
			}
			for _, why := range []string{"incarnation", "leave", "forged", "unasked", "storm", "encoded", "echo"} {
				if p.count("member_dropped_total", why) == 0 {
					t.Errorf("nothing dropped as %s", why)
				}
			}
		}
		if n := opened(all...) - before; n != 0 {
			t.Errorf("%d follows or sessions opened because of what memberlist said", n)
		}

		// The attack goes on, and one really dies: without its session the others
		// have only memberlist's word, which comes in time.
		all[3].stop()
		until(t, 2*time.Minute, "the dead is dead", func() bool {
			for _, p := range all[:3] {
				if p.mesh.MembersAlive()[all[3].key.ID()] {
					return false
				}
				at := k.of(all[3])
				l.host.Send(p.id(), memberPackets, gossip.MemberPacket(
					gossip.MemberWord{Kind: gossip.WordAlive, Node: at.Node, Meta: at.Meta, Incarnation: at.Incarnation},
					gossip.MemberWord{Kind: gossip.WordAlive, Node: at.Node, Meta: at.Meta, Incarnation: at.Incarnation + 1}))
			}
			return true
		})
		l.host.Shutdown()
		stopAll(all)
	}, memnet.WithLatency(5*time.Millisecond))
}

// meshedAmong reports whether all hold each other for alive.
func meshedAmong(all []*pillar) bool {
	for _, p := range all {
		state := map[identity.PillarID]overlay.PillarState{}
		for _, st := range p.mesh.Pillars() {
			state[st.ID] = st.State
		}
		for _, q := range all {
			if p != q && state[q.key.ID()] != overlay.PillarAlive {
				return false
			}
		}
	}
	return true
}

// What a liar says about itself harms nobody else.
func TestMemberAboutItself(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		l := w.liar()
		k, _ := l.member()
		l.start(a)
		l.start(b)
		rec := replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...)
		word := func(run string, incarnation uint32) gossip.MemberWord {
			n := memberNode(w.key.ID(), l.key, rec, run, incarnation)
			return gossip.MemberWord{Kind: gossip.WordAlive, Node: n.Name, Incarnation: incarnation, Meta: n.Meta}
		}
		const last = 1<<32 - 1
		for _, run := range []string{"2", "3", "zzzzzzzzzzzzz"} {
			self := word(run, last)
			l.push(k, a, self)
			until(t, 10*time.Second, "a member", func() bool { return a.mesh.MembersAlive()[l.key.ID()] && b.mesh.MembersAlive()[l.key.ID()] })
			l.host.Send(a.id(), memberPackets, gossip.MemberPacket(gossip.MemberWord{Kind: gossip.WordDead, Node: self.Node, From: self.Node, Incarnation: last}))
			until(t, time.Second, "gone from a", func() bool {
				return !a.mesh.MembersAlive()[l.key.ID()]
			})
		}
		if !meshedAmong([]*pillar{a, b}) || !a.mesh.MembersAlive()[b.key.ID()] || !b.mesh.MembersAlive()[a.key.ID()] {
			t.Error("somebody else is gone too")
		}
		l.host.Shutdown()
		stopAll([]*pillar{a, b})
	})
}

// A member that takes streams and answers none holds up neither the others nor
// the end.
func TestMemberThatStalls(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		l := w.liar()
		l.member()
		l.host.Handle(overlay.ProtoMember, func(s overlay.Stream) {
			defer s.Reset()
			io.Copy(io.Discard, s)
		})
		l.start(a)
		time.Sleep(time.Second) // a has opened a push/pull
		b := w.pillar().start(a)
		until(t, 5*time.Second, "another member", func() bool { return a.mesh.MembersAlive()[b.key.ID()] })
		// Push/pulls of the liar's that say nothing.
		var stalled []overlay.Stream
		for range 20 {
			s, err := l.host.Open(t.Context(), a.id(), overlay.ProtoMember)
			if err != nil {
				t.Fatal(err)
			}
			s.Write([]byte{gossip.WordPushPull})
			stalled = append(stalled, s)
		}
		c := w.pillar().start(a)
		until(t, 5*time.Second, "a third", func() bool { return a.mesh.MembersAlive()[c.key.ID()] })
		began := time.Now()
		stopAll([]*pillar{a})
		if took := time.Since(began) - time.Second; took > 100*time.Millisecond {
			t.Errorf("stopping took %s", took)
		}
		for _, s := range stalled {
			s.Reset()
		}
		l.host.Shutdown()
		stopAll([]*pillar{b, c})
	})
}
