package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	circuitproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	hppb "github.com/libp2p/go-libp2p/p2p/protocol/holepunch/pb"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// relayingBadly makes a libp2p host that handles hop streams with fn.
func relayingBadly(t testing.TB, fn func(network.Stream)) (host.Host, []overlay.PillarAddr) {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings(tcp), libp2p.DisableMetrics(), libp2p.DisableRelay(),
		libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler(circuitproto.ProtoIDv2Hop, fn)
	var at []overlay.PillarAddr
	for _, a := range h.Addrs() {
		at = append(at, overlay.PillarAddr{Pillar: identity.PillarID(h.ID()), Addr: a})
	}
	return h, at
}

func readHop(s network.Stream) {
	r := util.NewDelimitedReader(s, 4096)
	defer r.Close()
	var msg pb.HopMessage
	_ = r.ReadMsg(&msg)
}

func answerHop(s network.Stream, msg *pb.HopMessage) { _ = util.NewDelimitedWriter(s).WriteMsg(msg) }

func yes() *pb.HopMessage {
	return &pb.HopMessage{Type: pb.HopMessage_STATUS.Enum(), Status: pb.Status_OK.Enum()}
}

// A relay does whatever it likes at every step of the protocol: the node goes
// on to the next, and nothing is left behind (TestMain looks for goroutines).
func TestHostileRelays(t *testing.T) {
	hold := func(s network.Stream) { // until the other side ends it
		_, _ = io.Copy(io.Discard, s)
		_ = s.Reset()
	}
	deaf := func(s network.Stream) { <-t.Context().Done() }
	good := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	for name, fn := range map[string]func(network.Stream){
		"resets at once": func(s network.Stream) { _ = s.Reset() },
		"closes at once": func(s network.Stream) { _ = s.Close() },
		"never answers":  func(s network.Stream) { readHop(s); hold(s) },
		"never reads":    deaf,
		"closes instead": func(s network.Stream) { readHop(s); _ = s.Close() },
		"half an answer": func(s network.Stream) { readHop(s); _, _ = s.Write([]byte{40, 8}); hold(s) },
		"an endless answer": func(s network.Stream) {
			readHop(s)
			_, _ = s.Write([]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
			hold(s)
		},
		"a huge answer": func(s network.Stream) { readHop(s); _, _ = s.Write([]byte{255, 255, 3}); hold(s) },
		"garbage": func(s network.Stream) {
			readHop(s)
			_, _ = s.Write([]byte("\x20this is no message of any kind..."))
			hold(s)
		},
		"no status": func(s network.Stream) {
			readHop(s)
			answerHop(s, &pb.HopMessage{Type: pb.HopMessage_CONNECT.Enum()})
			hold(s)
		},
		"a strange status": func(s network.Stream) {
			readHop(s)
			answerHop(s, &pb.HopMessage{Type: pb.HopMessage_STATUS.Enum(), Status: pb.Status_UNUSED.Enum()})
			hold(s)
		},
		"a circuit to nowhere": func(s network.Stream) { readHop(s); answerHop(s, yes()); hold(s) },
		"a circuit that is cut": func(s network.Stream) {
			readHop(s)
			answerHop(s, yes())
			_, _ = s.Read(make([]byte, 10))
			_ = s.Reset()
		},
		"a circuit of garbage": func(s network.Stream) {
			readHop(s)
			answerHop(s, yes())
			_, _ = s.Write([]byte(strings.Repeat("garbage", 1000)))
			hold(s)
		},
		"a circuit to itself": func(s network.Stream) {
			readHop(s)
			answerHop(s, yes())
			b := make([]byte, 4096)
			for {
				n, err := s.Read(b)
				if err != nil {
					_ = s.Reset()
					return
				}
				if _, err := s.Write(b[:n]); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, bad := relayingBadly(t, fn)
			a := newHost(t, relay.Config{})
			b := welcoming(t, a)
			reserved(t, b, good)
			begun := time.Now()
			if err := a.DialThrough(within(t), b.Self(), append(bad, via(good)...)); err != nil {
				t.Fatal(err)
			}
			// A bad one costs a few seconds, not the minute that libp2p waits.
			if d := time.Since(begun); d > 50*time.Second {
				t.Errorf("it took %v", d)
			}
			if remote := ask(t, a, b.Self(), "hello"); !strings.Contains(remote.String(), good.Self().String()) {
				t.Errorf("reached over %s", remote)
			}
		})
	}
}

// A relay hands a circuit to somebody else than was asked for.
func TestCircuitToSomebodyElse(t *testing.T) {
	a := newHost(t, relay.Config{})
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	other := welcoming(t, a)
	reserved(t, other, pillar)
	absent := newHost(t, relay.Config{}).Self()
	proxy := plain(t)
	connectPlain(t, proxy, pillar)
	_, bad := relayingBadly(t, func(s network.Stream) {
		readHop(s)
		up, err := proxy.NewStream(within(t), pillar.Self(), circuitproto.ProtoIDv2Hop)
		if err != nil {
			_ = s.Reset()
			return
		}
		answerHop(up, &pb.HopMessage{Type: pb.HopMessage_CONNECT.Enum(), Peer: util.PeerInfoToPeerV2(peer.AddrInfo{ID: other.Self()})})
		go func() { pipe(up, s) }()
		pipe(s, up)
	})
	if err := a.DialThrough(within(t), absent, bad); !errors.Is(err, overlay.ErrUnreachable) && !errors.Is(err, overlay.ErrWrongPeer) {
		t.Errorf("somebody else answered: %v", err)
	}
	if pathTo(a, absent) != overlay.PathNone || pathTo(a, other.Self()) != overlay.PathNone {
		t.Error("connected")
	}
}

func pipe(from, to network.Stream) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			_ = to.Reset()
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			_ = from.Reset()
			return
		}
	}
}

