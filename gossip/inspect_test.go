package gossip_test

import (
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// idsOf returns the IDs of records in order.
func idsOf(recs []*overlay.Record) []overlay.RecordID {
	ids := make([]overlay.RecordID, len(recs))
	for i, r := range recs {
		ids[i] = r.ID
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}

func compareIDs(a, b overlay.RecordID) int { return slices.Compare(a[:], b[:]) }

func differenceIDs(list []overlay.Difference) []overlay.RecordID {
	ids := make([]overlay.RecordID, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	return ids
}

// TestDiffMovesNothing: what differs is named with what is known of it, on both
// sides, and stays as it is.
func TestDiffMovesNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		common, onlyA, onlyB := w.old(2000), w.old(30), w.old(20)
		a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
		w.pair(a, b)
		d, err := a.mesh.Diff(w.t.Context(), a.key.ID(), b.key.ID(), overlay.RecordID{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Equal || d.More || d.Here != a.key.ID() || d.There != b.key.ID() || d.Bytes == 0 || d.RoundTrips == 0 {
			t.Errorf("%+v", d)
		}
		if !slices.Equal(differenceIDs(d.OnlyHere), idsOf(onlyA)) || !slices.Equal(differenceIDs(d.OnlyThere), idsOf(onlyB)) {
			t.Errorf("%d only here, %d only there; want 30 and 20", len(d.OnlyHere), len(d.OnlyThere))
		}
		for _, x := range append(d.OnlyHere, d.OnlyThere...) {
			if x.Why != overlay.AbsentNever || x.Kind != overlay.KindMessage || x.Created == 0 || x.Expires <= x.Created {
				t.Errorf("%+v", x)
			}
		}
		if a.disk.Count() != 2030 || b.disk.Count() != 2020 {
			t.Errorf("%d and %d records held: something was moved", a.disk.Count(), b.disk.Count())
		}

		// Repaired, and again: nothing is left to do.
		for _, want := range []int{20, 0} {
			r, err := a.mesh.Repair(w.t.Context(), a.key.ID(), b.key.ID())
			if err != nil || r.Fetched != want || r.Sent != want*3/2 {
				t.Errorf("%+v, %v; want %d fetched", r, err, want)
			}
		}
		if d, err := a.mesh.Diff(w.t.Context(), a.key.ID(), b.key.ID(), overlay.RecordID{}); err != nil || !d.Equal {
			t.Errorf("after the repair: %+v, %v", d, err)
		}
	})
}

// TestDiffPages: many differences come by pages in the order of IDs, for few
// bytes each.
func TestDiffPages(t *testing.T) {
	inBubble(t, func(w *world) {
		common, onlyA, onlyB := w.old(1000), w.old(1200), w.old(1300)
		a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
		w.pair(a, b)
		want := idsOf(append(slices.Clone(onlyA), onlyB...))
		var got []overlay.RecordID
		var after overlay.RecordID
		for page := 0; ; page++ {
			d, err := b.mesh.Diff(w.t.Context(), b.key.ID(), a.key.ID(), after)
			if err != nil {
				t.Fatal(err)
			}
			ids := append(differenceIDs(d.OnlyHere), differenceIDs(d.OnlyThere)...)
			slices.SortFunc(ids, compareIDs)
			got = append(got, ids...)
			if len(ids) > gossip.DiffPage {
				t.Errorf("%d on a page", len(ids))
			}
			if !d.More {
				break
			}
			after = ids[len(ids)-1]
			time.Sleep(time.Second) // as many rounds as may be asked for
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d differences, want %d", len(got), len(want))
		}
	})
}

// TestDiffOfOthers: a third pillar has two others compared, and repaired.
func TestDiffOfOthers(t *testing.T) {
	inBubble(t, func(w *world) {
		common, onlyB := w.old(300), w.old(7)
		a, b, c := w.quiet().keep(common), w.quiet().keep(common, onlyB), w.quiet()
		w.pair(a, b)
		c.start(a)
		until(t, 30*time.Second, "sessions and one short key", func() bool {
			_, ka := a.mesh.Tally()
			_, kc := c.mesh.Tally()
			return meshed(a, b, c) && ka == kc
		})
		time.Sleep(15 * time.Second)
		d, err := c.mesh.Diff(w.t.Context(), a.key.ID(), b.key.ID(), overlay.RecordID{})
		if err != nil || d.Here != a.key.ID() || d.There != b.key.ID() || len(d.OnlyHere) != 0 || !slices.Equal(differenceIDs(d.OnlyThere), idsOf(onlyB)) {
			t.Fatalf("%+v, %v", d, err)
		}
		// The other way round it is the same.
		if d, err = c.mesh.Diff(w.t.Context(), b.key.ID(), c.key.ID(), overlay.RecordID{}); err != nil || len(d.OnlyThere) != 0 || len(d.OnlyHere) != 307 {
			t.Fatalf("%+v, %v", d, err)
		}
		if r, err := c.mesh.Repair(w.t.Context(), a.key.ID(), b.key.ID()); err != nil || r.Fetched != 7 {
			t.Errorf("%+v, %v", r, err)
		}
		if c.disk.Count() != 0 || a.disk.Count() != 307 {
			t.Errorf("%d and %d held", c.disk.Count(), a.disk.Count())
		}
		if _, err := c.mesh.Diff(w.t.Context(), c.key.ID(), c.key.ID(), overlay.RecordID{}); overlay.CodeOf(err) != overlay.CodeBadRequest {
			t.Errorf("with itself: %v", err)
		}
	})
}

// TestTraceAsksEverybody: who has it says since when, who has not says why, who
// is not there says nothing.
func TestTraceAsksEverybody(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b, c := w.quiet(), w.quiet(), w.quiet()
		w.pair(a, b)
		c.start(a)
		until(t, 30*time.Second, "sessions", func() bool { return meshed(a, b, c) })
		raws := w.author.Messages(t, 3)
		a.disk.Submit(raws...)
		until(t, 30*time.Second, "the records everywhere", func() bool { return b.disk.Count() == 3 && c.disk.Count() == 3 })
		id := w.parse(raws)[0].ID
		b.disk.Erase(id)
		gone := c.key.ID()
		c.stop()
		until(t, 30*time.Second, "the loss of a pillar", func() bool { return !meshed(a, b, c) })
		asked := time.Now()
		traces, err := a.mesh.Trace(w.t.Context(), id)
		if err != nil || len(traces) != 3 || time.Since(asked) > 2*time.Second {
			t.Fatalf("%d traces after %s, %v", len(traces), time.Since(asked), err)
		}
		if own := traces[0]; own.Pillar != a.key.ID() || !own.Has || len(own.Dots) != 1 {
			t.Errorf("here: %+v", own)
		}
		for _, tr := range traces[1:] {
			switch tr.Pillar {
			case b.key.ID():
				if !tr.Answered || tr.Has || tr.Why != overlay.AbsentDeleted {
					t.Errorf("where it was deleted: %+v", tr)
				}
			case gone:
				if tr.Answered || tr.Has || tr.Why != overlay.AbsentUnknown {
					t.Errorf("where nobody is: %+v", tr)
				}
			}
		}
	})
}

