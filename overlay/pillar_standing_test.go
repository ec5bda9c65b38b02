package overlay_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// bareRig is a rig without a pillar on it yet; a synctest bubble can have one.
func bareRig(tn *testNetwork) *pillarRig {
	return &pillarRig{testNetwork: tn, net: memnet.New(), store: newWatchedStore()}
}

// busy reads the end of a session and returns why it ended.
func (c *testClient) busy() *overlay.Error {
	c.rig.t.Helper()
	b := expect[*overlay.Busy](c)
	c.ended()
	return b.Err
}

// TestPillarRevoked: a pillar that learns that it is revoked parts from its
// nodes, takes nothing, says so, looks for another admission, and goes on with
// one that was made afterwards.
func TestPillarRevoked(t *testing.T) {
	var serial atomic.Uint64
	serial.Store(5)
	key := identity.NewPillarKey()
	rig := newPillarRig(t, nil)
	rig.stop()
	admit := func(c *overlay.PillarConfig) {
		c.Admit = func(now uint64) (identity.Admission, error) {
			return rig.key.Admit(key.ID(), serial.Load(), now+20*overlay.DayMillis), nil
		}
	}
	rig.start(nil, key, admit)
	c := rig.device(nil).session()
	rec := rig.revocation(key.ID(), 4, millis(time.Now()))
	if err := rig.pillar.Revoke(t.Context(), rec); err == nil || !strings.Contains(err.Error(), "--serial 5") {
		t.Fatalf("a revocation of earlier admissions only: %v", err)
	}
	if st := rig.pillar.Status().Standing; st != overlay.StandingAdmitted {
		t.Fatalf("it is %s", st)
	}
	if err := rig.pillar.Revoke(t.Context(), rig.revocation(key.ID(), 5, millis(time.Now()))); err != nil {
		t.Fatal(err)
	}
	if why := c.busy(); why.Code != overlay.CodeNotAdmitted || !strings.Contains(why.Text, "revoked") {
		t.Errorf("its node is told %v", why)
	}
	if st := rig.pillar.Status().Standing; st != overlay.StandingRevoked {
		t.Errorf("its standing is %s", st)
	}
	d := rig.device(nil)
	late := d.open()
	late.send(late.hello())
	expect[*overlay.Hello](late)
	if why := late.busy(); why.Code != overlay.CodeNotAdmitted {
		t.Errorf("a new node is told %v", why)
	}
	// It does not come back by itself, not by a restart either.
	rig.stop()
	cfg := overlay.PillarConfig{Network: rig.id, Key: key, Store: rig.store, Links: rig.host, Peers: rig.host, Addrs: rig.host.Addrs}
	admit(&cfg)
	if _, err := overlay.NewPillar(cfg); err == nil || overlay.CodeOf(err) != overlay.CodeNotAdmitted || !strings.Contains(err.Error(), "network admit") {
		t.Fatalf("a restart: %v", err)
	}
	serial.Store(6)
	rig.start(nil, key, admit)
	rig.device(nil).session()
	if st := rig.pillar.Status().Standing; st != overlay.StandingAdmitted {
		t.Errorf("admitted again, it is %s", st)
	}
}

// TestRevokedPillarFindsAdmission: one that runs on takes a newer admission as
// soon as there is one.
func TestRevokedPillarFindsAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serial := uint64(5)
		key := identity.NewPillarKey()
		tn := newTestNetwork(t)
		rig := bareRig(tn)
		rig.start(nil, key, func(c *overlay.PillarConfig) {
			c.Admit = func(now uint64) (identity.Admission, error) {
				return tn.key.Admit(key.ID(), atomic.LoadUint64(&serial), now+20*overlay.DayMillis), nil
			}
		})
		defer rig.stop()
		if err := rig.pillar.Revoke(context.Background(), tn.revocation(key.ID(), 5, millis(time.Now()))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // virtual
		if st := rig.pillar.Status().Standing; st != overlay.StandingRevoked {
			t.Fatalf("it is %s", st)
		}
		atomic.StoreUint64(&serial, 6)
		time.Sleep(15 * time.Second)
		if st := rig.pillar.Status().Standing; st != overlay.StandingAdmitted {
			t.Fatalf("with a newer admission it is %s", st)
		}
	})
}

