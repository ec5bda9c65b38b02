package overlay_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// question is the device's, where target is.
func (d *testDevice) question(n uint64, target identity.AccountID) *overlay.Locate {
	q := &overlay.Locate{N: n, Target: target, Asker: d.id(), Certificate: d.cert, Time: millis(time.Now()) + n}
	q.Sign(d.rig.id, d.key)
	return q
}

// presence is what the device answers to another.
func (d *testDevice) presence(to identity.DeviceID) overlay.Presence {
	p := overlay.Presence{Device: d.key.ID(), Asker: to, Time: millis(time.Now()), Pillars: []identity.PillarID{identity.PillarID(d.rig.host.Self())}}
	p.Sign(d.rig.id, d.key)
	return p
}

// counter reads a counter of a registry by name and labels' values, in the order
// of the labels' names.
func counter(t testing.TB, reg *prometheus.Registry, name string, values ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			match := f.GetName() == name
			for i, v := range values {
				match = match && i < len(m.GetLabel()) && m.GetLabel()[i].GetValue() == v
			}
			if match {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestPillarPassesQuestions: a question goes to the account's devices as it was
// asked, their answers go back as they come, each once, and at the end there is a
// last word.
func TestPillarPassesQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Registerer = reg })
		alice, bob := rig.device(nil).session(), rig.device(nil).session()
		second := rig.device(bob.account)
		laptop := second.open().greet()
		laptop.send(&overlay.Register{Device: second.deviceRecord("laptop")})
		if r := expect[*overlay.Registered](laptop); r.Err != nil {
			t.Fatal(r.Err)
		}
		asked := alice.question(7, bob.id())
		start := time.Now()
		alice.send(asked)
		for _, c := range []*testClient{bob, laptop} {
			q := expect[*overlay.Locate](c)
			if _, err := q.Verify(overlay.NewVerifier(rig.id), millis(time.Now())); err != nil || q.Target != bob.id() || q.Asker != alice.id() {
				t.Fatalf("the device is asked %+v: %v", q, err)
			}
			answer := &overlay.Located{N: q.N, Presences: []overlay.Presence{c.presence(alice.key.ID())}}
			other := &overlay.Located{N: q.N, Presences: []overlay.Presence{c.presence(bob.key.ID())}}
			if c == bob { // may not answer itself
				other.Presences[0] = c.presence(laptop.key.ID())
			}
			nobody := &overlay.Located{N: q.N + 1000, Presences: answer.Presences}
			c.send(other, nobody, answer, answer)
			got := expect[*overlay.Located](alice)
			if got.N != 7 || !got.More || len(got.Presences) != 1 || got.Presences[0].Device != c.key.ID() {
				t.Fatalf("answered %+v", got)
			}
			if err := got.Presences[0].Verify(rig.id, alice.key.ID(), millis(time.Now())); err != nil {
				t.Error(err)
			}
		}
		if last := expect[*overlay.Located](alice); last.N != 7 || last.More || len(last.Presences) != 0 || last.Err != nil {
			t.Errorf("the last word: %+v", last)
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("the last word came after %v", took)
		}
		const answers = "obelisk_overlay_locate_answers_total"
		if passed, late := counter(t, reg, answers, "passed"), counter(t, reg, answers, "late"); passed != 2 || late != 6 {
			t.Errorf("%v answers passed on and %v not, want 2 and 6", passed, late)
		}
		// Too late is no offence: the session goes on.
		laptop.send(&overlay.Located{N: 1, Presences: []overlay.Presence{laptop.presence(alice.key.ID())}}, laptop.question(1, alice.id()))
		expect[*overlay.Locate](alice)
	})
}

