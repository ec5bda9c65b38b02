package gossip

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of the supervisor.
const (
	maxFollows   = 1024             // logs followed at once
	maxFollowsOf = 32               // from one provider: its budget is for others too
	fewFollows   = 4                // from one provider, of its own logs: kept while idle
	idleHistory  = 10 * time.Second // for others: they are closed when nothing comes for so long
	followTick   = time.Second      // how often silent and idle follows are looked for
	retryLost    = time.Second      // before a provider that was lost is asked again
	retryRefused = 5 * time.Second  // that refused without saying when
	retryLocal   = 5 * time.Second  // before anybody is asked after the Replica failed
	retryDied    = time.Minute      // whose log had died: its pillar may still append
	retryFault   = 10 * time.Second // that was at fault; doubled each time
	retryMax     = 10 * time.Minute
	maxPenalties = 4096
)

// follows keeps one follow for every log of which a connected pillar holds more
// than is held here, and keeps it as long as something moves in it. Its first
// choice is the log's own pillar, else whoever holds most of it.
type follows struct {
	m    *Mesh
	wake chan struct{} // capacity 1
	work sync.WaitGroup

	mu        sync.Mutex
	active    map[overlay.LogID]*follow // guarded by mu
	paused    time.Time                 // guarded by mu; no follow is started before, for the Replica takes nothing
	penalties map[penaltyKey]penalty    // guarded by mu
}

// penaltyKey is a provider of a log.
type penaltyKey struct {
	log  overlay.LogID
	peer peer.ID
}

// penalty is until when a provider is not asked, and how often it was at fault.
type penalty struct {
	until  time.Time
	faults int
}

func newFollows(m *Mesh) *follows {
	return &follows{m: m, wake: make(chan struct{}, 1), active: map[overlay.LogID]*follow{},
		penalties: map[penaltyKey]penalty{}}
}

func (fs *follows) poke() {
	select {
	case fs.wake <- struct{}{}:
	default:
	}
}

// run supervises until ctx ends.
func (fs *follows) run(ctx context.Context) {
	tick := time.NewTicker(followTick)
	defer tick.Stop()
	defer fs.work.Wait()
	for {
		select {
		case <-fs.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		fs.supervise(ctx)
	}
}

// offer is who holds a log, and how far.
type offer struct {
	most   uint64 // the longest prefix anybody connected has
	best   *session
	bestAt uint64
	owner  bool // best is the log's own pillar
}

// supervise compares what connected pillars hold with what is held here, and
// ends and starts follows.
func (fs *follows) supervise(ctx context.Context) {
	now := time.Now()
	offers, lag := fs.offers(now)
	fs.m.met.lag.Set(float64(lag))
	fs.mu.Lock()
	defer fs.mu.Unlock()
	from := map[peer.ID]int{}
	for _, f := range fs.active {
		from[f.provider.peer]++
	}
	for log, f := range fs.active {
		idle := fs.m.cfg.FollowIdle
		if from[f.provider.peer] > fewFollows || !fs.owns(f.provider, log) {
			idle = min(idle, idleHistory)
		}
		fs.check(f, offers[log], now, idle)
	}
	for log, o := range offers {
		if now.Before(fs.paused) {
			break
		}
		if fs.active[log] == nil && o.best != nil && len(fs.active) < maxFollows && from[o.best.peer] < maxFollowsOf {
			from[o.best.peer]++
			fs.start(ctx, log, o.best, now)
		}
	}
	fs.m.met.follows.Set(float64(len(fs.active)))
}

// offers collects for every log that is somebody's longer prefix, or that is
// being followed, who offers it, and how many entries are missing here at most.
func (fs *follows) offers(now time.Time) (map[overlay.LogID]offer, uint64) {
	offers := map[overlay.LogID]offer{}
	own := fs.m.logs.ownPosition().Log
	var lag uint64
	for _, s := range fs.m.sessions.all() {
		for _, p := range s.positions() {
			mine := fs.m.logs.position(p.Log).Seq
			if p.Log == own {
				continue
			}
			o := offers[p.Log]
			if p.Seq > max(o.most, mine) {
				lag += p.Seq - max(o.most, mine)
			}
			o.most = max(o.most, p.Seq)
			if fs.usable(p.Log, s.peer, now) && p.Seq > mine {
				owner := fs.owns(s, p.Log)
				if o.best == nil || owner || !o.owner && p.Seq > o.bestAt {
					o.best, o.bestAt, o.owner = s, p.Seq, owner
				}
			}
			offers[p.Log] = o
		}
	}
	return offers, lag
}

// usable reports whether p may be asked for log.
func (fs *follows) usable(log overlay.LogID, p peer.ID, now time.Time) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return now.After(fs.penalties[penaltyKey{log, p}].until)
}

// owns reports whether the log is known to be of the session's pillar.
func (fs *follows) owns(s *session, log overlay.LogID) bool {
	state, ok := fs.m.logs.state(log)
	return ok && state.Pillar == s.id
}

