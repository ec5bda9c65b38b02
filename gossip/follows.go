package gossip

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of the supervisor.
const (
	maxFollows   = 1024             // logs followed live at once
	maxFollowsOf = 32               // from one provider: its budget is for others too
	maxCatchUps  = 32               // live follows that begin some way behind, at once
	maxCatchUpOf = 16               // of them, from one provider
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

	// supervising is the part of a processor that looking at what others tell may
	// take, however often they tell: one in so many.
	supervising = 5

	// liveWindow is how far behind a live follow may begin: about what one or two
	// batches bring. Who is further behind follows what comes from now on, and
	// fills in the rest beside it.
	liveWindow = 1024
	// smallGap is what a live follow brings at once whoever else does.
	smallGap = 64

	routeKeep = 10 * time.Minute // how long a follow goes where Elsewhere sent it
	maxHops   = 3                // Elsewhere in a row
	maxRoutes = 4096
)

// follows keeps, for every log of which a connected pillar holds more than is
// held here, one live follow, and fills what is missing below it by ranges, see
// fill.go. The first choice for the live one is the log's own pillar, else
// whoever that names, else whoever holds most of it. It is kept as long as
// something moves in it.
type follows struct {
	m     *Mesh
	wake  chan struct{} // capacity 1
	work  sync.WaitGroup
	slots chan struct{} // one value an Apply of history under way

	history  atomic.Uint64 // entries of history that were new
	progress progress      // only run's

	mu        sync.Mutex
	active    map[overlay.LogID]*follow   // guarded by mu; live ones
	fills     map[*follow]struct{}        // guarded by mu; ranges
	begun     map[overlay.LogID]uint64    // guarded by mu; where live follows began that leave a gap below
	routes    map[overlay.LogID]route     // guarded by mu; where Elsewhere sent
	paused    time.Time                   // guarded by mu; no follow is started before, for the Replica takes nothing
	penalties map[penaltyKey]penalty      // guarded by mu
	barren    map[penaltyKey][]barren     // guarded by mu
	dropped   map[overlay.LogID]time.Time // guarded by mu; logs followed anew, see abandon
	last      missing                     // guarded by mu; of the last round
	over      bool                        // guarded by mu; nothing is started any more
}

// route is where to follow a log that its own pillar has no room for.
type route struct {
	peer  peer.ID
	hops  int
	until time.Time
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
	return &follows{m: m, wake: make(chan struct{}, 1), slots: make(chan struct{}, historyApplies),
		active: map[overlay.LogID]*follow{}, fills: map[*follow]struct{}{}, begun: map[overlay.LogID]uint64{},
		routes: map[overlay.LogID]route{}, penalties: map[penaltyKey]penalty{}, barren: map[penaltyKey][]barren{}, dropped: map[overlay.LogID]time.Time{}}
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
	clock := clockReading{ours: fs.m.now(), at: time.Now()}
	defer func() {
		fs.mu.Lock()
		fs.over = true
		fs.mu.Unlock()
		fs.work.Wait()
	}()
	for {
		select {
		case <-fs.wake:
		case <-tick.C:
			fs.mu.Lock()
			last := fs.last
			fs.mu.Unlock()
			fs.progress.tick(fs, last, time.Now())
		case <-ctx.Done():
			return
		}
		began := time.Now()
		if now := fs.m.now(); clock.stepped(now).Abs() >= clockStep {
			clock = clockReading{ours: now, at: began}
			fs.forgive()
		}
		fs.supervise(ctx)
		if rest := (supervising - 1) * time.Since(began); rest > time.Millisecond {
			pause := time.NewTimer(rest)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			pause.Stop()
		}
	}
}

// forgive has everybody asked again who was not at fault: by another clock other
// logs live.
func (fs *follows) forgive() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for key, p := range fs.penalties {
		if p.faults == 0 {
			delete(fs.penalties, key)
		}
	}
}

