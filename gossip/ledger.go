package gossip

import (
	"math/rand/v2"

	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/overlay"
)

// Times of the ledger. A step is a place on the grid of W and F: full 10 s from
// the Unix epoch.
const (
	stepMillis  = overlay.AuditGrid
	recentSteps = 12 // how many steps a creation counts as recent
	daySteps    = overlay.DayMillis / stepMillis
	sketchCells = overlay.MaxAuditCells
)

// ledger is every record held, 16 bytes each, and what the audit and summaries
// say of them. It counts the set S = {created < settled, expires ≥ front} as of
// the last grid instant and keeps it as the instant moves on: what was created
// is let in a step later, what expires is taken out. The S of an instant a little
// apart is that without what was created lately or expires next.
//
// Nothing here reads a clock or a disk. Not safe for concurrent use.
type ledger struct {
	key     overlay.ShortKey
	settled uint64                  // a step: S holds what was created before
	front   uint64                  // a step: and expires in it or later
	slices  map[uint64]*ledgerSlice // by step of expiry, none before front
	days    map[overlay.Day]int     // records of each expiry day
	recent  map[uint64][]recentItem // by step of creation, none before settled-recentSteps
	total   int
	tally   overlay.Tally  // of S
	sketch  *sketch.Sketch // of the short IDs of S
	scratch []uint64
}

// ledgerItem is a record: its short ID under the key, and the beginning of its
// ID, by which the disk finds it.
type ledgerItem struct {
	short, prefix uint64
}

// ledgerSlice is the records that expire in one step.
type ledgerSlice struct {
	sum   overlay.Sum
	items []ledgerItem
}

func (s *ledgerSlice) tally() overlay.Tally {
	return overlay.Tally{Count: uint64(len(s.items)), Sum: s.sum}
}

// recentItem is a record that was created lately.
type recentItem struct {
	ledgerItem
	term    overlay.Sum
	expires uint64 // step
}

// entry is a record on its way into or out of the ledger.
type entry struct {
	ledgerItem
	term             overlay.Sum
	created, expires uint64 // steps
}

// place is a record in the ledger.
type place struct {
	ledgerItem
	expires uint64 // step
}

// day is the expiry day of a step.
func stepDay(step uint64) overlay.Day { return overlay.Day(step / daySteps) }

// newLedger returns an empty ledger as of now.
func newLedger(key overlay.ShortKey, now uint64) *ledger {
	l := &ledger{key: key, slices: map[uint64]*ledgerSlice{}, days: map[overlay.Day]int{}, recent: map[uint64][]recentItem{},
		sketch: sketch.New(sketch.Key(key.CellKey()), sketchCells)}
	l.settled, l.front = instantsOf(now)
	return l
}

// instantsOf returns W and F of the last grid instant.
func instantsOf(now uint64) (settled, front uint64) {
	grid := now / stepMillis
	return max(grid, 1) - 1, grid + 1
}

// hashing is how records are named: by short IDs under a key. Tests leave out
// bits of these, so that some are equal.
type hashing struct {
	key  overlay.ShortKey
	omit uint64
}

func (h hashing) short(id *overlay.RecordID) uint64 {
	_, short := h.key.Terms(*id)
	return short &^ h.omit
}

// entry hashes a record for a ledger.
func (h hashing) entry(r *overlay.RecordStub) entry {
	e := entry{created: r.Created / stepMillis, expires: r.Expires / stepMillis}
	e.term, e.short = h.key.Terms(r.ID)
	e.short &^= h.omit
	e.prefix = prefixOf(&r.ID)
	return e
}

// add counts records that were not counted before.
func (l *ledger) add(entries []entry) {
	added := l.scratch[:0]
	for i := range entries {
		e := &entries[i]
		if e.expires < l.front {
			continue
		}
		s := l.slices[e.expires]
		if s == nil {
			s = new(ledgerSlice)
			l.slices[e.expires] = s
		}
		s.items = append(s.items, e.ledgerItem)
		s.sum = s.sum.Add(e.term)
		l.days[stepDay(e.expires)]++
		l.total++
		if e.created+recentSteps >= l.settled {
			l.recent[e.created] = append(l.recent[e.created], recentItem{e.ledgerItem, e.term, e.expires})
		}
		if e.created < l.settled {
			l.tally = l.tally.Add(overlay.Tally{Count: 1, Sum: e.term})
			added = append(added, e.short)
		}
	}
	l.sketch.Add(added...)
	l.scratch = added
}

