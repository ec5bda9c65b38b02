package overlay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Bounds of what is on its way to the active pillar.
const (
	shipWindow = 2048 // submitted and not answered
	// shipBytes is how full a Submit gets: little enough that a slow line brings
	// an answer before the pillar counts as silent.
	shipBytes    = 64 << 10
	retryDefault = 2 * time.Second // after a refusal that names no time
	// quotaPatience is how long a pillar's quota is waited out before the standby is
	// tried: what a node may keep is counted by every pillar for itself.
	quotaPatience = 5 * time.Second
	quotaAgain    = 10 * time.Minute // the longest that is waited for one pillar's quota
	resubmitIn    = 15 * time.Second // a record that is stored and not replicated
	resubmitEvery = 5 * time.Second  // between looks for such records
)

// shipment is one record on its way: a message's, or one that the user never
// sees (epoch, receipt, the node's own records). Guarded by the outbox's mu.
type shipment struct {
	id      RecordID
	raw     []byte // nil: on disk
	kind    Kind
	entry   *outEntry // nil for hidden ones
	to      []identity.AccountID
	epoch   seal.EpochID // it is, or is sealed in
	refs    int          // of an epoch: what is unfinished and sealed in it, see hold
	only    bool         // no pillar gets it
	concern int
	expires uint64

	ticket  uint64
	state   shipState
	n       uint64 // number it was submitted under
	stored  bool
	done    bool // on as many pillars as asked
	gone    bool // nothing is to be done with it any more
	copies  int
	dot     Dot
	tries   int
	retryAt time.Time                        // while shipWaiting
	had     map[identity.AccountID]time.Time // accounts a device of which said that it has it, and when
}

type shipState uint8

const (
	shipIdle    shipState = iota // nothing to do at the moment
	shipReady                    // in line
	shipFlying                   // submitted
	shipWaiting                  // for retryAt
)

// shipLine orders what goes out. A ticket is drawn together with the sequences;
// a record gets in line once it is durable, and never before those with a
// lower ticket, so recipients see a device's messages in order.
type shipLine struct {
	out     func(*shipment)      // called for every record, in the order of the tickets
	tickets uint64               // drawn so far
	next    uint64               // the newest ticket that was called
	early   map[uint64]*shipment // durable, with a lower ticket missing; nil: given up
	ready   []*shipment          // in state shipReady; of one that is there twice the first counts
	waiting []*shipment
}

func newShipLine() shipLine { return shipLine{early: map[uint64]*shipment{}} }

// ticket draws a ticket.
func (l *shipLine) ticket() uint64 {
	l.tickets++
	return l.tickets
}

// call says that the ticket's record is durable, or, with nil, that none comes.
func (l *shipLine) call(ticket uint64, s *shipment) {
	l.early[ticket] = s
	for {
		s, ok := l.early[l.next+1]
		if !ok {
			return
		}
		l.next++
		delete(l.early, l.next)
		if s == nil || s.gone {
			continue
		}
		if !s.only {
			s.state = shipReady
			l.ready = append(l.ready, s)
		}
		l.out(s)
	}
}

// out sends a record the way beside the pillars. o.mu is held.
func (o *nodeOutbox) out(s *shipment) {
	o.owe(s)
	o.n.direct.offer(s)
}

// call is shipLine.call with what belongs to it.
func (o *nodeOutbox) call(ticket uint64, s *shipment) {
	o.mu.Lock()
	o.line.call(ticket, s)
	o.mu.Unlock()
	wakeUp(o.wake)
}

// pump submits what is ready over the active session until ctx ends.
func (o *nodeOutbox) pump(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		if o.n.sessions.clockWrong() {
			o.excuse(CodeClockWrong)
			continue
		}
		for o.submit() {
		}
	}
}

