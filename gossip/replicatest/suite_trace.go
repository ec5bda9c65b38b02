package replicatest

import (
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// testTrace: what is held is told with how it came, what is not with why.
func testTrace(t *testing.T, s Subject, _ *recorder) {
	l := foreign(t, s, 6)
	bare := l.Bare(4)
	bare.Why = overlay.WhyTrimmed
	run := l.RunOf(1, l.Entries[0], l.Entries[1], l.Entries[2], bare, l.Entries[4])
	apply(t, s, run)
	dot := func(seq uint64) overlay.Dot { return overlay.Dot{Log: l.ID, Seq: seq} }
	id := func(seq uint64) overlay.RecordID { return l.Entries[seq-1].ID }
	now := uint64(time.Now().UnixMilli())
	sought := []overlay.Sought{
		{ID: id(1)},
		{ID: id(2), Expires: l.Entries[1].Expires, Dot: dot(2)},
		{ID: id(4), Dot: dot(4)},
		{ID: id(6), Dot: dot(6)},
		{ID: id(6)},
		{ID: id(6), Dot: dot(2)},
		{ID: id(6), Expires: now - 1000, Dot: dot(6)},
		{ID: overlay.RecordID{1}, Dot: overlay.Dot{Log: overlay.LogID{2}, Seq: 1}},
	}
	want := []overlay.Absence{overlay.AbsentNot, overlay.AbsentNot, overlay.AbsentDeleted, overlay.AbsentComing, overlay.AbsentNever,
		overlay.AbsentNever, overlay.AbsentExpired, overlay.AbsentNever}
	traces, err := s.Records.Trace(sought)
	if err != nil || len(traces) != len(sought) {
		t.Fatalf("%d traces, %v", len(traces), err)
	}
	for i := range traces {
		tr := &traces[i]
		if !tr.Answered || tr.Pillar == "" || tr.Has != (want[i] == overlay.AbsentNot) || tr.Why != want[i] {
			t.Errorf("%d: %+v, want %q", i, tr, want[i])
		}
	}
	first := traces[0]
	if first.Kind != overlay.KindMessage || first.Expires != l.Entries[0].Expires || first.Size != uint64(len(l.Entries[0].Raw)) ||
		first.Via != overlay.ViaFollow || first.Received.IsZero() || !slices.Equal(first.Dots, []overlay.Dot{dot(1)}) {
		t.Errorf("of one that is held: %+v", first)
	}
}
