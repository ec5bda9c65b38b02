package gossip_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// twoHistories returns two histories of one log that part behind entry common.
func (w *world) twoHistories(key *identity.PillarKey, common, left, right int) (a, b *replicatest.Log) {
	a = replicatest.NewLog(w.key.ID(), key)
	a.Add(w.t, w.author.Messages(w.t, common)...)
	b = a.Fork(uint64(common))
	a.Add(w.t, w.author.Messages(w.t, left)...)
	b.Add(w.t, w.author.Messages(w.t, right)...)
	return a, b
}

// forkedAt reports whether a pillar knows that a log was forked, and holds
// nothing of it.
func forkedAt(p *pillar, log overlay.LogID) bool {
	for _, f := range p.mesh.SyncStatus().Forks {
		if f.Log == log {
			return f.Proof.Proves(p.w.key.ID()) && p.held(log).Pillar == ""
		}
	}
	return false
}

// Two pillars that hold different histories of a log find out when they first
// talk, whatever each of them has of it: all drop it, tell the others, keep the
// proof over a restart, and take nothing of it from anybody.
func TestForkIsFound(t *testing.T) {
	for _, c := range []struct {
		name                string
		common, left, right int
	}{
		{"same length", 3, 4, 4},
		{"one longer", 3, 4, 40},
		{"from the first entry", 0, 5, 2},
		{"far apart", 2, 3000, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				liar := identity.NewPillarKey()
				left, right := w.twoHistories(liar, c.common, c.left, c.right)
				a := w.pillar().hold(left, 1, uint64(c.common+c.left)).start()
				b := w.pillar().hold(right, 1, uint64(c.common+c.right)).start(a)
				third := w.pillar().start(a)
				all := []*pillar{a, b, third}
				until(t, 10*time.Second, "meshed", func() bool { return meshed(all...) })
				until(t, 10*time.Second, "the fork at all", func() bool {
					return forkedAt(a, left.ID) && forkedAt(b, left.ID) && forkedAt(third, left.ID)
				})
				for i, p := range all {
					if n := p.count("forks_total"); n != 1 {
						t.Errorf("alarm of %d at %v", i, n)
					}
					if n := p.count("offences_total"); n != 0 {
						t.Errorf("%d counts %v offences of honest pillars", i, n)
					}
				}
				if n := a.disk.Count(); n < c.left {
					t.Errorf("%d records are left, want all", n)
				}
				a.submit(3)
				until(t, 5*time.Second, "converged", func() bool { return converged(all...) })
				time.Sleep(10 * time.Second)
				a.restart(b)
				late := w.pillar().start(a)
				until(t, 10*time.Second, "the fork after a restart, and at a new one", func() bool {
					return forkedAt(a, left.ID) && forkedAt(late, left.ID)
				})
			}, memnet.WithLatency(5*time.Millisecond))
		})
	}
}

// Who has the middle of another history only, without a signed head there,
// proves the fork with the heads around it.
func TestForkInTheMiddle(t *testing.T) {
	for range 4 { // whoever asks first
		inBubble(t, func(w *world) {
			left, right := w.twoHistories(identity.NewPillarKey(), 3, 7, 60)
			a := w.pillar().hold(left, 1, 10)
			b := w.pillar().hold(right, 1, 63)
			a.start()
			b.start(a)
			until(t, 10*time.Second, "the fork at both", func() bool { return forkedAt(a, left.ID) && forkedAt(b, left.ID) })
			time.Sleep(time.Minute)
			// The log is dead, its records are not: the audit carries them to both.
			if a.disk.Count() != 70 || b.disk.Count() != 70 {
				t.Errorf("%d and %d records are there, want those of both histories", a.disk.Count(), b.disk.Count())
			}
		}, memnet.WithLatency(5*time.Millisecond))
	}
}

// A proof is forgotten, on disk too, when no log of that time can live any more.
func TestForkIsForgotten(t *testing.T) {
	inBubble(t, func(w *world) {
		left, right := w.twoHistories(identity.NewPillarKey(), 1, 2, 2)
		var ahead atomic.Int64
		a := w.pillar().hold(left, 1, 3)
		a.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		a.start()
		b := w.pillar().hold(right, 1, 3).start(a)
		until(t, 10*time.Second, "the fork", func() bool { return forkedAt(a, left.ID) && forkedAt(b, left.ID) })
		time.Sleep(time.Second)
		b.stop()
		time.Sleep(time.Hour) // while it is known what another clock says, it is a wrong one that forgets
		ahead.Store(int64(39 * 24 * time.Hour))
		time.Sleep(2 * time.Minute)
		if !forkedAt(a, left.ID) {
			t.Error("forgotten too early")
		}
		ahead.Store(int64(41 * 24 * time.Hour))
		until(t, 2*time.Minute, "forgotten", func() bool { return len(a.mesh.SyncStatus().Forks) == 0 })
		a.restart()
		if n := len(a.mesh.SyncStatus().Forks); n != 0 {
			t.Errorf("%d forks after a restart", n)
		}
	})
}

