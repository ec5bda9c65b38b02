package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of dialling.
const (
	maxDials    = 8                // at once
	dialTimeout = 20 * time.Second // for one pillar, all its addresses
	wrongLimit  = 3                // answers by somebody else before an address is dropped
	openGrace   = 2 * time.Second  // for the smaller ID to open the session
)

// dialer keeps a session with every pillar of the roster and with those whose
// address was given by hand: for ever, whoever of them is up.
type dialer struct {
	m     *Mesh
	wake  chan struct{} // capacity 1: the roster changed
	slots chan struct{} // one value a dial in progress

	mu      sync.Mutex
	hand    map[identity.PillarID][]multiaddr.Multiaddr // guarded by mu; addresses given by hand
	targets map[identity.PillarID]*target               // guarded by mu; one for each reach
}

func newDialer(m *Mesh) *dialer {
	d := &dialer{m: m, wake: make(chan struct{}, 1), slots: make(chan struct{}, maxDials),
		hand:    map[identity.PillarID][]multiaddr.Multiaddr{},
		targets: map[identity.PillarID]*target{}}
	for _, b := range m.cfg.Bootstrap {
		d.remember(b)
	}
	return d
}

// remember keeps an address given by hand.
func (d *dialer) remember(p overlay.PillarAddr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.hand[p.Pillar] {
		if a.Equal(p.Addr) {
			return
		}
	}
	if known := d.hand[p.Pillar]; len(known) < overlay.MaxAddrs {
		d.hand[p.Pillar] = append(known[:len(known):len(known)], p.Addr)
	}
}

func (d *dialer) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// shownUp makes the dialer try p at once.
func (d *dialer) shownUp(p identity.PillarID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.targets[p]; t != nil {
		t.poke()
	}
}

// run starts one reach for every pillar that becomes known.
func (d *dialer) run(ctx context.Context) {
	for {
		for _, t := range d.fresh() {
			d.m.spawn(func(ctx context.Context) { d.reach(ctx, t) })
		}
		select {
		case <-d.wake:
		case <-ctx.Done():
			return
		}
	}
}

// target is a pillar that a session is wanted with.
type target struct {
	id   identity.PillarID
	wake chan struct{} // capacity 1: try at once

	mu      sync.Mutex
	trouble overlay.Trouble // guarded by mu; why there is no session, and the plan
}

func (t *target) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// failed takes note of why there is no session.
func (t *target) failed(err error, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	trying, next := t.trouble.Trying, t.trouble.NextTry
	t.trouble.Failed(err, at)
	t.trouble.Trying, t.trouble.NextTry = trying, next
}

// trying says that it is being tried, or that it was and when it is next, the
// zero time for not at all.
func (t *target) trying(on bool, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trouble.Trying = on
	t.trouble.Planned(next)
}

// well says that there is a session.
func (t *target) well() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trouble = overlay.Trouble{}
}

// lost takes note of the end of a session with p, if there is no other.
func (d *dialer) lost(p identity.PillarID, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		err = errSessionLost
	}
	d.mu.Lock()
	t := d.targets[p]
	d.mu.Unlock()
	if t != nil && d.m.sessions.get(peer.ID(p)) == nil {
		t.well() // until now
		t.failed(err, d.m.cfg.Now())
	}
}

