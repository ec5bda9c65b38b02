package relay_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/linktest"
	"github.com/obelisk-network/obelisk/relay"
)

// punching makes a node that punches holes to loopback addresses.
func punching(t testing.TB, listen ...string) (*relay.Host, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	cfg := relay.Config{Registerer: reg}
	relay.PunchLoopback(&cfg)
	return listening(t, cfg, listen...), reg
}

// via is where pillars are, as DialThrough takes it.
func via(pillars ...*relay.Host) (out []overlay.PillarAddr) {
	for _, p := range pillars {
		for _, a := range p.Addrs() {
			out = append(out, overlay.PillarAddr{Pillar: identity.PillarID(p.Self()), Addr: a})
		}
	}
	return out
}

// reserved connects h with a pillar and reserves there.
func reserved(t testing.TB, h *relay.Host, pillars ...*relay.Host) {
	t.Helper()
	for _, p := range pillars {
		if err := h.Connect(within(t), p.Self(), p.Addrs()); err != nil {
			t.Fatal(err)
		}
		if err := h.Reserve(within(t), p.Self()); err != nil {
			t.Fatal(err)
		}
	}
}

func pathTo(h *relay.Host, p peer.ID) overlay.Path {
	info, _ := h.Info(p)
	return info.Path
}

func TestTraversal(t *testing.T) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			linktest.RunTraversal(t, func(*testing.T) linktest.TraversalRig {
				return linktest.TraversalRig{
					Pillar: func(t *testing.T) linktest.Host { return listening(t, relay.Config{Role: relay.RolePillar}, listen) },
					Node: func(t *testing.T) linktest.Traverser {
						h, _ := punching(t, listen)
						return h
					},
					Reserve: func(t *testing.T, node linktest.Traverser, pillar linktest.Host) {
						if err := node.(*relay.Host).Reserve(within(t), pillar.Self()); err != nil {
							t.Fatal(err)
						}
					},
				}
			})
		})
	}
}

func TestDialThrough(t *testing.T) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			pillar := listening(t, relay.Config{Role: relay.RolePillar}, listen)
			a, areg := punching(t, listen)
			b, breg := punching(t, listen)
			b.Handle(proto, echo)
			reserved(t, b, pillar)
			b.Admit(a.Self(), time.Now().Add(time.Hour))
			if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
				t.Fatal(err)
			}
			ask(t, a, b.Self(), "at once")
			eventually(t, func() bool {
				return pathTo(a, b.Self()) == overlay.PathDirect && pathTo(b, a.Self()) == overlay.PathDirect
			})
			if remote := ask(t, a, b.Self(), "directly"); strings.Contains(remote.String(), "p2p-circuit") {
				t.Errorf("a new stream runs over %s", remote)
			}
			eventually(t, func() bool {
				return relay.Circuits(a, b.Self()) == 0 && relay.Circuits(b, a.Self()) == 0
			})
			if pathTo(a, b.Self()) != overlay.PathDirect {
				t.Error("the direct connection went with the circuit")
			}
			for _, reg := range []*prometheus.Registry{areg, breg} {
				eventually(t, func() bool { return counter(t, reg, "obelisk_relay_punched_total", name) == 1 })
			}
			// What is connected already is not dialled.
			if err := a.DialThrough(within(t), b.Self(), nil); err != nil {
				t.Errorf("connected directly: %v", err)
			}
		})
	}
}

// A circuit is closed under streams that do not end, but late.
func TestCircuitLingers(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, _ := punching(t, tcp)
	var (
		b     *relay.Host
		s     overlay.Stream
		begun time.Time
	)
	for tries := 1; ; tries++ {
		b, _ = punching(t, tcp)
		b.Handle(proto, echo)
		reserved(t, b, pillar)
		b.Admit(a.Self(), time.Now().Add(time.Hour))
		begun = time.Now()
		if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
			t.Fatal(err)
		}
		var err error
		if s, err = a.Open(within(t), b.Self(), proto); err != nil {
			t.Fatal(err)
		}
		defer s.Reset()
		if strings.Contains(s.Remote().String(), "p2p-circuit") {
			break
		}
		// Now and then the upgrade is faster than the first stream.
		if tries == 10 {
			t.Fatal("no stream runs over a circuit")
		}
	}
	say := func() error {
		_ = s.SetReadDeadline(time.Now().Add(patience))
		if _, err := s.Write([]byte("x")); err != nil {
			return err
		}
		_, err := s.Read(make([]byte, 1))
		return err
	}
	eventually(t, func() bool { return pathTo(a, b.Self()) == overlay.PathDirect })
	upgraded := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		if err := say(); err != nil {
			break
		}
		if time.Since(upgraded) > patience {
			t.Fatal("the circuit is never closed")
		}
	}
	// The upgrade came after the begin, however late it was noticed here.
	if d := time.Since(begun); d < 3*time.Second {
		t.Errorf("a stream on the circuit was cut %v after the upgrade", d)
	}
}

