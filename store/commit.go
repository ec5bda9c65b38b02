package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// Limits of overlay.Value.
const (
	maxValueKey  = 64
	maxValueData = 64 << 10
)

// committer turns an overlay.Commit into one Pebble batch. Its fields are
// memory used again by the next commit.
type committer struct {
	key  []byte
	head head
	seen map[overlay.RecordID]struct{}
	days []dayInfo

	forgotten map[overlay.RecordID]struct{} // by the commit that is built
	dirty     []overlay.Day                 // days whose count fell
}

// Commit implements overlay.Store.
func (p *Pebble) Commit(c *overlay.Commit) (overlay.Committed, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := checkCommit(c, &p.scratch.seen); err != nil {
		return overlay.Committed{}, err
	}
	if err := p.ready(); err != nil {
		return overlay.Committed{}, err
	}
	b := p.e().db.NewBatch()
	done, next, err := p.build(b, c)
	if err != nil {
		return overlay.Committed{}, fmt.Errorf("commit: %w", damaged(errors.Join(err, b.Close())))
	}
	if b.Empty() {
		return done, b.Close()
	}
	if err := p.write(b, next); err != nil {
		return overlay.Committed{}, fmt.Errorf("commit: %w", err)
	}
	return done, nil
}

// checkCommit refuses what no caller may ask for.
func checkCommit(c *overlay.Commit, seen *map[overlay.RecordID]struct{}) error {
	if len(c.Records) > 1 {
		if *seen == nil {
			*seen = make(map[overlay.RecordID]struct{})
		}
		clear(*seen)
		for i := range c.Records {
			(*seen)[c.Records[i].ID] = struct{}{}
		}
		if len(*seen) != len(c.Records) {
			return errors.New("commit: one record twice")
		}
	}
	for i := range c.Values {
		if v := &c.Values[i]; len(v.Key) > maxValueKey || len(v.Data) > maxValueData {
			return fmt.Errorf("commit: value %q: key of %d or data of %d bytes is too long", v.Key, len(v.Key), len(v.Data))
		}
	}
	return nil
}

// build fills b and returns the state after it.
func (p *Pebble) build(b *pebble.Batch, c *overlay.Commit) (overlay.Committed, summary, error) {
	w := &p.scratch
	next := p.last
	done := overlay.Committed{Local: make([]uint64, len(c.Records)), New: make([]bool, len(c.Records))}
	w.days, w.dirty = append(w.days[:0], p.last.days...), w.dirty[:0]
	if err := p.repair(b, c, &done); err != nil {
		return done, next, err
	}
	if len(c.Records) > 0 {
		if err := p.addRecords(b, c, &next, &done); err != nil {
			return done, next, err
		}
	}
	if next.local != p.last.local || len(w.dirty) > 0 {
		w.addDays(b, &next, p.last.local)
	}
	for i := range c.DropLog {
		// Before the new entries: a later operation of a batch wins.
		low := logKey(nil, &c.DropLog[i], 0)
		if err := b.DeleteRange(low, successor(low[:logLen-8]), nil); err != nil {
			return done, next, err
		}
	}
	for i := range c.CutLog {
		cut := &c.CutLog[i]
		low, high := logKey(nil, &cut.Log, cut.From), append(logKey(nil, &cut.Log, cut.To), 0)
		if err := b.DeleteRange(low, high, nil); err != nil {
			return done, next, err
		}
	}
	for i := range c.Logs {
		l := &c.Logs[i]
		for j := range l.Entries {
			op := b.SetDeferred(logLen, entryLen)
			logKey(op.Key[:0], &l.Log, l.From+uint64(j))
			appendEntry(op.Value[:0], &l.Entries[j])
			if err := op.Finish(); err != nil {
				return done, next, err
			}
		}
	}
	for i := range c.Values {
		v := &c.Values[i]
		w.key = valueKey(w.key[:0], v.Key)
		var err error
		if v.Data == nil {
			err = b.Delete(w.key, nil)
		} else {
			err = b.Set(w.key, v.Data, nil)
		}
		if err != nil {
			return done, next, err
		}
	}
	return done, next, nil
}

