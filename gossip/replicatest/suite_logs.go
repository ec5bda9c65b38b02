package replicatest

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// The part of the suite that is about logs with islands, gone runs and lacks.

// wantHeld checks which stretches of a log are held: the prefix's end, then
// after and end of every island.
func wantHeld(t *testing.T, st overlay.LogState, l *Log, prefix uint64, islands ...uint64) {
	t.Helper()
	if st.Seq != prefix || st.Hash != l.hashes[prefix] {
		t.Fatalf("prefix ends at %d, want %d", st.Seq, prefix)
	}
	if len(st.Islands) != len(islands)/2 {
		t.Fatalf("islands %v, want %v", spansOf(st.Islands), islands)
	}
	for i, isl := range st.Islands {
		if isl.After != l.Mark(islands[2*i]) || isl.End != l.Mark(islands[2*i+1]) {
			t.Fatalf("islands %v, want %v", spansOf(st.Islands), islands)
		}
	}
}

func spansOf(islands []overlay.Island) (marks []uint64) {
	for _, i := range islands {
		marks = append(marks, i.After.Seq, i.End.Seq)
	}
	return marks
}

// wantLacks checks which entries lack their record, in what Logs says.
func wantLacks(t *testing.T, s Subject, l *Log, seqs ...uint64) {
	t.Helper()
	var have []uint64
	for _, lack := range stateOf(t, s, l.ID).Lacks {
		have = append(have, lack.Seq)
		e := l.Entries[lack.Seq-1]
		if lack.ID != e.ID || lack.Expires != e.Expires || lack.Before != l.hashes[lack.Seq-1] {
			t.Fatalf("lack %+v is not of entry %d", lack, lack.Seq)
		}
	}
	if !slices.Equal(have, seqs) {
		t.Fatalf("lacks of %v, want %v", have, seqs)
	}
}

// wantRead checks what Read gives from an entry on: entries from..to, which
// are those of the log, or gone where gone says so.
func wantRead(t *testing.T, s Subject, l *Log, from, to uint64, gone ...overlay.BatchEntry) {
	t.Helper()
	for at := from; at <= to; {
		part, err := s.Replica.Read(l.ID, at, 700)
		if err != nil || len(part) == 0 {
			t.Fatalf("read from %d: %d entries, %v", at, len(part), err)
		}
		for _, e := range part {
			if e.Why == overlay.WhyGone {
				if len(gone) == 0 || e.Count != gone[0].Count || e.ID != gone[0].ID || e.Expires < gone[0].Expires {
					t.Fatalf("read a gone run of %d from %d, want %v", e.Count, at, gone)
				}
				gone = gone[1:]
			} else if want := l.Entries[at-1]; !bytes.Equal(e.Raw, want.Raw) || e.ID != want.ID && e.Raw == nil {
				t.Fatalf("entry %d is read as another", at)
			}
			at += e.Len()
		}
		if at > to+1 {
			t.Fatalf("read up to %d, past %d", at-1, to)
		}
	}
	if len(gone) > 0 {
		t.Fatalf("gone runs that were not read: %v", gone)
	}
}

// refused checks that a run is refused with an error and changes nothing.
func refused(t *testing.T, s Subject, run overlay.LogRun, want error) {
	t.Helper()
	before := s.Replica.Logs()
	if _, err := s.Replica.Apply(t.Context(), run); !errors.Is(err, want) {
		t.Fatalf("refused with %v, want %v", err, want)
	}
	after := s.Replica.Logs()
	sortLogs(before)
	sortLogs(after)
	if len(before) != len(after) {
		t.Fatalf("%d logs after a refused run, %d before", len(after), len(before))
	}
	for i := range before {
		if before[i].Position != after[i].Position || !slices.Equal(before[i].Islands, after[i].Islands) || !slices.Equal(before[i].Lacks, after[i].Lacks) {
			t.Fatalf("a refused run changed %+v to %+v", before[i], after[i])
		}
	}
}

