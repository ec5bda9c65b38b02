package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// Pebble is a pillar's store on disk. It implements overlay.Store.
type Pebble struct {
	e *engine

	// writing is held for the whole of a Commit or Drop, I/O included: it is
	// what puts them one after the other.
	writing sync.Mutex
	scratch committer // guarded by writing
	last    summary   // the newest state; guarded by writing
}

// OpenPebble opens the store in cfg.Dir, or makes one. ErrInUse, ErrNewer and
// ErrForeign are wrapped by its errors and say what to do.
func OpenPebble(cfg PebbleConfig) (*Pebble, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e, err := openEngine(cfg.Dir, "pillar", cfg.FS, cfg.Memory, cfg.Logger)
	if err != nil {
		return nil, err
	}
	p := &Pebble{e: e}
	if err := p.load(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Dir, errors.Join(err, e.close()))
	}
	e.publish(p.last)
	if len(p.last.days) > 0 {
		e.dropTo(p.last.days[0].day) // the last run may not have come to it
	}
	return p, nil
}

// load reads the summary.
func (p *Pebble) load() error {
	v, closer, err := p.e.db.Get(keyLocal)
	known := err == nil && len(v) == 8
	if known {
		p.last.local = binary.BigEndian.Uint64(v)
	}
	if err == nil {
		err = closer.Close()
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	return p.count(!known)
}

// count counts the records of every day and finds the newest local sequences:
// what is kept of that is only believed where keys of the day's records say the
// same, since anybody may have removed some. It reads a hundred bytes a record,
// in order. places has it look at box entries too.
func (p *Pebble) count(places bool) error {
	it, err := p.e.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{spaceExpiring}, UpperBound: []byte{spaceExpiring + 1},
	})
	if err != nil {
		return err
	}
	var key []byte
	var h head
	for ok := it.First(); ok; ok = it.SeekGE(key) {
		if len(it.Key()) < dayLen {
			return errors.Join(checkLen("key", it.Key(), dayLen), it.Close())
		}
		d := dayInfo{day: overlay.Day(binary.BigEndian.Uint32(it.Key()[1:]))}
		key = dayKey(key[:0], d.day)
		if it.SeekGE(key) && string(it.Key()) == string(key) && len(it.Value()) == 16 {
			d.last = binary.BigEndian.Uint64(it.Value()[8:])
		}
		if places {
			key = append(appendDay(key[:0], d.day), kindBox)
			end := successor(key)
			for ok := it.SeekGE(key); ok && string(it.Key()) < string(end) && len(it.Key()) == boxLen; ok = it.Next() {
				d.last = max(d.last, binary.BigEndian.Uint64(it.Key()[boxLen-8:]))
			}
		}
		key = append(appendDay(key[:0], d.day), kindRecord)
		end := successor(key)
		for ok := it.SeekGE(key); ok && string(it.Key()) < string(end); ok = it.Next() {
			if h.parse(it.Value()) {
				d.count++
				d.last = max(d.last, h.local)
			}
		}
		p.last.days = append(p.last.days, d)
		p.last.records += d.count
		p.last.local = max(p.last.local, d.last)
		key = afterDay(key[:0], d.day)
	}
	return errors.Join(it.Error(), it.Close())
}

func checkLen(what string, v []byte, want int) error {
	if len(v) != want {
		return fmt.Errorf("store: damaged %s of %d bytes", what, len(v))
	}
	return nil
}

// Drop implements overlay.Store: one range deletion.
func (p *Pebble) Drop(before overlay.Day) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	next := summary{local: p.last.local}
	for _, d := range p.last.days {
		if d.day >= before {
			next.days = append(next.days, d)
			next.records += d.count
		}
	}
	if len(next.days) == len(p.last.days) {
		return p.ready()
	}
	b := p.e.db.NewBatch()
	if err := b.DeleteRange(appendDay(nil, 0), appendDay(nil, before), nil); err != nil {
		return err
	}
	if err := p.write(b, next); err != nil {
		return err
	}
	p.e.dropTo(before)
	return nil
}

// ready says whether p takes commits.
func (p *Pebble) ready() error {
	if err := p.e.begin(); err != nil {
		return err
	}
	defer p.e.end()
	return p.e.failure()
}

// write makes b durable and next the newest state.
func (p *Pebble) write(b *pebble.Batch, next summary) error {
	if err := p.e.write(b, next); err != nil {
		return err
	}
	p.last = next
	return nil
}

// Stats implements overlay.Store.
func (p *Pebble) Stats() overlay.StoreStats {
	ep := p.e.ref()
	if ep == nil {
		return overlay.StoreStats{Failed: overlay.ErrStoreClosed}
	}
	defer p.e.unref(ep)
	return overlay.StoreStats{
		Records:   ep.summary.records,
		Bytes:     p.e.diskUsage(),
		LastLocal: ep.summary.local,
		Failed:    p.e.failure(),
	}
}

// Close implements overlay.Store. Views that are still open give
// ErrStoreClosed from then on.
func (p *Pebble) Close() error {
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.e.close()
}
