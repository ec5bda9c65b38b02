package overlay

import (
	"context"
	"slices"
)

// Records are hidden once they are expired, by every read. Their bytes go with
// their whole expiry day, a day after its end, while the clock is confirmed.

// deadLogKept is how long a log is kept after its last entry expired, and after
// the last one came, in ms: where history is still coming, what lives may follow
// what died.
const deadLogKept = 60 * 60 * 1000

// expire deletes what may be deleted.
func (p *Pillar) expire(ctx context.Context) {
	now := p.now()
	if p.failure() != nil || !p.clock.mayDelete(now) {
		return
	}
	if err := p.dropDays(now); err != nil {
		p.log.Error("expired records not deleted", "err", err)
		return
	}
	var dead []LogID
	p.mu.Lock()
	for log, s := range p.logs {
		if p.deadLocked(s, now) {
			dead = append(dead, log)
		}
	}
	p.mu.Unlock()
	if len(dead) == 0 {
		return
	}
	err := p.commit(ctx, commitJob{drop: dead, dead: now, done: make(chan error, 1)})
	if err != nil && ctx.Err() == nil {
		p.log.Warn("dead logs not deleted", "err", err)
	}
}

// deadLocked reports whether nothing of a log is of use at now. p.mu is held.
func (p *Pillar) deadLocked(s *LogState, now uint64) bool {
	return s.Dies+deadLogKept <= now && p.grown[s.Log]+deadLogKept <= now
}

// lapse has lacks forgotten whose records are expired.
func (p *Pillar) lapse(ctx context.Context) {
	now, due := p.now(), false
	if p.failure() != nil || !p.clock.mayDelete(now) {
		return
	}
	p.mu.Lock()
	for _, s := range p.logs {
		due = due || slices.ContainsFunc(s.Lacks, func(l Lack) bool { return l.Expires <= now })
	}
	p.mu.Unlock()
	if !due {
		return
	}
	err := p.commit(ctx, commitJob{lapse: now, done: make(chan error, 1)})
	if err != nil && ctx.Err() == nil {
		p.log.Warn("expired lacks not forgotten", "err", err)
	}
}

// dropDays deletes the days that ended a day ago or earlier.
func (p *Pillar) dropDays(now uint64) error {
	before := DayOf(now - min(now, DayMillis))
	days, err := p.daysBefore(before)
	if err != nil || days == 0 {
		return err
	}
	p.mu.Lock()
	p.dropped = max(p.dropped, before) // what belongs there is taken no more
	p.mu.Unlock()
	if err := p.cfg.Store.Drop(before); err != nil {
		return err
	}
	p.logBytes.drop(before)
	p.metrics.droppedDays.Add(float64(days))
	p.log.Info("expired records deleted", "days", days)
	return nil
}

// daysBefore counts the days with records before a day.
func (p *Pillar) daysBefore(before Day) (n int, err error) {
	view := p.cfg.Store.View()
	defer view.Close()
	for from := Day(0); from < before; {
		day := before
		err := view.Records(from, func(d Day, _ StoredRecord) bool {
			day = d
			return false
		})
		if err != nil {
			return n, err
		}
		if day < before {
			n++
		}
		from = day + 1
	}
	return n, nil
}