// trouble is why there is no session with p, by the roster first: who is no
// pillar any more is not tried.
func (d *dialer) trouble(p identity.PillarID) overlay.Trouble {
	byRoster := d.m.cfg.Roster.Trouble(p, d.m.now())
	d.mu.Lock()
	t := d.targets[p]
	d.mu.Unlock()
	if t == nil || d.parted(p) {
		return byRoster
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trouble.Error == "" {
		byRoster.Trying, byRoster.NextTry = t.trouble.Trying, t.trouble.NextTry
		return byRoster
	}
	return t.trouble
}

// fresh returns the pillars that no reach cares for yet.
func (d *dialer) fresh() (fresh []*target) {
	entries := d.m.cfg.Roster.Entries()
	d.mu.Lock()
	defer d.mu.Unlock()
	add := func(p identity.PillarID) {
		if p != d.m.self && d.targets[p] == nil {
			t := &target{id: p, wake: make(chan struct{}, 1)}
			d.targets[p] = t
			fresh = append(fresh, t)
		}
	}
	for p := range d.hand {
		add(p)
	}
	for i := range entries {
		add(entries[i].Pillar)
	}
	return fresh
}

// reach keeps a session with t until ctx ends.
func (d *dialer) reach(ctx context.Context, t *target) {
	p := t.id
	wrong := wrongAddrs{count: map[string]int{}}
	pause := d.m.cfg.DialMin
	for ctx.Err() == nil {
		if s := d.m.sessions.get(peer.ID(p)); s != nil {
			t.well()
			select {
			case <-s.done:
			case <-ctx.Done():
				return
			}
			pause = d.m.cfg.DialMin
			d.wait(ctx, d.jitter(pause/4), nil)
			continue
		}
		if err := d.pointless(p); err != nil {
			t.failed(err, d.m.cfg.Now())
			pause = d.m.cfg.DialMax // who is back comes by itself
		} else {
			t.trying(true, time.Time{})
			had, err := d.try(ctx, p, &wrong)
			if had {
				pause = d.m.cfg.DialMin
				d.wait(ctx, d.jitter(pause/4), nil)
				continue
			}
			if ctx.Err() == nil {
				t.failed(err, d.m.cfg.Now())
			}
			if code := codeOf(err); code == overlay.CodeWrongNetwork {
				pause = d.m.cfg.DialMax
			}
		}
		wait := d.jitter(pause)
		t.trying(false, d.m.cfg.Now().Add(wait))
		if d.wait(ctx, wait, t.wake) {
			pause = min(2*pause, d.m.cfg.DialMax)
		} else {
			pause = d.m.cfg.DialMin
		}
	}
}

// pointless says why p need not be tried now; nil if it is.
func (d *dialer) pointless(p identity.PillarID) error {
	now := d.m.now()
	switch {
	case d.parted(p):
		return d.m.cfg.Roster.NotAdmitted(p, now)
	case d.parted(d.m.self):
		return overlay.Refuse(overlay.CodeNotAdmitted, "this pillar itself is none any more")
	case d.m.scores.refused(peer.ID(p)) > 0:
		return overlay.Refuse(overlay.CodeNotAdmitted, "it broke the rules again and again, and is refused for a while")
	}
	return nil
}

// parted reports whether p is revoked or has left.
func (d *dialer) parted(p identity.PillarID) bool {
	s := d.m.cfg.Roster.Standing(p, d.m.now())
	return s == overlay.StandingLeft || s == overlay.StandingRevoked
}

// again makes the dialer try everybody at once: this pillar has a new record.
func (d *dialer) again() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.targets {
		t.poke()
	}
}

// jitter returns 0.5 to 1.5 times pause.
func (d *dialer) jitter(pause time.Duration) time.Duration {
	return pause/2 + rand.N(pause+1)
}

// wait returns true after the pause, false if it was woken before or ctx ended.
func (d *dialer) wait(ctx context.Context, pause time.Duration, wake chan struct{}) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-wake:
		return false
	case <-ctx.Done():
		return false
	}
}

// try makes a connection and a session and lives in the session. had says
// whether there was one.
func (d *dialer) try(ctx context.Context, p identity.PillarID, wrong *wrongAddrs) (had bool, err error) {
	if d.m.cfg.Own() == nil {
		return false, overlay.Refuse(overlay.CodeNotAdmitted, "this pillar has no admission yet")
	}
	d.m.met.rejoins.Inc()
	id := peer.ID(p)
	if _, connected := d.m.cfg.Peers.Info(id); connected && peer.ID(d.m.self) > id {
		grace, cancel := context.WithTimeout(ctx, openGrace)
		s := d.m.sessions.await(grace, id)
		cancel()
		if s != nil {
			return true, nil
		}
	}
	if err := d.connect(ctx, p, wrong); err != nil {
		d.m.log.Debug("pillar not reached", "pillar", p, "err", err)
		return false, err
	}
	if d.m.sessions.get(id) != nil {
		return true, nil
	}
	err = d.m.openSession(ctx, id, func(s *session, _ error) {
		if had = s != nil; had && d.byHand(p) {
			d.m.markLocal(p)
		}
	})
	return had, err
}

func (d *dialer) byHand(p identity.PillarID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.hand[p]) > 0
}