// TestPillarLocateHostile: what a session may not say ends it.
func TestPillarLocateHostile(t *testing.T) {
	rig := newPillarRig(t, nil)
	victim := rig.device(nil)
	cases := []struct {
		name string
		say  func(c *testClient) overlay.Message
	}{
		{"a question in another account's name", func(c *testClient) overlay.Message {
			q := c.question(1, victim.id())
			q.Asker, q.Certificate = victim.id(), victim.cert
			return q
		}},
		{"a question with another certificate of its own", func(c *testClient) overlay.Message {
			c.certify(rig.id, 2, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			return c.question(1, victim.id())
		}},
		{"an answer for somebody else's device", func(c *testClient) overlay.Message {
			return &overlay.Located{N: 1, Presences: []overlay.Presence{victim.presence(c.key.ID())}}
		}},
		{"no answer", func(c *testClient) overlay.Message { return &overlay.Located{N: 1} }},
		{"two answers in one", func(c *testClient) overlay.Message {
			p := c.presence(victim.key.ID())
			return &overlay.Located{N: 1, Presences: []overlay.Presence{p, p}}
		}},
		{"an answer that is not the last", func(c *testClient) overlay.Message {
			return &overlay.Located{N: 1, More: true, Presences: []overlay.Presence{c.presence(victim.key.ID())}}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := rig.device(nil).session()
			s.send(c.say(s))
			if b := expect[*overlay.Busy](s); b.Err == nil || b.Err.Code != overlay.CodeInvalid {
				t.Errorf("told %v", b.Err)
			}
			s.ended()
		})
	}
	early := rig.device(nil).open().greet()
	early.send(early.question(1, victim.id()))
	if b := expect[*overlay.Busy](early); b.Err.Code != overlay.CodeBadRequest {
		t.Errorf("a question before the registration: %v", b.Err)
	}
}

// TestPillarLocateLimits: who asks too often is told when to ask again, and no
// device is asked more than it can bear, by however many.
func TestPillarLocateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Registerer = reg })
		bob := rig.device(nil).session()
		const each = 70
		refused := 0
		askers := []*testClient{rig.device(nil).session(), rig.device(nil).session(), rig.device(nil).session()}
		for _, asker := range askers {
			for n := range uint64(each) {
				asker.send(asker.question(n+1, bob.id()))
			}
		}
		for _, asker := range askers {
			for n := 0; n < each; n++ {
				a := expect[*overlay.Located](asker)
				if a.Err == nil {
					continue
				}
				if a.Err.Code != overlay.CodeQuota || a.Err.Retry <= 0 || a.Err.Retry > time.Second {
					t.Fatalf("refused with %+v", a.Err)
				}
				refused++
			}
		}
		if refused == 0 || refused > 3*(each-64) {
			t.Errorf("%d of %d questions refused", refused, 3*each)
		}
		// Whatever waits for bob has been queued before this answer.
		bob.send(&overlay.Find{N: 1})
		asked := 0
		for {
			m, err := bob.read()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := m.(*overlay.Locate); !ok {
				break
			}
			asked++
		}
		if asked < 40 || asked > 40+10*10 {
			t.Errorf("the device was asked %d times", asked)
		}
	})
}

// askedBy is a Locator that counts who asks.
type askedBy struct {
	overlay.NoMesh
	mu    sync.Mutex
	by    map[identity.DeviceID]int // guarded by mu
	total int                       // guarded by mu
}

func (c *askedBy) Locate(q *overlay.Locate, _ func(overlay.Presence)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[q.Device()]++
	c.total++
	return func() {}
}

