package relay_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// circuit is the address of target through pillar.
func circuit(pillar *relay.Host, target peer.ID) multiaddr.Multiaddr {
	return multiaddr.Join(pillar.Addrs()[0],
		multiaddr.StringCast("/p2p/"+pillar.Self().String()+"/p2p-circuit/p2p/"+target.String()))
}

func TestCircuit(t *testing.T) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		t.Run(name, func(t *testing.T) {
			pillar := listening(t, relay.Config{Role: relay.RolePillar}, listen)
			a, b := newHost(t, relay.Config{}), newHost(t, relay.Config{})
			b.Handle(proto, echo)
			b.Admit(a.Self(), time.Now().Add(time.Hour))
			if err := b.Connect(within(t), pillar.Self(), pillar.Addrs()); err != nil {
				t.Fatal(err)
			}
			addr := circuit(pillar, b.Self())
			if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{addr}); !errors.Is(err, overlay.ErrUnreachable) {
				t.Errorf("circuit without a reservation: %v", err)
			}
			if err := b.Reserve(within(t), pillar.Self()); err != nil {
				t.Fatal(err)
			}
			if until := time.Until(b.ReservedUntil(pillar.Self())); until < 50*time.Minute {
				t.Errorf("reserved for %v", until)
			}
			if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{addr}); err != nil {
				t.Fatal(err)
			}
			remote := ask(t, a, b.Self(), strings.Repeat("over the circuit ", 10_000))
			if !strings.Contains(remote.String(), "/p2p-circuit") {
				t.Errorf("stream runs over %s", remote)
			}
			info, ok := a.Info(b.Self())
			if !ok || info.Path != overlay.PathRelayed {
				t.Errorf("info %+v, %v", info, ok)
			}
			got := make(chan string, 1)
			b.Receive(1, func(_ peer.ID, payload []byte) {
				select {
				case got <- string(payload):
				default:
				}
			})
			if err := a.Send(b.Self(), 1, []byte("packet")); err != nil {
				t.Fatal(err)
			}
			select {
			case <-got:
			case <-time.After(patience):
				t.Error("no packet over the circuit")
			}
		})
	}
}

func TestUpgradeIsReported(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	a, b := newHost(t, relay.Config{}), listening(t, relay.Config{}, tcp)
	b.Handle(proto, echo)
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
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	changes := make(chan overlay.PeerChange, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Watch(ctx, func(e overlay.PeerEvent) {
			if e.Peer == b.Self() {
				changes <- e.What
			}
		})
	}()
	if c := <-changes; c != overlay.PeerConnected {
		t.Fatalf("change %v", c)
	}
	// b dials a's direct address, as a hole punch would; a listens nowhere, so
	// it is a that gets a second, direct connection by dialling b.
	if err := relay.Upgrade(within(t), a, b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c != overlay.PeerUpgraded {
		t.Fatalf("change %v", c)
	}
	if info, _ := a.Info(b.Self()); info.Path != overlay.PathDirect {
		t.Errorf("info %+v", info)
	}
	if remote := ask(t, a, b.Self(), "directly"); strings.Contains(remote.String(), "/p2p-circuit") {
		t.Errorf("a new stream still runs over %s", remote)
	}
	cancel()
	<-done
}

func TestReserveRefused(t *testing.T) {
	friend := newHost(t, relay.Config{})
	picky := listening(t, relay.Config{
		Role: relay.RolePillar,
		RelayUser: func(p peer.ID) relay.RelayUser {
			if p == friend.Self() {
				return relay.RelayUser{Class: relay.RelayNode}
			}
			return relay.RelayUser{}
		},
	}, tcp)
	small := listening(t, relay.Config{Role: relay.RolePillar, PerIP: 1}, tcp)
	home := listening(t, relay.Config{Role: relay.RolePillar, Home: true}, tcp)
	stranger := newHost(t, relay.Config{})
	for _, h := range []*relay.Host{friend, stranger} {
		for _, p := range []*relay.Host{picky, small, home} {
			if err := h.Connect(within(t), p.Self(), p.Addrs()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := friend.Reserve(within(t), picky.Self()); err != nil {
		t.Errorf("allowed: %v", err)
	}
	if err := friend.Reserve(within(t), small.Self()); err != nil {
		t.Errorf("first: %v", err)
	}
	for what, c := range map[string]struct {
		at   peer.ID
		want error
	}{
		"not allowed":      {picky.Self(), overlay.ErrFull},
		"second of an IP":  {small.Self(), overlay.ErrFull},
		"not a relay":      {home.Self(), overlay.ErrProtocol},
		"somebody unknown": {newHost(t, relay.Config{}).Self(), overlay.ErrUnreachable},
	} {
		if err := stranger.Reserve(within(t), c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		if !stranger.ReservedUntil(c.at).IsZero() {
			t.Errorf("%s: reserved", what)
		}
	}
}

func TestKeepReserved(t *testing.T) {
	key := newKey(t)
	pillar := listening(t, relay.Config{Role: relay.RolePillar, Key: key}, place(t))
	addrs := pillar.Addrs()
	n := newHost(t, relay.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.KeepReserved(ctx, func() []peer.ID { return []peer.ID{pillar.Self()} }) }()
	reserved := func(want bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(patience); n.ReservedUntil(pillar.Self()).IsZero() == want; <-tick.C {
			if time.Now().After(end) {
				t.Fatalf("reserved is not %v", want)
			}
		}
	}
	if err := n.Connect(within(t), pillar.Self(), addrs); err != nil {
		t.Fatal(err)
	}
	reserved(true)
	if err := pillar.Shutdown(); err != nil {
		t.Fatal(err)
	}
	reserved(false)
	again := listening(t, relay.Config{Role: relay.RolePillar, Key: key}, addrs[0].String())
	if err := n.Connect(within(t), again.Self(), addrs); err != nil {
		t.Fatal(err)
	}
	reserved(true)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("KeepReserved: %v", err)
	}
}

// A pillar that is wanted only after it was connected is asked as soon as
// Reconsider says so, not when the list is looked at anyway.
func TestReconsider(t *testing.T) {
	pillar := listening(t, relay.Config{Role: relay.RolePillar}, tcp)
	cfg := relay.Config{}
	relay.ReservePoll(&cfg, time.Hour)
	n := newHost(t, cfg)
	looked := make(chan struct{}, 100)
	var wanted atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.KeepReserved(ctx, func() []peer.ID {
			looked <- struct{}{}
			if wanted.Load() {
				return []peer.ID{pillar.Self()}
			}
			return nil
		})
	}()
	<-looked // at the begin
	if err := n.Connect(within(t), pillar.Self(), pillar.Addrs()); err != nil {
		t.Fatal(err)
	}
	<-looked // for the connection
	wanted.Store(true)
	n.Reconsider()
	eventually(t, func() bool { return !n.ReservedUntil(pillar.Self()).IsZero() })
	cancel()
	<-done
}
