package replicatest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Subject is a running pillar under test.
type Subject struct {
	Network *identity.NetworkKey
	Replica gossip.Replica
	Records gossip.Records
	Notes   gossip.Notes
	// Submit has records accepted as if nodes had sent them, and returns when
	// they are durable.
	Submit func(raws ...[]byte)
}

// Run checks that what open returns is a Replica, Records and Notes. open
// starts a fresh pillar that tells mesh of its commits.
func Run(t *testing.T, open func(t *testing.T, mesh overlay.Mesh) Subject) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Subject, m *recorder)
	}{
		{"apply", testApply},
		{"apply again", testApplyAgain},
		{"islands", testIslands},
		{"island limit", testIslandLimit},
		{"conflicts", testConflict},
		{"gone runs", testGone},
		{"lacks", testLacks},
		{"lack limit", testLackLimit},
		{"void bytes", testVoidBytes},
		{"broken signatures", testBrokenSignature},
		{"drop", testDropLog},
		{"drop the own log", testDropOwn},
		{"take", testTake},
		{"near", testNear},
		{"trace", testTrace},
		{"void entries", testVoid},
		{"bodiless entries", testBodiless},
		{"submit", testSubmit},
		{"records", testRecords},
		{"notes", testNotes},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &recorder{}
			c.test(t, open(t, m), m)
		})
	}
}

// recorder is the Mesh of a Subject.
type recorder struct {
	overlay.NoMesh
	mu     sync.Mutex
	events []*overlay.CommitEvent
}

func (r *recorder) Committed(c *overlay.CommitEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, c)
}

// runOf returns all that was told of a log, and how many records were new.
func (r *recorder) runOf(t *testing.T, log overlay.LogID) (entries []overlay.BatchEntry, last overlay.LogCommit, fresh int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		fresh += len(e.New)
		for _, l := range e.Logs {
			if l.State.Log != log {
				continue
			}
			if l.From != uint64(len(entries))+1 || l.State.Seq != l.From+uint64(len(l.Entries))-1 {
				t.Fatalf("committed entries %d..%d after %d", l.From, l.State.Seq, len(entries))
			}
			entries, last = append(entries, l.Entries...), l
		}
	}
	return entries, last, fresh
}

// foreign returns a log of another pillar with n valid records.
func foreign(t *testing.T, s Subject, n int) *Log {
	t.Helper()
	l := NewLog(s.Network.ID(), identity.NewPillarKey())
	l.Add(t, NewAuthor(t, s.Network.ID(), time.Now).Messages(t, n)...)
	return l
}

