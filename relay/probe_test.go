package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// A middle passes packets or bytes on between one client and a server until it
// is told to swallow them: what a gateway that forgot a mapping looks like.
type middle struct {
	addr  multiaddr.Multiaddr
	close func()
	// rebind gives the client another address, as a gateway does that gets one.
	rebind func()

	mu     sync.Mutex
	silent bool // guarded by mu
}

func (m *middle) swallows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.silent
}

func (m *middle) silence() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent = true
}

func udpMiddle(t *testing.T, port int) *middle {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	dial := func() *net.UDPConn {
		out, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: loopback, Port: port})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	out := dial()
	m := &middle{addr: multiaddr.StringCast(fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", in.LocalAddr().(*net.UDPAddr).Port))}
	var work sync.WaitGroup
	var client net.Addr
	var mu sync.Mutex
	work.Go(func() {
		for buf := make([]byte, 2048); ; {
			n, from, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			client = from
			to := out
			mu.Unlock()
			if !m.swallows() {
				_, _ = to.Write(buf[:n])
			}
		}
	})
	back := func(out *net.UDPConn) {
		for buf := make([]byte, 2048); ; {
			n, err := out.Read(buf)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue // the server's socket is gone: ICMP
			}
			mu.Lock()
			to := client
			mu.Unlock()
			if !m.swallows() {
				_, _ = in.WriteTo(buf[:n], to)
			}
		}
	}
	work.Go(func() { back(out) })
	m.rebind = func() {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Close()
		out = dial()
		work.Go(func() { back(out) })
	}
	m.close = func() {
		mu.Lock()
		_, _ = in.Close(), out.Close()
		mu.Unlock()
		work.Wait()
	}
	t.Cleanup(m.close)
	return m
}

func tcpMiddle(t *testing.T, port int) *middle {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middle{addr: multiaddr.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))}
	var work sync.WaitGroup
	pass := func(to, from net.Conn) {
		for buf := make([]byte, 2048); ; {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if !m.swallows() {
				_, _ = to.Write(buf[:n])
			}
		}
	}
	conns := make(chan net.Conn, 2)
	work.Go(func() {
		a, err := l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Error(err)
			return
		}
		conns <- a
		conns <- b
		work.Go(func() { pass(a, b) })
		pass(b, a)
	})
	m.close = func() {
		_ = l.Close()
		for range len(conns) {
			_ = (<-conns).Close()
		}
		work.Wait()
	}
	t.Cleanup(m.close)
	return m
}

// TestProbeSilentPath: a path that swallows everything is found dead in the time
// that the caller gives, closing it is quick, and then a new connection is made.
func TestProbeSilentPath(t *testing.T) {
	for name, c := range map[string]struct {
		listen  string
		between func(*testing.T, int) *middle
	}{"udp": {quic, udpMiddle}, "tcp": {tcp, tcpMiddle}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newHost(t, relay.Config{}), listening(t, relay.Config{Role: relay.RolePillar}, c.listen)
			direct := b.Addrs()[0]
			text, err := direct.ValueForProtocol(multiaddr.ProtocolWithName(name).Code)
			if err != nil {
				t.Fatal(err)
			}
			port, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			m := c.between(t, port)
			if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{m.addr}); err != nil {
				t.Fatal(err)
			}
			if err := a.Probe(within(t), b.Self()); err != nil {
				t.Fatalf("before: %v", err)
			}
			m.silence()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := a.Probe(ctx, b.Self()); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("over a dead path: %v", err)
			}
			if err := a.Close(b.Self()); err != nil {
				t.Fatal(err)
			}
			if _, still := a.Info(b.Self()); still {
				t.Fatal("still connected")
			}
			if err := a.Probe(within(t), b.Self()); !errors.Is(err, overlay.ErrUnreachable) {
				t.Fatalf("after the close: %v", err)
			}
			if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{direct}); err != nil {
				t.Fatal(err)
			}
			if err := a.Probe(within(t), b.Self()); err != nil {
				t.Fatalf("over the new connection: %v", err)
			}
		})
	}
}

// TestProbeNewAddress: QUIC survives a gateway that gets another address, as soon
// as something is sent: the probe moves the connection to the new path. (Only a
// few times: each path takes one of the connection IDs that the ends exchanged.)
func TestProbeNewAddress(t *testing.T) {
	a, b := newHost(t, relay.Config{}), listening(t, relay.Config{Role: relay.RolePillar}, quic)
	b.Handle(proto, echo)
	text, err := b.Addrs()[0].ValueForProtocol(multiaddr.P_UDP)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	m := udpMiddle(t, port)
	if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{m.addr}); err != nil {
		t.Fatal(err)
	}
	ask(t, a, b.Self(), "before")
	m.rebind()
	if err := a.Probe(within(t), b.Self()); err != nil {
		t.Fatalf("after the change: %v", err)
	}
	ask(t, a, b.Self(), "after")
}

// TestPingRefused: a host that refuses a ping, because it takes only so many from
// a peer at once, has answered.
func TestPingRefused(t *testing.T) {
	a, b := newHost(t, relay.Config{}), listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
	// Pings that go on, until no other is taken.
	for refused := false; !refused; {
		s, err := a.Open(within(t), b.Self(), ping.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		p := make([]byte, ping.PingSize)
		if _, err = s.Write(p); err == nil {
			_, err = io.ReadFull(s, p)
		}
		refused = err != nil
	}
	if err := a.Probe(within(t), b.Self()); err != nil {
		t.Errorf("a refusal does not count: %v", err)
	}
}
