package store

import (
	"context"
	"errors"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

const (
	// reclaimAfter is how long Pebble has after a drop to give the space back by
	// itself: the range deletion is flushed after a second, and files that hold
	// nothing else go at once.
	reclaimAfter = 3 * time.Second
	// reclaimFrom is how many bytes of dropped days are worth a compaction.
	reclaimFrom = 1 << 20
)

// reclaim gives back the space of dropped days where Pebble does not. Pebble
// deletes files that hold nothing but what a range deletion covers, but looks for
// them once: one that is being compacted just then, or in which a day that stays
// begins, is passed over, and keeps its space until something is written that has
// it compacted. On an idle pillar that is never.
//
// It is a goroutine of its own since a compaction takes long, and for ever on a
// disk that fails. So none of it is an operation that close waits for.
func (e *engine) reclaim() {
	defer close(e.reclaimed)
	for {
		select {
		case <-e.closing.Done():
			return
		case <-e.dropped:
		}
		wait := time.NewTimer(reclaimAfter)
		select {
		case <-e.closing.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		low, high := appendDay(nil, 0), appendDay(nil, overlay.Day(e.droppedTo.Load()))
		if err := e.compact(low, high); err != nil && !errors.Is(err, context.Canceled) {
			e.log.Warn("the space of expired records is not given back yet", "err", err)
		}
	}
}

// compact has what lies in [low, high) compacted if it is worth it.
func (e *engine) compact(low, high []byte) error {
	if used, err := e.db.EstimateDiskUsage(low, high); err != nil || used < reclaimFrom {
		return err
	}
	return e.db.Compact(e.closing, low, high, false)
}

// dropTo tells reclaim that all days before day are dropped.
func (e *engine) dropTo(day overlay.Day) {
	e.droppedTo.Store(uint32(day))
	select {
	case e.dropped <- struct{}{}:
	default:
	}
}
