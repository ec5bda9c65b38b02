package relay_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

const packetProto = "/obelisk/packet/1"

// counting makes a host with metrics of its own.
func counting(t *testing.T, role relay.Role, listen ...string) (*relay.Host, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	return listening(t, relay.Config{Role: role, Registerer: reg}, listen...), reg
}

// arrivals collects the packets of kind 1.
func arrivals(h *relay.Host) <-chan string {
	got := make(chan string, 4096)
	h.Receive(1, func(_ peer.ID, payload []byte) {
		select {
		case got <- string(payload):
		default:
		}
	})
	return got
}

// sendUntil sends packets from a to b, one after the other arrived or was lost,
// until done.
func sendUntil(t *testing.T, a, b *relay.Host, got <-chan string, done func() bool) {
	t.Helper()
	end := time.After(patience)
	for !done() {
		if err := a.Send(b.Self(), 1, []byte("packet")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-got:
		case <-time.After(200 * time.Millisecond):
		case <-end:
			t.Fatal("not in time")
		}
	}
}

func TestDatagramsOnQUIC(t *testing.T) {
	a, sent := counting(t, relay.RolePillar, quic)
	b, received := counting(t, relay.RolePillar, quic)
	got, back := arrivals(b), arrivals(a)
	if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
	sendUntil(t, a, b, got, func() bool { return counter(t, received, "obelisk_relay_packets_received_total", "datagram") >= 3 })
	sendUntil(t, b, a, back, func() bool { return counter(t, sent, "obelisk_relay_packets_received_total", "datagram") >= 3 })
	// From now on nothing goes by stream any more, whatever the size.
	before := counter(t, sent, "obelisk_relay_packets_sent_total", "stream")
	large := strings.Repeat("x", overlay.MaxPacket)
	for size := 0; size <= overlay.MaxPacket; size += 100 {
		for arrived := false; !arrived; { // a datagram may be lost
			if err := a.Send(b.Self(), 1, []byte(large[:size])); err != nil {
				t.Fatal(err)
			}
			select {
			case packet := <-got:
				arrived = len(packet) == size
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	if n := counter(t, sent, "obelisk_relay_packets_sent_total", "stream"); n != before {
		t.Errorf("%v packets still went by stream", n-before)
	}
}

func TestNoDatagramsOnTCP(t *testing.T) {
	for name, addr := range map[string]string{"tcp": tcp, "websocket": ws} {
		t.Run(name, func(t *testing.T) {
			a, sent := counting(t, relay.RolePillar)
			b, received := counting(t, relay.RolePillar, addr)
			got := arrivals(b)
			if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
				t.Fatal(err)
			}
			for range 50 {
				sendUntil(t, a, b, got, func() bool { return counter(t, received, "obelisk_relay_packets_received_total", "stream") >= 50 })
			}
			if n := counter(t, sent, "obelisk_relay_packets_sent_total", "datagram"); n != 0 {
				t.Errorf("%v packets by datagram", n)
			}
		})
	}
}

// plain is a libp2p host without anything of ours.
func plain(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func connectPlain(t *testing.T, h host.Host, to *relay.Host) {
	t.Helper()
	if err := h.Connect(within(t), peer.AddrInfo{ID: to.Self(), Addrs: to.Addrs()}); err != nil {
		t.Fatal(err)
	}
}

// A receiver that knows of no datagrams, or reads none, says nothing on the
// stream: everything comes there.
func TestReceiverWithoutDatagrams(t *testing.T) {
	a, sent := counting(t, relay.RolePillar, quic)
	old := plain(t)
	got := make(chan []byte, 1)
	old.SetStreamHandler(packetProto, func(s network.Stream) {
		defer s.Reset()
		b := make([]byte, 200*(3+4))
		if _, err := io.ReadFull(s, b); err == nil {
			got <- b
		}
		s.Read(b)
	})
	connectPlain(t, old, a)
	// Not faster than the queue of 128 takes.
	for i := range 200 {
		if err := a.Send(old.ID(), 1, []byte("word")); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return counter(t, sent, "obelisk_relay_packets_sent_total", "stream") >= float64(i+1) })
	}
	if b := <-got; !bytes.Equal(b, bytes.Repeat([]byte("\x01\x00\x04word"), 200)) {
		t.Errorf("frames %q", b)
	}
	if n := counter(t, sent, "obelisk_relay_packets_sent_total", "datagram"); n != 0 {
		t.Errorf("%v packets by datagram", n)
	}
}

// A receiver that says something else, or more, than that it reads datagrams
// loses the stream, and nothing is sent by datagram because of it.
func TestReceiverThatTalks(t *testing.T) {
	a, sent := counting(t, relay.RolePillar, quic)
	odd := plain(t)
	opened := make(chan struct{}, 1)
	odd.SetStreamHandler(packetProto, func(s network.Stream) {
		defer s.Reset()
		s.Write([]byte{2})
		s.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, s); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			opened <- struct{}{}
		}
	})
	connectPlain(t, odd, a)
	if err := a.Send(odd.ID(), 1, []byte("word")); err != nil {
		t.Fatal(err)
	}
	<-opened
	if n := counter(t, sent, "obelisk_relay_packets_sent_total", "datagram"); n != 0 {
		t.Errorf("%v packets by datagram", n)
	}
}

