package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// fakeMesh hears of commits and answers what it is told to.
type fakeMesh struct {
	overlay.NoMesh
	mu     sync.Mutex
	events []*overlay.CommitEvent
	copies int
	others []overlay.PillarStatus
	over   map[overlay.LogID]uint64
}

func newFakeMesh() *fakeMesh { return &fakeMesh{over: map[overlay.LogID]uint64{}} }

// Over implements overlay.Mesh.
func (m *fakeMesh) Over(log overlay.LogID, _ uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.over[log]
}

// sign has heads say that everything up to an entry of a log is over.
func (m *fakeMesh) sign(log overlay.LogID, over uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over[log] = over
}

func (m *fakeMesh) Committed(c *overlay.CommitEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, c)
}

// drain forgets the events and returns how many new records they told of.
func (m *fakeMesh) drain() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		n += len(e.New)
	}
	m.events = nil
	return n
}

func (m *fakeMesh) Copies(_ context.Context, ids []overlay.RecordID) ([]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := make([]int, len(ids))
	for i := range held {
		held[i] = m.copies
	}
	return held, nil
}

func (m *fakeMesh) Pillars() []overlay.PillarStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.others
}

// A foreignLog is the log of a pillar elsewhere.
type foreignLog struct {
	rig   *pillarRig
	key   *identity.PillarKey
	state overlay.LogState
}

func newForeignLog(rig *pillarRig) *foreignLog {
	l := &foreignLog{rig: rig, key: identity.NewPillarKey()}
	l.state.Pillar, l.state.Nonce = l.key.ID(), [16]byte{7}
	l.state.Log = overlay.MakeLogID(rig.id, l.state.Pillar, l.state.Nonce)
	l.state.Hash = overlay.ChainStart(l.state.Log)
	return l
}

// run appends entries and returns the run with a signed head.
func (l *foreignLog) run(entries ...overlay.BatchEntry) overlay.LogRun {
	from, before := l.state.Seq+1, l.state.Hash
	for _, e := range entries {
		id, expires := e.ID, e.Expires
		if e.Raw != nil {
			rec, err := overlay.ParseRecord(l.rig.id, e.Raw)
			rec = must(l.rig.t, rec, err)
			id, expires = rec.ID, rec.Expires
		}
		l.state.Seq++
		l.state.Hash = overlay.Chain(l.state.Hash, expires, id)
		l.state.Dies = max(l.state.Dies, expires)
	}
	h := &overlay.Head{Pillar: l.state.Pillar, Nonce: l.state.Nonce, Seq: l.state.Seq, Hash: l.state.Hash, Dies: l.state.Dies}
	h.Sign(l.rig.id, l.key)
	st := l.state
	st.Head = h
	return overlay.LogRun{State: st, From: from, Before: before, Entries: entries}
}