// stalling is a circuit whose relay does not take its goodbye.
type stalling struct {
	network.Conn
	begun, end chan struct{}
}

func (s *stalling) GetStreams() []network.Stream { return nil }

func (s *stalling) Close() error {
	s.begun <- struct{}{}
	<-s.end
	return nil
}

// A circuit that cannot be closed is closed by one goroutine, however often it is
// looked at.
func TestCircuitIsClosedOnce(t *testing.T) {
	h := newHost(t, relay.Config{})
	one := &stalling{begun: make(chan struct{}, 64), end: make(chan struct{})}
	two := &stalling{begun: make(chan struct{}, 64), end: make(chan struct{})}
	var r relay.Retirer
	for range 32 {
		r.Retire(h, one)
	}
	r.Retire(h, one, two)
	<-two.begun
	close(one.end)
	close(two.end)
	r.Retire(h, two)
	r.Retire(h, one)                     // a circuit that comes again is another one
	if err := h.Shutdown(); err != nil { // which waits for all that were begun
		t.Fatal(err)
	}
	if n := len(one.begun); n != 2 {
		t.Errorf("closed %d times, want 2", n)
	}
	if n := len(two.begun); n != 0 {
		t.Errorf("closed %d times, want 1", n+1)
	}
}

// The first pillar is down, the second has no reservation, the third works.
func TestDialThroughMovesOn(t *testing.T) {
	down := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	gone := via(down)
	if err := down.Shutdown(); err != nil {
		t.Fatal(err)
	}
	other := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, b := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	b.Handle(proto, echo)
	reserved(t, b, pillar)
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	if err := a.DialThrough(within(t), b.Self(), append(gone, via(other)...)); !errors.Is(err, overlay.ErrUnreachable) || errors.Is(err, overlay.ErrFull) {
		t.Errorf("no pillar has a circuit: %v", err)
	}
	if err := a.DialThrough(within(t), b.Self(), append(append(gone, via(other)...), via(pillar)...)); err != nil {
		t.Fatal(err)
	}
	ask(t, a, b.Self(), "through the third")
	for what, p := range map[string]peer.ID{"itself": a.Self(), "nobody": ""} {
		if err := a.DialThrough(within(t), p, via(pillar)); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := a.DialThrough(within(t), newHost(t, relay.Config{}).Self(), nil); !errors.Is(err, overlay.ErrUnreachable) {
		t.Errorf("no pillar given: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, quic, tcp)
	reg := prometheus.NewRegistry()
	b := listening(t, relay.Config{Registerer: reg}, quic, tcp)
	b.Handle(proto, echo)
	reserved(t, b, pillar)
	refused := func(what string, dial func(h *relay.Host) error) {
		t.Helper()
		before := counter(t, reg, "obelisk_relay_strangers_refused_total")
		h := newHost(t, relay.Config{})
		if err := dial(h); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("%s: %v", what, err)
		}
		if n := relay.LearnedAddrs(h, b.Self()); n != 0 {
			t.Errorf("%s: was told %d addresses", what, n)
		}
		if n := counter(t, reg, "obelisk_relay_strangers_refused_total") - before; n == 0 {
			t.Errorf("%s: not counted", what)
		}
	}
	refused("by a circuit", func(h *relay.Host) error { return h.DialThrough(within(t), b.Self(), via(pillar)) })
	for _, at := range b.Addrs() {
		refused(at.String(), func(h *relay.Host) error {
			return h.Connect(within(t), b.Self(), []multiaddr.Multiaddr{at})
		})
	}
	refused("no longer admitted", func(h *relay.Host) error {
		b.Admit(h.Self(), time.Now().Add(time.Hour))
		b.Admit(h.Self(), time.Now().Add(-time.Second))
		return h.Connect(within(t), b.Self(), b.Addrs())
	})
	admitted, protected := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	b.Admit(admitted.Self(), time.Now().Add(time.Hour))
	b.Protect(protected.Self(), true)
	for _, h := range []*relay.Host{admitted, protected} {
		if err := h.Connect(within(t), b.Self(), b.Addrs()); err != nil {
			t.Error(err)
		}
		ask(t, h, b.Self(), "hello")
	}
	// Who was admitted stays, and may come by a second way.
	b.Admit(admitted.Self(), time.Time{})
	ask(t, admitted, b.Self(), "still here")
	if err := relay.Upgrade(within(t), admitted, b.Self(), b.Addrs()); err != nil {
		t.Error(err)
	}
}

// What a peer tells of itself is not dialled.
func TestAdvertisedAddressesAreNotDialled(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := listening(t, relay.Config{Role: relay.RolePillar, Registerer: reg}, tcp)
	b := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	if err := b.Connect(within(t), a.Self(), a.Addrs()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return relay.LearnedAddrs(a, b.Self()) > 0 })
	if err := b.Close(a.Self()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return pathTo(a, b.Self()) == overlay.PathNone })
	if _, err := a.Open(within(t), b.Self(), proto); !errors.Is(err, overlay.ErrUnreachable) {
		t.Errorf("opened: %v", err)
	}
	if n := counter(t, reg, "obelisk_relay_addresses_not_dialled_total"); n == 0 {
		t.Error("not counted")
	}
	a.Protect(b.Self(), true)
	if err := a.Connect(within(t), b.Self(), nil); err != nil {
		t.Errorf("a pillar's word: %v", err)
	}
}

