package overlay_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestPillarDuplicates: the same record again, in the same frame, while the
// first is on its way, later and over another session, gets the first answer
// and no second place.
func TestPillarDuplicates(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	other := rig.device(nil).session()
	raw := c.message(c.id())

	release := rig.store.hold()
	blocker := c.submit(1, c.message(c.id()))
	<-rig.store.entered
	n := c.submit(1, raw, raw)
	m := other.submit(1, raw)
	release()
	lines := c.results(3)
	if lines[blocker].Err != nil || lines[n].Err != nil {
		t.Fatal(lines)
	}
	first := lines[n].Dot
	theirs := other.results(1)[m]
	for what, l := range map[string]overlay.ResultLine{
		"in the same frame": lines[n+1], "over another session": theirs, "later": c.one(raw),
	} {
		if l.Err != nil || l.Dot != first || l.Copies != lines[n].Copies {
			t.Errorf("%s: %+v, first %+v", what, l, lines[n])
		}
	}
	entries, err := rig.pillar.Read(first.Log, 1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	places := 0
	id := idOf(t, rig.id, raw)
	for _, e := range entries {
		if e.ID == id {
			places++
		}
	}
	if places != 1 {
		t.Fatalf("%d places in the log", places)
	}

	// After a restart it is another log, the answer the same.
	rig.stop()
	rig.start(nil, identity.NewPillarKey())
	if l := rig.device(c.account).session().one(raw); l.Dot != first {
		t.Fatalf("after a restart: %+v, first %v", l, first)
	}
}

// TestPillarGroupCommit: everything that waits while a commit runs is one
// commit.
func TestPillarGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		const sessions, each = 16, 20
		var cs []*testClient
		for range sessions {
			cs = append(cs, rig.device(nil).session())
		}
		release := rig.store.hold()
		cs[0].submit(1, cs[0].message(cs[0].id()))
		<-rig.store.entered
		before := rig.store.commits.Load()
		for _, c := range cs {
			for range each {
				c.submit(1, c.message(c.id()))
			}
		}
		synctest.Wait() // all of it waits for the commit
		release()
		for i, c := range cs {
			n := each
			if i == 0 {
				n++
			}
			last := uint64(0)
			for n := range c.results(n) {
				last = max(last, n)
			}
		}
		if n := rig.store.commits.Load() - before; n > sessions*each/8 {
			t.Fatalf("%d commits for %d submissions", n, sessions*each)
		}
	})
}

// TestPillarOrder: what a session submits stands in the log in that order.
func TestPillarOrder(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	var raws [][]byte
	for range 2000 {
		raws = append(raws, c.message(c.id()))
	}
	for i := 0; i < len(raws); i += 100 {
		c.submit(1, raws[i:i+100]...)
	}
	lines := c.results(len(raws))
	for i := uint64(2); i <= uint64(len(raws)); i++ {
		if lines[i].Err != nil || lines[i].Dot.Seq <= lines[i-1].Dot.Seq {
			t.Fatalf("submission %d: %+v after %+v", i, lines[i], lines[i-1])
		}
	}
}

// TestPillarNothingBeforeCommit: while a commit is not durable, nobody hears
// of its records: neither the submitter nor a recipient nor the mesh.
func TestPillarNothingBeforeCommit(t *testing.T) {
	mesh := newFakeMesh()
	rig := newPillarRig(t, mesh)
	alice, bob := rig.device(nil).session(), rig.device(nil).session()
	bob.resume(overlay.BoxMail, nil, true)
	for range 4 { // the registrations and the roster
		mesh.drain()
	}
	release := rig.store.hold()
	raw := alice.message(bob.id())
	n := alice.submit(1, raw)
	<-rig.store.entered

	// Other questions of both sessions are answered meanwhile.
	id := idOf(t, rig.id, raw)
	for _, c := range []*testClient{alice, bob} {
		c.send(&overlay.Find{N: 7, IDs: []overlay.RecordID{id}, OnlyHeld: true})
		found := expect[*overlay.Found](c) // and so no Result or Push before
		if found.N != 7 || len(found.Held) != 1 || found.Held[0] != 0 {
			t.Fatalf("found %+v", found)
		}
	}
	if n := mesh.drain(); n != 0 {
		t.Fatalf("the mesh heard of %d records", n)
	}
	release()
	if l := alice.results(1)[n]; l.Err != nil {
		t.Fatal(l.Err)
	}
	sameRecords(t, "push", bob.pushes(1), [][]byte{raw})
	if n := mesh.drain(); n != 1 {
		t.Fatalf("the mesh heard of %d records", n)
	}
}

