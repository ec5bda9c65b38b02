package overlay_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
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

// TestHostileRuns: runs that no honest caller makes are refused and change
// nothing.
func TestHostileRuns(t *testing.T) {
	rig, l, _ := lateRig(t)
	l.apply(1, 4)
	gone := func(count uint64, expires time.Time) overlay.BatchEntry {
		return overlay.BatchEntry{Why: overlay.WhyGone, Count: count, Expires: millis(expires), ID: overlay.RecordID(l.marks[6].Hash)}
	}
	over := time.Now().Add(-2 * time.Hour)
	for name, change := range map[string]func(r *overlay.LogRun){
		"entry 0":                  func(r *overlay.LogRun) { r.From = 0 },
		"a run of none":            func(r *overlay.LogRun) { r.Entries = []overlay.BatchEntry{gone(0, over)} },
		"a run past all sequences": func(r *overlay.LogRun) { r.Entries = []overlay.BatchEntry{gone(1<<63, over)} },
		"two runs past all sequences": func(r *overlay.LogRun) {
			r.Entries = []overlay.BatchEntry{gone(1<<62, over), gone(1<<62, over), gone(5, over)}
		},
		"from the last sequence": func(r *overlay.LogRun) { r.From = 1<<64 - 1 },
		"gone and not expired":   func(r *overlay.LogRun) { r.Entries = []overlay.BatchEntry{gone(2, time.Now().Add(time.Hour))} },
		"of another pillar":      func(r *overlay.LogRun) { r.State.Pillar = identity.NewPillarKey().ID() },
		"another chain":          func(r *overlay.LogRun) { r.Before[3] ^= 1 },
	} {
		run := l.part(5, 6)
		change(&run)
		if st, err := rig.pillar.Apply(t.Context(), run); err == nil {
			t.Errorf("%s: taken, the log is at %d", name, st.Seq)
		}
		if st := l.held(); st.Seq != 4 || len(st.Islands) > 0 {
			t.Fatalf("%s changed the log: at %d, islands %v", name, st.Seq, st.Islands)
		}
	}
	// What claims to live longer than anything does, without a body, is void, not
	// asked for until then.
	far := newHandLog(rig)
	far.add(overlay.BatchEntry{Expires: 1 << 62, ID: overlay.RecordID{1}, Why: overlay.WhyTrimmed})
	if st := far.apply(1, 1); len(st.Lacks) != 0 || st.Seq != 1 {
		t.Errorf("%d lacks", len(st.Lacks))
	}
	// Nor can a pillar have everybody ask for what never was, in any number of
	// logs.
	author := newForeignLog(rig)
	lacks := 0
	for i := range 8 {
		x := &handLog{foreignLog: &foreignLog{rig: rig, key: author.key}}
		x.state.Pillar, x.state.Nonce = author.key.ID(), [16]byte{byte(i)}
		x.state.Log = overlay.MakeLogID(rig.id, x.state.Pillar, x.state.Nonce)
		x.state.Hash = overlay.ChainStart(x.state.Log)
		x.marks = []overlay.Mark{{Hash: x.state.Hash}}
		for j := range overlay.MaxLacks {
			x.entries = append(x.entries, overlay.BatchEntry{Expires: millis(time.Now().Add(time.Hour)), ID: overlay.RecordID{byte(i), byte(j), byte(j >> 8)}, Why: overlay.WhyTrimmed})
			e := &x.entries[j]
			x.state.Hash = overlay.Chain(x.state.Hash, e.Expires, e.ID)
			x.marks = append(x.marks, overlay.Mark{Seq: uint64(j + 1), Hash: x.state.Hash})
		}
		st, err := rig.pillar.Apply(t.Context(), x.part(1, overlay.MaxLacks))
		if err != nil && !errors.Is(err, overlay.ErrLacks) {
			t.Fatal(err)
		}
		lacks += len(st.Lacks)
	}
	if lacks != 4*overlay.MaxLacks {
		t.Errorf("%d lacks of one pillar", lacks)
	}
}

// TestApplyTogether: whatever comes at once, in whatever order, what is told is
// there, and in the end all of it is.
func TestApplyTogether(t *testing.T) {
	rig := newPillarRig(t, newFakeMesh())
	alice, bob := rig.device(nil), rig.device(nil)
	l := newHandLog(rig)
	const n = 120
	for range n {
		l.add(overlay.BatchEntry{Raw: alice.message(bob.id())})
	}
	var wg sync.WaitGroup
	for w := range 6 {
		rnd := rand.New(rand.NewPCG(1, uint64(w)))
		wg.Go(func() {
			for range 60 {
				from := 1 + rnd.Uint64N(n)
				to := min(n, from+rnd.Uint64N(20))
				switch rnd.IntN(12) {
				case 0:
					if err := rig.pillar.Drop(t.Context(), l.state.Log); err != nil {
						t.Error(err)
					}
				case 1:
					if _, err := rig.pillar.Take(t.Context(), overlay.ViaAudit, l.raws(from, to)); err != nil {
						t.Error(err)
					}
				case 2:
					if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
						t.Error(err)
					}
				case 3, 4:
					_, err := rig.pillar.Apply(t.Context(), l.part(from, to, from))
					if errors.Is(err, overlay.ErrConflict) || errors.Is(err, overlay.ErrChain) {
						t.Error(err)
					}
				default:
					_, err := rig.pillar.Apply(t.Context(), l.part(from, to))
					if errors.Is(err, overlay.ErrConflict) || errors.Is(err, overlay.ErrChain) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if st := l.apply(1, n); st.Position != l.state.Position || len(st.Lacks) != 0 || len(st.Islands) != 0 {
		t.Fatalf("at %d with %d lacks, islands %v", st.Seq, len(st.Lacks), st.Islands)
	}
	all := readAll(t, rig.pillar, l.state.Log)
	for i := range all {
		if !bytes.Equal(all[i].Raw, l.entries[i].Raw) {
			t.Fatalf("entry %d is another, or has no record", i+1)
		}
	}
	got, _ := bob.session().resume(overlay.BoxMail, nil, false)
	if len(all) != n || len(got) != n {
		t.Fatalf("%d entries, %d records in the mailbox", len(all), len(got))
	}
	if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
		t.Fatal(err)
	}
	if st := l.held(); st.Position != l.state.Position || len(st.Lacks) != 0 {
		t.Fatalf("a scrub found something: at %d, %d lacks", st.Seq, len(st.Lacks))
	}
}
