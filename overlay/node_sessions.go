package overlay

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// How a node looks for pillars.
const (
	backoffMin   = time.Second
	backoffMax   = time.Minute
	dialsIdle    = 3 // at once while there is no session
	dialsStandby = 1 // at once while only the standby is missing
	openTimeout  = 10 * time.Second
	clockLimit   = 30 * time.Second
	closedFails  = 1                // so many failures a pillar counts as having that takes only others
	swapPause    = 10 * time.Second // between leaving pillars that refuse
)

func peerOf(p identity.PillarID) peer.ID { return peer.ID(p) }

// nodeSessions decides which pillars the node talks to. Its run goroutine owns
// the decisions; the rest is shared for reading.
type nodeSessions struct {
	n       *Node
	wake    chan struct{}
	results chan dialResult
	ended   chan *nodeSession

	mu         sync.Mutex
	candidates map[identity.PillarID]*candidate // guarded by mu
	active     *nodeSession                     // guarded by mu
	standby    *nodeSession                     // guarded by mu
	lostFrom   identity.PillarID                // guarded by mu; whom the node lost
	lostAt     time.Time                        // guarded by mu; when; zero: nothing lost
	idleSince  time.Time                        // guarded by mu; since when there is no active session
	failovers  int                              // guarded by mu
	lastTookMS int64                            // guarded by mu
	swapped    time.Time                        // guarded by mu
	over       bool                             // guarded by mu; Run ended
	clockOff   bool                             // guarded by mu; the last verdict of pillars
}

type dialResult struct {
	pillar  identity.PillarID
	session *nodeSession
	err     error
}

func newNodeSessions(n *Node) *nodeSessions {
	return &nodeSessions{n: n, wake: make(chan struct{}, 1), results: make(chan dialResult),
		ended: make(chan *nodeSession), candidates: map[identity.PillarID]*candidate{}}
}

// load reads the remembered addresses.
func (m *nodeSessions) load() error {
	return m.n.disk.table.Scan([]byte(keyAddr), nil, func(key, data []byte) bool {
		rest := key[len(keyAddr):]
		if len(rest) <= identity.Ed25519IDLen {
			return true
		}
		p, err := identity.PillarFromBytes(rest[:identity.Ed25519IDLen])
		addr, aerr := multiaddr.NewMultiaddrBytes(slices.Clone(rest[identity.Ed25519IDLen:]))
		if err == nil && aerr == nil {
			c := m.candidate(p)
			c.addrs = append(c.addrs, addr)
			c.hand = true
		}
		return true
	})
}

// loadRoster feeds the roster on disk to r, and what r learns to the disk.
func (m *nodeSessions) loadRoster(r *Roster) error {
	var local, other [][]byte
	err := m.n.disk.table.Scan([]byte("roster/"), nil, func(key, data []byte) bool {
		switch {
		case len(data) < 2:
		case data[0] == 1:
			local = append(local, slices.Clone(data[1:]))
		default:
			other = append(other, slices.Clone(data[1:]))
		}
		return true
	})
	if err != nil {
		return err
	}
	now := m.n.now()
	_, _ = r.Add(now, true, local...) // what does not verify is of another network or damaged
	_, _ = r.Add(now, false, other...)
	r.Watch(func(added []*Record) {
		ws := make([]Write, 0, len(added))
		for _, rec := range added {
			if rec.Kind == KindRevocation {
				if info, err := ParseRevocationInfo(rec.Bin); err == nil {
					ws = append(ws, Write{nodeKey(keyRosterR, info.Pillar), append([]byte{0}, rec.Raw...)})
				}
				continue
			}
			e, _ := r.Lookup(rec.Pillar())
			ws = append(ws, Write{nodeKey(keyRosterP, rec.Pillar()), append([]byte{byte(btoi(e.Local))}, rec.Raw...)})
		}
		m.n.disk.lazy(ws...)
		wakeUp(m.wake)
	})
	return nil
}

// learn takes roster records from a pillar.
func (m *nodeSessions) learn(local bool, raws [][]byte) {
	r := m.n.pillars()
	if r == nil || len(raws) == 0 {
		return
	}
	if _, err := r.Add(m.n.now(), local, raws...); err != nil {
		m.n.metrics.dropped.WithLabelValues("roster").Inc()
		m.n.log.Debug("roster record refused", "err", err)
	}
}

