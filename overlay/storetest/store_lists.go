package storetest

import (
	"math"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

func testBoxOrder(t *testing.T, s overlay.Store) {
	// Local order across days that go up and down, several commits.
	for n := range 60 {
		add(t, s, Arrival(n, (n*7)%11, 30+n, Box(1)), Arrival(1000+n, n%3, 10, Box(2)))
	}
	view(t, s, func(v overlay.View) {
		for _, bodies := range []bool{false, true} {
			es := box(t, v, Box(1), 0, math.MaxUint64, 0, bodies)
			equal(t, "entries", len(es), 60)
			for n, e := range es {
				a := Arrival(n, (n*7)%11, 30+n, Box(1))
				want := overlay.BoxEntry{Local: uint64(2*n + 1), ID: a.ID, Created: a.Created, Expires: a.Expires, Dot: a.Dot}
				if bodies {
					want.Raw = a.Raw
				}
				equal(t, "entry", e, want)
			}
		}
		equal(t, "other box", len(box(t, v, Box(2), 0, math.MaxUint64, 0, false)), 60)
		equal(t, "box of nobody", len(box(t, v, Box(3), 0, math.MaxUint64, 0, false)), 0)
	})
}

func testBoxBounds(t *testing.T, s overlay.Store) {
	for n := range 20 {
		add(t, s, Arrival(n, n%4, 10, Box(1)))
	}
	view(t, s, func(v overlay.View) {
		for _, c := range []struct {
			after, to uint64
			min       overlay.Day
			want      []uint64
		}{
			{0, math.MaxUint64, 0, upTo(1, 20)},
			{0, 20, FirstDay, upTo(1, 20)},
			{0, 1, 0, upTo(1, 1)},
			{5, 9, 0, upTo(6, 9)},
			{19, 1000, 0, upTo(20, 20)},
			{20, 1000, 0, nil},
			{9, 9, 0, nil},
			{9, 5, 0, nil},
			{math.MaxUint64, math.MaxUint64, 0, nil},
			{math.MaxUint64 - 1, math.MaxUint64, 0, nil},
			{0, math.MaxUint64, FirstDay + 2, []uint64{3, 4, 7, 8, 11, 12, 15, 16, 19, 20}},
			{7, 16, FirstDay + 3, []uint64{8, 12, 16}},
			{0, math.MaxUint64, FirstDay + 4, nil},
			{0, math.MaxUint64, math.MaxUint32, nil},
		} {
			equal(t, "locals", locals(box(t, v, Box(1), c.after, c.to, c.min, true)), c.want)
		}
		calls := 0
		ok(t, v.Box(Box(1), 0, math.MaxUint64, 0, true, func(overlay.BoxEntry) bool { calls++; return calls < 3 }))
		equal(t, "calls until stop", calls, 3)
	})
}

func testSharedBodies(t *testing.T, s overlay.Store) {
	var all []overlay.BoxID
	for i := range 256 {
		all = append(all, Box(i))
	}
	a := Arrival(1, 0, 100, all...)
	b := Arrival(2, 1, 200, Box(3), Box(2), Box(3), Box(2), Box(3))
	add(t, s, a)
	add(t, s, b)
	view(t, s, func(v overlay.View) {
		for i := range 256 {
			want := []uint64{1}
			if i == 2 || i == 3 {
				want = []uint64{1, 2}
			}
			es := box(t, v, Box(i), 0, math.MaxUint64, 0, true)
			equal(t, "box", locals(es), want)
			equal(t, "bytes", es[0].Raw, a.Raw)
			if len(es) > 1 {
				equal(t, "bytes", es[1].Raw, b.Raw)
			}
		}
	})
	r, _ := getOne(t, s, 2)
	equal(t, "bytes", r.Raw, b.Raw)
}

func testLogs(t *testing.T, s overlay.Store) {
	entry := func(n int, w overlay.Why) overlay.LogEntry {
		return overlay.LogEntry{Expires: uint64(n) << 40, ID: RecordID(n), Why: w}
	}
	commit(t, s, &overlay.Commit{Logs: []overlay.LogAppend{
		{Log: Log(1), From: 1, Entries: []overlay.LogEntry{entry(1, 0), entry(2, overlay.WhyExpired), entry(3, overlay.WhyTrimmed)}},
		{Log: Log(2), From: math.MaxUint64 - 1, Entries: []overlay.LogEntry{entry(8, overlay.WhyVoid), entry(9, 0)}},
		{Log: Log(0), From: 5, Entries: nil},
	}})
	commit(t, s, &overlay.Commit{Logs: []overlay.LogAppend{
		{Log: Log(1), From: 4, Entries: []overlay.LogEntry{entry(4, 0)}},
		{Log: Log(255), From: 1, Entries: []overlay.LogEntry{entry(7, 0)}},
	}})
	old := s.View()
	view(t, s, func(v overlay.View) {
		equal(t, "log 1", entries(t, v, Log(1), 0), []logged{
			{1, entry(1, 0)}, {2, entry(2, overlay.WhyExpired)}, {3, entry(3, overlay.WhyTrimmed)}, {4, entry(4, 0)},
		})
		equal(t, "from 4", entries(t, v, Log(1), 4), []logged{{4, entry(4, 0)}})
		equal(t, "from 5", len(entries(t, v, Log(1), 5)), 0)
		equal(t, "the last sequences", entries(t, v, Log(2), 9), []logged{
			{math.MaxUint64 - 1, entry(8, overlay.WhyVoid)}, {math.MaxUint64, entry(9, 0)},
		})
		equal(t, "the last log", len(entries(t, v, Log(255), 0)), 1)
		equal(t, "an empty run", len(entries(t, v, Log(0), 0)), 0)
		calls := 0
		ok(t, v.Log(Log(1), 2, func(seq uint64, _ overlay.LogEntry) bool { calls++; return seq < 3 }))
		equal(t, "calls until stop", calls, 2)
	})
	// An entry written again is replaced; a log dropped and written in one
	// commit has what was written.
	commit(t, s, &overlay.Commit{
		Logs: []overlay.LogAppend{
			{Log: Log(1), From: 2, Entries: []overlay.LogEntry{entry(2, 0)}},
			{Log: Log(2), From: 3, Entries: []overlay.LogEntry{entry(3, 0)}},
		},
		DropLog: []overlay.LogID{Log(2), Log(255), Log(77)},
	})
	view(t, s, func(v overlay.View) {
		equal(t, "replaced", entries(t, v, Log(1), 2)[0], logged{2, entry(2, 0)})
		equal(t, "dropped and written", entries(t, v, Log(2), 0), []logged{{3, entry(3, 0)}})
		equal(t, "dropped", len(entries(t, v, Log(255), 0)), 0)
	})
	equal(t, "older view", len(entries(t, old, Log(2), 0)), 2)
	ok(t, old.Close())
}

func testValues(t *testing.T, s overlay.Store) {
	put := func(kv ...string) {
		c := &overlay.Commit{}
		for i := 0; i < len(kv); i += 2 {
			v := overlay.Value{Key: kv[i]}
			if kv[i+1] != "-" {
				v.Data = []byte(kv[i+1])
			}
			c.Values = append(c.Values, v)
		}
		commit(t, s, c)
	}
	long := string(make([]byte, 64))
	put("head/b", "2", "head/a", "1", "heae", "no", "head", "short", "head/\xff", "x", "\xff\xff", "top", long, "zeros", "empty", "")
	put("head/a", "first", "head/a", "last", "gone", "x", "gone", "-", "head/b", "-", "head/b", "back", "never", "-")
	view(t, s, func(v overlay.View) {
		equal(t, "prefix", values(t, v, "head/"), []string{"head/a=last", "head/b=back", "head/\xff=x"})
		equal(t, "prefix of all ones", values(t, v, "\xff"), []string{"\xff\xff=top"})
		equal(t, "empty value", values(t, v, "empty"), []string{"empty="})
		equal(t, "longest key", values(t, v, "\x00"), []string{long + "=zeros"})
		equal(t, "deleted", len(values(t, v, "gone")), 0)
		equal(t, "all", len(values(t, v, "")), 8)
		calls := 0
		ok(t, v.Values("head", func(string, []byte) bool { calls++; return false }))
		equal(t, "calls until stop", calls, 1)
	})
	put("head/a", "-")
	view(t, s, func(v overlay.View) {
		equal(t, "after delete", values(t, v, "head/"), []string{"head/b=back", "head/\xff=x"})
	})
}
