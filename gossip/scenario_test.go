package gossip_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// inBubble runs a scenario in virtual time and stops its pillars at the end.
func inBubble(t *testing.T, fn func(w *world), opts ...memnet.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(newWorld(t, opts...)) })
}

func TestInjectMergesClusters(t *testing.T) {
	inBubble(t, func(w *world) {
		a1 := w.pillar().start()
		a2 := w.pillar().start(a1)
		b1 := w.pillar().start()
		b2 := w.pillar().start(b1)
		all := []*pillar{a1, a2, b1, b2}
		until(w.t, 10*time.Second, "two clusters", func() bool { return meshed(a1, a2) && meshed(b1, b2) })
		a1.submit(100)
		b2.submit(50)
		if err := a2.mesh.Inject(w.t.Context(), b1.where()); err != nil {
			w.t.Fatal(err)
		}
		if _, ok := a2.roster.Lookup(b1.key.ID()); !ok {
			w.t.Fatal("injected, but not in the roster")
		}
		until(w.t, 10*time.Second, "one mesh", func() bool { return meshed(all...) })
		until(w.t, 5*time.Second, "converged", func() bool { return a1.disk.Count() == 150 && converged(all...) })
		if err := a2.mesh.Inject(w.t.Context(), b1.where()); err != nil {
			w.t.Errorf("injected again: %v", err)
		}
	}, memnet.WithLatency(5*time.Millisecond))
}

func TestInjectErrors(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		other := newWorld(w.t)
		other.net = w.net
		foreign := other.pillar().start()
		expired := w.pillar()
		expired.admit = -time.Hour
		expired.start()
		node := w.net.Host(peer.ID(identity.NewDeviceKey().ID()), "")
		defer node.Shutdown()
		gone := w.pillar().start()
		goneAt := gone.where()
		gone.stop()
		b := w.pillar().start()
		c := w.pillar().start()
		synctest.Wait() // all of them run
		for _, c := range []struct {
			name string
			to   overlay.PillarAddr
			want overlay.Code
			is   error
		}{
			{"another network", foreign.where(), overlay.CodeWrongNetwork, nil},
			{"not admitted", expired.where(), overlay.CodeNotAdmitted, nil},
			{"no pillar", overlay.PillarAddr{Pillar: identity.PillarID(node.Self()), Addr: node.Addrs()[0]}, overlay.CodeNotAdmitted, overlay.ErrProtocol},
			{"nobody there", goneAt, overlay.CodeUnreachable, overlay.ErrUnreachable},
			{"somebody else there", overlay.PillarAddr{Pillar: b.key.ID(), Addr: c.where().Addr}, overlay.CodeUnreachable, overlay.ErrWrongPeer},
			{"itself", a.where(), overlay.CodeBadRequest, nil},
		} {
			err := a.mesh.Inject(w.t.Context(), c.to)
			if overlay.CodeOf(err) != c.want || c.is != nil && !errors.Is(err, c.is) {
				w.t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
		// No effect on others.
		if err := a.mesh.Inject(w.t.Context(), b.where()); err != nil {
			w.t.Fatal(err)
		}
		if n := len(a.mesh.Pillars()); n != 1 {
			w.t.Errorf("%d pillars known, want the one that was let in", n)
		}
	})
}

func TestAwayAndBack(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		a.submit(10)
		until(w.t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		b.stop()
		for range 20 {
			a.submit(30)
		}
		time.Sleep(5 * time.Minute) // the tail is gone: it must come from the store
		b.restart()
		until(w.t, 20*time.Second, "history", func() bool { return converged(a, b) })
		a.submit(3)
		until(w.t, time.Second, "live", func() bool { return converged(a, b) })
		if got, fresh := b.count("entries_received_total"), b.count("entries_new_total"); got != 603 || fresh != 603 {
			w.t.Errorf("received %v entries, %v new, want 603 once", got, fresh)
		}
	}, memnet.WithLatency(5*time.Millisecond))
}

func TestDeadPillarsLog(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		for range 10 { // enough for several heads on the way
			raws := make([][]byte, 40)
			for i := range raws {
				raws[i] = w.author.Message(w.t, 12<<10, time.Hour)
			}
			a.disk.Submit(raws...)
		}
		until(w.t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		time.Sleep(10 * time.Second) // heads are stored
		a.stop()
		b.restart()
		c := w.pillar().start(b)
		until(w.t, 20*time.Second, "complete without its pillar", func() bool { return c.disk.Count() == 400 && converged(b, c) })
	})
}