// TestRevocationCountsForEver: its record expires, what it says does not.
func TestRevocationCountsForEver(t *testing.T) {
	tn := newTestNetwork(t)
	key := identity.NewPillarKey()
	r := overlay.NewRoster(overlay.NewVerifier(tn.id))
	long := millis(testNow)
	later := long + 100*overlay.DayMillis
	if _, err := r.Add(later, false, tn.revocation(key.ID(), long, long).Raw); err != nil {
		t.Fatalf("an expired revocation: %v", err)
	}
	// An admission that was signed before and becomes valid only now.
	rec := tn.pillarRecord(key, later, func(i *overlay.PillarInfo, _ *overlay.Draft) {
		i.Admission = tn.key.Admit(key.ID(), long, later+20*overlay.DayMillis)
	})
	must(t, []*overlay.Record(nil), second(r.Add(later, false, rec.Raw)))
	if r.Admitted(key.ID(), later) || r.Standing(key.ID(), later) != overlay.StandingRevoked {
		t.Error("it is admitted")
	}
	again := tn.pillarRecord(key, later+1, nil)
	must(t, []*overlay.Record(nil), second(r.Add(later, false, again.Raw)))
	if !r.Admitted(key.ID(), later+1) {
		t.Error("admitted afterwards, it is not")
	}
}

func second[T any](_ T, err error) error { return err }

// TestRevocationText: what one machine signs another can take, and nothing else.
func TestRevocationText(t *testing.T) {
	tn := newTestNetwork(t)
	key := identity.NewPillarKey()
	rec, err := overlay.Revoke(tn.key, key.ID(), 77, millis(testNow))
	text := overlay.RevocationText(must(t, rec, err))
	got, info, err := overlay.ParseRevocation(tn.id, " "+text+"\n")
	if err != nil || info.Pillar != key.ID() || info.Serial != 77 || !got.Equal(rec) {
		t.Fatalf("%+v, %v", info, err)
	}
	if !overlay.IsRevocationText(text) || overlay.IsRevocationText(key.ID().String()) {
		t.Error("texts and IDs are not told apart")
	}
	other := newTestNetwork(t)
	for name, bad := range map[string]string{
		"cut":                text[:len(text)-3],
		"an ID":              key.ID().String(),
		"nothing":            "obelisk-revocation:",
		"too long":           text + strings.Repeat("A", 2000),
		"a pillar record":    overlay.RevocationText(tn.pillarRecord(key, millis(testNow), nil)),
		"of another network": overlay.RevocationText(other.revocation(key.ID(), 1, millis(testNow))),
	} {
		if _, _, err := overlay.ParseRevocation(tn.id, bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestPillarLeaves: its record says so, its nodes go, and it starts again only
// if it is told to.
func TestPillarLeaves(t *testing.T) {
	rig := bareRig(newTestNetwork(t))
	key := identity.NewPillarKey()
	rig.start(nil, key)
	c := rig.device(nil).session()
	rec, err := rig.pillar.Leave(t.Context(), false)
	if err != nil || rec.ID != rig.pillar.Record().ID {
		t.Fatalf("leave: %v", err)
	}
	if why := c.busy(); why.Code != overlay.CodeNotAdmitted || !strings.Contains(why.Text, "has left") {
		t.Errorf("its node is told %v", why)
	}
	now := millis(time.Now())
	r := rig.pillar.Roster()
	if r.Admitted(key.ID(), now) || r.Living(now) != 0 || r.Standing(key.ID(), now) != overlay.StandingLeft {
		t.Error("it still counts")
	}
	// It can change its mind.
	if _, err := rig.pillar.Leave(t.Context(), true); err != nil || !r.Admitted(key.ID(), millis(time.Now())) {
		t.Errorf("back again: %v", err)
	}
	until(t, "nodes are taken again", func() bool { return rig.pillar.Takes() })
	rig.device(nil).session()
	if _, err := rig.pillar.Leave(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	rig.stop()
	cfg := overlay.PillarConfig{Network: rig.id, Key: key, Store: rig.store, Links: rig.host, Peers: rig.host, Addrs: rig.host.Addrs,
		Admit: func(now uint64) (identity.Admission, error) {
			return rig.key.Admit(key.ID(), now, now+overlay.DayMillis), nil
		}}
	if _, err := overlay.NewPillar(cfg); err == nil || !strings.Contains(err.Error(), "--rejoin") {
		t.Fatalf("started again: %v", err)
	}
	rig.start(nil, key, func(c *overlay.PillarConfig) { c.Rejoin = true })
	rig.device(nil).session()
	rig.stop()
	rig.start(nil, key) // and from then on it is one
}

// TestPillarCatchesUp: a pillar that knows others has caught up once it has met
// one and lacks nothing that was there, and from then on.
func TestPillarCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNetwork(t)
		other := identity.NewPillarKey()
		rig := bareRig(tn)
		mesh := newFakeMesh()
		key := identity.NewPillarKey()
		rig.start(mesh, key)
		if rig.pillar.Status().CatchingUp {
			t.Error("alone, it waits for somebody")
		}
		must(t, []*overlay.Record(nil), second(rig.pillar.Roster().Add(millis(time.Now()), true, tn.pillarRecord(other, millis(time.Now()), nil).Raw)))
		time.Sleep(time.Second)
		rig.stop()
		rig.start(mesh, key)
		defer rig.stop()
		at := func(connected bool, missing uint64) bool {
			mesh.mu.Lock()
			mesh.others = []overlay.PillarStatus{{ID: other.ID(), Connected: connected, State: overlay.PillarAlive, MissingHere: missing}}
			mesh.mu.Unlock()
			time.Sleep(10 * time.Second) // virtual
			return rig.pillar.Status().CatchingUp
		}
		switch {
		case !at(false, 0):
			t.Error("it met nobody and has caught up")
		case !at(true, 7):
			t.Error("it lacks entries and has caught up")
		case at(true, 0):
			t.Error("nothing is missing and it has not caught up")
		case at(true, 3):
			t.Error("fresh traffic counts as the first backlog")
		}
	})
}

// summaryMesh tells summaries.
type summaryMesh struct {
	*fakeMesh
	list []overlay.Summary
}

func (m *summaryMesh) Summaries() []overlay.Summary {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list
}

// TestPillarHasCaughtUpWithMost: what one pillar tells of logs and nobody can have
// keeps no pillar from having caught up that holds what the others hold.
func TestPillarHasCaughtUpWithMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNetwork(t)
		other := identity.NewPillarKey()
		rig := bareRig(tn)
		mesh := &summaryMesh{fakeMesh: newFakeMesh()}
		key := identity.NewPillarKey()
		rig.start(mesh, key)
		must(t, []*overlay.Record(nil), second(rig.pillar.Roster().Add(millis(time.Now()), true, tn.pillarRecord(other, millis(time.Now()), nil).Raw)))
		time.Sleep(time.Second)
		rig.stop()
		tell := func(count uint64) {
			mesh.mu.Lock()
			defer mesh.mu.Unlock()
			mesh.others = []overlay.PillarStatus{{ID: other.ID(), Connected: true, State: overlay.PillarAlive, MissingHere: 7}}
			mesh.list = nil
			for _, k := range []*identity.PillarKey{key, other} {
				s := overlay.Summary{Pillar: k.ID(), Settled: millis(time.Now()), Front: millis(time.Now()), At: millis(time.Now())}
				if k == key {
					s.Count = count
				}
				mesh.list = append(mesh.list, s)
			}
		}
		tell(0) // of the time before it starts again
		time.Sleep(time.Second)
		rig.start(mesh, key)
		defer rig.stop()
		time.Sleep(10 * time.Second)
		if !rig.pillar.Status().CatchingUp {
			t.Error("it was equal before it started, and has caught up")
		}
		tell(1)
		time.Sleep(10 * time.Second)
		if !rig.pillar.Status().CatchingUp {
			t.Error("it holds something else than the others, and has caught up")
		}
		tell(0)
		time.Sleep(10 * time.Second)
		if rig.pillar.Status().CatchingUp {
			t.Error("it holds what the others hold, and has not caught up")
		}
	})
}

