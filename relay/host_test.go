package relay_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/linktest"
	"github.com/obelisk-network/obelisk/relay"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const (
	proto = overlay.Protocol("/relaytest/1")
	quic  = "/ip4/127.0.0.1/udp/0/quic-v1"
	tcp   = "/ip4/127.0.0.1/tcp/0"
	ws    = "/ip4/127.0.0.1/tcp/0/ws"
)

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	k, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newHost makes a host that does not listen yet.
func newHost(t testing.TB, cfg relay.Config, listen ...string) *relay.Host {
	t.Helper()
	if cfg.Key == nil {
		cfg.Key = newKey(t)
	}
	if cfg.Role == 0 {
		cfg.Role = relay.RoleNode
	}
	var err error
	if cfg.Listen, err = relay.ParseAddrs(listen); err != nil {
		t.Fatal(err)
	}
	h, err := relay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Shutdown(); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return h
}

// listening makes a host that accepts connections.
func listening(t testing.TB, cfg relay.Config, listen ...string) *relay.Host {
	t.Helper()
	h := newHost(t, cfg, listen...)
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	return h
}

// patience is what anything here may take, on however slow a machine: waits end
// as soon as what they are for has happened.
const patience = 2 * time.Minute

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// place is a TCP address to listen at more than once. Its port is none that
// systems hand out by themselves, so nobody else gets it in between.
func place(t testing.TB) string {
	t.Helper()
	const first, last = 10_000, 32_000
	for range 200 {
		port := first + mrand.IntN(last-first)
		l, err := net.Listen("tcp4", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint("/ip4/127.0.0.1/tcp/", port)
	}
	t.Fatal("no port is free")
	return ""
}

func echo(s overlay.Stream) {
	if _, err := io.Copy(s, s); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// ask sends text to p's echo and returns the stream's remote address.
func ask(t testing.TB, h *relay.Host, p peer.ID, text string) multiaddr.Multiaddr {
	t.Helper()
	s, err := h.Open(within(t), p, proto)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != text {
		t.Fatalf("echo %q, %v", got, err)
	}
	return s.Remote()
}

func TestContract(t *testing.T) {
	for name, listen := range map[string][]string{"quic": {quic}, "tcp": {tcp}, "websocket": {ws}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			linktest.Run(t, func(t *testing.T) linktest.Host {
				return listening(t, relay.Config{Role: relay.RolePillar}, listen...)
			})
		})
	}
}

func TestConfig(t *testing.T) {
	key := newKey(t)
	addr := multiaddr.StringCast
	for name, cfg := range map[string]relay.Config{
		"no key":            {Role: relay.RoleNode},
		"no role":           {Key: key},
		"unknown role":      {Key: key, Role: 9},
		"home node":         {Key: key, Role: relay.RoleNode, Home: true},
		"negative peers":    {Key: key, Role: relay.RolePillar, MaxPeers: -1},
		"negative per IP":   {Key: key, Role: relay.RolePillar, PerIP: -1},
		"nil address":       {Key: key, Role: relay.RoleNode, Listen: []multiaddr.Multiaddr{nil}},
		"circuit":           {Key: key, Role: relay.RoleNode, Listen: []multiaddr.Multiaddr{addr("/p2p-circuit")}},
		"announced with ID": {Key: key, Role: relay.RoleNode, Announce: []multiaddr.Multiaddr{addr("/ip4/1.2.3.4/tcp/1/p2p/12D3KooWQCkBm1BYtkHpocxCwMgR8yjitEeHGx8spzcDLGt2gkBm")}},
	} {
		if h, err := relay.New(cfg); !errors.Is(err, relay.ErrConfig) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = h.Shutdown()
			}
		}
	}
}

