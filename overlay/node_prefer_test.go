package overlay_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// addHome adds a pillar that says it is behind a NAT.
func (c *fakeCluster) addHome() *fakePillar {
	p := c.add()
	p.rec = c.pillarRecord(p.key, millis(time.Now()), func(i *overlay.PillarInfo, _ *overlay.Draft) { i.Addrs, i.Home = p.host.Addrs(), true })
	return p
}

func (n *testNode) works(t *testing.T, what string, active, standby []*fakePillar) {
	t.Helper()
	is := func(id string, list []*fakePillar) bool {
		for _, p := range list {
			if p.id() == id {
				return true
			}
		}
		return id == "" && len(list) == 0
	}
	until(t, what, func() bool {
		s := n.Status()
		return is(s.Pillar, active) && is(s.Standby, standby)
	})
}

// TestNodePrefersPublic: home pillars are used while there is nothing else.
func TestNodePrefersPublic(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *fakeCluster) {
		home := c.addHome()
		alice := newNodeHome(t, c.net).start(home.addr())
		alice.works(t, "a home pillar alone", []*fakePillar{home}, nil)
		bob := newNodeHome(t, c.net).start(home.addr())
		alice.send(overlay.StateDelivered, "by a home pillar", bob.id())

		first := c.add()
		tellRoster(c, first)
		alice.works(t, "a public one becomes active, the home one standby", []*fakePillar{first}, []*fakePillar{home})
		if got := alice.Pillars(); got[0].Home || !got[1].Home {
			t.Errorf("pillars: %+v", got)
		}
		second := c.add()
		tellRoster(c, second)
		alice.works(t, "two public ones", []*fakePillar{first}, []*fakePillar{second})
		alice.send(overlay.StateDelivered, "by public ones", bob.id())
		if n := alice.Status().Failovers; n != 0 {
			t.Errorf("%d failovers, nothing failed", n)
		}

		first.kill()
		alice.works(t, "the home one is better than none", []*fakePillar{second}, []*fakePillar{home})
		second.kill()
		alice.works(t, "the home one is left", []*fakePillar{home}, nil)
		alice.send(overlay.StateDelivered, "by the home pillar again", bob.id())
		first.listen()
		alice.works(t, "back to the public one", []*fakePillar{first}, []*fakePillar{home})
	})
}

// TestNodeChoosesPublicFirst: with a choice from the start, no home pillar is
// asked at all; and none of many that do not answer keeps the node from the
// home pillar for long.
func TestNodeChoosesPublicFirst(t *testing.T) {
	t.Run("all there", func(t *testing.T) {
		bubble(t, 2, func(t *testing.T, c *fakeCluster) {
			home := c.addHome()
			asked := 0
			c.seen = func(p *fakePillar, _ *fakeSession, m overlay.Message) bool {
				if _, ok := m.(*overlay.Register); ok && p == home {
					asked++
				}
				return false
			}
			n := newNodeHome(t, c.net)
			c.learn(n)
			alice := n.start(nil)
			alice.works(t, "two public ones", c.pillars[:2], c.pillars[:2])
			if asked != 0 {
				t.Errorf("the home pillar was asked %d times", asked)
			}
		})
	})
	t.Run("public ones are silent", func(t *testing.T) {
		bubble(t, 9, func(t *testing.T, c *fakeCluster) {
			home := c.addHome()
			n := newNodeHome(t, c.net)
			c.learn(n)
			for _, p := range c.pillars[:9] {
				p.setMute(true)
			}
			start := time.Now()
			alice := n.start(nil)
			alice.works(t, "the home pillar", []*fakePillar{home}, nil)
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		})
	})
}

// learn has a node meet the network, so that it knows the roster, and stops it.
func (c *fakeCluster) learn(n *nodeHome) {
	c.t.Helper()
	all := c.addrs()
	node := n.start(all[:1])
	until(c.t, "the roster", func() bool { return node.Status().PillarsKnown == len(all) && node.Status().Standby != "" })
	if err := node.stop(); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range c.pillars {
		until(c.t, "the end", func() bool { return len(p.of(identity.AccountID(n.account.ID()))) == 0 })
	}
}

// tellRoster tells everybody of a new pillar.
func tellRoster(c *fakeCluster, p *fakePillar) {
	c.mu.Lock()
	pillars := c.pillars
	c.mu.Unlock()
	for _, o := range pillars {
		o.mu.Lock()
		for s := range o.sessions {
			go s.send(&overlay.RosterMsg{Records: [][]byte{p.rec.Raw}})
		}
		o.mu.Unlock()
	}
}

// TestNodeLeavesCircuit: a session over a circuit moves to the direct connection
// as soon as there is one, long before the circuit is closed, and that is no
// failure of anybody.
func TestNodeLeavesCircuit(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		home := c.addHome()
		type registration struct {
			circuit bool
			at      time.Time
		}
		registered := make(chan registration, 10)
		c.seen = func(p *fakePillar, s *fakeSession, m overlay.Message) bool {
			if _, ok := m.(*overlay.Register); ok && p == home {
				registered <- registration{overlay.IsCircuit(s.stream.Remote()), time.Now()}
			}
			return false
		}
		c.pillars[0].setMute(true) // it relays, and serves no nodes
		alice := newNodeHome(t, c.net).start(nil)
		relay := c.pillars[0]
		for _, h := range []*memnet.Host{alice.host, home.host} {
			if err := h.Connect(t.Context(), relay.host.Self(), relay.host.Addrs()); err != nil {
				t.Fatal(err)
			}
		}
		home.host.Admit(alice.host.Self(), time.Now().Add(time.Hour))
		if err := alice.host.DialThrough(t.Context(), home.host.Self(), relay.addr()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := alice.AddPillar(t.Context(), overlay.Invitation{Pillars: home.addr()}); err != nil {
			t.Fatal(err)
		}
		for r := (registration{circuit: true}); r.circuit; {
			r = <-registered
			if took := r.at.Sub(begin); took > memnet.DefaultPunch+time.Second {
				t.Fatalf("registered after %v, over a circuit %v", took, r.circuit)
			}
		}
		alice.works(t, "the home pillar", []*fakePillar{home}, nil)
		bob := newNodeHome(t, c.net).start(home.addr())
		alice.send(overlay.StateDelivered, "directly", bob.id())
		if s := alice.Status(); s.Failovers != 0 {
			t.Errorf("%d failovers", s.Failovers)
		}
	})
}