// submit sends one Submit and reports whether there may be more to send.
func (o *nodeOutbox) submit() bool {
	s, batch, raws := o.nextBatch()
	if len(batch) == 0 {
		return false
	}
	for i, ship := range batch {
		if raws[i] == nil {
			var err error
			if raws[i], err = o.rawOf(ship); err != nil {
				o.n.giveUp(fmt.Errorf("node: read its outbox: %w", err))
				return false
			}
		}
		if raws[i] == nil { // finished meanwhile
			raws[i] = o.filler()
		}
	}
	return s.send(&Submit{First: batch[0].n, Concern: uint64(batch[0].concern), Records: raws})
}

// filler stands where a record was that was finished after it got its number:
// the own device record, which every pillar has.
func (o *nodeOutbox) filler() []byte {
	_, device := o.n.self.records(false)
	return device
}

// nextBatch takes from the line what fits one Submit.
func (o *nodeOutbox) nextBatch() (*nodeSession, []*shipment, [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.active
	if s == nil {
		return nil, nil, nil
	}
	room := min(shipWindow-len(s.inflight), MaxSubmit)
	var batch []*shipment
	size, taken := 0, 0
	for _, ship := range o.line.ready {
		if len(batch) >= room || len(batch) > 0 && (ship.concern != batch[0].concern || size+len(ship.raw) > shipBytes) {
			break
		}
		taken++
		if ship.gone || ship.done || ship.state != shipReady {
			continue
		}
		if ship.raw == nil {
			size += DefaultMaxBody // not known yet
		}
		size += len(ship.raw)
		ship.state = shipFlying
		batch = append(batch, ship)
	}
	clear(o.line.ready[:taken])
	o.line.ready = o.line.ready[taken:]
	if len(batch) == 0 {
		return s, nil, nil
	}
	now := time.Now()
	first := s.take(len(batch))
	raws := make([][]byte, len(batch))
	for i, ship := range batch {
		raws[i] = ship.raw
		ship.n = first + uint64(i)
		s.inflight[ship.n] = ship
	}
	if s.oldest.IsZero() {
		s.oldest = now
		wakeUp(o.n.guard.wake)
	}
	o.n.guard.talk()
	return s, batch, raws
}

// weight is about how many bytes are submitted over s and not answered.
func (o *nodeOutbox) weight(s *nodeSession) (bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ship := range s.inflight {
		if bytes += len(ship.raw); ship.raw == nil { // on disk
			bytes += DefaultMaxBody
		}
	}
	return bytes
}

// unanswered says since when the pillar owes an answer, zero for never.
func (o *nodeOutbox) unanswered(s *nodeSession) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(s.inflight) == 0 {
		return time.Time{}
	}
	return s.oldest
}

// setActive changes the session that records are submitted over; everything
// not yet replicated goes out again.
func (o *nodeOutbox) setActive(s *nodeSession) {
	o.mu.Lock()
	old := o.active
	o.active = s
	if old != nil {
		for _, ship := range old.inflight {
			ship.state = shipIdle
		}
		clear(old.inflight)
	}
	if s != nil {
		clear(o.byDot)
		for _, ship := range o.hidden {
			o.again(ship)
		}
		for _, e := range o.handles {
			if e.ship != nil && e.sealed {
				o.again(e.ship)
			}
		}
		slices.SortStableFunc(o.line.ready, func(a, b *shipment) int { return cmp.Compare(a.ticket, b.ticket) })
	} else {
		for _, e := range o.handles {
			if e.state == StateQueued && e.sealed && e.reason == "" && !e.only {
				o.setState(e, StateQueued, CodeUnreachable)
			}
		}
	}
	o.mu.Unlock()
	wakeUp(o.wake)
}

// again puts a shipment back in line. One that was not called yet stays where
// it is. o.mu is held.
func (o *nodeOutbox) again(s *shipment) {
	if s.gone || s.done || s.only || s.state == shipReady || s.ticket > o.line.next {
		return
	}
	if _, early := o.line.early[s.ticket]; early {
		return
	}
	s.state = shipReady
	o.line.ready = append(o.line.ready, s)
}

