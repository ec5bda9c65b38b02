package storetest

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

// What a scrub asks of a store.

func testNear(t *testing.T, s overlay.Store) {
	var as []overlay.Arrival
	for n := range 600 {
		as = append(as, Arrival(n, n%2, 10, Box(n%3)))
	}
	add(t, s, as...)
	view(t, s, func(v overlay.View) {
		for _, prefix := range [][]byte{nil, as[0].ID[:1], as[7].ID[:2], as[7].ID[:], {0xff}, bytes.Repeat([]byte{0xff}, 32)} {
			for day := range 3 {
				var want, got []overlay.RecordID
				for _, a := range as {
					if overlay.DayOf(a.Expires) == FirstDay+overlay.Day(day) && bytes.HasPrefix(a.ID[:], prefix) {
						want = append(want, a.ID)
					}
				}
				slices.SortFunc(want, func(a, b overlay.RecordID) int { return bytes.Compare(a[:], b[:]) })
				ok(t, v.Near(FirstDay+overlay.Day(day), prefix, func(r overlay.StoredRecord) bool {
					if r.Raw != nil || r.Local == 0 {
						t.Fatalf("Near gave %+v", r)
					}
					got = append(got, r.ID)
					return true
				}))
				equal(t, "near", got, want)
			}
		}
		calls := 0
		ok(t, v.Near(FirstDay, nil, func(overlay.StoredRecord) bool { calls++; return calls < 3 }))
		equal(t, "calls until stop", calls, 3)
	})
}

func testCutLog(t *testing.T, s overlay.Store) {
	es := make([]overlay.LogEntry, 10)
	for i := range es {
		es[i] = overlay.LogEntry{Expires: uint64(i + 1)}
	}
	commit(t, s, &overlay.Commit{Logs: []overlay.LogAppend{{Log: Log(1), From: 1, Entries: es}, {Log: Log(2), From: 1, Entries: es}}})
	gone := overlay.LogEntry{Expires: 99, Why: overlay.WhyGone}
	commit(t, s, &overlay.Commit{
		CutLog: []overlay.LogCut{{Log: Log(1), From: 3, To: 6}, {Log: Log(1), From: 10, To: math.MaxUint64}, {Log: Log(3), From: 1, To: 5}},
		Logs:   []overlay.LogAppend{{Log: Log(1), From: 6, Entries: []overlay.LogEntry{gone}}},
	})
	view(t, s, func(v overlay.View) {
		var seqs []uint64
		for _, e := range entries(t, v, Log(1), 0) {
			seqs = append(seqs, e.Seq)
			if e.Seq == 6 {
				equal(t, "written with the cut", e.LogEntry, gone)
			}
		}
		equal(t, "left", seqs, []uint64{1, 2, 6, 7, 8, 9})
		equal(t, "another log", len(entries(t, v, Log(2), 0)), 10)
	})
}

func testForget(t *testing.T, s overlay.Store) {
	as := []overlay.Arrival{Arrival(0, 0, 10, Box(1)), Arrival(1, 0, 20, Box(1), Box(2)), Arrival(2, 0, 30), Arrival(3, 1, 40, Box(2))}
	add(t, s, as...)
	old := s.View()
	defer old.Close()
	of := func(n int, boxes ...overlay.BoxID) overlay.Forgotten {
		return overlay.Forgotten{ID: as[n].ID, Day: overlay.DayOf(as[n].Expires), Local: uint64(n + 1), Boxes: boxes}
	}
	wrong, older, rest := of(3), of(3), of(3)
	wrong.Day--
	older.Local--
	rest.Local = 0 // what is left of one, and this one is whole
	none := overlay.Forgotten{ID: RecordID(77), Day: FirstDay}
	done := commit(t, s, &overlay.Commit{Forget: []overlay.Forgotten{of(0), of(1, Box(1), Box(2)), of(2), wrong, older, rest, none}})
	equal(t, "forgotten", done.Forgotten, []bool{true, true, true, false, false, false, false})
	equal(t, "records", s.Stats().Records, uint64(1))
	view(t, s, func(v overlay.View) {
		equal(t, "left", len(get(t, v, overlay.Ref{ID: as[0].ID}, overlay.Ref{ID: as[1].ID}, overlay.Ref{ID: as[2].ID}, overlay.Ref{ID: as[3].ID})), 1)
		equal(t, "box 1", len(box(t, v, Box(1), 0, math.MaxUint64, 0, true)), 0)
		equal(t, "box 2", locals(box(t, v, Box(2), 0, math.MaxUint64, 0, true)), []uint64{4})
		equal(t, "listed", len(records(t, v, 0)), 1)
	})
	equal(t, "in an older view", len(get(t, old, overlay.Ref{ID: as[0].ID}, overlay.Ref{ID: as[2].ID})), 2)
	// What is forgotten may come again, in the same commit too.
	done = commit(t, s, &overlay.Commit{Forget: []overlay.Forgotten{of(3)}, Records: []overlay.Arrival{as[3], as[0]}})
	equal(t, "new", done.New, []bool{true, true})
	equal(t, "local", done.Local, []uint64{5, 6})
	equal(t, "records", s.Stats().Records, uint64(2))
	view(t, s, func(v overlay.View) {
		equal(t, "box 2", locals(box(t, v, Box(2), 0, math.MaxUint64, 0, true)), []uint64{5})
		equal(t, "bytes", get(t, v, overlay.Ref{ID: as[3].ID})[0].Raw, as[3].Raw)
	})
}

