// Package storetest is the conformance suite of overlay.Store and
// overlay.Table. Every implementation runs it in its own tests:
//
//	storetest.Store(t, func(t *testing.T) overlay.Store { return store.NewMemory() })
//
// It is not for production code.
package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// FirstDay is the expiry day most of the suite's records start from.
const FirstDay overlay.Day = 20_000

// Store runs the suite against stores made by open, each empty. The suite
// closes them.
func Store(t *testing.T, open func(t *testing.T) overlay.Store) {
	for _, c := range []struct {
		name string
		fn   func(*testing.T, overlay.Store)
	}{
		{"empty", testEmpty},
		{"get", testGet},
		{"without box", testWithoutBox},
		{"duplicates", testDuplicates},
		{"dots", testDots},
		{"refused commits", testRefused},
		{"box order", testBoxOrder},
		{"box bounds", testBoxBounds},
		{"shared bodies", testSharedBodies},
		{"logs", testLogs},
		{"values", testValues},
		{"records", testRecords},
		{"drop", testDrop},
		{"near", testNear},
		{"cut logs", testCutLog},
		{"forget", testForget},
		{"unfile", testUnfile},
		{"parts", testParts},
		{"snapshots", testSnapshots},
		{"big commits", testBigCommits},
		{"concurrent", testConcurrent},
		{"closed", testClosed},
		{"buffers", testBuffers},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer func() { ok(t, s.Close()) }()
			c.fn(t, s)
		})
	}
}

// Persistence runs the part of the suite that closes a store and opens it
// again. dir prepares an empty place and returns what opens the store there.
func Persistence(t *testing.T, dir func(t *testing.T) (open func() overlay.Store)) {
	t.Run("reopen", func(t *testing.T) { testReopen(t, dir(t)) })
	t.Run("local sequences never repeat", func(t *testing.T) { testLocalAfterDrop(t, dir(t)) })
}

// Arrival returns record number n: its ID, bytes and dot follow from n, its
// expiry day is FirstDay + day, its bytes are size long.
func Arrival(n, day, size int, boxes ...overlay.BoxID) overlay.Arrival {
	expires := uint64(FirstDay+overlay.Day(day))*overlay.DayMillis + uint64(n%1000)
	raw := make([]byte, size)
	for i := range raw {
		raw[i] = byte(n + i*31)
	}
	return overlay.Arrival{
		ID: RecordID(n), Created: expires - 3*overlay.DayMillis, Expires: expires, Raw: raw, Boxes: boxes,
		Dot: overlay.Dot{Log: Log(1), Seq: uint64(n) + 1}, Via: overlay.ViaSubmit,
	}
}

// RecordID returns the ID of Arrival(n, …).
func RecordID(n int) overlay.RecordID {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// Box returns a box by number.
func Box(n int) overlay.BoxID { return overlay.BoxID{0: byte(n), 15: 0xff} }

// Log returns a log by number.
func Log(n int) overlay.LogID { return overlay.LogID{0: byte(n), 15: 0xff} }

var now = time.UnixMilli(1_800_000_000_123).UTC()

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func commit(t testing.TB, s overlay.Store, c *overlay.Commit) overlay.Committed {
	t.Helper()
	if c.Time.IsZero() {
		c.Time = now
	}
	done, err := s.Commit(c)
	ok(t, err)
	return done
}

func add(t testing.TB, s overlay.Store, as ...overlay.Arrival) overlay.Committed {
	t.Helper()
	return commit(t, s, &overlay.Commit{Records: as})
}

// view runs fn with a fresh view.
func view(t testing.TB, s overlay.Store, fn func(v overlay.View)) {
	t.Helper()
	v := s.View()
	fn(v)
	ok(t, v.Close())
}

// get returns what Get gives, keeping nothing of the view's memory.
func get(t testing.TB, v overlay.View, refs ...overlay.Ref) map[int]overlay.StoredRecord {
	t.Helper()
	got := make(map[int]overlay.StoredRecord)
	last := -1
	ok(t, v.Get(refs, func(i int, r overlay.StoredRecord) bool {
		if i <= last {
			t.Fatalf("Get gave ref %d after %d", i, last)
		}
		last = i
		got[i] = keep(r)
		return true
	}))
	return got
}

func keep(r overlay.StoredRecord) overlay.StoredRecord {
	r.Raw = bytes.Clone(r.Raw)
	r.Dots = slices.Clone(r.Dots)
	return r
}

func getOne(t testing.TB, s overlay.Store, n int) (r overlay.StoredRecord, found bool) {
	t.Helper()
	view(t, s, func(v overlay.View) { r, found = get(t, v, overlay.Ref{ID: RecordID(n)})[0] })
	return r, found
}

// box returns what Box gives.
func box(t testing.TB, v overlay.View, b overlay.BoxID, after, to uint64, min overlay.Day, bodies bool) (es []overlay.BoxEntry) {
	t.Helper()
	ok(t, v.Box(b, after, to, min, bodies, func(e overlay.BoxEntry) bool {
		if !bodies && e.Raw != nil {
			t.Fatal("Box gave bytes that were not asked for")
		}
		e.Raw = bytes.Clone(e.Raw)
		es = append(es, e)
		return true
	}))
	return es
}

func locals(es []overlay.BoxEntry) (ls []uint64) {
	for _, e := range es {
		ls = append(ls, e.Local)
	}
	return ls
}

type logged struct {
	Seq uint64
	overlay.LogEntry
}

func entries(t testing.TB, v overlay.View, log overlay.LogID, from uint64) (es []logged) {
	t.Helper()
	ok(t, v.Log(log, from, func(seq uint64, e overlay.LogEntry) bool {
		es = append(es, logged{seq, e})
		return true
	}))
	return es
}

func values(t testing.TB, v overlay.View, prefix string) (vs []string) {
	t.Helper()
	ok(t, v.Values(prefix, func(key string, data []byte) bool {
		vs = append(vs, fmt.Sprintf("%s=%s", key, data))
		return true
	}))
	return vs
}

func records(t testing.TB, v overlay.View, min overlay.Day) (rs []overlay.StoredRecord) {
	t.Helper()
	ok(t, v.Records(min, func(day overlay.Day, r overlay.StoredRecord) bool {
		if day != overlay.DayOf(r.Expires) || r.Raw != nil {
			t.Fatalf("Records gave day %d for expiry %d, %d bytes", day, r.Expires, len(r.Raw))
		}
		rs = append(rs, keep(r))
		return true
	}))
	return rs
}

// upTo returns from, from+1 … to.
func upTo(from, to uint64) (ls []uint64) {
	for l := from; l <= to; l++ {
		ls = append(ls, l)
	}
	return ls
}