// An admitted peer opens hole punching streams and does what it likes with
// them: nothing it names is dialled that may not be, and each ends.
func TestHostilePunches(t *testing.T) {
	knocked := make(chan string, 16)
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	go func() {
		for {
			c, err := trap.Accept()
			if err != nil {
				return
			}
			knocked <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(trap.Addr().String())
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	// The victim has a public address, as far as it knows, but does not take
	// loopback for one.
	victim := listening(t, relay.Config{Announce: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/1.2.3.4/tcp/4001")}}, tcp)
	evil, err := libp2p.New(libp2p.NoListenAddrs, libp2p.EnableRelay(), libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Close()
	victim.Admit(evil.ID(), time.Now().Add(time.Hour))
	reserved(t, victim, pillar)
	connectPlain(t, evil, pillar)
	at := multiaddr.StringCast("/p2p/" + pillar.Self().String() + "/p2p-circuit")
	asked := make(chan *hppb.HolePunch, 16)
	evil.SetStreamHandler(holepunch.Protocol, func(s network.Stream) {
		defer s.Reset()
		r := util.NewDelimitedReader(s, 4096)
		defer r.Close()
		var msg hppb.HolePunch
		if err := r.ReadMsg(&msg); err != nil {
			return
		}
		asked <- &msg
		var bad [][]byte
		for _, text := range []string{
			"/ip4/127.0.0.1/tcp/" + port, "/ip4/10.0.0.1/tcp/" + port, "/ip6/::1/tcp/" + port, "/dns4/localhost/tcp/" + port,
			"/ip4/1.2.3.4/tcp/22", "/ip4/1.2.3.4/tcp/4001/ws", "/ip4/127.0.0.1/tcp/" + port + "/p2p/" + pillar.Self().String() + "/p2p-circuit",
		} {
			bad = append(bad, multiaddr.StringCast(text).Bytes())
		}
		bad = append(bad, []byte("garbage"), nil)
		_ = util.NewDelimitedWriter(s).WriteMsg(&hppb.HolePunch{Type: hppb.HolePunch_CONNECT.Enum(), ObsAddrs: bad})
		_, _ = s.Read(make([]byte, 100))
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	evil.Peerstore().AddAddrs(victim.Self(), []multiaddr.Multiaddr{at}, time.Hour)
	if err := evil.Connect(network.WithAllowLimitedConn(ctx, "test"), peer.AddrInfo{ID: victim.Self()}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first attempt, and one after it
		select {
		case msg := <-asked:
			if n := len(msg.GetObsAddrs()); n != 1 {
				t.Errorf("told %d addresses", n)
			}
		case <-ctx.Done():
			t.Fatal("nothing was asked")
		}
	}
	select {
	case who := <-knocked:
		t.Errorf("%s knocked at a port of its own machine", who)
	default:
	}
}

// Two pillars: the first never answers a request for a reservation.
func TestReservationsSideBySide(t *testing.T) {
	var once, onceMore sync.Once
	stalled, givenUp := make(chan struct{}), make(chan struct{})
	stall, _ := relayingBadly(t, func(s network.Stream) {
		once.Do(func() { close(stalled) })
		readHop(s)
		_, _ = s.Read(make([]byte, 1))
		onceMore.Do(func() { close(givenUp) })
		_ = s.Reset()
	})
	good := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	full := listening(t, relay.Config{Role: relay.RolePillar, RelayUser: func(peer.ID) relay.RelayUser { return relay.RelayUser{} }}, tcp)
	n := newHost(t, relay.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	list := []peer.ID{stall.ID(), full.Self(), good.Self()}
	if err := n.Connect(within(t), stall.ID(), stall.Addrs()); err != nil {
		t.Fatal(err)
	}
	go func() { done <- n.KeepReserved(ctx, func() []peer.ID { return list }) }()
	<-stalled
	for _, p := range []*relay.Host{full, good} {
		if err := n.Connect(within(t), p.Self(), p.Addrs()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return !n.ReservedUntil(good.Self()).IsZero() })
	select {
	case <-givenUp:
		t.Error("the good pillar had to wait until the silent one was given up")
	default:
	}
	eventually(t, func() bool {
		r := n.Reservations()
		if len(r) != 2 {
			return false
		}
		for _, r := range r {
			switch r.Pillar {
			case good.Self():
				if r.Err != nil || r.Until.IsZero() {
					t.Errorf("%+v", r)
				}
			case full.Self():
				if !errors.Is(r.Err, overlay.ErrFull) || !r.Until.IsZero() {
					t.Errorf("%+v", r)
				}
			default:
				t.Errorf("%+v", r)
			}
		}
		return true
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	full.Shutdown()
	eventually(t, func() bool { return len(n.Reservations()) <= 2 })
}

// Nothing comes back from the pillar's UDP port, or from its TCP port either,
// and only the web port is open: no transport waits for another's dial to end,
// which here takes longer than the test has.
func TestBlockedTransports(t *testing.T) {
	swallow := func() multiaddr.Multiaddr {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_, port, _ := net.SplitHostPort(c.LocalAddr().String())
		return multiaddr.StringCast("/ip4/127.0.0.1/udp/" + port + "/quic-v1")
	}
	mute := func() multiaddr.Multiaddr { // accepts and says nothing
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return multiaddr.StringCast("/ip4/127.0.0.1/tcp/" + port)
	}
	pillar := newHost(t, relay.Config{Role: relay.RolePillar}, tcp, ws)
	pillar.Handle(proto, echo)
	if err := pillar.Listen(); err != nil {
		t.Fatal(err)
	}
	var raw, web multiaddr.Multiaddr
	for _, a := range pillar.Addrs() {
		if strings.HasSuffix(a.String(), "/ws") {
			web = a
		} else {
			raw = a
		}
	}
	if raw == nil || web == nil {
		t.Fatalf("a pillar that listens on TCP and WebSocket announces %v", pillar.Addrs())
	}
	for name, c := range map[string]struct {
		addrs      []multiaddr.Multiaddr
		over       string
		firstWorks bool
	}{
		"UDP blocked":         {[]multiaddr.Multiaddr{swallow(), raw, web}, raw.String(), true},
		"only the web port":   {[]multiaddr.Multiaddr{swallow(), mute(), web}, web.String(), false},
		"nothing but QUIC":    {[]multiaddr.Multiaddr{swallow(), swallow(), raw}, raw.String(), true},
		"web port, mute QUIC": {[]multiaddr.Multiaddr{swallow(), web}, web.String(), false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := relay.Config{}
			relay.PatientDials(&cfg, c.firstWorks)
			n := listening(t, cfg, quic, tcp)
			if err := n.Connect(within(t), pillar.Self(), c.addrs); err != nil {
				t.Fatal(err)
			}
			if info, _ := n.Info(pillar.Self()); info.Remote.String() != c.over {
				t.Errorf("connected over %s, want %s", info.Remote, c.over)
			}
			ask(t, n, pillar.Self(), "hello")
		})
	}
}
