package overlay

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// When the mailbox is checked, and what is offered again.
const (
	checkEvery   = 10 * time.Minute
	checkPause   = 5 * time.Second // between checks that something asked for
	checkStandby = 3               // every so many checks ask the standby, too
	checkSlack   = 15_000          // ms: records younger, or expiring sooner, may still be on their way
	offerEvery   = 24 * time.Hour
)

// nodeChecker compares the account's mailbox with what this device has seen of
// it: what came by no page, lost or withheld, is fetched. It also offers what
// was sent and never confirmed to a new pillar.
type nodeChecker struct {
	n     *Node
	wake  chan struct{}
	offer atomic.Bool
}

func newNodeChecker(n *Node) *nodeChecker { return &nodeChecker{n: n, wake: make(chan struct{}, 1)} }

// request asks for a check soon.
func (c *nodeChecker) request() { wakeUp(c.wake) }

// failedOver asks for a check, and for an offer, at the new active pillar.
func (c *nodeChecker) failedOver() {
	c.offer.Store(true)
	wakeUp(c.wake)
}

// run checks until ctx ends.
func (c *nodeChecker) run(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	offered := time.Now()
	for round := 1; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-tick.C:
		}
		if time.Since(offered) > offerEvery {
			c.offer.Store(true)
		}
		s := c.n.sessions.activeSession()
		if s == nil {
			continue
		}
		if c.offer.Swap(false) {
			offered = time.Now()
			if err := c.offerTo(ctx, s); err != nil {
				c.n.log.Debug("offer ended early", "pillar", s.pillar, "err", err)
			}
		}
		if !s.resumed.Load() {
			continue // the last page asks again
		}
		c.check(ctx, s)
		if standby := c.n.sessions.standbySession(); standby != nil && (round%checkStandby == 0 || c.n.inbox.pending.Load() > 0) {
			c.check(ctx, standby)
		}
		if !pause(ctx, checkPause) {
			return
		}
	}
}

func (c *nodeChecker) check(ctx context.Context, s *nodeSession) {
	missing, err := c.compare(ctx, s)
	if err != nil {
		c.n.log.Debug("mailbox check ended early", "pillar", s.pillar, "err", err)
		return
	}
	for chunk := range slices.Chunk(missing, MaxFind) {
		records, _, err := s.find(ctx, &Find{IDs: chunk})
		if err != nil {
			c.n.log.Debug("cannot fetch what a mailbox check found", "pillar", s.pillar, "err", err)
			return
		}
		w := boxWork{session: s, records: records, check: true, done: make(chan struct{})}
		select {
		case c.n.inbox.work <- w:
		case <-ctx.Done():
			return
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return
		}
	}
}