func TestVicinity(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	n := listening(t, relay.Config{}, "/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0/ws")
	if v := n.Vicinity(); len(v.Public) != 0 {
		t.Errorf("seen by nobody at %v", v.Public)
	}
	if err := n.Connect(within(t), pillar.Self(), pillar.Addrs()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(n.Observed()) == 1 })
	o := n.Observed()[0]
	if o.Peer != pillar.Self() || o.Transport != "tcp" || !o.Listening || !o.Addr.Equal(o.Local) || o.Since.IsZero() {
		t.Errorf("observed %+v", o)
	}
	v := n.Vicinity()
	if len(v.Public) != 1 || v.Public[0].String() != "127.0.0.1" {
		t.Errorf("public %v", v.Public)
	}
	for _, a := range v.Near {
		if text := a.String(); strings.HasPrefix(text, "/ip4/127.") || strings.Contains(text, "/ws") || strings.Contains(text, "p2p") {
			t.Errorf("near: %s", a)
		}
	}
	// What somebody who connects to us says of us does not count.
	liar := newHost(t, relay.Config{})
	n.Admit(liar.Self(), time.Now().Add(time.Hour))
	if err := liar.Connect(within(t), n.Self(), n.Addrs()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return pathTo(n, liar.Self()) != overlay.PathNone })
	if o := n.Observed(); len(o) != 1 {
		t.Errorf("observed %+v", o)
	}
	if err := pillar.Shutdown(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(n.Vicinity().Public) == 0 })
}

func TestDialNear(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, b := listening(t, relay.Config{}), listening(t, relay.Config{})
	b.Handle(proto, echo)
	reserved(t, b, pillar)
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	if err := a.DialNear(within(t), b.Self(), b.Addrs()); !errors.Is(err, overlay.ErrUnreachable) {
		t.Errorf("not connected: %v", err)
	}
	if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
		t.Fatal(err)
	}
	var bad []multiaddr.Multiaddr
	for _, text := range []string{
		"/ip4/127.0.0.1/tcp/4001", "/ip4/1.2.3.4/tcp/4001", "/ip6/fe80::1/tcp/4001", "/ip4/10.254.253.252/tcp/80", "/dns4/localhost/tcp/4001",
		"/ip4/0.0.0.0/tcp/4001", "/ip4/224.0.0.1/udp/4001/quic-v1", "/ip4/10.1.2.3/tcp/4001/ws",
	} {
		bad = append(bad, multiaddr.StringCast(text))
	}
	bad = append(bad, nil)
	for range 2 { // refused before the rate limit
		if err := a.DialNear(within(t), b.Self(), bad); !errors.Is(err, overlay.ErrUnreachable) || strings.Contains(err.Error(), "a moment ago") {
			t.Errorf("bad addresses: %v", err)
		}
	}
	near := b.Vicinity().Near
	if len(near) == 0 {
		t.Skip("this machine has no private address")
	}
	if err := a.DialNear(within(t), b.Self(), near); err != nil {
		t.Fatal(err)
	}
	if pathTo(a, b.Self()) != overlay.PathDirect {
		t.Error("not direct")
	}
	ask(t, a, b.Self(), "next door")
	if err := a.DialNear(within(t), b.Self(), near); err != nil {
		t.Errorf("direct already: %v", err)
	}
}

