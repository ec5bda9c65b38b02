package overlay_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

// TestScrubOfDamagedBytes changes what the store holds by hand, while the pillar
// is down. It opens, serves other pillars nothing that is not what its ID says,
// and the scrub finds what is damaged: it counts as missing, and is replaced by
// what others bring.
func TestScrubOfDamagedBytes(t *testing.T) {
	last := func(v []byte) ([]byte, bool) { v[len(v)-1] ^= 1; return v, true } // of a record: in its signature
	inside := func(n int) func(v []byte) ([]byte, bool) {
		return func(v []byte) ([]byte, bool) { v[len(v)-n] ^= 1; return v, true }
	}
	at := func(n int) func(v []byte) ([]byte, bool) {
		return func(v []byte) ([]byte, bool) { v[n] ^= 1; return v, true }
	}
	short := func(v []byte) ([]byte, bool) { return v[:len(v)-1], true }
	in := func(kind byte) func(k, v []byte) bool {
		return func(k, _ []byte) bool { return k[0] == 'e' && k[5] == kind }
	}
	home := func(k, v []byte) bool { return in('b')(k, v) && v[48] == 1 } // has the bytes
	for _, c := range []struct {
		name   string
		which  func(k, v []byte) bool
		change func(v []byte) ([]byte, bool)
		slow   bool // only the passes after the first look for it
		lost   bool // until somebody else brings them
	}{
		{"payloads in boxes", home, inside(80), false, true},
		{"payloads in no box", in('o'), inside(80), false, true},
		{"signatures in boxes", home, last, true, true},
		{"signatures in no box", in('o'), last, true, true},
		{"bytes cut short", home, short, false, true},
		{"box entries without shape", in('b'), func(v []byte) ([]byte, bool) { return v[:60], true }, false, true},
		{"box entries of another ID", in('b'), at(3), false, true},
		{"heads without shape", in('r'), func(v []byte) ([]byte, bool) { return v[:20], true }, false, false},
		{"heads with too few dots", in('r'), short, false, false},
		{"heads of another place", in('r'), at(7), false, true},
		{"heads of another time", in('r'), at(23), false, false},
		{"heads of another form", in('r'), at(33), false, true},
		{"counts of days", in('d'), at(7), false, false},
		{"log entries without shape", func(k, _ []byte) bool { return k[0] == 'l' }, short, false, false},
		{"log entries of another ID", func(k, _ []byte) bool { return k[0] == 'l' }, at(20), false, false},
		{"the newest local sequence", func(k, _ []byte) bool { return string(k) == "zlocal" }, short, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newScrubRig(t)
			defer r.end()
			release := r.gate.hold()
			defer release()
			r.unscrubbed = true
			n := r.spoil(func(k, v []byte) ([]byte, bool) {
				if !c.which(k, v) {
					return nil, false
				}
				return c.change(v)
			})
			if n == 0 {
				t.Fatal("nothing was changed")
			}
			r.servesOnlyWhatIs(c.slow)
			release()
			r.scrubbed()
			scrub := overlay.ScrubNow
			if c.slow {
				scrub = overlay.ScrubSlowly
			}
			if err := scrub(t.Context(), r.pillar); err != nil {
				t.Fatal(err)
			}
			never := func(id overlay.RecordID) bool { // the rig never had it
				return slices.ContainsFunc(r.log.entries[60:70], func(e overlay.BatchEntry) bool { return e.ID == id })
			}
			lost := 0
			for id, ok := range r.held() {
				if !ok && !never(id) {
					lost++
				}
			}
			if c.lost != (lost > 0) {
				t.Errorf("%d records lost", lost)
			}
			r.bring()
			for id, ok := range r.held() {
				if ok == never(id) {
					t.Fatalf("record %s: held %v after all was brought", id, ok)
				}
			}
			if st := r.log.held(); st.Seq != 60 || len(st.Lacks) != 0 {
				t.Fatalf("the log is at %d and lacks %d", st.Seq, len(st.Lacks))
			}
			r.mesh.drain()
			if err := scrub(t.Context(), r.pillar); err != nil {
				t.Fatal(err)
			}
			r.mesh.mu.Lock()
			defer r.mesh.mu.Unlock()
			for _, e := range r.mesh.events {
				if len(e.Logs)+len(e.Gone)+len(e.Dropped) > 0 {
					t.Fatalf("another pass repaired %+v", e)
				}
			}
		})
	}
}

// servesOnlyWhatIs checks that other pillars get no payload that is not its ID's.
func (r *scrubRig) servesOnlyWhatIs(signature bool) {
	t := r.t
	t.Helper()
	check := func(raw []byte) {
		rec, err := overlay.ParseRecord(r.id, raw)
		if err != nil || r.raws[rec.ID] == nil || !signature && !bytes.Equal(r.raws[rec.ID], raw) {
			t.Errorf("a damaged record is served: %v", err)
		}
	}
	var ids []overlay.RecordID
	for id := range r.raws {
		ids = append(ids, id)
	}
	part, _, err := r.pillar.Get(ids, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range part {
		check(raw)
	}
	for at := uint64(1); at <= 60; {
		part, err := r.pillar.Read(r.log.state.Log, at, 1<<20)
		if err != nil || len(part) == 0 {
			break // the entry itself is damaged
		}
		for i := range part {
			if part[i].Raw != nil {
				check(part[i].Raw)
			}
			at += part[i].Len()
		}
	}
}
