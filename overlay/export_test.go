package overlay

import (
	"context"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// Locate is what direct delivery asks.
func (n *Node) Locate(ctx context.Context, account identity.AccountID) ([]Presence, error) {
	return n.locate(ctx, account)
}

// ForgetLocated has the next Locate ask anew.
func (n *Node) ForgetLocated(account identity.AccountID) { n.locator.forget(account) }

// QuotaTaker charges submissions at a store of limit bytes.
func QuotaTaker(limit uint64) func(from identity.AccountID, source string, to []identity.AccountID, cost float64, now uint64) bool {
	var q quotas
	q.init()
	of := Quotas{}.with(limit)
	return func(from identity.AccountID, source string, to []identity.AccountID, cost float64, now uint64) bool {
		return q.take(payers{from, source, to}, cost, now, of) == nil
	}
}

// SubmissionBytes is how many bytes of submissions are on their way.
func (p *Pillar) SubmissionBytes() int64 { return p.queued.Load() }

// SubmissionsWaiting is how many sessions are not read because of their
// account's share.
func (p *Pillar) SubmissionsWaiting() (n int) {
	p.shares.mu.Lock()
	defer p.shares.mu.Unlock()
	for _, s := range p.shares.of {
		n += int(s.waiting.Load())
	}
	return n
}

// DropDays deletes what may be deleted at now.
func (p *Pillar) DropDays(now uint64) error { return p.dropDays(now) }

// Takes reports whether the pillar knows itself to be one.
func (p *Pillar) Takes() bool { return p.out.Load() == nil }

// SourceOf is whose quota a session from an address is counted to.
func SourceOf(a multiaddr.Multiaddr) string { return sourceOf(a) }

// ScrubNow does a pass of the scrub, as the one at the start of Run.
func ScrubNow(ctx context.Context, p *Pillar) error {
	<-p.started
	return (&scrubber{p: p, first: true, at: time.Now()}).pass(ctx)
}

// Scrubbed reports whether the first pass of the scrub is over.
func (p *Pillar) Scrubbed() bool { return p.scrubbed.Load() }

// ScrubSlowly is ScrubNow for the passes that follow.
func ScrubSlowly(ctx context.Context, p *Pillar) error {
	return (&scrubber{p: p, at: time.Now()}).pass(ctx)
}

// Retain removes messages that are over at now, but for the newest most.
func (n *Node) Retain(now uint64, most int) error { return n.retain(now, most) }

// CheckClock judges the clock, as is done every few seconds.
func (p *Pillar) CheckClock() { p.checkClock() }

// FindBy replaces how the node finds other accounts' devices.
func FindBy(n *Node, find func(context.Context, identity.AccountID) ([]Presence, error)) {
	n.direct.find = find
}

// DirectQuotaTaker charges an account for what its devices deliver, in byte
// milliseconds.
func DirectQuotaTaker() func(a identity.AccountID, cost float64, now uint64) error {
	var q directQuota
	return func(a identity.AccountID, cost float64, now uint64) error {
		if err := q.take(a, cost, now); err != nil {
			return err
		}
		return nil
	}
}
