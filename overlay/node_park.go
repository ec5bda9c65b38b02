package overlay

import (
	"context"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Messages to one account leave in the order they were sent. A message that
// cannot be sealed yet is parked at the accounts that keep it from that, and
// none to such an account that is sent later passes it: as long as the key is
// missing it parks too, and once it is there it waits for the sealer, which
// takes what is parked in order.

// parking counts the messages parked at an account.
type parking struct {
	count int
	why   Code
}

// lacking returns which of e's recipients keep it from being sealed: those
// without a usable key if that is why, else all.
func (o *nodeOutbox) lacking(e *outEntry, why Code) []identity.AccountID {
	if why != CodeNoSealingKey {
		return e.to
	}
	now, several := o.n.now(), len(e.to) > 1
	var list []identity.AccountID
	for _, a := range e.to {
		acc, err := o.n.dir.account(a)
		if err != nil || !slices.ContainsFunc(acc.sealing(a, now, several), func(d seal.Device) bool { return seal.UsableKey(d.Key, now, several) }) {
			list = append(list, a)
		}
	}
	if len(list) == 0 { // the key came while we looked
		return e.to
	}
	return list
}

// blockers returns the accounts among to at which a message is parked, and why
// the first one is. o.mu is held.
func (o *nodeOutbox) blockers(to []identity.AccountID) (at []identity.AccountID, why Code) {
	if len(o.parked) == 0 {
		return nil, ""
	}
	for _, a := range to {
		if p := o.parked[a]; p != nil {
			if at = append(at, a); why == "" {
				why = p.why
			}
		}
	}
	return at, why
}

// behind waits for the sealer to take what is parked at accounts whose keys are
// there. It returns false, with o.mu held, if nobody does that.
func (o *nodeOutbox) behind(ctx context.Context) bool {
	if !o.sealerOn {
		return false
	}
	if o.freed == nil {
		o.freed = make(chan struct{})
	}
	freed := o.freed
	o.mu.Unlock()
	o.retrySealing()
	select {
	case <-freed:
		return true
	case <-ctx.Done():
		o.mu.Lock()
		return false
	}
}

// setSealer notes whether the sealer runs.
func (o *nodeOutbox) setSealer(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sealerOn = on
	o.wakeBehind()
}

// wakeBehind lets those look again who wait behind parked ones. o.mu is held.
func (o *nodeOutbox) wakeBehind() {
	if o.freed != nil {
		close(o.freed)
		o.freed = nil
	}
}

// park notes that e waits for these accounts. o.mu is held.
func (o *nodeOutbox) park(e *outEntry, at []identity.AccountID, why Code) {
	o.unpark(e)
	e.parkedAt = at
	for _, a := range at {
		p := o.parked[a]
		if p == nil {
			p = &parking{}
			o.parked[a] = p
		}
		p.count++
		p.why = why
	}
}

// unpark takes e off where it is parked. o.mu is held.
func (o *nodeOutbox) unpark(e *outEntry) {
	for _, a := range e.parkedAt {
		if p := o.parked[a]; p != nil {
			if p.count--; p.count == 0 {
				delete(o.parked, a)
				o.wakeBehind()
			}
		}
	}
	e.parkedAt = nil
}
