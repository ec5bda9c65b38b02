package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// How a node asks where others are.
const (
	locateFound  = 15 * time.Second       // how long an answer is used again
	locateNobody = 3 * time.Second        // how long none is
	locateGrace  = 150 * time.Millisecond // for an account's further devices, after its first
	locateIn     = 2*locateWindow + time.Second
	locateKept   = 4096 // accounts remembered
	locateAtOnce = 64   // accounts asked for at the same time
	locateQueue  = 64   // answers waiting to be verified; more are dropped
	locateAgain  = time.Minute
)

// nodeLocator finds out where the devices of accounts are: by asking the active
// pillar, or the standby, and verifying what comes back. Nothing of it is kept
// on disk.
type nodeLocator struct {
	n    *Node
	asks chan *located // to run, which has each asked in a goroutine; has room for all open ones
	over chan struct{} // closed when run has ended

	mu    sync.Mutex
	known map[identity.AccountID]*located // guarded by mu
	open  int                             // guarded by mu; questions under way
	asked uint64                          // guarded by mu; time of the last question, Unix ms
}

// located is what is known of one account, or being asked.
type located struct {
	account identity.AccountID
	ready   chan struct{} // closed when who waits needs to wait no longer
	standby bool          // the standby is asked first: the active pillar found nobody the last time

	// Guarded by nodeLocator.mu:
	told  bool // ready is closed
	over  bool // no more answers come
	found map[identity.DeviceID]Presence
	err   error
	until time.Time // when over: how long this is used
}

func newNodeLocator(n *Node) *nodeLocator {
	return &nodeLocator{n: n, asks: make(chan *located, locateAtOnce), over: make(chan struct{}), known: map[identity.AccountID]*located{}}
}

// locate returns where devices of account can be reached: one Presence for each
// device that answered and lets this device connect to it, verified, in no
// particular order. None and no error means that nobody answered: no device is
// connected, or none wants to be found; there is no telling which. It returns as
// soon as all devices known of the account have answered, or a moment after the
// first has, and else after the time that pillars wait, about two seconds. What
// it finds it uses again for some seconds, so it may be called for every message,
// from many goroutines. An error means that nobody could be asked.
//
// Only between the begin and the end of Run does it do anything but wait.
func (n *Node) locate(ctx context.Context, account identity.AccountID) ([]Presence, error) {
	if n.cfg.Traversal == nil {
		return nil, Refuse(CodeUnreachable, "this node has no direct delivery")
	}
	if n.network().IsZero() {
		return nil, Refuse(CodeNoNetwork, "no network is pinned yet")
	}
	return n.locator.locate(ctx, account)
}

// forget has the next locate ask anew: what it answered leads nowhere.
func (l *nodeLocator) forget(account identity.AccountID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.known[account]; e != nil && e.over {
		delete(l.known, account)
	}
}

func (l *nodeLocator) locate(ctx context.Context, account identity.AccountID) ([]Presence, error) {
	l.mu.Lock()
	e := l.known[account]
	if e == nil || e.over && !time.Now().Before(e.until) {
		if l.open >= locateAtOnce {
			l.mu.Unlock()
			return nil, &Error{Code: CodeBusy, Text: "too many accounts are being located", Retry: time.Second}
		}
		e = &located{account: account, ready: make(chan struct{}), found: map[identity.DeviceID]Presence{},
			standby: e != nil && len(e.found) == 0 && !e.standby}
		l.keep(e)
		l.open++
		l.asks <- e // never waits
	}
	l.mu.Unlock()
	select {
	case <-e.ready:
	case <-l.over:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !e.told:
		return nil, errNodeStopped
	case len(e.found) == 0:
		return nil, e.err
	}
	list := make([]Presence, 0, len(e.found))
	for _, p := range e.found {
		list = append(list, p)
	}
	return list, nil
}

// keep remembers e. l.mu is held.
func (l *nodeLocator) keep(e *located) {
	if len(l.known) >= locateKept {
		now := time.Now()
		for a, o := range l.known {
			if o.over && !now.Before(o.until) {
				delete(l.known, a)
			}
		}
		for a, o := range l.known { // what is left is of the last seconds
			if len(l.known) < locateKept {
				break
			}
			if o.over {
				delete(l.known, a)
			}
		}
	}
	l.known[e.account] = e
}

// run asks until ctx ends, and waits for all it began.
func (l *nodeLocator) run(ctx context.Context) {
	var work sync.WaitGroup
	defer close(l.over)
	defer work.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-l.asks:
			work.Go(func() { l.end(e, l.find(ctx, e)) })
		}
	}
}

// end notes that no more answers come.
func (l *nodeLocator) end(e *located, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	e.over = true
	var refusal *Error
	switch {
	case len(e.found) > 0:
		e.until = time.Now().Add(locateFound)
		l.n.metrics.located.WithLabelValues("found").Inc()
	case err == nil:
		e.until = time.Now().Add(locateNobody)
		l.n.metrics.located.WithLabelValues("nobody").Inc()
	case errors.As(err, &refusal) && refusal.Retry > 0:
		e.err, e.until = err, time.Now().Add(min(refusal.Retry, locateAgain))
		l.n.metrics.located.WithLabelValues("refused").Inc()
	default: // e.until is past: it is asked again at once
		e.err = err
		l.n.metrics.located.WithLabelValues("failed").Inc()
	}
	l.tell(e)
}

