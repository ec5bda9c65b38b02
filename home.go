package obelisk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// How a home pillar stays reachable.
const (
	// homeRelays is at how many public pillars it holds reservations: the loss of
	// one changes nothing for the others, and three are known to everybody.
	homeRelays = 3
	// homeGrant is how long a pillar may take to grant a reservation, or to renew
	// one; then another is asked, and it not again for homeShun.
	homeGrant = 10 * time.Second
	homeShun  = 5 * time.Minute
	homePoll  = time.Second
	// homeFirst is how long a start waits for the first reservation.
	homeFirst = 5 * time.Second
)

// homeChoice decides at which public pillars a home pillar holds reservations.
// It keeps to a choice as long as it serves: every change is a new record.
type homeChoice struct {
	self   PillarID
	chosen []homeRelay
	shun   map[PillarID]time.Time // who did not grant one, until when it is asked last
}

type homeRelay struct {
	id    PillarID
	since time.Time // when it was chosen, or held a reservation last
	held  bool
}

// update takes which public pillars are directly connected, and tells at which
// reservations are wanted.
func (c *homeChoice) update(now time.Time, connected []PillarID, held func(PillarID) bool) {
	spare := len(connected) > len(c.chosen)
	c.chosen = slices.DeleteFunc(c.chosen, func(r homeRelay) bool {
		if !slices.Contains(connected, r.id) {
			return true
		}
		refused := spare && !held(r.id) && now.Sub(r.since) > homeGrant
		if refused {
			c.shun[r.id] = now.Add(homeShun)
		}
		return refused
	})
	for i := range c.chosen {
		if c.chosen[i].held = held(c.chosen[i].id); c.chosen[i].held {
			c.chosen[i].since = now
		}
	}
	for p, until := range c.shun {
		if !now.Before(until) {
			delete(c.shun, p)
		}
	}
	for _, p := range c.rank(connected) {
		if len(c.chosen) == homeRelays {
			break
		}
		if !slices.ContainsFunc(c.chosen, func(r homeRelay) bool { return r.id == p }) {
			c.chosen = append(c.chosen, homeRelay{id: p, since: now, held: held(p)})
		}
	}
}

// rank orders pillars as they are to be asked: each home pillar has an order of
// its own, always the same, so that they spread over the public ones.
func (c *homeChoice) rank(pillars []PillarID) []PillarID {
	rank := func(p PillarID) []byte {
		sum := sha256.Sum256([]byte(string(c.self) + string(p)))
		return sum[:]
	}
	out := slices.Clone(pillars)
	slices.SortFunc(out, func(a, b PillarID) int {
		if d := c.shun[a].Compare(c.shun[b]); d != 0 {
			return d
		}
		return bytes.Compare(rank(a), rank(b))
	})
	return out
}