// TestPillarApply: a followed run becomes durable, is filed and pushed like
// what was submitted; bad entries become void, expired ones stay bare.
func TestPillarApply(t *testing.T) {
	mesh := newFakeMesh()
	rig := newPillarRig(t, mesh)
	bob := rig.device(nil).session()
	bob.resume(overlay.BoxMail, nil, true)
	alice := rig.device(nil) // known to the other pillar only
	good, forged, known := alice.message(bob.id()), alice.message(bob.id()), bob.message(bob.id())
	forged = bytes.Clone(forged)
	forged[len(forged)-1] ^= 1
	expired := alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte("x"), func(d *overlay.Draft) {
		d.Created -= 100_000
		d.Expires = d.Created + 50_000
	})
	c := rig.device(nil).session()
	own := c.one(known).Dot
	sameRecords(t, "submitted", bob.pushes(1), [][]byte{known})
	mesh.drain()

	log := newForeignLog(rig)
	bare := overlay.BatchEntry{Expires: millis(time.Now()) + 1e6, ID: overlay.RecordID{9}, Why: overlay.WhyTrimmed}
	run := log.run(overlay.BatchEntry{Raw: good}, overlay.BatchEntry{Raw: forged}, overlay.BatchEntry{Raw: expired}, overlay.BatchEntry{Raw: known})
	h4 := log.state.Hash
	last := log.run(bare)
	run.Entries, run.State = append(run.Entries, last.Entries...), last.State
	st, err := rig.pillar.Apply(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	if st.Position != log.state.Position || st.Dies != log.state.Dies || st.Head == nil {
		t.Fatalf("state %+v, want %+v", st, log.state)
	}
	sameRecords(t, "pushed", bob.pushes(1), [][]byte{good})
	if n := mesh.drain(); n != 1 {
		t.Fatalf("%d new records", n)
	}
	entries, err := rig.pillar.Read(st.Log, 1, 1<<20)
	if err != nil || len(entries) != 5 {
		t.Fatalf("read: %d entries, %v", len(entries), err)
	}
	for i, want := range []overlay.Why{overlay.WhyNone, overlay.WhyTrimmed, overlay.WhyExpired, overlay.WhyNone, overlay.WhyTrimmed} {
		if entries[i].Why != want || (entries[i].Raw != nil) != (want == overlay.WhyNone) {
			t.Errorf("entry %d: why %d, body %v, want why %d", i+1, entries[i].Why, entries[i].Raw != nil, want)
		}
	}
	// Submitted here again, it has the place it came by.
	if l := c.one(good); l.Err != nil || l.Dot != (overlay.Dot{Log: st.Log, Seq: 1}) {
		t.Fatalf("submitted again: %+v", l)
	}
	if l := c.one(known); l.Dot != own {
		t.Fatalf("the other one: %+v", l)
	}

	// Again, overlapping, with a gap, of a wrong pillar, with a wrong head.
	next := alice.message(bob.id())
	more := log.run(overlay.BatchEntry{Raw: next})
	if again, err := rig.pillar.Apply(t.Context(), run); err != nil || again.Seq != 5 {
		t.Fatalf("again: %v %v", again, err)
	}
	moved := more
	moved.From++
	if _, err := rig.pillar.Apply(t.Context(), moved); !errors.Is(err, overlay.ErrChain) && !errors.Is(err, overlay.ErrConflict) {
		t.Fatalf("moved: %v", err)
	}
	wrong := more
	wrong.State.Pillar = rig.pillar.Record().Pillar()
	if _, err := rig.pillar.Apply(t.Context(), wrong); err == nil {
		t.Fatal("a run of a wrong pillar was taken")
	}
	wrong = more
	head := *more.State.Head
	head.Hash[0] ^= 1
	wrong.State.Head = &head
	if _, err := rig.pillar.Apply(t.Context(), wrong); !errors.Is(err, overlay.ErrChain) {
		t.Fatalf("wrong head: %v", err)
	}
	over := more
	over.From, over.Before, over.Entries = 5, h4, []overlay.BatchEntry{bare, {Raw: next}}
	if st, err = rig.pillar.Apply(t.Context(), over); err != nil || st.Position != log.state.Position {
		t.Fatalf("overlapping: %+v %v", st, err)
	}
	sameRecords(t, "pushed", bob.pushes(1), [][]byte{next})

	// All of it is there after a restart.
	rig.stop()
	rig.start(nil, identity.NewPillarKey())
	found := false
	for _, s := range rig.pillar.Logs() {
		found = found || s.Position == log.state.Position && s.Head != nil
	}
	if len(rig.pillar.Logs()) != 2 || !found {
		t.Fatalf("logs after a restart: %+v", rig.pillar.Logs())
	}
}