// remove uncounts a record and reports whether it was counted.
func (l *ledger) remove(e *entry) bool {
	s := l.slices[e.expires]
	if s == nil || !s.drop(e) {
		return false
	}
	l.shrink(e.expires, 1)
	if len(s.items) == 0 {
		delete(l.slices, e.expires)
	}
	for i, r := range l.recent[e.created] {
		if r.ledgerItem == e.ledgerItem {
			list := l.recent[e.created]
			list[i] = list[len(list)-1]
			l.recent[e.created] = list[:len(list)-1]
			break
		}
	}
	if e.created < l.settled {
		l.tally = l.tally.Sub(overlay.Tally{Count: 1, Sum: e.term})
		l.sketch.Remove(e.short)
	}
	return true
}

func (s *ledgerSlice) drop(e *entry) bool {
	for i := range s.items {
		if s.items[i] == e.ledgerItem {
			last := len(s.items) - 1
			s.items[i] = s.items[last]
			s.items = s.items[:last]
			s.sum = s.sum.Sub(e.term)
			return true
		}
	}
	return false
}

// shrink counts n records less in a step.
func (l *ledger) shrink(step uint64, n int) {
	l.total -= n
	day := stepDay(step)
	if l.days[day] -= n; l.days[day] == 0 {
		delete(l.days, day)
	}
}

// advance moves on to the last grid instant. It reports false if now is so far
// before it that the ledger has to be made anew: the clock was set back, and
// what it took for expired may not be.
func (l *ledger) advance(now uint64) bool {
	settled, front := instantsOf(now)
	if front <= l.front {
		return l.front-front <= recentSteps/2
	}
	t, changed := l.tally, l.scratch[:0]
	for step, list := range l.recent {
		if step < l.settled || step >= settled {
			continue
		}
		for i := range list {
			if list[i].expires >= l.front {
				t = t.Add(overlay.Tally{Count: 1, Sum: list[i].term})
				changed = append(changed, list[i].short)
			}
		}
	}
	l.sketch.Add(changed...)
	// What expires now is in S, but for what is not settled even now.
	changed = l.eachSlice(l.front, front, changed[:0], func(s *ledgerSlice) { t = t.Sub(s.tally()) })
	l.sketch.Remove(changed...)
	changed = l.eachRecent(settled, l.front, front, changed[:0], func(r *recentItem) { t = t.Add(overlay.Tally{Count: 1, Sum: r.term}) })
	l.sketch.Add(changed...)
	l.tally, l.scratch = t, changed
	for step, s := range l.slices {
		if step < front {
			l.shrink(step, len(s.items))
			delete(l.slices, step)
		}
	}
	for step := range l.recent {
		if step+recentSteps < settled {
			delete(l.recent, step)
		}
	}
	l.settled, l.front = settled, front
	return true
}

// eachSlice calls fn for the slices of the steps from..to, to excluded, and
// appends their short IDs.
func (l *ledger) eachSlice(from, to uint64, shorts []uint64, fn func(*ledgerSlice)) []uint64 {
	take := func(s *ledgerSlice) {
		fn(s)
		for i := range s.items {
			shorts = append(shorts, s.items[i].short)
		}
	}
	if to-from > uint64(len(l.slices)) {
		for step, s := range l.slices {
			if step >= from && step < to {
				take(s)
			}
		}
		return shorts
	}
	for step := from; step < to; step++ {
		if s := l.slices[step]; s != nil {
			take(s)
		}
	}
	return shorts
}

// eachRecent calls fn for the recent records created at or after a step that
// expire in the steps from..to, to excluded, and appends their short IDs.
func (l *ledger) eachRecent(created, from, to uint64, shorts []uint64, fn func(*recentItem)) []uint64 {
	for step, list := range l.recent {
		if step < created {
			continue
		}
		for i := range list {
			if r := &list[i]; r.expires >= from && r.expires < to {
				fn(r)
				shorts = append(shorts, r.short)
			}
		}
	}
	return shorts
}

