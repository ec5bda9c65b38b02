package overlay_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// A handLog is a log elsewhere that is applied in parts.
type handLog struct {
	*foreignLog
	entries []overlay.BatchEntry
	marks   []overlay.Mark // h(0), h(1), …
}

func newHandLog(rig *pillarRig, raws ...[]byte) *handLog {
	l := &handLog{foreignLog: newForeignLog(rig)}
	l.marks = []overlay.Mark{{Hash: l.state.Hash}}
	for _, raw := range raws {
		l.add(overlay.BatchEntry{Raw: raw})
	}
	return l
}

func (l *handLog) add(e overlay.BatchEntry) {
	if e.Raw != nil {
		rec, err := overlay.ParseRecord(l.rig.id, e.Raw)
		rec = must(l.rig.t, rec, err)
		e.ID, e.Expires = rec.ID, rec.Expires
	}
	l.run(e)
	l.entries = append(l.entries, e)
	l.marks = append(l.marks, overlay.Mark{Seq: l.state.Seq, Hash: l.state.Hash})
}

// part returns entries from..to as a run; those in bare come without bodies.
func (l *handLog) part(from, to uint64, bare ...uint64) overlay.LogRun {
	entries := slices.Clone(l.entries[from-1 : to])
	for _, seq := range bare {
		e := &entries[seq-from]
		e.Raw, e.Why = nil, overlay.WhyTrimmed
	}
	h := &overlay.Head{Pillar: l.state.Pillar, Nonce: l.state.Nonce, Seq: to, Hash: l.marks[to].Hash, Dies: l.state.Dies}
	h.Sign(l.rig.id, l.key)
	return overlay.LogRun{From: from, Before: l.marks[from-1].Hash, Entries: entries,
		State: overlay.LogState{Pillar: l.state.Pillar, Nonce: l.state.Nonce, Head: h,
			Position: overlay.Position{Log: l.state.Log, Seq: to, Hash: l.marks[to].Hash}}}
}

func (l *handLog) apply(from, to uint64, bare ...uint64) overlay.LogState {
	l.rig.t.Helper()
	st, err := l.rig.pillar.Apply(l.rig.t.Context(), l.part(from, to, bare...))
	if err != nil {
		l.rig.t.Fatal(err)
	}
	return st
}

func (l *handLog) held() overlay.LogState {
	l.rig.t.Helper()
	for _, s := range l.rig.pillar.Logs() {
		if s.Log == l.state.Log {
			return s
		}
	}
	l.rig.t.Fatal("the log is not held")
	return overlay.LogState{}
}

func (l *handLog) raws(seqs ...uint64) (raws [][]byte) {
	for _, seq := range seqs {
		raws = append(raws, l.entries[seq-1].Raw)
	}
	return raws
}

// wantCursor checks how far a cursor covers a log.
func wantCursor(t *testing.T, cursor overlay.Vector, l *handLog, seq uint64) {
	t.Helper()
	pos, _ := cursor.Find(l.state.Log)
	if pos.Seq != seq || seq > 0 && pos.Hash != l.marks[seq].Hash {
		t.Fatalf("the cursor covers %d entries, want %d", pos.Seq, seq)
	}
}

// lateRig is a log of 12 messages to bob.
func lateRig(t *testing.T) (*pillarRig, *handLog, *testDevice) {
	rig := newPillarRig(t, nil)
	alice, bob := rig.device(nil), rig.device(nil)
	var raws [][]byte
	for range 12 {
		raws = append(raws, alice.message(bob.id()))
	}
	return rig, newHandLog(rig, raws...), bob
}