// run keeps an active and a standby session until ctx ends.
func (m *nodeSessions) run(ctx context.Context) {
	m.mu.Lock()
	m.idleSince = time.Now()
	m.mu.Unlock()
	var dials sync.WaitGroup
	defer func() {
		m.mu.Lock()
		active, standby := m.active, m.standby
		m.mu.Unlock()
		for _, s := range []*nodeSession{active, standby} {
			if s != nil {
				s.end(context.Canceled)
			}
		}
		dials.Wait()
		m.dismiss()
	}()
	poll := time.NewTimer(directoryMax)
	defer poll.Stop()
	for {
		wait := m.dialDue(ctx, &dials)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-m.wake:
			m.part()
		case <-timer.C:
		case r := <-m.results:
			m.dialled(r)
		case s := <-m.ended:
			m.lost(s)
		case <-m.n.dir.read:
			poll.Reset(m.n.dir.pause())
		case <-poll.C:
			if s := m.activeSession(); s != nil {
				m.n.dir.resume(s)
			}
			poll.Reset(directoryMax)
		}
		timer.Stop()
	}
}

// dismiss tells everybody who waits for an attempt, now or later, that there
// will be none.
func (m *nodeSessions) dismiss() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	for _, c := range m.candidates {
		for _, w := range append(c.served, c.waiters...) {
			w <- errNodeStopped // of capacity one
		}
		c.served, c.waiters = nil, nil
	}
}

// dialDue starts the attempts that are due and returns when to look again.
func (m *nodeSessions) dialDue(ctx context.Context, dials *sync.WaitGroup) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	room := m.wants(now)
	due, wait := m.preferPublic(m.due(now, room == 0), now)
	for _, c := range m.candidates {
		if c.dialing && !c.renewing {
			room--
		}
	}
	for _, c := range due {
		if d := c.nextTry.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		if room <= 0 && len(c.waiters) == 0 && !c.stale {
			continue
		}
		if c.dialing, c.again, c.renewing = true, false, c.stale; !c.stale {
			room--
		}
		c.served, c.waiters = c.waiters, nil
		addrs, stale, fails := m.addrsOf(c), c.stale, c.fails
		c.stale = false
		dials.Go(func() {
			if stale {
				_ = m.n.cfg.Links.Close(peerOf(c.id))
			}
			m.dial(ctx, c.id, addrs, fails, dials)
		})
	}
	return max(wait, 10*time.Millisecond)
}

