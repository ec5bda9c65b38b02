package memnet_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/linktest"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newID(t testing.TB) peer.ID {
	t.Helper()
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestContract(t *testing.T) {
	for _, c := range linktest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			n := memnet.New()
			c.Test(t, func(t *testing.T) linktest.Host { return n.Host(newID(t), "") })
		})
	}
}

func TestContractInBubble(t *testing.T) {
	for _, c := range linktest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := memnet.New(memnet.WithLatency(15 * time.Millisecond))
				c.Test(t, func(t *testing.T) linktest.Host { return n.Host(newID(t), "") })
			})
		})
	}
}

func traversalRig(opts ...memnet.Option) linktest.TraversalRig {
	n := memnet.New(opts...)
	return linktest.TraversalRig{
		Pillar: func(t *testing.T) linktest.Host { return n.Host(newID(t), "") },
		Node: func(t *testing.T) linktest.Traverser {
			h := n.Host(newID(t), "-")
			h.Guard()
			return h
		},
		// Whoever is connected with a pillar can be reached through it.
		Reserve: func(*testing.T, linktest.Traverser, linktest.Host) {},
	}
}

func TestTraversalInBubble(t *testing.T) {
	for _, c := range linktest.TraversalCases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { c.Test(t, traversalRig(memnet.WithLatency(15*time.Millisecond))) })
		})
	}
}

const proto = overlay.Protocol("/memnet/1")

func echo(s overlay.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.Close()
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const oneWay = 20 * time.Millisecond
		n := memnet.New(memnet.WithLatency(oneWay))
		a, b := n.Host(newID(t), ""), n.Host(newID(t), "")
		defer a.Shutdown()
		defer b.Shutdown()
		b.Handle(proto, echo)
		took := func(what string, want time.Duration, do func() error) {
			t.Helper()
			start := time.Now()
			if err := do(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if d := time.Since(start); d != want {
				t.Errorf("%s took %v, want %v", what, d, want)
			}
		}
		var s overlay.Stream
		took("connect", 2*oneWay, func() error { return a.Connect(t.Context(), b.Self(), b.Addrs()) })
		took("open", 0, func() (err error) { s, err = a.Open(t.Context(), b.Self(), proto); return err })
		took("write", 0, func() error { _, err := s.Write([]byte("x")); return err })
		took("echo", 2*oneWay, func() error { _, err := io.ReadFull(s, make([]byte, 1)); return err })
		if info, _ := a.Info(b.Self()); info.RTT != 2*oneWay {
			t.Errorf("RTT %v", info.RTT)
		}
	})
}

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.WithDialTimeout(5 * time.Second))
		a, b, c := n.Host(newID(t), ""), n.Host(newID(t), ""), n.Host(newID(t), "")
		for _, h := range []*memnet.Host{a, b, c} {
			defer h.Shutdown()
			h.Handle(proto, echo)
		}
		if err := errors.Join(a.Connect(t.Context(), b.Self(), b.Addrs()), a.Connect(t.Context(), c.Self(), c.Addrs())); err != nil {
			t.Fatal(err)
		}
		s, err := a.Open(t.Context(), b.Self(), proto)
		if err != nil {
			t.Fatal(err)
		}
		n.Split([]peer.ID{a.Self(), c.Self()}, []peer.ID{b.Self()})
		if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read across the cut: %v", err)
		}
		start := time.Now()
		err = a.Connect(t.Context(), b.Self(), b.Addrs())
		if !errors.Is(err, overlay.ErrUnreachable) || time.Since(start) != 5*time.Second {
			t.Errorf("connect across the cut: %v after %v", err, time.Since(start))
		}
		if _, ok := a.Info(c.Self()); !ok {
			t.Error("the cut separated hosts of one side")
		}
		n.Join([]peer.ID{a.Self(), c.Self()}, []peer.ID{b.Self()})
		if err := b.Connect(t.Context(), a.Self(), a.Addrs()); err != nil {
			t.Errorf("connect after healing: %v", err)
		}
	})
}

