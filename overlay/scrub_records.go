package overlay

import (
	"bytes"
	"context"
)

// recordFix is what was found of records and boxes, for the committer.
type recordFix struct {
	forget  []Forgotten
	gone    []RecordStub // of forget, one for one; zero for what nobody counted
	removed int          // the committer's: how many of gone there were
	refiled int          // of gone, in boxes again with what is restored
	unfile  []Place
	restore []restored
}

// restored is a record that is stored again, as it came.
type restored struct {
	rec *Record
	dot Dot
	via Via
}

func (f *recordFix) empty() bool {
	return len(f.forget)+len(f.unfile)+len(f.restore) == 0
}

// takeFix is the committer's.
func (c *committer) takeFix(f *recordFix) {
	if len(f.forget) > 0 && len(c.commit.Forget) == 0 {
		c.p.forgets.Add(1) // odd until it is written
	}
	c.commit.Forget = append(c.commit.Forget, f.forget...)
	c.commit.Unfile = append(c.commit.Unfile, f.unfile...)
	c.fixes = append(c.fixes, f)
	for _, r := range f.restore {
		c.arrive(&Arrival{ID: r.rec.ID, Created: r.rec.Created, Expires: r.rec.Expires, Raw: r.rec.Raw,
			Boxes: BoxesOf(r.rec), Dot: r.dot, Via: r.via}, r.rec)
	}
}

// publishGone returns which records that still lived had been counted without
// being there: those of what was forgotten, and those whose bytes came again.
func (c *committer) publishGone(done *Committed) (gone []RecordStub) {
	for _, i := range done.Again {
		a := &c.commit.Records[i]
		gone = append(gone, RecordStub{ID: a.ID, Created: a.Created, Expires: a.Expires})
	}
	now := c.p.now()
	i := 0
	for _, f := range c.fixes {
		for k, stub := range f.gone {
			if done.Forgotten[i] {
				delete(c.recent, f.forget[k].ID) // no duplicate any more
				delete(c.older, f.forget[k].ID)
			}
			if done.Forgotten[i] && stub != (RecordStub{}) {
				f.removed++
				if stub.Expires > now {
					gone = append(gone, stub)
				}
			}
			i++
		}
	}
	return gone
}

// commit has a fix committed.
func (s *scrubber) commit(ctx context.Context, f *recordFix) error {
	if f.empty() {
		return nil
	}
	if err := s.p.commit(ctx, commitJob{fix: f, done: make(chan error, 1)}); err != nil {
		return err
	}
	for what, n := range map[string]int{"record": f.removed - f.refiled, "unfiled": len(f.unfile), "box": f.refiled, "orphan": len(f.restore) - f.refiled} {
		if n > 0 {
			s.p.metrics.repairs.WithLabelValues(what).Add(float64(n))
			s.p.log.Warn("store repaired", "what", what, "n", n)
			s.changed = true
		}
	}
	return nil
}

// steps looks through a column of a day, a chunk a step, and has committed what
// it finds. some looks at what follows a key and returns what is to be repaired,
// at how much it looked and the last key of that.
func steps[K any](ctx context.Context, s *scrubber, some func(after K) (fix *recordFix, n int, last K, err error)) error {
	var after K
	for {
		fix, n, last, err := some(after)
		if err != nil || n == 0 {
			return err
		}
		if err := s.commit(ctx, fix); err != nil {
			return err
		}
		if err := s.pace(ctx, n); err != nil {
			return err
		}
		after = last
	}
}

// heads looks for records of a day without their bytes, or with others, which are
// none, and for those that are missing in a box. Such a record is stored anew: at a new place in
// local order, so that a mailbox that was read up to there is read on from there,
// and who is connected is pushed it.
func (s *scrubber) heads(ctx context.Context, day Day) error {
	return steps(ctx, s, func(after RecordID) (*recordFix, int, RecordID, error) { return s.someHeads(day, after) })
}

func (s *scrubber) someHeads(day Day, after RecordID) (fix *recordFix, n int, last RecordID, err error) {
	view := s.p.cfg.Store.View()
	defer view.Close()
	var heads []StoredRecord
	var refs []Ref
	err = view.Parts().Heads(day, after, func(r StoredRecord) bool {
		if len(r.Dots) > 0 { // the slice is the view's
			r.Dots = []Dot{r.Dots[0]}
		}
		heads, refs = append(heads, r), append(refs, Ref{ID: r.ID, Day: day})
		return len(heads) < scrubChunk
	})
	if err != nil || len(heads) == 0 {
		return nil, 0, after, err
	}
	boxes := make([][]BoxID, len(heads))
	whole := make([]bool, len(heads))
	anew := make([]bool, len(heads)) // the bytes are right, and what is said of them is not
	err = view.Get(refs, func(i int, r StoredRecord) bool {
		rec, err := s.p.verifier.Parse(r.Raw)
		whole[i] = err == nil && rec.ID == r.ID && (s.first || s.signed(rec))
		if whole[i] {
			boxes[i] = BoxesOf(rec)
			anew[i] = rec.Created != r.Created || rec.Expires != r.Expires
		}
		return true
	})
	if err != nil {
		return nil, 0, after, err
	}
	if err := unfiled(view, day, heads, boxes, anew); err != nil {
		return nil, 0, after, err
	}
	fix = &recordFix{}
	size := 0
	for i := range heads {
		h := &heads[i]
		if whole[i] && !anew[i] {
			continue
		}
		if whole[i] {
			if size > scrubChunkBytes {
				heads = heads[:i] // looked at again in the next step
				break
			}
			n, err := s.fileAnew(view, fix, refs[i], h)
			if err != nil {
				return nil, 0, after, err
			}
			size += n
		}
		fix.forget = append(fix.forget, Forgotten{ID: h.ID, Day: day, Local: h.Local, Boxes: boxes[i]})
		fix.gone = append(fix.gone, RecordStub{ID: h.ID, Created: h.Created, Expires: h.Expires})
	}
	return fix, len(heads), heads[len(heads)-1].ID, nil
}

