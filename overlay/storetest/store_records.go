package storetest

import (
	"bytes"
	"math"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

func testEmpty(t *testing.T, s overlay.Store) {
	view(t, s, func(v overlay.View) {
		equal(t, "last local", v.LastLocal(), uint64(0))
		equal(t, "records", len(get(t, v, overlay.Ref{ID: RecordID(1)}, overlay.Ref{ID: RecordID(1), Day: FirstDay})), 0)
		equal(t, "box", len(box(t, v, Box(1), 0, math.MaxUint64, 0, true)), 0)
		equal(t, "log", len(entries(t, v, Log(1), 0)), 0)
		equal(t, "values", len(values(t, v, "")), 0)
		equal(t, "scan", len(records(t, v, 0)), 0)
	})
	ok(t, s.Drop(FirstDay))
	done := commit(t, s, &overlay.Commit{})
	equal(t, "empty commit", len(done.Local)+len(done.New), 0)
	st := s.Stats()
	equal(t, "stats", []uint64{st.Records, st.LastLocal}, []uint64{0, 0})
	ok(t, st.Failed)
}

func testGet(t *testing.T, s overlay.Store) {
	a, b := Arrival(1, 0, 700, Box(1)), Arrival(2, 5, 0, Box(2))
	b.Via, b.Dot = overlay.ViaAudit, overlay.Dot{}
	done := add(t, s, a, b)
	equal(t, "locals", done.Local, []uint64{1, 2})
	equal(t, "new", done.New, []bool{true, true})

	day := func(a overlay.Arrival) overlay.Day { return overlay.DayOf(a.Expires) }
	refs := []overlay.Ref{
		{ID: b.ID, Day: day(b)},
		{ID: RecordID(3)},
		{ID: a.ID},
		{ID: a.ID, Day: day(b)}, // not there
		{ID: a.ID, Day: day(a)},
		{ID: b.ID},
		{ID: RecordID(3), Day: day(a)},
	}
	wantA := overlay.StoredRecord{
		ID: a.ID, Local: 1, Created: a.Created, Expires: a.Expires, Received: now,
		Via: overlay.ViaSubmit, Dots: []overlay.Dot{a.Dot}, Raw: a.Raw,
	}
	view(t, s, func(v overlay.View) {
		got := get(t, v, refs...)
		equal(t, "found", len(got), 4)
		equal(t, "a by day", got[4], wantA)
		equal(t, "a by search", got[2], wantA)
		for _, i := range []int{0, 5} {
			r := got[i]
			if r.ID != b.ID || r.Local != 2 || r.Via != overlay.ViaAudit || len(r.Dots) != 0 || len(r.Raw) != 0 ||
				!r.Received.Equal(now) || r.Created != b.Created || r.Expires != b.Expires {
				t.Fatalf("b: got %+v", r)
			}
		}
		has, err := v.Has(refs)
		ok(t, err)
		equal(t, "has", has, []bool{true, false, true, false, true, true, false})
		calls := 0
		ok(t, v.Get(refs, func(int, overlay.StoredRecord) bool { calls++; return false }))
		equal(t, "calls after stop", calls, 1)
		equal(t, "last local", v.LastLocal(), uint64(2))
		// A read inside a callback leaves the outer one alone.
		ok(t, v.Get(refs[4:], func(i int, r overlay.StoredRecord) bool {
			if i == 0 {
				get(t, v, refs[0])
				equal(t, "bytes after an inner read", bytes.Clone(r.Raw), a.Raw)
			}
			return true
		}))
	})
	equal(t, "records", s.Stats().Records, uint64(2))
}

func testWithoutBox(t *testing.T, s overlay.Store) {
	a := Arrival(1, 0, 300)
	add(t, s, a)
	r, found := getOne(t, s, 1)
	equal(t, "found", found, true)
	equal(t, "raw", r.Raw, a.Raw)
	again := Arrival(1, 0, 5, Box(1)) // boxes of a duplicate count for nothing
	again.Dot.Seq = 77
	equal(t, "new", add(t, s, again).New, []bool{false})
	r, _ = getOne(t, s, 1)
	equal(t, "raw", r.Raw, a.Raw)
	equal(t, "dots", r.Dots, []overlay.Dot{a.Dot, again.Dot})
	view(t, s, func(v overlay.View) {
		equal(t, "box", len(box(t, v, Box(1), 0, math.MaxUint64, 0, false)), 0)
	})
}

func testDuplicates(t *testing.T, s overlay.Store) {
	a := Arrival(1, 2, 100, Box(1))
	add(t, s, a)
	again := Arrival(1, 2, 40, Box(2))
	again.Via, again.Dot, again.Created = overlay.ViaFollow, overlay.Dot{Log: Log(9), Seq: 3}, 7
	done := commit(t, s, &overlay.Commit{Time: now.AddDate(0, 0, 1), Records: []overlay.Arrival{
		Arrival(2, 2, 10, Box(1)), again, Arrival(3, 1, 10, Box(2)),
	}})
	equal(t, "locals", done.Local, []uint64{2, 1, 3})
	equal(t, "new", done.New, []bool{true, false, true})
	r, _ := getOne(t, s, 1)
	equal(t, "first stays", r, overlay.StoredRecord{
		ID: a.ID, Local: 1, Created: a.Created, Expires: a.Expires, Received: now,
		Via: a.Via, Dots: []overlay.Dot{a.Dot, again.Dot}, Raw: a.Raw,
	})
	view(t, s, func(v overlay.View) {
		equal(t, "box 1", locals(box(t, v, Box(1), 0, math.MaxUint64, 0, false)), []uint64{1, 2})
		equal(t, "box 2", locals(box(t, v, Box(2), 0, math.MaxUint64, 0, false)), []uint64{3})
	})
	equal(t, "records", s.Stats().Records, uint64(3))
}

func testDots(t *testing.T, s overlay.Store) {
	a := Arrival(1, 0, 10, Box(1))
	a.Dot = overlay.Dot{}
	a.Via = overlay.ViaAudit
	add(t, s, a)
	var want []overlay.Dot
	for i := range overlay.MaxDots + 3 {
		a.Dot = overlay.Dot{Log: Log(i), Seq: uint64(i)}
		if i == 0 {
			a.Dot.Seq = math.MaxUint64
		}
		if len(want) < overlay.MaxDots {
			want = append(want, a.Dot)
		}
		for range 2 { // the second time changes nothing
			equal(t, "local", add(t, s, a).Local, []uint64{1})
		}
		r, _ := getOne(t, s, 1)
		equal(t, "dots", r.Dots, want)
	}
	a.Dot = overlay.Dot{}
	add(t, s, a)
	view(t, s, func(v overlay.View) {
		equal(t, "dots in a scan", records(t, v, 0)[0].Dots, want)
		es := box(t, v, Box(1), 0, math.MaxUint64, 0, false)
		equal(t, "box entries", len(es), 1)
		equal(t, "dot of a box entry is the one it came by", es[0].Dot, overlay.Dot{})
	})
}

func testRefused(t *testing.T, s overlay.Store) {
	for name, c := range map[string]*overlay.Commit{
		"a record twice": {Records: []overlay.Arrival{Arrival(1, 0, 1), Arrival(2, 0, 1), Arrival(1, 0, 1)}},
		"a long key":     {Values: []overlay.Value{{Key: string(make([]byte, 65)), Data: []byte{1}}}},
		"a long value":   {Values: []overlay.Value{{Key: "k", Data: make([]byte, 64<<10+1)}}},
	} {
		if _, err := s.Commit(c); err == nil {
			t.Fatalf("%s was taken", name)
		}
	}
	ok(t, s.Stats().Failed)
	equal(t, "the next commit", add(t, s, Arrival(1, 0, 1)).Local, []uint64{1})
}

func testRecords(t *testing.T, s overlay.Store) {
	var as []overlay.Arrival
	for n := range 50 {
		as = append(as, Arrival(n, n%5, 20, Box(n%3)))
	}
	add(t, s, as...)
	view(t, s, func(v overlay.View) {
		rs := records(t, v, 0)
		equal(t, "all", len(rs), 50)
		for i, r := range rs[1:] {
			p := rs[i]
			dp, dr := overlay.DayOf(p.Expires), overlay.DayOf(r.Expires)
			if dp > dr || dp == dr && bytes.Compare(p.ID[:], r.ID[:]) >= 0 {
				t.Fatalf("day %d, %s before day %d, %s", dp, p.ID, dr, r.ID)
			}
		}
		equal(t, "from a day on", len(records(t, v, FirstDay+3)), 20)
		equal(t, "after the last", len(records(t, v, FirstDay+5)), 0)
		calls := 0
		ok(t, v.Records(0, func(overlay.Day, overlay.StoredRecord) bool { calls++; return calls < 15 }))
		equal(t, "calls until stop", calls, 15)
	})
}

func testDrop(t *testing.T, s overlay.Store) {
	for n := range 40 {
		commit(t, s, &overlay.Commit{
			Records: []overlay.Arrival{Arrival(n, n%4, 50, Box(1), Box(2)), Arrival(100+n, n%4, 50)},
			Logs:    []overlay.LogAppend{{Log: Log(1), From: uint64(n + 1), Entries: []overlay.LogEntry{{ID: RecordID(n)}}}},
			Values:  []overlay.Value{{Key: "k", Data: []byte("v")}},
		})
	}
	before := s.View()
	ok(t, s.Drop(FirstDay+2))
	ok(t, s.Drop(FirstDay+2)) // again: nothing left to do
	ok(t, s.Drop(FirstDay))
	equal(t, "records", s.Stats().Records, uint64(40))
	equal(t, "last local", s.Stats().LastLocal, uint64(80))
	view(t, s, func(v overlay.View) {
		equal(t, "scan", len(records(t, v, 0)), 40)
		for _, b := range []overlay.BoxID{Box(1), Box(2)} {
			es := box(t, v, b, 0, math.MaxUint64, 0, true)
			equal(t, "box", len(es), 20)
			for _, e := range es {
				if overlay.DayOf(e.Expires) < FirstDay+2 {
					t.Fatalf("day %d is still there", overlay.DayOf(e.Expires))
				}
			}
		}
		has, err := v.Has([]overlay.Ref{{ID: RecordID(0)}, {ID: RecordID(1), Day: FirstDay + 1}, {ID: RecordID(2)}, {ID: RecordID(103)}})
		ok(t, err)
		equal(t, "has", has, []bool{false, false, true, true})
		equal(t, "log entries stay", len(entries(t, v, Log(1), 0)), 40)
		equal(t, "values stay", values(t, v, ""), []string{"k=v"})
	})
	equal(t, "older view", len(records(t, before, 0)), 80)
	equal(t, "older view's box", len(box(t, before, Box(2), 0, math.MaxUint64, 0, true)), 40)
	ok(t, before.Close())

	// What was dropped may come again, and is new.
	done := add(t, s, Arrival(0, 0, 50, Box(1)))
	equal(t, "local", done.Local, []uint64{81})
	equal(t, "new", done.New, []bool{true})
	equal(t, "records", s.Stats().Records, uint64(41))
	ok(t, s.Drop(FirstDay+100))
	view(t, s, func(v overlay.View) {
		equal(t, "scan", len(records(t, v, 0)), 0)
		equal(t, "last local", v.LastLocal(), uint64(81))
	})
	equal(t, "local after everything was dropped", add(t, s, Arrival(0, 0, 50)).Local, []uint64{82})
	equal(t, "records", s.Stats().Records, uint64(1))
}