func TestParseAddrs(t *testing.T) {
	for _, good := range []string{quic, tcp, ws, "/ip6/::/udp/4001/quic-v1", "/dns4/pillar.example.org/tcp/443/wss", "/dns/pillar.example.org/tcp/443/tls/ws"} {
		if _, err := relay.ParseAddrs([]string{good}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "127.0.0.1:4001", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/udp/1/quic", "/ip4/300.0.0.1/tcp/1", "/tcp/1", "/ip4/127.0.0.1/tcp/70000", "/unix/x", "/ip4/127.0.0.1/udp/1/webrtc-direct"} {
		if _, err := relay.ParseAddrs([]string{bad}); !errors.Is(err, relay.ErrConfig) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAddrs(t *testing.T) {
	h := newHost(t, relay.Config{}, quic, tcp)
	if a := h.Addrs(); len(a) != 0 {
		t.Errorf("before Listen: %v", a)
	}
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	addrs := h.Addrs()
	if len(addrs) != 2 {
		t.Fatalf("two addresses wanted: %v", addrs)
	}
	for _, a := range addrs {
		for _, code := range []int{multiaddr.P_TCP, multiaddr.P_UDP} {
			if port, err := a.ValueForProtocol(code); err == nil && port == "0" {
				t.Errorf("%s: port 0", a)
			}
		}
	}
	public := multiaddr.StringCast("/dns4/pillar.example.org/tcp/443/wss")
	h = listening(t, relay.Config{Role: relay.RolePillar, Announce: []multiaddr.Multiaddr{public}}, tcp)
	if a := h.Addrs(); len(a) != 1 || !a[0].Equal(public) {
		t.Errorf("announced %v", a)
	}
	// The port of h is taken.
	taken, err := relay.ParseAddrs([]string{addrs[1].String()})
	if err != nil {
		t.Fatal(err)
	}
	second, err := relay.New(relay.Config{Key: newKey(t), Role: relay.RoleNode, Listen: taken})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Shutdown()
	if err := second.Listen(); err == nil {
		t.Errorf("listened twice on %s", taken)
	}
}

func TestDefaultListen(t *testing.T) {
	h := listening(t, relay.Config{Role: relay.RoleNode})
	var tcp, udp bool
	for _, a := range h.Addrs() {
		_, noTCP := a.ValueForProtocol(multiaddr.P_TCP)
		_, noUDP := a.ValueForProtocol(multiaddr.P_UDP)
		tcp, udp = tcp || noTCP == nil, udp || noUDP == nil
	}
	if !tcp || !udp {
		t.Errorf("a node listens on %v", h.Addrs())
	}
}

// One port for TCP and WebSocket.
func TestSharedPort(t *testing.T) {
	free := place(t)
	h := newHost(t, relay.Config{Role: relay.RolePillar}, free, free+"/ws")
	h.Handle(proto, echo)
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	for _, a := range h.Addrs() {
		c := newHost(t, relay.Config{}, tcp)
		if err := c.Connect(within(t), h.Self(), []multiaddr.Multiaddr{a}); err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		ask(t, c, h.Self(), a.String())
	}
}

// TestWhyNotReached: what came of each address, whatever noticed it, is told apart.
func TestWhyNotReached(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0") // takes packets and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// A connection is made, and nothing is said over it; one that is ended.
	mute, rude := accepting(t, func(net.Conn) {}), accepting(t, func(c net.Conn) { c.Close() })
	other := listening(t, relay.Config{Role: relay.RolePillar}, tcp, quic)
	down := newHost(t, relay.Config{})
	closed := place(t)
	web, web2 := httptest.NewServer(http.NotFoundHandler()), httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	defer web2.Close()
	late := map[string]overlay.Fault{
		fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", silent.LocalAddr().(*net.UDPAddr).Port): overlay.FaultTimeout,
		fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", mute):                                           overlay.FaultTimeout,
	}
	soon := map[string]overlay.Fault{
		closed:           overlay.FaultRefused,
		place(t) + "/ws": overlay.FaultRefused,
		fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", rude):                   overlay.FaultTurnedAway,
		fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port(web.Listener)):     overlay.FaultNoPillar,
		fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/ws", port(web2.Listener)): overlay.FaultNoPillar,
		"/dns4/pillar.example/tcp/4001":                              overlay.FaultNoName,
		"/ip4/127.0.0.1/udp/9/webrtc-direct":                         overlay.FaultUnsupported,
		closed + "/p2p/" + other.Self().String() + "/p2p-circuit":    overlay.FaultNoRelay,
		other.Addrs()[0].String():                                    overlay.FaultWrongPeer,
		other.Addrs()[1].String():                                    overlay.FaultWrongPeer,
	}
	// Who answers has time for it, on however slow a machine.
	try := func(timeout time.Duration, want map[string]overlay.Fault) (c *relay.Host, addrs []multiaddr.Multiaddr) {
		cfg := relay.Config{}
		relay.Simulate(&cfg, libp2p.WithDialTimeout(timeout), libp2p.MultiaddrResolver(noNames{}))
		c = newHost(t, cfg, tcp)
		for a := range want {
			addrs = append(addrs, multiaddr.StringCast(a))
		}
		got := whyNot(t, c, down.Self(), addrs)
		for a, fault := range want {
			if got[a] != fault {
				t.Errorf("%s: %q, want %q", a, got[a], fault)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d attempts at %d addresses", len(got), len(want))
		}
		return c, addrs
	}
	try(patience, soon)
	c, addrs := try(time.Second, late)
	// The caller's patience ends before any address's.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err = c.Connect(ctx, down.Self(), addrs)
	var de *overlay.DialError
	if !errors.As(err, &de) || len(de.Attempts) != 0 || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, overlay.ErrUnreachable) {
		t.Errorf("cut short: %v", err)
	}
}

// TestFaultOf: what the kernel says of other networks than loopback.
func TestFaultOf(t *testing.T) {
	at := multiaddr.StringCast("/ip4/203.0.113.7/tcp/4001")
	for errno, want := range map[syscall.Errno]overlay.Fault{
		syscall.ENETUNREACH: overlay.FaultNoRoute, syscall.EHOSTUNREACH: overlay.FaultNoRoute, syscall.EACCES: overlay.FaultNoRoute,
		syscall.ETIMEDOUT: overlay.FaultTimeout, syscall.ECONNREFUSED: overlay.FaultRefused, syscall.EPIPE: overlay.FaultHungUp, syscall.EMFILE: overlay.FaultFailed,
	} {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
		if got := relay.FaultOf(at, err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// whyNot is what came of each address.
func whyNot(t *testing.T, h *relay.Host, p peer.ID, addrs []multiaddr.Multiaddr) map[string]overlay.Fault {
	t.Helper()
	var de *overlay.DialError
	if err := h.Connect(within(t), p, addrs); !errors.As(err, &de) {
		t.Fatalf("%v is no DialError", err)
	}
	got := make(map[string]overlay.Fault)
	for _, a := range de.Attempts {
		got[a.Addr.String()] = a.Fault
		t.Logf("%s: %s: %s", a.Addr, a.Fault, a.Detail)
	}
	return got
}

// accepting is a port where do is called for every connection, which ends with the
// test.
func accepting(t *testing.T, do func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			held = append(held, c)
			do(c)
		}
		for _, c := range held {
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return port(l)
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// noNames is a DNS that knows none.
type noNames struct{}

func (noNames) ResolveDNSAddr(context.Context, peer.ID, multiaddr.Multiaddr, int, int) ([]multiaddr.Multiaddr, error) {
	return nil, errors.New("no such host")
}

func (noNames) ResolveDNSComponent(context.Context, multiaddr.Multiaddr, int) ([]multiaddr.Multiaddr, error) {
	return nil, errors.New("no such host")
}

// A dial that failed must not keep the next from being tried.
func TestConnectAgainAtOnce(t *testing.T) {
	key := newKey(t)
	p := listening(t, relay.Config{Role: relay.RolePillar, Key: key}, place(t))
	addrs := p.Addrs()
	if err := p.Shutdown(); err != nil {
		t.Fatal(err)
	}
	c := newHost(t, relay.Config{}, tcp)
	if err := c.Connect(within(t), p.Self(), addrs); !errors.Is(err, overlay.ErrUnreachable) {
		t.Fatalf("connect to a pillar that is down: %v", err)
	}
	again := listening(t, relay.Config{Role: relay.RolePillar, Key: key}, addrs[0].String())
	if err := c.Connect(within(t), again.Self(), addrs); err != nil {
		t.Fatalf("connect to the pillar once it is up: %v", err)
	}
}

func TestManyNodesFromLoopback(t *testing.T) {
	p := newHost(t, relay.Config{Role: relay.RolePillar}, quic, tcp)
	p.Handle(proto, echo)
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		listen := []string{quic, tcp}[i%2]
		n := newHost(t, relay.Config{}, listen)
		wg.Go(func() {
			if err := n.Connect(within(t), p.Self(), p.Addrs()); err != nil {
				t.Errorf("node %d: %v", i, err)
				return
			}
			if err := n.Reserve(within(t), p.Self()); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := len(p.Connected()); n != 40 {
		t.Errorf("%d nodes connected, want 40", n)
	}
}

func TestPeerLimit(t *testing.T) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			p := listening(t, relay.Config{Role: relay.RolePillar, MaxPeers: 1}, listen)
			// Room for 2*MaxPeers+32 connections before it refuses.
			var full int
			for range 40 {
				n := newHost(t, relay.Config{}, listen)
				if err := n.Connect(within(t), p.Self(), p.Addrs()); err != nil {
					if !errors.Is(err, overlay.ErrFull) || !errors.Is(err, overlay.ErrUnreachable) {
						t.Fatalf("refused with %v", err)
					}
					full++
					break
				}
			}
			if full == 0 {
				t.Fatal("nobody was refused")
			}
		})
	}
}

func TestRTT(t *testing.T) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			p := listening(t, relay.Config{Role: relay.RolePillar}, listen)
			c := newHost(t, relay.Config{}, listen)
			if err := c.Connect(within(t), p.Self(), p.Addrs()); err != nil {
				t.Fatal(err)
			}
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
				if info, _ := c.Info(p.Self()); info.RTT > 0 {
					if info.RTT > patience {
						t.Errorf("round trip of %v on loopback", info.RTT)
					}
					return
				}
			}
			t.Error("no round-trip time")
		})
	}
}