// A peer may not have us knock at its addresses again and again.
func TestDialNearRate(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, b := listening(t, relay.Config{}), newHost(t, relay.Config{})
	reserved(t, b, pillar)
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
		t.Fatal(err)
	}
	near := a.Vicinity().Near
	if len(near) == 0 {
		t.Skip("this machine has no private address")
	}
	ip, err := near[0].ValueForProtocol(multiaddr.P_IP4)
	if err != nil {
		t.Skip("no IPv4")
	}
	closed := []multiaddr.Multiaddr{multiaddr.StringCast(fmt.Sprintf("/ip4/%s/tcp/1025", ip))}
	begun := time.Now()
	for i, want := range []bool{false, true} {
		err := a.DialNear(within(t), b.Self(), closed)
		if !errors.Is(err, overlay.ErrUnreachable) || strings.Contains(err.Error(), "a moment ago") != want {
			if want && time.Since(begun) > 3*time.Second {
				continue // it was more than a moment
			}
			t.Errorf("%d: %v", i, err)
		}
	}
}

// Both dial each other at the same time.
func TestDialThroughCrossed(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, _ := punching(t, tcp)
	b, _ := punching(t, tcp)
	reserved(t, a, pillar)
	reserved(t, b, pillar)
	var wg sync.WaitGroup
	for x, y := range map[*relay.Host]*relay.Host{a: b, b: a} {
		x.Handle(proto, echo)
		x.Admit(y.Self(), time.Now().Add(time.Hour))
		y.Admit(x.Self(), time.Now().Add(time.Hour))
	}
	for x, y := range map[*relay.Host]*relay.Host{a: b, b: a} {
		wg.Go(func() {
			if err := x.DialThrough(within(t), y.Self(), via(pillar)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	eventually(t, func() bool {
		return pathTo(a, b.Self()) == overlay.PathDirect && relay.Circuits(a, b.Self()) == 0 && relay.Circuits(b, a.Self()) == 0
	})
	ask(t, a, b.Self(), "a to b")
	ask(t, b, a.Self(), "b to a")
}

// A pillar that is connected for a circuit's sake is let go after it, unless it
// is used otherwise.
func TestBorrowedConnections(t *testing.T) {
	serve := func() *relay.Host {
		p := newHost(t, relay.Config{Role: relay.RolePillar}, tcp)
		p.Handle(proto, echo)
		if err := p.Listen(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pillar, used, kept := serve(), serve(), serve()
	const borrow = 200 * time.Millisecond
	cfg := relay.Config{}
	relay.BorrowFor(&cfg, borrow)
	a := newHost(t, cfg)
	for _, p := range []*relay.Host{pillar, used, kept} {
		b := welcoming(t, a)
		reserved(t, b, p)
		if p == kept {
			if err := a.Connect(within(t), p.Self(), p.Addrs()); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.DialThrough(within(t), b.Self(), via(p)); err != nil {
			t.Fatal(err)
		}
		if p == used {
			s, err := a.Open(within(t), p.Self(), proto)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Reset()
			if _, err := s.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		ask(t, a, b.Self(), "hello")
		if p != pillar {
			continue
		}
		// As long as there is the circuit, there is the connection.
		for begun := time.Now(); time.Since(begun) < 3*borrow; {
			ask(t, a, b.Self(), "hello")
		}
		if pathTo(a, p.Self()) == overlay.PathNone {
			t.Error("the pillar's connection went before the circuit")
		}
		if err := a.Close(b.Self()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return pathTo(a, pillar.Self()) == overlay.PathNone })
	for _, p := range []*relay.Host{used, kept} {
		if pathTo(a, p.Self()) == overlay.PathNone {
			t.Errorf("%s is in use, or was not borrowed", p.Self())
		}
	}
}

// A flood of admissions takes the place of those that end first.
func TestAdmissionsAreBounded(t *testing.T) {
	b := listening(t, relay.Config{}, tcp)
	early, late := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	b.Admit(early.Self(), time.Now().Add(30*time.Minute))
	b.Admit(late.Self(), time.Now().Add(2*time.Hour))
	for i := range 4_200 { // 4,096 have room
		b.Admit(peer.ID(fmt.Sprint("peer ", i)), time.Now().Add(time.Hour))
	}
	if err := late.Connect(within(t), b.Self(), b.Addrs()); err != nil {
		t.Errorf("the one that ends last: %v", err)
	}
	if err := early.Connect(within(t), b.Self(), b.Addrs()); !errors.Is(err, overlay.ErrUnreachable) {
		t.Errorf("the one that ends first: %v", err)
	}
}