// copiesWanted is how many copies make a record replicated: what was asked for,
// capped by the pillars there are; 0 if there is only one, whose copy is never
// called replicated.
func copiesWanted(concern, living int) int {
	if k := min(concern, living); k > 1 {
		return k
	}
	return 0
}

func (o *nodeOutbox) living() int {
	if r := o.n.pillars(); r != nil {
		return r.Living(o.n.now())
	}
	return 1
}

// onResult takes the answers to submissions.
func (o *nodeOutbox) onResult(s *nodeSession, lines []ResultLine) {
	living := o.living()
	var leave error
	o.mu.Lock()
	for i := range lines {
		l := &lines[i]
		ship := s.inflight[l.N]
		if ship == nil {
			continue
		}
		delete(s.inflight, l.N)
		ship.state = shipIdle
		switch {
		case ship.gone:
		case l.Err == nil:
			o.onStored(ship, l, living)
		case l.Err.Code.Final():
			o.onRejected(ship, l.Err)
		default:
			o.onRefused(ship, l.Err)
			switch l.Err.Code {
			case CodeFull, CodeDraining, CodeBusy:
				leave = l.Err
			case CodeQuota:
				if l.Err.Retry > quotaPatience && leave == nil {
					leave = l.Err
				}
			}
		}
	}
	s.oldest = time.Time{}
	if len(s.inflight) > 0 {
		s.oldest = time.Now()
	}
	o.mu.Unlock()
	if leave != nil {
		o.n.sessions.leave(s, leave)
	}
	wakeUp(o.wake)
}

// onStored: the record is durable at the pillar. o.mu is held.
func (o *nodeOutbox) onStored(s *shipment, l *ResultLine, living int) {
	s.stored, s.dot = true, l.Dot
	s.tries = 0
	s.retryAt = time.Now().Add(resubmitIn)
	o.onCopies(s, int(min(l.Copies, 1<<16)), living)
	if !s.done && !s.gone && copiesWanted(s.concern, living) > 0 {
		list := o.byDot[s.dot.Log]
		i, _ := slices.BinarySearchFunc(list, s.dot.Seq, func(x *shipment, seq uint64) int { return cmp.Compare(x.dot.Seq, seq) })
		o.byDot[s.dot.Log] = slices.Insert(list, i, s)
	}
}

// onCopies: so many pillars hold it. o.mu is held.
func (o *nodeOutbox) onCopies(s *shipment, copies, living int) {
	s.copies = max(s.copies, copies)
	k := copiesWanted(s.concern, living)
	if k > 0 && s.copies >= k {
		s.done, s.state = true, shipIdle
	}
	if e := s.entry; e != nil {
		if s.copies > e.copies {
			e.copies = s.copies
			o.touch(e)
		}
		if s.done {
			s.raw = nil
			o.setState(e, StateReplicated, "")
		} else {
			o.setState(e, StateStored, "")
		}
		return
	}
	if k == 0 { // the only pillar has it: that is all there is to wait for
		s.done = true
	}
	o.release(s)
}

// onRejected: no pillar will ever take it. o.mu is held.
func (o *nodeOutbox) onRejected(s *shipment, why *Error) {
	if s.entry != nil {
		if s.stored { // one pillar did: this one's refusal changes nothing
			o.onRefused(s, why)
			return
		}
		o.setState(s.entry, StateRejected, why.Code)
		return
	}
	o.n.log.Warn("pillar rejects a record of ours", "kind", s.kind, "record", s.id, "err", why)
	o.drop(s)
	if s.kind == KindEpoch {
		o.n.epochs.forget(s.epoch)
	}
}