func TestProtect(t *testing.T) {
	p := newHost(t, relay.Config{Role: relay.RolePillar}, tcp)
	p.Handle(proto, echo)
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	c := newHost(t, relay.Config{Role: relay.RolePillar})
	if err := c.Connect(within(t), p.Self(), p.Addrs()); err != nil {
		t.Fatal(err)
	}
	const many = 400
	// opened counts the streams, up to many, that work at the same time.
	opened := func() (n int) {
		for ; n < many; n++ {
			s, err := c.Open(within(t), p.Self(), proto)
			if err != nil {
				return n
			}
			defer s.Reset()
			_ = s.SetReadDeadline(time.Now().Add(patience))
			if _, err := s.Write([]byte("x")); err != nil {
				return n
			}
			if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
				return n
			}
		}
		return n
	}
	if n := opened(); n < 100 || n == many {
		t.Errorf("%d streams of an ordinary peer", n)
	}
	for _, on := range []bool{true, false, true} {
		c.Protect(p.Self(), on)
		p.Protect(c.Self(), on)
	}
	if n := opened(); n < many {
		t.Errorf("%d streams of a protected peer, want %d", n, many)
	}
}

// Two hosts of one process share a registerer.
func TestSharedMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := newHost(t, relay.Config{Registerer: reg}, tcp)
	b := listening(t, relay.Config{Role: relay.RolePillar, Registerer: reg}, tcp)
	for _, h := range []*relay.Host{a, b} {
		if err := h.Send(newHost(t, relay.Config{}).Self(), 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := counter(t, reg, "obelisk_relay_packets_dropped_total"); n != 2 {
		t.Errorf("%v dropped packets counted, want 2", n)
	}
	if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
}

// counter sums a counter over its labels, or reads the one whose label has this
// value.
func counter(t *testing.T, reg *prometheus.Registry, name string, label ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(label) == 0 || m.GetLabel()[0].GetValue() == label[0] {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
