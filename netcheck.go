package obelisk

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

const (
	// netcheckTimeout bounds one Netcheck; what is not found out by then is unknown.
	netcheckTimeout = 20 * time.Second
	// natEvery is about how often the NAT is asked about by itself; natLook how
	// often it is looked whether pillars see the node elsewhere. natJitter keeps
	// nodes that came back together from asking together.
	natEvery  = 10 * time.Minute
	natLook   = time.Second
	natJitter = 2 * time.Second
	// natPatience is how long a second pillar is waited for, so that none has to be
	// called for the question alone.
	natPatience = 5 * time.Second
	// answerIn is how long a connected peer has to answer, askedAtOnce how many are
	// asked at the same time.
	answerIn    = 4 * time.Second
	askedAtOnce = 256
)

// Netcheck finds out how this node reaches others and is reached: how its NAT
// maps and filters, which transports reach which pillar, and how contacts are
// reached at the moment. It takes some seconds. One runs at a time; others wait.
func (n *Node) Netcheck(ctx context.Context) (overlay.Netcheck, error) {
	select {
	case n.checking <- struct{}{}:
		defer func() { <-n.checking }()
	case <-n.life.ask:
		return overlay.Netcheck{}, ErrClosed
	case <-ctx.Done():
		return overlay.Netcheck{}, ctx.Err()
	}
	parts := n.current()
	begin := time.Now()
	pillars := parts.core.Pillars()
	pillars = slices.DeleteFunc(pillars, func(p overlay.NodePillar) bool { return p.State == overlay.PillarLeft })
	connected := connectedOf(pillars, parts.core.ContactPaths())
	surveying, cancel := context.WithTimeout(ctx, netcheckTimeout)
	defer cancel()
	var work sync.WaitGroup
	var mute map[peer.ID]bool
	work.Go(func() { mute = silent(surveying, parts.host, connected) })
	found := parts.host.Survey(surveying, surveyed(pillars), true)
	work.Wait()
	if err := ctx.Err(); err != nil {
		return overlay.Netcheck{}, err
	}
	parts.core.NoteNAT(found.Mapping, found.Filtering, found.Reachability)
	c := overlay.Netcheck{
		At: begin.UTC(), TookMS: float64(time.Since(begin).Microseconds()) / 1000,
		Mapping: found.Mapping, Filtering: found.Filtering, Reachability: found.Reachability,
		Public: append([]overlay.SeenAddr{}, found.Seen...), Pillars: []overlay.NetcheckPillar{}, Contacts: []overlay.NetcheckContact{},
	}
	paths := make(map[PillarID]overlay.Path) // now
	for _, p := range parts.core.Pillars() {
		paths[p.ID] = p.Path
	}
	for _, p := range pillars {
		at := overlay.NetcheckPillar{ID: p.ID, Name: p.Name, Path: paths[p.ID],
			Reserved:   time.Now().Before(parts.host.ReservedUntil(peer.ID(p.ID))),
			Transports: append([]overlay.NetcheckTransport{}, found.Tried[peer.ID(p.ID)]...)}
		if mute[peer.ID(p.ID)] {
			at.Path, at.Reserved = overlay.PathNone, false
		}
		c.Pillars = append(c.Pillars, at)
	}
	names := make(map[AccountID]string)
	for _, k := range parts.core.Contacts() {
		names[k.Account] = k.Name
	}
	for _, p := range parts.core.ContactPaths() {
		x := overlay.NetcheckContact{Account: p.Account, Name: names[p.Account], Device: p.Device, Path: p.Path, RTTMS: p.RTTMS}
		if !p.Since.IsZero() {
			x.Since = &p.Since
		}
		// A new path, found while the old one was asked, is no silent one.
		if mute[peer.ID(p.Device)] && !p.Since.After(begin) {
			x.Path, x.RTTMS, x.Since, x.Why = overlay.PathNone, 0, nil, overlay.WhySilent
		}
		c.Contacts = append(c.Contacts, x)
	}
	c.Conclude(found.TCPMapping, found.Punched)
	return c, nil
}

// connectedOf are the peers with a connection.
func connectedOf(pillars []overlay.NodePillar, contacts []overlay.ContactPath) (list []peer.ID) {
	for _, p := range pillars {
		if p.Connected {
			list = append(list, peer.ID(p.ID))
		}
	}
	for _, c := range contacts {
		if c.Path != overlay.PathNone {
			list = append(list, peer.ID(c.Device))
		}
	}
	return list
}

// silent are those of the connected peers that do not answer now. A connection
// outlives its other end, or the NAT's mapping that it went through, by half a
// minute: what netcheck calls connected has to have answered.
func silent(ctx context.Context, peers overlay.Peers, connected []peer.ID) map[peer.ID]bool {
	var (
		work   sync.WaitGroup
		mu     sync.Mutex
		mute   = make(map[peer.ID]bool) // guarded by mu
		asking = make(chan struct{}, askedAtOnce)
	)
	for _, p := range connected {
		select {
		case asking <- struct{}{}:
		case <-ctx.Done(): // of who was not asked nothing is said
			continue
		}
		work.Go(func() {
			defer func() { <-asking }()
			ctx, cancel := context.WithTimeout(ctx, answerIn)
			defer cancel()
			if err := peers.Probe(ctx, p); errors.Is(err, context.DeadlineExceeded) { // others say nothing, or that the connection is gone
				mu.Lock()
				mute[p] = true
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return mute
}

// surveyed are pillars as a host asks them: those that the node works with first.
func surveyed(pillars []overlay.NodePillar) []relay.SurveyPillar {
	slices.SortStableFunc(pillars, func(a, b overlay.NodePillar) int { return use(a) - use(b) })
	out := make([]relay.SurveyPillar, 0, len(pillars))
	for _, p := range pillars {
		s := relay.SurveyPillar{ID: peer.ID(p.ID)}
		for _, a := range p.Addrs {
			if bare, _ := peer.SplitAddr(a); bare != nil {
				s.Addrs = append(s.Addrs, bare)
			}
		}
		out = append(out, s)
	}
	return out
}

func use(p overlay.NodePillar) int {
	switch {
	case p.Active:
		return 0
	case p.Standby:
		return 1
	case p.Connected:
		return 2
	}
	return 3
}

// watchNAT keeps what the node says of its NAT true: it asks when pillars see the
// node elsewhere, and now and then.
func watchNAT(ctx context.Context, parts *nodeParts) {
	last, next := "", time.Time{}
	var first time.Time // a pillar was seen
	tick := time.NewTicker(natLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all := parts.host.Observed()
		if len(all) > 0 && first.IsZero() {
			first = time.Now()
		}
		if len(all) == 1 && time.Since(first) < natPatience {
			continue
		}
		at := whereSeen(all)
		if at == "" || at == last && time.Now().Before(next) {
			continue
		}
		wait := time.NewTimer(rand.N(natJitter))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		last, next = whereSeen(parts.host.Observed()), time.Now().Add(natEvery+rand.N(natEvery/4))
		found := parts.host.Survey(ctx, surveyed(parts.core.Pillars()), false)
		if ctx.Err() != nil {
			return
		}
		parts.core.NoteNAT(found.Mapping, found.Filtering, found.Reachability)
	}
}

// whereSeen is the addresses at which pillars see the node, as one text that
// changes with them; ports only where others could connect.
func whereSeen(all []relay.Observed) string {
	var list []string
	for _, o := range all {
		at := o.Addr
		if !o.Listening && len(at) > 0 {
			at = multiaddr.Multiaddr{at[0]}
		}
		if !slices.Contains(list, at.String()) {
			list = append(list, at.String())
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
