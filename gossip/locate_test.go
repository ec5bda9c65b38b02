package gossip_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/seal"
	"github.com/obelisk-network/obelisk/store"
)

// fakeDevices answers questions by what it was told to.
type fakeDevices struct {
	mu     sync.Mutex
	asked  []*overlay.Locate
	from   []identity.PillarID
	answer func(q *overlay.Locate, answer func(overlay.Presence))
}

func (d *fakeDevices) LocateHere(from identity.PillarID, q *overlay.Locate, answer func(overlay.Presence)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked, d.from = append(d.asked, q), append(d.from, from)
	if d.answer != nil {
		d.answer(q, answer)
	}
}

func (d *fakeDevices) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}

// found collects answers.
type found struct {
	mu   sync.Mutex
	list []overlay.Presence
}

func (f *found) each(p overlay.Presence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, p)
}

func (f *found) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list)
}

// withDevices makes a pillar that answers for d.
func (w *world) withDevices(d *fakeDevices) *pillar {
	p := w.pillar()
	p.config = func(c *gossip.Config) { c.Devices = d }
	return p
}

// TestLocateAsksAll: a question goes to every pillar once, and no further; every
// answer comes back until the question is over.
func TestLocateAsksAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memnet.WithLatency(10*time.Millisecond))
		asker := w.author
		devices := []*fakeDevices{{}, {}, {}}
		var mu sync.Mutex
		var late []func() // guarded by mu
		pillars := []*pillar{}
		for i, d := range devices {
			target := replicatest.NewAuthor(t, w.key.ID(), time.Now)
			p := w.withDevices(d).start(pillars...)
			d.answer = func(q *overlay.Locate, answer func(overlay.Presence)) {
				if q.N == 0 {
					t.Errorf("pillar %d gets a question without a number", i)
				}
				word := target.Presence(asker.Device(), p.key.ID())
				answer(word)
				mu.Lock()
				defer mu.Unlock()
				late = append(late, func() { answer(word) })
			}
			pillars = append(pillars, p)
		}
		until(t, time.Minute, "a mesh", func() bool { return meshed(pillars...) })
		time.Sleep(10 * time.Second) // virtual: of sessions that both sides opened one is left
		var got found
		target := replicatest.NewAuthor(t, w.key.ID(), time.Now).Account()
		q := asker.Question(target)
		stop := pillars[0].mesh.Locate(q, got.each)
		time.Sleep(time.Second) // virtual
		if n := got.count(); n != 2 {
			t.Errorf("%d answers, want 2", n)
		}
		for i, d := range devices {
			want := 1
			if i == 0 {
				want = 0
			}
			if d.count() != want {
				t.Errorf("pillar %d was asked %d times", i, d.count())
			}
			for j, seen := range d.asked {
				if d.from[j] != pillars[0].key.ID() || seen.Target != target || !slices.Equal(seen.Signature, q.Signature) {
					t.Errorf("pillar %d was asked %+v by %s", i, seen, d.from[j])
				}
			}
		}
		stop()
		mu.Lock()
		for _, again := range late {
			again()
		}
		mu.Unlock()
		time.Sleep(time.Second) // virtual
		if n := got.count(); n != 2 {
			t.Errorf("%d answers after the end", n)
		}
		for _, p := range pillars {
			if n := p.count("offences_total"); n != 0 {
				t.Errorf("%v offences", n)
			}
		}
	})
}

