package overlay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// How a node notices that a pillar is gone, or the path to it: long before the
// transport does, which may say nothing for half a minute.
//
// Only silence makes it ask, and it asks the pillar's host (Peers.Probe), which
// answers whatever the pillar is busy with:
//
//   - somebody waits for an answer, and nothing came for askIn;
//   - the standby's pillar says that there is mail, and none came for nudgeIn;
//   - nothing came at all for a while: a second or so after something was sent
//     or received, and the longer ago that was the rarer, down to idleMost.
//
// Without a sign of life the session is over, and the connection with it: the
// standby takes over, and the next attempt dials anew. Both sessions are probed
// at the same time, for if our gateway got another address both are dead.
const (
	askIn     = 600 * time.Millisecond // or three round trips; doubled with every sign of life that was no answer
	nudgeIn   = 700 * time.Millisecond // and two round trips
	idleLeast = time.Second
	idleMost  = 15 * time.Second
	// idleShare is which part of the time since the last conversation may pass
	// in silence.
	idleShare = 4
	// lifeIn, or six round trips, is how long a sign of life may take: enough for
	// QUIC and TCP to send twice again what a bad line lost.
	lifeIn   = time.Second
	lifeMost = 5 * time.Second
	// slowLine is the rate, in bytes a second, at which what is submitted may
	// stand before a probe on TCP.
	slowLine = 32 << 10
	rttMost  = time.Second // what is believed of a round-trip time

	// A host that lives does not prove that the pillar on it works.
	answerIn  = 3 * time.Second  // how long it may be silent while it owes an answer
	resultIn  = 20 * time.Second // the longest a submitted record waits for its line
	quizEvery = time.Minute      // a tiny question to an idle pillar
	quizPause = 10 * time.Second // between such questions because of nudges
	// mailIn is how long after a nudge an active pillar that lives may bring no
	// mail; behindPause is between failovers for that reason.
	mailIn      = 3 * time.Second
	mailBefore  = 5 * time.Second // mail so long before a nudge may be what it is about
	behindPause = time.Minute

	hasteMost = 2 // doublings of the patience with a pillar that was given up and lived
	hasteLife = 10 * time.Minute
)

var (
	// errNoAnswer ends the session with a pillar that lives and does not answer.
	errNoAnswer = errors.New("the pillar does not answer")
	// errSilent ends one over which there is no sign of life.
	errSilent = errors.New("the pillar, or the path to it, is dead")
	// errBehind ends one whose pillar does not bring what the standby's has.
	errBehind = errors.New("the pillar does not bring the mail that another has")
)

// nodeGuard watches over the active and the standby session. Its run goroutine
// decides; the rest only notes.
type nodeGuard struct {
	n      *Node
	wake   chan struct{}
	talked atomic.Int64 // Unix nanoseconds: mail came, or something was submitted

	mu     sync.Mutex
	nudge  time.Time // guarded by mu; when the standby's pillar spoke of mail; zero: it came
	doubts bool      // guarded by mu; the active pillar was asked since

	behind time.Time // run's; the last failover for errBehind
}

// vitals is what the guard knows of a session; only its run goroutine uses it.
type vitals struct {
	alive  time.Time // the last sign of life that was no frame
	doubts int       // how many of them in a row
	asked  time.Time // when the open question was sent; zero: none
	quiz   time.Time // when one is to be sent; zero: none
	last   time.Time // when one was
}

func newNodeGuard(n *Node) *nodeGuard { return &nodeGuard{n: n, wake: make(chan struct{}, 1)} }

// talk notes that a conversation is going on.
func (g *nodeGuard) talk() {
	now := time.Now().UnixNano()
	if was := g.talked.Swap(now); now-was > int64(idleLeast) {
		wakeUp(g.wake)
	}
}

// mail notes that a session brought records of the mailbox.
func (g *nodeGuard) mail(s *nodeSession, records int) {
	if records > 0 {
		s.lastMail.Store(time.Now().UnixNano())
		g.talk()
	}
}

// nudged notes that a pillar has mail for us. Of an active one it means nothing:
// it was the standby's when it said so.
func (g *nodeGuard) nudged(s *nodeSession) {
	if g.n.sessions.standbySession() != s {
		return
	}
	g.mu.Lock()
	if g.nudge.IsZero() {
		g.nudge, g.doubts = time.Now(), false
	}
	g.mu.Unlock()
	wakeUp(g.wake)
}

// run watches until ctx ends.
func (g *nodeGuard) run(ctx context.Context) {
	timer := time.NewTimer(idleMost)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-timer.C:
		}
		timer.Reset(max(g.look(ctx), 10*time.Millisecond))
	}
}

