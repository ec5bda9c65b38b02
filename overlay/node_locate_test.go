package overlay_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// A locateWorld is pillars that know each other and ask each other where devices
// are, without replication: share carries the directory.
type locateWorld struct {
	t    *testing.T
	rigs []*pillarRig
	// says is what every pillar adds to the answers of others.
	says  atomic.Pointer[func(q *overlay.Locate) []overlay.Presence]
	asked atomic.Int64 // questions of nodes that reached the other pillars
}

// locatorAt is the Locator of one pillar of the world.
type locatorAt struct {
	w   *locateWorld
	rig *pillarRig
}

func (l locatorAt) Locate(q *overlay.Locate, each func(overlay.Presence)) func() {
	l.w.asked.Add(1)
	var over atomic.Bool
	tell := func(p overlay.Presence) {
		if !over.Load() {
			each(p)
		}
	}
	for _, rig := range l.w.rigs {
		if rig != l.rig {
			rig.pillar.LocateHere(identity.PillarID(l.rig.host.Self()), q, tell)
		}
	}
	if says := l.w.says.Load(); says != nil {
		for _, p := range (*says)(q) {
			tell(p)
		}
	}
	return func() { over.Store(true) }
}

func newLocateWorld(t *testing.T, pillars int) *locateWorld {
	w := &locateWorld{t: t}
	network, net := newTestNetwork(t), memnet.New()
	for range pillars {
		rig := &pillarRig{testNetwork: network, net: net, store: newWatchedStore()}
		rig.others = locatorAt{w, rig}
		rig.start(nil, identity.NewPillarKey())
		w.rigs = append(w.rigs, rig)
	}
	for _, a := range w.rigs {
		for _, b := range w.rigs {
			if _, err := a.pillar.Roster().Add(millis(time.Now()), true, b.pillar.Record().Raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// share gives every pillar what the others hold.
func (w *locateWorld) share() {
	w.t.Helper()
	for _, from := range w.rigs {
		var ids []overlay.RecordID
		if err := from.pillar.Each(0, func(id overlay.RecordID, _, _ uint64) bool { ids = append(ids, id); return true }); err != nil {
			w.t.Fatal(err)
		}
		records, _, err := from.pillar.Get(ids, 1<<20)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, to := range w.rigs {
			if to != from {
				if _, err := to.pillar.Take(context.Background(), overlay.ViaAudit, records); err != nil {
					w.t.Fatal(err)
				}
			}
		}
	}
}

// direct is a node's host as a Traversal.
func direct(cfg *overlay.NodeConfig) {
	host := cfg.Links.(*memnet.Host)
	host.Guard()
	cfg.Traversal = host
}

// node starts a node that reaches only the pillars numbered at, and waits for its
// sessions with them.
func (w *locateWorld) node(home *nodeHome, at []int, opts ...nodeOption) *testNode {
	w.t.Helper()
	if home == nil {
		home = newNodeHome(w.t, w.rigs[0].net)
	}
	for i, rig := range w.rigs {
		if !slices.Contains(at, i) {
			home.net.Cut(peer.ID(home.device.ID()), rig.host.Self())
		}
	}
	n := home.start(w.rigs[at[0]].addr(), append([]nodeOption{direct}, opts...)...)
	until(w.t, "sessions", func() bool {
		st := n.Status()
		return st.Pillar != "" && (st.Standby != "" || len(at) == 1)
	})
	return n
}

// knows waits until n knows devices of an account.
func (n *testNode) knows(a identity.AccountID, devices int) {
	n.home.t.Helper()
	if err := n.AddContact("wanted "+a.String()[40:], a); err != nil {
		n.home.t.Fatal(err)
	}
	until(n.home.t, "the directory", func() bool {
		list, _, err := n.Nodes("", 0)
		if err != nil {
			n.home.t.Fatal(err)
		}
		return slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == a && len(e.Devices) == devices })
	})
}

func (n *testNode) locate(a identity.AccountID) []overlay.Presence {
	n.home.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := n.Locate(ctx, a)
	if err != nil {
		n.home.t.Fatalf("locate: %v", err)
	}
	return list
}

// via is what a presence says, for DialThrough.
func (w *locateWorld) via(p overlay.Presence) (via []overlay.PillarAddr) {
	for _, id := range p.Pillars {
		for _, rig := range w.rigs {
			if rig.addr()[0].Pillar == id {
				via = append(via, rig.addr()...)
			}
		}
	}
	return via
}

func contact(of *testNode, name string, a identity.AccountID) {
	of.home.t.Helper()
	if err := of.AddContact(name, a); err != nil {
		of.home.t.Fatal(err)
	}
}

// TestLocateContact: a contact learns at which pillars the device is, through
// two pillars, once, and can connect; a stranger who knows the pillars cannot.
func TestLocateContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 2)
		alice, bob, eve := w.node(nil, []int{0, 1}), w.node(nil, []int{1, 0}), w.node(nil, []int{0, 1})
		contact(bob, "alice", alice.id())
		alice.knows(bob.id(), 1)
		start := time.Now()
		list := alice.locate(bob.id())
		if took := time.Since(start); took >= 2*time.Second {
			t.Errorf("found after %v", took)
		}
		st := bob.Status()
		if len(list) != 1 || list[0].Device != bob.home.device.ID() || len(list[0].Pillars) != 2 || list[0].Pillars[0].String() != st.Pillar || list[0].Pillars[1].String() != st.Standby {
			t.Fatalf("found %+v, want bob's device at %s and %s", list, st.Pillar, st.Standby)
		}
		if err := eve.host.DialThrough(t.Context(), bob.host.Self(), w.via(list[0])); err == nil {
			t.Error("a stranger who knows where the device is was let in")
		}
		if err := alice.host.DialThrough(t.Context(), bob.host.Self(), w.via(list[0])); err != nil {
			t.Errorf("who was told may connect: %v", err)
		}
	})
}

