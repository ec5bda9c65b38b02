package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// A survey finds out how this host's NAT behaves, by asking pillars
// (survey_serve.go) over QUIC connections from the socket it listens on, and
// which transports reach which pillar (survey_try.go).
//
// How a NAT filters depends on whom this host has called, so that is remembered,
// a pillar that was not called is asked for, and new pillars are called
// from that socket only afterwards, and no more than needed.

const (
	// surveyLines is how many pillars are asked where they see this host.
	surveyLines = 3
	// calledFor is how long a NAT may remember that somebody was called; RFC 4787
	// wants five minutes of it.
	calledFor  = 10 * time.Minute
	maxCalled  = 4096
	lineDial   = 3 * time.Second
	askTimeout = knockTimeout + 4*time.Second
)

// SurveyPillar is a pillar that may be asked.
type SurveyPillar struct {
	ID    peer.ID
	Addrs []multiaddr.Multiaddr // without /p2p
}

// Survey is what a host found out about its way to others.
type Survey struct {
	// Mapping and Filtering are of UDP, at the socket where QUIC listens.
	Mapping, Filtering overlay.NATBehaviour
	// TCPMapping is of TCP from the port that the host listens on.
	TCPMapping overlay.NATBehaviour
	// Reachability is public, private or unknown.
	Reachability string
	Seen         []overlay.SeenAddr
	// Tried are the attempts at the pillars' addresses, in the order of pillars;
	// nil where none was asked for.
	Tried map[peer.ID][]overlay.NetcheckTransport
	// Punched says that a hole was punched in this run.
	Punched bool
}

// line is a QUIC connection from a listening socket to a pillar.
type line struct {
	pillar peer.ID
	open   func(context.Context) (network.MuxedStream, error)
	local  netip.AddrPort
	remote netip.AddrPort
	seen   multiaddr.Multiaddr // nil if the pillar did not say
	close  func()
}

// Survey asks pillars about this host's NAT, and, if transports is set, tries each
// address of each. It takes some seconds, at most about twenty. What cannot be
// found out stays unknown.
func (h *Host) Survey(ctx context.Context, pillars []SurveyPillar, transports bool) Survey {
	pillars = resolved(ctx, pillars)
	s := Survey{Punched: h.hasPunched.Load()}
	var (
		work   sync.WaitGroup
		lines  []*line
		knocks []knocked
		tries  []tried
	)
	if h.listensQUIC() {
		work.Go(func() { lines, knocks = h.askLines(ctx, pillars) })
	}
	if transports {
		work.Go(func() { tries = h.tryAll(ctx, pillars) })
	}
	work.Wait()
	own := ownAddrs()
	var udp, tcp []mapped
	for _, l := range lines {
		if at, ok := quicAddr(l.seen); ok {
			udp = append(udp, mapped{local: l.local, seen: at, by: l.remote})
			s.Seen = append(s.Seen, overlay.SeenAddr{Transport: overlay.TransportQUIC, Addr: l.seen.String(), By: identity.PillarID(l.pillar)})
		}
	}
	s.Mapping, s.Filtering = mappingOf(udp, own), filteringOf(knocks)
	s.Reachability = reachabilityOf(s.Mapping, s.Filtering, knocks)
	// Connections in use keep others from leaving the same port to the same place.
	for _, o := range h.Observed() {
		if o.Transport == overlay.TransportTCP && o.Listening {
			tcp = appendMapped(tcp, o.Local, o.Addr, o.Remote)
		}
	}
	if transports {
		s.Tried = make(map[peer.ID][]overlay.NetcheckTransport, len(pillars))
	}
	for _, x := range tries {
		s.Tried[x.pillar] = append(s.Tried[x.pillar], x.NetcheckTransport)
		// Over QUIC it came from a socket that nobody has to know.
		if x.seen == nil || x.Transport == overlay.TransportQUIC {
			continue
		}
		s.Seen = append(s.Seen, overlay.SeenAddr{Transport: x.Transport, Addr: x.seen.String(), By: identity.PillarID(x.pillar)})
		if x.Transport == overlay.TransportTCP && h.listensAt(x.local) {
			tcp = appendMapped(tcp, x.local, x.seen, x.remote)
		}
	}
	s.TCPMapping = mappingOf(telling(tcp, mappedSeen), own)
	return s
}

// askLines asks pillars about the socket that QUIC listens on.
func (h *Host) askLines(ctx context.Context, pillars []SurveyPillar) ([]*line, []knocked) {
	lines := h.dialLines(ctx, h.connectedAt(), nil, surveyLines)
	defer func() {
		for _, l := range lines {
			l.close()
		}
	}()
	add := func(pillars []SurveyPillar, n int) {
		more := h.dialLines(ctx, pillars, lines, n)
		h.askSeen(ctx, more)
		lines = append(lines, more...)
	}
	if h.askSeen(ctx, lines); len(lines) == 0 {
		if add(pillars, 2); len(lines) == 0 {
			return nil, nil
		}
	}
	// Pillars in the same private network do not know the NAT to the internet.
	if best := telling(lines, lineSeen); len(best) > 0 && !isPublic(lineSeen(best[0])) {
		add(onInternet(pillars), 2)
	}
	best := telling(lines, lineSeen)
	knocks := h.haveKnocked(ctx, best, pillars)
	add(pillars, 2-addrsOf(best))
	return telling(lines, lineSeen), knocks
}