// due lists the candidates that are neither connected nor being dialled, the
// one to try first in front: those that did not fail lately, then the nearest.
// With urgent, only those somebody waits for. m.mu is held.
func (m *nodeSessions) due(now time.Time, urgent bool) []*candidate {
	if r := m.n.pillars(); r != nil {
		for _, e := range r.Entries() {
			if m.gone(e.Pillar) == nil {
				m.candidate(e.Pillar)
			}
		}
	}
	var list []*candidate
	for _, c := range m.candidates {
		if m.serves(c) || c.dialing || urgent && len(c.waiters) == 0 || len(m.addrsOf(c)) == 0 {
			continue
		}
		if len(c.waiters) == 0 && m.gone(c.id) != nil {
			continue
		}
		list = append(list, c)
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	slices.SortStableFunc(list, func(a, b *candidate) int {
		switch {
		case len(a.waiters) != len(b.waiters):
			return len(b.waiters) - len(a.waiters)
		case a.again != b.again:
			return btoi(b.again) - btoi(a.again)
		case m.active != nil && m.isHome(a) != m.isHome(b):
			return btoi(m.isHome(a)) - btoi(m.isHome(b))
		case !a.lastFail.Equal(b.lastFail):
			return a.lastFail.Compare(b.lastFail)
		case m.isHome(a) != m.isHome(b): // public ones had their turn, see preferPublic
			return btoi(m.isHome(b)) - btoi(m.isHome(a))
		default:
			return int(min(1, max(-1, a.rtt-b.rtt)))
		}
	})
	return list
}

// part ends the sessions with pillars that are none any more.
func (m *nodeSessions) part() {
	m.mu.Lock()
	sessions := []*nodeSession{m.active, m.standby}
	m.mu.Unlock()
	for _, s := range sessions {
		if s == nil || s.ended() {
			continue
		}
		if why := m.gone(s.pillar); why != nil {
			m.n.log.Warn("session with a pillar ended that is none any more", "pillar", s.pillar, "err", why)
			s.end(why)
		}
	}
}

// dial opens a session and reports it.
func (m *nodeSessions) dial(ctx context.Context, p identity.PillarID, addrs []multiaddr.Multiaddr, fails int, work *sync.WaitGroup) {
	s, err := m.open(ctx, p, addrs, fails, work)
	if s != nil {
		work.Go(func() {
			<-s.done
			select {
			case m.ended <- s:
			case <-ctx.Done():
			}
		})
	}
	select {
	case m.results <- dialResult{p, s, err}:
	case <-ctx.Done():
		if s != nil {
			s.end(ctx.Err())
		}
	}
}

// dialled takes the outcome of an attempt.
func (m *nodeSessions) dialled(r dialResult) {
	m.mu.Lock()
	c := m.candidate(r.pillar)
	c.dialing = false
	waiters := c.served
	c.served = nil
	switch {
	case r.err == nil: // that is what everybody waits for
		waiters = append(waiters, c.waiters...)
		c.waiters = nil
	case len(c.waiters) > 0: // they know more than this attempt did
		defer func() { // after m.failed put it off
			m.mu.Lock()
			c.nextTry = time.Time{}
			m.mu.Unlock()
		}()
	}
	defer func() {
		for _, w := range waiters {
			w <- r.err // of capacity one
		}
	}()
	if r.err != nil {
		m.failed(c, r.err)
		m.mu.Unlock()
		if errors.Is(r.err, ErrCloned) {
			m.n.giveUp(r.err)
		}
		m.n.metrics.dials.WithLabelValues("failed").Inc()
		return
	}
	m.n.metrics.dials.WithLabelValues("ok").Inc()
	s := r.session
	s.haste = c.patience(s)
	c.fails, c.lastFail, c.rtt, c.lastSeen, c.trouble = 0, time.Time{}, s.rtt, m.n.cfg.Now(), Trouble{}
	for _, o := range m.candidates { // something works again: the others may, too
		if o.fails > 1 {
			o.fails, o.nextTry = 1, time.Now().Add(jitter(backoffMin))
		}
	}
	m.leaveCircuit(s)
	switch {
	case s.ended():
		m.unplanned(c, s)
	case m.active == nil:
		m.activate(s)
		return
	case m.improve(s):
		return
	case m.standby == nil && m.active.pillar != s.pillar:
		m.standby = s
		m.changed()
		s.standBy()
		m.n.log.Info("standby pillar", "pillar", s.pillar)
	default:
		s.end(errors.New("not needed"))
	}
	m.mu.Unlock()
}

// activate makes s the active session and unlocks m.mu, which is held.
func (m *nodeSessions) activate(s *nodeSession) {
	m.active = s
	if m.standby == s {
		m.standby = nil
	}
	var e *FailoverEvent
	if !m.lostAt.IsZero() && m.lostFrom != s.pillar {
		took := time.Since(m.lostAt).Milliseconds()
		m.failovers++
		m.lastTookMS = took
		e = &FailoverEvent{From: m.lostFrom.String(), To: s.pillar.String(), TookMS: took}
	}
	m.lostAt, m.lostFrom = time.Time{}, ""
	m.mu.Unlock()
	m.changed()
	m.n.log.Info("active pillar", "pillar", s.pillar, "failover", e != nil)
	if e != nil {
		m.n.metrics.failovers.Inc()
		m.n.metrics.failover.Observe(float64(e.TookMS) / 1000)
		m.n.events.add(Event{Kind: EventFailover, Failover: e})
	}
	m.n.inbox.resume(s)
	m.n.outbox.setActive(s)
	m.n.dir.connected(s)
	m.n.checker.failedOver()
	m.n.direct.connected()
	wakeUp(m.n.upkeep)
	wakeUp(m.n.guard.wake)
	m.n.outbox.retrySealing()
}

// changed tells whoever wants to know that the active or standby session is
// another one. m.mu may be held.
func (m *nodeSessions) changed() {
	if told := m.n.cfg.PillarsChanged; told != nil {
		told()
	}
}

// lost takes note that a session ended; the standby takes over at once.
func (m *nodeSessions) lost(s *nodeSession) {
	m.mu.Lock()
	c := m.candidate(s.pillar)
	c.lastSeen = m.n.cfg.Now()
	switch s {
	case m.standby:
		m.standby = nil
		m.unplanned(c, s)
	case m.active:
		m.active = nil
		m.lostFrom, m.lostAt, m.idleSince = s.pillar, time.Now(), time.Now()
		if !s.missed.IsZero() {
			m.lostAt = s.missed
		}
		m.unplanned(c, s)
		m.n.log.Info("active pillar lost", "pillar", s.pillar, "err", s.err)
		if next := m.standby; next != nil && !next.ended() {
			m.n.outbox.setActive(nil)
			m.activate(next)
			return
		}
		m.mu.Unlock()
		m.n.outbox.setActive(nil)
		return
	}
	m.mu.Unlock()
}

// leave ends the session with a pillar that takes nothing at the moment, if
// there is another to turn to.
func (m *nodeSessions) leave(s *nodeSession, why error) {
	m.mu.Lock()
	ok := m.active == s && m.standby != nil && time.Since(m.swapped) > swapPause
	if ok {
		m.swapped = time.Now()
	}
	m.mu.Unlock()
	if ok {
		s.end(why)
	}
}

// activeSession is the session to ask, nil while there is none.
func (m *nodeSessions) activeSession() *nodeSession {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.active
}

// pair returns the active and the standby session, nil what there is none of.
func (m *nodeSessions) pair() (active, standby *nodeSession) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.active, m.standby
}

