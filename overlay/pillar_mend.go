package overlay

import (
	"context"
	"errors"
	"time"
)

// What a pillar does about a store that is damaged: a disk that gives back other
// bytes than were written. Whoever meets the damage gets an error, which is nobody's
// fault: submitters are told to try again, and do so elsewhere. The store is mended
// within a second or two, by the committer, so that nothing is answered as stored that
// is gone by then; other pillars' memory of what is held here is corrected, and the
// scrub goes through all of it at once, as at a start. From there it is as if somebody
// had deleted records by hand.

// mendRetry is when mending that failed with an error is tried again.
const mendRetry = time.Minute

// wantMend has the store mended.
func (p *Pillar) wantMend() {
	select {
	case p.mends <- struct{}{}:
	default:
	}
}

// mendLoop mends the store when somebody met damage, until ctx ends.
func (p *Pillar) mendLoop(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.mends:
		case <-ctx.Done():
			return
		}
		if p.cfg.Store.Stats().Unread == 0 || p.failure() != nil {
			continue
		}
		err := p.commit(ctx, commitJob{mend: true, done: make(chan error, 1)})
		if err == nil || ctx.Err() != nil {
			continue
		}
		p.log.Error("the store is damaged", "err", err)
		if !sleep(ctx, mendRetry) {
			return
		}
	}
}

// mend is the committer's.
func (c *committer) mend() error {
	p := c.p
	c.mended = true
	p.forgets.Add(1) // odd meanwhile: nothing is answered as a duplicate
	defer p.forgets.Add(1)
	gone, err := p.cfg.Store.Mend()
	if gone == 0 {
		return err
	}
	// What was looked for before may not be there any more.
	c.recent, c.older = map[RecordID]Dot{}, nil
	c.floor, c.olderEnds = c.local, c.local
	p.metrics.mended.Add(float64(gone))
	p.log.Error("the store was damaged: what could not be read comes again from other pillars", "places", gone)
	p.mended.Add(1)
	p.scrubbed.Store(false) // no cursors before the scrub was through
	select {
	case p.scrubs <- struct{}{}:
	default:
	}
	p.mesh.Committed(&CommitEvent{Time: p.cfg.Now(), Lost: true})
	if errors.Is(err, ErrStoreFailed) {
		c.fail(err)
		return err
	}
	c.commit.Values = append(c.commit.Values, p.known()...)
	return nil // what could not be mended is in the store's Stats
}

// known returns the values that memory has as well and that nobody writes again
// before they change.
func (p *Pillar) known() (values []Value) {
	for _, s := range p.Logs() {
		values = append(values, Value{Key: s.Key(), Data: s.Encode()})
		for i := range s.Lacks {
			values = append(values, Value{Key: lackKey(s.Log, s.Lacks[i].Seq), Data: s.Lacks[i].Encode()})
		}
	}
	p.allowed.mu.Lock()
	for a := range p.allowed.accounts {
		values = append(values, Value{Key: allowPrefix + string(a), Data: []byte{1}})
	}
	p.allowed.mu.Unlock()
	for _, e := range p.roster.Entries() {
		for _, rec := range []*Record{e.Record, p.roster.Revocation(e.Pillar)} {
			if rec == nil {
				continue
			}
			if v, ok := p.rosterValue(rec); ok {
				values = append(values, v)
			}
		}
	}
	return values
}