// onInternet are pillars with only their public addresses.
func onInternet(pillars []SurveyPillar) (out []SurveyPillar) {
	for _, p := range pillars {
		p.Addrs = slices.DeleteFunc(slices.Clone(p.Addrs), func(a multiaddr.Multiaddr) bool { return !manet.IsPublicAddr(a) })
		out = append(out, p)
	}
	return out
}

// telling are those that say most: where this host is seen on the internet, if it
// is anywhere, rather than in its private network, and of IPv4, where NATs are,
// rather than IPv6.
func telling[T any](all []T, seen func(T) netip.Addr) (out []T) {
	worth := func(x T) (w int) {
		ip := seen(x)
		if isPublic(ip) {
			w += 2
		}
		if ip.Is4() {
			w++
		}
		return w
	}
	best := 0
	for _, x := range all {
		best = max(best, worth(x))
	}
	for _, x := range all {
		if seen(x).IsValid() && worth(x) == best {
			out = append(out, x)
		}
	}
	return out
}

// lineSeen is invalid where the pillar did not say.
func lineSeen(l *line) netip.Addr {
	at, ok := quicAddr(l.seen)
	if !ok {
		return netip.Addr{}
	}
	return at.Addr()
}

func mappedSeen(m mapped) netip.Addr { return m.seen.Addr() }

func isPublic(ip netip.Addr) bool {
	a, err := manet.FromIP(ip.AsSlice())
	return err == nil && manet.IsPublicAddr(a)
}

func appendMapped(all []mapped, local, seen, by multiaddr.Multiaddr) []mapped {
	from, ok1 := tcpAddr(local)
	at, ok2 := tcpAddr(seen)
	to, ok3 := tcpAddr(by)
	if !ok1 || !ok2 || !ok3 {
		return all
	}
	return append(all, mapped{local: from, seen: at, by: to})
}

// listensQUIC reports whether there is a socket whose NAT can be asked about.
func (h *Host) listensQUIC() bool {
	return slices.ContainsFunc(h.swarm.ListenAddresses(), func(a multiaddr.Multiaddr) bool { return overlay.TransportOf(a) == overlay.TransportQUIC })
}

// connectedAt are pillars and the QUIC addresses where they are connected from a
// listening socket: one each, at most surveyLines.
func (h *Host) connectedAt() []SurveyPillar {
	var out []SurveyPillar
	for _, c := range h.swarm.Conns() {
		at, ok := quicAddr(c.RemoteMultiaddr())
		if !ok || c.IsClosed() || !h.gate.trusts(c.RemotePeer()) || !h.listensAt(c.LocalMultiaddr()) || len(out) == surveyLines {
			continue
		}
		if !slices.ContainsFunc(out, func(p SurveyPillar) bool { o, _ := quicAddr(p.Addrs[0]); return o == at }) {
			out = append(out, SurveyPillar{ID: c.RemotePeer(), Addrs: []multiaddr.Multiaddr{c.RemoteMultiaddr()}})
		}
	}
	return out
}

// dialLines makes up to n connections, to pillars at other IP addresses than have
// is at. Connections in use would not do: they live on when a NAT gets another
// address, and then their other ends still say the old one.
func (h *Host) dialLines(ctx context.Context, pillars []SurveyPillar, have []*line, n int) []*line {
	ctx, cancel := context.WithTimeout(ctx, lineDial)
	defer cancel()
	var (
		work sync.WaitGroup
		mu   sync.Mutex
		out  []*line // guarded by mu
		at   = make(map[netip.Addr]bool)
	)
	for _, l := range have {
		at[l.remote.Addr()] = true
	}
	for _, p := range pillars {
		for _, a := range p.Addrs {
			remote, ok := quicAddr(a)
			if !ok || at[remote.Addr()] || n <= 0 {
				continue
			}
			at[remote.Addr()] = true
			n--
			h.called.note(remote.Addr())
			work.Go(func() {
				l, err := h.dialLine(ctx, p.ID, a)
				if err != nil {
					h.log.Debug("not asked about the NAT", "pillar", p.ID, "err", oneLine(err))
					return
				}
				mu.Lock()
				defer mu.Unlock()
				out = append(out, l)
			})
			break
		}
	}
	work.Wait()
	return out
}

func (h *Host) dialLine(ctx context.Context, p peer.ID, a multiaddr.Multiaddr) (*line, error) {
	t := h.swarm.TransportForDialing(a)
	if t == nil {
		return nil, errNoTransport
	}
	c, err := t.Dial(ctx, a, p)
	if err != nil {
		return nil, err
	}
	local, ok := udpAddr(c.LocalMultiaddr())
	if !ok || !h.listensAt(c.LocalMultiaddr()) {
		_ = c.Close()
		return nil, errNotListening
	}
	remote, _ := quicAddr(a)
	return &line{pillar: p, local: local, remote: remote, close: func() { _ = c.Close() },
		open: func(ctx context.Context) (network.MuxedStream, error) { return c.OpenStream(ctx) }}, nil
}

