package storetest

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

func testSnapshots(t *testing.T, s overlay.Store) {
	type state struct {
		v overlay.View
		n int
	}
	var states []state
	for n := range 30 {
		states = append(states, state{s.View(), n})
		c := &overlay.Commit{
			Records: []overlay.Arrival{Arrival(n, n%3, 40, Box(1))},
			Logs:    []overlay.LogAppend{{Log: Log(1), From: uint64(n), Entries: []overlay.LogEntry{{}}}},
			Values:  []overlay.Value{{Key: "n", Data: []byte{byte(n)}}},
		}
		if n > 0 { // and one more place for the first record
			a := Arrival(0, 0, 40)
			a.Dot = overlay.Dot{Log: Log(2), Seq: uint64(n)}
			c.Records = append(c.Records, a)
		}
		commit(t, s, c)
	}
	ok(t, s.Drop(FirstDay+1))
	for i, st := range states {
		equal(t, "last local", st.v.LastLocal(), uint64(st.n))
		equal(t, "records", len(records(t, st.v, 0)), st.n)
		equal(t, "box", locals(box(t, st.v, Box(1), 0, math.MaxUint64, 0, true)), upTo(1, uint64(st.n)))
		equal(t, "log", len(entries(t, st.v, Log(1), 0)), st.n)
		if st.n > 0 {
			equal(t, "value", values(t, st.v, "n"), []string{"n=" + string([]byte{byte(st.n - 1)})})
			r := get(t, st.v, overlay.Ref{ID: RecordID(0)})[0]
			equal(t, "dots", len(r.Dots), min(st.n, overlay.MaxDots))
		}
		if i%2 == 0 {
			ok(t, st.v.Close())
		}
	}
	for i, st := range states {
		if i%2 == 1 {
			ok(t, st.v.Close())
		}
	}
}

func testBigCommits(t *testing.T, s overlay.Store) {
	const n = 4096
	c := &overlay.Commit{Logs: []overlay.LogAppend{{Log: Log(1), From: 1}}}
	for i := range n {
		c.Records = append(c.Records, Arrival(i, i%34, 700, Box(i%7)))
		c.Logs[0].Entries = append(c.Logs[0].Entries, overlay.LogEntry{ID: RecordID(i)})
	}
	done := commit(t, s, c)
	equal(t, "locals", done.Local, upTo(1, n))
	var large []overlay.Arrival
	for i := range 40 {
		large = append(large, Arrival(n+i, 0, 256<<10, Box(9), Box(10)))
	}
	add(t, s, large...)
	again := commit(t, s, c)
	equal(t, "locals of duplicates", again.Local, done.Local)
	equal(t, "records", s.Stats().Records, uint64(n+40))
	view(t, s, func(v overlay.View) {
		equal(t, "scan", len(records(t, v, 0)), n+40)
		total := 0
		for b := range 7 {
			total += len(box(t, v, Box(b), 0, math.MaxUint64, 0, false))
		}
		equal(t, "boxes", total, n)
		for i, e := range box(t, v, Box(10), 0, math.MaxUint64, 0, true) {
			equal(t, "bytes", e.Raw, large[i].Raw)
		}
		equal(t, "log", len(entries(t, v, Log(1), 0)), n)
	})
}

