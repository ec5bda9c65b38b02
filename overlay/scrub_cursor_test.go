package overlay_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestCursorsWaitForTheScrub: entries of a mailbox were deleted by hand while the
// pillar was down. Who resumes before the scrub has been through keeps the cursor
// it has; what comes to light is pushed to who is live, and only then is a cursor
// handed over, which covers none of what is missing.
func TestCursorsWaitForTheScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, newFakeMesh())
		defer func() { rig.stop() }()
		alice, bob, carol := rig.device(nil), rig.device(nil), rig.device(nil)
		both := []identity.AccountID{bob.id(), carol.id()}
		slices.Sort(both)
		var raws [][]byte
		for i := range 12 {
			raws = append(raws, alice.sign(overlay.KindMessage, both, []byte{byte(i)}, nil))
		}
		log := newHandLog(rig, raws...)
		log.apply(1, 12)
		_, known := bob.session().resume(overlay.BoxMail, nil, false)
		wantCursor(t, known, log, 12)
		rig.stop()

		// Half of the entries of both mailboxes go: where they have the bytes, the
		// records are lost, and else only one account cannot find them.
		commit := &overlay.Commit{Time: time.Now()}
		day := overlay.DayOf(log.entries[0].Expires)
		view := rig.store.View()
		lost := map[overlay.RecordID]bool{}
		if err := view.Records(0, func(_ overlay.Day, r overlay.StoredRecord) bool {
			if seq := slices.IndexFunc(log.entries, func(e overlay.BatchEntry) bool { return e.ID == r.ID }); seq >= 4 && seq < 8 {
				commit.Unfile = append(commit.Unfile, overlay.Place{Day: day, Box: overlay.Mailbox(bob.id()), Local: r.Local})
				lost[r.ID] = both[0] == bob.id()
			} else if seq >= 8 {
				commit.Unfile = append(commit.Unfile, overlay.Place{Day: day, Box: overlay.Mailbox(carol.id()), Local: r.Local})
				lost[r.ID] = both[0] == carol.id()
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		view.Close()
		if _, err := rig.store.Commit(commit); err != nil {
			t.Fatal(err)
		}

		rig.unscrubbed = true
		release := rig.store.scrubs.hold()
		defer release()
		rig.start(newFakeMesh(), identity.NewPillarKey())
		drain := func(d *testDevice, live bool) (*testClient, [][]byte) {
			c := rig.device(d.account).session()
			c.send(&overlay.Resume{Box: overlay.BoxMail, Live: live})
			p := expect[*overlay.Page](c)
			if !p.Last {
				t.Fatal("more than a page")
			}
			c.send(&overlay.Saved{Box: overlay.BoxMail, To: p.To})
			return c, p.Records
		}
		later, _ := drain(bob, false)
		c, got := drain(bob, true)
		if len(got) >= 12 {
			t.Fatalf("%d records although some are lost", len(got))
		}
		dir := carol.session()
		dir.send(&overlay.Resume{Box: overlay.BoxDirectory})
		dir.send(&overlay.Saved{Box: overlay.BoxDirectory, To: expect[*overlay.Page](dir).To})
		// Nobody is handed a cursor, however long it takes, but for what is pushed.
		time.Sleep(time.Minute)
		extra := alice.message(bob.id())
		if l := alice.session().one(extra); l.Err != nil {
			t.Fatal(l.Err)
		}
		push := expect[*overlay.Push](c)
		c.send(&overlay.Saved{Box: overlay.BoxMail, To: push.To})
		got = append(got, push.Records...)
		for _, x := range []*testClient{c, later, dir} {
			x.stream.SetReadDeadline(time.Now().Add(time.Minute))
			for {
				m, err := x.frames.Next()
				if err != nil {
					break
				}
				if _, ok := m.(*overlay.RosterMsg); !ok { // pushed to everybody, at any time
					t.Fatalf("%T before the pass is over", m)
				}
			}
		}
		release()
		rig.scrubbed()
		var whole [][]byte
		for i, raw := range raws {
			if !lost[log.entries[i].ID] {
				whole = append(whole, raw)
			}
		}
		// until reads until a cursor comes: by then all of these were delivered.
		until := func(want ...[]byte) overlay.Vector {
			t.Helper()
			for {
				m, err := c.read()
				if err != nil {
					t.Fatal(err)
				}
				switch m := m.(type) {
				case *overlay.Push:
					got = append(got, m.Records...)
					c.send(&overlay.Saved{Box: overlay.BoxMail, To: m.To})
				case *overlay.CursorMsg:
					for i, raw := range want {
						if !slices.ContainsFunc(got, func(g []byte) bool { return bytes.Equal(g, raw) }) {
							t.Errorf("record %d is behind the cursor and was not delivered", i)
						}
					}
					return m.Cursor
				}
			}
		}
		cursor := until(append(whole, extra)...)
		first := slices.IndexFunc(log.entries, func(e overlay.BatchEntry) bool { return lost[e.ID] })
		wantCursor(t, cursor, log, uint64(first))
		if st := log.held(); len(st.Lacks) != 4 {
			t.Fatalf("%d lacks", len(st.Lacks))
		}
		// What others bring is pushed, and the cursor moves on.
		log.apply(1, 12)
		wantCursor(t, until(raws...), log, 12)
		// Who resumes with the cursor from before is sent what it does not cover.
		if again, _ := rig.device(bob.account).session().resume(overlay.BoxMail, cursor, false); len(again) != 12-first {
			t.Errorf("%d records behind the cursor, want %d", len(again), 12-first)
		}
		rig.stop()
	})
}