// addRecords files the records that are new and adds the dots of the others.
func (p *Pebble) addRecords(b *pebble.Batch, c *overlay.Commit, next *summary, done *overlay.Committed) error {
	w := &p.scratch
	// Nothing but commits writes, so the snapshot is the newest state.
	e := p.e()
	ep := e.ref()
	if ep == nil {
		return e.gone()
	}
	defer e.unref(ep)
	known, err := newPoint(ep.snap)
	if err != nil {
		return err
	}
	received := uint64(max(c.Time.UnixMilli(), 0))
	for i := range c.Records {
		a := &c.Records[i]
		day := overlay.DayOf(a.Expires)
		w.key = recordKey(w.key[:0], day, &a.ID)
		stored, err := known.head(w.key, &w.head)
		if _, gone := w.forgotten[a.ID]; gone {
			stored = false
		}
		if err == nil && stored && a.Raw != nil {
			if _, err = known.body(day, &a.ID, &w.head); errors.Is(err, errNoBody) {
				// Somebody removed them: it is stored as if it had never been.
				err, stored = nil, false
				done.Again = append(done.Again, i)
				if k, found := w.find(day); found && w.days[k].count > 0 {
					w.days[k].count--
				}
			}
		}
		if err == nil && stored {
			err = w.addDot(b, a)
			done.Local[i] = w.head.local
		} else if err == nil && a.Raw != nil {
			next.local++
			err = w.file(b, a, day, next.local, received)
			done.Local[i], done.New[i] = next.local, true
		}
		if err != nil {
			return errors.Join(err, known.close())
		}
	}
	return known.close()
}

// addDot adds the dot of a to the record w.key, w.head if it is a new one.
func (w *committer) addDot(b *pebble.Batch, a *overlay.Arrival) error {
	h := &w.head
	if a.Dot == (overlay.Dot{}) || len(h.dots) >= overlay.MaxDots || slices.Contains(h.dots, a.Dot) {
		return nil
	}
	h.dots = append(h.dots, a.Dot)
	op := b.SetDeferred(len(w.key), h.size())
	copy(op.Key, w.key)
	h.append(op.Value[:0])
	return op.Finish()
}

// file adds a new record, whose key is w.key.
func (w *committer) file(b *pebble.Batch, a *overlay.Arrival, day overlay.Day, local, received uint64) error {
	h := &w.head
	*h = head{
		local: local, received: received, created: a.Created, expires: a.Expires,
		via: a.Via, dots: h.dots[:0],
	}
	if a.Dot != (overlay.Dot{}) {
		h.dots = append(h.dots, a.Dot)
	}
	if len(a.Boxes) > 0 {
		h.form, h.home = formHere, a.Boxes[0]
	} else {
		op := b.SetDeferred(recordLen, len(a.Raw))
		bodyKey(op.Key[:0], day, &a.ID)
		copy(op.Value, a.Raw)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	op := b.SetDeferred(len(w.key), h.size())
	copy(op.Key, w.key)
	h.append(op.Value[:0])
	if err := op.Finish(); err != nil {
		return err
	}
	for i := range a.Boxes {
		box := &a.Boxes[i]
		form, rest := byte(formHere), a.Raw
		if i > 0 {
			if *box == h.home {
				continue // or a pointer to itself would replace the bytes
			}
			form, rest = formElsewhere, h.home[:]
		}
		op := b.SetDeferred(boxLen, placeLen+len(rest))
		boxKey(op.Key[:0], day, box, local)
		appendPlace(op.Value[:0], a, form, rest)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	w.count(day, local)
	return nil
}

// count counts a new record of day.
func (w *committer) count(day overlay.Day, local uint64) {
	i, found := w.find(day)
	if !found {
		w.days = slices.Insert(w.days, i, dayInfo{day: day})
	}
	w.days[i].count++
	w.days[i].last = local
}

// find returns the index of day in days, or where it belongs.
func (w *committer) find(day overlay.Day) (int, bool) {
	return slices.BinarySearchFunc(w.days, day, func(d dayInfo, day overlay.Day) int { return cmp.Compare(d.day, day) })
}

// addDays writes the summaries of the days that got records after the local
// sequence before or lost some, and the newest local sequence, and puts them into next.
func (w *committer) addDays(b *pebble.Batch, next *summary, before uint64) {
	next.records = 0
	for i := range w.days {
		d := &w.days[i]
		next.records += d.count
		if d.last <= before && !slices.Contains(w.dirty, d.day) {
			continue
		}
		w.key = dayKey(w.key[:0], d.day)
		op := b.SetDeferred(len(w.key), 16)
		copy(op.Key, w.key)
		d.append(op.Value[:0])
		_ = op.Finish() // only indexed batches fail
	}
	next.days = slices.Clone(w.days)
	op := b.SetDeferred(len(keyLocal), 8)
	copy(op.Key, keyLocal)
	binary.BigEndian.PutUint64(op.Value, next.local)
	_ = op.Finish()
}
