package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	circuitproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// grant answers a request for a reservation.
func grant(s network.Stream) {
	answerHop(s, &pb.HopMessage{Type: pb.HopMessage_STATUS.Enum(), Status: pb.Status_OK.Enum(),
		Reservation: &pb.Reservation{Expire: new(uint64(time.Now().Add(time.Hour).Unix()))}})
	_ = s.Close()
}

// entrusted is a node that holds a reservation at a relay that is up to no good,
// and at a good pillar.
func entrusted(t *testing.T) (node *relay.Host, reg *prometheus.Registry, evil host.Host, good *relay.Host) {
	t.Helper()
	reg = prometheus.NewRegistry()
	node = newHost(t, relay.Config{Registerer: reg})
	node.Handle(proto, echo)
	evil, at := relayingBadly(t, func(s network.Stream) { readHop(s); grant(s) })
	good = listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	reserved(t, node, good)
	var addrs []multiaddr.Multiaddr
	for _, a := range at {
		addrs = append(addrs, a.Addr)
	}
	if err := node.Connect(within(t), evil.ID(), addrs); err != nil {
		t.Fatal(err)
	}
	if err := node.Reserve(within(t), evil.ID()); err != nil {
		t.Fatal(err)
	}
	return node, reg, evil, good
}

// offer opens a stop stream.
func offer(t *testing.T, from host.Host, to *relay.Host) network.Stream {
	t.Helper()
	s, err := from.NewStream(within(t), to.Self(), circuitproto.ProtoIDv2Stop)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// offering names who is said to be at the other end of a circuit.
func offering(p peer.ID, limit *pb.Limit) *pb.StopMessage {
	return &pb.StopMessage{Type: pb.StopMessage_CONNECT.Enum(), Peer: util.PeerInfoToPeerV2(peer.AddrInfo{ID: p}), Limit: limit}
}

// answered is the status that an offer was answered with, or an error.
func answered(s network.Stream) (pb.Status, error) {
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	r := util.NewDelimitedReader(s, 4096)
	defer r.Close()
	var msg pb.StopMessage
	if err := r.ReadMsg(&msg); err != nil {
		return 0, err
	}
	if msg.GetType() != pb.StopMessage_STATUS {
		return 0, fmt.Errorf("it answers with a %s", msg.GetType())
	}
	return msg.GetStatus(), nil
}

// reachable fails unless somebody else's circuits work.
func reachable(t *testing.T, node, good *relay.Host) {
	t.Helper()
	friend := newHost(t, relay.Config{})
	node.Admit(friend.Self(), time.Now().Add(time.Hour))
	if err := friend.DialThrough(within(t), node.Self(), via(good)); err != nil {
		t.Fatal(err)
	}
	ask(t, friend, node.Self(), "hello")
}

// A relay that a node trusts does whatever it likes with the circuits it hands
// it: each is refused or ends, is counted, and keeps nothing and nobody waiting
// (TestMain looks for goroutines).
func TestHostileOffers(t *testing.T) {
	t.Parallel()
	write := func(b ...byte) func(network.Stream) { return func(s network.Stream) { _, _ = s.Write(b) } }
	say := func(msg *pb.StopMessage) func(network.Stream) {
		return func(s network.Stream) { _ = util.NewDelimitedWriter(s).WriteMsg(msg) }
	}
	somebody := newHost(t, relay.Config{}).Self()
	vast := &pb.Limit{Duration: new(uint32(math.MaxUint32)), Data: new(uint64(math.MaxUint64))}
	const stalls = 0
	for name, tt := range map[string]struct {
		does    func(network.Stream)
		want    pb.Status // 0: no answer
		outcome string
	}{
		"says nothing":       {func(network.Stream) {}, stalls, "stalled"},
		"half a request":     {write(40, 8), stalls, "stalled"},
		"a cut request":      {func(s network.Stream) { write(40, 8)(s); _ = s.CloseWrite() }, pb.Status_MALFORMED_MESSAGE, "malformed"},
		"closes at once":     {func(s network.Stream) { _ = s.CloseWrite() }, pb.Status_MALFORMED_MESSAGE, "malformed"},
		"resets at once":     {func(s network.Stream) { write(40)(s); _ = s.Reset() }, stalls, ""}, // before the node saw it, maybe
		"garbage":            {write([]byte("\x20this is no message of any kind...")...), pb.Status_MALFORMED_MESSAGE, "malformed"},
		"an endless request": {write(slices.Repeat([]byte{255}, 11)...), pb.Status_MALFORMED_MESSAGE, "malformed"},
		"a huge request":     {write(255, 255, 3), pb.Status_MALFORMED_MESSAGE, "malformed"},
		"an answer":          {say(&pb.StopMessage{Type: pb.StopMessage_STATUS.Enum(), Status: pb.Status_OK.Enum()}), pb.Status_UNEXPECTED_MESSAGE, "malformed"},
		"nobody":             {say(&pb.StopMessage{Type: pb.StopMessage_CONNECT.Enum()}), pb.Status_MALFORMED_MESSAGE, "malformed"},
		"no peer ID": {say(&pb.StopMessage{Type: pb.StopMessage_CONNECT.Enum(), Peer: &pb.Peer{Id: []byte("garbage")}}),
			pb.Status_MALFORMED_MESSAGE, "malformed"},
		"a vast limit":        {say(offering(somebody, vast)), pb.Status_OK, "taken"},
		"no limit":            {say(offering(somebody, nil)), pb.Status_OK, "taken"},
		"a tiny limit":        {say(offering(somebody, &pb.Limit{})), pb.Status_OK, "taken"},
		"the node's own name": {func(s network.Stream) { say(offering(s.Conn().RemotePeer(), nil))(s) }, pb.Status_OK, "taken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node, reg, evil, good := entrusted(t)
			if tt.outcome == "stalled" { // else nothing is waited for
				relay.StopTimeout(node, time.Second)
			}
			s := offer(t, evil, node)
			tt.does(s)
			status, err := answered(s)
			if status != tt.want || (err == nil) != (tt.want != stalls) {
				t.Errorf("answered %s, %v; want %s", status, err, tt.want)
			}
			reachable(t, node, good)
			if n := counter(t, reg, "obelisk_relay_circuits_offered_total", tt.outcome); n < 1 && tt.outcome != "" {
				t.Errorf("%v of them are %s", n, tt.outcome)
			}
			_ = s.Reset() // of one that was taken the handshake waits
			eventually(t, func() bool { return relay.OfferedBy(node, evil.ID()) == 0 })
			if pathTo(node, somebody) != overlay.PathNone {
				t.Error("connected with somebody who is not there")
			}
		})
	}
}