// eventually polls cond in real time.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("not in time")
		}
	}
}

func TestMalformedDatagrams(t *testing.T) {
	p, reg := counting(t, relay.RolePillar, quic)
	got := arrivals(p)
	liar := plain(t)
	connectPlain(t, liar, p)
	s, err := liar.NewStream(within(t), p.Self(), packetProto)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	var q *quicgo.Conn
	if !s.Conn().As(&q) {
		t.Fatal("not a QUIC connection")
	}
	// A datagram is no packet before there is a stream; one waits and then counts.
	word := make([]byte, 1)
	if _, err := io.ReadFull(s, word); err != nil || word[0] != 1 {
		t.Fatalf("answer %v, %v", word, err)
	}
	malformed := func() float64 { return counter(t, reg, "obelisk_relay_packets_malformed_total", "datagram") }
	unknown := func() float64 { return counter(t, reg, "obelisk_relay_packets_dropped_total", "kind") }
	for _, c := range []struct {
		name     string
		datagram string
		counted  func() float64
	}{
		{"empty", "", malformed},
		{"a byte too long", "\x01" + strings.Repeat("x", overlay.MaxPacket+1), malformed},
		{"unknown kind", "\x07whatever", unknown},
	} {
		before := c.counted()
		if err := q.SendDatagram([]byte(c.datagram)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		eventually(t, func() bool { return c.counted() == before+1 })
	}
	if err := q.SendDatagram([]byte("\x01good")); err != nil {
		t.Fatal(err)
	}
	if m := <-got; m != "good" {
		t.Errorf("packet %q", m)
	}
	// More than anybody reads are dropped, and the host goes on.
	for range 5000 {
		if err := q.SendDatagram(bytes.Repeat([]byte{1}, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	again := time.NewTicker(50 * time.Millisecond) // got may have been full
	defer again.Stop()
	giveUp := time.After(patience)
	for m := ""; m != "last"; {
		select {
		case m = <-got:
		case <-again.C:
			if _, err := s.Write([]byte("\x01\x00\x04last")); err != nil {
				t.Fatal(err)
			}
		case <-giveUp:
			t.Fatal("the stream is not read")
		}
	}
}

// A connection that is gone takes its datagrams along; the next one agrees anew.
func TestDatagramsAfterReconnection(t *testing.T) {
	a, sent := counting(t, relay.RolePillar, quic)
	b, received := counting(t, relay.RolePillar, quic)
	got := arrivals(b)
	for range 3 {
		before := counter(t, received, "obelisk_relay_packets_received_total", "datagram")
		if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
			t.Fatal(err)
		}
		sendUntil(t, a, b, got, func() bool {
			return counter(t, received, "obelisk_relay_packets_received_total", "datagram") >= before+3
		})
		if err := a.Close(b.Self()); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			_, connected := b.Info(a.Self())
			return !connected
		})
	}
	if n := counter(t, sent, "obelisk_relay_packets_dropped_total", "kind"); n != 0 {
		t.Errorf("%v of a kind that nobody wants", n)
	}
}

// Packets leave a circuit as soon as there is a direct connection.
func TestDatagramsAfterUpgrade(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, _ := counting(t, relay.RoleNode)
	b, received := counting(t, relay.RoleNode, quic)
	got := arrivals(b)
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	if err := b.Connect(within(t), pillar.Self(), pillar.Addrs()); err != nil {
		t.Fatal(err)
	}
	if err := b.Reserve(within(t), pillar.Self()); err != nil {
		t.Fatal(err)
	}
	if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{circuit(pillar, b.Self())}); err != nil {
		t.Fatal(err)
	}
	sendUntil(t, a, b, got, func() bool { return counter(t, received, "obelisk_relay_packets_received_total", "stream") >= 3 })
	if err := relay.Upgrade(within(t), a, b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
	sendUntil(t, a, b, got, func() bool { return counter(t, received, "obelisk_relay_packets_received_total", "datagram") >= 3 })
}

// Shutdown waits for who sends and reads datagrams.
func TestShutdownWithDatagramsInFlight(t *testing.T) {
	for _, closing := range []string{"sender", "receiver"} {
		t.Run(closing, func(t *testing.T) {
			a := listening(t, relay.Config{Role: relay.RolePillar}, quic)
			b, received := counting(t, relay.RolePillar, quic)
			got := arrivals(b)
			if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
				t.Fatal(err)
			}
			sendUntil(t, a, b, got, func() bool { return counter(t, received, "obelisk_relay_packets_received_total", "datagram") >= 3 })
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				payload := make([]byte, overlay.MaxPacket)
				for {
					select {
					case <-stop:
						return
					default:
						a.Send(b.Self(), 1, payload)
					}
				}
			}()
			h := a
			if closing == "receiver" {
				h = b
			}
			for range 100 {
				<-got
			}
			if err := h.Shutdown(); err != nil {
				t.Error(err)
			}
			close(stop)
			<-stopped
		})
	}
}