// TestMute: a mute connection tells nobody, each end leaves it alone, and a new
// one works beside the end that is left.
func TestMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.WithLatency(10 * time.Millisecond))
		a, b := n.Host(newID(t), "-"), n.Host(newID(t), "")
		defer a.Shutdown()
		defer b.Shutdown()
		ended := make(chan time.Time, 2)
		b.Handle(proto, func(s overlay.Stream) {
			echo(s)
			ended <- time.Now()
		})
		s := dialled(t, a, b)
		n.Mute(a.Self(), b.Self())
		start := time.Now()
		if _, err := s.Write([]byte("x")); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = s.SetReadDeadline(start.Add(5 * time.Second))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Probe(ctx, b.Self()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("probe: %v", err)
		}
		if err := a.Connect(t.Context(), b.Self(), b.Addrs()); err != nil {
			t.Errorf("the dead connection counts: %v", err)
		}
		_ = a.Close(b.Self())
		if _, err := s.Write([]byte("x")); err == nil {
			t.Error("write after the close succeeded")
		}
		again := dialled(t, a, b)
		if _, err := again.Write([]byte("y")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(again, make([]byte, 1)); err != nil {
			t.Errorf("over the new connection: %v", err)
		}
		if got := (<-ended).Sub(start); got != 30*time.Second {
			t.Errorf("the other end lost its stream after %v", got)
		}
		if _, ok := b.Info(a.Self()); !ok {
			t.Error("the new connection went with the old one")
		}
		_ = again.Close()
	})
}

// dialled connects a to b and opens a stream that b has answered on.
func dialled(t *testing.T, a, b *memnet.Host) overlay.Stream {
	t.Helper()
	if err := a.Connect(t.Context(), b.Self(), b.Addrs()); err != nil {
		t.Fatal(err)
	}
	s, err := a.Open(t.Context(), b.Self(), proto)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := n.Host(newID(t), "-"), n.Host(newID(t), "")
		defer a.Shutdown()
		b.Handle(proto, echo)
		addrs := b.Addrs()
		s := dialled(t, a, b)
		start := time.Now()
		b.Vanish()
		if _, ok := a.Info(b.Self()); !ok {
			t.Error("the peer was told")
		}
		if _, err := s.Read(make([]byte, 1)); err == nil || time.Since(start) != 30*time.Second {
			t.Errorf("read: %v after %v", err, time.Since(start))
		}
		if err := a.Connect(t.Context(), b.Self(), addrs); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("connect: %v", err)
		}
	})
}

func TestCrashAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		idB := newID(t)
		a, b := n.Host(newID(t), "-"), n.Host(idB, "/ip4/127.0.0.9/tcp/4001")
		defer a.Shutdown()
		addrs := b.Addrs()
		if err := a.Connect(t.Context(), idB, addrs); err != nil {
			t.Fatal(err)
		}
		if err := b.Connect(t.Context(), a.Self(), a.Addrs()); err != nil {
			t.Errorf("the connection counts for both: %v", err)
		}
		if err := b.Shutdown(); err != nil {
			t.Fatal(err)
		}
		if err := a.Connect(t.Context(), idB, addrs); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("connect to a crashed host: %v", err)
		}
		b = n.Host(idB, "/ip4/127.0.0.9/tcp/4001")
		defer b.Shutdown()
		if err := a.Connect(t.Context(), idB, addrs); err != nil {
			t.Errorf("connect after the restart: %v", err)
		}
		if err := a.Close(idB); err != nil {
			t.Fatal(err)
		}
		if err := b.Connect(t.Context(), a.Self(), nil); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("connect to a host that listens nowhere: %v", err)
		}
	})
}

func TestPacketLoss(t *testing.T) {
	arrived := func(seed uint64) (n int) {
		synctest.Test(t, func(t *testing.T) {
			net := memnet.New(memnet.WithPacketLoss(0.5, 10*time.Millisecond, seed))
			a, b := net.Host(newID(t), ""), net.Host(newID(t), "")
			b.Receive(3, func(peer.ID, []byte) { n++ })
			if err := a.Connect(t.Context(), b.Self(), b.Addrs()); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				if err := a.Send(b.Self(), 3, []byte("maybe")); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute) // virtual: all that is on its way arrives
			synctest.Wait()
			_ = a.Shutdown()
			_ = b.Shutdown()
		})
		return n
	}
	first := arrived(7)
	if first < 60 || first > 140 {
		t.Errorf("%d of 200 packets arrived at a loss of one half", first)
	}
	if again := arrived(7); again != first {
		t.Errorf("the same seed let %d and %d packets through", first, again)
	}
}

func BenchmarkStream(b *testing.B) {
	n := memnet.New()
	x, y := n.Host(newID(b), ""), n.Host(newID(b), "")
	defer x.Shutdown()
	defer y.Shutdown()
	y.Handle(proto, func(s overlay.Stream) { _, _ = io.Copy(io.Discard, s) })
	if err := x.Connect(b.Context(), y.Self(), y.Addrs()); err != nil {
		b.Fatal(err)
	}
	s, err := x.Open(b.Context(), y.Self(), proto)
	if err != nil {
		b.Fatal(err)
	}
	frame := make([]byte, 64<<10)
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, err := s.Write(frame); err != nil {
			b.Fatal(err)
		}
	}
	_ = s.Reset()
}