var errNotListening = errors.New("it left from a port that is not listened on")

// addrsOf counts the IP addresses at the other ends.
func addrsOf(lines []*line) int {
	var at []netip.Addr
	for _, l := range lines {
		if !slices.Contains(at, l.remote.Addr()) {
			at = append(at, l.remote.Addr())
		}
	}
	return len(at)
}

func (h *Host) askSeen(ctx context.Context, lines []*line) {
	var work sync.WaitGroup
	for _, l := range lines {
		work.Go(func() {
			if a, _, err := ask(ctx, l.open, &overlay.Probe{What: overlay.ProbeSeen}); err == nil && a.Err == nil && a.Addr != nil {
				l.seen = a.Addr
			}
		})
	}
	work.Wait()
}

// haveKnocked has this host knocked at, through the first pillar that agrees.
func (h *Host) haveKnocked(ctx context.Context, lines []*line, pillars []SurveyPillar) (out []knocked) {
	except := []identity.PillarID{}
	for _, p := range pillars {
		if called, known := h.hasCalled(p); (called || !known) && len(except) < overlay.MaxExcept {
			except = append(except, identity.PillarID(p.ID))
		}
	}
	for _, l := range lines {
		if l.seen == nil {
			continue
		}
		var work sync.WaitGroup
		var reach, other *overlay.Probed
		work.Go(func() { reach, _, _ = ask(ctx, l.open, &overlay.Probe{What: overlay.ProbeReach}) })
		work.Go(func() { other, _, _ = ask(ctx, l.open, &overlay.Probe{What: overlay.ProbeOther, Except: except}) })
		work.Wait()
		if reach != nil && reach.Outcome != overlay.ProbeUntried {
			out = append(out, knocked{called: true, reached: reach.Outcome == overlay.ProbeReached})
		}
		if other != nil && other.Outcome != overlay.ProbeUntried {
			i := slices.IndexFunc(pillars, func(p SurveyPillar) bool { return identity.PillarID(p.ID) == other.By })
			if i >= 0 {
				if called, known := h.hasCalled(pillars[i]); known {
					out = append(out, knocked{called: called, reached: other.Outcome == overlay.ProbeReached})
				}
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// ask asks one question on a stream of its own, and measures how long the answer
// took, without the agreement on the protocol. A peer that does not speak it has
// taken a round trip to say so.
func ask(ctx context.Context, open func(context.Context) (network.MuxedStream, error), q *overlay.Probe) (*overlay.Probed, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := open(ctx)
	if err != nil {
		return nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	begin := time.Now()
	err = multistream.SelectProtoOrFail(protocol.ID(overlay.ProtoProbe), s)
	stop()
	if err != nil {
		_ = s.Reset()
		return nil, time.Since(begin), err
	}
	begin = time.Now()
	a, err := exchangeProbe(ctx, s, q)
	return a, time.Since(begin), err
}

// called are the IP addresses that UDP packets were sent to lately.
type called struct {
	mu   sync.Mutex
	last map[netip.Addr]time.Time // guarded by mu
}

func (c *called) note(ip netip.Addr) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		c.last = make(map[netip.Addr]time.Time)
	}
	if _, ok := c.last[ip]; !ok && len(c.last) >= maxCalled {
		for o, at := range c.last {
			if now.Sub(at) > calledFor {
				delete(c.last, o)
			}
		}
	}
	if len(c.last) < maxCalled {
		c.last[ip] = now
	}
}

// noteAddr notes a QUIC address.
func (c *called) noteAddr(a multiaddr.Multiaddr) {
	if overlay.TransportOf(a) != overlay.TransportQUIC {
		return
	}
	if ip, ok := ipOf(a); ok {
		c.note(ip)
	}
}

func (c *called) has(ip netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.last[ip]
	return ok && time.Since(at) <= calledFor || !ok && len(c.last) >= maxCalled
}

// hasCalled reports whether the NAT may know one of a pillar's IP addresses;
// known is false where the pillar has none.
func (h *Host) hasCalled(p SurveyPillar) (is, known bool) {
	for _, a := range p.Addrs {
		ip, ok := ipOf(a)
		if !ok || isCircuit(a) {
			continue
		}
		known = true
		if h.called.has(ip) {
			return true, true
		}
	}
	for _, c := range h.swarm.Conns() { // lines older than calledFor
		ip, ok := ipOf(c.RemoteMultiaddr())
		if !ok || overlay.TransportOf(c.RemoteMultiaddr()) != overlay.TransportQUIC {
			continue
		}
		if slices.ContainsFunc(p.Addrs, func(a multiaddr.Multiaddr) bool { o, ok := ipOf(a); return ok && o == ip && !isCircuit(a) }) {
			return true, true
		}
	}
	return false, known
}

// ownAddrs are the addresses of this machine.
func ownAddrs() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