// testUnfile: with the box entry that has them go a record's bytes. What is
// stored again is whole, and new.
func testUnfile(t *testing.T, s overlay.Store) {
	a, b := Arrival(0, 0, 10, Box(1), Box(2)), Arrival(1, 0, 20, Box(1), Box(3))
	add(t, s, a, b)
	day := overlay.DayOf(a.Expires)
	ref := overlay.Ref{ID: a.ID, Day: day}
	commit(t, s, &overlay.Commit{Unfile: []overlay.Place{
		{Day: day, Box: Box(1), Local: 1}, {Day: day, Box: Box(3), Local: 2}, {Day: day, Box: Box(3), Local: 9}, {Day: day + 1, Box: Box(1), Local: 2}}})
	view(t, s, func(v overlay.View) {
		equal(t, "box 1", locals(box(t, v, Box(1), 0, math.MaxUint64, 0, true)), []uint64{2})
		equal(t, "box 2, with bytes", len(box(t, v, Box(2), 0, math.MaxUint64, 0, true)), 0)
		equal(t, "box 2", len(box(t, v, Box(2), 0, math.MaxUint64, 0, false)), 1)
		equal(t, "box 3", len(box(t, v, Box(3), 0, math.MaxUint64, 0, false)), 0)
		filed, err := v.Parts().Filed([]overlay.Place{{Day: day, Box: Box(1), Local: 1}, {Day: day, Box: Box(1), Local: 2}, {Day: day, Box: Box(3), Local: 2}, {Day: day + 1, Box: Box(2), Local: 1}})
		ok(t, err)
		equal(t, "filed", filed, []bool{false, true, false, false})
		has, err := v.Has([]overlay.Ref{ref})
		ok(t, err)
		equal(t, "counted", has, []bool{true})
		equal(t, "with bytes", len(get(t, v, ref)), 0)
	})
	dot := a
	dot.Raw, dot.Boxes, dot.Dot = nil, nil, overlay.Dot{Log: Log(9), Seq: 1}
	unknown := dot
	unknown.ID = RecordID(77)
	done := commit(t, s, &overlay.Commit{Records: []overlay.Arrival{dot, unknown}})
	equal(t, "a dot makes nothing new", done.New, []bool{false, false})
	done = commit(t, s, &overlay.Commit{Records: []overlay.Arrival{a, b}})
	equal(t, "new", done.New, []bool{true, false})
	equal(t, "again", done.Again, []int{0})
	equal(t, "local", done.Local, []uint64{3, 2})
	equal(t, "records", s.Stats().Records, uint64(2))
	view(t, s, func(v overlay.View) {
		equal(t, "bytes", get(t, v, ref)[0].Raw, a.Raw)
		equal(t, "box 1", locals(box(t, v, Box(1), 0, math.MaxUint64, 0, true)), []uint64{2, 3})
		es := box(t, v, Box(2), 0, math.MaxUint64, 0, true)
		equal(t, "box 2", es[len(es)-1].Local, uint64(3))
	})
	// Filed anew, in one commit: at a new place in every box.
	done = commit(t, s, &overlay.Commit{
		Forget:  []overlay.Forgotten{{ID: b.ID, Day: day, Local: 2, Boxes: b.Boxes}},
		Records: []overlay.Arrival{b}})
	equal(t, "filed anew", done.Local, []uint64{4})
	view(t, s, func(v overlay.View) {
		equal(t, "box 1", locals(box(t, v, Box(1), 0, math.MaxUint64, 0, true)), []uint64{3, 4})
		equal(t, "box 3", locals(box(t, v, Box(3), 0, math.MaxUint64, 0, true)), []uint64{4})
	})
	// Nor does a dot of what is forgotten with it leave anything behind.
	dot.ID, dot.Expires = b.ID, b.Expires
	done = commit(t, s, &overlay.Commit{
		Forget:  []overlay.Forgotten{{ID: b.ID, Day: day, Local: 4, Boxes: b.Boxes}},
		Records: []overlay.Arrival{dot}})
	equal(t, "a dot of what is forgotten", done.New, []bool{false})
	equal(t, "records", s.Stats().Records, uint64(1))
}