func sortLogs(logs []overlay.LogState) {
	slices.SortFunc(logs, func(a, b overlay.LogState) int { return bytes.Compare(a.Log[:], b.Log[:]) })
}

func testIslands(t *testing.T, s Subject, m *recorder) {
	l := foreign(t, s, 100)
	wantHeld(t, apply(t, s, l.Run(41, 50)), l, 0, 40, 50)
	wantHeld(t, apply(t, s, l.Run(51, 55)), l, 0, 40, 55) // continues it
	wantHeld(t, apply(t, s, l.Run(1, 10)), l, 10, 40, 55)
	wantHeld(t, apply(t, s, l.Run(21, 30)), l, 10, 20, 30, 40, 55)
	wantRead(t, s, l, 1, 10)
	wantRead(t, s, l, 43, 55)
	wantRead(t, s, l, 21, 30)
	for _, hole := range []uint64{11, 20, 31, 40, 56, 100} {
		if part, err := s.Replica.Read(l.ID, hole, 1<<20); len(part) > 0 || err != nil {
			t.Fatalf("read %d entries from %d, which is not held: %v", len(part), hole, err)
		}
	}
	st := stateOf(t, s, l.ID)
	told, spans := st.Told()
	if told.Seq != 10 || len(spans) != 2 || spans[0].From != 21 || spans[1].To != 55 {
		t.Fatalf("told %d and %v", told.Seq, spans)
	}
	if links, err := s.Replica.Links(l.ID, 43, 49); err != nil || len(links) != 7 || overlay.ChainAll(l.hashes[42], links) != l.hashes[49] {
		t.Fatalf("links in an island: %d, %v", len(links), err)
	}
	if _, err := s.Replica.Links(l.ID, 5, 22); err == nil {
		t.Fatal("links over a hole")
	}
	wantHeld(t, apply(t, s, l.Run(31, 40)), l, 10, 20, 55) // joins two islands
	wantHeld(t, apply(t, s, l.Run(5, 60)), l, 60)          // overlaps everything
	wantHeld(t, apply(t, s, l.Run(61, 100)), l, 100)
	wantRead(t, s, l, 1, 100)
	if _, _, fresh := m.pieces(t, l); fresh != 100 {
		t.Fatalf("%d new records, want 100", fresh)
	}
}

// pieces returns which entries were told of, each once, and how many records
// were new.
func (r *recorder) pieces(t *testing.T, l *Log) (seen map[uint64]overlay.BatchEntry, last overlay.LogState, fresh int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen = map[uint64]overlay.BatchEntry{}
	for _, e := range r.events {
		fresh += len(e.New)
		for _, c := range e.Logs {
			if c.State.Log != l.ID {
				continue
			}
			last = c.State
			at := c.From
			for _, e := range c.Entries {
				if _, twice := seen[at]; twice {
					t.Fatalf("told of entry %d twice", at)
				}
				seen[at] = e
				if at += e.Len(); e.Why != overlay.WhyGone && e.ID != l.Entries[at-2].ID {
					t.Fatalf("told of another entry %d", at-1)
				}
			}
		}
	}
	return seen, last, fresh
}

func testIslandLimit(t *testing.T, s Subject, _ *recorder) {
	l := foreign(t, s, 60)
	for i := range uint64(overlay.MaxIslands) {
		apply(t, s, l.Run(5+5*i, 6+5*i))
	}
	refused(t, s, l.Run(57, 58), overlay.ErrIslands)
	apply(t, s, l.Run(41, 41)) // continues the last
	apply(t, s, l.Run(1, 2))   // the prefix is none
	apply(t, s, l.Run(7, 9))   // joins two
	st := apply(t, s, l.Run(57, 58))
	if len(st.Islands) != overlay.MaxIslands || st.Seq != 2 {
		t.Fatalf("prefix %d and %d islands", st.Seq, len(st.Islands))
	}
	wantHeld(t, apply(t, s, l.Run(1, 60)), l, 60)
	wantRead(t, s, l, 1, 60)
}