// connect dials p, at most maxDials pillars at once.
func (d *dialer) connect(ctx context.Context, p identity.PillarID, wrong *wrongAddrs) error {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs := d.addrs(p, wrong)
	err := d.m.cfg.Links.Connect(ctx, peer.ID(p), addrs)
	if !errors.Is(err, overlay.ErrWrongPeer) {
		return err
	}
	// Find out at which of them somebody else answers.
	for _, a := range addrs {
		e := d.m.cfg.Links.Connect(ctx, peer.ID(p), []multiaddr.Multiaddr{a})
		if e == nil {
			return nil
		}
		if errors.Is(e, overlay.ErrWrongPeer) && wrong.add(a) {
			d.m.log.Warn("address dropped: somebody else answers there", "pillar", p, "addr", a)
		}
	}
	return err
}

// addrs returns where p may be dialled: by hand first, and those for ever, for
// nothing may be known to replace them; then by its record.
func (d *dialer) addrs(p identity.PillarID, wrong *wrongAddrs) []multiaddr.Multiaddr {
	d.mu.Lock()
	addrs := slices.Clone(d.hand[p])
	d.mu.Unlock()
	if e, ok := d.m.cfg.Roster.Lookup(p); ok {
		wrong.forRecord(e.Record.ID)
		addrs = append(addrs, wrong.filter(d.m.cfg.Roster.DialAddrs(p, false))...)
	}
	// Whoever has a reservation here is connected here.
	return slices.DeleteFunc(addrs, func(a multiaddr.Multiaddr) bool {
		relay, ok := overlay.RelayOf(a)
		return ok && relay.Pillar == d.m.self
	})
}

// wrongAddrs counts how often somebody else answered at an address of a pillar.
// A new record of the pillar starts anew.
type wrongAddrs struct {
	record overlay.RecordID
	count  map[string]int
}

func (w *wrongAddrs) forRecord(id overlay.RecordID) {
	if w.record != id {
		w.record = id
		clear(w.count)
	}
}

// add counts one more and reports whether that drops the address.
func (w *wrongAddrs) add(a multiaddr.Multiaddr) bool {
	w.count[string(a.Bytes())]++
	return w.count[string(a.Bytes())] == wrongLimit
}

func (w *wrongAddrs) filter(addrs []multiaddr.Multiaddr) (ok []multiaddr.Multiaddr) {
	for _, a := range addrs {
		if w.count[string(a.Bytes())] < wrongLimit {
			ok = append(ok, a)
		}
	}
	return ok
}

// markLocal lets the private addresses of p be dialled: it was named by hand.
func (m *Mesh) markLocal(p identity.PillarID) {
	if e, ok := m.cfg.Roster.Lookup(p); ok && !e.Local {
		m.cfg.Roster.Add(m.now(), true, e.Record.Raw)
	}
}

// Inject implements overlay.Mesh. Errors wrap an *overlay.Error: unreachable,
// wrong_network, not_admitted or bad_request.
func (m *Mesh) Inject(ctx context.Context, p overlay.PillarAddr) error {
	id := peer.ID(p.Pillar)
	if p.Pillar == m.self {
		return overlay.Refuse(overlay.CodeBadRequest, "%s is this pillar itself", p.Pillar)
	}
	if m.sessions.get(id) == nil {
		if err := m.meet(ctx, p); err != nil {
			return fmt.Errorf("add pillar %s: %w", p.Pillar, err)
		}
	}
	m.dialer.remember(p)
	m.markLocal(p.Pillar)
	m.dialer.poke()
	return nil
}

// meet connects to p at its address and returns when a session is open.
func (m *Mesh) meet(ctx context.Context, p overlay.PillarAddr) error {
	id := peer.ID(p.Pillar)
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := m.cfg.Links.Connect(dial, id, []multiaddr.Multiaddr{p.Addr}); err != nil {
		return fmt.Errorf("%w: %w", overlay.Refuse(overlay.CodeUnreachable, "no connection"), err)
	}
	met := make(chan error, 1)
	ok := m.spawn(func(ctx context.Context) {
		m.openSession(ctx, id, func(_ *session, err error) { met <- err })
	})
	if !ok {
		return errStopped
	}
	select {
	case err := <-met:
		var refusal *overlay.Error
		switch {
		case err == nil, errors.As(err, &refusal):
			return err
		case errors.Is(err, overlay.ErrProtocol):
			return fmt.Errorf("%w: %w", overlay.Refuse(overlay.CodeNotAdmitted, "it is no pillar"), err)
		default:
			return fmt.Errorf("%w: %w", overlay.Refuse(overlay.CodeUnreachable, "it does not answer"), err)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", overlay.Refuse(overlay.CodeUnreachable, "it does not answer"), ctx.Err())
	}
}
