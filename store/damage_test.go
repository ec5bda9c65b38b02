package store_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/storetest"
)

// remove deletes keys of a closed store by hand.
func remove(t *testing.T, dir string, gone func(k []byte) bool) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if gone(it.Key()) {
			n++
			if err := db.Delete(bytes.Clone(it.Key()), pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil || n == 0 {
		t.Fatalf("%d keys removed, %v", n, err)
	}
}

func column(kind byte) func(k []byte) bool {
	return func(k []byte) bool { return k[0] == 'e' && k[5] == kind }
}

// TestDamage: whatever column is removed by hand, the store opens, counts what
// is there, reads pass over what is not whole, and what is stored again is whole.
func TestDamage(t *testing.T) {
	const n = 40
	var as []overlay.Arrival
	for i := range n {
		boxes := []overlay.BoxID{storetest.Box(1), storetest.Box(2)}
		if i%4 == 0 {
			boxes = nil
		}
		as = append(as, storetest.Arrival(i, i%3, 50, boxes...))
	}
	for _, c := range []struct {
		name    string
		gone    func(k []byte) bool
		records uint64 // counted
		whole   int    // with bytes
		box     int    // entries of a box that can be read
		fresh   int    // new when all of it is stored again
	}{
		{"heads", column('r'), 0, 0, 30, 40},
		{"boxes", column('b'), 40, 10, 0, 30},
		{"bodies", column('o'), 40, 30, 30, 10},
		{"counts", column('d'), 40, 40, 30, 0},
		{"the newest local sequence", func(k []byte) bool { return string(k) == "zlocal" }, 40, 40, 30, 0},
		{"heads and the newest local sequence", func(k []byte) bool { return column('r')(k) || string(k) == "zlocal" }, 0, 0, 30, 40},
		{"all of it", func(k []byte) bool { return k[0] == 'e' }, 0, 0, 0, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openPebble(t, dir, nil)
			if _, err := s.Commit(&overlay.Commit{Records: as}); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			remove(t, dir, c.gone)
			s = openPebble(t, dir, nil)
			defer s.Close()
			check := func(records uint64, whole, box int) {
				t.Helper()
				v := s.View()
				defer v.Close()
				var refs []overlay.Ref
				for i := range as {
					refs = append(refs, overlay.Ref{ID: as[i].ID, Day: overlay.DayOf(as[i].Expires)})
				}
				got := 0
				if err := v.Get(refs, func(i int, r overlay.StoredRecord) bool {
					if !bytes.Equal(r.Raw, as[i].Raw) {
						t.Errorf("record %d has other bytes", i)
					}
					got++
					return true
				}); err != nil {
					t.Fatal(err)
				}
				entries := 0
				for i := 1; i <= 2; i++ {
					if err := v.Box(storetest.Box(i), 0, math.MaxUint64, 0, true, func(overlay.BoxEntry) bool { entries++; return true }); err != nil {
						t.Fatal(err)
					}
				}
				if st := s.Stats(); st.Records != records || got != whole || entries != 2*box {
					t.Errorf("%d records, %d whole, %d box entries; want %d, %d and %d", st.Records, got, entries, records, whole, 2*box)
				}
			}
			check(c.records, c.whole, c.box)
			done, err := s.Commit(&overlay.Commit{Records: as})
			if err != nil {
				t.Fatal(err)
			}
			fresh := 0
			for i := range as {
				if done.New[i] {
					fresh++
					if done.Local[i] <= n && c.name != "all of it" {
						t.Errorf("local sequence %d is given out again", done.Local[i])
					}
				}
			}
			again := 0
			if c.records > 0 {
				again = c.fresh
			}
			if fresh != c.fresh || len(done.Again) != again {
				t.Errorf("%d new, want %d; %d again, want %d", fresh, c.fresh, len(done.Again), again)
			}
			box := 30
			if c.records == 0 && c.box > 0 {
				box += c.box // of the old ones, which the scrub removes
			}
			check(n, n, box)
		})
	}
}
