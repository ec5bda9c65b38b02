package gossip

import (
	"math/rand/v2"
	"slices"

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
	addTogether = 64
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
	buckets ledgerBuckets           // nothing before front
	days    map[overlay.Day]int     // records of each expiry day
	recent  map[uint64][]recentItem // by step of creation, none before settled-recentSteps
	spare   []recentItem            // the memory of a list that is recent no more
	total   int
	tally   overlay.Tally  // of S
	sketch  *sketch.Sketch // of the short IDs of S
	scratch []uint64
	touched uint64 // nothing; see place
}

// ledgerItem is a record: its short ID under the key, and the beginning of its
// ID, by which the disk finds it.
type ledgerItem struct {
	short, prefix uint64
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
	l := &ledger{key: key, buckets: ledgerBuckets{map[uint64]*bucketGroup{}}, days: map[overlay.Day]int{}, recent: map[uint64][]recentItem{},
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
// bits of these, so that some are equal, or have all that is in memory of one
// record be another's.
type hashing struct {
	key   overlay.ShortKey
	omit  uint64
	alike map[overlay.RecordID]overlay.RecordID
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
	if id, ok := h.alike[r.ID]; ok {
		e.ledgerItem = ledgerItem{h.short(&id), prefixOf(&id)}
	}
	return e
}

// add counts records that were not counted before.
func (l *ledger) add(entries []entry) {
	added := l.scratch[:0]
	for part := range slices.Chunk(entries, addTogether) {
		l.place(part)
		for i := range part {
			e := &part[i]
			if e.expires < l.front {
				continue
			}
			l.days[stepDay(e.expires)]++
			l.total++
			if e.created+recentSteps >= l.settled {
				list := l.recent[e.created]
				if list == nil {
					list, l.spare = l.spare, nil
				}
				l.recent[e.created] = append(list, recentItem{e.ledgerItem, e.term, e.expires})
			}
			if e.created < l.settled {
				l.tally = l.tally.Add(overlay.Tally{Count: 1, Sum: e.term})
				added = append(added, e.short)
			}
		}
	}
	l.sketch.Add(added...)
	l.scratch = added
}

// place puts at most addTogether entries into their buckets. Where each goes is
// in no cache, so all places are read once before any is written: those reads do
// not wait for each other.
func (l *ledger) place(entries []entry) {
	var buckets [addTogether]*ledgerBucket
	for i := range entries {
		if e := &entries[i]; e.expires >= l.front {
			b := l.buckets.make(e.expires / bucketSteps)
			buckets[i] = b
			if b.newest == nil {
				b.newest = new(itemBlock)
			}
			l.touched += uint64(b.newest.n) + b.tallies[e.expires%bucketSteps].Count
		}
	}
	for i := range entries {
		if e := &entries[i]; buckets[i] != nil {
			buckets[i].push(e.ledgerItem, uint8(e.expires%bucketSteps), e.term)
		}
	}
}

// remove uncounts a record and reports whether it was counted.
func (l *ledger) remove(e *entry) bool {
	b := l.buckets.get(e.expires / bucketSteps)
	if b == nil || !b.drop(e.ledgerItem, uint8(e.expires%bucketSteps), e.term) {
		return false
	}
	l.shrink(e.expires/bucketSteps, b, 1)
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

// shrink counts n records less in a bucket.
func (l *ledger) shrink(key uint64, b *ledgerBucket, n int) {
	l.total -= n
	day := stepDay(key * bucketSteps)
	if l.days[day] -= n; l.days[day] == 0 {
		delete(l.days, day)
	}
	if b.newest == nil {
		l.buckets.remove(key)
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
	expired, changed := l.expiring(l.front, front, changed[:0])
	t = t.Sub(expired)
	l.sketch.Remove(changed...)
	changed = l.eachRecent(settled, l.front, front, changed[:0], func(r *recentItem) { t = t.Add(overlay.Tally{Count: 1, Sum: r.term}) })
	l.sketch.Add(changed...)
	l.tally, l.scratch = t, changed
	for key, b := range l.buckets.within(l.front/bucketSteps, (front+bucketSteps-1)/bucketSteps) {
		l.shrink(key, b, b.cut(front-key*bucketSteps))
	}
	for step, list := range l.recent {
		if step+recentSteps < settled {
			l.spare = list[:0]
			delete(l.recent, step)
		}
	}
	l.settled, l.front = settled, front
	return true
}

// expiring tallies what expires in the steps from..to, to excluded, and appends
// its short IDs.
func (l *ledger) expiring(from, to uint64, shorts []uint64) (overlay.Tally, []uint64) {
	var t overlay.Tally
	for key, b := range l.buckets.within(from/bucketSteps, (to+bucketSteps-1)/bucketSteps) {
		for i := range b.tallies {
			if step := key*bucketSteps + uint64(i); step >= from && step < to {
				t = t.Add(b.tallies[i])
			}
		}
		for it, i := range b.all() {
			if step := key*bucketSteps + i; step >= from && step < to {
				shorts = append(shorts, it.short)
			}
		}
	}
	return t, shorts
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
	expiring, _ := l.expiring(l.front, front, nil)
	return t.Sub(expiring)
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
	_, expiring := l.expiring(l.front, front, nil)
	c.Remove(expiring...)
	return c
}

// apart tells which recent records make the difference between S and that of
// other instants, beside what expires from l.front to front, all of which is
// taken out: those settled too late for it (in false), and those expiring that
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
	for key, b := range l.buckets.all() {
		for it, i := range b.all() {
			if sieve[it.short>>6&(1<<12-1)]&(1<<(it.short&63)) == 0 {
				continue
			}
			if _, ok := wanted[it.short]; ok {
				found = append(found, place{*it, key*bucketSteps + i})
			}
		}
	}
	return found
}

// within returns the records that expire on a day and whose IDs begin with the
// first bits of seed.
func (l *ledger) within(day overlay.Day, bits, seed uint64) []place {
	var found []place
	const dayBuckets = daySteps / bucketSteps
	for key, b := range l.buckets.within(uint64(day)*dayBuckets, (uint64(day)+1)*dayBuckets) {
		for it, i := range b.all() {
			if sameBits(it.prefix, seed, bits) {
				found = append(found, place{*it, key*bucketSteps + i})
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
	for key, b := range l.buckets.all() {
		for it, i := range b.all() {
			p := place{*it, key*bucketSteps + i}
			if p.expires < front {
				continue
			}
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
