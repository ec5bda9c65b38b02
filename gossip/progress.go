package gossip

import (
	"math"
	"sync"
	"time"
)

// Rules of saying how catching up goes.
const (
	progressEvery = 5 * time.Second // between two lines
	progressFrom  = 10_000          // entries of backlog that are worth a line
	rateHalf      = 5 * time.Second // in which a rate forgets half of what was
)

// progress says how catching up goes: a line every few seconds, and a rate.
type progress struct {
	rate  rate
	seen  uint64    // of follows.history
	since time.Time // of the catching up under way; zero if none
	said  time.Time
	began uint64 // follows.history at since
}

// tick looks at the backlog once a second.
func (p *progress) tick(fs *follows, now missing, at time.Time) {
	total := fs.history.Load()
	p.rate.add(total-p.seen, at)
	p.seen = total
	fs.m.met.backlogRate.Set(p.rate.get())
	switch {
	case p.since.IsZero() && now.backlog >= progressFrom:
		p.since, p.said, p.began = at, at, total
		fs.m.log.Info("catching up", "entries", now.backlog, "logs", now.logs)
	case p.since.IsZero():
	case now.backlog == 0:
		fs.m.log.Info("caught up", "entries", total-p.began, "took", at.Sub(p.since))
		p.since = time.Time{}
	case at.Sub(p.said) >= progressEvery:
		p.said = at
		fs.m.log.Info("catching up", "entries", now.backlog, "logs", now.logs,
			"done", total-p.began, "per_s", math.Round(p.rate.get()), "took", at.Sub(p.since))
	}
}

// rate is a decaying mean of events a second. Safe for concurrent use; the zero
// value is ready.
type rate struct {
	mu sync.Mutex
	v  float64   // guarded by mu
	at time.Time // guarded by mu
}

// add counts n events since the last call.
func (r *rate) add(n uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	took := now.Sub(r.at).Seconds()
	if r.at.IsZero() || took <= 0 {
		if r.at.IsZero() {
			r.at = now
		}
		return
	}
	keep := math.Exp2(-took / rateHalf.Seconds())
	r.v = r.v*keep + float64(n)/took*(1-keep)
	r.at = now
}

// set replaces the rate by what was just measured, half and half with before.
func (r *rate) set(v float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.v == 0 {
		r.v = v
	} else {
		r.v = (r.v + v) / 2
	}
}

func (r *rate) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.v
}
