package gossip

import (
	"iter"

	"github.com/obelisk-network/obelisk/overlay"
)

const (
	bucketSteps = 8 // steps of expiry that are kept together; days are whole buckets
	blockItems  = 7 // of a block: two cache lines
	groupSize   = 32
)

// ledgerBucket is the records that expire in bucketSteps steps. A record that
// expires any time from now on goes to a bucket that is in no cache, so the
// bucket is small, never copied to grow, and found without hashing.
type ledgerBucket struct {
	newest  *itemBlock // which may have room; all others are full
	tallies [bucketSteps]overlay.Tally
}

// itemBlock is some items of a bucket. Its first line has all of it but the last
// items.
type itemBlock struct {
	older *itemBlock
	n     uint8
	steps [blockItems]uint8 // in which of the bucket's steps each of items expires
	items [blockItems]ledgerItem
}

// push adds an item that expires in a step of the bucket.
func (b *ledgerBucket) push(it ledgerItem, step uint8, term overlay.Sum) {
	k := b.newest
	if k == nil || k.n == blockItems {
		k = &itemBlock{older: k}
		b.newest = k
	}
	k.items[k.n], k.steps[k.n] = it, step
	k.n++
	b.tallies[step] = b.tallies[step].Add(overlay.Tally{Count: 1, Sum: term})
}

// drop takes an item out and reports whether it was there.
func (b *ledgerBucket) drop(it ledgerItem, step uint8, term overlay.Sum) bool {
	for k := b.newest; k != nil; k = k.older {
		for i := range k.n {
			if k.items[i] == it && k.steps[i] == step {
				k.items[i], k.steps[i] = b.pop()
				b.tallies[step] = b.tallies[step].Sub(overlay.Tally{Count: 1, Sum: term})
				return true
			}
		}
	}
	return false
}

// pop takes the newest item out of its block, which must be there.
func (b *ledgerBucket) pop() (ledgerItem, uint8) {
	k := b.newest
	k.n--
	if k.n == 0 {
		b.newest = k.older
	}
	return k.items[k.n], k.steps[k.n]
}

// cut forgets what expires in steps before one, and says how many records that
// was.
func (b *ledgerBucket) cut(step uint64) (n int) {
	if step >= bucketSteps {
		for i := range b.tallies {
			n += int(b.tallies[i].Count)
		}
		b.newest = nil
		return n
	}
	for k := b.newest; k != nil; k = k.older {
		for i := uint8(0); i < k.n; {
			if uint64(k.steps[i]) >= step {
				i++
				continue
			}
			n++
			last := k == b.newest && i == k.n-1
			if k.items[i], k.steps[i] = b.pop(); last {
				break
			}
		}
	}
	clear(b.tallies[:step])
	return n
}

// all yields the items and in which of the bucket's steps each expires. The
// bucket must not change meanwhile.
func (b *ledgerBucket) all() iter.Seq2[*ledgerItem, uint64] {
	return func(yield func(*ledgerItem, uint64) bool) {
		for k := b.newest; k != nil; k = k.older {
			for i := range k.n {
				if !yield(&k.items[i], uint64(k.steps[i])) {
					return
				}
			}
		}
	}
}

// ledgerBuckets are a ledger's buckets by step of expiry / bucketSteps. The map
// has groups of them only, few enough to stay in a cache.
type ledgerBuckets struct {
	groups map[uint64]*bucketGroup // by key / groupSize
}

type bucketGroup struct {
	n       int // of buckets
	buckets [groupSize]*ledgerBucket
}

// get returns a bucket, nil if there is none.
func (t *ledgerBuckets) get(key uint64) *ledgerBucket {
	if g := t.groups[key/groupSize]; g != nil {
		return g.buckets[key%groupSize]
	}
	return nil
}

// make returns a bucket, a new one if there was none.
func (t *ledgerBuckets) make(key uint64) *ledgerBucket {
	g := t.groups[key/groupSize]
	if g == nil {
		g = &bucketGroup{}
		t.groups[key/groupSize] = g
	}
	b := g.buckets[key%groupSize]
	if b == nil {
		b = &ledgerBucket{}
		g.buckets[key%groupSize] = b
		g.n++
	}
	return b
}

// remove forgets a bucket, which must be there.
func (t *ledgerBuckets) remove(key uint64) {
	g := t.groups[key/groupSize]
	g.buckets[key%groupSize] = nil
	if g.n--; g.n == 0 {
		delete(t.groups, key/groupSize)
	}
}

// all yields every bucket. They may be removed meanwhile.
func (t *ledgerBuckets) all() iter.Seq2[uint64, *ledgerBucket] {
	return func(yield func(uint64, *ledgerBucket) bool) {
		for at, g := range t.groups {
			for i, b := range g.buckets {
				if b != nil && !yield(at*groupSize+uint64(i), b) {
					return
				}
			}
		}
	}
}

// within yields the buckets first..end, end excluded. They may be removed
// meanwhile.
func (t *ledgerBuckets) within(first, end uint64) iter.Seq2[uint64, *ledgerBucket] {
	return func(yield func(uint64, *ledgerBucket) bool) {
		if first >= end {
			return
		}
		if (end-first)/groupSize > uint64(len(t.groups)) {
			for key, b := range t.all() {
				if key >= first && key < end && !yield(key, b) {
					return
				}
			}
			return
		}
		for key := first; key < end; key++ {
			if b := t.get(key); b != nil && !yield(key, b) {
				return
			}
		}
	}
}