// TestPillarLookups: Get, Has, Each and notes.
func TestPillarLookups(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	var ids []overlay.RecordID
	var raws [][]byte
	for range 10 {
		raws = append(raws, c.message(c.id()))
		ids = append(ids, idOf(t, rig.id, raws[len(raws)-1]))
	}
	c.submit(1, raws...)
	c.results(10)
	own := rig.pillar.Record()
	asked := append([]overlay.RecordID{{1}, own.ID}, ids...)
	var got [][]byte
	for next, rounds := 0, 0; next < len(asked); rounds++ {
		records, n, err := rig.pillar.Get(asked[next:], 3*len(raws[0]))
		if err != nil || n == 0 || rounds > 10 {
			t.Fatalf("get: %d %v", n, err)
		}
		got = append(got, records...)
		next += n
	}
	sameRecords(t, "got", got, append([][]byte{own.Raw}, raws...))
	has, err := rig.pillar.Has(asked)
	if err != nil || has[0] || !has[1] || !has[11] {
		t.Fatalf("has: %v %v", has, err)
	}
	n := 0
	err = rig.pillar.Each(millis(time.Now()), func(id overlay.RecordID, created, expires uint64) bool {
		n++
		return created < expires
	})
	if err != nil || n != 12 {
		t.Fatalf("each: %d %v", n, err)
	}
	if err := rig.pillar.SaveNote(t.Context(), "gossip/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if note, err := rig.pillar.LoadNote("gossip/a"); err != nil || string(note) != "1" {
		t.Fatalf("note %q %v", note, err)
	}
	if err := rig.pillar.SaveNote(t.Context(), "gossip/a", nil); err != nil {
		t.Fatal(err)
	}
	if note, err := rig.pillar.LoadNote("gossip/a"); err != nil || note != nil {
		t.Fatalf("note %q %v", note, err)
	}
	if err := rig.pillar.SaveNote(t.Context(), "log/x", nil); err == nil {
		t.Fatal("a note that is somebody else's was taken")
	}
}

// TestPillarWatermarks: who asked for more copies is told when they exist, of
// the own log and of others.
func TestPillarWatermarks(t *testing.T) {
	mesh := newFakeMesh()
	rig := newPillarRig(t, mesh)
	c, quiet := rig.device(nil).session(), rig.device(nil).session()
	raws := [][]byte{c.message(c.id()), c.message(c.id()), c.message(c.id())}
	n := c.submit(3, raws...)
	lines := c.results(3)
	quiet.one(quiet.message(quiet.id()))
	log := lines[n].Dot.Log
	rig.pillar.Acked(log, []overlay.Durable{{From: 1, To: lines[n+1].Dot.Seq, Copies: 1}})
	w := expect[*overlay.Watermark](c)
	if *w != (overlay.Watermark{Log: log, From: lines[n].Dot.Seq, To: lines[n+1].Dot.Seq, Copies: 2}) {
		t.Fatalf("watermark %+v", w)
	}
	rig.pillar.Acked(log, []overlay.Durable{{From: 1, To: lines[n].Dot.Seq, Copies: 2}, {From: lines[n].Dot.Seq + 1, To: lines[n+2].Dot.Seq + 1, Copies: 1}})
	w = expect[*overlay.Watermark](c)
	if w.Copies != 2 || w.From != lines[n+2].Dot.Seq || w.To < w.From {
		t.Fatalf("watermark %+v", w)
	}
	if l := c.one(raws[2]); l.Copies != 2 || l.Dot != lines[n+2].Dot {
		t.Fatalf("submitted again: %+v", l)
	}

	// A duplicate of another log: the others are asked.
	other := newForeignLog(rig)
	raw := c.message(c.id())
	if _, err := rig.pillar.Apply(t.Context(), other.run(overlay.BatchEntry{Raw: raw})); err != nil {
		t.Fatal(err)
	}
	mesh.mu.Lock()
	mesh.copies = 1
	mesh.mu.Unlock()
	n = c.submit(2, raw)
	l := c.results(1)[n]
	if l.Err != nil || l.Dot.Log != other.state.Log || l.Copies != 1 {
		t.Fatalf("answered %+v", l)
	}
	if w = expect[*overlay.Watermark](c); w.Log != l.Dot.Log || w.From != 1 || w.To != 1 || w.Copies != 2 {
		t.Fatalf("watermark %+v", w)
	}
	// Nobody told the one who asked for nothing.
	quiet.send(&overlay.Find{N: 1, OnlyHeld: true})
	expect[*overlay.Found](quiet)
}