// TestPillarLocateIsFair: sixteen strangers that ask as fast as they may, where
// somebody is who is elsewhere or here, leave room for one that asks now and then.
func TestPillarLocateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		others := &askedBy{by: make(map[identity.DeviceID]int)}
		rig := &pillarRig{testNetwork: newTestNetwork(t), net: memnet.New(), store: newWatchedStore(), others: others}
		rig.start(nil, identity.NewPillarKey(), func(c *overlay.PillarConfig) { c.Registerer = reg })
		begun := time.Now()
		bob, elsewhere := rig.device(nil).session(), rig.device(nil)
		const strangers, each = 16, 64
		var greedy []*testClient
		for i := range strangers {
			c := rig.device(nil).session()
			for n := range uint64(each) {
				if i%4 > 0 {
					c.send(c.question(n+1, elsewhere.id()))
				} else {
					c.send(c.question(n+1, bob.id()))
				}
			}
			greedy = append(greedy, c)
		}
		synctest.Wait()
		if n := counter(t, reg, "obelisk_overlay_locate_questions_total", "node", "taken"); n != strangers*each {
			t.Fatalf("%v questions taken", n)
		}
		if n := counter(t, reg, "obelisk_overlay_locate_questions_total", "node", "share"); n < strangers*each-overlay.LocateBurst-256-overlay.LocateRate {
			t.Errorf("%v questions are not to be passed on", n)
		}
		friend := rig.device(nil).session()
		for n := range uint64(3) {
			friend.send(friend.question(n+1, elsewhere.id()))
		}
		for range 3 {
			if l := expect[*overlay.Located](friend); l.Err != nil {
				t.Errorf("the friend is refused: %v", l.Err)
			}
		}
		for i, c := range greedy {
			refused := 0
			for range each {
				l := expect[*overlay.Located](c)
				if l.Err == nil {
					continue
				}
				if refused++; l.Err.Code != overlay.CodeQuota || l.Err.Retry < time.Second {
					t.Fatalf("refused with %+v", l.Err)
				}
			}
			if i%4 == 0 && refused > 0 {
				t.Errorf("%d questions for an account that is here are refused", refused)
			}
		}
		others.mu.Lock()
		defer others.mu.Unlock()
		if n := others.by[friend.key.ID()]; n != 3 {
			t.Errorf("others were asked %d of the friend's 3 questions", n)
		}
		if most := overlay.LocateBurst + overlay.LocateRate*(1+int(time.Since(begun)/time.Second)); others.total > most {
			t.Errorf("others were asked %d questions, want at most %d", others.total, most)
		}
		if others.total < overlay.LocateBurst || len(others.by) != strangers+1 {
			t.Errorf("others were asked %d questions of %d devices", others.total, len(others.by))
		}
	})
}

// TestPillarLocateHere: what another pillar passes on is bounded for each pillar,
// and nothing that has no valid certificate reaches a device.
func TestPillarLocateHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Registerer = reg })
		bob, alice := rig.device(nil).session(), rig.device(nil)
		from, other := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
		got := make(chan overlay.Presence, 1)
		forged := alice.question(1, bob.id())
		forged.Certificate = append([]byte(nil), forged.Certificate...)
		forged.Certificate[len(forged.Certificate)-1] ^= 1
		rig.pillar.LocateHere(from, forged, func(p overlay.Presence) { got <- p })
		alice.certify(rig.id, 3, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		rig.pillar.LocateHere(from, alice.question(2, bob.id()), func(p overlay.Presence) { got <- p })
		alice.certify(rig.id, 4, time.Now().Add(-2*time.Hour), time.Now().Add(time.Hour))
		rig.pillar.LocateHere(from, alice.question(3, alice.id()), func(p overlay.Presence) { got <- p })
		last := alice.question(4, bob.id())
		rig.pillar.LocateHere(from, last, func(p overlay.Presence) { got <- p })
		q := expect[*overlay.Locate](bob)
		if q.Time != last.Time {
			t.Fatalf("the device got the question of %d, want only the last", q.Time)
		}
		bob.send(&overlay.Located{N: q.N, Presences: []overlay.Presence{bob.presence(alice.key.ID())}})
		if p := <-got; p.Device != bob.key.ID() {
			t.Errorf("answered %+v", p)
		}
		const questions = "obelisk_overlay_locate_questions_total"
		for result, want := range map[string]float64{"invalid": 2, "not_found": 1, "taken": 1} {
			if n := counter(t, reg, questions, "pillar", result); n != want {
				t.Errorf("%v questions %s, want %v", n, result, want)
			}
		}
		for n := range uint64(600) {
			rig.pillar.LocateHere(from, alice.question(10+n, bob.id()), func(overlay.Presence) {})
		}
		if n := counter(t, reg, questions, "pillar", "busy"); n != 600+1-512 {
			t.Errorf("%v of one pillar's questions are too many, want %d", n, 600+1-512)
		}
		rig.pillar.LocateHere(other, alice.question(400, bob.id()), func(overlay.Presence) {})
		if n := counter(t, reg, questions, "pillar", "taken"); n != 512+1 {
			t.Errorf("%v questions taken: another pillar has room of its own", n)
		}
	})
}
