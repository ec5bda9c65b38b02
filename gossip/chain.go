package gossip

import (
	"bytes"
	"fmt"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of what a follow holds that no signed head covers yet. Holders keep a
// head at least every headEvery entries or headBytes bytes; a gap many times
// larger is the provider's fault.
const (
	maxPendingEntries = 128 << 10
	maxPendingBytes   = 64 << 20
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

// chain checks the batches of one follow: that they are the log asked for, in
// order, without gaps, and that they lead to heads signed by the log's pillar.
// Nothing passes it before such a head is reached, so nothing that does not
// link to one is ever stored. Used by one goroutine.
type chain struct {
	network identity.NetworkID
	log     overlay.LogID
	known   func(identity.PillarID) bool // whether a pillar is in the roster

	next uint64       // sequence expected next
	hash overlay.Hash // h(next-1)
	base overlay.Hash // the hash before pending
	head overlay.Head // newest that verified; zero before the first

	pending []overlay.BatchEntry // accepted in order, not linked yet
	bytes   int                  // of pending
	void    int                  // entries taken that are void
	hole    uint64               // first entry taken whose body is missing though it lives; 0: none
}

// take checks b. It returns the run that b completes, nil if the head is still
// ahead. The run's entries have ID and Expires set whether or not they have a
// body.
func (c *chain) take(b *overlay.Batch) (*overlay.LogRun, error) {
	switch {
	case b.Log != c.log:
		return nil, faulty(faultLog, "asked for %s, got %s", c.log, b.Log)
	case b.From != c.next:
		return nil, faulty(faultOrder, "expected entry %d, got %d", c.next, b.From)
	case len(b.Entries) == 0:
		return nil, faulty(faultOrder, "an empty batch")
	case b.Head == nil:
		return nil, faulty(faultHead, "a batch without a head")
	}
	last := b.From + uint64(len(b.Entries)) - 1
	if b.Head.Seq < last {
		return nil, faulty(faultHead, "entries to %d under a head at %d", last, b.Head.Seq)
	}
	if err := c.checkHead(b.Head); err != nil {
		return nil, err
	}
	if len(c.pending) == 0 {
		c.base = c.hash
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		if err := identify(c.network, e); err != nil {
			return nil, faulty(faultChain, "entry %d: %v", b.From+uint64(i), err)
		}
		c.hash = overlay.Chain(c.hash, e.Expires, e.ID)
		c.bytes += len(e.Raw) + len(e.Void) + 64
		if e.Why == overlay.WhyVoid {
			c.void++
		}
		if c.hole == 0 && e.Raw == nil && len(e.Void) == 0 && e.Why != overlay.WhyExpired {
			c.hole = b.From + uint64(i)
		}
	}
	c.next = last + 1
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
	run := &overlay.LogRun{
		State: overlay.LogState{
			Pillar: c.head.Pillar, Nonce: c.head.Nonce,
			Position: overlay.Position{Log: c.log, Seq: last, Hash: c.hash},
			Head:     b.Head,
		},
		From:    c.next - uint64(len(c.pending)),
		Before:  c.base,
		Entries: c.pending,
	}
	c.pending, c.bytes = nil, 0
	return run, nil
}

// checkHead verifies a head unless it is the one that verified last.
func (c *chain) checkHead(h *overlay.Head) error {
	if h.Seq == c.head.Seq && h.Hash == c.head.Hash && h.Dies == c.head.Dies && bytes.Equal(h.Sig, c.head.Sig) {
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