// unfiled sets missing[i] for the heads that are missing in one of their boxes.
func unfiled(view View, day Day, heads []StoredRecord, boxes [][]BoxID, missing []bool) error {
	var places []Place
	var of []int
	for i := range heads {
		for _, box := range boxes[i] {
			places, of = append(places, Place{day, box, heads[i].Local}), append(of, i)
		}
	}
	filed, err := view.Parts().Filed(places)
	for k, ok := range filed {
		missing[of[k]] = missing[of[k]] || !ok
	}
	return err
}

// signed checks a record's signature, which its ID is not made of. It costs many
// times what the rest does, so the first pass, which others wait for, leaves it to
// those that follow.
func (s *scrubber) signed(rec *Record) bool { return s.p.verifier.VerifyOne(rec) == nil }

// fileAnew has a record that is to be forgotten stored again, and returns its
// size.
func (s *scrubber) fileAnew(view View, fix *recordFix, ref Ref, h *StoredRecord) (size int, err error) {
	dot := Dot{}
	if len(h.Dots) > 0 && (h.Via == ViaSubmit || h.Via == ViaFollow) {
		dot = h.Dots[0] // else it is not the one it came by
	}
	err = view.Get([]Ref{ref}, func(_ int, r StoredRecord) bool {
		size = len(r.Raw)
		if s.restore(fix, h.ID, bytes.Clone(r.Raw), dot, h.Via) {
			fix.refiled++
		}
		return true
	})
	return size, err
}

// places looks for box entries of a day that are of no record. If they have the
// bytes of one, it is stored again.
func (s *scrubber) places(ctx context.Context, day Day) error {
	return steps(ctx, s, func(after Place) (*recordFix, int, Place, error) { return s.somePlaces(day, after) })
}

func (s *scrubber) somePlaces(day Day, after Place) (fix *recordFix, n int, last Place, err error) {
	view := s.p.cfg.Store.View()
	defer view.Close()
	var places []Place
	var entries []BoxEntry
	var refs []Ref
	size := 0
	err = view.Parts().Places(day, after, func(at Place, e BoxEntry) bool {
		e.Raw = bytes.Clone(e.Raw)
		size += len(e.Raw)
		places, entries, refs = append(places, at), append(entries, e), append(refs, Ref{ID: e.ID, Day: day})
		return len(places) < scrubChunk && size < scrubChunkBytes
	})
	if err != nil || len(places) == 0 {
		return nil, 0, after, err
	}
	locals, err := view.Parts().Locals(refs)
	if err != nil {
		return nil, 0, after, err
	}
	fix = &recordFix{}
	for i := range places {
		if locals[i] == places[i].Local {
			continue
		}
		fix.unfile = append(fix.unfile, places[i])
		if locals[i] == 0 && entries[i].Raw != nil {
			via := ViaAudit
			if entries[i].Dot != (Dot{}) {
				via = ViaFollow
			}
			s.restore(fix, entries[i].ID, entries[i].Raw, entries[i].Dot, via)
		}
	}
	return fix, len(places), places[len(places)-1], nil
}

// restore adds a record to what is stored again, if its bytes are one.
func (s *scrubber) restore(fix *recordFix, id RecordID, raw []byte, dot Dot, via Via) bool {
	rec, err := s.p.verifier.Parse(raw)
	if err != nil || rec.ID != id || s.p.verifier.VerifyOne(rec) != nil {
		return false
	}
	rec.detach()
	fix.restore = append(fix.restore, restored{rec, dot, via})
	return true
}

// bodies looks for bytes of a day, kept by themselves, without a head.
func (s *scrubber) bodies(ctx context.Context, day Day) error {
	return steps(ctx, s, func(after RecordID) (*recordFix, int, RecordID, error) { return s.someBodies(day, after) })
}

func (s *scrubber) someBodies(day Day, after RecordID) (fix *recordFix, n int, last RecordID, err error) {
	view := s.p.cfg.Store.View()
	defer view.Close()
	var refs []Ref
	var raws [][]byte
	size := 0
	err = view.Parts().Bodies(day, after, func(id RecordID, raw []byte) bool {
		size += len(raw)
		refs, raws = append(refs, Ref{ID: id, Day: day}), append(raws, bytes.Clone(raw))
		return len(refs) < scrubChunk && size < scrubChunkBytes
	})
	if err != nil || len(refs) == 0 {
		return nil, 0, after, err
	}
	locals, err := view.Parts().Locals(refs)
	if err != nil {
		return nil, 0, after, err
	}
	fix = &recordFix{}
	for i := range refs {
		if locals[i] == 0 {
			fix.forget, fix.gone = append(fix.forget, Forgotten{ID: refs[i].ID, Day: day}), append(fix.gone, RecordStub{})
			s.restore(fix, refs[i].ID, raws[i], Dot{}, ViaAudit)
		}
	}
	return fix, len(refs), refs[len(refs)-1].ID, nil
}
