package gossip

import (
	"slices"

	"github.com/obelisk-network/obelisk/overlay"
)

// Times of the tallies, Unix milliseconds.
const (
	sliceMillis  = 10_000 // grid of W and F, and resolution of everything here
	bucketSlices = 6      // slices of a bucket: it spans 60 s
	bucketMillis = bucketSlices * sliceMillis
	recentMillis = 120_000 // how long a creation counts as recent
)

// tally counts and digests the records held, so that any set {expires ≥ F,
// created < W} on the grid is a few sums: per 60-s bucket of expiry the tallies
// of its six slices, and for what was created lately the same by slice of
// creation, to be subtracted. Not safe for concurrent use.
type tally struct {
	key     overlay.ShortKey
	buckets map[uint64]*[bucketSlices]overlay.Tally
	recent  map[uint64]map[uint64]overlay.Tally // slice of creation, slice of expiry
}

func newTally(key overlay.ShortKey) *tally {
	return &tally{key: key, buckets: map[uint64]*[bucketSlices]overlay.Tally{}, recent: map[uint64]map[uint64]overlay.Tally{}}
}

// add counts a record that was not counted before and returns its term.
func (t *tally) add(id overlay.RecordID, created, expires, now uint64) overlay.Sum {
	term := t.key.Term(id)
	one := overlay.Tally{Count: 1, Sum: term}
	if expires < now {
		return term
	}
	b := t.buckets[expires/bucketMillis]
	if b == nil {
		b = new([bucketSlices]overlay.Tally)
		t.buckets[expires/bucketMillis] = b
	}
	slice := expires / sliceMillis
	b[slice%bucketSlices] = b[slice%bucketSlices].Add(one)
	if created+recentMillis > now {
		r := t.recent[created/sliceMillis]
		if r == nil {
			r = map[uint64]overlay.Tally{}
			t.recent[created/sliceMillis] = r
		}
		r[slice] = r[slice].Add(one)
	}
	return term
}

// set returns the tally of {expires ≥ front, created < settled}. Both must lie
// on the grid, settled not more than recentMillis before now.
func (t *tally) set(settled, front uint64) (sum overlay.Tally) {
	first := front / sliceMillis
	for n, b := range t.buckets {
		for i := range b {
			if n*bucketSlices+uint64(i) >= first {
				sum = sum.Add(b[i])
			}
		}
	}
	for created, bySlice := range t.recent {
		if created < settled/sliceMillis {
			continue
		}
		for slice, part := range bySlice {
			if slice >= first {
				sum = sum.Sub(part)
			}
		}
	}
	return sum
}

// prune forgets what no set asked for from now on can contain.
func (t *tally) prune(now uint64) {
	for n := range t.buckets {
		if (n+1)*bucketMillis < now {
			delete(t.buckets, n)
		}
	}
	for created := range t.recent {
		if (created+1)*sliceMillis+recentMillis < now {
			delete(t.recent, created)
		}
	}
}

// counted is a set of records by their terms: eight bytes each.
type counted []uint64

func (c counted) has(term overlay.Sum) bool {
	_, ok := slices.BinarySearch(c, term.Lo)
	return ok
}