// supervise compares what connected pillars hold with what is held here, and
// ends and starts follows.
func (fs *follows) supervise(ctx context.Context) {
	now := time.Now()
	view := fs.look()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	from, behindOf := map[peer.ID]int{}, map[peer.ID]int{}
	behind := 0
	for _, f := range fs.active {
		from[f.provider.peer]++
		if fs.catchingUp(f) {
			behind++
			behindOf[f.provider.peer]++
		}
	}
	for log, f := range fs.active {
		idle := fs.m.cfg.FollowIdle
		if from[f.provider.peer] > fewFollows || !fs.owns(f.provider, log) {
			idle = min(idle, idleHistory)
		}
		fs.check(f, view.logs[log], now, idle)
	}
	for f := range fs.fills {
		fs.checkFill(f, now)
	}
	if full := fs.m.full(); !full && !now.Before(fs.paused) {
		for _, w := range view.logs {
			if fs.active[w.log] != nil || len(fs.active) >= maxFollows {
				continue
			}
			if f := fs.plan(w, now); f != nil && from[f.provider.peer] < maxFollowsOf {
				if late := fs.catchingUp(f); !late || behind < maxCatchUps && behindOf[f.provider.peer] < maxCatchUpOf {
					if late {
						behind++
						behindOf[f.provider.peer]++
					}
					from[f.provider.peer]++
					fs.start(ctx, f, now)
				}
			}
		}
		fs.fill(ctx, view, now)
	}
	fs.last = fs.measure(view)
	fs.m.met.lag.Set(float64(fs.last.entries))
	fs.m.met.backlog.Set(float64(fs.last.backlog))
	fs.m.met.follows.Set(float64(len(fs.active)))
	fs.m.met.fills.Set(float64(len(fs.fills)))
}

// catchingUp reports whether a live follow that begins at what is held has more
// to bring than is worth nothing to wait for.
func (fs *follows) catchingUp(f *follow) bool {
	return !f.nowOn() && f.provider.told(f.log).runs.top() > max(f.reached.Load(), f.ask.From)+smallGap
}

// plan returns the live follow that a log needs; nil if none, or none can be
// had now. fs.mu is held.
func (fs *follows) plan(w *wanted, now time.Time) *follow {
	top := w.state.Top()
	if top.Seq >= fs.begun[w.log] {
		delete(fs.begun, w.log)
	}
	if w.most <= max(top.Seq, fs.begun[w.log]) {
		return nil
	}
	o := fs.choose(w, now)
	if o == nil {
		return nil
	}
	f := &follow{m: fs.m, log: w.log, provider: o.session, live: true}
	f.top.Store(top.Seq)
	run, ok := o.runs.find(top.Seq + 1)
	switch {
	case ok && run.to == o.runs.top() && run.to-top.Seq <= liveWindow:
		f.ask = overlay.Follow{Log: w.log, From: top.Seq + 1, Before: top.Hash}
	case len(w.state.Islands) < overlay.MaxIslands:
		f.ask = overlay.Follow{Log: w.log, From: beginning}
	default:
		return nil // until islands are joined
	}
	return f
}

// choose returns from whom a log is best followed live. fs.mu is held.
func (fs *follows) choose(w *wanted, now time.Time) *offer {
	r, routed := fs.routes[w.log]
	if routed && (now.After(r.until) || !fs.usable(w.log, r.peer, now) || fs.m.sessions.get(r.peer) == nil) {
		delete(fs.routes, w.log)
		routed = false
	}
	if routed {
		// It may not have told yet what it is just getting.
		o := &offer{session: fs.m.sessions.get(r.peer)}
		if o.session == nil {
			return nil
		}
		o.told = o.session.told(w.log)
		if o.runs.top() < w.state.Top().Seq {
			o.runs = w.union.plus(o.runs)
		}
		return o
	}
	var best *offer
	top := w.state.Top().Seq
	for i := range w.offers {
		o := &w.offers[i]
		if o.runs.top() <= max(top, fs.begun[w.log]) || !fs.usable(w.log, o.session.peer, now) {
			continue
		}
		if best == nil || o.owner || !best.owner && o.runs.top() > best.runs.top() {
			best = o
		}
	}
	return best
}

// usable reports whether p may be asked for log. fs.mu is held.
func (fs *follows) usable(log overlay.LogID, p peer.ID, now time.Time) bool {
	return now.After(fs.penalties[penaltyKey{log, p}].until)
}

// owns reports whether the log is known to be of the session's pillar.
func (fs *follows) owns(s *session, log overlay.LogID) bool {
	state, ok := fs.m.logs.state(log)
	return ok && state.Pillar == s.id
}