func testConflict(t *testing.T, s Subject, _ *recorder) {
	l := foreign(t, s, 40)
	other := l.Fork(15)
	other.Add(t, NewAuthor(t, s.Network.ID(), time.Now).Messages(t, 25)...)
	apply(t, s, l.Run(1, 20))
	apply(t, s, l.Run(31, 35))
	for name, run := range map[string]overlay.LogRun{
		"behind the prefix":        other.Run(21, 25),
		"over the prefix's end":    other.Run(18, 25),
		"over all of it":           other.Run(1, 40),
		"up to the island":         other.Run(25, 30),
		"into the island":          other.Run(25, 33),
		"behind the island":        other.Run(36, 40),
		"over the island":          other.Run(26, 40),
		"inside the island":        other.Run(32, 34),
		"inside the prefix":        other.Run(16, 18),
		"from a false start":       func() overlay.LogRun { r := l.Run(1, 22); r.Before[0] ^= 1; return r }(),
		"of the log, a false hash": func() overlay.LogRun { r := l.Run(36, 38); r.Before[0] ^= 1; return r }(),
	} {
		before := s.Replica.Logs()
		_, err := s.Replica.Apply(t.Context(), run)
		if !errors.Is(err, overlay.ErrConflict) && !errors.Is(err, overlay.ErrChain) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
		if after := s.Replica.Logs(); len(after) != len(before) || after[0].Position != before[0].Position && len(after) == 1 {
			t.Errorf("%s changed the log", name)
		}
	}
	wrong := l.Run(21, 25)
	head := *wrong.State.Head
	head.Hash[0] ^= 1
	wrong.State.Head = &head
	refused(t, s, wrong, overlay.ErrChain)
	wantHeld(t, apply(t, s, l.Run(21, 40)), l, 40)
	wantRead(t, s, l, 1, 40)
}

// expired adds n entries to a log that have expired, without their bodies.
func (l *Log) expired(n int, id byte) {
	for i := range n {
		l.AddEntry(overlay.BatchEntry{Expires: uint64(time.Now().Add(-3*time.Hour).UnixMilli()) + uint64(i),
			ID: overlay.RecordID{id, byte(i), 1}, Why: overlay.WhyExpired})
	}
}

func testGone(t *testing.T, s Subject, m *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	l := NewLog(s.Network.ID(), identity.NewPillarKey())
	l.expired(10, 1)
	l.Add(t, author.Messages(t, 5)...)
	l.expired(10, 2) // 16..25
	l.Add(t, author.Messages(t, 5)...)
	entries := append([]overlay.BatchEntry{l.Gone(1, 10)}, l.Entries[10:15]...)
	wantHeld(t, apply(t, s, l.RunOf(1, entries...)), l, 15)
	// An island that begins with a gone run, inside the one there is.
	wantHeld(t, apply(t, s, l.RunOf(19, append([]overlay.BatchEntry{l.Gone(19, 25)}, l.Entries[25:28]...)...)), l, 15, 18, 28)
	wantRead(t, s, l, 1, 15, l.Gone(1, 10))
	wantRead(t, s, l, 4, 15, l.Gone(4, 10))
	wantRead(t, s, l, 10, 15, l.Gone(10, 10))
	wantRead(t, s, l, 19, 28, l.Gone(19, 25))
	wantRead(t, s, l, 22, 28, l.Gone(22, 25))
	if part, err := s.Replica.Read(l.ID, 17, 1<<20); len(part) > 0 || err != nil {
		t.Fatalf("read %d entries from a hole, %v", len(part), err)
	}
	if _, err := s.Replica.Links(l.ID, 8, 12); err == nil {
		t.Fatal("links of entries that are gone")
	}
	if links, err := s.Replica.Links(l.ID, 11, 15); err != nil || len(links) != 5 {
		t.Fatalf("links behind a gone run: %d, %v", len(links), err)
	}
	// The gap is inside a gone run that overlaps both sides of it.
	wantHeld(t, apply(t, s, l.RunOf(14, l.Entries[13], l.Entries[14], l.Gone(16, 25))), l, 28)
	wantRead(t, s, l, 11, 28, l.Gone(16, 18), l.Gone(19, 25))
	apply(t, s, l.Run(3, 30)) // with single entries, over all of it
	wantRead(t, s, l, 26, 30)
	wantLacks(t, s, l)
	seen, last, fresh := m.pieces(t, l)
	if fresh != 10 || last.Seq != 30 || seen[1].Count != 10 || seen[16].Count != 3 || seen[19].Count != 7 {
		t.Fatalf("told of %d records, runs of %d, %d and %d", fresh, seen[1].Count, seen[16].Count, seen[19].Count)
	}
	if st := stateOf(t, s, l.ID); st.Dies != l.dies {
		t.Fatalf("dies at %d, want %d", st.Dies, l.dies)
	}
}

