package overlay

import "context"

// Records are hidden once they are expired, by every read. Their bytes go with
// their whole expiry day, a day after its end, while the clock is confirmed.

// deadLogKept is how long a log is kept after its last entry expired, and after
// the last one came, in ms: where history is still coming, what lives may follow
// what died.
const deadLogKept = 60 * 60 * 1000

// expire deletes what may be deleted.
func (p *Pillar) expire(ctx context.Context) {
	if p.failure() != nil || !p.clock.mayDelete() {
		return
	}
	now := p.now()
	if err := p.dropDays(now); err != nil {
		p.log.Error("expired records not deleted", "err", err)
		return
	}
	var dead []LogID
	p.mu.Lock()
	for log, s := range p.logs {
		if s.Dies+deadLogKept <= now && p.grown[log]+deadLogKept <= now {
			dead = append(dead, log)
		}
	}
	p.mu.Unlock()
	if len(dead) == 0 {
		return
	}
	if err := p.commitValues(ctx, nil, dead); err != nil && ctx.Err() == nil {
		p.log.Warn("dead logs not deleted", "err", err)
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
