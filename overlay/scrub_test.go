package overlay_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// A scrubRig is a pillar over a store on disk, with records of every form in
// it: bob and carol are sent messages, some both of them, by a log elsewhere and
// by a node here, and some records are in no box.
type scrubRig struct {
	*pillarRig
	t          *testing.T
	dir        string
	disk       *store.Pebble
	gate       scrubGate
	mesh       *fakeMesh
	log        *handLog
	bob, carol *testDevice
	raws       map[overlay.RecordID][]byte
	toBob      map[overlay.RecordID]bool
}

func newScrubRig(t *testing.T) *scrubRig {
	r := &scrubRig{t: t, dir: t.TempDir(), mesh: newFakeMesh(),
		raws: map[overlay.RecordID][]byte{}, toBob: map[overlay.RecordID]bool{}}
	r.openDisk()
	r.pillarRig = newPillarRig(t, r.mesh, r.withDisk)
	alice := r.device(nil)
	r.bob, r.carol = r.device(nil), r.device(nil)
	both := []identity.AccountID{r.bob.id(), r.carol.id()}
	slices.Sort(both)
	note := func(raw []byte, bob bool) []byte {
		id := idOf(t, r.id, raw)
		r.raws[id] = raw
		r.toBob[id] = bob
		return raw
	}
	r.log = newHandLog(r.pillarRig)
	for i := range 90 {
		switch i % 3 {
		case 0:
			r.log.add(overlay.BatchEntry{Raw: note(alice.message(r.bob.id()), true)})
		case 1:
			r.log.add(overlay.BatchEntry{Raw: note(alice.sign(overlay.KindMessage, both, []byte{byte(i)}, nil), true)})
		case 2: // of a kind that nobody knows, for nobody
			r.log.add(overlay.BatchEntry{Raw: note(alice.sign(99, nil, []byte{byte(i)}, nil), false)})
		}
	}
	r.log.apply(1, 60)
	r.log.apply(71, 90)
	c := r.bob.session()
	for range 10 {
		if a := c.one(note(c.message(r.carol.id()), false)); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	return r
}

func (r *scrubRig) withDisk(c *overlay.PillarConfig) { c.Store = &gatedDisk{r.disk, &r.gate} }

// gatedDisk is a store on disk whose scrub can be held up.
type gatedDisk struct {
	*store.Pebble
	gate *scrubGate
}

func (d *gatedDisk) View() overlay.View { return gatedView{d.Pebble.View(), d.gate} }

type gatedView struct {
	overlay.View
	gate *scrubGate
}

func (v gatedView) Parts() overlay.Parts {
	v.gate.wait()
	return v.View.Parts()
}

func (r *scrubRig) openDisk() {
	r.t.Helper()
	disk, err := store.OpenPebble(store.PebbleConfig{Dir: r.dir, Memory: 4 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	r.disk = disk
}

// damage stops the pillar, deletes the keys for which gone is true by hand, and
// starts it again.
func (r *scrubRig) damage(gone func(k, v []byte) bool) (n int) {
	r.t.Helper()
	n = r.spoil(func(k, v []byte) ([]byte, bool) { return nil, gone(k, v) })
	if err := overlay.ScrubNow(r.t.Context(), r.pillar); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// spoil stops the pillar, gives the keys for which change is true other values by
// hand, or none, and starts it again.
func (r *scrubRig) spoil(change func(k, v []byte) ([]byte, bool)) (n int) {
	t := r.t
	t.Helper()
	r.stop()
	if err := r.disk.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open(r.dir, &pebble.Options{Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, changed := change(it.Key(), bytes.Clone(it.Value()))
		if !changed {
			continue
		}
		n++
		key, err := bytes.Clone(it.Key()), error(nil)
		if v == nil {
			err = db.Delete(key, pebble.Sync)
		} else {
			err = db.Set(key, v, pebble.Sync)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(it.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	r.openDisk()
	r.mesh.drain()
	r.start(r.mesh, identity.NewPillarKey(), r.withDisk)
	return n
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}

func (r *scrubRig) end() {
	r.stop()
	if err := r.disk.Close(); err != nil {
		r.t.Error(err)
	}
}

// held returns which of the rig's records are there, after checking that all
// that is said of them fits.
func (r *scrubRig) held() map[overlay.RecordID]bool {
	t := r.t
	t.Helper()
	held := map[overlay.RecordID]bool{}
	var ids []overlay.RecordID
	for id := range r.raws {
		ids = append(ids, id)
	}
	has, err := r.pillar.Has(ids)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for from := 0; from < len(ids); {
		part, n, err := r.pillar.Get(ids[from:], 1<<20)
		if err != nil || n == 0 {
			t.Fatalf("get: %d, %v", n, err)
		}
		for _, raw := range part {
			got[string(raw)] = true
		}
		from += n
	}
	each := map[overlay.RecordID]bool{}
	count := uint64(0)
	if err := r.pillar.Each(0, func(id overlay.RecordID, _, _ uint64) bool {
		count++
		each[id] = true
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if n := r.pillar.Status().Records; n != count {
		t.Errorf("%d records counted, %d there", n, count)
	}
	for i, id := range ids {
		held[id] = has[i]
		if got[string(r.raws[id])] != has[i] || each[id] != has[i] {
			t.Errorf("record %s: has %v, get %v, each %v", id, has[i], got[string(r.raws[id])], each[id])
		}
	}
	// Whatever is told of a log is there.
	for _, st := range r.pillar.Logs() {
		told, spans := st.Told()
		if told.Seq > 0 {
			spans = append(spans, overlay.Span{Log: st.Log, From: 1, To: told.Seq})
		}
		for _, span := range spans {
			for at := span.From; at <= span.To; {
				part, err := r.pillar.Read(st.Log, at, 1<<20)
				if err != nil || len(part) == 0 {
					t.Fatalf("log %s is told to hold %d..%d and reads %d entries from %d: %v", st.Log, span.From, span.To, len(part), at, err)
				}
				for _, e := range part {
					if at > span.To {
						break
					}
					if e.Raw == nil && e.Why != overlay.WhyGone {
						t.Fatalf("entry %d is told and has no record", at)
					}
					at += e.Len()
				}
			}
		}
	}
	// The mailbox has what is there.
	box, _ := r.device(r.bob.account).session().resume(overlay.BoxMail, nil, false)
	for id, bob := range r.toBob {
		in := slices.ContainsFunc(box, func(raw []byte) bool { return bytes.Equal(raw, r.raws[id]) })
		if in != (bob && held[id]) {
			t.Errorf("record %s: held %v, in bob's mailbox %v, his %v", id, held[id], in, bob)
		}
	}
	return held
}

// bring does what follow and audit do.
func (r *scrubRig) bring() {
	t := r.t
	t.Helper()
	for _, part := range [][2]uint64{{1, 60}, {71, 90}} {
		if _, err := r.pillar.Apply(t.Context(), r.log.part(part[0], part[1])); err != nil {
			t.Fatal(err)
		}
	}
	var raws [][]byte
	for id, raw := range r.raws {
		if !slices.ContainsFunc(r.log.entries[60:70], func(e overlay.BatchEntry) bool { return e.ID == id }) {
			raws = append(raws, raw)
		}
	}
	if _, err := r.pillar.Take(t.Context(), overlay.ViaAudit, raws); err != nil {
		t.Fatal(err)
	}
}

// TestScrub deletes what the pillar has by hand, a column or a piece of it,
// while it is down. It opens, ends up saying what is true, and takes the rest
// from others.
func TestScrub(t *testing.T) {
	column := func(kind byte) func(r *scrubRig) func(k, v []byte) bool {
		return func(*scrubRig) func(k, v []byte) bool {
			return func(k, _ []byte) bool { return k[0] == 'e' && k[5] == kind || k[0] == kind }
		}
	}
	third := func(kind byte) func(r *scrubRig) func(k, v []byte) bool {
		return func(*scrubRig) func(k, v []byte) bool {
			n := 0
			return func(k, _ []byte) bool {
				if k[0] == 'e' && k[5] == kind {
					n++
				}
				return k[0] == 'e' && k[5] == kind && n%3 == 0
			}
		}
	}
	entries := func(r *scrubRig, gone func(seq uint64) bool) func(k, v []byte) bool {
		return func(k, _ []byte) bool {
			return k[0] == 'l' && string(k[1:17]) == string(r.log.state.Log[:]) && gone(binary.BigEndian.Uint64(k[17:]))
		}
	}
	for _, c := range []struct {
		name   string
		damage func(r *scrubRig) func(k, v []byte) bool
		lost   bool // records are
		// counted: the lost ones still look as if they were there when the pillar
		// starts, so it must tell of each.
		counted bool
		check   func(t *testing.T, st overlay.LogState)
	}{
		{"all record heads", column('r'), false, false, nil},
		{"some record heads", third('r'), false, false, nil},
		{"all box entries", column('b'), true, true, nil},
		{"some box entries", third('b'), true, true, nil},
		{"all day counts", column('d'), false, false, nil},
		{"all bytes in no box", column('o'), true, true, nil},
		{"all log entries", column('l'), false, false, func(t *testing.T, st overlay.LogState) {
			if st.Seq != 0 || len(st.Islands) != 0 {
				t.Errorf("the log is still at %d", st.Seq)
			}
		}},
		{"all values", column('v'), false, false, nil},
		{"the newest local sequence", func(*scrubRig) func(k, v []byte) bool {
			return func(k, _ []byte) bool { return string(k) == "zlocal" }
		}, false, false, nil},
		{"pointers in boxes", func(*scrubRig) func(k, v []byte) bool {
			return func(k, v []byte) bool { return k[0] == 'e' && k[5] == 'b' && v[48] == 2 }
		}, false, false, nil},
		{"record heads and box entries", func(*scrubRig) func(k, v []byte) bool {
			return func(k, _ []byte) bool { return k[0] == 'e' && (k[5] == 'b' || k[5] == 'r') }
		}, true, false, nil},
		{"records, whole", func(*scrubRig) func(k, v []byte) bool {
			return func(k, _ []byte) bool { return k[0] == 'e' }
		}, true, false, nil},
		{"heads and the newest local sequence", func(*scrubRig) func(k, v []byte) bool {
			return func(k, _ []byte) bool { return k[0] == 'e' && k[5] == 'r' || k[0] == 'z' && k[1] == 'l' }
		}, false, false, nil},
		{"a hole in the prefix", func(r *scrubRig) func(k, v []byte) bool {
			return entries(r, func(seq uint64) bool { return seq == 31 || seq == 32 })
		}, false, false, func(t *testing.T, st overlay.LogState) {
			if st.Seq != 30 || len(st.Islands) != 1 {
				t.Errorf("the log is at %d with %d islands", st.Seq, len(st.Islands))
			}
		}},
		{"a hole in the island", func(r *scrubRig) func(k, v []byte) bool {
			return entries(r, func(seq uint64) bool { return seq == 80 })
		}, false, false, func(t *testing.T, st overlay.LogState) {
			if st.Seq != 60 || len(st.Islands) != 1 || st.Islands[0].End.Seq != 79 {
				t.Errorf("the log is at %d with islands %v", st.Seq, st.Islands)
			}
		}},
		{"the ends of both", func(r *scrubRig) func(k, v []byte) bool {
			return entries(r, func(seq uint64) bool { return seq > 55 && seq <= 60 || seq >= 71 && seq < 73 })
		}, false, false, func(t *testing.T, st overlay.LogState) {
			if st.Seq != 55 || len(st.Islands) != 0 {
				t.Errorf("the log is at %d with islands %v", st.Seq, st.Islands)
			}
		}},
		{"the state of a log", func(r *scrubRig) func(k, v []byte) bool {
			return func(k, _ []byte) bool { return string(k) == "vlog/"+string(r.log.state.Log[:]) }
		}, false, false, func(t *testing.T, st overlay.LogState) {
			if st.Seq != 0 {
				t.Errorf("a log without state is at %d", st.Seq)
			}
		}},
		{"one record", func(r *scrubRig) func(k, v []byte) bool {
			id := r.log.entries[39].ID
			return func(k, v []byte) bool {
				return bytes.HasSuffix(k, id[:]) || k[0] == 'e' && k[5] == 'b' && bytes.HasPrefix(v, id[:])
			}
		}, true, false, func(t *testing.T, st overlay.LogState) {
			if st.Seq != 60 || len(st.Lacks) != 1 || st.Lacks[0].Seq != 40 {
				t.Errorf("the log is at %d and lacks %v", st.Seq, st.Lacks)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newScrubRig(t)
			defer r.end()
			before := len(r.held())
			if r.damage(c.damage(r)) == 0 {
				t.Fatal("nothing was deleted")
			}
			r.mesh.mu.Lock()
			gone := map[overlay.RecordID]int{}
			for _, e := range r.mesh.events {
				for _, stub := range e.Gone { // but for those that have a second life
					if !slices.ContainsFunc(e.New, func(rec *overlay.Record) bool { return rec.ID == stub.ID }) {
						gone[stub.ID]++
					}
				}
			}
			r.mesh.mu.Unlock()
			lost := 0
			for id, ok := range r.held() {
				missing := slices.ContainsFunc(r.log.entries[60:70], func(e overlay.BatchEntry) bool { return e.ID == id })
				if !ok && !missing {
					lost++
				}
				if ok && gone[id] > 0 || gone[id] > 1 || c.counted && !ok && !missing && gone[id] != 1 {
					t.Errorf("record %s: held %v, told %d times as gone", id, ok, gone[id])
				}
			}
			if c.lost != (lost > 0) {
				t.Errorf("%d records lost of %d", lost, before)
			}
			if !c.counted && len(gone) > 0 {
				t.Errorf("%d records told as gone that nobody counted", len(gone))
			}
			var st overlay.LogState
			for _, s := range r.pillar.Logs() {
				if s.Log == r.log.state.Log {
					st = s
				}
			}
			if c.check != nil {
				c.check(t, st)
			}
			r.bring()
			for id, ok := range r.held() {
				if ok == slices.ContainsFunc(r.log.entries[60:70], func(e overlay.BatchEntry) bool { return e.ID == id }) {
					t.Fatalf("record %s: held %v after all was brought", id, ok)
				}
			}
			if st := r.log.held(); st.Seq != 60 || len(st.Lacks) != 0 {
				t.Fatalf("the log is at %d and lacks %d", st.Seq, len(st.Lacks))
			}
			// Another pass finds nothing.
			r.mesh.drain()
			if err := overlay.ScrubNow(t.Context(), r.pillar); err != nil {
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

// TestScrubOfManyRecords: when more records of a log are missing than can be
// asked for one by one, it is followed again from where that is reached.
func TestScrubOfManyRecords(t *testing.T) {
	rig := newPillarRig(t, newFakeMesh())
	alice := rig.device(nil)
	log := newHandLog(rig)
	for range overlay.MaxLacks + 200 {
		log.add(overlay.BatchEntry{Raw: alice.sign(99, nil, []byte{1}, func(d *overlay.Draft) { d.Created -= uint64(len(log.entries)) })})
	}
	half := uint64(len(log.entries) / 2)
	log.apply(1, half)
	log.apply(half+2, uint64(len(log.entries)))
	view := rig.store.View()
	local := map[overlay.RecordID]uint64{}
	if err := view.Records(0, func(_ overlay.Day, r overlay.StoredRecord) bool {
		local[r.ID] = r.Local
		return true
	}); err != nil {
		t.Fatal(err)
	}
	commit := &overlay.Commit{Time: time.Now()}
	for i, e := range log.entries {
		if i%50 != 0 {
			commit.Forget = append(commit.Forget, overlay.Forgotten{ID: e.ID, Day: overlay.DayOf(e.Expires), Local: local[e.ID]})
		}
	}
	view.Close()
	if _, err := rig.store.Commit(commit); err != nil {
		t.Fatal(err)
	}
	if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
		t.Fatal(err)
	}
	st := log.held()
	if len(st.Lacks) > overlay.MaxLacks || len(st.Lacks) < overlay.MaxLacks-60 || st.Seq != half || len(st.Islands) != 1 {
		t.Fatalf("%d lacks, prefix %d, islands %v", len(st.Lacks), st.Seq, st.Islands)
	}
	if told, _ := st.Told(); told.Seq != 1 {
		t.Fatalf("told %d", told.Seq)
	}
	log.apply(1, uint64(len(log.entries)))
	if st := log.held(); st.Seq != uint64(len(log.entries)) || len(st.Lacks) != 0 {
		t.Fatalf("%d lacks at %d", len(st.Lacks), st.Seq)
	}
}

// TestScrubOfTheOwnLog: a log that is being written and has lost entries is
// closed: nothing is written twice in the same place of it.
func TestScrubOfTheOwnLog(t *testing.T) {
	rig := newPillarRig(t, newFakeMesh())
	c := rig.device(nil).session()
	var dots []overlay.Dot
	for range 5 {
		dots = append(dots, c.one(c.message(c.id())).Dot)
	}
	if _, err := rig.store.Commit(&overlay.Commit{Time: time.Now(), CutLog: []overlay.LogCut{{Log: dots[2].Log, From: dots[2].Seq, To: dots[2].Seq}}}); err != nil {
		t.Fatal(err)
	}
	if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
		t.Fatal(err)
	}
	for _, st := range rig.pillar.Logs() {
		if st.Log == dots[0].Log && st.Seq != dots[1].Seq {
			t.Fatalf("the log is at %d", st.Seq)
		}
	}
	if l := c.one(c.message(c.id())); l.Err != nil || l.Dot.Log == dots[0].Log || l.Dot.Seq != 1 {
		t.Fatalf("written on at %+v, %v", l.Dot, l.Err)
	}
}
