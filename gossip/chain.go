package gossip

import (
	"fmt"
	"math"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of what a follow holds that no signed head covers yet. Holders keep a
// head at least every headEvery entries or headBytes bytes, at the end of a
// commit; a gap many times larger is the provider's fault.
const (
	maxPendingEntries = 32 << 10
	maxPendingBytes   = 32 << 20
	maxPendingOf      = 64 << 20 // bytes, of all follows from one provider
	smallRun          = 64 << 10 // bytes of a run that waits for no room: what is fresh comes in such
)

// maxQueuedOf bounds the bytes of all runs from one provider that lead to a head
// and wait to be stored. Tests change it.
var maxQueuedOf = 64 << 20

// Bounds of what a head may say.
const (
	maxSeq    = 1 << 48             // entries of a log
	maxAhead  = 33 * 24 * 60 * 60e3 // ms from now that an entry may live, and a day
	goneSlack = 60 * 1000           // ms that our clock may be behind the provider's
	beginning = math.MaxUint64      // From of a Follow of what comes from now on
)

// fault is why a follow ended through its provider.
type fault struct {
	reason string // of metrics.go
	detail string
}

func (f *fault) Error() string { return "provider at fault: " + f.reason + ": " + f.detail }

func faulty(reason, format string, args ...any) *fault {
	return &fault{reason, fmt.Sprintf(format, args...)}
}

// forkError is a proof that a log was forked.
type forkError struct{ proof *overlay.Forked }

func (e *forkError) Error() string { return "the log was forked" }

// chain checks the batches of one follow: that they are the log asked for, in
// order, without gaps, and that they lead to heads signed by the log's pillar.
// Nothing passes it before such a head is reached, so nothing that does not
// link to one is ever stored. Used by one goroutine.
type chain struct {
	network  identity.NetworkID
	log      overlay.LogID
	provider identity.PillarID
	known    func(identity.PillarID) bool // whether the logs of a pillar are taken
	now      func() uint64
	// apart reports whether the provider's clock says another time than ours: then
	// what looks wrong by ours proves nothing.
	apart func() bool
	// limit returns a place of the log ahead whose hash is linked to a signed
	// head already: what is held, or another follow began, from there on. nil: no
	// such place is looked for.
	limit func(next uint64) (lead *lead)

	opening bool          // the first batch says where the stream begins
	opened  *overlay.Head // the head that it said so with, until the first run
	next    uint64        // sequence expected next
	hash    overlay.Hash  // h(next-1)
	head    overlay.Head  // newest that verified; zero before the first

	from    uint64 // of pending
	before  overlay.Hash
	pending []overlay.BatchEntry // accepted in order, not linked yet
	bytes   int                  // of pending
	since   int                  // bytes since the last head that was far enough
	void    int                  // entries taken that are void
	covers  []reachedHead        // what vouches for gone entries in pending
	other   *fork                // pending passed a place that has another hash
}

// taken is a run that links to a signed head.
type taken struct {
	*overlay.LogRun
	reached []reachedHead // at its end, where the first one began, and what vouches for gone entries; several of a joined one
	bytes   int
	counted int // of them, in the provider's room
	last    uint64
	met     bool // it ends where the limit is: nothing more is needed
}

// start sets where the chain goes on.
func (c *chain) start(seq uint64, hash overlay.Hash) {
	c.next, c.hash = seq+1, hash
	c.from, c.before = c.next, hash
}

// open takes the first batch of a stream whose follower knew no hash.
func (c *chain) open(b *overlay.Batch) error {
	switch {
	case b.Log != c.log:
		return faulty(faultLog, "asked for %s, got %s", c.log, b.Log)
	case b.Head == nil || len(b.Entries) > 0 || b.From != b.Head.Seq+1:
		return faulty(faultOrder, "a stream of unknown beginning")
	}
	if err := c.checkHead(b.Head); err != nil {
		return err
	}
	c.start(b.Head.Seq, b.Head.Hash)
	c.opening, c.opened = false, b.Head
	return nil
}

// take checks b. It returns the run that b completes, nil if the head is still
// ahead. The run's entries have ID and Expires set whether or not they have a
// body.
func (c *chain) take(b *overlay.Batch) (*taken, error) {
	switch {
	case b.Log != c.log:
		return nil, faulty(faultLog, "asked for %s, got %s", c.log, b.Log)
	case b.From != c.next:
		return nil, faulty(faultOrder, "expected entry %d, got %d", c.next, b.From)
	case len(b.Entries) == 0:
		return nil, faulty(faultOrder, "an empty batch")
	case b.Head == nil && c.head.Seq == 0:
		return nil, faulty(faultHead, "no head at all")
	}
	if b.Head == nil { // the one before leads on
		head := c.head
		b.Head = &head
	}
	last, err := c.measure(b)
	if err != nil {
		return nil, err
	}
	if b.Head.Seq < last {
		return nil, faulty(faultHead, "entries to %d under a head at %d", last, b.Head.Seq)
	}
	if err := c.checkHead(b.Head); err != nil {
		return nil, err
	}
	if err := c.checkGone(b); err != nil {
		return nil, err
	}
	var limit *lead
	if c.limit != nil {
		limit = c.limit(c.next)
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		if err := identify(c.network, e); err != nil {
			return nil, faulty(faultChain, "entry %d: %v", c.next, err)
		}
		c.hash = overlay.ChainEntry(c.hash, e)
		c.next += e.Len()
		size := len(e.Raw) + len(e.Void) + 64
		c.bytes += size
		c.since += size
		if e.Why == overlay.WhyVoid {
			c.void++
		}
		if limit == nil || c.next-1 != limit.pos.Seq {
			continue
		}
		if c.hash == limit.pos.Hash {
			c.pending = append(c.pending, b.Entries[:i+1]...)
			return c.run(limit.known(), true), nil
		}
		c.other = &fork{at: limit.known(), before: c.hash, from: len(c.pending) + i + 1}
	}
	if c.pending == nil {
		c.pending = b.Entries
	} else {
		c.pending = append(c.pending, b.Entries...)
	}
	if b.Head.Seq > last {
		if len(c.pending) > maxPendingEntries || c.bytes > maxPendingBytes {
			return nil, faulty(faultHead, "%d entries without a head that they reach", len(c.pending))
		}
		return nil, nil
	}
	if b.Head.Hash != c.hash {
		return nil, faulty(faultChain, "entries to %d do not link to the signed head", last)
	}
	if c.other != nil {
		switch {
		case c.other.at != nil:
		case vague(c.pending):
			return nil, errVague
		default:
			return nil, errUnproven
		}
		if proof := c.other.prove(c.pending, b.Head); proof != nil && proof.Proves(c.network) {
			return nil, &forkError{proof}
		}
		return nil, faulty(faultChain, "entries to %d are another history", last)
	}
	return c.run(b.Head, false), nil
}

// measure says where a batch ends, and that no run of it is absurd.
func (c *chain) measure(b *overlay.Batch) (last uint64, err error) {
	last = b.From - 1
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Why == overlay.WhyGone && e.Expires > c.now()+goneSlack {
			if c.apart() {
				return 0, errClocks
			}
			return 0, faulty(faultGone, "entries from %d on are said to be gone, and live", last+1)
		}
		n := e.Len()
		if n > maxSeq || last+n > maxSeq {
			return 0, faulty(faultOrder, "%d entries in one", n)
		}
		last += n
	}
	return last, nil
}

