package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// Pebble is a pillar's store on disk. It implements overlay.Store.
type Pebble struct {
	opening opening
	engine  atomic.Pointer[engine] // another one after Mend

	// writing is held for the whole of a Commit, Drop or Mend, I/O included: it is
	// what puts them one after the other.
	writing sync.Mutex
	scratch committer // guarded by writing
	last    summary   // the newest state; guarded by writing
	lost    error     // why there is no engine any more after Mend; guarded by writing
}

// OpenPebble opens the store in cfg.Dir, or makes one. ErrInUse, ErrNewer and
// ErrForeign are wrapped by its errors and say what to do. What is damaged is cut out
// of it, see Mend, as far as it is met, which it is if it is needed to open a pillar.
func OpenPebble(cfg PebbleConfig) (*Pebble, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Pebble{opening: opening{dir: cfg.Dir, kind: "pillar", fs: cfg.FS, memory: cfg.Memory, log: cfg.Logger,
		rot: newRot(cfg.Logger), mend: true}}
	if err := p.open(); err != nil {
		return nil, err
	}
	return p, nil
}

// open opens the database. p.writing is held, or p is not used yet.
func (p *Pebble) open() error {
	e, err := p.opening.engine(func(e *engine) error {
		p.last = summary{}
		return p.load(e)
	})
	if err != nil {
		return err
	}
	e.publish(p.last)
	p.engine.Store(e)
	if len(p.last.days) > 0 {
		e.dropTo(p.last.days[0].day) // the last run may not have come to it
	}
	return nil
}

// e is the engine that is used.
func (p *Pebble) e() *engine { return p.engine.Load() }

// load reads the summary, and all values once: what is damaged of them is to be
// found now, not by whoever needs them.
func (p *Pebble) load(e *engine) error {
	if err := scan(e.current.snap, []byte{spaceValue}, []byte{spaceValue + 1}, func(_, _ []byte) (bool, error) { return true, nil }); err != nil {
		return err
	}
	v, closer, err := e.db.Get(keyLocal)
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
	return p.count(e, !known)
}

// count counts the records of every day and finds the newest local sequences:
// what is kept of that is only believed where keys of the day's records say the
// same, since anybody may have removed some. It reads a hundred bytes a record,
// in order. places has it look at box entries too.
func (p *Pebble) count(e *engine, places bool) error {
	it, err := e.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{spaceExpiring}, UpperBound: []byte{spaceExpiring + 1},
	})
	if err != nil {
		return err
	}
	var key []byte
	for ok := it.First(); ok; ok = it.SeekGE(key) {
		if len(it.Key()) < dayLen {
			return errors.Join(checkLen("key", it.Key(), dayLen), it.Close())
		}
		d := countDay(it, overlay.Day(binary.BigEndian.Uint32(it.Key()[1:])), places)
		p.last.days = append(p.last.days, d)
		p.last.records += d.count
		p.last.local = max(p.last.local, d.last)
		key = afterDay(key[:0], d.day)
	}
	return errors.Join(it.Error(), it.Close())
}

// countDay counts the records of a day. it says if that failed.
func countDay(it *pebble.Iterator, day overlay.Day, places bool) dayInfo {
	var h head
	d := dayInfo{day: day}
	key := dayKey(nil, day)
	if it.SeekGE(key) && string(it.Key()) == string(key) && len(it.Value()) == 16 {
		d.last = binary.BigEndian.Uint64(it.Value()[8:])
	}
	if places {
		key = append(appendDay(key[:0], day), kindBox)
		end := successor(key)
		for ok := it.SeekGE(key); ok && string(it.Key()) < string(end) && len(it.Key()) == boxLen; ok = it.Next() {
			d.last = max(d.last, binary.BigEndian.Uint64(it.Key()[boxLen-8:]))
		}
	}
	key = append(appendDay(key[:0], day), kindRecord)
	end := successor(key)
	for ok := it.SeekGE(key); ok && string(it.Key()) < string(end); ok = it.Next() {
		if h.parse(it.Value()) {
			d.count++
			d.last = max(d.last, h.local)
		}
	}
	return d
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
	b := p.e().db.NewBatch()
	if err := b.DeleteRange(appendDay(nil, 0), appendDay(nil, before), nil); err != nil {
		return err
	}
	if err := p.write(b, next); err != nil {
		return err
	}
	p.e().dropTo(before)
	return nil
}

// ready says whether p takes commits.
func (p *Pebble) ready() error {
	if p.lost != nil {
		return p.lost
	}
	if err := p.e().begin(); err != nil {
		return err
	}
	defer p.e().end()
	return p.e().failure()
}

// write makes b durable and next the newest state.
func (p *Pebble) write(b *pebble.Batch, next summary) error {
	if err := p.e().write(b, next); err != nil {
		return err
	}
	p.last = next
	return nil
}

// Stats implements overlay.Store.
func (p *Pebble) Stats() overlay.StoreStats {
	waiting, beyond := p.opening.rot.state()
	e := p.e()
	e.mu.Lock()
	s, closed := e.current.summary, e.closed
	e.mu.Unlock()
	if closed && !e.mending.Load() {
		return overlay.StoreStats{Failed: overlay.ErrStoreClosed}
	}
	return overlay.StoreStats{
		Records:   s.records,
		Bytes:     e.diskUsage(),
		LastLocal: s.local,
		Failed:    e.failure(),
		Unread:    waiting,
		Damaged:   beyond,
	}
}

// Mend implements overlay.Store. The database is closed for it and opened again, which
// takes a second and one for each two million records: whoever reads meanwhile, or
// from a View that was open before, gets ErrStoreDamaged.
func (p *Pebble) Mend() (gone int, err error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.ready(); err != nil {
		return 0, err
	}
	rot := p.opening.rot
	if len(rot.waiting()) > 0 {
		old, local := p.e(), p.last.local
		old.mending.Store(true)
		err := old.close()
		if err == nil {
			gone = p.opening.mendTables()
			err = p.open()
		}
		if err != nil {
			p.lost = fmt.Errorf("%w: %w", overlay.ErrStoreFailed, err)
			p.opening.rot.mended(p.opening.dir, err)
			return gone, p.lost
		}
		p.last.local = max(p.last.local, local) // none is given out again
		p.e().publish(p.last)
	}
	_, beyond := rot.state()
	return gone, beyond
}

// Close implements overlay.Store. Views that are still open give
// ErrStoreClosed from then on.
func (p *Pebble) Close() error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.e().mending.Store(false)
	return p.e().close()
}
