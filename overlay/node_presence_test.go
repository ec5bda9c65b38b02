package overlay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// A testAsker is a device of an account that no pillar knows.
type testAsker struct {
	t       *testing.T
	network identity.NetworkID
	account *identity.AccountKey
	device  *identity.DeviceKey
	cert    []byte
	now     uint64
}

func newTestAsker(t *testing.T, network identity.NetworkID) *testAsker {
	t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	a := &testAsker{t: t, network: network, account: must(t, account, err), device: identity.NewDeviceKey(), now: millis(time.Now())}
	a.certify(network, a.device.ID(), 24*time.Hour)
	return a
}

func (a *testAsker) certify(network identity.NetworkID, device identity.DeviceID, life time.Duration) {
	a.t.Helper()
	cert, err := a.account.Certify(network, device, 1, a.now-uint64(48*time.Hour/time.Millisecond), a.now-uint64(48*time.Hour/time.Millisecond)+uint64((48*time.Hour+life)/time.Millisecond))
	a.cert = must(a.t, cert, err).Append(nil)
}

// ask signs a question; change may alter it first.
func (a *testAsker) ask(target identity.AccountID, change func(q *overlay.Locate)) *overlay.Locate {
	a.now++
	q := &overlay.Locate{N: a.now, Target: target, Asker: a.account.ID(), Certificate: a.cert, Time: a.now}
	if change != nil {
		change(q)
	}
	q.Sign(a.network, a.device)
	return q
}