// check ends a live follow that is silent while the log moves, idle, better made
// with the log's own pillar or with who offers more, or of a log of which it
// brought what is lost again. fs.mu is held.
func (fs *follows) check(f *follow, w *wanted, now time.Time, idle time.Duration) {
	before := f.top.Load() // read before the log, which only a scrub lowers
	top := fs.m.logs.top(f.log)
	reached := max(f.reached.Load(), top)
	moved := time.Unix(0, f.moved.Load())
	var best *offer
	most := uint64(0)
	if w != nil {
		most = w.most
		for i := range w.offers {
			if o := &w.offers[i]; o.runs.top() > reached && fs.usable(f.log, o.session.peer, now) &&
				(best == nil || o.owner || !best.owner && o.runs.top() > best.runs.top()) {
				best = o
			}
		}
	}
	behind := most > reached
	waits := behind && f.reading.Load()
	switch {
	case !behind:
		f.behind = time.Time{}
	case f.behind.IsZero():
		f.behind = now
	}
	silent := waits && now.Sub(f.behind) > fs.m.cfg.Silent && now.Sub(moved) > fs.m.cfg.Silent
	_, routed := fs.routes[f.log]
	switch {
	case fs.m.logs.isDead(f.log):
		f.cancel(errForked)
	case top < before:
		f.cancel(errLowered)
	case best != nil && best.owner && !f.provides(best.session.peer) && behind && !routed:
		f.cancel(errBetter)
	case best != nil && !f.provides(best.session.peer) && !routed && behind &&
		best.runs.top() > max(reached, f.provider.told(f.log).runs.top())+liveWindow:
		f.cancel(errBetter) // its provider is catching up itself
	case silent:
		// Only what it says itself that it has is a provider's to send: a claim by
		// somebody else proves nothing until he has served it.
		if _, claims := f.provider.told(f.log).runs.find(reached + 1); claims {
			f.cancel(faulty(faultSilent, "entry %d is known since %s", most, now.Sub(f.behind)))
		} else if best != nil && !f.provides(best.session.peer) {
			delete(fs.routes, f.log)
			f.cancel(errBetter)
		}
	case !behind && now.Sub(moved) > idle:
		f.cancel(errIdle)
	}
}

// start follows a log. fs.mu is held.
func (fs *follows) start(ctx context.Context, f *follow, now time.Time) {
	ctx, cancel := context.WithCancelCause(ctx)
	f.cancel, f.since = cancel, now
	f.moved.Store(now.UnixNano())
	if f.live {
		fs.active[f.log] = f
	} else {
		fs.fills[f] = struct{}{}
	}
	fs.work.Go(func() {
		defer cancel(nil)
		stop := make(chan struct{})
		fs.work.Go(func() {
			select {
			case <-f.provider.done:
				cancel(errSessionLost)
			case <-stop:
			}
		})
		err := f.run(ctx)
		close(stop)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		fs.ended(ctx, f, err)
	})
}

// opened notes where a stream of unknown beginning begins.
func (fs *follows) opened(f *follow, head *overlay.Head) {
	fs.mu.Lock()
	if len(fs.begun) >= maxSeen {
		clear(fs.begun)
	}
	if f.live && head.Seq > fs.m.logs.top(f.log) {
		fs.begun[f.log] = max(fs.begun[f.log], head.Seq)
	}
	fs.mu.Unlock()
	fs.m.seen.note(f.log, head)
	fs.poke()
}