func testLacks(t *testing.T, s Subject, m *recorder) {
	l, other := foreign(t, s, 20), NewLog(s.Network.ID(), identity.NewPillarKey())
	entries := slices.Clone(l.Entries)
	for _, seq := range []uint64{3, 4, 9, 12, 15, 18} {
		entries[seq-1] = l.Bare(seq)
	}
	entries[17] = overlay.BatchEntry{Expires: l.Entries[17].Expires, ID: l.Entries[17].ID, Why: overlay.WhyVoid} // says somebody
	run := l.RunOf(1, entries[:10]...)
	wantHeld(t, apply(t, s, run), l, 10)
	wantHeld(t, apply(t, s, l.RunOf(14, entries[13:]...)), l, 10, 13, 20)
	wantLacks(t, s, l, 3, 4, 9, 15, 18)
	st := stateOf(t, s, l.ID)
	told, spans := st.Told()
	if told.Seq != 2 || told.Hash != l.hashes[2] || !slices.Equal(spans, []overlay.Span{
		{Log: l.ID, From: 5, To: 8}, {Log: l.ID, From: 10, To: 10}, {Log: l.ID, From: 14, To: 14}, {Log: l.ID, From: 16, To: 17}, {Log: l.ID, From: 19, To: 20}}) {
		t.Fatalf("told %d and %v", told.Seq, spans)
	}
	part, err := s.Replica.Read(l.ID, 3, 1)
	if err != nil || len(part) != 1 || part[0].Raw != nil || part[0].Why != overlay.WhyTrimmed || part[0].ID != l.Entries[2].ID {
		t.Fatalf("an entry that lacks its record reads as %+v, %v", part, err)
	}
	// The same entry comes again, with its body.
	apply(t, s, l.Run(2, 3))
	wantLacks(t, s, l, 4, 9, 15, 18)
	// By no log.
	if taken, err := s.Replica.Take(t.Context(), overlay.ViaAudit, [][]byte{l.Entries[3].Raw}); err != nil || !taken[0] {
		t.Fatalf("taken %v, %v", taken, err)
	}
	wantLacks(t, s, l, 9, 15, 18)
	// By another log.
	other.Add(t, l.Entries[8].Raw, l.Entries[11].Raw)
	apply(t, s, other.Run(1, 2))
	wantLacks(t, s, l, 15, 18)
	// By a node.
	s.Submit(l.Entries[14].Raw)
	wantLacks(t, s, l, 18)
	// A run that has records of lacks of its own log elsewhere.
	apply(t, s, l.RunOf(11, l.Entries[10], l.Bare(12), l.Entries[12])) // 12 is here already
	wantLacks(t, s, l, 18)
	wantHeld(t, stateOf(t, s, l.ID), l, 20)
	apply(t, s, l.Run(11, 20))
	wantLacks(t, s, l)
	wantRead(t, s, l, 1, 20)
	st = stateOf(t, s, l.ID)
	if told, spans := st.Told(); told.Seq != 20 || len(spans) != 0 {
		t.Fatalf("told %d and %v", told.Seq, spans)
	}
	// Whatever way a lack was filled, it was told of with the log's state, and
	// the record as a new one, once.
	_, last, fresh := m.pieces(t, l)
	if last.Seq != 20 || len(last.Lacks) != 0 || fresh < 20 {
		t.Fatalf("told of %d lacks at %d and %d records", len(last.Lacks), last.Seq, fresh)
	}
	m.onceEach(t)
}