// Circuits come only from where the node keeps a place, not from everybody who is
// connected, and no circuit comes through a circuit.
func TestUnexpectedOffers(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	node := listening(t, relay.Config{Registerer: reg}, tcp)
	friend := plain(t)
	node.Admit(friend.ID(), time.Now().Add(time.Hour))
	connectPlain(t, friend, node)
	s := offer(t, friend, node)
	if status, err := answered(s); status != pb.Status_PERMISSION_DENIED {
		t.Errorf("answered %s, %v", status, err)
	}
	if n := counter(t, reg, "obelisk_relay_circuits_offered_total", "unreserved"); n != 1 {
		t.Errorf("counted %v", n)
	}
}

// linked are both ends of streams between a node and a relay, as many as wanted.
func linked(t *testing.T, node *relay.Host, evil host.Host) func() (ours, theirs network.Stream) {
	t.Helper()
	streams := make(chan network.Stream, 1)
	evil.SetStreamHandler("/test", func(s network.Stream) { streams <- s })
	return func() (ours, theirs network.Stream) {
		t.Helper()
		s, err := node.Open(within(t), evil.ID(), "/test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte{0}); err != nil { // the other end learns of a stream by what comes on it
			t.Fatal(err)
		}
		ours, theirs = relay.Native(s), <-streams
		if _, err := io.ReadFull(theirs, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return ours, theirs
	}
}

// TestManyOffers: one relay has a node hold no more than so many circuits that
// lead nowhere, and the node is reached through others meanwhile.
func TestManyOffers(t *testing.T) {
	t.Parallel()
	node, reg, evil, good := entrusted(t)
	somebody := newHost(t, relay.Config{}).Self()
	link := linked(t, node, evil)
	var taken []network.Stream
	offerOne := func() (pb.Status, error) {
		ours, theirs := link()
		if err := util.NewDelimitedWriter(theirs).WriteMsg(offering(somebody, nil)); err != nil {
			t.Fatal(err)
		}
		relay.ServeStop(node, ours, func(s network.Stream) { taken = append(taken, s) })
		return answered(theirs)
	}
	for range relay.MaxOffered {
		if status, err := offerOne(); status != pb.Status_OK {
			t.Fatalf("answered %s, %v", status, err)
		}
	}
	if status, err := offerOne(); status != pb.Status_RESOURCE_LIMIT_EXCEEDED || len(taken) != relay.MaxOffered {
		t.Errorf("one more is answered %s, %v; %d are taken", status, err, len(taken))
	}
	if n := counter(t, reg, "obelisk_relay_circuits_offered_total", "crowd"); n != 1 {
		t.Errorf("counted %v", n)
	}
	reachable(t, node, good)
	for i, s := range taken {
		if err := []func() error{s.Close, s.Reset, func() error { return s.ResetWithError(1) }}[i%3](); err != nil {
			t.Error(err)
		}
		_ = s.Reset() // counts once
	}
	if n := relay.OfferedBy(node, evil.ID()); n != 0 {
		t.Errorf("%d are open", n)
	}
	if status, err := offerOne(); status != pb.Status_OK {
		t.Errorf("when all have ended one is answered %s, %v", status, err)
	}
}

// blocked is a stream on which nothing can be written: its other end does not
// read.
type blocked struct {
	network.Stream
	until  chan struct{} // closed when the deadline is over
	resets atomic.Int32
}

func (b *blocked) Write([]byte) (int, error) {
	<-b.until
	return 0, os.ErrDeadlineExceeded
}

func (b *blocked) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() {
		time.AfterFunc(time.Until(at), func() { close(b.until) })
	}
	return nil
}