// TestLocateElsewhere: asker and target have no pillar in common.
func TestLocateElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 3)
		alice, bob := w.node(nil, []int{0}), w.node(nil, []int{2})
		w.share()
		contact(bob, "alice", alice.id())
		alice.knows(bob.id(), 1)
		list := alice.locate(bob.id())
		if len(list) != 1 || !slices.Equal(list[0].Pillars, []identity.PillarID{w.rigs[2].addr()[0].Pillar}) {
			t.Fatalf("found %+v", list)
		}
		alice.home.net.Heal(alice.host.Self(), w.rigs[2].host.Self())
		if err := alice.host.DialThrough(t.Context(), bob.host.Self(), w.via(list[0])); err != nil {
			t.Error(err)
		}
	})
}

// TestLocateRule: who is told by which rule, and that silence takes as long
// whatever its reason.
func TestLocateRule(t *testing.T) {
	t.Parallel()
	presence := func(rule string) nodeOption { return func(c *overlay.NodeConfig) { c.Presence = rule } }
	off := func(c *overlay.NodeConfig) { c.Direct = "off" }
	cases := []struct {
		name   string
		opts   []nodeOption
		before func(alice, bob *testNode)
		found  bool
	}{
		{"a contact", nil, func(alice, bob *testNode) { contact(bob, "alice", alice.id()) }, true},
		{"a stranger", nil, nil, false},
		{"one who was written to", nil, func(alice, bob *testNode) { bob.send(overlay.StateStored, "hello", alice.id()) }, true},
		{"one who only wrote", nil, func(alice, bob *testNode) { alice.send(overlay.StateStored, "hello", bob.id()) }, false},
		{"a blocked contact", nil, func(alice, bob *testNode) {
			contact(bob, "alice", alice.id())
			if err := bob.BlockContact("alice", true); err != nil {
				t.Error(err)
			}
		}, false},
		{"a stranger where anyone may", []nodeOption{presence("anyone")}, nil, true},
		{"a blocked contact where anyone may", []nodeOption{presence("anyone")}, func(alice, bob *testNode) {
			contact(bob, "alice", alice.id())
			if err := bob.BlockContact("alice", true); err != nil {
				t.Error(err)
			}
		}, false},
		{"a contact where nobody may", []nodeOption{presence("nobody")}, func(alice, bob *testNode) { contact(bob, "alice", alice.id()) }, false},
		{"a contact without direct delivery", []nodeOption{off}, func(alice, bob *testNode) { contact(bob, "alice", alice.id()) }, false},
		{"a contact that is away", nil, func(alice, bob *testNode) {
			contact(bob, "alice", alice.id())
			if err := bob.stop(); err != nil {
				t.Error(err)
			}
		}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLocateWorld(t, 1)
				alice, bob := w.node(nil, []int{0}), w.node(nil, []int{0}, c.opts...)
				alice.knows(bob.id(), 1)
				bobSees(t, bob, alice)
				if c.before != nil {
					c.before(alice, bob)
				}
				start := time.Now()
				list := alice.locate(bob.id())
				took := time.Since(start)
				if c.found {
					if len(list) != 1 || took >= 2*time.Second {
						t.Errorf("found %+v after %v", list, took)
					}
					return
				}
				if len(list) != 0 {
					t.Errorf("found %+v", list)
				}
				if took < 2*time.Second-50*time.Millisecond { // sending asks, too, so the question can be older
					t.Errorf("silence after %v tells something", took)
				}
				if bob.stopped() {
					return
				}
				if err := alice.host.DialThrough(t.Context(), bob.host.Self(), w.rigs[0].addr()); err == nil {
					t.Error("who was not told was let in")
				}
			})
		})
	}
}