// onRefused: not now, or not here. o.mu is held.
func (o *nodeOutbox) onRefused(s *shipment, why *Error) {
	after := why.Retry
	if after <= 0 {
		after = retryDefault << min(s.tries, 5)
	}
	if why.Code == CodeQuota {
		after = min(after, quotaAgain)
	}
	s.tries++
	s.state = shipWaiting
	s.retryAt = time.Now().Add(jitter(after))
	o.line.waiting = append(o.line.waiting, s)
	if s.entry != nil && s.entry.state == StateQueued {
		o.setState(s.entry, StateQueued, why.Code)
	}
}

// onWatermark: a run of dots is on so many pillars.
func (o *nodeOutbox) onWatermark(w *Watermark) {
	living := o.living()
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.byDot[w.Log]
	bySeq := func(x *shipment, seq uint64) int { return cmp.Compare(x.dot.Seq, seq) }
	from, _ := slices.BinarySearchFunc(list, w.From, bySeq)
	to := from
	for to < len(list) && list[to].dot.Seq <= w.To {
		to++
	}
	if from == to {
		return
	}
	keep := from
	for _, s := range list[from:to] {
		if s.gone || s.done {
			continue
		}
		o.onCopies(s, int(min(w.Copies, 1<<16)), living)
		if !s.done && !s.gone {
			list[keep] = s
			keep++
		}
	}
	if from == 0 && keep == 0 {
		clear(list[:to])
		list = list[to:] // in order, the usual case: nothing moves
	} else {
		list = slices.Delete(list, keep, to)
	}
	if len(list) == 0 {
		delete(o.byDot, w.Log)
		return
	}
	o.byDot[w.Log] = list
}

// excuse says why queued messages do not go out.
func (o *nodeOutbox) excuse(why Code) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.handles {
		if e.state == StateQueued {
			o.setState(e, StateQueued, why)
		}
	}
}

// sweep brings back what waits and ends what is over, until ctx does.
func (o *nodeOutbox) sweep(ctx context.Context) {
	every := time.Second
	var lastResubmit time.Time
	for pause(ctx, every) {
		o.mu.Lock()
		now := time.Now()
		o.line.waiting = slices.DeleteFunc(o.line.waiting, func(s *shipment) bool {
			if s.state != shipWaiting || s.gone {
				return true
			}
			if s.retryAt.After(now) {
				return false
			}
			o.again(s)
			return true
		})
		due := len(o.line.ready) > 0
		if every = time.Second; len(o.line.waiting) > 0 {
			every = 250 * time.Millisecond
		}
		o.mu.Unlock()
		o.expire()
		if now.Sub(lastResubmit) >= resubmitEvery {
			lastResubmit = now
			o.resubmit(now)
			due = true
		}
		if due {
			wakeUp(o.wake)
		}
	}
}

// expire ends messages whose life is over. With a clock that is wrong nothing
// is.
func (o *nodeOutbox) expire() {
	if o.n.sessions.clockWrong() {
		return
	}
	now := o.n.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.handles {
		if e.expires <= now {
			o.setState(e, StateExpired, e.reason)
		}
	}
	for _, s := range o.hidden {
		if s.expires <= now {
			o.drop(s)
		}
	}
}

// resubmit asks again about what is stored for long and not replicated: other
// pillars may have it by now, or may be there by now.
func (o *nodeOutbox) resubmit(now time.Time) {
	living := o.living()
	o.mu.Lock()
	defer o.mu.Unlock()
	try := func(s *shipment) {
		if s.gone || s.done || !s.stored || s.state != shipIdle || now.Before(s.retryAt) || copiesWanted(s.concern, living) == 0 {
			return
		}
		s.retryAt = now.Add(resubmitIn)
		if list := o.byDot[s.dot.Log]; len(list) > 0 {
			o.byDot[s.dot.Log] = slices.DeleteFunc(list, func(x *shipment) bool { return x == s })
		}
		o.again(s)
	}
	budget := shipWindow
	for _, e := range o.handles {
		if e.ship != nil && budget > 0 {
			budget--
			try(e.ship)
		}
	}
	for _, s := range o.hidden {
		try(s)
	}
}