func (b *blocked) Reset() error {
	b.resets.Add(1)
	return b.Stream.Reset()
}

// TestAnswerNotTaken: a relay that does not read the answer to its offer keeps
// only that one waiting, and not for long.
func TestAnswerNotTaken(t *testing.T) {
	t.Parallel()
	node, reg, evil, good := entrusted(t)
	relay.StopTimeout(node, time.Second)
	ours, theirs := linked(t, node, evil)()
	somebody := newHost(t, relay.Config{}).Self()
	if err := util.NewDelimitedWriter(theirs).WriteMsg(offering(somebody, nil)); err != nil {
		t.Fatal(err)
	}
	s := &blocked{Stream: ours, until: make(chan struct{})}
	var serving sync.WaitGroup
	serving.Go(func() { relay.ServeStop(node, s, func(network.Stream) { t.Error("handed on") }) })
	reachable(t, node, good)
	serving.Wait()
	if s.resets.Load() != 1 || relay.OfferedBy(node, evil.ID()) != 0 {
		t.Errorf("reset %d times, %d open", s.resets.Load(), relay.OfferedBy(node, evil.ID()))
	}
	if n := counter(t, reg, "obelisk_relay_circuits_offered_total", "stalled"); n != 1 {
		t.Errorf("counted %v", n)
	}
}

