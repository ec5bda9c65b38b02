package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of the short key and of recounts.
const (
	rekeyEvery   = 10 * time.Second // least time between two recounts
	countedFor   = 5 * time.Second  // how long a recount guards against counting twice
	shortKeyNote = "gossip/shortkey"
)

// holdings keeps the ledger of what is held, under the short key in use. A
// better key, or a ledger that turns out wrong, makes it count everything anew.
type holdings struct {
	m    *Mesh
	wake chan struct{} // capacity 1: a recount is due

	mu      sync.Mutex
	ledger  *ledger           // guarded by mu
	offered *overlay.ShortKey // guarded by mu; to be adopted
	stale   bool              // guarded by mu; to be counted anew

	distrusted time.Time // guarded by mu; when the ledger was found wrong

	// While a recount runs, what is committed waits in pending; records that the
	// recount saw before their commit was told are passed over until guard ends.
	recount bool      // guarded by mu
	pending []change  // guarded by mu
	seen    counted   // guarded by mu
	guard   time.Time // guarded by mu
	// unseen are records of seen that are gone since: they may come again.
	unseen map[uint64]struct{} // guarded by mu
}

// change is a record that came, or went.
type change struct {
	overlay.RecordStub
	gone bool
}

// counted is a set of records by their short IDs.
type counted []uint64

func (c counted) has(short uint64) bool {
	_, ok := slices.BinarySearch(c, short)
	return ok
}

// newHoldings counts everything held.
func newHoldings(m *Mesh) (*holdings, error) {
	h := &holdings{m: m, wake: make(chan struct{}, 1)}
	data, err := m.cfg.Notes.LoadNote(shortKeyNote)
	if err != nil {
		return nil, fmt.Errorf("gossip: load short key: %w", err)
	}
	var key overlay.ShortKey
	if len(data) == len(key) {
		key = overlay.ShortKey(data)
	} else {
		rand.Read(key[:]) // never fails since Go 1.24
	}
	h.ledger, _, err = h.count(key)
	return h, err
}

