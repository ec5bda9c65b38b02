package overlay_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// The times here are virtual: what is asserted is what the node waits for, not
// how fast this machine is.

// fast is how long a conversation may stand still when a pillar or a path dies.
const fast = 3 * time.Second

// talking starts two nodes that have two sessions each and exchanged a message
// in each direction.
func talking(t *testing.T, c *fakeCluster) (alice, bob *testNode) {
	t.Helper()
	alice, bob = newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
	until(t, "standbys", func() bool { return alice.Status().Standby != "" && bob.Status().Standby != "" })
	alice.send(overlay.StateDelivered, "hello", bob.id())
	bob.send(overlay.StateDelivered, "hello", alice.id())
	return alice, bob
}

// delivers sends one message and returns how long it took to bob's inbox and the
// receipt back.
func delivers(t *testing.T, from, to *testNode, text string) time.Duration {
	t.Helper()
	start := time.Now()
	from.send(overlay.StateDelivered, text, to.id())
	return time.Since(start)
}

func (p *fakePillar) vanish() { p.host.Vanish() }

// mute makes both connections of a node dead, as when its gateway gets another
// address.
func (n *testNode) mute(c *fakeCluster) {
	for _, p := range c.pillars {
		c.net.Mute(n.host.Self(), p.host.Self())
	}
}

func TestNodeGuard(t *testing.T) {
	const rtt = 40 * time.Millisecond
	for name, test := range map[string]func(t *testing.T, c *fakeCluster, alice, bob *testNode){
		"the sender's pillar vanishes": func(t *testing.T, c *fakeCluster, alice, bob *testNode) {
			c.pillar(alice.Status().Pillar).vanish()
		},
		"the recipient's pillar vanishes": func(t *testing.T, c *fakeCluster, alice, bob *testNode) {
			for alice.Status().Pillar == bob.Status().Pillar {
				c.pillar(bob.Status().Pillar).sendAway(alice)
				until(t, "two pillars", func() bool { return alice.Status().Standby != "" })
			}
			c.pillar(bob.Status().Pillar).vanish()
		},
		"after a long silence": func(t *testing.T, c *fakeCluster, alice, bob *testNode) {
			time.Sleep(time.Hour)
			c.pillar(bob.Status().Pillar).vanish()
		},
		"the sender's gateway changes its address": func(t *testing.T, c *fakeCluster, alice, bob *testNode) {
			alice.mute(c)
		},
		"the recipient's gateway changes its address": func(t *testing.T, c *fakeCluster, alice, bob *testNode) {
			bob.mute(c)
		},
		"both gateways do, and a pillar vanishes": func(t *testing.T, c *fakeCluster, alice, bob *testNode) {
			alice.mute(c)
			bob.mute(c)
			c.pillar(alice.Status().Pillar).vanish()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, 4, func(t *testing.T, c *fakeCluster) {
				alice, bob := talking(t, c)
				test(t, c, alice, bob)
				next, back := delivers(t, alice, bob, "next"), delivers(t, bob, alice, "back")
				if t.Logf("next %v, back %v", next, back); next > fast || back > fast {
					t.Errorf("the next message took %v, the answer %v", next, back)
				}
				if got, want := bob.texts(2), []string{"hello", "next"}; !slices.Equal(got, want) {
					t.Errorf("bob got %q, want %q", got, want)
				}
				until(t, "standbys", func() bool { return alice.Status().Standby != "" && bob.Status().Standby != "" })
				for _, n := range []*testNode{alice, bob} {
					if st := n.Status(); st.LastFailoverMS > fast.Milliseconds() {
						t.Errorf("a failover took %d ms", st.LastFailoverMS)
					}
				}
			}, memnet.WithLatency(rtt/2), memnet.WithDialTimeout(5*time.Second))
		})
	}
}

// sendAway makes the node's session here end.
func (p *fakePillar) sendAway(n *testNode) {
	for _, s := range p.of(n.id()) {
		s.send(&overlay.Busy{Err: overlay.Refuse(overlay.CodeDraining, "go")})
	}
}

// TestNodeGuardBehind: an active pillar that lives and does not bring the mail
// that the standby's has is left, once.
func TestNodeGuardBehind(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *fakeCluster) {
		alice, bob := talking(t, c)
		time.Sleep(time.Minute)
		cutOff := bob.Status().Pillar
		c.mu.Lock()
		c.serve = func(p *fakePillar, _ *overlay.Record, _ string) bool { return p.id() != cutOff }
		c.mu.Unlock()
		start := time.Now()
		alice.send(overlay.StateQueued, "past it", bob.id())
		bob.texts(2)
		if took := time.Since(start); took > 5*time.Second || bob.Status().Pillar == cutOff {
			t.Errorf("took %v; bob's pillar is still that one: %v", took, bob.Status().Pillar == cutOff)
		}
	})
}

// countedPeers counts probes.
type countedPeers struct {
	overlay.Peers
	probes *atomic.Int64
}

func (p countedPeers) Probe(ctx context.Context, id peer.ID) error {
	p.probes.Add(1)
	return p.Peers.Probe(ctx, id)
}

// TestNodeGuardPatience: on a bad line that loses three packets in a hundred and
// takes 230 ms, nothing that lives is given up in an hour of talk.
func TestNodeGuardPatience(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *fakeCluster) {
		var probes atomic.Int64
		count := func(cfg *overlay.NodeConfig) { cfg.Peers = countedPeers{cfg.Peers, &probes} }
		alice := newNodeHome(t, c.net).start(c.addrs(), count)
		bob := newNodeHome(t, c.net).start(c.addrs(), count)
		until(t, "standbys", func() bool { return alice.Status().Standby != "" && bob.Status().Standby != "" })
		for i := range 120 {
			alice.send(overlay.StateDelivered, fmt.Sprint(i), bob.id())
			time.Sleep(30 * time.Second)
		}
		for _, n := range []*testNode{alice, bob} {
			if st := n.Status(); st.Failovers != 0 {
				t.Errorf("%d failovers", st.Failovers)
			}
		}
		if probes.Load() < 1000 {
			t.Errorf("only %d probes: this proves nothing", probes.Load())
		}
		t.Logf("%d probes", probes.Load())
	}, memnet.WithLatency(115*time.Millisecond), memnet.WithPacketLoss(0.03, 20*time.Millisecond, 7))
}

// TestNodeGuardIdle: a node that nothing happens to asks for little.
func TestNodeGuardIdle(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		var probes, asked atomic.Int64
		c.seen = func(*fakePillar, *fakeSession, overlay.Message) bool { asked.Add(1); return false }
		alice := newNodeHome(t, c.net).start(c.addrs(), func(cfg *overlay.NodeConfig) { cfg.Peers = countedPeers{cfg.Peers, &probes} })
		until(t, "a standby", func() bool { return alice.Status().Standby != "" })
		time.Sleep(10 * time.Minute)
		probes.Store(0)
		asked.Store(0)
		time.Sleep(10 * time.Minute)
		if n := probes.Load(); n > 2*41 {
			t.Errorf("%d probes in ten minutes", n)
		}
		if n := asked.Load(); n > 50 {
			t.Errorf("%d messages in ten minutes", n)
		}
		t.Logf("%d probes, %d messages in ten minutes", probes.Load(), asked.Load())
	})
}