// onceEach checks that no record was new twice.
func (r *recorder) onceEach(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[overlay.RecordID]bool{}
	for _, e := range r.events {
		for _, rec := range e.New {
			if seen[rec.ID] {
				t.Fatalf("record %s was new twice", rec.ID)
			}
			seen[rec.ID] = true
		}
	}
}

func testLackLimit(t *testing.T, s Subject, _ *recorder) {
	l := NewLog(s.Network.ID(), identity.NewPillarKey())
	expires := uint64(time.Now().Add(time.Hour).UnixMilli())
	for i := range overlay.MaxLacks + 10 {
		l.AddEntry(overlay.BatchEntry{Expires: expires, ID: overlay.RecordID{1, byte(i), byte(i >> 8)}, Why: overlay.WhyTrimmed})
	}
	const most = overlay.MaxLacks
	apply(t, s, l.Run(1, most-1))
	refused(t, s, l.Run(most, most+1), overlay.ErrLacks)
	refused(t, s, l.Run(most+5, most+10), overlay.ErrLacks)
	st := apply(t, s, l.Run(most, most))
	if len(st.Lacks) != most {
		t.Fatalf("%d lacks", len(st.Lacks))
	}
	// What is over is none.
	l.expired(3, 9)
	refused(t, s, l.Run(most+10, most+13), overlay.ErrLacks)
	if st = apply(t, s, l.Run(most+11, most+13)); len(st.Lacks) != most {
		t.Fatalf("%d lacks", len(st.Lacks))
	}
}

func testVoidBytes(t *testing.T, s Subject, _ *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	l := NewLog(s.Network.ID(), identity.NewPillarKey())
	signed := author.Message(t, 64, time.Hour)
	forged := bytes.Clone(signed)
	forged[len(forged)-1] ^= 1
	l.Add(t, author.Message(t, 64, time.Hour), signed, author.Message(t, 64, time.Hour), Unmendable(t, s.Network.ID()), author.Message(t, 64, time.Hour))
	void := func(seq int, raw []byte) overlay.BatchEntry {
		return overlay.BatchEntry{Expires: l.Entries[seq-1].Expires, ID: l.Entries[seq-1].ID, Why: overlay.WhyVoid, Void: raw}
	}
	// What a holder calls void is judged by its bytes: the first is not, of the
	// second the bytes say nothing, since another signature may stand elsewhere,
	// of the third they are something else's, and the fourth is.
	apply(t, s, l.RunOf(1, void(1, l.Entries[0].Raw), void(2, forged), void(3, forged), void(4, l.Entries[3].Raw)))
	wantLacks(t, s, l, 2, 3)
	part, err := s.Replica.Read(l.ID, 1, 1<<20)
	if err != nil || len(part) != 4 || !bytes.Equal(part[0].Raw, l.Entries[0].Raw) || part[3].Why != overlay.WhyVoid {
		t.Fatalf("read %+v, %v", part, err)
	}
	// The same of a record as such, and with bytes behind it that are no signature.
	junk := append(bytes.Clone(signed), 0)
	apply(t, s, l.RunOf(5, void(5, append(bytes.Clone(l.Entries[4].Raw), 0))))
	wantLacks(t, s, l, 2, 3, 5)
	if taken, err := s.Replica.Take(t.Context(), overlay.ViaAudit, [][]byte{forged, junk, signed}); err != nil || !slices.Equal(taken, []bool{false, false, true}) {
		t.Fatalf("taken %v, %v", taken, err)
	}
	wantLacks(t, s, l, 3, 5)
}