// TestLateRecordsReachDevices: whatever comes late, by whatever way, is pushed
// to who is there and found by who resumes with a cursor from before.
func TestLateRecordsReachDevices(t *testing.T) {
	take := func(seqs ...uint64) func(*testing.T, *pillarRig, *handLog) {
		return func(t *testing.T, rig *pillarRig, l *handLog) {
			taken, err := rig.pillar.Take(t.Context(), overlay.ViaAudit, l.raws(seqs...))
			if err != nil || slices.Contains(taken, false) {
				t.Fatalf("taken %v, %v", taken, err)
			}
		}
	}
	for _, c := range []struct {
		name  string
		first func(l *handLog)
		told  uint64   // what a cursor may say then
		early []uint64 // what is there by then
		late  []uint64
		come  func(t *testing.T, rig *pillarRig, l *handLog)
		end   uint64 // what a cursor may say after that
	}{
		{"a lack filled by the audit", func(l *handLog) { l.apply(1, 5, 3) }, 2, []uint64{1, 2, 4, 5}, []uint64{3}, take(3), 5},
		{"a lack filled by its log", func(l *handLog) { l.apply(1, 5, 3, 4) }, 2, []uint64{1, 2, 5}, []uint64{3, 4},
			func(t *testing.T, rig *pillarRig, l *handLog) { l.apply(2, 5) }, 5},
		{"a lack filled by another log", func(l *handLog) { l.apply(1, 5, 1) }, 0, []uint64{2, 3, 4, 5}, []uint64{1},
			func(t *testing.T, rig *pillarRig, l *handLog) {
				newHandLog(rig, l.raws(1)...).apply(1, 1)
			}, 5},
		{"a lack filled by a node", func(l *handLog) { l.apply(1, 5, 5) }, 4, []uint64{1, 2, 3, 4}, []uint64{5},
			func(t *testing.T, rig *pillarRig, l *handLog) {
				if a := rig.device(nil).session().one(l.entries[4].Raw); a.Err != nil {
					t.Fatal(a.Err)
				}
			}, 5},
		{"a gap below an island", func(l *handLog) { l.apply(1, 2); l.apply(6, 8) }, 2, []uint64{1, 2, 6, 7, 8}, []uint64{3, 4, 5},
			func(t *testing.T, rig *pillarRig, l *handLog) { l.apply(3, 5) }, 8},
		{"an island below all", func(l *handLog) { l.apply(10, 12) }, 0, []uint64{10, 11, 12}, []uint64{4, 5},
			func(t *testing.T, rig *pillarRig, l *handLog) { l.apply(4, 5) }, 0},
		{"by no log", func(l *handLog) { l.apply(1, 2) }, 2, []uint64{1, 2}, []uint64{7, 8}, take(7, 8), 2},
		{"by no log, and then by its log", func(l *handLog) { l.apply(1, 2) }, 2, []uint64{1, 2}, []uint64{3, 4, 5},
			func(t *testing.T, rig *pillarRig, l *handLog) {
				take(3, 4, 5)(t, rig, l)
				l.apply(3, 6, 6)
			}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig, l, bob := lateRig(t)
			live := bob.session()
			live.resume(overlay.BoxMail, nil, true)
			c.first(l)
			sameRecords(t, "pushed at first", live.pushes(len(c.early)), l.raws(c.early...))
			away := rig.device(bob.account).session()
			got, cursor := away.resume(overlay.BoxMail, nil, false)
			sameRecords(t, "there at first", got, l.raws(c.early...))
			wantCursor(t, cursor, l, c.told)
			c.come(t, rig, l)
			sameRecords(t, "pushed late", live.pushes(len(c.late)), l.raws(c.late...))
			got, next := away.resume(overlay.BoxMail, cursor, false)
			for _, raw := range l.raws(c.late...) {
				if !slices.ContainsFunc(got, func(r []byte) bool { return string(r) == string(raw) }) {
					t.Fatal("a record that came late was hidden by the cursor from before")
				}
			}
			wantCursor(t, next, l, c.end)
			got, _ = away.resume(overlay.BoxMail, nil, false)
			if len(got) != len(c.early)+len(c.late) {
				t.Fatalf("%d records without a cursor", len(got))
			}
			// After a restart the same is told.
			want := l.held()
			rig.stop()
			rig.start(nil, identity.NewPillarKey())
			if st := l.held(); st.Position != want.Position || !slices.Equal(st.Islands, want.Islands) || !slices.Equal(st.Lacks, want.Lacks) {
				t.Fatalf("after a restart %+v, before %+v", st, want)
			}
			if _, cursor := rig.device(bob.account).session().resume(overlay.BoxMail, nil, false); true {
				wantCursor(t, cursor, l, c.end)
			}
		})
	}
}

// TestCursorOfADroppedLog: what a device read of one history of a log hides
// nothing of another, nor of a log that is not held any more.
func TestCursorOfADroppedLog(t *testing.T) {
	rig, l, bob := lateRig(t)
	l.apply(1, 4)
	c := bob.session()
	_, cursor := c.resume(overlay.BoxMail, nil, false)
	wantCursor(t, cursor, l, 4)
	if got, _ := c.resume(overlay.BoxMail, cursor, false); len(got) != 0 {
		t.Fatalf("%d records although the cursor covers them", len(got))
	}
	if err := rig.pillar.Drop(t.Context(), l.state.Log); err != nil {
		t.Fatal(err)
	}
	got, next := c.resume(overlay.BoxMail, cursor, false)
	sameRecords(t, "of a dropped log", got, l.raws(1, 2, 3, 4))
	wantCursor(t, next, l, 0)
	// The same log with another history, as long as the first.
	other := &handLog{foreignLog: &foreignLog{rig: rig, key: l.key, state: overlay.LogState{Pillar: l.state.Pillar, Nonce: l.state.Nonce,
		Position: overlay.Position{Log: l.state.Log, Hash: overlay.ChainStart(l.state.Log)}}}}
	other.marks = []overlay.Mark{{Hash: other.state.Hash}}
	alice := rig.device(nil)
	for range 4 {
		other.add(overlay.BatchEntry{Raw: alice.message(bob.id())})
	}
	other.apply(1, 4)
	got, _ = c.resume(overlay.BoxMail, cursor, false)
	if len(got) != 8 {
		t.Fatalf("%d records, want those of both histories", len(got))
	}
}

