package relay_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/marcopolo/simnet"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// internet carries the UDP packets of hosts in this process, and translates
// those of hosts behind a NAT. There is no delay and no loss, and only QUIC:
// testnet/natlab has the rest, with the kernel's NATs.
type internet struct {
	mu    sync.Mutex
	hosts map[netip.AddrPort]*simnet.SimConn // guarded by mu
	nats  map[netip.Addr]*nat                // guarded by mu; by the private address behind each
}

// nat is a NAT with one host or more behind it. It filters by address and port,
// and there is no hairpin.
type nat struct {
	public    netip.Addr
	symmetric bool // a new port for every destination; else one port for all
	flows     map[flow]*mapping
	last      uint16 // port given last
}

type flow struct{ from, to netip.AddrPort } // to is zero where mapping does not depend on it

type mapping struct {
	inside, outside netip.AddrPort
	called          map[netip.AddrPort]bool
}

func newInternet() *internet {
	return &internet{hosts: make(map[netip.AddrPort]*simnet.SimConn), nats: make(map[netip.Addr]*nat)}
}

// RecvPacket implements simnet.PacketReceiver: it takes what a host sends.
func (n *internet) RecvPacket(p *simnet.Packet) {
	if to := n.route(p); to != nil {
		to.RecvPacket(p)
	}
}

// route translates a packet and returns whose it is, nil if nobody's.
func (n *internet) route(p *simnet.Packet) *simnet.SimConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	from, to := addrPort(p.From), addrPort(p.To)
	if g := n.nats[from.Addr()]; g != nil && n.nats[to.Addr()] == g {
		return n.hosts[to] // next door
	} else if g != nil {
		if g.public == to.Addr() {
			return nil // no hairpin
		}
		from = g.leave(from, to)
		p.From = net.UDPAddrFromAddrPort(from)
	}
	for _, g := range n.nats {
		if g.public != to.Addr() {
			continue
		}
		inside, ok := g.enter(from, to)
		if !ok {
			return nil
		}
		return n.hosts[inside]
	}
	if to.Addr().IsPrivate() {
		return nil // no way there from another network
	}
	return n.hosts[to]
}

// leave maps a packet on its way out.
func (g *nat) leave(from, to netip.AddrPort) netip.AddrPort {
	f := flow{from: from}
	if g.symmetric {
		f.to = to
	}
	m := g.flows[f]
	if m == nil {
		g.last++
		m = &mapping{inside: from, outside: netip.AddrPortFrom(g.public, g.last), called: make(map[netip.AddrPort]bool)}
		g.flows[f] = m
	}
	m.called[to] = true
	return m.outside
}

// enter lets in what answers.
func (g *nat) enter(from, to netip.AddrPort) (netip.AddrPort, bool) {
	for _, m := range g.flows {
		if m.outside == to && m.called[from] {
			return m.inside, true
		}
	}
	return netip.AddrPort{}, false
}

// move gives a NAT another public address; its mappings end.
func (n *internet) move(g *nat, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g.public = netip.MustParseAddr(to)
	clear(g.flows)
}

func addrPort(a net.Addr) netip.AddrPort {
	at := a.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// source is the address that a host sends from.
type source struct{ ip net.IP }

func (s source) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) { return s.ip, nil }

// host makes a host at an address of the internet, or of the network behind a
// NAT of it.
func (n *internet) host(t *testing.T, cfg relay.Config, at string, behind *nat) *relay.Host {
	t.Helper()
	addr := netip.MustParseAddr(at)
	if behind != nil {
		if behind.flows == nil {
			behind.flows, behind.last = make(map[flow]*mapping), 20_000
		}
		n.mu.Lock()
		n.nats[addr] = behind
		n.mu.Unlock()
	}
	// The manager of QUIC's sockets is libp2p's own, on sockets of ours.
	manager := func(l fx.Lifecycle, reset quicgo.StatelessResetKey, token quicgo.TokenGeneratorKey, opts ...quicreuse.Option) (*quicreuse.ConnManager, error) {
		m, err := quicreuse.NewConnManager(reset, token, opts...)
		if err == nil {
			l.Append(fx.StopHook(m.Close)) // libp2p closes only those that it made
		}
		return m, err
	}
	relay.Simulate(&cfg, libp2p.QUICReuse(manager,
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return source{addr.AsSlice()}, nil }),
		quicreuse.OverrideListenUDP(func(_ string, a *net.UDPAddr) (net.PacketConn, error) {
			c := simnet.NewSimConn(a)
			c.SetUpPacketReceiver(n)
			n.mu.Lock()
			defer n.mu.Unlock()
			n.hosts[addrPort(a)] = c
			return c, nil
		})))
	return listening(t, cfg, "/ip4/"+at+"/udp/4001/quic-v1")
}

// seenAt waits until h knows that it is seen at an address, and at no other: it
// learns so from identify, in the background.
func seenAt(t *testing.T, h *relay.Host, want netip.Addr) {
	t.Helper()
	var got []netip.Addr
	eventually(t, func() bool { got = h.Vicinity().Public; return len(got) == 1 && got[0] == want })
}