// TestNodeJudgesQuestions: whatever pillars pass on, the device answers only who
// asks himself, now, for this account, in this network; and each question once,
// however many pillars pass it on, and however often.
func TestNodeJudgesQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		answers := make(chan *overlay.Located, 100)
		c.seen = func(_ *fakePillar, _ *fakeSession, m overlay.Message) bool {
			if a, ok := m.(*overlay.Located); ok {
				answers <- a
			}
			return false
		}
		reg := prometheus.NewRegistry()
		bob := newNodeHome(t, c.net).start(c.addrs(), direct, func(cfg *overlay.NodeConfig) { cfg.Registerer = reg })
		until(t, "sessions", func() bool { st := bob.Status(); return st.Pillar != "" && st.Standby != "" })
		active, standby := c.pillar(bob.Status().Pillar).of(bob.id())[0], c.pillar(bob.Status().Standby).of(bob.id())[0]
		alice := newTestAsker(t, c.id)
		contact(bob, "alice", alice.account.ID())
		const asked = "obelisk_node_asked_total"
		// pass has a session pass a question on and returns what became of it.
		pass := func(s *fakeSession, q *overlay.Locate) string {
			t.Helper()
			before := map[string]float64{}
			kinds := []string{"answered", "invalid", "refused", "again", "busy", "off"}
			for _, k := range kinds {
				before[k] = counter(t, reg, asked, k)
			}
			s.send(q)
			what := ""
			until(t, "a decision", func() bool {
				for _, k := range kinds {
					if counter(t, reg, asked, k) > before[k] {
						what = k
					}
				}
				return what != ""
			})
			return what
		}
		elsewhere := identity.NewNetworkKey().ID()
		forged := []struct {
			name string
			make func() *overlay.Locate
		}{
			{"for another account", func() *overlay.Locate { return alice.ask(alice.account.ID(), nil) }},
			{"of long ago", func() *overlay.Locate {
				return alice.ask(bob.id(), func(q *overlay.Locate) { q.Time -= uint64(overlay.MaxPresenceAge/time.Millisecond) + 1000 })
			}},
			{"made up by a pillar that has seen the certificate", func() *overlay.Locate {
				q := alice.ask(bob.id(), nil)
				q.Sign(c.id, identity.NewDeviceKey())
				return q
			}},
			{"signed for another network", func() *overlay.Locate {
				q := alice.ask(bob.id(), nil)
				q.Sign(elsewhere, alice.device)
				return q
			}},
			{"with a certificate of another network", func() *overlay.Locate {
				stranger := newTestAsker(t, c.id)
				stranger.certify(elsewhere, stranger.device.ID(), time.Hour)
				return stranger.ask(bob.id(), nil)
			}},
			{"with a certificate that has ended", func() *overlay.Locate {
				late := *alice
				late.certify(c.id, alice.device.ID(), -time.Hour)
				return late.ask(bob.id(), nil)
			}},
			{"in a contact's name, by a device it did not certify", func() *overlay.Locate {
				thief := newTestAsker(t, c.id)
				return thief.ask(bob.id(), func(q *overlay.Locate) { q.Asker = alice.account.ID() })
			}},
		}
		for _, f := range forged {
			if got := pass(active, f.make()); got != "invalid" {
				t.Errorf("a question %s: %s", f.name, got)
			}
		}
		if got := pass(active, newTestAsker(t, c.id).ask(bob.id(), nil)); got != "refused" {
			t.Errorf("a stranger's question: %s", got)
		}
		first := alice.ask(bob.id(), nil)
		second := alice.ask(bob.id(), nil)
		if got := pass(standby, second); got != "answered" {
			t.Errorf("a contact's question by way of the standby: %s", got)
		}
		for _, q := range []*overlay.Locate{second, first} { // the same, and an older one
			if got := pass(active, q); got != "again" {
				t.Errorf("a question that was answered: %s", got)
			}
		}
		if len(answers) != 1 {
			t.Fatalf("%d answers, want one", len(answers))
		}
		a := <-answers
		if a.N != second.N || len(a.Presences) != 1 || a.More || a.Err != nil {
			t.Fatalf("answered %+v", a)
		}
		if err := a.Presences[0].Verify(c.id, alice.device.ID(), millis(time.Now())); err != nil || a.Presences[0].Device != bob.home.device.ID() {
			t.Errorf("answered %+v: %v", a, err)
		}
		// Only who was told comes in.
		pillar := c.pillar(bob.Status().Pillar)
		for _, who := range []struct {
			key *identity.DeviceKey
			in  bool
		}{{alice.device, true}, {identity.NewDeviceKey(), false}} {
			host := c.net.Host(peer.ID(who.key.ID()), "-")
			err := host.DialThrough(t.Context(), bob.host.Self(), pillar.addr())
			if (err == nil) != who.in {
				t.Errorf("let in: %v, %v", who.in, err)
			}
			host.Shutdown()
		}
		// A contact that asks all day gets so many answers.
		busy := 0
		for range 40 {
			if pass(active, alice.ask(bob.id(), nil)) == "busy" {
				busy++
			}
		}
		if busy < 10 {
			t.Errorf("%d of 40 questions in a row were too many", busy)
		}
	})
}

// TestNodeRemovedDeviceAsks: a device that its account removed finds nobody,
// though its certificate has not ended.
func TestNodeRemovedDeviceAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 1)
		reg := prometheus.NewRegistry()
		bob := newNodeHome(t, c.net).start(c.addrs(), direct, func(cfg *overlay.NodeConfig) { cfg.Registerer = reg })
		until(t, "a session", func() bool { return bob.Status().Pillar != "" })
		alice := newTestAsker(t, c.id)
		info := overlay.AccountInfo{Counter: alice.now, Removed: []overlay.DeviceSerial{{Device: alice.device.ID(), Serial: 1}}}
		d := overlay.Draft{Kind: overlay.KindAccount, Author: string(alice.account.ID()), Created: alice.now, Expires: alice.now + overlay.DayMillis, Bin: info.Append(nil)}
		rec, err := d.Sign(c.id, alice.account)
		c.take(nil, must(t, rec, err).Raw)
		contact(bob, "alice", alice.account.ID())
		until(t, "alice's record", func() bool { return bob.Status().NodesKnown == 2 })
		c.pillars[0].of(bob.id())[0].send(alice.ask(bob.id(), nil))
		until(t, "a decision", func() bool { return counter(t, reg, "obelisk_node_asked_total") > 0 })
		if n := counter(t, reg, "obelisk_node_asked_total", "refused"); n != 1 {
			t.Errorf("the question of a removed device was answered")
		}
	})
}