// TestPillarFailedCommit: after a failed commit nothing is acknowledged, and
// reads go on.
func TestPillarFailedCommit(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	reader := rig.device(c.account).session()
	raw := c.message(c.id())
	if l := c.one(raw); l.Err != nil {
		t.Fatal(l.Err)
	}
	rig.store.Fail(errors.New("input/output error"))
	lost := c.message(c.id())
	n := c.submit(1, lost)
	var line *overlay.ResultLine
	busy := false
	for line == nil || !busy {
		m, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *overlay.Result:
			line = &m.Lines[0]
		case *overlay.Busy:
			busy = true
		}
	}
	if line.N != n || line.Err == nil || line.Err.Code != overlay.CodeBusy || line.Err.Retry == 0 {
		t.Fatalf("answered %+v", line)
	}
	if l := c.one(c.message(c.id())); l.Err == nil || l.Err.Code != overlay.CodeBusy {
		t.Fatalf("a later one: %+v", l)
	}
	if l := c.one(raw); l.Err != nil {
		t.Fatalf("a duplicate: %v", l.Err)
	}
	expect[*overlay.Busy](reader)
	got, _ := reader.resume(overlay.BoxMail, nil, false)
	sameRecords(t, "mailbox", got, [][]byte{raw})
	if err := rig.pillar.Status().Failed; !errors.Is(err, overlay.ErrStoreFailed) {
		t.Fatalf("status: %v", err)
	}
	if err := rig.pillar.SaveNote(t.Context(), "gossip/x", []byte("y")); !errors.Is(err, overlay.ErrStoreFailed) {
		t.Fatalf("a note: %v", err)
	}
}

// TestPillarDrain: a pillar that is drained says so and takes nothing; it goes
// on when that ends.
func TestPillarDrain(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	rig.pillar.Drain(true)
	if b := expect[*overlay.Busy](c); b.Err.Code != overlay.CodeDraining {
		t.Fatal(b.Err)
	}
	if l := c.one(c.message(c.id())); l.Err == nil || l.Err.Code != overlay.CodeDraining || l.Err.Retry == 0 {
		t.Fatalf("while drained: %+v", l)
	}
	if !rig.pillar.Status().Draining {
		t.Fatal("status does not say so")
	}
	late := rig.device(nil).open()
	late.send(late.hello())
	expect[*overlay.Hello](late)
	if b := expect[*overlay.Busy](late); b.Err.Code != overlay.CodeDraining {
		t.Fatal(b.Err)
	}
	rig.pillar.Drain(false)
	if l := c.one(c.message(c.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
}

// TestPillarDiskFull: submissions are refused below two reserves, followed logs
// below one; it goes on when there is room again.
func TestPillarDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		free.Store(1 << 39)
		rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) {
			c.Disk = func() (uint64, uint64, error) { return free.Load(), 1 << 40, nil }
		})
		defer rig.stop()
		c := rig.device(nil).session()
		for _, tt := range []struct {
			free uint64 // a reserve is 51 GiB
			code overlay.Code
			full bool
		}{{110 << 30, "", false}, {80 << 30, overlay.CodeFull, false}, {10 << 30, overlay.CodeFull, true}, {200 << 30, "", false}} {
			free.Store(tt.free)
			time.Sleep(2 * time.Second) // virtual
			l := c.one(c.message(c.id()))
			if l.Err == nil && tt.code != "" || l.Err != nil && (l.Err.Code != tt.code || l.Err.Retry == 0) {
				t.Fatalf("%d GiB free: %+v, want %q", tt.free>>30, l, tt.code)
			}
			if full := rig.pillar.Status().Full; full != tt.full {
				t.Fatalf("%d GiB free: full %v", tt.free>>30, full)
			}
			if _, err := rig.pillar.Apply(t.Context(), overlay.LogRun{}); (overlay.CodeOf(err) == overlay.CodeFull) != tt.full {
				t.Fatalf("%d GiB free: apply: %v", tt.free>>30, err)
			}
		}
		rig.stop()
	})
}

// TestPillarSessionBounds: sessions over the bounds are sent elsewhere, others
// go on.
func TestPillarSessionBounds(t *testing.T) {
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.MaxSessions = 8 })
	c := rig.device(nil).session()
	d := rig.device(nil)
	first := d.open()
	expect[*overlay.Hello](first)
	host := rig.net.Host("flooder", "-")
	t.Cleanup(func() { host.Shutdown() })
	refused := 0
	for range 20 {
		f := d.openFrom(host)
		m, err := f.read()
		if err != nil {
			t.Fatal(err)
		}
		if b, ok := m.(*overlay.Busy); ok {
			if b.Err.Code != overlay.CodeBusy || b.Err.Retry == 0 {
				t.Fatal(b.Err)
			}
			refused++
		}
	}
	if refused != 16 {
		t.Fatalf("%d of one peer's 20 streams refused", refused)
	}
	for range 2 {
		expect[*overlay.Hello](rig.device(nil).open())
	}
	over := rig.device(nil).open()
	if b := expect[*overlay.Busy](over); b.Err.Code != overlay.CodeBusy {
		t.Fatal(b.Err)
	}
	if l := c.one(c.message(c.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
}

// TestPillarInFlight: a session that submits without end while nothing becomes
// durable is refused, not stored up.
func TestPillarInFlight(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	other := rig.device(nil).session()
	raw := c.message(c.id())
	release := rig.store.hold()
	c.submit(1, c.message(c.id()))
	<-rig.store.entered
	records := make([][]byte, overlay.MaxSubmit)
	for i := range records {
		records[i] = raw
	}
	for range 5 {
		c.submit(1, records...)
	}
	busy := 0
	for busy == 0 {
		for _, l := range expect[*overlay.Result](c).Lines {
			if l.Err != nil {
				if l.Err.Code != overlay.CodeBusy || l.Err.Retry == 0 {
					t.Fatal(l.Err)
				}
				busy++
			}
		}
	}
	n := other.submit(1, other.message(other.id()))
	release()
	if l := other.results(1)[n]; l.Err != nil {
		t.Fatalf("another session: %v", l.Err)
	}
}