// look does what is due and returns when to look again.
func (g *nodeGuard) look(ctx context.Context) time.Duration {
	active, standby := g.n.sessions.pair()
	if active == nil && standby == nil {
		g.mu.Lock()
		g.nudge = time.Time{}
		g.mu.Unlock()
		return idleMost
	}
	now := time.Now()
	due := now.Add(idleMost)
	probe := false
	for _, s := range []*nodeSession{active, standby} {
		if s == nil {
			continue
		}
		if g.stuck(s, now) {
			g.giveUp(s, now.Add(-answerIn), errNoAnswer)
			return 0
		}
		next := g.silence(s, s == active)
		probe = probe || !next.After(now)
		due = earlier(due, next)
		due = earlier(due, g.ask(s, now))
	}
	if active != nil {
		next, missed := g.missed(active, now)
		probe = probe || missed
		due = earlier(due, next)
	}
	if !probe {
		return due.Sub(now)
	}
	g.examine(ctx, active, standby)
	return 0
}

func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// silence returns when the session's host is to be asked for a sign of life,
// unless something comes before.
func (g *nodeGuard) silence(s *nodeSession, active bool) time.Time {
	heard := s.heard()
	if heard.After(s.vital.alive) {
		s.vital.doubts = 0
	} else {
		heard = s.vital.alive
	}
	since := time.Since(time.Unix(0, g.talked.Load())) / idleShare
	if !active {
		since = idleMost
	}
	next := heard.Add(min(idleMost, max(idleLeast, since)))
	if owed := s.owed(); !owed.IsZero() {
		wait := max(askIn, 3*g.rtt(s)) << min(s.vital.doubts, 4)
		if owed.Before(heard) {
			owed = heard
		}
		next = earlier(next, owed.Add(wait))
	}
	return next
}

// stuck reports whether the pillar owes an answer for too long. While our own
// side is behind its silence means nothing: nobody reads what it says.
func (g *nodeGuard) stuck(s *nodeSession, now time.Time) bool {
	if s.handing.Load() {
		s.vital.asked = time.Time{}
		return false
	}
	heard := s.heard()
	asked := s.vital.asked
	if !asked.IsZero() && !heard.Before(asked) {
		s.vital.asked = time.Time{}
		asked = time.Time{}
	}
	oldest := g.n.outbox.unanswered(s)
	return !asked.IsZero() && now.Sub(asked) >= answerIn ||
		!oldest.IsZero() && now.Sub(oldest) >= answerIn && now.Sub(heard) >= answerIn ||
		!oldest.IsZero() && now.Sub(oldest) >= resultIn
}

// ask sends a tiny question to a pillar that was silent for quizEvery, and
// returns when it, or the answer, is due.
func (g *nodeGuard) ask(s *nodeSession, now time.Time) time.Time {
	switch {
	case !s.vital.asked.IsZero():
		return s.vital.asked.Add(answerIn)
	case s.handing.Load():
		return now.Add(answerIn)
	case now.Sub(s.heard()) >= quizEvery, !s.vital.quiz.IsZero() && !now.Before(s.vital.quiz):
		g.question(s, now)
		return now.Add(answerIn)
	}
	next := earlier(s.heard().Add(quizEvery), s.vital.quiz)
	if oldest := g.n.outbox.unanswered(s); !oldest.IsZero() {
		last := s.heard()
		if last.Before(oldest) {
			last = oldest
		}
		next = earlier(earlier(next, last.Add(answerIn)), oldest.Add(resultIn))
	}
	return next
}

func (g *nodeGuard) question(s *nodeSession, now time.Time) {
	s.vital.asked, s.vital.last, s.vital.quiz = now, now, time.Time{}
	select { // never wait behind a full queue: the clock runs all the same
	case s.out <- &Find{N: s.take(1), IDs: []RecordID{g.n.self.deviceRecord()}, OnlyHeld: true}:
	default:
	}
}

