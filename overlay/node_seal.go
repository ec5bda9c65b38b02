package overlay

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

// sealRetry is how often messages are tried that could not be sealed.
const sealRetry = 30 * time.Second

// sealNow seals e, or notes durably why it cannot be sealed. What it returns
// waits until the sealed one is durable and puts it on its way; nil if there is
// nothing to wait for. first: nothing of e is on disk yet. The caller has set
// e.sealing.
//
//  1. an epoch for the recipients (made if need be, then on its way itself)
//  2. sequences and a place in line, together
//  3. seal and sign, beside all others who do so
//  4. on disk, with all others who wait for that
//  5. in line
func (o *nodeOutbox) sealNow(ctx context.Context, e *outEntry, first bool) (finish func() error, err error) {
	for {
		ep, why := o.sealingEpoch(e)
		if ep == nil {
			return nil, o.keepUnsealed(e, first, why, o.lacking(e, why))
		}
		o.mu.Lock()
		if e.state.Final() {
			e.sealing = false
			o.mu.Unlock()
			return nil, nil
		}
		if first {
			if at, why := o.blockers(e.to); at != nil {
				if o.behind(ctx) {
					continue
				}
				o.mu.Unlock()
				return nil, o.keepUnsealed(e, first, why, at)
			}
		}
		o.unpark(e)
		now := o.n.now()
		seqs := make([]Sequence, len(e.to))
		for i, a := range e.to {
			seqs[i] = o.sequence(a).take(now * 1000)
		}
		ticket := o.line.ticket()
		body, expires := e.body, e.expires
		o.mu.Unlock()

		rec, err := o.n.epochs.sealRecord(ep, Draft{Kind: KindMessage, To: e.to, Sequences: seqs, Created: now, Expires: expires},
			AppendBody(make([]byte, 0, len(body)+BodyOverhead), e.typ, body))
		if err != nil {
			o.mu.Lock()
			for i, a := range e.to {
				o.sequence(a).failed(seqs[i])
			}
			o.mu.Unlock()
			o.call(ticket, nil)
			if errors.Is(err, seal.ErrErased) { // it ended meanwhile
				continue
			}
			return nil, o.keepUnsealed(e, first, CodeOf(err), e.to)
		}
		return o.keepSealed(e, rec, ep, seqs, ticket, first), nil
	}
}

// sealingEpoch returns an epoch to seal e with, or why there is none.
func (o *nodeOutbox) sealingEpoch(e *outEntry) (*liveEpoch, Code) {
	switch {
	case o.n.network().IsZero():
		return nil, CodeNoNetwork
	case o.n.sessions.clockWrong():
		return nil, CodeClockWrong
	}
	ep, err := o.n.epochs.get(e.to, e.only)
	switch {
	case err == nil:
		return ep, ""
	case errors.Is(err, seal.ErrNoSealingKey):
		o.n.dir.want(e.to...)
		return nil, CodeNoSealingKey
	case errors.Is(err, seal.ErrTooManyDevices):
		return nil, CodeTooManyDevices
	default:
		o.n.log.Error("cannot make an epoch", "err", err)
		return nil, CodeNoSealingKey
	}
}

// keepUnsealed writes e as queued and parks it at the accounts it waits for,
// or, if it can never be sealed, as rejected.
func (o *nodeOutbox) keepUnsealed(e *outEntry, first bool, why Code, at []identity.AccountID) error {
	o.mu.Lock()
	e.sealing = false
	if why.Final() {
		o.setState(e, StateRejected, why)
	} else {
		o.setState(e, StateQueued, why)
		if !e.state.Final() {
			o.park(e, at, why)
		}
	}
	var g *diskGroup
	if first {
		g = o.n.disk.stage(o.firstWrites(e)...)
	}
	o.mu.Unlock()
	if g == nil {
		return nil
	}
	if err := o.n.disk.commit(g); err != nil {
		return err
	}
	o.retrySealing() // what was missing may have come meanwhile
	return nil
}

// firstWrites is all of a message that is not sealed yet. o.mu is held.
func (o *nodeOutbox) firstWrites(e *outEntry) []Write {
	order := orderBytes(e.order)
	body := e.body
	if body == nil {
		body = []byte{}
	}
	ws := []Write{
		{nodeKey(keyOut, order), e.encode()},
		{nodeKey(keyOutBody, order), body},
		{nodeKey(keyOutHand, e.handle[:]), order},
	}
	if e.client != "" {
		ws = append(ws, Write{nodeKey(keyOutCli, e.client), order})
	}
	return ws
}