// A record whose signature was broken on the way is not void: it comes otherwise.
func testBrokenSignature(t *testing.T, s Subject, _ *recorder) {
	l := foreign(t, s, 9)
	broken := slices.Clone(l.Entries)
	broken[4].Raw = bytes.Clone(broken[4].Raw)
	broken[4].Raw[len(broken[4].Raw)-1] ^= 1
	apply(t, s, l.RunOf(1, broken...))
	wantLacks(t, s, l, 5)
	st := stateOf(t, s, l.ID)
	if told, _ := st.Told(); st.Seq != 9 || told.Seq != 4 {
		t.Fatalf("held to %d, told to %d", st.Seq, told.Seq)
	}
	apply(t, s, l.Run(1, 9))
	wantLacks(t, s, l)
	wantRead(t, s, l, 1, 9)
}

func testDropLog(t *testing.T, s Subject, m *recorder) {
	l := foreign(t, s, 30)
	apply(t, s, l.RunOf(1, append(slices.Clone(l.Entries[:9]), l.Bare(10))...))
	apply(t, s, l.Run(21, 30))
	wantLacks(t, s, l, 10)
	if err := s.Replica.Drop(t.Context(), l.ID, overlay.LogID{1}); err != nil {
		t.Fatal(err)
	}
	for _, st := range s.Replica.Logs() {
		if st.Log == l.ID {
			t.Fatal("a dropped log is held")
		}
	}
	if part, err := s.Replica.Read(l.ID, 1, 1<<20); len(part) > 0 || err != nil {
		t.Fatalf("read %d entries of a dropped log, %v", len(part), err)
	}
	has, err := s.Records.Has([]overlay.RecordID{l.Entries[0].ID, l.Entries[9].ID, l.Entries[29].ID})
	if err != nil || !slices.Equal(has, []bool{true, false, true}) {
		t.Fatalf("records of a dropped log: %v, %v", has, err)
	}
	if dropped := m.dropped(); !slices.Equal(dropped, []overlay.LogID{l.ID}) {
		t.Fatalf("told of %v dropped", dropped)
	}
	// Another history of it may come.
	other := l.Fork(5)
	other.Add(t, NewAuthor(t, s.Network.ID(), time.Now).Messages(t, 5)...)
	wantHeld(t, apply(t, s, other.Run(1, 10)), other, 10)
	wantLacks(t, s, other)
	wantRead(t, s, other, 1, 10)
}

func (r *recorder) dropped() (logs []overlay.LogID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		logs = append(logs, e.Dropped...)
	}
	return logs
}

// ownLog returns the newest own log that was told of.
func (r *recorder) ownLog() (own overlay.LogID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		for _, c := range e.Logs {
			if c.Own {
				own = c.State.Log
			}
		}
	}
	return own
}