// checkGone refuses what is only said to be gone: of a run of gone entries nothing
// can be checked, which a provider could say of anything that lives. The log's
// pillar has to have signed it: for the log's base, or by when all entries up to a
// head died.
func (c *chain) checkGone(b *overlay.Batch) error {
	at := b.From - 1
	for i := range b.Entries {
		e := &b.Entries[i]
		if at += e.Len(); e.Why != overlay.WhyGone {
			continue
		}
		if !b.Head.Over(at, c.now()+goneSlack) {
			if c.apart() {
				return errClocks
			}
			return faulty(faultGone, "nothing signed says that entries to %d have expired", at)
		}
		c.covers = append(c.covers, reachedHead{head: b.Head, gone: at})
	}
	return nil
}

// run is what is pending, which ends at a signed head.
func (c *chain) run(head *overlay.Head, met bool) *taken {
	r := &taken{
		LogRun: &overlay.LogRun{
			State: overlay.LogState{
				Pillar: c.head.Pillar, Nonce: c.head.Nonce,
				Position: overlay.Position{Log: c.log, Seq: c.next - 1, Hash: c.hash},
				Head:     head,
			},
			From:    c.from,
			Before:  c.before,
			Entries: c.pending,
		},
		bytes: c.bytes, last: c.next - 1, met: met,
	}
	if c.opened != nil {
		r.reached, c.opened = append(r.reached, reachedHead{head: c.opened}), nil
	}
	if head != nil {
		r.reached = append(r.reached, reachedHead{head: head, spaced: c.since >= headBytes})
	}
	r.reached, c.covers = append(r.reached, c.covers...), nil
	if c.since >= headBytes {
		c.since = 0
	}
	c.from, c.before = c.next, c.hash
	c.pending, c.bytes = nil, 0
	return r
}