// bobSees waits until bob has alice's keys.
func bobSees(t *testing.T, bob, alice *testNode) {
	t.Helper()
	until(t, "the directory", func() bool {
		list, _, err := bob.Nodes("", 0)
		return err == nil && slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == alice.id() })
	})
}

// TestLocateDevices: both devices of an account answer, and one finds the other.
func TestLocateDevices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 2)
		homes := []*nodeHome{newNodeHome(t, w.rigs[0].net), newNodeHome(t, w.rigs[0].net)}
		homes[1].account = homes[0].account
		alice := w.node(nil, []int{0})
		phone, laptop := w.node(homes[0], []int{0}), w.node(homes[1], []int{1})
		for _, n := range []*testNode{phone, laptop} {
			contact(n, "alice", alice.id())
		}
		w.share()
		alice.knows(phone.id(), 2)
		want := []identity.DeviceID{phone.home.device.ID(), laptop.home.device.ID()}
		slices.Sort(want)
		// Each made an account record of its own, and one that lists both comes later;
		// nor is the first answer kept waiting for the second for long.
		until(t, "both devices found", func() bool {
			w.share()
			alice.ForgetLocated(phone.id())
			var got []identity.DeviceID
			for _, p := range alice.locate(phone.id()) {
				got = append(got, p.Device)
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		})
		until(t, "the own account's other device", func() bool {
			w.share()
			phone.ForgetLocated(phone.id())
			list := phone.locate(phone.id())
			return len(list) == 1 && list[0].Device == laptop.home.device.ID()
		})
	})
}