func testDropOwn(t *testing.T, s Subject, m *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	raws := author.Messages(t, 6)
	s.Submit(raws[:3]...)
	first := m.ownLog()
	if err := s.Replica.Drop(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	s.Submit(raws[3:]...)
	second := m.ownLog()
	if second == first || second.IsZero() {
		t.Fatalf("after a drop the own log is %s, before %s", second, first)
	}
	for _, st := range s.Replica.Logs() {
		if st.Log == first {
			t.Fatal("the dropped log is held")
		}
	}
	if st := stateOf(t, s, second); st.Seq < 3 {
		t.Fatalf("the next log is at %d", st.Seq)
	}
	if !slices.Contains(m.dropped(), first) {
		t.Fatal("not told that it was dropped")
	}
	m.onceEach(t)
}

func testTake(t *testing.T, s Subject, m *recorder) {
	author := NewAuthor(t, s.Network.ID(), time.Now)
	good := author.Messages(t, 700)
	forged := bytes.Clone(author.Message(t, 64, time.Hour))
	forged[len(forged)-1] ^= 1
	past := func() time.Time { return time.Now().Add(-2 * time.Hour) }
	expired := NewAuthor(t, s.Network.ID(), past).Message(t, 64, time.Hour)
	elsewhere := NewAuthor(t, identity.NewNetworkKey().ID(), time.Now).Message(t, 64, time.Hour)
	roster := PillarRecord(t, s.Network, identity.NewPillarKey(), time.Now(), time.Hour).Raw
	raws := append([][]byte{forged, expired, elsewhere, roster, nil, {0x92}, bytes.Repeat([]byte{0xff}, 1<<18)}, good...)
	raws = append(raws, good[0], append(bytes.Clone(good[1]), 0))
	taken, err := s.Replica.Take(t.Context(), overlay.ViaAudit, raws)
	if err != nil || len(taken) != len(raws) {
		t.Fatalf("taken %d of %d, %v", len(taken), len(raws), err)
	}
	for i, ok := range taken {
		if want := i >= 7 && i < len(raws)-1; ok != want {
			t.Fatalf("record %d: taken %v, want %v", i, ok, want)
		}
	}
	m.onceEach(t)
	m.mu.Lock()
	fresh := 0
	for _, e := range m.events {
		fresh += len(e.New)
	}
	m.mu.Unlock()
	if fresh != len(good) {
		t.Fatalf("%d new records, want %d", fresh, len(good))
	}
	// What is held is taken, whoever holds it for whatever reason.
	l := foreign(t, s, 3)
	apply(t, s, l.Run(1, 2))
	if taken, err = s.Replica.Take(t.Context(), overlay.ViaBundle, [][]byte{l.Entries[0].Raw, good[5], l.Entries[2].Raw}); err != nil || !slices.Equal(taken, []bool{true, true, true}) {
		t.Fatalf("taken %v, %v", taken, err)
	}
	// A log that has what was taken before keeps its places.
	wantHeld(t, apply(t, s, l.Run(3, 3)), l, 3)
	wantRead(t, s, l, 1, 3)
	if taken, err = s.Replica.Take(t.Context(), overlay.ViaAudit, nil); err != nil || len(taken) != 0 {
		t.Fatalf("nothing: %v, %v", taken, err)
	}
}

func testNear(t *testing.T, s Subject, _ *recorder) {
	l := foreign(t, s, 300)
	apply(t, s, l.Run(1, 300))
	days := map[overlay.Day][]overlay.RecordID{}
	for _, e := range l.Entries {
		days[overlay.DayOf(e.Expires)] = append(days[overlay.DayOf(e.Expires)], e.ID)
	}
	for day, ids := range days {
		slices.SortFunc(ids, func(a, b overlay.RecordID) int { return bytes.Compare(a[:], b[:]) })
		for n := range 3 {
			prefix := ids[len(ids)/2][:n]
			var want, got []overlay.RecordID
			for _, id := range ids {
				if bytes.HasPrefix(id[:], prefix) {
					want = append(want, id)
				}
			}
			if err := s.Records.Near(day, prefix, func(r overlay.StoredRecord) bool {
				if r.Expires == 0 || r.Created == 0 || r.Received.IsZero() || len(r.Raw) == 0 {
					t.Errorf("record %+v", r)
				}
				got = append(got, r.ID)
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("near %x: %d records, want %d", prefix, len(got), len(want))
			}
		}
		if err := s.Records.Near(day+100, nil, func(overlay.StoredRecord) bool { t.Error("a record of another day"); return true }); err != nil {
			t.Fatal(err)
		}
	}
}