func TestMalformedPackets(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := newHost(t, relay.Config{Role: relay.RolePillar, Registerer: reg}, tcp)
	got := make(chan string, 10)
	p.Receive(1, func(_ peer.ID, payload []byte) {
		select {
		case got <- string(payload):
		default:
		}
	})
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	c := newHost(t, relay.Config{})
	if err := c.Connect(within(t), p.Self(), p.Addrs()); err != nil {
		t.Fatal(err)
	}
	for name, frame := range map[string]string{
		"longer than allowed": "\x01\xff\xff" + strings.Repeat("x", 2000),
		"one byte too long":   "\x01\x04\x4d" + strings.Repeat("x", 1101),
	} {
		s, err := c.Open(within(t), p.Self(), "/obelisk/packet/1")
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(patience))
		_, _ = s.Write([]byte(frame))
		if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A second packet stream replaces the first.
	first, err := c.Open(within(t), p.Self(), "/obelisk/packet/1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write([]byte("\x01\x00\x03one")); err != nil {
		t.Fatal(err)
	}
	if m := <-got; m != "one" {
		t.Errorf("packet %q", m)
	}
	if err := c.Send(p.Self(), 1, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if m := <-got; m != "two" {
		t.Errorf("packet %q", m)
	}
	_ = first.SetReadDeadline(time.Now().Add(patience))
	if _, err := first.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the replaced stream: %v", err)
	}
	if n := counter(t, reg, "obelisk_relay_packets_malformed_total", "stream"); n != 2 {
		t.Errorf("%v malformed streams counted, want 2", n)
	}
}