func testParts(t *testing.T, s overlay.Store) {
	var as []overlay.Arrival
	for n := range 60 {
		boxes := []overlay.BoxID{Box(n % 4), Box(4)}
		if n%3 == 0 {
			boxes = nil
		}
		as = append(as, Arrival(n, n%2*5, 30, boxes...))
	}
	add(t, s, as...)
	commit(t, s, &overlay.Commit{Logs: []overlay.LogAppend{
		{Log: Log(3), From: 9, Entries: make([]overlay.LogEntry, 2)}, {Log: Log(255), From: 1, Entries: make([]overlay.LogEntry, 3)}, {Log: Log(0), From: 1, Entries: make([]overlay.LogEntry, 1)}}})
	view(t, s, func(v overlay.View) {
		parts := v.Parts()
		days, err := parts.Days()
		ok(t, err)
		equal(t, "days", days, []overlay.Day{FirstDay, FirstDay + 5})
		var logs []overlay.LogID
		ok(t, parts.Logs(func(log overlay.LogID) bool { logs = append(logs, log); return true }))
		equal(t, "logs", logs, []overlay.LogID{Log(0), Log(3), Log(255)})
		heads, bodies, places, whole := 0, 0, 0, 0
		for _, day := range append(days, FirstDay+1) {
			// In small steps, each going on behind the last.
			var after overlay.RecordID
			for n := 1; n > 0; {
				n = 0
				ok(t, parts.Heads(day, after, func(r overlay.StoredRecord) bool {
					if n++; bytes.Compare(r.ID[:], after[:]) <= 0 || r.Raw != nil || overlay.DayOf(r.Expires) != day {
						t.Fatalf("head %+v after %s", r, after)
					}
					after = r.ID
					return n < 7
				}))
				heads += n
			}
			after = overlay.RecordID{}
			for n := 1; n > 0; {
				n = 0
				ok(t, parts.Bodies(day, after, func(id overlay.RecordID, raw []byte) bool {
					n++
					after = id
					r := get(t, v, overlay.Ref{ID: id, Day: day})[0]
					equal(t, "body", raw, r.Raw)
					return n < 7
				}))
				bodies += n
			}
			var at overlay.Place
			for n := 1; n > 0; {
				n = 0
				ok(t, parts.Places(day, at, func(p overlay.Place, e overlay.BoxEntry) bool {
					n++
					if c := bytes.Compare(p.Box[:], at.Box[:]); c < 0 || c == 0 && p.Local <= at.Local || p.Day != day || e.Local != p.Local {
						t.Fatalf("place %+v after %+v", p, at)
					}
					at = p
					locals, err := parts.Locals([]overlay.Ref{{ID: e.ID, Day: day}})
					ok(t, err)
					equal(t, "local", locals, []uint64{p.Local})
					if e.Raw != nil {
						whole++
						equal(t, "bytes", e.Raw, get(t, v, overlay.Ref{ID: e.ID})[0].Raw)
					}
					return n < 7
				}))
				places += n
			}
		}
		equal(t, "heads, bodies, places, of them with bytes", []int{heads, bodies, places, whole}, []int{60, 20, 80, 40})
		locals, err := parts.Locals([]overlay.Ref{{ID: RecordID(77), Day: FirstDay}, {ID: as[3].ID, Day: overlay.DayOf(as[3].Expires)}})
		ok(t, err)
		equal(t, "locals", locals, []uint64{0, 4})
	})
}
