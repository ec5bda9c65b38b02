package store

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// repair does what a scrub asks for.
func (p *Pebble) repair(b *pebble.Batch, c *overlay.Commit, done *overlay.Committed) error {
	w := &p.scratch
	clear(w.forgotten)
	if len(c.Forget)+len(c.Unfile) == 0 {
		return nil
	}
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
	done.Forgotten = make([]bool, len(c.Forget))
	for i := range c.Forget {
		if done.Forgotten[i], err = w.forget(b, known, &c.Forget[i]); err != nil {
			return errors.Join(err, known.close())
		}
	}
	for i := range c.Unfile {
		x := &c.Unfile[i]
		w.key = boxKey(w.key[:0], x.Day, &x.Box, x.Local)
		if err = b.Delete(w.key, nil); err != nil {
			return errors.Join(err, known.close())
		}
	}
	return known.close()
}

// forget removes a record and says whether there was one.
func (w *committer) forget(b *pebble.Batch, known *point, f *overlay.Forgotten) (bool, error) {
	if _, twice := w.forgotten[f.ID]; twice {
		return false, nil
	}
	if w.forgotten == nil {
		w.forgotten = make(map[overlay.RecordID]struct{})
	}
	h := &w.head
	key := recordKey(nil, f.Day, &f.ID)
	stored, err := known.head(key, h)
	if err != nil {
		return false, err
	}
	if !stored {
		h.local = 0
	}
	if h.local != f.Local {
		return false, nil
	}
	w.forgotten[f.ID] = struct{}{}
	if stored {
		boxes := f.Boxes
		if h.form == formHere {
			boxes = append(slices.Clip(boxes), h.home)
		}
		for i := range boxes {
			w.key = boxKey(w.key[:0], f.Day, &boxes[i], h.local)
			if err := b.Delete(w.key, nil); err != nil {
				return false, err
			}
		}
		if i, found := w.find(f.Day); found && w.days[i].count > 0 {
			w.days[i].count--
			w.dirty = append(w.dirty, f.Day)
		}
		if err := b.Delete(key, nil); err != nil {
			return false, err
		}
	}
	return stored, b.Delete(bodyKey(nil, f.Day, &f.ID), nil)
}
