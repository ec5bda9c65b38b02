package gossip_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// allMembers reports whether memberlist has all for alive at all.
func allMembers(all ...*pillar) bool {
	for _, p := range all {
		alive := p.mesh.MembersAlive()
		for _, q := range all {
			if !alive[q.key.ID()] {
				return false
			}
		}
	}
	return true
}

// runs is how many runs of q p's memberlist holds for alive.
func runs(p, q *pillar) (n int) {
	for _, name := range p.mesh.MemberNames() {
		if strings.HasPrefix(name, q.key.ID().String()+".") {
			n++
		}
	}
	return n
}

// members starts n pillars with memberlist and waits until all know all.
func (w *world) members(n int) []*pillar {
	w.member = true
	all := make([]*pillar, n)
	for i := range all {
		all[i] = w.pillar().start(all[:min(i, 1)]...)
	}
	until(w.t, 30*time.Second, "meshed", func() bool { return meshed(all...) })
	until(w.t, 60*time.Second, "members", func() bool { return allMembers(all...) })
	return all
}

// Summaries reach pillars that their pillar has no session with.
func TestSummariesWithoutSession(t *testing.T) {
	inBubble(t, func(w *world) {
		all := w.members(4)
		a, b := all[0], all[1]
		w.net.Cut(a.id(), b.id())
		cut := uint64(time.Now().UnixMilli())
		a.submit(5)
		for _, pair := range [][2]*pillar{{a, b}, {b, a}} {
			until(t, 30*time.Second, "a summary of after the cut", func() bool {
				for _, s := range pair[1].mesh.Summaries() {
					if s.Pillar == pair[0].key.ID() && s.At > cut+10_000 {
						return true
					}
				}
				return false
			})
		}
		stopAll(all)
	}, memnet.WithLatency(5*time.Millisecond))
}

// However long a partition was, all are members again soon after it: both while
// memberlist still remembers the dead, and when it has forgotten them and would
// never look for them again.
func TestPartitionOfMembers(t *testing.T) {
	// Who suspects alone waits up to 48 s, after a round of probes.
	for _, long := range []time.Duration{70 * time.Second, 10 * time.Minute} {
		t.Run(long.String(), func(t *testing.T) {
			inBubble(t, func(w *world) {
				all := w.members(5)
				left, right := []peer.ID{}, []peer.ID{}
				for i, p := range all {
					if i < 2 {
						left = append(left, p.id())
					} else {
						right = append(right, p.id())
					}
				}
				w.net.Split(left, right)
				time.Sleep(long)
				for i, p := range all {
					for j, q := range all {
						if alive := p.mesh.MembersAlive()[q.key.ID()]; alive != (i < 2 == (j < 2)) {
							t.Errorf("at %d, %d is alive: %v", i, j, alive)
						}
					}
				}
				w.net.Join(left, right)
				until(t, 2*time.Minute, "meshed", func() bool { return meshed(all...) })
				until(t, 15*time.Second, "members", func() bool { return allMembers(all...) })
				stopAll(all)
			}, memnet.WithLatency(5*time.Millisecond))
		})
	}
}

// Who restarts is a new member, and the old one is gone at once.
func TestMemberRestarts(t *testing.T) {
	inBubble(t, func(w *world) {
		all := w.members(4)
		time.Sleep(time.Minute)
		for range 3 {
			all[1].restart(all[0])
			until(t, 10*time.Second, "meshed", func() bool { return meshed(all...) })
			until(t, 3*time.Second, "one run everywhere", func() bool {
				for _, p := range all {
					if runs(p, all[1]) != 1 {
						return false
					}
				}
				return allMembers(all...)
			})
			name := all[1].mesh.MemberName()
			time.Sleep(time.Minute)
			for i, p := range all {
				if names := p.mesh.MemberNames(); !slices.Contains(names, name) || len(names) != len(all) {
					t.Errorf("%d has %q", i, names)
				}
			}
		}
		stopAll(all)
	}, memnet.WithLatency(5*time.Millisecond))
}

// Whatever memberlist believes, while a session lives nothing is opened anew,
// and records arrive as ever.
func TestFlapsCostNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		all := w.members(3)
		for _, p := range all {
			p.submit(10)
		}
		until(t, 10*time.Second, "converged", func() bool { return all[0].disk.Count() == 30 && converged(all...) })
		// Who heard of a log from another before it heard from the log's own pillar
		// follows it there, until the own one has more.
		until(t, time.Minute, "all follow at the logs' own pillars", func() bool {
			for _, p := range all {
				p.submit(1)
			}
			time.Sleep(time.Second)
			for _, p := range all {
				if p.mesh.FollowsOfOwners() != len(all)-1 {
					return false
				}
			}
			return converged(all...)
		})
		before, flaps := opened(all...), 0
		for range 20 {
			for _, p := range all {
				for _, q := range all {
					if p != q {
						p.mesh.BelieveDead(q.key.ID())
					}
				}
			}
			time.Sleep(time.Millisecond)
			if !allMembers(all...) {
				flaps++
			}
			count := all[0].disk.Count()
			for _, p := range all {
				p.submit(1)
			}
			until(t, time.Second, "replicated", func() bool { return all[0].disk.Count() == count+3 && converged(all...) })
			if !meshedAmong(all) {
				t.Error("memberlist overruled a session")
			}
			until(t, 10*time.Second, "members again", func() bool { return allMembers(all...) })
		}
		if flaps == 0 {
			t.Error("nobody was ever believed dead: the test tests nothing")
		}
		if n := opened(all...) - before; n != 0 {
			t.Errorf("%d sessions and follows were opened in %d flaps", n, flaps)
		}
		stopAll(all)
	}, memnet.WithLatency(5*time.Millisecond))
}

// Who is accused more often than it may refute does so as soon as it may: the
// accuser does not have to come again.
func TestRefutationIsOwed(t *testing.T) {
	inBubble(t, func(w *world) {
		all := w.members(3)
		a, b := all[0], all[1]
		time.Sleep(time.Minute) // all may refute as often as ever
		for i := range 8 {
			before := a.count("member_dropped_total", "storm")
			b.mesh.BelieveDead(a.key.ID())
			time.Sleep(time.Millisecond)
			if allMembers(all...) {
				t.Fatal("nobody is believed dead: the test tests nothing")
			}
			until(t, 3500*time.Millisecond, "members again", func() bool { return allMembers(all...) })
			if i >= 3 && a.count("member_dropped_total", "storm") == before {
				t.Errorf("accusation %d was not put off: the test tests nothing", i)
			}
		}
		stopAll(all)
	}, memnet.WithLatency(5*time.Millisecond))
}

// Nobody is found dead who is not, ten minutes long (two under the race
// detector), where one packet of fifty is lost.
func TestNoFalseDeaths(t *testing.T) {
	seconds := 600
	if raced {
		seconds = 120
	}
	inBubble(t, func(w *world) {
		all := w.members(20)
		deaths := 0
		for range seconds {
			time.Sleep(time.Second)
			if !allMembers(all...) {
				deaths++
			}
		}
		if deaths > 0 {
			t.Errorf("in %d of %d seconds somebody was dead somewhere", deaths, seconds)
		}
		for i, p := range all {
			for _, why := range []string{"malformed", "nested", "encoded", "unknown", "forged", "leave", "unasked", "storm"} {
				if n := p.count("member_dropped_total", why); n != 0 {
					t.Errorf("%d dropped %v of honest messages as %s", i, n, why)
				}
			}
		}
		stopAll(all)
	}, memnet.WithLatency(20*time.Millisecond), memnet.WithPacketLoss(0.02, 10*time.Millisecond, 7))
}