func TestPartitionHeals(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		c := w.pillar().start(a)
		d := w.pillar().start(b)
		all := []*pillar{a, b, c, d}
		until(w.t, 20*time.Second, "meshed", func() bool { return meshed(all...) })
		left, right := []peer.ID{a.id(), b.id()}, []peer.ID{c.id(), d.id()}
		w.net.Split(left, right)
		until(w.t, 5*time.Second, "apart", func() bool { return meshed(a, b) && meshed(c, d) })
		for range 20 {
			a.submit(5)
			b.submit(5)
			c.submit(5)
			d.submit(5)
			time.Sleep(6 * time.Second)
		}
		if a.disk.Count() != 200 || d.disk.Count() != 200 {
			w.t.Fatalf("%d and %d records on the two sides, want 200 each", a.disk.Count(), d.disk.Count())
		}
		w.net.Join(left, right)
		until(w.t, 2*time.Minute, "meshed again", func() bool { return meshed(all...) })
		until(w.t, 10*time.Second, "converged", func() bool { return a.disk.Count() == 400 && converged(all...) })
		stopAll(all)
	}, memnet.WithLatency(10*time.Millisecond))
}

// stopAll stops pillars with memberlist and lets its goroutines notice.
func stopAll(all []*pillar) {
	for _, p := range all {
		p.stop()
	}
	time.Sleep(time.Second)
}

func TestAllRestartElsewhere(t *testing.T) {
	inBubble(t, func(w *world) {
		known := w.pillar()
		known.addr = "/ip4/10.9.9.9/tcp/4001"
		known.start()
		b := w.pillar().start(known)
		c := w.pillar().start(b)
		all := []*pillar{known, b, c}
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(all...) })
		known.submit(5)
		b.submit(5)
		until(w.t, 5*time.Second, "converged", func() bool { return converged(all...) })
		for _, p := range all {
			p.stop()
		}
		time.Sleep(time.Hour)
		// b and c come back at addresses nobody knows, the one known last of all.
		c.restart()
		time.Sleep(3 * time.Minute)
		b.restart()
		time.Sleep(3 * time.Minute)
		b.submit(7)
		known.restart()
		until(w.t, 2*time.Minute, "meshed again", func() bool { return meshed(all...) })
		until(w.t, 5*time.Second, "converged", func() bool { return c.disk.Count() == 17 && converged(all...) })
	})
}

func TestAckedCounts(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		c := w.pillar().start(a)
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		end := a.submit(4)
		ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
		defer cancel()
		if err := a.disk.Wait(ctx, func() bool {
			d := a.disk.Durable(end.Log)
			return len(d) == 1 && d[0] == overlay.Durable{From: 1, To: 4, Copies: 2}
		}); err != nil {
			w.t.Fatalf("durable %v, want 4 at two others", a.disk.Durable(end.Log))
		}
		c.stop()
		end = a.submit(6)
		if err := a.disk.Wait(ctx, func() bool {
			d := a.disk.Durable(end.Log)
			return len(d) == 2 && d[0] == overlay.Durable{From: 1, To: 4, Copies: 2} && d[1] == overlay.Durable{From: 5, To: 10, Copies: 1}
		}); err != nil {
			w.t.Fatalf("durable %v, want 10 at one and 4 at two", a.disk.Durable(end.Log))
		}
		raws := w.author.Messages(w.t, 1)
		b.disk.Submit(raws...)
		rec, _ := overlay.ParseRecord(w.key.ID(), raws[0])
		until(w.t, 3*time.Second, "one copy elsewhere", func() bool {
			n, err := b.mesh.Copies(ctx, []overlay.RecordID{rec.ID, {1}})
			return err == nil && n[0] == 1 && n[1] == 0
		})
	})
}

// An own log that is announced for the first time must not wait for the next
// vector.
func TestFirstEntryIsFast(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		time.Sleep(10*time.Second + 500*time.Millisecond)
		began := time.Now()
		end := a.submit(1)
		ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
		defer cancel()
		if err := a.disk.Wait(ctx, func() bool { return len(a.disk.Durable(end.Log)) > 0 }); err != nil {
			w.t.Fatal(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			w.t.Errorf("first ack after %s", took)
		}
		began = time.Now()
		end = a.submit(1)
		if err := a.disk.Wait(ctx, func() bool { d := a.disk.Durable(end.Log); return d[0].To == 2 }); err != nil {
			w.t.Fatal(err)
		}
		if took := time.Since(began); took > 25*time.Millisecond {
			w.t.Errorf("ack after %s over a link of 10 ms: something waits", took)
		}
	}, memnet.WithLatency(10*time.Millisecond))
}

func TestVoidEntriesAreCarried(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		c := w.pillar().start(b)
		until(w.t, 10*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		bad := replicatest.Unmendable(w.t, w.key.ID())
		raws := append(w.author.Messages(w.t, 2), bad)
		a.disk.Submit(append(raws, w.author.Messages(w.t, 2)...)...)
		until(w.t, 5*time.Second, "converged", func() bool { return converged(a, b, c) && c.disk.Count() == 4 })
		if n := b.count("entries_void_total") + c.count("entries_void_total"); n != 2 {
			w.t.Errorf("%v void entries counted, want one each", n)
		}
	})
}

