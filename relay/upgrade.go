package relay

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// How circuits become direct connections (docs/adr/0012-own-hole-punching.md).
// Both ends watch every peer that they are connected with by a circuit:
//
//  1. Whoever was dialled punches, at once and then after the waits below, as
//     long as the circuit is there (punch.go). The other end answers.
//  2. Once there is a direct connection, new streams go to it by themselves.
//     The circuit is closed when nothing runs on it, or after lingerMax.

// punchWaits are the waits after failed attempts. The first are short, because
// what failed is mostly the timing; where both NATs are symmetric it will not
// work until one of them is replaced, and the last wait is repeated.
var punchWaits = []time.Duration{
	300 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second, 10 * time.Minute,
}

const (
	// maxPunches is how many peers a host punches to at once; the others wait.
	maxPunches = 16
	// lingerCheck is how often it is looked whether a circuit is still used after
	// the upgrade, which ends after lingerMin at the earliest: the other side may
	// have sent before it knew.
	lingerCheck = 250 * time.Millisecond
	lingerMin   = time.Second
	lingerMax   = 5 * time.Second
	// maxPairs bounds the peers whose failed attempts are remembered after their
	// circuit is gone, so that a peer that keeps coming back is not punched to
	// from the start each time.
	maxPairs = 1024
)

// upgrades watches over circuits. All pairs belong to the goroutine in run;
// others only say whom to look at.
type upgrades struct {
	mu    sync.Mutex
	dirty map[peer.ID]bool // guarded by mu; connected by circuits, or until a moment ago
	reset bool             // guarded by mu; this host's own addresses changed

	wake  chan struct{}  // capacity 1
	ended chan punchDone // capacity maxPunches

	pairs   map[peer.ID]*pair
	running int
}

// pair is a peer that is connected by a circuit, or was.
type pair struct {
	tries  int
	next   time.Time // when to try again
	due    time.Time // when to look at it again
	busy   bool      // an attempt is going on
	direct time.Time // since when the circuit is not needed; zero: it is

	closing map[network.Conn]bool // circuits that a goroutine closes, each one
}

type punchDone struct {
	peer peer.ID
	ok   bool
}

func (u *upgrades) init() {
	u.dirty = make(map[peer.ID]bool)
	u.wake = make(chan struct{}, 1)
	u.ended = make(chan punchDone, maxPunches)
	u.pairs = make(map[peer.ID]*pair)
}

// look has p's connections looked at.
func (u *upgrades) look(p peer.ID) {
	u.mu.Lock()
	u.dirty[p] = true
	u.mu.Unlock()
	u.poke()
}

// moved says that this host may be seen at another address: what failed before
// may work now.
func (u *upgrades) moved() {
	u.mu.Lock()
	u.reset = true
	u.mu.Unlock()
	u.poke()
}

func (u *upgrades) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// take returns whom to look at.
func (u *upgrades) take() (dirty map[peer.ID]bool, reset bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	dirty, reset = u.dirty, u.reset
	u.dirty, u.reset = make(map[peer.ID]bool), false
	return dirty, reset
}

// upgrade runs until ctx ends. Attempts end with it too; Shutdown waits for
// them.
func (h *Host) upgrade(ctx context.Context) {
	u := &h.upgrades
	timer := time.NewTimer(0)
	defer timer.Stop()
	seen := ""
	for {
		everybody := false // may have waited for this
		select {
		case <-ctx.Done():
			return
		case done := <-u.ended:
			h.punched(done)
			everybody = true
		case <-u.wake:
		case <-timer.C:
		}
		dirty, reset := u.take()
		for p := range dirty {
			if u.pairs[p] == nil {
				u.pairs[p] = &pair{}
			}
		}
		now := time.Now()
		if reset {
			everybody = true
			if at := joinAddrs(h.publicAddrs()); at != seen {
				seen = at
				for _, x := range u.pairs {
					x.tries, x.next = 0, now
				}
			}
		}
		wait := time.Hour
		for p, x := range u.pairs {
			if everybody || dirty[p] || !x.due.After(now) {
				next := h.review(ctx, p, x, now)
				if next < 0 {
					delete(u.pairs, p)
					continue
				}
				x.due = now.Add(next)
			}
			wait = min(wait, x.due.Sub(now))
		}
		timer.Reset(wait)
	}
}

// punched takes the end of an attempt.
func (h *Host) punched(done punchDone) {
	u := &h.upgrades
	u.running--
	x := u.pairs[done.peer]
	if x == nil {
		return
	}
	x.busy = false
	if done.ok {
		x.tries, x.next = 0, time.Time{}
		return
	}
	wait := punchWaits[min(x.tries, len(punchWaits)-1)]
	x.tries++
	x.next = time.Now().Add(wait + rand.N(wait/4+1))
}

// review does what is due for one peer and says in what time to look again;
// less than 0: never, unless its connections change.
func (h *Host) review(ctx context.Context, p peer.ID, x *pair, now time.Time) time.Duration {
	var direct, dialled bool
	var inbound network.Conn
	var circuits []network.Conn
	for _, c := range h.swarm.ConnsToPeer(p) {
		switch {
		case c.IsClosed():
		case pathOf(c) == overlay.PathDirect:
			direct = true
		default:
			circuits = append(circuits, c)
			if c.Stat().Direction == network.DirInbound {
				inbound = c
			} else {
				dialled = true
			}
		}
	}
	switch {
	case x.busy:
		return time.Hour // its end comes as an event
	case len(circuits) == 0:
		x.direct, x.closing = time.Time{}, nil
		if left := x.next.Sub(now); left > 0 && !direct && len(h.upgrades.pairs) <= maxPairs {
			return left
		}
		return -1
	case direct:
		return h.retire(x, circuits, now)
	}
	x.direct = time.Time{}
	// Of two circuits, when both dialled, one is enough: the greater ID punches.
	if inbound == nil || dialled && h.host.ID() < p {
		return time.Hour
	}
	if left := x.next.Sub(now); left > 0 {
		return left
	}
	if h.upgrades.running >= maxPunches || len(h.publicAddrs()) == 0 {
		return time.Hour // an attempt that ends, or an address that is seen, wakes us
	}
	x.busy = true
	h.upgrades.running++
	try := x.tries
	if !h.start(func() { h.upgrades.ended <- punchDone{p, h.punch(ctx, inbound, try)} }) {
		x.busy = false
		h.upgrades.running--
	}
	return time.Hour
}

// retire closes circuits that a direct connection has replaced, each in one
// goroutine: a relay that stalls keeps that waiting, and a second would wait
// behind it.
func (h *Host) retire(x *pair, circuits []network.Conn, now time.Time) time.Duration {
	if x.direct.IsZero() {
		x.direct = now
	}
	since := now.Sub(x.direct)
	if since < lingerMin {
		return lingerMin - since
	}
	for c := range x.closing {
		if !slices.Contains(circuits, c) {
			delete(x.closing, c)
		}
	}
	for _, c := range circuits {
		if x.closing[c] || since < lingerMax && len(c.GetStreams()) > 0 {
			continue
		}
		if x.closing == nil {
			x.closing = make(map[network.Conn]bool)
		}
		x.closing[c] = h.start(func() { _ = c.Close() }) // it may have to say goodbye through the relay
	}
	return lingerCheck
}
