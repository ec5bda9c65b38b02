package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

// Table runs the suite against tables made by open, each empty. The suite
// closes them.
func Table(t *testing.T, open func(t *testing.T) overlay.Table) {
	for _, c := range []struct {
		name string
		fn   func(*testing.T, overlay.Table)
	}{
		{"get and apply", testTable},
		{"scan", testTableScan},
		{"concurrent", testTableConcurrent},
		{"closed", testTableClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer func() { ok(t, s.Close()) }()
			c.fn(t, s)
		})
	}
}

// TablePersistence is the part of the suite that closes a table and opens it
// again. dir prepares an empty place and returns what opens the table there.
func TablePersistence(t *testing.T, dir func(t *testing.T) (open func() overlay.Table)) {
	open := dir(t)
	for i := range 5 {
		s := open()
		equal(t, "rows", len(scan(t, s, "", "")), i)
		apply(t, s, fmt.Sprintf("k%d", i), "v")
		ok(t, s.Close())
	}
}

// apply writes pairs of key and value; "-" deletes.
func apply(t testing.TB, s overlay.Table, kv ...string) {
	t.Helper()
	var ws []overlay.Write
	for i := 0; i < len(kv); i += 2 {
		w := overlay.Write{Key: []byte(kv[i])}
		if kv[i+1] != "-" {
			w.Data = []byte(kv[i+1])
		}
		ws = append(ws, w)
	}
	ok(t, s.Apply(ws))
	for _, w := range ws { // nothing of it is kept
		clear(w.Key)
		clear(w.Data)
	}
}

// scan returns the rows; an empty after is none.
func scan(t testing.TB, s overlay.Table, prefix, after string) (rows []string) {
	t.Helper()
	var from []byte
	if after != "" {
		from = []byte(after)
	}
	ok(t, s.Scan([]byte(prefix), from, func(k, v []byte) bool {
		rows = append(rows, fmt.Sprintf("%s=%s", k, v))
		return true
	}))
	return rows
}

func testTable(t *testing.T, s overlay.Table) {
	lookup := func(key string) []byte {
		t.Helper()
		v, err := s.Get([]byte(key))
		ok(t, err)
		return v
	}
	ok(t, s.Apply(nil))
	equal(t, "nothing", lookup("a"), []byte(nil))
	apply(t, s, "a", "1", "b", "2", "c", "", "b", "-", "d", "-", "a", "3", "d", "4")
	equal(t, "a", lookup("a"), []byte("3"))
	equal(t, "b", lookup("b"), []byte(nil))
	equal(t, "c is empty, not missing", lookup("c"), []byte{})
	equal(t, "d", lookup("d"), []byte("4"))
	clear(lookup("a")) // a copy
	equal(t, "a", lookup("a"), []byte("3"))
	large := bytes.Repeat([]byte("x"), 1<<20)
	ok(t, s.Apply([]overlay.Write{{Key: []byte("large"), Data: large}}))
	equal(t, "large", len(lookup("large")), 1<<20)
	apply(t, s, "a", "-", "large", "-")
	equal(t, "a", lookup("a"), []byte(nil))
	apply(t, s, "", "no key")
	equal(t, "the empty key", lookup(""), []byte("no key"))
	equal(t, "rows", scan(t, s, "", ""), []string{"=no key", "c=", "d=4"})
}

func testTableScan(t *testing.T, s overlay.Table) {
	apply(t, s, "a", "1", "b/", "2", "b/1", "3", "b/1\x00", "4", "b/2", "5", "b/\xff\xff", "6", "c", "7", "\xff", "8", "\xff\xff", "9")
	for _, c := range []struct {
		prefix, after string
		want          int
		first         string
	}{
		{"", "", 9, "a=1"},
		{"b/", "", 5, "b/=2"},
		{"b/", "b/", 4, "b/1=3"},
		{"b/", "b/1", 3, "b/1\x00=4"},
		{"b/", "a", 5, "b/=2"},
		{"b/", "b/\xff\xff", 0, ""},
		{"b/", "c", 0, ""},
		{"b/1", "b/1", 1, "b/1\x00=4"},
		{"\xff", "", 2, "\xff=8"},
		{"\xff", "\xff", 1, "\xff\xff=9"},
		{"", "\xff\xff", 0, ""},
		{"x", "", 0, ""},
	} {
		rows := scan(t, s, c.prefix, c.after)
		if len(rows) != c.want || c.want > 0 && rows[0] != c.first {
			t.Errorf("prefix %q after %q: got %q, want %d from %q", c.prefix, c.after, rows, c.want, c.first)
		}
	}
	calls := 0
	ok(t, s.Scan(nil, nil, func(_, _ []byte) bool { calls++; return calls < 4 }))
	equal(t, "calls until stop", calls, 4)
	// Writing while scanning, as an outbox does: the scan sees one state.
	calls = 0
	ok(t, s.Scan([]byte("b/"), nil, func(k, _ []byte) bool {
		calls++
		apply(t, s, string(k), "-", "b/3"+string(k), "new")
		return true
	}))
	equal(t, "rows while writing", calls, 5)
	equal(t, "rows afterwards", len(scan(t, s, "b/", "")), 5)
}

func testTableConcurrent(t *testing.T, s overlay.Table) {
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 25 {
				// Two rows that are always written together.
				ws := []overlay.Write{
					{Key: fmt.Appendf(nil, "%d/a", w), Data: []byte{byte(i)}},
					{Key: fmt.Appendf(nil, "%d/b", w), Data: []byte{byte(i)}},
				}
				if err := s.Apply(ws); err != nil {
					t.Error(err)
				}
				for r := range 4 {
					var seen []byte
					if err := s.Scan(fmt.Appendf(nil, "%d/", r), nil, func(_, v []byte) bool {
						seen = append(seen, v...)
						return true
					}); err != nil {
						t.Error(err)
					}
					if len(seen) == 1 || len(seen) == 2 && seen[0] != seen[1] {
						t.Errorf("half a write: %v", seen)
					}
				}
			}
		})
	}
	all.Wait()
	equal(t, "rows", len(scan(t, s, "", "")), 8)
}

func testTableClosed(t *testing.T, s overlay.Table) {
	apply(t, s, "a", "1")
	ok(t, s.Close())
	ok(t, s.Close())
	_, get := s.Get([]byte("a"))
	for _, err := range []error{
		get,
		s.Apply([]overlay.Write{{Key: []byte("a")}}),
		s.Scan(nil, nil, func(_, _ []byte) bool { return true }),
	} {
		if !errors.Is(err, overlay.ErrStoreClosed) {
			t.Errorf("got %v", err)
		}
	}
}