func (c *homeChoice) holding() (ids []PillarID) {
	for _, r := range c.chosen {
		if r.held {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// Publishing addresses costs a signed record that goes to every pillar and node.
const (
	// tellNews is how long an address must have lasted that others do not know yet.
	tellNews = time.Second
	// tellLoss is how long one must have been gone, if there are others: who comes
	// back within this time was not missed.
	tellLoss = 30 * time.Second
	// tellBurst changes may follow each other; then there is one every tellEvery.
	tellBurst = 3
	tellEvery = time.Minute
)

// homeNotice holds the addresses that others are told back until they last.
type homeNotice struct {
	told  []multiaddr.Multiaddr
	next  []multiaddr.Multiaddr
	since time.Time // since when next is what it is
	sent  []time.Time
}

// offer takes the addresses of the moment and reports whether they are to be
// told now. None at all are never told: the old ones may come back, and are as
// good as none.
func (n *homeNotice) offer(now time.Time, addrs []multiaddr.Multiaddr) bool {
	same := slices.EqualFunc[[]multiaddr.Multiaddr, []multiaddr.Multiaddr]
	equal := func(a, b multiaddr.Multiaddr) bool { return a.Equal(b) }
	if !same(addrs, n.next, equal) {
		n.next, n.since = addrs, now
	}
	if len(addrs) == 0 || same(addrs, n.told, equal) {
		return false
	}
	wait := tellLoss
	if slices.ContainsFunc(addrs, func(a multiaddr.Multiaddr) bool { return !slices.ContainsFunc(n.told, a.Equal) }) {
		wait = tellNews
	}
	n.sent = slices.DeleteFunc(n.sent, func(at time.Time) bool { return now.Sub(at) >= tellBurst*tellEvery })
	if now.Sub(n.since) < wait || len(n.sent) >= tellBurst {
		return false
	}
	n.told, n.sent = addrs, append(n.sent, now)
	return true
}

// homeReach keeps a home pillar reachable through public ones.
type homeReach struct {
	first chan struct{} // closed when addresses are in the pillar's record

	mu     sync.Mutex
	choice homeChoice            // guarded by mu
	notice homeNotice            // guarded by mu
	addrs  []multiaddr.Multiaddr // guarded by mu; what others are told, besides Announce
}

func newHomeReach(self PillarID) *homeReach {
	return &homeReach{choice: homeChoice{self: self, shun: map[PillarID]time.Time{}}, first: make(chan struct{})}
}

// told is what others are told; nil while it is not known.
func (r *homeReach) told() []multiaddr.Multiaddr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addrs
}

// relays are the pillars at which reservations are held.
func (r *homeReach) relays() []PillarID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.choice.holding()
}

// stayReachable holds reservations and tells others where, until ctx ends.
func (p *Pillar) stayReachable(ctx context.Context) error {
	var reserving sync.WaitGroup
	defer reserving.Wait()
	reserving.Go(func() { _ = p.host.KeepReserved(ctx, p.reserveAt) }) // ends with ctx only
	tick := time.NewTicker(homePoll)
	defer tick.Stop()
	first := sync.OnceFunc(func() { close(p.home.first) })
	for {
		if p.tellReach(time.Now()) {
			p.log.Info("reached through other pillars", "pillars", p.home.relays())
			if err := p.core.Readdress(); err != nil {
				p.log.Warn("own pillar record not renewed", "err", err)
			}
			first()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reserveAt chooses anew and returns at which pillars reservations are wanted.
func (p *Pillar) reserveAt() (wanted []peer.ID) {
	now := time.Now()
	connected := p.publicPillars(now)
	p.home.mu.Lock()
	defer p.home.mu.Unlock()
	p.home.choice.update(now, connected, p.holds(now))
	for _, r := range p.home.choice.chosen {
		wanted = append(wanted, peer.ID(r.id))
	}
	return wanted
}

// tellReach looks at the reservations and reports whether what others are told
// changed.
func (p *Pillar) tellReach(now time.Time) bool {
	connected := p.publicPillars(now)
	r := p.home
	r.mu.Lock()
	defer r.mu.Unlock()
	r.choice.update(now, connected, p.holds(now))
	if !r.notice.offer(now, p.core.Roster().Circuits(overlay.MaxAddrs-len(p.cfg.Announce), r.choice.holding())) {
		return false
	}
	r.addrs = r.notice.told
	return true
}

func (p *Pillar) holds(now time.Time) func(PillarID) bool {
	return func(id PillarID) bool { return p.host.ReservedUntil(peer.ID(id)).After(now) }
}

// publicPillars are the admitted pillars that relay, and those given by hand that
// may be, as far as they are directly connected: there is no reserving over a
// circuit.
func (p *Pillar) publicPillars(now time.Time) (connected []PillarID) {
	add := func(id PillarID) {
		if info, ok := p.host.Info(peer.ID(id)); ok && info.Path == overlay.PathDirect && !slices.Contains(connected, id) {
			connected = append(connected, id)
		}
	}
	roster := p.core.Roster()
	for _, e := range roster.Entries() {
		if e.Pillar != p.ID() && !e.Info.Home && roster.Admitted(e.Pillar, uint64(now.UnixMilli())) {
			add(e.Pillar)
		}
	}
	for _, a := range p.invited {
		if _, known := roster.Lookup(a.Pillar); !known {
			add(a.Pillar)
		}
	}
	return connected
}

// awaitReach waits a little for the first reservation of a home pillar that
// knows of other pillars, so that what is said of it at its start names one.
func (p *Pillar) awaitReach(ctx context.Context) {
	if len(p.invited) == 0 || len(p.addrs()) > 0 {
		return
	}
	t := time.NewTimer(homeFirst)
	defer t.Stop()
	select {
	case <-p.home.first:
	case <-t.C:
		p.log.Info("no public pillar has room for this home pillar yet")
	case <-ctx.Done():
	}
}
