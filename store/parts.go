package store

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// Parts implements overlay.View.
func (v *view) Parts() overlay.Parts { return parts{v} }

// parts shows the columns of a view.
type parts struct{ v *view }

// Days implements overlay.Parts.
func (p parts) Days() ([]overlay.Day, error) {
	if p.v.ep == nil {
		return nil, p.v.e.gone()
	}
	var days []overlay.Day
	err := p.skip([]byte{spaceExpiring}, dayLen, func(k []byte) {
		days = append(days, overlay.Day(binary.BigEndian.Uint32(k[1:])))
	})
	return days, err
}

// Logs implements overlay.Parts.
func (p parts) Logs(fn func(log overlay.LogID) bool) error {
	var logs []overlay.LogID
	err := p.skip([]byte{spaceLog}, logLen-8, func(k []byte) { logs = append(logs, overlay.LogID(k[1:])) })
	for i := range logs {
		if err != nil || !fn(logs[i]) {
			break
		}
	}
	return err
}

// skip calls fn for the first n bytes of the keys in a space, once for each.
func (p parts) skip(space []byte, n int, fn func(k []byte)) error {
	if err := p.v.begin(); err != nil {
		return err
	}
	defer p.v.e.end()
	it, err := p.v.ep.snap.NewIter(&pebble.IterOptions{LowerBound: space, UpperBound: successor(space)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; {
		k := append([]byte(nil), it.Key()...)
		if len(k) < n {
			return errors.Join(checkLen("key", k, n), it.Close())
		}
		fn(k[:n])
		next := successor(k[:n])
		if next == nil {
			break
		}
		ok = it.SeekGE(next)
	}
	return damaged(errors.Join(it.Error(), it.Close()))
}

// Heads implements overlay.Parts.
func (p parts) Heads(day overlay.Day, after overlay.RecordID, fn func(r overlay.StoredRecord) bool) error {
	var h head
	return p.v.scan(append(recordKey(nil, day, &after), 0), successor(append(appendDay(nil, day), kindRecord)), func(k, val []byte) (bool, error) {
		if err := checkLen("record key", k, recordLen); err != nil {
			return false, err
		}
		return !h.parse(val) || fn(h.record(overlay.RecordID(k[dayLen+1:]))), nil
	})
}

// Places implements overlay.Parts.
func (p parts) Places(day overlay.Day, after overlay.Place, fn func(p overlay.Place, e overlay.BoxEntry) bool) error {
	low := append(boxKey(nil, day, &after.Box, after.Local), 0)
	if after == (overlay.Place{}) {
		low = append(appendDay(nil, day), kindBox)
	}
	return p.v.scan(low, successor(append(appendDay(nil, day), kindBox)), func(k, val []byte) (bool, error) {
		if err := checkLen("box key", k, boxLen); err != nil {
			return false, err
		}
		at := overlay.Place{Day: day, Box: overlay.BoxID(k[dayLen+1:]), Local: binary.BigEndian.Uint64(k[boxLen-8:])}
		e := overlay.BoxEntry{Local: at.Local}
		if form, rest, ok := parsePlace(val, &e); !ok {
			e.ID = overlay.RecordID{}
		} else if form == formHere {
			e.Raw = rest
		}
		return fn(at, e), nil
	})
}

// Bodies implements overlay.Parts.
func (p parts) Bodies(day overlay.Day, after overlay.RecordID, fn func(id overlay.RecordID, raw []byte) bool) error {
	return p.v.scan(append(bodyKey(nil, day, &after), 0), successor(append(appendDay(nil, day), kindBody)), func(k, val []byte) (bool, error) {
		if err := checkLen("body key", k, recordLen); err != nil {
			return false, err
		}
		return fn(overlay.RecordID(k[dayLen+1:]), val), nil
	})
}

// Locals implements overlay.Parts.
func (p parts) Locals(refs []overlay.Ref) ([]uint64, error) {
	locals := make([]uint64, len(refs))
	err := p.v.find(refs, func(_ *point, i int, _ overlay.Day, h *head) (bool, error) {
		locals[i] = h.local
		return true, nil
	})
	return locals, err
}

// Filed implements overlay.Parts.
func (p parts) Filed(places []overlay.Place) ([]bool, error) {
	if err := p.v.begin(); err != nil {
		return nil, err
	}
	defer p.v.e.end()
	at, err := newPoint(p.v.ep.snap)
	if err != nil {
		return nil, err
	}
	filed := make([]bool, len(places))
	var key []byte
	for i := range places {
		x := &places[i]
		key = boxKey(key[:0], x.Day, &x.Box, x.Local)
		if _, filed[i], err = at.get(key); err != nil {
			break
		}
	}
	return filed, damaged(errors.Join(err, at.close()))
}