// knows reports whether S of these instants can be told: settled may lie before
// the ledger's, and front after it, by as much as recent creations go back.
func (l *ledger) knows(settled, front uint64) bool {
	return settled <= l.settled && settled+recentSteps >= l.settled && front >= l.front && front <= l.front+recentSteps
}

// tallyAt returns the tally of S of other instants, which knows must allow.
func (l *ledger) tallyAt(settled, front uint64) overlay.Tally {
	t := l.tally
	l.apart(settled, front, func(r *recentItem, in bool) {
		if one := (overlay.Tally{Count: 1, Sum: r.term}); in {
			t = t.Add(one)
		} else {
			t = t.Sub(one)
		}
	})
	l.eachSlice(l.front, front, l.scratch[:0], func(s *ledgerSlice) { t = t.Sub(s.tally()) })
	return t
}

// sketchAt returns a copy of the sketch of S of other instants, which knows
// must allow.
func (l *ledger) sketchAt(settled, front uint64) *sketch.Sketch {
	c := l.sketch.Clone()
	l.apart(settled, front, func(r *recentItem, in bool) {
		if in {
			c.Add(r.short)
		} else {
			c.Remove(r.short)
		}
	})
	c.Remove(l.eachSlice(l.front, front, l.scratch[:0], func(*ledgerSlice) {})...)
	return c
}

// apart tells which recent records make the difference between S and that of
// other instants, beside the slices from l.front to front, all of which is taken
// out: those settled too late for it (in false), and those of these slices that
// are not in S, or were told already (in true).
func (l *ledger) apart(settled, front uint64, fn func(r *recentItem, in bool)) {
	for step, list := range l.recent {
		if step < settled {
			continue
		}
		for i := range list {
			r := &list[i]
			if step < l.settled && r.expires >= l.front {
				fn(r, false)
			}
			if r.expires >= l.front && r.expires < front {
				fn(r, true)
			}
		}
	}
}

// find returns the records with these short IDs, S or not.
func (l *ledger) find(shorts []uint64) []place {
	if len(shorts) == 0 {
		return nil
	}
	wanted := make(map[uint64]struct{}, len(shorts))
	var sieve [1 << 12]uint64 // lets few of the others through
	for _, s := range shorts {
		wanted[s] = struct{}{}
		sieve[s>>6&(1<<12-1)] |= 1 << (s & 63)
	}
	var found []place
	for step, slice := range l.slices {
		for _, it := range slice.items {
			if sieve[it.short>>6&(1<<12-1)]&(1<<(it.short&63)) == 0 {
				continue
			}
			if _, ok := wanted[it.short]; ok {
				found = append(found, place{it, step})
			}
		}
	}
	return found
}

// within returns the records that expire on a day and whose IDs begin with the
// first bits of seed.
func (l *ledger) within(day overlay.Day, bits, seed uint64) []place {
	var found []place
	for step := uint64(day) * daySteps; step < (uint64(day)+1)*daySteps; step++ {
		s := l.slices[step]
		if s == nil {
			continue
		}
		for _, it := range s.items {
			if sameBits(it.prefix, seed, bits) {
				found = append(found, place{it, step})
			}
		}
	}
	return found
}

// sameBits reports whether a and b begin with the same bits.
func sameBits(a, b, bits uint64) bool { return bits == 0 || (a^b)>>(64-bits) == 0 }

// all returns S of the instants, which knows must allow.
func (l *ledger) all(settled, front uint64) []place {
	out := make(map[place]int)
	for step, list := range l.recent {
		if step < settled {
			continue
		}
		for i := range list {
			out[place{list[i].ledgerItem, list[i].expires}]++
		}
	}
	all := make([]place, 0, l.total)
	for step, s := range l.slices {
		if step < front {
			continue
		}
		for _, it := range s.items {
			p := place{it, step}
			if n := out[p]; n > 0 {
				out[p] = n - 1
				continue
			}
			all = append(all, p)
		}
	}
	return all
}

// anyDay returns an expiry day, the more likely the more records it has, and
// how many these are; none if the ledger is empty.
func (l *ledger) anyDay() (day overlay.Day, n int) {
	if l.total == 0 {
		return 0, 0
	}
	left := rand.IntN(l.total)
	for day, n := range l.days {
		if left -= n; left < 0 {
			return day, n
		}
	}
	return 0, 0
}
