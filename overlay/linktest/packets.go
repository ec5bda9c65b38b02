package linktest

import (
	"bytes"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

var packetCases = []Case{
	{"packets arrive", testPackets},
	{"packets keep their kind and size", testPacketKinds},
	{"packets over the limit are refused", testPacketSize},
	{"packets to nobody vanish", testPacketNobody},
	{"packets never block", testPacketFlood},
	{"packets after a reconnection", testPacketReconnect},
}

type packet struct {
	from    peer.ID
	payload []byte
}

// collect gathers the packets of one kind; what does not fit is dropped.
func collect(h Host, kind overlay.PacketKind) <-chan packet {
	c := make(chan packet, 100)
	h.Receive(kind, func(from peer.ID, payload []byte) {
		select {
		case c <- packet{from, bytes.Clone(payload)}:
		default:
		}
	})
	return c
}

// deliver sends a packet again and again until it arrives.
func deliver(t *testing.T, a, b Host, kind overlay.PacketKind, payload []byte, at <-chan packet) {
	t.Helper()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	giveUp := time.NewTimer(patient)
	defer giveUp.Stop()
	for {
		if err := a.Send(b.Self(), kind, payload); err != nil {
			t.Fatalf("send: %v", err)
		}
		select {
		case p := <-at:
			if p.from != a.Self() {
				t.Fatalf("packet from %s, want %s", p.from, a.Self())
			}
			if bytes.Equal(p.payload, payload) {
				return
			}
		case <-retry.C:
		case <-giveUp.C:
			t.Fatal("no packet came")
		}
	}
}

func testPackets(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	atA, atB := collect(hs[0], 1), collect(hs[1], 1)
	connect(t, hs[0], hs[1])
	deliver(t, hs[0], hs[1], 1, []byte("to b"), atB)
	deliver(t, hs[1], hs[0], 1, []byte("to a"), atA)
	buf := []byte("reused at once")
	want := bytes.Clone(buf)
	if err := hs[0].Send(hs[1].Self(), 1, buf); err != nil {
		t.Fatal(err)
	}
	clear(buf)
	deliver(t, hs[0], hs[1], 1, want, atB)
}

func testPacketKinds(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	at1, at255 := collect(hs[1], 1), collect(hs[1], 255)
	connect(t, hs[0], hs[1])
	deliver(t, hs[0], hs[1], 255, nil, at255)
	deliver(t, hs[0], hs[1], 1, make([]byte, overlay.MaxPacket), at1)
	if err := hs[0].Send(hs[1].Self(), 7, []byte("nobody wants this kind")); err != nil {
		t.Fatal(err)
	}
	deliver(t, hs[0], hs[1], 255, []byte("and then"), at255)
}

func testPacketSize(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, nil)
	err := a.Send(b.Self(), 1, make([]byte, overlay.MaxPacket+1))
	wantErr(t, "a packet over the limit", err, overlay.ErrPacketSize)
}

func testPacketNobody(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	at := collect(hs[1], 1)
	for range 1000 {
		if err := hs[0].Send(hs[1].Self(), 1, []byte("too early")); err != nil {
			t.Fatal(err)
		}
	}
	connect(t, hs[0], hs[1])
	if err := hs[0].Send(hs[1].Self(), 1, []byte("now")); err != nil {
		t.Fatal(err)
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case p := <-at:
			if string(p.payload) != "now" {
				t.Fatalf("a packet from before the connection: %q", p.payload)
			}
			return
		case <-retry.C:
			_ = hs[0].Send(hs[1].Self(), 1, []byte("now"))
		}
	}
}

func testPacketFlood(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	release, first := make(chan struct{}), make(chan struct{}, 1)
	hs[1].Receive(1, func(peer.ID, []byte) {
		select {
		case first <- struct{}{}:
		default:
		}
		<-release // breaks the rule that it must not block, as a bug would
	})
	connect(t, hs[0], hs[1])
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		payload := make([]byte, overlay.MaxPacket)
		for range 20_000 {
			if err := hs[0].Send(hs[1].Self(), 1, payload); err != nil {
				t.Errorf("send: %v", err)
				return
			}
		}
	}()
	next(t, sent, "the end of the flood")
	next(t, first, "a packet")
	close(release)
}

func testPacketReconnect(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	at := collect(hs[1], 1)
	for range 2 {
		connect(t, hs[0], hs[1])
		deliver(t, hs[0], hs[1], 1, []byte("hello"), at)
		events := watch(t, hs[1], hs[0].Self())
		next(t, events, "the peer connected now")
		if err := hs[0].Close(hs[1].Self()); err != nil {
			t.Fatal(err)
		}
		if e := next(t, events, "the loss"); e != overlay.PeerLost {
			t.Fatalf("event %v, want lost", e)
		}
	}
}