// fork is a place where the chain has another hash than a signed head.
type fork struct {
	at     *overlay.Head // what is known
	before overlay.Hash  // the chain's there
	from   int           // what is pending behind it
}

// prove makes the proof that head, which pending leads to, and what is known are
// two histories; nil if entries on the way are not there one by one.
func (f *fork) prove(pending []overlay.BatchEntry, head *overlay.Head) *overlay.Forked {
	pending = pending[f.from:]
	if len(pending) > overlay.MaxLinks {
		return nil
	}
	proof := &overlay.Forked{Head: f.at, Other: head, Before: f.before}
	for i := range pending {
		if pending[i].Why == overlay.WhyGone {
			return nil
		}
		proof.Links = append(proof.Links, overlay.LogEntry{Expires: pending[i].Expires, ID: pending[i].ID})
	}
	return proof
}

// checkHead verifies a head unless it is the one that verified last.
func (c *chain) checkHead(h *overlay.Head) error {
	if h.Equal(&c.head) {
		return nil
	}
	if h.Position(c.network).Log != c.log {
		return faulty(faultHead, "a head of log %s", h.Position(c.network).Log)
	}
	if !h.Verify(c.network) {
		return faulty(faultHead, "a head that its pillar did not sign")
	}
	if !c.known(h.Pillar) {
		return fmt.Errorf("log %s is of pillar %s: %w", c.log, h.Pillar, errStranger)
	}
	if h.Seq > maxSeq || h.Dies > c.now()+maxAhead {
		if h.Seq <= maxSeq && c.apart() {
			return errClocks
		}
		if h.Pillar == c.provider {
			return faulty(faultHead, "a head from the future: entry %d, dies %d", h.Seq, h.Dies)
		}
		return fmt.Errorf("log %s is of pillar %s: %w", c.log, h.Pillar, errStranger) // who carries it is not who signed it
	}
	c.head = *h
	return nil
}

// identify sets ID and Expires of an entry that has a body from its payload;
// what stands in the payload besides is not looked at.
func identify(network identity.NetworkID, e *overlay.BatchEntry) error {
	if e.Raw == nil {
		return nil
	}
	outer := canon.MakeReader(e.Raw)
	outer.Array(2)
	payload := outer.Bin(overlay.MaxRecord)
	if err := outer.Err(); err != nil {
		return err
	}
	expires, err := expiryOf(payload)
	if err != nil {
		return err
	}
	e.Expires = expires
	e.ID = overlay.RecordID(identity.Hash(identity.TagRecordID, network[:], payload))
	return nil
}

// expiryOf walks a payload to its eighth field, see overlay.ParseRecord.
func expiryOf(payload []byte) (uint64, error) {
	p := canon.MakeReader(payload)
	p.Array(9)
	p.Uint()
	p.Uint()
	p.Bin(identity.Ed25519IDLen)
	p.Bin(identity.MaxCertificate)
	for range p.ArrayMax(overlay.MaxTo) {
		p.Bin(identity.Ed25519IDLen)
	}
	for range p.ArrayMax(overlay.MaxTo) {
		p.Array(2)
		p.Uint()
		p.Uint()
	}
	p.Uint()
	expires := p.Uint()
	return expires, p.Err()
}