// TestForgottenIsStoredAgain: a record that was stored a moment ago and is lost again
// is no duplicate: who submits it has it stored.
func TestForgottenIsStoredAgain(t *testing.T) {
	rig := newPillarRig(t, newFakeMesh())
	a, b := rig.device(nil).session(), rig.device(nil).session()
	raw := a.message(b.id())
	if l := a.one(raw); l.Err != nil {
		t.Fatal(l.Err)
	}
	id := idOf(t, rig.id, raw)
	view := rig.store.View()
	locals, err := view.Parts().Locals([]overlay.Ref{{ID: id}})
	if err != nil {
		t.Fatal(err)
	}
	view.Close()
	rec, err := overlay.ParseRecord(rig.id, raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rig.store.Commit(&overlay.Commit{Time: time.Now(), Unfile: []overlay.Place{{Day: rec.Day(), Box: overlay.Mailbox(b.id()), Local: locals[0]}}}); err != nil {
		t.Fatal(err)
	}
	if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
		t.Fatal(err)
	}
	if has, err := rig.pillar.Has([]overlay.RecordID{id}); err != nil || has[0] {
		t.Fatalf("still there: %v", err)
	}
	// It is judged before a commit, and committed after it.
	release := rig.store.hold()
	other := b.submit(1, b.message(a.id()))
	<-rig.store.entered
	again := a.submit(1, raw)
	until(t, "two submissions on their way", func() bool { return rig.pillar.SubmissionBytes() >= int64(2*len(raw)-8) })
	release()
	if l := b.results(1)[other]; l.Err != nil {
		t.Fatal(l.Err)
	}
	if l := a.results(1)[again]; l.Err != nil {
		t.Fatal(l.Err)
	}
	if has, err := rig.pillar.Has([]overlay.RecordID{id}); err != nil || !has[0] {
		t.Fatalf("acknowledged and not there: %v", err)
	}
}

// TestForgottenWhileJudged: a duplicate of what is just being forgotten is not
// answered as stored.
func TestForgottenWhileJudged(t *testing.T) {
	rig := newPillarRig(t, newFakeMesh())
	a, b := rig.device(nil).session(), rig.device(nil).session()
	raw := a.message(b.id())
	first := a.one(raw)
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	// Its bytes on the disk become others.
	rec, err := overlay.ParseRecord(rig.id, raw)
	if err != nil {
		t.Fatal(err)
	}
	view := rig.store.View()
	locals, err := view.Parts().Locals([]overlay.Ref{rec.Ref()})
	if err != nil {
		t.Fatal(err)
	}
	view.Close()
	altered := bytes.Clone(raw)
	altered[len(altered)/2] ^= 1
	boxes := overlay.BoxesOf(rec)
	if _, err := rig.store.Commit(&overlay.Commit{Time: time.Now(),
		Forget: []overlay.Forgotten{{ID: rec.ID, Day: rec.Day(), Local: locals[0], Boxes: boxes}},
		Records: []overlay.Arrival{{ID: rec.ID, Created: rec.Created, Expires: rec.Expires, Raw: altered, Boxes: boxes,
			Dot: first.Dot, Via: overlay.ViaSubmit}}}); err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(rig.store.holdSome(func(c *overlay.Commit) bool { return len(c.Forget) > 0 }))
	defer release()
	scrubbed := make(chan error, 1)
	go func() { scrubbed <- overlay.ScrubNow(t.Context(), rig.pillar) }()
	<-rig.store.entered
	line := a.one(raw)
	release()
	if err := <-scrubbed; err != nil {
		t.Fatal(err)
	}
	if has, err := rig.pillar.Has([]overlay.RecordID{idOf(t, rig.id, raw)}); err != nil || has[0] {
		t.Fatalf("still there: %v", err)
	}
	if line.Err == nil || line.Err.Code != overlay.CodeBusy {
		t.Fatalf("answered %v", line.Err)
	}
	if l := a.one(raw); l.Err != nil {
		t.Fatal(l.Err)
	}
	if has, err := rig.pillar.Has([]overlay.RecordID{idOf(t, rig.id, raw)}); err != nil || !has[0] {
		t.Fatalf("acknowledged and not there: %v", err)
	}
}
