package store

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// Box implements overlay.View. It merges one iterator for every expiry day that
// has something newer than after, so it needs memory for a few blocks a day
// whatever the size of the box.
func (v *view) Box(box overlay.BoxID, after, to uint64, minDay overlay.Day, bodies bool, fn func(r overlay.BoxEntry) bool) error {
	if err := v.begin(); err != nil {
		return err
	}
	defer v.e.end()
	if after >= to {
		return nil
	}
	m := merge{}
	err := m.open(v, &box, after, to, minDay)
	if err == nil {
		err = m.run(v, bodies, fn)
	}
	return damaged(errors.Join(err, m.close()))
}

// merge goes through the entries of one box on several days by local sequence.
type merge struct {
	days []boxDay // a heap by local
	at   *point   // for bodies elsewhere; nil until needed
}

// boxDay is the position in one day.
type boxDay struct {
	it    *pebble.Iterator
	day   overlay.Day
	local uint64
}

func (m *merge) open(v *view, box *overlay.BoxID, after, to uint64, minDay overlay.Day) error {
	for _, d := range v.daysFrom(minDay) {
		if d.last <= after {
			continue
		}
		low := boxKey(nil, d.day, box, after+1)
		var high []byte
		if to == math.MaxUint64 {
			high = successor(low[:boxLen-8])
		} else {
			high = boxKey(nil, d.day, box, to+1)
		}
		it, err := v.ep.snap.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
		if err != nil {
			return err
		}
		if !it.First() {
			if err := errors.Join(it.Error(), it.Close()); err != nil {
				return err
			}
			continue
		}
		m.days = append(m.days, boxDay{it: it, day: d.day})
		if err := m.days[len(m.days)-1].read(); err != nil {
			return err
		}
	}
	heap.Init(m)
	return nil
}

// read takes the local sequence from the key.
func (d *boxDay) read() error {
	k := d.it.Key()
	if err := checkLen("box key", k, boxLen); err != nil {
		return err
	}
	d.local = binary.BigEndian.Uint64(k[boxLen-8:])
	return nil
}

func (m *merge) run(v *view, bodies bool, fn func(r overlay.BoxEntry) bool) error {
	for len(m.days) > 0 {
		d := &m.days[0]
		val, err := d.it.ValueAndErr()
		if err != nil {
			return err
		}
		r := overlay.BoxEntry{Local: d.local}
		form, rest, ok := parsePlace(val, &r)
		if !ok {
			err = errNoBody
		} else if bodies {
			r.Raw, err = m.raw(v, d, form, rest)
		}
		switch {
		case errors.Is(err, errNoBody): // see there
		case err != nil:
			return err
		case !fn(r):
			return nil
		}
		if d.it.Next() {
			err = d.read()
			if len(m.days) > 1 {
				heap.Fix(m, 0)
			}
		} else {
			it := heap.Pop(m).(boxDay).it
			err = errors.Join(it.Error(), it.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *merge) raw(v *view, d *boxDay, form byte, rest []byte) ([]byte, error) {
	if form == formHere {
		return rest, nil
	}
	if m.at == nil {
		var err error
		if m.at, err = newPoint(v.ep.snap); err != nil {
			return nil, err
		}
	}
	home := overlay.BoxID(rest)
	return m.at.place(d.day, &home, d.local)
}

func (m *merge) close() error {
	var err error
	for i := range m.days {
		err = errors.Join(err, m.days[i].it.Close())
	}
	if m.at != nil {
		err = errors.Join(err, m.at.close())
	}
	return err
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (m *merge) Len() int           { return len(m.days) }
func (m *merge) Less(i, j int) bool { return m.days[i].local < m.days[j].local }
func (m *merge) Swap(i, j int)      { m.days[i], m.days[j] = m.days[j], m.days[i] }
func (m *merge) Push(x any)         { m.days = append(m.days, x.(boxDay)) }
func (m *merge) Pop() any {
	last := m.days[len(m.days)-1]
	m.days = m.days[:len(m.days)-1]
	return last
}