// TestNodeLocatesByTheStandby: the standby is asked if the active pillar refuses
// or breaks the rules, and what a pillar answers without end is not kept.
func TestNodeLocatesByTheStandby(t *testing.T) {
	for name, answer := range map[string]func(s *fakeSession, q *overlay.Locate){
		"refused": func(s *fakeSession, q *overlay.Locate) {
			s.send(&overlay.Located{N: q.N, Err: &overlay.Error{Code: overlay.CodeBusy, Retry: time.Second}})
		},
		"ended": func(s *fakeSession, _ *overlay.Locate) { s.stream.Reset() },
		"answers without end": func(s *fakeSession, q *overlay.Locate) {
			for range 600 {
				s.send(&overlay.Located{N: q.N, More: true})
			}
		},
		"a wrong answer": func(s *fakeSession, q *overlay.Locate) { s.send(&overlay.Found{N: q.N}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t, 2)
				alice, bob := locatable(t, c)
				first := alice.Status().Pillar
				c.mu.Lock()
				c.seen = func(p *fakePillar, s *fakeSession, m overlay.Message) bool {
					q, ok := m.(*overlay.Locate)
					switch {
					case !ok:
						return false
					case p.id() == first:
						answer(s, q)
					default:
						bob.found(s, q)
					}
					return true
				}
				c.mu.Unlock()
				if list := alice.locate(bob.account.ID()); len(list) != 1 || list[0].Device != bob.device.ID() {
					t.Errorf("found %+v", list)
				}
			})
		})
	}
}

// locatable is a node with two pillars, and an asker whose device it knows.
func locatable(t *testing.T, c *fakeCluster) (*testNode, *testAsker) {
	t.Helper()
	bob := newTestAsker(t, c.id)
	alice := newNodeHome(t, c.net).start(c.addrs(), direct)
	until(t, "sessions", func() bool { st := alice.Status(); return st.Pillar != "" && st.Standby != "" })
	d := overlay.Draft{Kind: overlay.KindDevice, Author: string(bob.account.ID()), Signer: bob.cert, Created: bob.now, Expires: bob.now + overlay.DayMillis,
		Bin: (&overlay.DeviceInfo{}).Append(nil)}
	rec, err := d.Sign(c.id, bob.device)
	c.take(nil, must(t, rec, err).Raw)
	contact(alice, "bob", bob.account.ID())
	until(t, "bob's record", func() bool { return alice.Status().NodesKnown == 2 })
	return alice, bob
}

// found answers a question as if the device were at the session's pillar.
func (a *testAsker) found(s *fakeSession, q *overlay.Locate) {
	word := overlay.Presence{Device: a.device.ID(), Asker: q.Device(), Pillars: []identity.PillarID{s.p.key.ID()}, Time: millis(time.Now())}
	word.Sign(a.network, a.device)
	s.send(&overlay.Located{N: q.N, More: true, Presences: []overlay.Presence{word}})
	s.send(&overlay.Located{N: q.N})
}

// TestNodeLocatesPastALiar: a pillar that says that nobody answers hides an
// account for some seconds only.
func TestNodeLocatesPastALiar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 2)
		alice, bob := locatable(t, c)
		liar := alice.Status().Pillar
		c.mu.Lock()
		c.seen = func(p *fakePillar, s *fakeSession, m overlay.Message) bool {
			q, ok := m.(*overlay.Locate)
			switch {
			case !ok:
				return false
			case p.id() == liar:
				s.send(&overlay.Located{N: q.N})
			default:
				bob.found(s, q)
			}
			return true
		}
		c.mu.Unlock()
		if list := alice.locate(bob.account.ID()); len(list) != 0 {
			t.Fatalf("found %+v by a pillar that finds nobody", list)
		}
		until(t, "found by the other pillar", func() bool { return len(alice.locate(bob.account.ID())) == 1 })
	})
}