// count makes a ledger of everything held.
func (h *holdings) count(key overlay.ShortKey) (*ledger, counted, error) {
	now := h.m.now()
	l := newLedger(key, now)
	var seen counted
	batch := make([]entry, 0, 1024)
	err := h.m.cfg.Records.Each(now, func(id overlay.RecordID, created, expires uint64) bool {
		e := h.m.hashing(key).entry(&overlay.RecordStub{ID: id, Created: created, Expires: expires})
		seen = append(seen, e.short)
		if batch = append(batch, e); len(batch) == cap(batch) {
			l.add(batch)
			batch = batch[:0]
		}
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("gossip: count records: %w", err)
	}
	l.add(batch)
	slices.Sort(seen)
	return l, seen, nil
}

// whole returns S of the instants as the disk has it, named under a key that is
// nobody's but this round's.
func (h *holdings) whole(under overlay.ShortKey, settled, front uint64) ([]place, error) {
	places := []place{}
	names := h.m.hashing(under)
	err := h.m.cfg.Records.Each(front*stepMillis, func(id overlay.RecordID, created, expires uint64) bool {
		if created/stepMillis < settled && expires/stepMillis >= front {
			places = append(places, place{ledgerItem{names.short(&id), prefixOf(&id)}, expires / stepMillis})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("gossip: list records: %w", err)
	}
	return places, nil
}

// committed counts what became durable, and uncounts what is gone. It does not
// block for long.
func (h *holdings) committed(c *overlay.CommitEvent) {
	if len(c.New) == 0 && len(c.Gone) == 0 {
		return
	}
	changes := make([]change, 0, len(c.New)+len(c.Gone))
	for _, r := range c.Gone {
		changes = append(changes, change{r, true})
	}
	for _, r := range c.New {
		if r.Kind != overlay.KindPillar && r.Kind != overlay.KindRevocation {
			changes = append(changes, change{overlay.RecordStub{ID: r.ID, Created: r.Created, Expires: r.Expires}, false})
		}
	}
	key := h.key()
	entries := h.entries(key, changes)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recount {
		h.pending = append(h.pending, changes...)
		return
	}
	if h.ledger.key != key {
		entries = h.entries(h.ledger.key, changes)
	}
	h.applyLocked(changes, entries)
}

// hashing is how records are named under a key.
func (m *Mesh) hashing(key overlay.ShortKey) hashing {
	return hashing{key, m.cfg.omitShort, m.cfg.alike}
}

func (h *holdings) entries(key overlay.ShortKey, changes []change) []entry {
	hash := h.m.hashing(key)
	entries := make([]entry, len(changes))
	for i := range changes {
		entries[i] = hash.entry(&changes[i].RecordStub)
	}
	return entries
}

// applyLocked carries changes out, in runs of one kind.
func (h *holdings) applyLocked(changes []change, entries []entry) {
	h.advanceLocked()
	if h.seen != nil && time.Now().After(h.guard) {
		h.seen, h.unseen = nil, nil
	}
	for from := 0; from < len(changes); {
		to := from
		for to < len(changes) && changes[to].gone == changes[from].gone {
			to++
		}
		run := entries[from:to]
		switch {
		case changes[from].gone:
			for i := range run {
				h.ledger.remove(&run[i])
				if h.seen != nil {
					h.unseen[run[i].short] = struct{}{}
				}
			}
		case h.seen != nil:
			h.ledger.add(slices.DeleteFunc(run, func(e entry) bool {
				_, gone := h.unseen[e.short]
				return !gone && h.seen.has(e.short)
			}))
		default:
			h.ledger.add(run)
		}
		from = to
	}
}

// advanceLocked moves the ledger to now.
func (h *holdings) advanceLocked() {
	if !h.ledger.advance(h.m.now()) {
		h.stale = true
		h.poke()
	}
}

func (h *holdings) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// key returns the short key in use.
func (h *holdings) key() overlay.ShortKey {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.key
}

// offer takes another pillar's short key: the one with the smaller name wins.
func (h *holdings) offer(key overlay.ShortKey) {
	name := key.Name()
	h.mu.Lock()
	defer h.mu.Unlock()
	best := h.ledger.key
	if h.offered != nil {
		best = *h.offered
	}
	won := best.Name()
	if bytes.Compare(name[:], won[:]) < 0 {
		h.offered = &key
		h.poke()
	}
}

// recountAll has everything counted anew: nobody knows what was lost.
func (h *holdings) recountAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stale = true
	h.poke()
}

// distrust has everything counted anew, though not too often: records that the
// ledger has were lost by the disk, or the disk has some that it does not know,
// or a sum is wrong.
func (h *holdings) distrust(lost, unknown int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.distrusted.IsZero() && time.Since(h.distrusted) < distrustEvery {
		return
	}
	h.distrusted = time.Now()
	h.stale = true
	h.poke()
	h.m.log.Warn("memory and disk differ in what is held: counting anew", "lost", lost, "unknown", unknown)
}

// run counts anew when that is due, until ctx ends.
func (h *holdings) run(ctx context.Context) {
	later := time.NewTimer(time.Hour)
	later.Stop()
	defer later.Stop()
	var last time.Time
	if err := h.saveKey(ctx); err != nil && ctx.Err() == nil {
		h.m.log.Warn("store short key", "err", err)
	}
	for {
		select {
		case <-h.wake:
			later.Reset(max(0, rekeyEvery-time.Since(last)))
		case <-later.C:
			if err := h.again(ctx); err != nil && ctx.Err() == nil {
				h.m.log.Warn("count records anew", "err", err)
			}
			last = time.Now()
		case <-ctx.Done():
			return
		}
	}
}

// again counts everything, under the offered key if there is one.
func (h *holdings) again(ctx context.Context) error {
	h.mu.Lock()
	key := h.ledger.key
	if h.offered != nil {
		key = *h.offered
	} else if !h.stale {
		h.mu.Unlock()
		return nil
	}
	h.offered, h.stale, h.recount = nil, false, true
	h.mu.Unlock()
	l, seen, err := h.count(key)
	h.mu.Lock()
	h.recount = false
	if err == nil {
		h.ledger, h.seen, h.guard = l, seen, time.Now().Add(countedFor)
		h.unseen = map[uint64]struct{}{}
	}
	h.applyLocked(h.pending, h.entries(h.ledger.key, h.pending))
	h.pending = nil
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.saveKey(ctx)
}

func (h *holdings) saveKey(ctx context.Context) error {
	key := h.key()
	if old, err := h.m.cfg.Notes.LoadNote(shortKeyNote); err == nil && bytes.Equal(old, key[:]) {
		return nil
	}
	return h.m.cfg.Notes.SaveNote(ctx, shortKeyNote, key[:])
}

// state is what the ledger says as of now.
type state struct {
	key            overlay.ShortKey
	settled, front uint64 // steps
	tally          overlay.Tally
}

func (h *holdings) state() state {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advanceLocked()
	return state{h.ledger.key, h.ledger.settled, h.ledger.front, h.ledger.tally}
}

// at is state for other instants; false if they are too far from now's, or the
// key is not key any more.
func (h *holdings) at(key overlay.ShortKey, settled, front uint64) (overlay.Tally, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advanceLocked()
	if h.ledger.key != key || !h.ledger.knows(settled, front) {
		return overlay.Tally{}, false
	}
	return h.ledger.tallyAt(settled, front), true
}

// sketchAt is at with a copy of the sketch.
func (h *holdings) sketchAt(key overlay.ShortKey, settled, front uint64) (overlay.Tally, *sketch.Sketch, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advanceLocked()
	if h.ledger.key != key || !h.ledger.knows(settled, front) {
		return overlay.Tally{}, nil, false
	}
	return h.ledger.tallyAt(settled, front), h.ledger.sketchAt(settled, front), true
}

// allAt returns what S of the instants holds; false as in at.
func (h *holdings) allAt(key overlay.ShortKey, settled, front uint64) ([]place, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advanceLocked()
	if h.ledger.key != key || !h.ledger.knows(settled, front) {
		return nil, false
	}
	return h.ledger.all(settled, front), true
}

// find returns the records with these short IDs under key.
func (h *holdings) find(key overlay.ShortKey, shorts []uint64) []place {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ledger.key != key {
		return nil
	}
	return h.ledger.find(shorts)
}

// within returns the records of a day whose IDs begin with the first bits of
// seed, and the key they are named under.
func (h *holdings) within(day overlay.Day, bits, seed uint64) (overlay.ShortKey, []place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.key, h.ledger.within(day, bits, seed)
}

// anyDay returns an expiry day with records, and how many.
func (h *holdings) anyDay() (overlay.Day, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.anyDay()
}

// onDay is how many records expire on a day.
func (h *holdings) onDay(day overlay.Day) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ledger.days[day]
}

// prefixOf is the beginning of an ID.
func prefixOf(id *overlay.RecordID) uint64 { return binary.BigEndian.Uint64(id[:]) }