// A pillar that serves one history to some and another one to others is found
// out by those, though each of them only asks the pillar itself; they converge.
func TestForkingLiar(t *testing.T) {
	inBubble(t, func(w *world) {
		l := w.liar()
		left, right := w.twoHistories(l.key, 5, 30, 31)
		a := w.pillar().start()
		b := w.pillar().start(a)
		all := []*pillar{a, b}
		until(t, 5*time.Second, "meshed", func() bool { return meshed(all...) })
		to := func(p *pillar) *replicatest.Log {
			if p == a {
				return left
			}
			return right
		}
		l.serve = func(s overlay.Stream, req *overlay.Follow) {
			log := left
			if s.Peer() == b.id() {
				log = right
			}
			say(s, log.Batch(req.From, uint64(len(log.Entries))))
			s.Read(make([]byte, 1))
		}
		for _, p := range all {
			l.claims = overlay.Vector{to(p).Position()}
			l.start(p)
		}
		until(t, 20*time.Second, "the fork at both", func() bool { return forkedAt(a, left.ID) && forkedAt(b, left.ID) })
		a.submit(1)
		until(t, 5*time.Second, "converged", func() bool { return converged(all...) })
	}, memnet.WithLatency(5*time.Millisecond))
}

// The pillar whose own log turns out to be forked goes on with a new one.
func TestOwnLogForked(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		end := a.submit(3)
		b := w.pillar()
		// Somebody else signed with a's key, too.
		other := replicatest.NewLog(w.key.ID(), a.key)
		own := a.held(end.Log)
		other.Nonce, other.ID = own.Nonce, end.Log
		other.Restart()
		other.Add(t, w.author.Messages(t, 3)...)
		b.hold(other, 1, 3).start(a)
		until(t, 10*time.Second, "the fork at both", func() bool { return forkedAt(a, end.Log) && forkedAt(b, end.Log) })
		next := a.submit(2)
		if next.Log == end.Log {
			t.Fatal("the forked log is still written")
		}
		until(t, 5*time.Second, "the new log", func() bool { return b.held(next.Log).Position == next })
		until(t, 5*time.Second, "its copy", func() bool { return copies(a, next) == 1 })
	}, memnet.WithLatency(5*time.Millisecond))
}

// What proves nothing harms nobody but its author: a head for somebody else's
// log, links that lead nowhere, a vector with another hash and nothing to show
// for it.
func TestFrameUps(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		end := a.submit(5)
		until(t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		l := w.liar()
		forged := replicatest.NewLog(w.key.ID(), l.key) // of the liar's own key
		forged.Add(t, w.author.Messages(t, 5)...)
		good := forged.Head(5)
		claimed := *good
		claimed.Pillar, claimed.Nonce = a.key.ID(), a.held(end.Log).Nonce
		l.serve = func(s overlay.Stream, _ *overlay.Follow) {
			say(s, &overlay.Forked{Other: &claimed, Before: overlay.Hash{1}})
		}
		l.claims = overlay.Vector{{Log: end.Log, Seq: 5, Hash: overlay.Hash{1}}}
		l.start(b)
		until(t, 5*time.Second, "a claim that is not shown", func() bool { return b.count("offences_total") == 1 })
		c := w.liar()
		c.serve = func(overlay.Stream, *overlay.Follow) {}
		c.start(b)
		s, err := c.greet(b, replicatest.PillarRecord(t, w.key, c.key, time.Now(), time.Hour, c.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
		if err != nil {
			t.Fatal(err)
		}
		say(s, &overlay.Forked{Head: &claimed, Other: &claimed, Before: overlay.Hash{1}})
		until(t, 5*time.Second, "an offence", func() bool { return b.count("forged_total", "fork") == 1 })
		say(s, &overlay.Forked{Head: &claimed, Other: &claimed, Before: overlay.Hash{2}})
		until(t, 5*time.Second, "refused", func() bool { return b.count("pillars_refused_total") == 1 })
		if _, err := c.greet(b, replicatest.PillarRecord(t, w.key, c.key, time.Now(), time.Hour, c.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar); err == nil {
			t.Error("greeted while refused")
		}
		if len(a.mesh.SyncStatus().Forks)+len(b.mesh.SyncStatus().Forks) > 0 {
			t.Error("a frame-up was believed")
		}
		a.submit(1)
		until(t, 2*time.Second, "the log goes on", func() bool { return converged(a, b) })
		time.Sleep(2 * time.Minute)
		if err := c.host.Connect(t.Context(), b.id(), b.host.Addrs()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.greet(b, replicatest.PillarRecord(t, w.key, c.key, time.Now(), time.Hour, c.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar); err != nil {
			t.Errorf("refused for longer than a while: %v", err)
		}
	}, memnet.WithLatency(5*time.Millisecond))
}

// A pillar that forks one log after the other has so many proofs kept, and then
// no further log begun.
func TestTooManyForks(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		l := w.liar()
		a.start()
		l.serve = func(s overlay.Stream, _ *overlay.Follow) { s.Read(make([]byte, 1)) }
		synctest.Wait()
		l.start(a)
		s, err := l.greet(a, replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
		if err != nil {
			t.Fatal(err)
		}
		for range 70 {
			left, right := w.twoHistories(l.key, 0, 1, 1)
			say(s, &overlay.Forked{Head: left.Head(1), Other: right.Head(1), Before: right.Mark(1).Hash})
		}
		until(t, 5*time.Second, "proofs", func() bool { return len(a.mesh.SyncStatus().Forks) == 64 })
		log := replicatest.NewLog(w.key.ID(), l.key)
		log.Add(t, w.author.Messages(t, 1)...)
		l.serve = func(s overlay.Stream, _ *overlay.Follow) { say(s, log.Batch(1, 1)); s.Read(make([]byte, 1)) }
		say(s, &overlay.VectorMsg{Full: true, Positions: overlay.Vector{log.Position()}})
		<-l.asked
		time.Sleep(time.Minute)
		if a.held(log.ID).Pillar != "" {
			t.Error("a further log was begun")
		}
	})
}