// TestLocateBounds: an honest pillar never asks so much that it is an offence.
func TestLocateBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := &fakeDevices{}
		a := w.pillar().start()
		b := w.withDevices(d).start(a)
		until(t, time.Minute, "a mesh", func() bool { return meshed(a, b) })
		time.Sleep(10 * time.Second) // virtual: of sessions that both sides opened one is left
		q := w.author.Question(w.author.Account())
		for range 1000 {
			a.mesh.Locate(q, func(overlay.Presence) {})()
			synctest.Wait() // the session's queue is no bound here
		}
		time.Sleep(time.Second) // virtual
		if n := d.count(); n != 256 {
			t.Errorf("asked %d times at once, want 256", n)
		}
		if n := a.count("locate_unasked_total"); n != 1000-256 {
			t.Errorf("%v questions left out", n)
		}
		for range 1000 {
			a.mesh.Locate(q, func(overlay.Presence) {})()
			synctest.Wait()
		}
		if n := d.count(); n != 256+128 {
			t.Errorf("asked %d times after a second, want 128 more", n-256)
		}
		if n := b.count("offences_total"); n != 0 {
			t.Errorf("%v offences", n)
		}
	})
}

// TestLocateOffences: a pillar that floods, or answers what nobody asked, is
// counted, not believed, and refused when it goes on.
func TestLocateOffences(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		banned       bool
		say          func(w *world, l *liar, s overlay.Stream, q *overlay.Locate)
	}{
		{"questions without end", "locate", true, func(w *world, l *liar, s overlay.Stream, _ *overlay.Locate) {
			q := w.author.Question(w.author.Account())
			for n := range uint64(600) {
				q.N = n
				say(s, q)
			}
		}},
		{"an answer to no question", "presence", false, func(w *world, l *liar, s overlay.Stream, q *overlay.Locate) {
			say(s, &overlay.Located{N: q.N + 1, Presences: []overlay.Presence{w.author.Presence(q.Device(), l.key.ID())}})
		}},
		{"an answer for another asker", "presence", false, func(w *world, l *liar, s overlay.Stream, q *overlay.Locate) {
			say(s, &overlay.Located{N: q.N, Presences: []overlay.Presence{w.author.Presence(identity.NewDeviceKey().ID(), l.key.ID())}})
		}},
		{"no answer in an answer", "presence", false, func(w *world, l *liar, s overlay.Stream, q *overlay.Locate) {
			say(s, &overlay.Located{N: q.N})
		}},
		{"answers to old questions without end", "presence", true, func(w *world, l *liar, s overlay.Stream, q *overlay.Locate) {
			word := w.author.Presence(q.Device(), l.key.ID())
			for range 1100 {
				say(s, &overlay.Located{N: 1, Presences: []overlay.Presence{word}})
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				d := &fakeDevices{}
				p := w.withDevices(d).start()
				l := w.liar()
				l.host.Handle(overlay.ProtoPillar, func(s overlay.Stream) { s.Reset() })
				synctest.Wait() // p runs
				if err := l.host.Connect(t.Context(), p.id(), p.host.Addrs()); err != nil {
					t.Fatal(err)
				}
				s, err := l.greet(p, replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
				if err != nil {
					t.Fatal(err)
				}
				asked := make(chan *overlay.Locate, 1)
				go func() {
					frames := overlay.NewFrameReader(s)
					frames.Accept()
					for {
						m, err := frames.Next()
						if err != nil {
							return
						}
						if q, ok := m.(*overlay.Locate); ok {
							asked <- q
						}
					}
				}()
				synctest.Wait()
				var got found
				stop := p.mesh.Locate(replicatest.NewAuthor(t, w.key.ID(), time.Now).Question(w.author.Account()), got.each)
				defer stop()
				c.say(w, l, s, <-asked)
				time.Sleep(time.Second) // virtual
				if n := p.count("offences_total", c.reason); n == 0 {
					t.Error("no offence")
				}
				if got.count() > overlay.MaxDevices {
					t.Errorf("%d answers", got.count())
				}
				if banned := p.count("pillars_refused_total") > 0; banned != c.banned {
					t.Errorf("refused for a while: %v, want %v", banned, c.banned)
				}
				if d.count() > 512 {
					t.Errorf("devices were asked %d times", d.count())
				}
			})
		})
	}
}