func testConcurrent(t *testing.T, s overlay.Store) {
	const writers, rounds, per = 4, 20, 8
	var writing, reading sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		writing.Go(func() {
			for r := range rounds {
				c := &overlay.Commit{Time: now}
				log := overlay.LogAppend{Log: Log(w), From: uint64(r*per) + 1}
				for i := range per {
					n := (w*rounds+r)*per + i
					c.Records = append(c.Records, Arrival(n, n%5, 64, Box(1)))
					log.Entries = append(log.Entries, overlay.LogEntry{ID: RecordID(n)})
				}
				c.Records = append(c.Records, Arrival(1_000_000+r, 6, 64)) // by all writers
				c.Logs = append(c.Logs, log)
				if _, err := s.Commit(c); err != nil {
					t.Error(err)
					return
				}
				s.Stats()
			}
		})
	}
	for range 3 {
		reading.Go(func() {
			for last := uint64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				v := s.View()
				local := v.LastLocal()
				if local < last {
					t.Errorf("last local went from %d to %d", last, local)
				}
				last = local
				// Logs, records and boxes of one view agree.
				inLogs := 0
				var refs []overlay.Ref
				for w := range writers {
					if err := v.Log(Log(w), 0, func(_ uint64, e overlay.LogEntry) bool {
						inLogs++
						refs = append(refs, overlay.Ref{ID: e.ID})
						return true
					}); err != nil {
						t.Error(err)
					}
				}
				inBox, prev := 0, uint64(0)
				if err := v.Box(Box(1), 0, math.MaxUint64, 0, true, func(e overlay.BoxEntry) bool {
					inBox++
					if e.Local <= prev || e.Local > local || len(e.Raw) != 64 {
						t.Errorf("box entry %d after %d, last local %d, %d bytes", e.Local, prev, local, len(e.Raw))
					}
					prev = e.Local
					return true
				}); err != nil {
					t.Error(err)
				}
				has, err := v.Has(refs)
				if err != nil {
					t.Error(err)
				}
				for i := range has {
					if !has[i] {
						t.Errorf("%s is in a log and not stored", refs[i].ID)
					}
				}
				if inBox != inLogs {
					t.Errorf("%d entries in logs, %d in the box", inLogs, inBox)
				}
				if err := v.Close(); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	equal(t, "records", s.Stats().Records, uint64(writers*rounds*per+rounds))
	equal(t, "last local", s.Stats().LastLocal, uint64(writers*rounds*per+rounds))
}

func testClosed(t *testing.T, s overlay.Store) {
	add(t, s, Arrival(1, 0, 10, Box(1)))
	open, closed := s.View(), s.View()
	ok(t, closed.Close())
	ok(t, closed.Close())
	reads := func(what string, v overlay.View) {
		t.Helper()
		_, has := v.Has([]overlay.Ref{{ID: RecordID(1)}})
		for _, err := range []error{
			has,
			v.Get([]overlay.Ref{{ID: RecordID(1)}}, func(int, overlay.StoredRecord) bool { return true }),
			v.Log(Log(1), 0, func(uint64, overlay.LogEntry) bool { return true }),
			v.Box(Box(1), 0, 9, 0, false, func(overlay.BoxEntry) bool { return true }),
			v.Records(0, func(overlay.Day, overlay.StoredRecord) bool { return true }),
			v.Values("", func(string, []byte) bool { return true }),
		} {
			if !errors.Is(err, overlay.ErrStoreClosed) {
				t.Errorf("%s: got %v", what, err)
			}
		}
	}
	reads("closed view", closed)
	ok(t, s.Close())
	ok(t, s.Close())
	reads("open view of a closed store", open)
	ok(t, open.Close())
	late := s.View()
	reads("view of a closed store", late)
	equal(t, "last local", late.LastLocal(), uint64(0))
	ok(t, late.Close())
	if _, err := s.Commit(&overlay.Commit{Records: []overlay.Arrival{Arrival(2, 0, 1)}}); !errors.Is(err, overlay.ErrStoreClosed) {
		t.Errorf("commit: got %v", err)
	}
	if err := s.Drop(FirstDay + 1); !errors.Is(err, overlay.ErrStoreClosed) {
		t.Errorf("drop: got %v", err)
	}
	if err := s.Stats().Failed; !errors.Is(err, overlay.ErrStoreClosed) {
		t.Errorf("stats: got %v", err)
	}
}

// testBuffers: nothing that was given to a store is kept by it.
func testBuffers(t *testing.T, s overlay.Store) {
	a := Arrival(1, 0, 100, Box(1))
	want := bytes.Clone(a.Raw)
	data := []byte("value")
	commit(t, s, &overlay.Commit{Records: []overlay.Arrival{a}, Values: []overlay.Value{{Key: "k", Data: data}}})
	clear(a.Raw)
	clear(a.Boxes)
	clear(data)
	r, _ := getOne(t, s, 1)
	equal(t, "bytes", r.Raw, want)
	view(t, s, func(v overlay.View) {
		equal(t, "values", values(t, v, ""), []string{"k=value"})
		equal(t, "box", len(box(t, v, Box(1), 0, 9, 0, true)), 1)
	})
	ok(t, s.Drop(FirstDay+1))
	view(t, s, func(v overlay.View) { equal(t, "box", len(box(t, v, Box(1), 0, 9, 0, true)), 0) })
}

func testReopen(t *testing.T, open func() overlay.Store) {
	s := open()
	for n := range 100 {
		commit(t, s, &overlay.Commit{
			Records: []overlay.Arrival{Arrival(n, n%7, 300, Box(n%3), Box(9)), Arrival(1000+n, n%7, 30)},
			Logs:    []overlay.LogAppend{{Log: Log(1), From: uint64(n + 1), Entries: []overlay.LogEntry{{ID: RecordID(n)}}}},
			Values:  []overlay.Value{{Key: "n", Data: []byte{byte(n)}}},
		})
	}
	ok(t, s.Drop(FirstDay+2))
	stats := s.Stats()
	take := func(s overlay.Store) (all []any) {
		view(t, s, func(v overlay.View) {
			all = append(all, records(t, v, 0), entries(t, v, Log(1), 0), values(t, v, ""), v.LastLocal())
			for _, b := range []int{0, 1, 2, 9} {
				all = append(all, box(t, v, Box(b), 0, math.MaxUint64, 0, true))
			}
			for n := range 100 {
				all = append(all, get(t, v, overlay.Ref{ID: RecordID(n)}, overlay.Ref{ID: RecordID(1000 + n)}))
			}
		})
		return all
	}
	want := take(s)
	ok(t, s.Close())
	for range 3 {
		s = open()
		equal(t, "content", take(s), want)
		equal(t, "records", s.Stats().Records, stats.Records)
		equal(t, "last local", s.Stats().LastLocal, stats.LastLocal)
		ok(t, s.Close())
	}
	s = open()
	equal(t, "known", add(t, s, Arrival(97, 97%7, 300)).New, []bool{false})
	equal(t, "next", add(t, s, Arrival(5000, 3, 300)).Local, []uint64{201})
	ok(t, s.Close())
}

func testLocalAfterDrop(t *testing.T, open func() overlay.Store) {
	s := open()
	add(t, s, Arrival(1, 0, 1), Arrival(2, 0, 1))
	ok(t, s.Drop(FirstDay+1))
	ok(t, s.Close())
	s = open()
	equal(t, "last local", s.Stats().LastLocal, uint64(2))
	equal(t, "next", add(t, s, Arrival(1, 0, 1)).Local, []uint64{3})
	ok(t, s.Close())
}