// check ends a follow that is silent while the log moves, idle, or better made
// with the log's own pillar or with who offers more. fs.mu is held.
func (fs *follows) check(f *follow, o offer, now time.Time, idle time.Duration) {
	reached := max(f.reached.Load(), fs.m.logs.position(f.log).Seq)
	moved := time.Unix(0, f.moved.Load())
	behind := o.most > reached
	waits := behind && f.reading.Load()
	switch {
	case !behind:
		f.behind = time.Time{}
	case f.behind.IsZero():
		f.behind = now
	}
	switch {
	case o.owner && !f.provides(o.best.peer) && o.bestAt >= reached && behind:
		f.cancel(errBetter)
	case waits && now.Sub(f.behind) > fs.m.cfg.Silent && now.Sub(moved) > fs.m.cfg.Silent:
		// Only what it says itself that it has is a provider's to send: a claim by
		// somebody else proves nothing until he has served it.
		if f.provider.holds(f.log) > reached {
			f.cancel(faulty(faultSilent, "entry %d is known since %s", o.most, now.Sub(f.behind)))
		} else if o.best != nil && !f.provides(o.best.peer) {
			f.cancel(errBetter)
		}
	case !behind && now.Sub(moved) > idle:
		f.cancel(errIdle)
	}
}

var (
	errBetter = errors.New("somebody else offers more of it")
	errIdle   = errors.New("nothing moves in it")
)

// start follows a log. fs.mu is held.
func (fs *follows) start(ctx context.Context, log overlay.LogID, s *session, now time.Time) {
	ctx, cancel := context.WithCancelCause(ctx)
	f := &follow{m: fs.m, log: log, provider: s, cancel: cancel}
	f.moved.Store(now.UnixNano())
	fs.active[log] = f
	fs.work.Go(func() {
		defer cancel(nil)
		stop := make(chan struct{})
		fs.work.Go(func() {
			select {
			case <-s.done:
				cancel(errSessionLost)
			case <-stop:
			}
		})
		err := f.run(ctx)
		close(stop)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		fs.ended(f, err)
	})
}

// ended forgets a follow and decides when its provider may be asked again.
func (fs *follows) ended(f *follow, err error) {
	key := penaltyKey{f.log, f.provider.peer}
	now := time.Now()
	var at *fault
	var busy busyError
	var local applyError
	fs.mu.Lock()
	if fs.active[f.log] == f {
		delete(fs.active, f.log)
	}
	p := fs.penalties[key]
	if now.Sub(p.until) > retryMax {
		p.faults = 0 // it has been good for long enough
	}
	switch {
	case errors.As(err, &at):
		p.until = now.Add(min(retryMax, retryFault<<min(p.faults, 6)))
		p.faults++
	case errors.As(err, &busy):
		p.until = now.Add(retryRefused)
		if busy.refusal.Retry > 0 {
			p.until = now.Add(min(busy.refusal.Retry, retryMax))
		}
	case errors.As(err, &local):
		if overlay.CodeOf(err) == overlay.CodeQuota { // this log alone has to wait
			p.until = now.Add(retryMax)
		} else if !errors.Is(err, context.Canceled) {
			fs.paused = now.Add(retryLocal)
		}
	case errors.Is(err, errBetter), errors.Is(err, errIdle), errors.Is(err, context.Canceled):
	case errors.Is(err, errDied):
		p.until = now.Add(retryDied)
	case errors.Is(err, errStranger):
		p.until = now.Add(retryFault)
	default:
		p.until = now.Add(retryLost)
	}
	fs.keepPenalty(key, p, now)
	fs.mu.Unlock()
	if at != nil {
		fs.m.met.faults.WithLabelValues(at.reason).Inc()
		fs.m.log.Warn("log followed elsewhere: its provider is at fault", "pillar", f.provider.id, "log", f.log, "err", err)
	} else if local.err != nil && !errors.Is(err, context.Canceled) {
		fs.m.log.Warn("replication pauses", "log", f.log, "err", err)
	} else {
		fs.m.log.Debug("follow ended", "pillar", f.provider.id, "log", f.log, "err", err)
	}
	fs.poke()
}

// keepPenalty stores p, making room by forgetting what is over. fs.mu is held.
func (fs *follows) keepPenalty(key penaltyKey, p penalty, now time.Time) {
	if p.until.IsZero() {
		return
	}
	if len(fs.penalties) >= maxPenalties {
		for k, old := range fs.penalties {
			if old.until.Before(now) || len(fs.penalties) >= maxPenalties {
				delete(fs.penalties, k)
			}
		}
	}
	fs.penalties[key] = p
}

// knows reports whether a pillar is in the roster, admitted now or once.
func (m *Mesh) knows(p identity.PillarID) bool {
	_, ok := m.cfg.Roster.Lookup(p)
	return ok || p == m.self
}