// TestPillarTellsSummaries: a node that asks gets them, one that asks too often
// is not answered, and one that tells some is wrong here.
func TestPillarTellsSummaries(t *testing.T) {
	mesh := &summaryMesh{fakeMesh: newFakeMesh()}
	rig := newPillarRig(t, mesh)
	s := overlay.Summary{Pillar: identity.NewPillarKey().ID(), Settled: millis(time.Now()), At: millis(time.Now()), Sig: make([]byte, 64)}
	mesh.mu.Lock()
	mesh.list = []overlay.Summary{s}
	mesh.mu.Unlock()
	until(t, "the pillar has looked", func() bool { return len(rig.pillar.Summaries()) == 1 })
	c := rig.device(nil).session()
	for range 1000 {
		c.send(&overlay.SummaryMsg{})
	}
	n := c.submit(1, c.message(c.id())) // behind them
	answers := 0
	for done := false; !done; {
		m, err := c.read()
		switch m := m.(type) {
		case *overlay.SummaryMsg:
			if answers++; len(m.Summaries) != 1 || m.Summaries[0].Pillar != s.Pillar {
				t.Fatalf("%+v", m)
			}
		case *overlay.Result:
			done = m.Lines[0].N == n
		default:
			t.Fatalf("%T, %v", m, err)
		}
	}
	if answers < 1 || answers > 3 {
		t.Errorf("%d answers to a thousand questions", answers)
	}
	c.send(&overlay.SummaryMsg{Summaries: []overlay.Summary{s}})
	if why := c.busy(); why.Code != overlay.CodeInvalid {
		t.Errorf("told some: %v", why)
	}
}