// proxied is a relay that hands on circuits to one node, under the name of whom
// it likes, and cuts them after some bytes from the dialler.
func proxied(t *testing.T, node *relay.Host, name func(real peer.ID) peer.ID, cutAfter int64) []overlay.PillarAddr {
	t.Helper()
	var evil host.Host
	var at []overlay.PillarAddr
	evil, at = relayingBadly(t, func(s network.Stream) {
		var msg pb.HopMessage
		r := util.NewDelimitedReader(s, 4096)
		err := r.ReadMsg(&msg)
		r.Close()
		if err != nil || msg.GetType() == pb.HopMessage_RESERVE {
			grant(s)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		up, err := evil.NewStream(ctx, node.Self(), circuitproto.ProtoIDv2Stop)
		if err != nil {
			_ = s.Reset()
			return
		}
		_ = util.NewDelimitedWriter(up).WriteMsg(offering(name(s.Conn().RemotePeer()), nil))
		if status, err := answered(up); status != pb.Status_OK {
			t.Errorf("answered %s, %v", status, err)
		}
		_ = up.SetReadDeadline(time.Time{})
		answerHop(s, yes())
		var back sync.WaitGroup
		back.Go(func() { pipe(up, s) })
		if _, err := io.CopyN(up, s, cutAfter); err != nil && !errors.Is(err, io.EOF) {
			_ = up.Reset()
		}
		_, _ = s.Reset(), up.Reset()
		back.Wait()
	})
	var addrs []multiaddr.Multiaddr
	for _, a := range at {
		addrs = append(addrs, a.Addr)
	}
	if err := node.Connect(within(t), evil.ID(), addrs); err != nil {
		t.Fatal(err)
	}
	if err := node.Reserve(within(t), evil.ID()); err != nil {
		t.Fatal(err)
	}
	return at
}

// TestNamedByRelay: whom a relay names is its word. Who is there has to prove it,
// and that is who he is.
func TestNamedByRelay(t *testing.T) {
	t.Parallel()
	for _, welcome := range []bool{false, true} {
		reg := prometheus.NewRegistry()
		node := newHost(t, relay.Config{Registerer: reg})
		node.Handle(proto, echo)
		caller, other := newHost(t, relay.Config{}), newHost(t, relay.Config{}).Self()
		if welcome {
			node.Admit(caller.Self(), time.Now().Add(time.Hour))
		} else {
			node.Admit(other, time.Now().Add(time.Hour))
		}
		at := proxied(t, node, func(peer.ID) peer.ID { return other }, math.MaxInt64)
		err := caller.DialThrough(within(t), node.Self(), at)
		if (err == nil) != welcome {
			t.Errorf("the caller is welcome: %t; %v", welcome, err)
		}
		if welcome {
			ask(t, caller, node.Self(), "hello")
		} else if n := counter(t, reg, "obelisk_relay_strangers_refused_total"); n == 0 {
			t.Error("no stranger was counted")
		}
		if got := pathTo(node, caller.Self()); (got == overlay.PathRelayed) != welcome || pathTo(node, other) != overlay.PathNone {
			t.Errorf("the caller is %q, whom the relay named %q", got, pathTo(node, other))
		}
	}
}

// TestCutCircuits: a circuit is cut at every step of what its ends agree on, and
// nothing is left of it at the end that was called.
func TestCutCircuits(t *testing.T) {
	t.Parallel()
	for _, after := range []int64{0, 1, 20, 100, 200, 400, 800, 1200, 1600, 2000, 3000, 6000} {
		t.Run(fmt.Sprint(after, " bytes"), func(t *testing.T) {
			t.Parallel()
			caller := newHost(t, relay.Config{})
			node := welcoming(t, caller)
			at := proxied(t, node, func(p peer.ID) peer.ID { return p }, after)
			if caller.DialThrough(within(t), node.Self(), at) == nil {
				if s, err := caller.Open(within(t), node.Self(), proto); err == nil {
					_, _ = s.Write(make([]byte, 8<<10)) // as far as it gets
				}
			}
			eventually(t, func() bool {
				return relay.OfferedBy(node, peer.ID(at[0].Pillar)) == 0 && pathTo(node, caller.Self()) == overlay.PathNone
			})
			good := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
			reserved(t, node, good)
			if err := caller.DialThrough(within(t), node.Self(), via(good)); err != nil {
				t.Fatal(err)
			}
			ask(t, caller, node.Self(), "hello")
		})
	}
}
