package overlay

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// dueLists say, account by account, what goes to its devices: messages without a
// final state there, and receipts that no pillar gets, in the order of their
// tickets. What direct delivery looks for costs as much as it finds, however much
// is on its way to others, or behind it to the same. Guarded by the outbox's mu.
//
// What is over is left in a list until it is come across, or until it may be half
// of it.
type dueLists map[identity.AccountID]*dueList

// dueList is what is due to one account.
type dueList struct {
	only    []*shipment // what no pillar gets
	carried []*shipment // what pillars carry besides
	had     hadHeap     // of both, what a device of the account said lately that it has
	over    int         // at most so many of all are over
}

// add puts a shipment in line for its accounts. Tickets only grow.
func (d dueLists) add(s *shipment) {
	if s.kind != KindMessage && !(s.kind == KindReceipt && s.only) {
		return
	}
	for _, a := range s.to {
		l := d[a]
		if l == nil {
			l = new(dueList)
			d[a] = l
		}
		q := l.queue(s)
		*q = append(*q, s)
	}
}

func (l *dueList) queue(s *shipment) *[]*shipment {
	if s.only {
		return &l.only
	}
	return &l.carried
}

// ended notes that a shipment is over for an account.
func (d dueLists) ended(a identity.AccountID) {
	l := d[a]
	if l == nil {
		return
	}
	if l.over++; 2*l.over <= l.len() {
		return
	}
	over := func(s *shipment) bool { return !s.dueTo(a) }
	l.only, l.carried = slices.DeleteFunc(l.only, over), slices.DeleteFunc(l.carried, over)
	l.had = slices.DeleteFunc(l.had, func(h hadShip) bool { return over(h.ship) })
	heap.Init(&l.had)
	if l.over = 0; l.len() == 0 {
		delete(d, a)
	}
}

func (l *dueList) len() int { return len(l.only) + len(l.carried) + len(l.had) }

// first returns what goes to a's devices and none of them said lately to have, at
// most so many of each kind, in order.
func (d dueLists) first(a identity.AccountID, most int, now time.Time) (only, carried []*shipment) {
	l := d[a]
	if l == nil {
		return nil, nil
	}
	l.again(a, now)
	return l.head(&l.only, a, most, now), l.head(&l.carried, a, most, now)
}

// head takes what is over, and what a device has, from in front of a queue, and
// returns what is left there.
func (l *dueList) head(q *[]*shipment, a identity.AccountID, most int, now time.Time) []*shipment {
	list := *q
	found := make([]*shipment, 0, min(most, len(list)))
	n := 0
	for ; n < len(list) && len(found) < most; n++ {
		switch s := list[n]; {
		case !s.dueTo(a):
			l.over = max(0, l.over-1)
		case s.hadBy(a, now):
			heap.Push(&l.had, hadShip{s, s.had[a].Add(directHadFor)})
		default:
			found = append(found, s)
		}
	}
	from := n - len(found)
	copy(list[from:n], found)
	clear(list[:from])
	if *q = list[from:]; len(*q) == 0 {
		*q = nil
	}
	return found
}

// again puts back what a device said to have, so long ago that a receipt should
// have come.
func (l *dueList) again(a identity.AccountID, now time.Time) {
	back := make(map[*[]*shipment][]*shipment)
	for len(l.had) > 0 && !l.had[0].until.After(now) {
		s := heap.Pop(&l.had).(hadShip).ship
		switch {
		case !s.dueTo(a):
			l.over = max(0, l.over-1)
		case s.hadBy(a, now): // it said so again
			heap.Push(&l.had, hadShip{s, s.had[a].Add(directHadFor)})
		default:
			q := l.queue(s)
			back[q] = append(back[q], s)
		}
	}
	for q, list := range back {
		*q = append(list, *q...)
		slices.SortFunc(*q, func(a, b *shipment) int { return cmp.Compare(a.ticket, b.ticket) })
	}
}

// onlyTo is what no pillar gets and is due to a, whoever said to have it, in no
// particular order.
func (d dueLists) onlyTo(a identity.AccountID) iter.Seq[*shipment] {
	return func(yield func(*shipment) bool) {
		l := d[a]
		if l == nil {
			return
		}
		for _, s := range l.only {
			if s.dueTo(a) && !yield(s) {
				return
			}
		}
		for _, h := range l.had {
			if h.ship.only && h.ship.dueTo(a) && !yield(h.ship) {
				return
			}
		}
	}
}

// owe puts a shipment in line for its accounts' devices. o.mu is held.
func (o *nodeOutbox) owe(s *shipment) {
	if !o.n.direct.off() {
		o.due.add(s)
	}
}

// dueTo reports whether the shipment is not over for an account among its to.
func (s *shipment) dueTo(a identity.AccountID) bool {
	if s.gone {
		return false
	}
	e := s.entry
	if e == nil {
		return true
	}
	i, ok := slices.BinarySearch(e.to, a)
	return ok && e.recipients[i].state == ""
}

// hadShip is a shipment that a device has, and until when that counts.
type hadShip struct {
	ship  *shipment
	until time.Time
}

// hadHeap is a heap of them: the first is the next of which it counts no more.
type hadHeap []hadShip

func (h hadHeap) Len() int           { return len(h) }
func (h hadHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h hadHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *hadHeap) Push(x any)        { *h = append(*h, x.(hadShip)) }

func (h *hadHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = hadShip{}
	*h = old[:len(old)-1]
	return last
}