// TestLackLapses: a lack whose record is expired is none any more, and the log
// is told up to its end.
func TestLackLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh()
		rig := newPillarRig(t, mesh)
		defer rig.stop()
		l := newHandLog(rig)
		for i := range 4 {
			l.add(overlay.BatchEntry{Expires: millis(time.Now().Add(time.Duration(i+1) * time.Minute)), ID: overlay.RecordID{byte(i + 1)}, Why: overlay.WhyTrimmed})
		}
		l.apply(1, 4)
		for i := range 4 {
			st := l.held()
			if told, _ := st.Told(); len(st.Lacks) != 4-i || told.Seq != uint64(i) {
				t.Fatalf("after %d min: %d lacks, told %d", i, len(st.Lacks), told.Seq)
			}
			mesh.drain()
			time.Sleep(time.Minute) // virtual
			time.Sleep(6 * time.Second)
			synctest.Wait()
			mesh.mu.Lock()
			n := len(mesh.events)
			mesh.mu.Unlock()
			if n != 1 {
				t.Fatalf("%d events of a lack that lapsed", n)
			}
		}
		rig.stop()
		rig.start(nil, identity.NewPillarKey())
		if st := l.held(); len(st.Lacks) != 0 || st.Seq != 4 {
			t.Fatalf("after a restart: %d lacks at %d", len(st.Lacks), st.Seq)
		}
		rig.stop()
	})
}

// TestWatermarksByRange: a submission is told of copies of ranges that it is
// in, whatever is said of those around, once for each number of copies.
func TestWatermarksByRange(t *testing.T) {
	rig := newPillarRig(t, newFakeMesh())
	now := millis(time.Now())
	for range 4 { // so that five copies can be had
		if _, err := rig.pillar.Roster().Add(now, false, rig.pillarRecord(identity.NewPillarKey(), now, nil).Raw); err != nil {
			t.Fatal(err)
		}
	}
	c := rig.device(nil).session()
	var raws [][]byte
	for range 10 {
		raws = append(raws, c.message(c.id()))
	}
	first := c.submit(3, raws...)
	lines := c.results(10)
	dot := lines[first].Dot
	seq := func(i int) uint64 { return dot.Seq + uint64(i) } // of submission i
	acked := func(d ...overlay.Durable) { rig.pillar.Acked(dot.Log, d) }
	want := func(from, to int, copies uint64) {
		t.Helper()
		w := expect[*overlay.Watermark](c)
		if w.Log != dot.Log || w.From != seq(from) || w.To != seq(to) || w.Copies != copies {
			t.Fatalf("watermark %d..%d of %d copies, want %d..%d of %d", w.From-dot.Seq, w.To-dot.Seq, w.Copies, from, to, copies)
		}
	}
	quiet := func() {
		t.Helper()
		c.send(&overlay.Find{N: 1, OnlyHeld: true})
		expect[*overlay.Found](c)
	}
	// A live stream is acked above a gap.
	acked(overlay.Durable{From: 1, To: seq(1), Copies: 1}, overlay.Durable{From: seq(6), To: seq(8), Copies: 1})
	want(0, 1, 2)
	want(6, 8, 2)
	// The same again, and a range in between that nobody has.
	acked(overlay.Durable{From: 1, To: seq(1), Copies: 1}, overlay.Durable{From: seq(2), To: seq(5), Copies: 0}, overlay.Durable{From: seq(6), To: seq(8), Copies: 1})
	quiet()
	// The upper part by more, the gap not at all.
	acked(overlay.Durable{From: 1, To: seq(1), Copies: 1}, overlay.Durable{From: seq(7), To: seq(9), Copies: 2})
	want(7, 9, 3)
	// The gap closes from the middle.
	acked(overlay.Durable{From: 1, To: seq(2), Copies: 1}, overlay.Durable{From: seq(4), To: seq(4), Copies: 2}, overlay.Durable{From: seq(6), To: seq(9), Copies: 1})
	want(2, 2, 2)
	want(4, 4, 3)
	acked(overlay.Durable{From: 1, To: seq(9), Copies: 2})
	want(0, 9, 3)
	acked(overlay.Durable{From: 1, To: seq(9), Copies: 4})
	quiet() // all have what they wanted
	// Asked again, the answer is of the dot's own range.
	acked(overlay.Durable{From: 1, To: seq(3), Copies: 2}, overlay.Durable{From: seq(5), To: seq(9), Copies: 1})
	for i, copies := range map[int]uint64{3: 3, 4: 1, 5: 2} {
		if l := c.one(raws[i]); l.Err != nil || l.Copies != copies {
			t.Fatalf("submission %d again: %+v, want %d copies", i, l, copies)
		}
	}
}