// ended forgets a follow and decides when its provider may be asked again.
func (fs *follows) ended(ctx context.Context, f *follow, err error) {
	key := penaltyKey{f.log, f.provider.peer}
	now := time.Now()
	var at *fault
	var busy busyError
	var local applyError
	var aside elsewhereError
	var forked *forkError
	fs.mu.Lock()
	if fs.active[f.log] == f {
		delete(fs.active, f.log)
	}
	delete(fs.fills, f)
	if took := now.Sub(f.since).Seconds(); !f.live && f.brought.Load() > 0 && took > 0 {
		f.provider.rate.set(float64(f.brought.Load()) / took)
	}
	route, routed := fs.routes[f.log]
	if routed = routed && f.live && f.provides(route.peer); routed && !errors.Is(err, errIdle) {
		delete(fs.routes, f.log)
	}
	fs.noteBarren(f, err, now)
	p := fs.penalties[key]
	if now.Sub(p.until) > retryMax {
		p.faults = 0 // it has been good for long enough
	}
	switch {
	case err == nil:
	case errors.As(err, &at), errors.Is(err, errVague):
		p.until = now.Add(min(retryMax, retryFault<<min(p.faults, 6)))
		p.faults++
	case errors.As(err, &aside):
		if !fs.reroute(f.log, f.provider.peer, aside.to, route, routed, now) {
			p.until = now.Add(retryRefused)
		}
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
	case errors.As(err, &forked), errors.Is(err, errForked), errors.Is(err, overlay.ErrIslands),
		errors.Is(err, errBetter), errors.Is(err, errIdle), errors.Is(err, errLowered), errors.Is(err, context.Canceled):
	case errors.Is(err, errSessionLost) && fs.m.sessions.get(f.provider.peer) != nil: // replaced by another
	case errors.Is(err, errDied), errors.Is(err, errClocks), errors.Is(err, overlay.ErrLacks):
		p.until = now.Add(retryDied)
	case errors.Is(err, errStranger), errors.Is(err, overlay.ErrConflict), errors.Is(err, errUnproven):
		p.until = now.Add(retryFault)
	default:
		p.until = now.Add(retryLost)
	}
	fs.keepPenalty(key, p, now)
	fs.mu.Unlock()
	if busy.refusal != nil && busy.refusal.Code == overlay.CodeNotFound && f.told() {
		fs.m.scores.offend(f.provider.peer, faultEmpty)
	}
	if f.probes && ctx.Err() == nil && (err == nil || at != nil || busy.refusal != nil && busy.refusal.Code != overlay.CodeBusy) {
		at = faulty(faultVector, "another hash of log %s is told, and not shown", f.log)
	}
	switch {
	case at != nil:
		fs.m.met.faults.WithLabelValues(at.reason).Inc()
		fs.m.log.Debug("log followed elsewhere: its provider is at fault", "pillar", f.provider.id, "log", f.log, "err", err)
		fs.m.scores.offend(f.provider.peer, at.reason)
	case forked != nil:
		fs.m.forks.add(ctx, forked.proof, nil)
	case errors.Is(err, errUnproven), errors.Is(err, overlay.ErrConflict):
		fs.abandon(ctx, f.log, now)
	case local.err != nil && !errors.Is(err, context.Canceled):
		fs.m.log.Warn("replication pauses", "log", f.log, "err", err)
	default:
		fs.m.log.Debug("follow ended", "pillar", f.provider.id, "log", f.log, "err", err)
	}
	fs.poke()
}

// reroute notes that a log is to be followed at to; false if that makes no
// sense. fs.mu is held.
func (fs *follows) reroute(log overlay.LogID, by, to peer.ID, old route, routed bool, now time.Time) bool {
	r := route{peer: to, hops: 1, until: now.Add(routeKeep)}
	if routed {
		r.hops = old.hops + 1
	}
	if r.hops > maxHops || to == by || to == peer.ID(fs.m.self) || fs.m.sessions.get(to) == nil ||
		!fs.usable(log, to, now) || len(fs.routes) >= maxRoutes {
		return false
	}
	fs.m.met.elsewhere.Inc()
	fs.routes[log] = r
	return true
}

// abandon forgets a log that is on another history than what others hold, and
// which cannot be proven: it is followed anew. Its records stay.
func (fs *follows) abandon(ctx context.Context, log overlay.LogID, now time.Time) {
	fs.mu.Lock()
	again := now.Sub(fs.dropped[log]) < retryMax
	if !again {
		if len(fs.dropped) >= maxPenalties {
			clear(fs.dropped)
		}
		fs.dropped[log] = now
	}
	fs.mu.Unlock()
	if again || log == fs.m.acks.own() {
		return
	}
	fs.m.log.Warn("log dropped and followed anew: what is held is another history than others have", "log", log)
	fs.m.spawn(func(ctx context.Context) {
		if err := fs.m.cfg.Replica.Drop(ctx, log); err != nil && ctx.Err() == nil {
			fs.m.log.Warn("drop log", "log", log, "err", err)
		}
	})
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

// follows reports whether a log is being followed live here.
func (fs *follows) following(log overlay.LogID) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.active[log] != nil
}

// end ends all follows of a log.
func (fs *follows) end(log overlay.LogID, why error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.active[log]; f != nil {
		f.cancel(why)
	}
	for f := range fs.fills {
		if f.log == log {
			f.cancel(why)
		}
	}
}

// knows reports whether a pillar is in the roster, admitted now or once.
func (m *Mesh) knows(p identity.PillarID) bool {
	_, ok := m.cfg.Roster.Lookup(p)
	return ok || p == m.self
}

// full reports whether the pillar takes nothing for want of disk.
func (m *Mesh) full() bool { return m.cfg.Full != nil && m.cfg.Full() }

func (m *Mesh) confirmed() bool { return m.cfg.Confirmed == nil || m.cfg.Confirmed() }
