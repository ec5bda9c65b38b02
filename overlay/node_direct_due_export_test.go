package overlay

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// Behind makes an account that is behind so many messages that pillars do not
// carry at the moment, with as many for others, and returns its refill.
func Behind(messages int) (refill func() (taken int)) {
	n := &Node{}
	n.outbox, n.direct = newNodeOutbox(n), newNodeDirect(n)
	o := n.outbox
	accounts := []identity.AccountID{"them", "others"}
	for i := range 2 * messages {
		e := &outEntry{to: accounts[i%2 : i%2+1], sealed: true, recipients: make([]recipient, 1), state: StateQueued}
		binary.BigEndian.PutUint64(e.handle[:], uint64(i))
		e.ship = &shipment{kind: KindMessage, entry: e, to: e.to, ticket: uint64(i + 1)}
		o.handles[e.handle] = e
		o.line.call(e.ship.ticket, e.ship)
	}
	p := &directAccount{d: n.direct, account: accounts[0], lanes: map[identity.DeviceID]*directLane{}}
	return func() int {
		p.refill()
		return len(p.items)
	}
}

// Due is dueLists, with messages named by their tickets.
type Due struct {
	d   dueLists
	all map[uint64]*shipment
	n   uint64
}

// NewDue has nothing due.
func NewDue() *Due { return &Due{d: dueLists{}, all: map[uint64]*shipment{}} }

// Add has one more due to accounts, ascending: a message, or a receipt, which only
// counts if no pillar gets it.
func (d *Due) Add(only, receipt bool, to ...identity.AccountID) {
	d.n++
	s := &shipment{kind: KindMessage, only: only, to: to, ticket: d.n}
	if receipt {
		s.kind = KindReceipt
	} else {
		s.entry = &outEntry{to: to, recipients: make([]recipient, len(to)), state: StateQueued}
	}
	d.all[d.n] = s
	d.d.add(s)
}

// Said notes that a device of a has it.
func (d *Due) Said(name uint64, a identity.AccountID, now time.Time) {
	if s := d.all[name]; s != nil {
		if s.had == nil {
			s.had = map[identity.AccountID]time.Time{}
		}
		s.had[a] = now
	}
}

// Received ends it for one account, as a receipt does.
func (d *Due) Received(name uint64, a identity.AccountID) {
	if s := d.all[name]; s != nil && s.entry != nil {
		if i := slices.Index(s.to, a); i >= 0 {
			s.entry.recipients[i].state = StateDelivered
			d.d.ended(a)
		}
	}
}

// Drop ends it.
func (d *Due) Drop(name uint64) {
	if s := d.all[name]; s != nil {
		s.gone = true
		delete(d.all, name)
		for _, a := range s.to {
			d.d.ended(a)
		}
	}
}

// First is first.
func (d *Due) First(a identity.AccountID, most int, now time.Time) (only, carried []uint64) {
	o, c := d.d.first(a, most, now)
	return tickets(o), tickets(c)
}

// Want is what First is to return, by looking at all.
func (d *Due) Want(a identity.AccountID, most int, now time.Time) (only, carried []uint64) {
	for n := range d.n + 1 {
		s := d.all[n]
		if s == nil || !slices.Contains(s.to, a) || !s.dueTo(a) || s.hadBy(a, now) {
			continue
		}
		switch {
		case s.only && len(only) < most:
			only = append(only, n)
		case !s.only && len(carried) < most && s.kind == KindMessage:
			carried = append(carried, n)
		}
	}
	return only, carried
}

// Kept is how much is remembered for a, and how much of it is not over.
func (d *Due) Kept(a identity.AccountID) (kept, due int) {
	l := d.d[a]
	if l == nil {
		return 0, 0
	}
	for _, s := range slices.Concat(l.only, l.carried) {
		due += btoi(s.dueTo(a))
	}
	for _, h := range l.had {
		due += btoi(h.ship.dueTo(a))
	}
	return l.len(), due
}

// OnlyTo is onlyTo.
func (d *Due) OnlyTo(a identity.AccountID) (list []uint64) {
	list = tickets(slices.Collect(d.d.onlyTo(a)))
	slices.Sort(list)
	return list
}

func tickets(list []*shipment) (out []uint64) {
	for _, s := range list {
		out = append(out, s.ticket)
	}
	return out
}