// TestPillarRoster: the own record is admitted and survives a restart newer;
// what the roster learns reaches connected nodes.
func TestPillarRoster(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	now := millis(time.Now())
	own := rig.pillar.Record()
	if !rig.pillar.Roster().Admitted(own.Pillar(), now) {
		t.Fatal("not admitted")
	}
	other := rig.pillarRecord(identity.NewPillarKey(), now, nil)
	if _, err := rig.pillar.Roster().Add(now, false, other.Raw); err != nil {
		t.Fatal(err)
	}
	for seen := false; !seen; {
		m, err := c.frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := m.(*overlay.RosterMsg); ok {
			for _, raw := range r.Records {
				seen = seen || bytes.Equal(raw, other.Raw)
			}
		}
	}
	rig.stop() // what was pushed is saved
	rig.start(nil, identity.NewPillarKey())
	if _, ok := rig.pillar.Roster().Lookup(other.Pillar()); !ok {
		t.Fatal("not saved")
	}
	if e, ok := rig.pillar.Roster().Lookup(own.Pillar()); !ok || !e.Local {
		t.Fatal("the own one not saved as local")
	}
}

// TestPillarWrongClock: a pillar whose clock is not the majority's takes no
// submissions, and goes on when it is right again.
func TestPillarWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh()
		rig := newPillarRig(t, mesh)
		defer rig.stop()
		c := rig.device(nil).session()
		for _, tt := range []struct {
			skew time.Duration
			code overlay.Code
		}{{time.Second, ""}, {time.Minute, overlay.CodeClockWrong}, {-20 * time.Second, ""}} {
			mesh.mu.Lock()
			mesh.others = []overlay.PillarStatus{{ClockKnown: true, ClockSkew: tt.skew}, {ClockKnown: true, ClockSkew: tt.skew}}
			mesh.mu.Unlock()
			time.Sleep(10 * time.Second) // virtual
			l := c.one(c.message(c.id()))
			if l.Err == nil && tt.code != "" || l.Err != nil && l.Err.Code != tt.code {
				t.Fatalf("skew %v: %+v, want %q", tt.skew, l, tt.code)
			}
			if s := rig.pillar.Status().ClockSkew; s != tt.skew {
				t.Fatalf("skew %v, want %v", s, tt.skew)
			}
		}
		rig.stop()
	})
}

// TestPillarClockSteps: a pillar whose clock steps while it runs neither refuses
// for good nor drops what only that clock calls expired, from that moment on,
// and has a record that others accept when the clock is right again.
func TestPillarClockSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh()
		others := func(skew time.Duration) {
			mesh.mu.Lock()
			defer mesh.mu.Unlock()
			mesh.others = []overlay.PillarStatus{{ClockKnown: true, ClockSkew: skew}, {ClockKnown: true, ClockSkew: skew}}
		}
		others(0)
		var skew atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		rig := newPillarRig(t, mesh, func(c *overlay.PillarConfig) { c.Now = now })
		defer rig.stop()
		c := rig.device(nil).session()
		time.Sleep(time.Minute)
		raw := c.message(c.id())
		skew.Store(int64(40 * 365 * 24 * time.Hour))
		others(-40 * 365 * 24 * time.Hour)
		if l := c.one(raw); l.Err == nil || l.Err.Code != overlay.CodeClockWrong {
			t.Fatalf("right after the step: %+v", l)
		}
		pillar := identity.NewPillarKey()
		log := replicatest.NewLog(rig.id, pillar)
		log.Add(t, raw)
		if _, err := rig.pillar.Apply(t.Context(), log.Run(1, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		skew.Store(0)
		others(0)
		time.Sleep(time.Minute)
		rec, err := overlay.ParseRecord(rig.id, raw)
		if err != nil {
			t.Fatal(err)
		}
		if has, err := rig.pillar.Has([]overlay.RecordID{rec.ID}); err != nil || !has[0] {
			t.Errorf("what came while the clock was wrong: held %v, %v", has, err)
		}
		if !rig.pillar.Roster().Admitted(rig.pillar.Record().Pillar(), millis(time.Now())) {
			t.Error("not admitted after the clock was put right")
		}
		if l := c.one(c.message(c.id())); l.Err != nil {
			t.Errorf("after all: %v", l.Err)
		}
		rig.stop()
	})
}
