package overlay_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// summary signs what a pillar of the cluster says it holds at an instant.
func (c *fakeCluster) summary(key *identity.PillarKey, ago time.Duration, n uint64) overlay.Summary {
	now := millis(time.Now())
	at := now - now%10_000 - uint64(ago.Milliseconds())
	s := overlay.Summary{Pillar: key.ID(), Settled: at - 10_000, Front: at + 10_000, Count: n, Digest: overlay.Sum{Lo: n}, At: at}
	s.Sign(c.id, key)
	return s
}

// convergence is what the node finds out, by pillar.
func convergence(t *testing.T, n *testNode) map[identity.PillarID]overlay.Statement {
	t.Helper()
	list, err := n.Convergence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	by := map[identity.PillarID]overlay.Statement{}
	for _, s := range list {
		by[s.Pillar] = s
	}
	return by
}

// TestNodeComparesSummaries: the node verifies everything itself, and what one
// pillar withholds the other tells.
func TestNodeComparesSummaries(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		one, two := c.pillars[0].key, c.pillars[1].key
		stranger := identity.NewPillarKey()
		var asked atomic.Int32
		c.seen = func(p *fakePillar, s *fakeSession, m overlay.Message) bool {
			if q, ok := m.(*overlay.SummaryMsg); !ok || len(q.Summaries) > 0 {
				return false
			}
			asked.Add(1)
			var list []overlay.Summary
			if p.key == one { // says nothing of the other, and lies
				for i := range 3 {
					list = append(list, c.summary(one, time.Duration(i)*10*time.Second, 5))
				}
				forged := c.summary(one, 0, 5)
				forged.Pillar = two.ID()
				list = append(list, forged, c.summary(stranger, 0, 5))
			} else {
				for i := range 3 {
					list = append(list, c.summary(two, time.Duration(i)*10*time.Second, 6))
				}
			}
			s.send(&overlay.SummaryMsg{Summaries: list})
			return true
		}
		n := newNodeHome(t, c.net).start(c.addrs())
		until(t, "two sessions", func() bool { s := n.Status(); return s.Pillar != "" && s.Standby != "" })
		told := convergence(t, n)
		if len(told) != 2 {
			t.Fatalf("%d pillars: %v", len(told), told)
		}
		for _, key := range []*identity.PillarKey{one, two} {
			if s := told[key.ID()]; s.Agreement != overlay.AgreeDiverged || s.Unequal != 3 {
				t.Errorf("%s is %s, unequal %d times", key.ID(), s.Agreement, s.Unequal)
			}
		}
		if told[two.ID()].Count != 6 {
			t.Error("a forged summary was believed")
		}
		for range 20 {
			convergence(t, n)
		}
		if got := asked.Load(); got != 2 {
			t.Errorf("the pillars were asked %d times in no time", got)
		}
		time.Sleep(3 * time.Second) // virtual
		convergence(t, n)
		if got := asked.Load(); got != 4 {
			t.Errorf("the pillars were asked %d times in all", got)
		}
	})
}

// A pillar that never answers, floods, or is not there.
func TestNodeComparesWithLiars(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		n := newNodeHome(t, c.net).start(nil)
		if _, err := n.Convergence(t.Context()); overlay.CodeOf(err) != overlay.CodeNoNetwork {
			t.Fatalf("without a network: %v", err)
		}
		var mute atomic.Bool
		mute.Store(true)
		c.seen = func(p *fakePillar, s *fakeSession, m overlay.Message) bool {
			if _, ok := m.(*overlay.SummaryMsg); !ok {
				return false
			}
			if mute.Load() {
				return true
			}
			list := make([]overlay.Summary, 0, 1000)
			for i := range 999 {
				junk := c.summary(p.key, time.Duration(i)*10*time.Second, uint64(i))
				if i > 0 {
					junk.Count++ // after it was signed
				}
				list = append(list, junk)
			}
			for range 5 {
				s.send(&overlay.SummaryMsg{Summaries: list})
			}
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := n.AddPillar(ctx, overlay.Invitation{Pillars: c.addrs()}); err != nil {
			t.Fatal(err)
		}
		until(t, "a session", func() bool { return n.Status().Pillar != "" })
		began := time.Now()
		if _, err := n.Convergence(context.Background()); err == nil || time.Since(began) > 15*time.Second {
			t.Fatalf("a pillar that does not answer: %v after %v", err, time.Since(began))
		}
		mute.Store(false)
		told := convergence(t, n)
		if len(told) != 1 || told[c.pillars[0].key.ID()].Agreement != overlay.AgreeUnknown {
			t.Errorf("%v", told)
		}
	})
}

// TestNodePartsFromPillars: a node leaves a pillar that is revoked or has left
// as soon as it hears of it, and does not come back.
func TestNodePartsFromPillars(t *testing.T) {
	for name, make := range map[string]func(c *fakeCluster, p *fakePillar) *overlay.Record{
		"revoked": func(c *fakeCluster, p *fakePillar) *overlay.Record {
			return c.revocation(p.key.ID(), millis(time.Now()), millis(time.Now()))
		},
		"left": func(c *fakeCluster, p *fakePillar) *overlay.Record {
			return c.pillarRecord(p.key, millis(time.Now())+1, func(i *overlay.PillarInfo, _ *overlay.Draft) { i.Left = true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, c *fakeCluster) {
				n := newNodeHome(t, c.net).start(c.addrs())
				until(t, "two sessions", func() bool { s := n.Status(); return s.Pillar != "" && s.Standby != "" })
				bad, told := c.pillar(n.Status().Pillar), c.pillar(n.Status().Standby)
				for _, s := range told.of(n.id()) {
					s.send(&overlay.RosterMsg{Records: [][]byte{make(c, bad).Raw}})
				}
				until(t, "it turns to the standby", func() bool { return n.Status().Pillar == told.id() })
				var dialled atomic.Int32
				bad.host.Handle(overlay.ProtoNode, func(s overlay.Stream) { dialled.Add(1); s.Reset() })
				time.Sleep(10 * time.Minute)  // virtual
				for _, p := range c.pillars { // one of the two good ones goes, and it looks for another
					if p.id() == n.Status().Standby {
						p.kill()
					}
				}
				time.Sleep(10 * time.Minute)
				for _, p := range n.Pillars() {
					if p.ID.String() == bad.id() && (!strings.Contains(p.Error, name) || p.ErrorCode != overlay.CodeNotAdmitted || p.ErrorSince == nil || p.NextTry != nil) {
						t.Errorf("why it is not used: %+v", p.Trouble)
					}
				}
				s := n.Status()
				if s.Pillar == bad.id() || s.Standby == bad.id() || s.PillarsKnown != 2 {
					t.Errorf("%+v", s)
				}
				for _, p := range n.Pillars() {
					if p.ID == bad.key.ID() && (p.State != overlay.PillarDead && p.State != overlay.PillarLeft || strings.HasPrefix(name, "left") != (p.State == overlay.PillarLeft)) {
						t.Errorf("it is shown as %s", p.State)
					}
				}
				if len(bad.of(n.id())) != 0 || dialled.Load() > 0 {
					t.Errorf("%d sessions with it, %d dials", len(bad.of(n.id())), dialled.Load())
				}
			})
		})
	}
}