// TestTraceAskedTooOften: recipients, which cost a walk through a mailbox, are
// told so often and no more; where the record is goes on being told.
func TestTraceAskedTooOften(t *testing.T) {
	inBubble(t, func(w *world) {
		recs := w.old(1)
		a := w.quiet().keep(recs).start()
		l := w.auditor(a, func(*auditor, overlay.Message) any { return nil })
		ask := func() (told int) {
			for n := range uint64(40) {
				say(l.stream, &overlay.TraceMsg{N: n, Sought: []overlay.Sought{{ID: recs[0].ID, Recipients: true}}})
			}
			for range 40 {
				traced := (<-l.heard).(*overlay.TracedMsg)
				if !traced.Traces[0].Has {
					t.Errorf("%+v", traced)
				}
				if len(traced.Traces[0].Recipients) > 0 {
					told++
				}
			}
			return told
		}
		if n := ask(); n != 16 {
			t.Errorf("recipients were told %d times, want 16", n)
		}
		time.Sleep(8 * time.Second) // virtual
		if n := ask(); n != 4 {
			t.Errorf("and 8 s later %d times, want 4", n)
		}
	})
}

// TestTraceWithoutStrangers: who has a record knows its recipients, and lets nobody
// name others; who has it not takes what it is told.
func TestTraceWithoutStrangers(t *testing.T) {
	to := func(accounts ...identity.AccountID) (list []overlay.RecipientTrace) {
		for _, a := range accounts {
			list = append(list, overlay.RecipientTrace{Account: a})
		}
		return list
	}
	for name, c := range map[string]struct {
		has  bool
		mine []overlay.RecipientTrace
		want int
	}{
		"has it":            {true, to("a", "b"), 1},
		"has it not":        {false, nil, 2},
		"has a record to 0": {true, nil, 2},
	} {
		traces := []overlay.Trace{{Has: c.has, Recipients: c.mine}, {Has: true, Recipients: to("b", "stranger")}}
		gossip.WithoutStrangers(traces)
		if n := len(traces[1].Recipients); n != c.want {
			t.Errorf("%s: %d recipients of two are left, want %d", name, n, c.want)
		}
	}
}