// Two nodes behind NATs, and a public pillar. Where the NATs allow it, they
// connect directly; where not, the circuit stays, and works while they try.
func TestNATs(t *testing.T) {
	for name, tt := range map[string]struct {
		symmetricA, symmetricB bool
		want                   overlay.Path
	}{
		"port-restricted cones":               {false, false, overlay.PathDirect},
		"symmetric NATs":                      {true, true, overlay.PathRelayed},
		"a symmetric NAT dials a cone":        {true, false, overlay.PathRelayed},
		"a cone dials behind a symmetric NAT": {false, true, overlay.PathRelayed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInternet()
			natA := &nat{public: netip.MustParseAddr("45.10.100.2"), symmetric: tt.symmetricA}
			natB := &nat{public: netip.MustParseAddr("45.10.101.2"), symmetric: tt.symmetricB}
			pillar := n.host(t, relay.Config{Role: relay.RolePillar}, "45.10.1.2", nil)
			reg := prometheus.NewRegistry()
			a := n.host(t, relay.Config{}, "10.0.1.2", natA)
			b := n.host(t, relay.Config{Registerer: reg}, "10.0.2.2", natB)
			a.Handle(proto, echo)
			b.Handle(proto, echo)
			reserved(t, a, pillar)
			reserved(t, b, pillar)
			b.Admit(a.Self(), time.Now().Add(time.Hour))
			if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
				t.Fatal(err)
			}
			ask(t, a, b.Self(), "at once")
			seenAt(t, a, natA.public)
			if tt.want == overlay.PathDirect {
				eventually(t, func() bool {
					return pathTo(a, b.Self()) == overlay.PathDirect && pathTo(b, a.Self()) == overlay.PathDirect
				})
			} else {
				// b was dialled, so b punches.
				eventually(t, func() bool { return counter(t, reg, "obelisk_relay_punches_total", "failed") > 0 })
			}
			remote := ask(t, a, b.Self(), "later").String()
			if path := pathTo(a, b.Self()); path != tt.want || strings.Contains(remote, "p2p-circuit") != (tt.want == overlay.PathRelayed) {
				t.Errorf("the path is %s, a new stream goes to %s; want %s", path, remote, tt.want)
			}
			for _, h := range []*relay.Host{a, b} {
				if got, want := relay.HasPunched(h), tt.want == overlay.PathDirect; got != want {
					t.Errorf("it says that a hole was punched: %t, want %t", got, want)
				}
			}
		})
	}
}

// TestNextDoor: a connection inside a network, that comes about while a hole is
// being punched, is no hole.
func TestNextDoor(t *testing.T) {
	t.Parallel()
	n := newInternet()
	home := &nat{public: netip.MustParseAddr("45.10.100.2")}
	pillar := n.host(t, relay.Config{Role: relay.RolePillar}, "45.10.1.2", nil)
	a, b := n.host(t, relay.Config{}, "10.0.1.2", home), n.host(t, relay.Config{}, "10.0.1.3", home)
	a.Handle(proto, echo)
	b.Handle(proto, echo)
	reserved(t, a, pillar)
	reserved(t, b, pillar)
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return relay.Punching(a, b.Self()) && relay.Punching(b, a.Self()) })
	if err := relay.Upgrade(within(t), a, b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return !relay.Punching(a, b.Self()) && !relay.Punching(b, a.Self()) })
	if pathTo(a, b.Self()) != overlay.PathDirect || relay.HasPunched(a) || relay.HasPunched(b) {
		t.Errorf("the path is %q, holes are said to have been punched: %t, %t; want a direct one and none",
			pathTo(a, b.Self()), relay.HasPunched(a), relay.HasPunched(b))
	}
}

// A NAT gets another public address. The connections with the pillar follow, so
// it has told the old address once and for all; a hole is punched nevertheless.
func TestMovedNAT(t *testing.T) {
	for _, who := range []string{"dials", "is dialled"} {
		t.Run("who moved "+who, func(t *testing.T) {
			t.Parallel()
			n := newInternet()
			natA, natB := &nat{public: netip.MustParseAddr("45.10.100.2")}, &nat{public: netip.MustParseAddr("45.10.101.2")}
			pillar := n.host(t, relay.Config{Role: relay.RolePillar}, "45.10.1.2", nil)
			a, b := n.host(t, relay.Config{}, "10.0.1.2", natA), n.host(t, relay.Config{}, "10.0.2.2", natB)
			for _, h := range []*relay.Host{a, b, pillar} {
				h.Handle(proto, echo)
			}
			reserved(t, a, pillar)
			reserved(t, b, pillar)
			n.move(natA, "45.10.100.3")
			ask(t, a, pillar.Self(), "from the new address") // the pillar answers there from now on
			from, to := a, b
			if who != "dials" {
				from, to = b, a
			}
			to.Admit(from.Self(), time.Now().Add(time.Hour))
			if err := from.DialThrough(within(t), to.Self(), via(pillar)); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool {
				return pathTo(a, b.Self()) == overlay.PathDirect && pathTo(b, a.Self()) == overlay.PathDirect
			})
			seenAt(t, a, netip.MustParseAddr("45.10.100.3"))
		})
	}
}