// TestLocateLies: what a pillar makes up, or plays back, is not believed.
func TestLocateLies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 1)
		alice, bob := w.node(nil, []int{0}), w.node(nil, []int{0})
		alice.knows(bob.id(), 1)
		network, pillar := w.rigs[0].id, w.rigs[0].addr()[0].Pillar
		bobKey, mallory, eve := bob.home.device, identity.NewDeviceKey(), identity.NewDeviceKey()
		type lie struct {
			change func(p *overlay.Presence)
			key    *identity.DeviceKey
		}
		says := func(lies ...lie) {
			fn := func(q *overlay.Locate) (list []overlay.Presence) {
				for _, l := range lies {
					p := overlay.Presence{Device: bobKey.ID(), Asker: q.Device(), Pillars: []identity.PillarID{pillar}, Time: millis(time.Now())}
					l.change(&p)
					p.Sign(network, l.key)
					list = append(list, p)
				}
				return list
			}
			w.says.Store(&fn)
			alice.ForgetLocated(bob.id())
		}
		says(
			lie{func(p *overlay.Presence) { p.Device = mallory.ID() }, mallory}, // true, and not asked for
			lie{func(*overlay.Presence) {}, mallory},                            // for somebody else's device
			lie{func(p *overlay.Presence) { p.Asker = eve.ID() }, bobKey},       // to somebody else
			lie{func(p *overlay.Presence) { p.Time -= uint64((overlay.MaxPresenceAge + time.Second).Milliseconds()) }, bobKey},
			lie{func(p *overlay.Presence) { p.Pillars = []identity.PillarID{identity.NewPillarKey().ID()} }, bobKey},
		)
		if list := alice.locate(bob.id()); len(list) != 0 {
			t.Errorf("believed %+v", list)
		}
		// Among lies, the device's own word counts, less what is no pillar in it.
		says(lie{func(*overlay.Presence) {}, mallory},
			lie{func(p *overlay.Presence) { p.Pillars = append(p.Pillars, identity.NewPillarKey().ID()) }, bobKey})
		list := alice.locate(bob.id())
		if len(list) != 1 || !slices.Equal(list[0].Pillars, []identity.PillarID{pillar}) {
			t.Errorf("found %+v", list)
		}
	})
}

// TestLocateTogether: many who ask at once are one question, and for some
// seconds its answer is used again.
func TestLocateTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 1)
		alice, bob := w.node(nil, []int{0}), w.node(nil, []int{0})
		contact(bob, "alice", alice.id())
		alice.knows(bob.id(), 1)
		var work sync.WaitGroup
		errs := make(chan error, 100)
		for range cap(errs) {
			work.Go(func() {
				list, err := alice.Locate(context.Background(), bob.id())
				if err != nil || len(list) != 1 {
					errs <- fmt.Errorf("found %+v, %v", list, err)
				}
			})
		}
		work.Wait()
		close(errs)
		for err := range errs {
			t.Error(err)
		}
		if n := w.asked.Load(); n != 1 {
			t.Errorf("%d questions", n)
		}
		alice.ForgetLocated(bob.id()) // it is still open: nothing to forget
		if list := alice.locate(bob.id()); len(list) != 1 || w.asked.Load() != 1 {
			t.Errorf("%+v with %d questions", list, w.asked.Load())
		}
	})
}

// TestLocateWithout: a node without a network, without direct delivery, or
// without a pillar says so.
func TestLocateWithout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 1)
		somebody := identity.AccountID(newNodeHome(t, w.rigs[0].net).account.ID())
		plain := w.node(nil, []int{0}, func(c *overlay.NodeConfig) { c.Traversal = nil })
		if _, err := plain.Locate(t.Context(), somebody); overlay.CodeOf(err) != overlay.CodeUnreachable {
			t.Errorf("without direct delivery: %v", err)
		}
		alone := newNodeHome(t, w.rigs[0].net).start(nil, direct)
		if _, err := alone.Locate(t.Context(), somebody); overlay.CodeOf(err) != overlay.CodeNoNetwork {
			t.Errorf("without a network: %v", err)
		}
		alice := w.node(nil, []int{0})
		w.rigs[0].stop()
		until(t, "no session", func() bool { return alice.Status().Pillar == "" })
		if _, err := alice.Locate(t.Context(), somebody); overlay.CodeOf(err) != overlay.CodeUnreachable {
			t.Errorf("without a pillar: %v", err)
		}
		if err := alice.stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := alice.Locate(t.Context(), somebody); err == nil {
			t.Error("a node that has stopped locates")
		}
	})
}