// standbySession is the warm one, nil while there is none.
func (m *nodeSessions) standbySession() *nodeSession {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.standby
}

// reachedAt lists the pillars that others get to this device through, the active
// one first. Home pillars carry no circuits.
func (m *nodeSessions) reachedAt() []identity.PillarID {
	m.mu.Lock()
	defer m.mu.Unlock()
	roster := m.n.pillars()
	var at []identity.PillarID
	for _, s := range []*nodeSession{m.active, m.standby} {
		if s == nil || s.ended() {
			continue
		}
		if e, ok := roster.Lookup(s.pillar); ok && !e.Info.Home {
			at = append(at, s.pillar)
		}
	}
	return at
}

// clockWrong reports whether the clock is off: by more than 30 s from all
// pillars there are sessions with, or were the last time there were any.
func (m *nodeSessions) clockWrong() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, off := 0, 0
	for _, s := range []*nodeSession{m.active, m.standby} {
		if s != nil {
			known++
			off += btoi(s.skew.Abs() > clockLimit)
		}
	}
	if known > 0 {
		m.clockOff = off == known
	}
	return m.clockOff
}

// clockConfirmed reports whether a pillar confirms the clock.
func (m *nodeSessions) clockConfirmed() bool {
	m.mu.Lock()
	has := m.active != nil
	m.mu.Unlock()
	return has && !m.clockWrong()
}

// watch notes whom the node gets connected to, so that a pillar that comes back
// is not waited for.
func (m *nodeSessions) watch(ctx context.Context) {
	m.n.cfg.Peers.Watch(ctx, func(e PeerEvent) {
		m.n.direct.peerChanged(e)
		p := identity.PillarID(e.Peer)
		m.mu.Lock()
		c := m.candidates[p]
		if c == nil {
			m.mu.Unlock()
			return
		}
		var gone []*nodeSession
		for _, s := range []*nodeSession{m.active, m.standby} {
			switch {
			case s == nil || s.pillar != p:
			case e.What == PeerLost:
				gone = append(gone, s)
			case e.What == PeerUpgraded:
				m.leaveCircuit(s)
			}
		}
		m.mu.Unlock()
		for _, s := range gone {
			if _, still := m.n.cfg.Peers.Info(e.Peer); !still {
				s.end(errors.New("connection lost"))
			}
		}
	})
}

// sortPillars puts the active one first, then the standby, then by ID.
func sortPillars(list []NodePillar) {
	place := func(p NodePillar) int { return 2 - 2*btoi(p.Active) - btoi(p.Standby) }
	slices.SortFunc(list, func(a, b NodePillar) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.ID, b.ID))
	})
}