// compare returns the IDs that the pillar has in the mailbox and this device
// has never seen.
func (c *nodeChecker) compare(ctx context.Context, s *nodeSession) ([]RecordID, error) {
	now := c.n.now()
	m := &Check{N: s.take(1), Before: now - min(now, checkSlack), Front: now + checkSlack}
	rand.Read(m.Key[:]) // never fails
	days := map[Day]*Tally{}
	if err := c.seen(m, func(day Day, id RecordID, _ []byte, shown bool) {
		if !shown {
			return
		}
		t := days[day]
		if t == nil {
			t = &Tally{}
			days[day] = t
		}
		*t = t.Add(Tally{1, m.Key.Term(id)})
	}); err != nil {
		return nil, err
	}
	for day, t := range days {
		m.Days = append(m.Days, DayTally{day, *t})
	}
	slices.SortFunc(m.Days, func(a, b DayTally) int { return int(a.Day) - int(b.Day) })
	if len(m.Days) > MaxDays {
		m.Days = m.Days[:MaxDays] // no record lives that long
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answers, err := s.ask(ctx, m.N, m)
	if err != nil {
		return nil, err
	}
	differ := map[Day]bool{}
	theirs := map[RecordID]struct{}{}
	for _, a := range answers {
		checked, ok := a.(*Checked)
		if !ok {
			return nil, fmt.Errorf("%w: a wrong answer to Check", ErrFrame)
		}
		for _, d := range checked.Days {
			differ[d] = true
		}
		for _, id := range checked.IDs {
			theirs[id] = struct{}{}
		}
	}
	if len(differ) == 0 && len(theirs) == 0 {
		return nil, nil
	}
	lacks := 0
	var shownNow []Write
	if err := c.seen(m, func(day Day, id RecordID, value []byte, shown bool) {
		if _, both := theirs[id]; both {
			delete(theirs, id)
			if !shown { // a device was faster, and no page brought it
				k := binary.BigEndian.AppendUint32([]byte(keySeen), uint32(day))
				shownNow = append(shownNow, Write{append(k, id[:]...), bytes.Clone(value[:seenShown])})
			}
		} else if differ[day] && shown {
			lacks++
		}
	}); err != nil {
		return nil, err
	}
	c.n.disk.rider(shownNow...)
	c.n.log.Info("mailbox check", "pillar", s.pillar, "missing_here", len(theirs), "missing_there", lacks)
	missing := make([]RecordID, 0, len(theirs))
	for id := range theirs {
		missing = append(missing, id)
	}
	return missing, nil
}

// seen calls fn for every record of the mailbox that this device has seen and
// that m speaks of, with what stands in the table and whether a pillar has shown
// it.
func (c *nodeChecker) seen(m *Check, fn func(day Day, id RecordID, value []byte, shown bool)) error {
	from := binary.BigEndian.AppendUint32([]byte(keySeen), uint32(DayOf(m.Front)))
	return c.n.disk.table.Scan([]byte(keySeen), from, func(key, data []byte) bool {
		rest := key[len(keySeen):]
		ok, shown := readSeen(data)
		if len(rest) != 4+len(RecordID{}) || !ok {
			return true
		}
		created, expires := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])
		if created < m.Before && expires >= m.Front {
			fn(Day(binary.BigEndian.Uint32(rest)), RecordID(rest[4:]), data, shown)
		}
		return true
	})
}

// offerTo asks which of the messages that nobody confirmed the pillar holds,
// and submits the others.
func (c *nodeChecker) offerTo(ctx context.Context, s *nodeSession) error {
	for ids := range slices.Chunk(c.n.outbox.unreceipted(), MaxIDs) {
		_, bits, err := s.find(ctx, &Find{IDs: ids, OnlyHeld: true})
		if err != nil {
			return err
		}
		held := Held{Bits: bits}
		var lost []RecordID
		for i, id := range ids {
			if !held.Bit(i) {
				lost = append(lost, id)
			}
		}
		if len(lost) > 0 {
			c.n.log.Info("submitting again what the pillar lacks", "pillar", s.pillar, "records", len(lost))
			c.n.outbox.lost(lost)
		}
	}
	return nil
}

// lost puts records back in line that a pillar does not hold although they were
// replicated.
func (o *nodeOutbox) lost(ids []RecordID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		s := o.hidden[id]
		if e := o.ids[id]; e != nil {
			s = e.ship
		}
		if s != nil && s.state == shipIdle {
			s.done = false
			o.again(s)
		}
	}
	wakeUp(o.wake)
}

// unreceipted lists replicated messages that nobody confirmed to have, and
// their epochs.
func (o *nodeOutbox) unreceipted() []RecordID {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []RecordID
	for _, e := range o.handles {
		if e.ship != nil && e.ship.done && !e.only && !e.state.Final() {
			ids = append(ids, e.id)
		}
	}
	for _, s := range o.hidden {
		if s.kind == KindEpoch && s.done && !s.only {
			ids = append(ids, s.id)
		}
	}
	slices.SortFunc(ids, func(a, b RecordID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}
