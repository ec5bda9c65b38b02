package overlay

import (
	"cmp"
	"context"
	"encoding/binary"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
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

// A LaneRig is a lane with records that each have an epoch of their own, over a
// stream that takes everything.
type LaneRig struct {
	l     *directLane
	s     *directStream
	taken []inFlight
	next  uint64 // number of the record to be answered next
}

type sinkStream struct{ Stream }

func (sinkStream) Write(b []byte) (int, error)      { return len(b), nil }
func (sinkStream) SetReadDeadline(time.Time) error  { return nil }
func (sinkStream) SetWriteDeadline(time.Time) error { return nil }
func (sinkStream) Reset() error                     { return nil }

// NewLaneRig makes one with n records.
func NewLaneRig(n int) *LaneRig {
	node := &Node{metrics: newNodeMetrics(nil)}
	node.outbox, node.direct = newNodeOutbox(node), newNodeDirect(node)
	p := node.direct.account("contact")
	for i := range n {
		item := directItem{ship: &shipment{}, kind: KindReceipt, only: true, at: time.Now(), raw: []byte("record"), epochRaw: []byte("epoch")}
		binary.BigEndian.PutUint64(item.epoch[:], uint64(i))
		p.items = append(p.items, item)
	}
	l := &directLane{p: p, device: "device", wake: make(chan struct{}, 1)}
	p.lanes[l.device] = l
	return &LaneRig{l: l, next: 1, s: &directStream{stream: sinkStream{}, done: make(chan struct{}), epochs: map[seal.EpochID]struct{}{}}}
}

// Take takes what goes next, and Send writes it as well and returns how much
// that was.
func (r *LaneRig) Take() (err error) {
	r.taken, err = r.l.take(r.s)
	return err
}

// Send is Take and what follows it.
func (r *LaneRig) Send() (int, error) {
	if err := r.Take(); err != nil {
		return 0, err
	}
	if err := r.s.deliver(r.taken); err != nil {
		return 0, err
	}
	r.l.written(r.s)
	return len(r.taken), nil
}

// Answer has the device answer n records.
func (r *LaneRig) Answer(n int) error {
	lines := make([]DeliveredLine, n)
	for i := range lines {
		lines[i].N = r.next
		r.next++
	}
	return r.l.answered(r.s, lines)
}

// Settle is done whenever the device has answered something.
func (r *LaneRig) Settle() { r.l.settle(r.s) }

// Flight is how many records are not answered, and Acked before which position
// all are.
func (r *LaneRig) Flight() int { return len(r.s.flight) }

// Acked is the position before which the device has answered everything.
func (r *LaneRig) Acked() uint64 { return r.l.acked }

// Look bounds the look for messages that are about to expire: entries read at a
// time, of one mailbox, and answers in a batch; 0 for what is real. Seek has it seek
// mailboxes rather than scan them all; Hurry leaves out the rests.
type Look struct {
	Entries, Mailbox, Batch int
	Seek, Hurry             bool
}

// LookForExpiring looks until a pass is over and returns how many looks it took.
func LookForExpiring(ctx context.Context, p *Pillar, by Look) (looks int, err error) {
	l := by.of(p)
	l.done = true
	for ; looks == 0 || l.begun != 0; looks++ {
		if err := l.look(ctx); err != nil {
			return looks, err
		}
	}
	return looks, nil
}

// LookOnce does the first look of all of a pass and returns what it says.
func LookOnce(ctx context.Context, p *Pillar, by Look) (Expiring, error) {
	if err := by.of(p).look(ctx); err != nil {
		return Expiring{}, err
	}
	return *p.expiring.Load(), nil
}

func (by Look) of(p *Pillar) *expiringLook {
	l := &expiringLook{p: p, bounds: newLookBounds()}
	b := &l.bounds
	if by.Entries > 0 {
		b.look.entries, b.chunk.entries = by.Entries, max(1, by.Entries/2)
	}
	if by.Seek {
		b.seek = 0
	}
	if by.Hurry {
		b.rest = 0
	}
	b.batch, b.mailbox = cmp.Or(by.Batch, b.batch), cmp.Or(by.Mailbox, b.mailbox)
	return l
}

// AskLine is an askLine of questions that are named by numbers.
type AskLine struct {
	l     askLine
	names map[*question]int
}

// Push has a question wait, and returns which one must not any more; 0: none.
func (a *AskLine) Push(name int, source, account string) (dropped int) {
	if a.names == nil {
		a.names = make(map[*question]int)
	}
	q := &question{source: source, account: identity.AccountID(account)}
	a.names[q] = name
	if out := a.l.push(waitingAsk{q: q}); out != nil {
		return a.names[out]
	}
	return 0
}

// Pop takes the next, 0 if none waits.
func (a *AskLine) Pop() int {
	if w, ok := a.l.pop(); ok {
		return a.names[w.q]
	}
	return 0
}

// Waiting is how many wait, and of how many sources.
func (a *AskLine) Waiting() (questions, sources int) { return a.l.waiting, len(a.l.by) }

// MaxWaitingAsks is how many may.
const MaxWaitingAsks = maxWaitingAsks
