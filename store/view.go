package store

import (
	"encoding/binary"
	"errors"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// view is a snapshot of a Pebble: one epoch of the engine, shared with others.
type view struct {
	e  *engine
	ep *epoch // nil after Close, or if the store was closed before
}

// View implements overlay.Store. It takes no I/O and waits for no commit.
func (p *Pebble) View() overlay.View {
	e := p.e()
	return &view{e: e, ep: e.ref()}
}

// Close implements overlay.View.
func (v *view) Close() error {
	if v.ep != nil {
		v.e.unref(v.ep)
		v.ep = nil
	}
	return nil
}

// LastLocal implements overlay.View.
func (v *view) LastLocal() uint64 {
	if v.ep == nil {
		return 0
	}
	return v.ep.summary.local
}

// begin announces a read; end must follow.
func (v *view) begin() error {
	if v.ep == nil {
		return v.e.gone()
	}
	return v.e.begin()
}

// daysFrom returns the days with records from min on.
func (v *view) daysFrom(min overlay.Day) []dayInfo {
	days := v.ep.summary.days
	return days[sort.Search(len(days), func(i int) bool { return days[i].day >= min }):]
}

// Get implements overlay.View.
func (v *view) Get(refs []overlay.Ref, fn func(i int, r overlay.StoredRecord) bool) error {
	return v.find(refs, func(at *point, i int, day overlay.Day, h *head) (bool, error) {
		r := h.record(refs[i].ID)
		var err error
		if r.Raw, err = at.body(day, &r.ID, h); errors.Is(err, errNoBody) {
			return true, nil
		} else if err != nil {
			return false, err
		}
		return fn(i, r), nil
	})
}

// Has implements overlay.View.
func (v *view) Has(refs []overlay.Ref) ([]bool, error) {
	has := make([]bool, len(refs))
	err := v.find(refs, func(_ *point, i int, _ overlay.Day, _ *head) (bool, error) {
		has[i] = true
		return true, nil
	})
	return has, err
}

// find calls fn for the refs that are stored, in order.
func (v *view) find(refs []overlay.Ref, fn func(at *point, i int, day overlay.Day, h *head) (bool, error)) error {
	if err := v.begin(); err != nil {
		return err
	}
	defer v.e.end()
	at, err := newPoint(v.ep.snap)
	if err != nil {
		return damaged(err)
	}
	var h head
	var key []byte
	for i := range refs {
		ref := &refs[i]
		days := v.ep.summary.days
		if ref.Day != 0 {
			key = recordKey(key[:0], ref.Day, &ref.ID)
			days = nil
		}
		day, found := ref.Day, false
		if ref.Day != 0 {
			found, err = at.head(key, &h)
		}
		// Most of what is asked for is young.
		for j := len(days) - 1; j >= 0 && !found && err == nil; j-- {
			day = days[j].day
			key = recordKey(key[:0], day, &ref.ID)
			found, err = at.head(key, &h)
		}
		goOn := true
		if err == nil && found {
			goOn, err = fn(at, i, day, &h)
		}
		if err != nil {
			return damaged(errors.Join(err, at.close()))
		}
		if !goOn {
			break
		}
	}
	return damaged(at.close())
}

// Log implements overlay.View.
func (v *view) Log(log overlay.LogID, from uint64, fn func(seq uint64, e overlay.LogEntry) bool) error {
	low := logKey(nil, &log, from)
	return v.scan(low, successor(low[:logLen-8]), func(k, val []byte) (bool, error) {
		if err := checkLen("log key", k, logLen); err != nil {
			return false, err
		}
		e, ok := parseEntry(val)
		return !ok || fn(binary.BigEndian.Uint64(k[logLen-8:]), e), nil
	})
}

// Records implements overlay.View.
func (v *view) Records(minDay overlay.Day, fn func(day overlay.Day, r overlay.StoredRecord) bool) error {
	if v.ep == nil {
		return v.e.gone()
	}
	var h head
	stopped := false
	for _, d := range v.daysFrom(minDay) {
		low := append(appendDay(nil, d.day), kindRecord)
		err := v.scan(low, successor(low), func(k, val []byte) (bool, error) {
			if err := checkLen("record key", k, recordLen); err != nil {
				return false, err
			}
			if !h.parse(val) {
				return true, nil
			}
			stopped = !fn(d.day, h.record(overlay.RecordID(k[dayLen+1:])))
			return !stopped, nil
		})
		if err != nil || stopped {
			return err
		}
	}
	return nil
}

// Near implements overlay.View.
func (v *view) Near(day overlay.Day, prefix []byte, fn func(r overlay.StoredRecord) bool) error {
	var h head
	low := append(append(appendDay(nil, day), kindRecord), prefix...)
	return v.scan(low, successor(low), func(k, val []byte) (bool, error) {
		if err := checkLen("record key", k, recordLen); err != nil {
			return false, err
		}
		return !h.parse(val) || fn(h.record(overlay.RecordID(k[dayLen+1:]))), nil
	})
}

// Values implements overlay.View.
func (v *view) Values(prefix string, fn func(key string, data []byte) bool) error {
	low := valueKey(nil, prefix)
	return v.scan(low, successor(low), func(k, val []byte) (bool, error) {
		return fn(string(k[1:]), val), nil
	})
}

// scan calls fn for the keys in [low, high).
func (v *view) scan(low, high []byte, fn func(k, val []byte) (bool, error)) error {
	if err := v.begin(); err != nil {
		return err
	}
	defer v.e.end()
	return damaged(scan(v.ep.snap, low, high, fn))
}

// scan calls fn for the keys of snap in [low, high) until it returns false.
func scan(snap *pebble.Snapshot, low, high []byte, fn func(k, val []byte) (bool, error)) error {
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		val, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if goOn, err := fn(it.Key(), val); err != nil || !goOn {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// point looks up single keys.
type point struct {
	it  *pebble.Iterator
	key []byte
}

// newPoint prepares for lookups in snap. Unlike Snapshot.Get, an iterator can
// use the filters of the lowest level, where nearly all keys are, and is set up
// once for many lookups.
func newPoint(snap *pebble.Snapshot) (*point, error) {
	it, err := snap.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return nil, err
	}
	return &point{it: it}, nil
}

// get returns the value of key, valid until the next lookup.
func (p *point) get(key []byte) ([]byte, bool, error) {
	if !p.it.SeekPrefixGE(key) {
		return nil, false, p.it.Error()
	}
	if string(p.it.Key()) != string(key) {
		return nil, false, nil
	}
	v, err := p.it.ValueAndErr()
	return v, err == nil, err
}

// head reads the head of the record whose key this is.
func (p *point) head(key []byte, h *head) (bool, error) {
	v, found, err := p.get(key)
	if err != nil || !found {
		return false, err
	}
	return h.parse(v), nil
}

// errNoBody: a record's head and its bytes are written and dropped together, so
// somebody else removed them. The scrub removes the head.
var errNoBody = errors.New("store: a record has no bytes")

// body returns the bytes of a record, valid until the next lookup.
func (p *point) body(day overlay.Day, id *overlay.RecordID, h *head) ([]byte, error) {
	if h.form == formHere {
		return p.place(day, &h.home, h.local)
	}
	p.key = bodyKey(p.key[:0], day, id)
	raw, found, err := p.get(p.key)
	if err == nil && !found {
		err = errNoBody
	}
	return raw, err
}

// place returns the bytes in a box entry, valid until the next lookup.
func (p *point) place(day overlay.Day, box *overlay.BoxID, local uint64) ([]byte, error) {
	p.key = boxKey(p.key[:0], day, box, local)
	v, found, err := p.get(p.key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNoBody
	}
	var r overlay.BoxEntry
	form, raw, ok := parsePlace(v, &r)
	if !ok || form != formHere {
		return nil, errNoBody
	}
	return raw, nil
}

func (p *point) close() error { return p.it.Close() }