// keepSealed stages e's record. What it returns waits for the disk and puts the
// record in line.
func (o *nodeOutbox) keepSealed(e *outEntry, rec *Record, ep *liveEpoch, seqs []Sequence, ticket uint64, first bool) (finish func() error) {
	ship := &shipment{id: rec.ID, raw: rec.Raw, kind: KindMessage, entry: e, to: e.to, only: e.only,
		epoch: ep.epoch.ID(), concern: e.concern, expires: rec.Expires, ticket: ticket}
	o.mu.Lock()
	e.sealing = false
	if e.state.Final() { // it expired while it was sealed
		for i, a := range e.to {
			o.sequence(a).failed(seqs[i])
		}
		o.line.call(ticket, nil)
		o.mu.Unlock()
		return nil
	}
	e.sealed, e.id, e.epoch, e.seqs, e.missing = true, rec.ID, ep.epoch.ID(), seqs, ep.missing
	e.expires = rec.Expires
	e.ship = ship
	o.ids[e.id] = e
	delete(o.unsealed, e.order)
	if x := o.byEpoch[e.epoch]; x != nil {
		x.refs++
	}
	why := Code("")
	if o.active == nil || e.only {
		why = CodeUnreachable
	}
	var ws []Write
	if first {
		e.reason = why
		ws = o.firstWrites(e)
	} else {
		o.setState(e, StateQueued, why)
		ws = []Write{{orderKey(keyOut, e.order), e.encode()}}
	}
	e.body = nil
	ws = append(ws, Write{orderKey(keyOutRec, e.order), rec.Raw}, Write{nodeKey(keyOutID, e.id[:]), orderBytes(e.order)})
	for _, a := range e.to {
		ws = append(ws, o.sequence(a).write(a))
	}
	g := o.n.disk.stage(ws...)
	o.mu.Unlock()
	return func() error {
		if err := o.n.disk.commit(g); err != nil {
			o.call(ticket, nil)
			return err
		}
		o.call(ticket, ship)
		return nil
	}
}

// sealGroup is how many of the sealer's records share a commit.
const sealGroup = 256

// retrySealing makes the sealer look at what is not sealed.
func (o *nodeOutbox) retrySealing() { wakeUp(o.retry) }

// sealer seals what could not be sealed when it was sent, until ctx ends.
func (o *nodeOutbox) sealer(ctx context.Context) {
	o.setSealer(true)
	defer o.setSealer(false)
	tick := time.NewTicker(sealRetry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.retry:
		case <-tick.C:
		}
		o.mu.Lock()
		list := make([]*outEntry, 0, len(o.unsealed))
		for _, e := range o.unsealed {
			if !e.sealing && !e.state.Final() {
				e.sealing = true
				list = append(list, e)
			}
		}
		o.mu.Unlock()
		slices.SortFunc(list, func(a, b *outEntry) int { return int(int64(a.order) - int64(b.order)) })
		if err := o.sealAll(ctx, list); err != nil {
			return // the disk's; it ends Run
		}
	}
}

// sealAll seals what can be sealed of a list, in its order.
func (o *nodeOutbox) sealAll(ctx context.Context, list []*outEntry) error {
	var group []func() error
	flush := func() (err error) {
		for _, finish := range group { // the first waits for the disk, for all of them
			err = errors.Join(err, finish())
		}
		group = group[:0]
		return err
	}
	waiting := map[identity.AccountID]Code{} // accounts that an earlier one could not be sealed for
	for i, e := range list {
		if ctx.Err() != nil {
			o.letGo(list[i:])
			break
		}
		if at := slices.IndexFunc(e.to, func(a identity.AccountID) bool { _, ok := waiting[a]; return ok }); at >= 0 {
			if err := o.keepUnsealed(e, false, waiting[e.to[at]], e.to[at:at+1]); err != nil {
				return err
			}
			continue
		}
		finish, err := o.sealNow(ctx, e, false)
		if err != nil {
			return err
		}
		if finish != nil {
			group = append(group, finish)
		}
		if len(group) == sealGroup {
			if err := flush(); err != nil {
				return err
			}
		}
		o.mu.Lock()
		for _, a := range e.parkedAt {
			waiting[a] = e.reason
		}
		o.mu.Unlock()
	}
	return flush()
}

// letGo notes that nobody seals these entries after all.
func (o *nodeOutbox) letGo(list []*outEntry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range list {
		e.sealing = false
	}
}

// setOf names a list of recipients.
func setOf(to []identity.AccountID) string {
	var b []byte
	for _, a := range to {
		b = canon.AppendBin(b, a)
	}
	return string(b)
}
