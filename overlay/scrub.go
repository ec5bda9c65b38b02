package overlay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The scrub looks for what the disk lost or somebody deleted by hand. Records
// are the only primary column of the store: box entries, log entries and states
// follow from them or are got again from others, so what does not fit them is
// repaired or given up, and the pillar says so: CommitEvent.Gone, and a log's
// state that is Rewritten, so that follows and the audit bring the rest.
//
// It goes through the whole store once when the pillar starts, as fast as half
// of its time allows, and from then on slowly for ever. Expired log entries are
// trimmed on the way.
//
// Until that first pass is over nobody is given a new cursor (Pillar.scrubbed):
// what the logs' states promise may not be in the mailboxes. What is found later is
// pushed to who is connected, and found by everybody else's next mailbox check.
//
//	scrub_records.go  heads without bytes, boxes without their entries, entries
//	                  and bytes without their heads
//	scrub_logs.go     holes in logs, entries without their records, entries that
//	                  are over, entries of no log

const (
	// scrubRate is how many records and entries are looked at in an hour, after
	// the first pass.
	scrubRate = 1_000_000
	// scrubEvery is the least time from one pass to the next.
	scrubEvery = 10 * time.Minute
	// What is looked at in one go, in one view.
	scrubChunk      = 256
	scrubChunkBytes = 1 << 20
	scrubEntries    = 1024 // of a log
)

// scrubber is one pass.
type scrubber struct {
	p     *Pillar
	first bool
	at    time.Time // when the chunk that is looked at was begun
	// changed: something of the day that is looked at was repaired.
	changed bool
}

// scrubLoop scrubs until ctx ends or the store fails.
func (p *Pillar) scrubLoop(ctx context.Context) {
	for ctx.Err() == nil && p.failure() == nil {
		start, mended := time.Now(), p.mended.Load()
		s := &scrubber{p: p, first: !p.scrubbed.Load(), at: start}
		switch err := s.pass(ctx); {
		case errors.Is(err, errScrubAgain):
			continue
		case err == nil:
			p.metrics.scrubPasses.Inc()
			p.scrubbed.Store(p.mended.Load() == mended)
		case ctx.Err() == nil:
			p.log.Error("scrub ended early", "err", err)
		}
		pause := time.NewTimer(scrubEvery - time.Since(start))
		select {
		case <-pause.C:
		case <-p.scrubs:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// errScrubAgain: the store was mended, so the scrub begins anew.
var errScrubAgain = errors.New("the store was mended meanwhile")

// sleep waits for d; false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *scrubber) pass(ctx context.Context) error {
	view := s.p.cfg.Store.View()
	days, err := view.Parts().Days()
	view.Close()
	if err != nil {
		return err
	}
	for _, day := range days {
		failed := s.day(ctx, day)
		if errors.Is(failed, errScrubAgain) {
			return failed
		}
		if failed != nil {
			// What cannot be read must not keep the rest from being repaired.
			err = errors.Join(err, fmt.Errorf("expiry day %d: %w", day, failed))
		}
		if ctx.Err() != nil {
			return err
		}
	}
	return errors.Join(err, s.logs(ctx))
}

func (s *scrubber) day(ctx context.Context, day Day) error {
	for range 2 { // a box entry that is removed leaves a head without it
		s.changed = false
		if err := s.heads(ctx, day); err != nil {
			return err
		}
		s.changed = false
		if err := errors.Join(s.places(ctx, day), s.bodies(ctx, day)); err != nil || !s.changed {
			return err
		}
	}
	return nil
}

// pace is called after n things were looked at. It takes the time it should
// take.
func (s *scrubber) pace(ctx context.Context, n int) error {
	s.p.metrics.scrubbed.Add(float64(n))
	wait := time.Since(s.at)
	if !s.first {
		wait = time.Duration(n) * (time.Hour / scrubRate)
	}
	pause := time.NewTimer(wait)
	defer pause.Stop()
	select {
	case <-pause.C:
		s.at = time.Now()
		return nil
	case <-s.p.scrubs:
		return errScrubAgain
	case <-ctx.Done():
		return ctx.Err()
	}
}