func apply(t *testing.T, s Subject, run overlay.LogRun) overlay.LogState {
	t.Helper()
	state, err := s.Replica.Apply(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// read returns a whole log by small steps.
func read(t *testing.T, s Subject, log overlay.LogID) (entries []overlay.BatchEntry) {
	t.Helper()
	for {
		part, err := s.Replica.Read(log, uint64(len(entries))+1, 500)
		if err != nil {
			t.Fatal(err)
		}
		if len(part) == 0 {
			return entries
		}
		entries = append(entries, part...)
	}
}

func stateOf(t *testing.T, s Subject, log overlay.LogID) overlay.LogState {
	t.Helper()
	for _, st := range s.Replica.Logs() {
		if st.Log == log {
			return st
		}
	}
	t.Fatalf("log %s is not among Logs", log)
	return overlay.LogState{}
}

func testApply(t *testing.T, s Subject, m *recorder) {
	l := foreign(t, s, 20)
	if st := apply(t, s, l.Run(1, 5)); st.Seq != 5 {
		t.Fatalf("state at %d, want 5", st.Seq)
	}
	st := apply(t, s, l.Run(6, 20))
	if st.Position != l.Position() || st.Pillar != l.Key.ID() || st.Nonce != l.Nonce || st.Dies != l.dies {
		t.Fatalf("state %+v, want the log's end %+v", st, l.Position())
	}
	if st.Head == nil || st.Head.Seq != 20 {
		t.Fatalf("head %+v, want the one applied last", st.Head)
	}
	if held := stateOf(t, s, l.ID); held.Position != st.Position {
		t.Fatalf("Logs has %+v, want %+v", held.Position, st.Position)
	}
	entries := read(t, s, l.ID)
	if len(entries) != 20 {
		t.Fatalf("read %d entries, want 20", len(entries))
	}
	for i, e := range entries {
		if !bytes.Equal(e.Raw, l.Entries[i].Raw) {
			t.Fatalf("entry %d was changed", i+1)
		}
	}
	told, last, fresh := m.runOf(t, l.ID)
	if len(told) != 20 || last.Own || fresh != 20 || last.State.Position != st.Position {
		t.Fatalf("told of %d entries, %d new records, own %v", len(told), fresh, last.Own)
	}
}

func testApplyAgain(t *testing.T, s Subject, m *recorder) {
	l := foreign(t, s, 10)
	apply(t, s, l.Run(1, 6))
	if st := apply(t, s, l.Run(2, 4)); st.Seq != 6 {
		t.Fatalf("state at %d after a run that is held, want 6", st.Seq)
	}
	if st := apply(t, s, l.Run(3, 10)); st.Position != l.Position() {
		t.Fatalf("state %+v, want %+v", st.Position, l.Position())
	}
	if _, _, fresh := m.runOf(t, l.ID); fresh != 10 {
		t.Fatalf("%d new records, want 10", fresh)
	}
}

func testVoid(t *testing.T, s Subject, m *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	l := NewLog(s.Network.ID(), identity.NewPillarKey())
	bad := Unmendable(t, s.Network.ID()) // it parses, and no other signature could mend it
	l.Add(t, author.Message(t, 64, time.Hour), bad, author.Message(t, 64, time.Hour))
	if st := apply(t, s, l.Run(1, 3)); st.Position != l.Position() {
		t.Fatalf("state %+v, want %+v", st.Position, l.Position())
	}
	entries := read(t, s, l.ID)
	if len(entries) != 3 || entries[0].Raw == nil || entries[2].Raw == nil {
		t.Fatalf("the neighbours of a void entry were not kept: %d entries", len(entries))
	}
	e := entries[1]
	if e.Raw != nil || e.Why != overlay.WhyVoid || e.ID != l.Entries[1].ID || e.Expires != l.Entries[1].Expires {
		t.Fatalf("void entry reads as %+v", e)
	}
	if has, _ := s.Records.Has([]overlay.RecordID{e.ID}); has[0] {
		t.Fatal("a void record is held")
	}
	if _, _, fresh := m.runOf(t, l.ID); fresh != 2 {
		t.Fatalf("%d new records, want 2", fresh)
	}
}

func testBodiless(t *testing.T, s Subject, _ *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	l := NewLog(s.Network.ID(), identity.NewPillarKey())
	l.AddEntry(overlay.BatchEntry{Expires: uint64(time.Now().UnixMilli()) - 1, ID: overlay.RecordID{1}, Why: overlay.WhyExpired})
	l.Add(t, author.Message(t, 64, time.Hour))
	if st := apply(t, s, l.Run(1, 2)); st.Position != l.Position() {
		t.Fatalf("state %+v, want %+v", st.Position, l.Position())
	}
	if entries := read(t, s, l.ID); len(entries) != 2 || entries[0].Raw != nil || entries[0].Why != overlay.WhyExpired {
		t.Fatalf("entries %+v", entries)
	}
}

func testSubmit(t *testing.T, s Subject, m *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	before := map[overlay.LogID]bool{}
	for _, st := range s.Replica.Logs() {
		before[st.Log] = true
	}
	raws := author.Messages(t, 12)
	s.Submit(raws[:7]...)
	s.Submit(raws[7:]...)
	for _, st := range s.Replica.Logs() {
		if before[st.Log] {
			continue
		}
		entries, last, _ := m.runOf(t, st.Log)
		if !last.Own {
			t.Fatal("the own log is not told as own")
		}
		hash, have := overlay.ChainStart(st.Log), map[string]bool{}
		for _, e := range entries {
			rec, err := overlay.ParseRecord(s.Network.ID(), e.Raw)
			if err != nil {
				t.Fatal(err)
			}
			hash = overlay.Chain(hash, rec.Expires, rec.ID)
			have[string(e.Raw)] = true
		}
		if st.Hash != hash || last.State.Hash != hash || st.Log != overlay.MakeLogID(s.Network.ID(), st.Pillar, st.Nonce) {
			t.Fatalf("the chain of the own log does not end in its state")
		}
		for i, raw := range raws {
			if !have[string(raw)] {
				t.Fatalf("record %d is not in the own log", i)
			}
		}
		return
	}
	t.Fatal("no own log after a submission")
}

func testRecords(t *testing.T, s Subject, _ *recorder) {
	l := foreign(t, s, 8)
	apply(t, s, l.Run(1, 8))
	ids := make([]overlay.RecordID, 0, 9)
	for _, e := range l.Entries {
		ids = append(ids, e.ID)
	}
	ids = append(ids, overlay.RecordID{9})
	has, err := s.Records.Has(ids)
	if err != nil || !has[0] || !has[7] || has[8] {
		t.Fatalf("Has: %v, %v", has, err)
	}
	var got [][]byte
	for from := 0; from < len(ids); {
		part, next, err := s.Records.Get(ids[from:], 600)
		if err != nil || next == 0 {
			t.Fatalf("Get from %d: next %d, %v", from, next, err)
		}
		got, from = append(got, part...), from+next
	}
	if len(got) != 8 || !bytes.Equal(got[3], l.Entries[3].Raw) {
		t.Fatalf("Get returned %d records, want 8 in order", len(got))
	}
	seen := map[overlay.RecordID]uint64{}
	if err := s.Records.Each(uint64(time.Now().UnixMilli()), func(id overlay.RecordID, _, expires uint64) bool {
		seen[id] = expires
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for _, e := range l.Entries {
		if seen[e.ID] != e.Expires {
			t.Fatalf("Each: %s expires %d, want %d", e.ID, seen[e.ID], e.Expires)
		}
	}
}

func testNotes(t *testing.T, s Subject, _ *recorder) {
	ctx := context.WithoutCancel(t.Context())
	if data, err := s.Notes.LoadNote("gossip/none"); data != nil || err != nil {
		t.Fatalf("a note that is none: %x, %v", data, err)
	}
	for _, data := range [][]byte{[]byte("one"), []byte("two"), nil} {
		if err := s.Notes.SaveNote(ctx, "gossip/x", data); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Notes.LoadNote("gossip/x"); !bytes.Equal(got, data) || err != nil {
			t.Fatalf("note %q, %v, want %q", got, err, data)
		}
	}
	save := func(data ...[]byte) error {
		return s.Notes.SaveNotes(ctx, func() (notes []overlay.Value, err error) {
			for i, d := range data {
				notes = append(notes, overlay.Value{Key: "gossip/" + string(rune('a'+i)), Data: d})
			}
			if len(data) == 0 {
				err = errors.New("none")
			}
			return notes, err
		})
	}
	if err := errors.Join(save([]byte("1"), []byte("2")), save([]byte("3"), nil)); err != nil {
		t.Fatal(err)
	}
	if save() == nil {
		t.Error("no error where the notes have one")
	}
	a, errA := s.Notes.LoadNote("gossip/a")
	b, errB := s.Notes.LoadNote("gossip/b")
	if err := errors.Join(errA, errB); string(a) != "3" || b != nil || err != nil {
		t.Fatalf("notes %q and %q, %v; want 3 and none", a, b, err)
	}
}