func TestSummaries(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		c := w.pillar().start(a)
		all := []*pillar{a, b, c}
		until(w.t, 20*time.Second, "meshed", func() bool { return meshed(all...) })
		for range 30 {
			for _, p := range all {
				p.disk.Submit(w.author.Message(w.t, 64, 24*time.Hour), w.author.Message(w.t, 64, 75*time.Second))
			}
			time.Sleep(5 * time.Second)
		}
		equal := func() bool {
			for _, p := range all {
				sums := p.mesh.Summaries()
				if len(sums) != 3 {
					return false
				}
				for _, s := range sums {
					if !s.Verify(w.key.ID()) {
						w.t.Fatal("a summary that is not signed")
					}
					if s.Settled != sums[0].Settled || s.Front != sums[0].Front {
						return false
					}
					if s.Count != sums[0].Count || s.Digest != sums[0].Digest || s.Key != sums[0].Key {
						w.t.Logf("unequal at equal instants: %d and %d records", s.Count, sums[0].Count)
						return false
					}
				}
			}
			return true
		}
		until(w.t, 15*time.Second, "equal summaries", equal)
		var want uint64
		s := a.mesh.Summaries()[0]
		a.disk.Each(s.Front, func(_ overlay.RecordID, created, expires uint64) bool {
			if created < s.Settled {
				want++
			}
			return true
		})
		if s.Count != want || want == 0 {
			w.t.Errorf("a summary of %d records, the disk has %d", s.Count, want)
		}
		stopAll(all)
	}, memnet.WithLatency(5*time.Millisecond), memnet.WithPacketLoss(0.05, 5*time.Millisecond, 1))
}

// A bad address costs three tries, then only the good one is dialled.
func TestWrongPeerAtAddress(t *testing.T) {
	inBubble(t, func(w *world) {
		b := w.pillar().start()
		c := w.pillar().start()
		a := w.pillar().start()
		record := replicatest.PillarRecord(w.t, w.key, b.key, time.Now().Add(time.Millisecond), time.Hour, c.where().Addr)
		b.stop()
		if _, err := a.roster.Add(uint64(time.Now().UnixMilli()), true, record.Raw); err != nil {
			w.t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		b.addr = b.where().Addr.String()
		b.restart(a)
		until(w.t, 10*time.Second, "met", func() bool { return meshed(a, b) })
	})
}

// The entries before a kept head may all have died while the log lives on: who
// comes late takes them for the chain and goes on to what lives.
func TestHistoryBeginsWithTheDead(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		raws := make([][]byte, 2100)
		for i := range raws {
			raws[i] = w.author.Message(w.t, 20, time.Minute)
		}
		a.disk.Submit(raws...)
		end := a.disk.Submit(w.author.Message(w.t, 20, 24*time.Hour))
		time.Sleep(10 * time.Minute)
		b := w.pillar().start(a)
		until(w.t, time.Minute, "the log", func() bool {
			v := b.disk.Vector()
			return len(v) == 1 && v[0] == end
		})
	})
}

// A log whose entries have all expired is followed again when its pillar
// appends to it, which it may do until the log is deleted.
func TestDeadLogLivesAgain(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		a.disk.Submit(w.author.Message(w.t, 20, time.Minute))
		until(w.t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		time.Sleep(10 * time.Minute) // no follow is kept so long in which nothing moves
		a.submit(1)
		until(w.t, 2*time.Minute, "converged again", func() bool { return converged(a, b) })
	})
}

// A pillar whose clock steps, to another decade even, still learns what time it
// is elsewhere, and others learn of the step.
func TestClockSteps(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar()
		var skew atomic.Int64
		b.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		b.start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		seen := func(p *pillar) (time.Duration, bool) {
			st := p.mesh.Pillars()[0]
			return st.ClockSkew.Round(time.Second), st.ClockKnown
		}
		for _, step := range []time.Duration{time.Minute, 40 * 365 * 24 * time.Hour, -30 * 365 * 24 * time.Hour, 0} {
			skew.Store(int64(step))
			if got, ok := seen(b); !ok || got != -step {
				t.Errorf("%s: at once it knows of %s, %v", step, got, ok)
			}
			until(t, 2*time.Minute, "the other knows of "+step.String(), func() bool {
				got, ok := seen(a)
				return ok && got == step
			})
			if got, ok := seen(b); !ok || got != -step {
				t.Errorf("%s: later it knows of %s, %v", step, got, ok)
			}
		}
		until(t, 2*time.Minute, "meshed again", func() bool { return meshed(a, b) })
	}, memnet.WithLatency(5*time.Millisecond))
}