// missed looks for mail that the standby's pillar spoke of. It returns when to
// look again, zero if there is no need, and whether the active pillar is to be
// asked for a sign of life.
func (g *nodeGuard) missed(active *nodeSession, now time.Time) (next time.Time, probe bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nudge.IsZero() {
		return time.Time{}, false
	}
	before := mailBefore
	if !g.doubts {
		before = idleLeast
	}
	if mail := time.Unix(0, active.lastMail.Load()); mail.After(g.nudge.Add(-before)) || active.handing.Load() {
		if !mail.After(g.nudge) && active.vital.quiz.IsZero() {
			// That may have been other mail, the last that the pillar brought.
			active.vital.quiz = now.Add(nudgeIn)
			if pause := active.vital.last.Add(quizPause); pause.After(active.vital.quiz) {
				active.vital.quiz = pause
			}
		}
		next, g.nudge = active.vital.quiz, time.Time{}
		return next, false
	}
	if soon := g.nudge.Add(nudgeIn + 2*g.rtt(active)); !g.doubts {
		if now.Before(soon) {
			return soon, false
		}
		g.doubts = true
		if active.vital.asked.IsZero() {
			g.question(active, now)
		}
		return time.Time{}, true
	}
	if late := g.nudge.Add(mailIn + 2*g.rtt(active)); now.Before(late) {
		return late, false
	}
	since := g.nudge
	g.nudge = time.Time{}
	if standby := g.n.sessions.standbySession(); standby != nil && now.Sub(g.behind) >= behindPause && active.resumed.Load() {
		g.behind = now
		g.giveUp(active, since, errBehind)
	}
	return time.Time{}, false
}

// examine asks both pillars for a sign of life at the same time and ends the
// sessions with those that give none, the standby first: a dead one must not
// take over.
func (g *nodeGuard) examine(ctx context.Context, active, standby *nodeSession) {
	type verdict struct {
		s     *nodeSession
		since time.Time // when the silence became a loss, if it is one
		dead  bool
	}
	g.mu.Lock()
	nudge := g.nudge
	g.mu.Unlock()
	var list []*verdict
	var asking sync.WaitGroup
	for _, s := range []*nodeSession{standby, active} {
		if s == nil || s.ended() {
			continue
		}
		v := &verdict{s: s, since: time.Now()}
		if owed, heard := s.owed(), s.heard(); owed.After(heard) {
			v.since = owed
		} else if !owed.IsZero() {
			v.since = heard
		}
		if s == active {
			v.since = earlier(v.since, nudge)
		}
		list = append(list, v)
		asking.Go(func() { v.dead = !g.lives(ctx, v.s) })
	}
	asking.Wait()
	if ctx.Err() != nil {
		return
	}
	for _, v := range list {
		if v.dead {
			g.giveUp(v.s, v.since, errSilent)
		} else {
			v.s.vital.alive = time.Now()
			v.s.vital.doubts++
		}
	}
}

// lives reports whether there is a sign of life over the session, as far as can
// be told. Half way it asks once more: on a bad line the first question and what
// the transport repeats of it may all be lost.
func (g *nodeGuard) lives(ctx context.Context, s *nodeSession) bool {
	began, patience := time.Now(), g.patience(s)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := peerOf(s.pillar)
	first, second := make(chan error, 1), make(chan error, 1)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { first <- g.n.cfg.Peers.Probe(ctx, p) })
	again := time.NewTimer(patience / 2)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			asking.Go(func() { second <- g.n.cfg.Peers.Probe(ctx, p) })
		case err := <-second:
			if err == nil {
				return true
			}
		case err := <-first:
			switch {
			case err == nil, s.heard().After(began):
				return true
			case errors.Is(err, ErrUnreachable):
				return false
			case ctx.Err() != nil:
				return len(second) > 0 && <-second == nil
			}
			g.n.log.Debug("probe says nothing", "pillar", s.pillar, "err", err)
			return true
		}
	}
}

// patience is how long a sign of life of s may take.
func (g *nodeGuard) patience(s *nodeSession) time.Duration {
	wait := max(lifeIn, 6*g.rtt(s)) << s.haste
	wait += time.Duration(g.n.outbox.weight(s)) * time.Second / slowLine
	return min(wait, lifeMost)
}

// rtt is the round-trip time to the session's pillar.
func (g *nodeGuard) rtt(s *nodeSession) time.Duration {
	rtt := s.rtt
	if info, ok := g.n.cfg.Peers.Info(peerOf(s.pillar)); ok && info.RTT > 0 {
		rtt = info.RTT
	}
	return min(rtt, rttMost)
}

// giveUp ends a session that was missed since then.
func (g *nodeGuard) giveUp(s *nodeSession, since time.Time, why error) {
	g.n.log.Warn("pillar given up", "pillar", s.pillar, "err", why)
	s.endSince(since, why)
}

// heard is when the last frame came.
func (s *nodeSession) heard() time.Time { return time.Unix(0, s.lastFrame.Load()) }

// owed is since when the pillar owes an answer of any kind, zero for never.
func (s *nodeSession) owed() time.Time {
	owed := s.n.outbox.unanswered(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.waiting {
		if !c.since.IsZero() && (owed.IsZero() || c.since.Before(owed)) {
			owed = c.since
		}
	}
	return owed
}