// tell lets go who waits for e. l.mu is held.
func (l *nodeLocator) tell(e *located) {
	if !e.told {
		e.told = true
		close(e.ready)
	}
}

// find asks the active pillar, and the standby if that fails; or the other way
// round, so that no pillar alone can hide an account for long.
func (l *nodeLocator) find(ctx context.Context, e *located) error {
	acc, err := l.n.dir.account(e.account)
	if err != nil {
		return err
	}
	if len(acc.devices) == 0 {
		l.n.dir.want(e.account) // without its devices no answer can be believed
	}
	err = Refuse(CodeUnreachable, "there is no session with a pillar")
	order := []*nodeSession{l.n.sessions.activeSession(), l.n.sessions.standbySession()}
	if e.standby {
		slices.Reverse(order)
	}
	for _, s := range order {
		if s == nil || s.ended() {
			continue
		}
		if err = l.ask(ctx, s, e); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// ask asks one pillar and takes what it answers until it has said its last word.
func (l *nodeLocator) ask(ctx context.Context, s *nodeSession, e *located) error {
	ctx, cancel := context.WithTimeout(ctx, locateIn)
	defer cancel()
	q := &Locate{N: s.take(1), Target: e.account, Asker: l.n.account(), Certificate: l.n.self.certificate(), Time: l.time()}
	q.Sign(l.n.network(), l.n.cfg.Device)
	call := &nodeCall{stream: make(chan Message, locateQueue), done: make(chan struct{})}
	s.expect(q.N, call)
	defer s.dismiss(q.N)
	if !s.send(q) {
		return s.err
	}
	grace := time.NewTimer(locateIn)
	defer grace.Stop()
	for {
		select {
		case m := <-call.stream:
			if err := l.take(e, m); err != nil {
				return err
			}
			if l.first(e) {
				grace.Reset(locateGrace)
			}
			continue
		case <-grace.C:
			l.mu.Lock()
			l.tell(e)
			l.mu.Unlock()
			continue
		case <-s.done:
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		case <-call.done:
		}
		for len(call.stream) > 0 { // before it was done
			if err := l.take(e, <-call.stream); err != nil {
				return err
			}
		}
		return nil
	}
}

// time is the time of a question: now, but never the same twice, so that devices
// can tell a question from its copy.
func (l *nodeLocator) time() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = max(l.asked+1, l.n.now())
	return l.asked
}

// first reports whether an answer is there for which others' are not waited much
// longer.
func (l *nodeLocator) first(e *located) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(e.found) == 1 && !e.told
}

// take believes what of an answer can be believed.
func (l *nodeLocator) take(e *located, m Message) error {
	a, ok := m.(*Located)
	switch {
	case !ok:
		return fmt.Errorf("%w: a wrong answer to Locate", ErrFrame)
	case a.Err != nil:
		return a.Err
	case len(a.Presences) == 0:
		return nil
	}
	acc, err := l.n.dir.account(e.account)
	if err != nil {
		return err
	}
	now := l.n.now()
	devices := acc.valid(now)
	for i := range a.Presences {
		p := &a.Presences[i]
		if !slices.Contains(devices, p.Device) {
			l.n.dir.want(e.account) // it may be a new one
		}
		if err := l.check(p, devices, now); err != nil {
			l.n.metrics.dropped.WithLabelValues("presence").Inc()
			l.n.log.Debug("presence not believed", "account", e.account, "device", p.Device, "err", err)
			continue
		}
		l.mu.Lock()
		if old, again := e.found[p.Device]; !again || old.Time < p.Time {
			e.found[p.Device] = *p
		}
		if others := slices.DeleteFunc(slices.Clone(devices), func(d identity.DeviceID) bool { return d == l.n.device() }); len(e.found) >= len(others) {
			l.tell(e)
		}
		l.mu.Unlock()
	}
	return nil
}

// check says why p is not to be believed, and leaves out of it what is no
// pillar.
func (l *nodeLocator) check(p *Presence, devices []identity.DeviceID, now uint64) error {
	if !slices.Contains(devices, p.Device) || p.Device == l.n.device() {
		return Refuse(CodeInvalid, "presence: %s is none of the account's other devices, as far as known", p.Device)
	}
	if err := p.Verify(l.n.network(), l.n.device(), now); err != nil {
		return err
	}
	roster := l.n.pillars()
	p.Pillars = slices.DeleteFunc(p.Pillars, func(a identity.PillarID) bool { return !roster.Admitted(a, now) })
	if len(p.Pillars) == 0 {
		return Refuse(CodeInvalid, "presence: it names nobody who is a pillar, as far as known")
	}
	return nil
}