// realNode runs an overlay.Node with direct delivery only, at one of pillars.
func realNode(t *testing.T, net *memnet.Network, at *memnet.Host, notAt ...*memnet.Host) (*overlay.Node, *memnet.Host) {
	t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.OpenKeyring(filepath.Join(t.TempDir(), "sealing"))
	if err != nil {
		t.Fatal(err)
	}
	device := identity.NewDeviceKey()
	host := net.Host(peer.ID(device.ID()), "-")
	host.Guard()
	for _, h := range notAt {
		net.Cut(host.Self(), h.Self())
	}
	n, err := overlay.NewNode(overlay.NodeConfig{Account: account, Device: device, Sealing: ring, Table: store.NewMemoryTable(),
		Links: host, Peers: host, Traversal: host, Direct: "only",
		Bootstrap: []overlay.Invitation{{Pillars: []overlay.PillarAddr{{Pillar: identity.PillarID(at.Self()), Addr: at.Addrs()[0]}}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		host.Shutdown()
	})
	eventually(t, func() bool { return n.Status().Pillar != "" })
	return n, host
}

// TestLocateThroughRealPillars: asker and target are at different pillars of
// three that gossip. The contact learns where the device is; a stranger learns
// nothing, after as long a time.
func TestLocateThroughRealPillars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, network, _, hosts := realTrio(t)
		bob, _ := realNode(t, net, hosts[2], hosts[0], hosts[1])
		friend, stranger := replicatest.NewAuthor(t, network.ID(), time.Now), replicatest.NewAuthor(t, network.ID(), time.Now)
		if err := bob.AddContact("friend", friend.Account()); err != nil {
			t.Fatal(err)
		}
		session := func(a *replicatest.Author) *replicatest.Node {
			host := net.Host(a.Peer(), "-")
			t.Cleanup(func() { host.Shutdown() })
			return a.Register(t, host, hosts[0].Self(), hosts[0].Addrs())
		}
		at := []identity.PillarID{identity.PillarID(hosts[2].Self())}
		list := session(friend).Locate(friend.Question(bob.Account()))
		if len(list) != 1 || list[0].Device != bob.Device() || !slices.Equal(list[0].Pillars, at) {
			t.Fatalf("the contact found %+v", list)
		}
		if err := list[0].Verify(network.ID(), friend.Device(), uint64(time.Now().UnixMilli())); err != nil {
			t.Error(err)
		}
		if list := session(stranger).Locate(stranger.Question(bob.Account())); len(list) != 0 {
			t.Errorf("a stranger found %+v", list)
		}
	})
}

// TestDirectThroughRealPillars: a message that no pillar is given goes from node
// to node, which are at different pillars.
func TestDirectThroughRealPillars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, _, _, hosts := realTrio(t)
		alice, aliceHost := realNode(t, net, hosts[0], hosts[1], hosts[2])
		bob, bobHost := realNode(t, net, hosts[2], hosts[0], hosts[1])
		net.Heal(aliceHost.Self(), hosts[2].Self()) // the circuit goes through bob's pillar
		if err := bob.AddContact("alice", alice.Account()); err != nil {
			t.Fatal(err)
		}
		m, err := alice.Send(t.Context(), overlay.Outgoing{To: []identity.AccountID{bob.Account()}, Type: overlay.BodyText, Body: []byte("hello")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if m, err = alice.Wait(ctx, m.Handle, overlay.StateDelivered); err != nil || m.State != overlay.StateDelivered {
			t.Fatalf("%+v: %v", m, err)
		}
		list, err := bob.Inbox(0, 0, false)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v: %v", list, err)
		}
		if p := list[0].Path; p != overlay.PathRelayed && p != overlay.PathDirect {
			t.Errorf("it came by way of %q", p)
		}
		if info, ok := bobHost.Info(aliceHost.Self()); !ok {
			t.Errorf("not connected: %+v", info)
		}
	})
}
