package relay_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

const mib = 1 << 20

// relaying makes a pillar with small limits and what it counts.
func relaying(t testing.TB, limits relay.RelayLimits, user func(peer.ID) relay.RelayUser) (*relay.Host, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	return listening(t, relay.Config{Role: relay.RolePillar, Relay: limits, RelayUser: user, Registerer: reg}, tcp), reg
}

// welcoming makes a node that lets all hosts in and echoes.
func welcoming(t testing.TB, from ...*relay.Host) *relay.Host {
	t.Helper()
	h := newHost(t, relay.Config{})
	h.Handle(proto, echo)
	for _, f := range from {
		h.Admit(f.Self(), time.Now().Add(time.Hour))
	}
	return h
}

func TestRelayClasses(t *testing.T) {
	classes := make(map[peer.ID]relay.RelayUser)
	pillar, reg := relaying(t, relay.RelayLimits{}, func(p peer.ID) relay.RelayUser { return classes[p] })
	stranger, node, other := newHost(t, relay.Config{}), newHost(t, relay.Config{}), newHost(t, relay.Config{})
	target, home := welcoming(t, stranger, node, other), welcoming(t, stranger, node, other)
	classes[node.Self()] = relay.RelayUser{Class: relay.RelayNode, Account: "alice"}
	classes[target.Self()] = relay.RelayUser{Class: relay.RelayNode, Account: "bob"}
	classes[other.Self()] = relay.RelayUser{Class: relay.RelayPillar}
	classes[home.Self()] = relay.RelayUser{Class: relay.RelayHomePillar}
	reserved(t, target, pillar)
	reserved(t, home, pillar)
	if err := stranger.Connect(within(t), pillar.Self(), pillar.Addrs()); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Reserve(within(t), pillar.Self()); !errors.Is(err, overlay.ErrFull) {
		t.Errorf("a stranger's reservation: %v", err)
	}
	for _, c := range []struct {
		what     string
		from, to *relay.Host
		ok       bool
	}{
		{"node to node", node, target, true},
		{"node to home pillar", node, home, true},
		{"pillar to node", other, target, true},
		{"pillar to home pillar", other, home, true},
		{"stranger to home pillar", stranger, home, true},
		{"stranger to node", stranger, target, false},
	} {
		err := c.from.DialThrough(within(t), c.to.Self(), via(pillar))
		switch {
		case c.ok && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case !c.ok && !errors.Is(err, overlay.ErrUnreachable):
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if n := counter(t, reg, "obelisk_relay_refused_total", "stranger"); n != 2 {
		t.Errorf("%v strangers refused, want 2", n)
	}
	if n := counter(t, reg, "obelisk_relay_circuit_requests_total", "made"); n != 5 {
		t.Errorf("%v circuits made, want 5", n)
	}
	if n := pillar.Circuits(); n != 5 {
		t.Errorf("%d circuits, want 5", n)
	}
	for _, h := range []*relay.Host{node, other, stranger} {
		h.Close(target.Self())
		h.Close(home.Self())
	}
	eventually(t, func() bool { return pillar.Circuits() == 0 })
}

func TestCircuitBudgets(t *testing.T) {
	all := func(account string) func(peer.ID) relay.RelayUser {
		return func(peer.ID) relay.RelayUser { return relay.RelayUser{Class: relay.RelayNode, Account: account} }
	}
	for reason, c := range map[string]struct {
		limits relay.RelayLimits
		user   func(peer.ID) relay.RelayUser
	}{
		"account": {relay.RelayLimits{AccountBytes: 2 * mib, AccountRate: 1}, all("alice")},
		"prefix":  {relay.RelayLimits{PrefixBytes: 2 * mib, PrefixRate: 1}, nil},
		"total":   {relay.RelayLimits{TotalBytes: 2 * mib, TotalRate: 1}, nil},
		"open":    {relay.RelayLimits{Circuits: 2}, nil},
	} {
		t.Run(reason, func(t *testing.T) {
			c.limits.Data = mib
			pillar, reg := relaying(t, c.limits, c.user)
			var from []*relay.Host
			for range 3 {
				from = append(from, newHost(t, relay.Config{}))
			}
			target := welcoming(t, from...)
			reserved(t, target, pillar)
			for i, h := range from {
				err := h.DialThrough(within(t), target.Self(), via(pillar))
				if i < 2 && err != nil {
					t.Errorf("circuit %d: %v", i, err)
				}
				if i == 2 && (!errors.Is(err, overlay.ErrFull) || !errors.Is(err, overlay.ErrUnreachable)) {
					t.Errorf("circuit %d: %v", i, err)
				}
			}
			if n := counter(t, reg, "obelisk_relay_refused_total", reason); n != 1 {
				t.Errorf("%v refused, want 1", n)
			}
			if reason != "open" {
				return
			}
			// A place that becomes free can be taken; budgets only fill again.
			if err := from[0].Close(target.Self()); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return pillar.Circuits() == 1 })
			eventually(t, func() bool { return from[2].DialThrough(within(t), target.Self(), via(pillar)) == nil })
		})
	}
}

// Asking in vain costs little of the budget.
func TestUnmadeCircuitsAreNotCharged(t *testing.T) {
	pillar, reg := relaying(t, relay.RelayLimits{Data: mib, AccountBytes: 2 * mib, AccountRate: 1}, nil)
	a, absent := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	for range 10 {
		if err := a.DialThrough(within(t), absent.Self(), via(pillar)); err == nil || errors.Is(err, overlay.ErrFull) {
			t.Fatalf("to somebody without a reservation: %v", err)
		}
	}
	b := welcoming(t, a)
	reserved(t, b, pillar)
	if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
		t.Error(err)
	}
	if n := counter(t, reg, "obelisk_relay_circuit_requests_total", "unreserved"); n != 10 {
		t.Errorf("%v unreserved, want 10", n)
	}
}

// A refusal for want of room, and the node goes on to the next pillar.
func TestFullPillarIsLeft(t *testing.T) {
	full, _ := relaying(t, relay.RelayLimits{Circuits: 1}, nil)
	roomy, _ := relaying(t, relay.RelayLimits{}, nil)
	a, other := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	b := welcoming(t, a, other)
	reserved(t, b, full)
	reserved(t, b, roomy)
	if err := other.DialThrough(within(t), b.Self(), via(full)); err != nil {
		t.Fatal(err)
	}
	if err := a.DialThrough(within(t), b.Self(), via(full, roomy)); err != nil {
		t.Fatal(err)
	}
	if full.Circuits() != 1 || roomy.Circuits() != 1 {
		t.Errorf("%d and %d circuits", full.Circuits(), roomy.Circuits())
	}
}

// Ten megabytes in messages, through circuits that carry two: each cut shows as
// an error, and what was not confirmed goes again.
func TestTenMegabytes(t *testing.T) {
	pillar, _ := relaying(t, relay.RelayLimits{Data: 2 * mib}, nil)
	a, b := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	const (
		messages = 160
		size     = 64 << 10
	)
	got := make(map[uint32][]byte)
	done := make(chan struct{}, 1)
	lock := make(chan struct{}, 1)
	b.Handle(proto, func(s overlay.Stream) {
		defer s.Reset()
		for {
			buf := make([]byte, 4+size)
			for n := 0; n < len(buf); {
				m, err := s.Read(buf[n:])
				if n += m; err == io.EOF && n > 0 && n < len(buf) {
					t.Error("a message was cut with a clean end of the stream")
				}
				if err != nil {
					return
				}
			}
			lock <- struct{}{}
			got[binary.BigEndian.Uint32(buf)] = buf[4:]
			<-lock
			if _, err := s.Write(buf[:4]); err != nil {
				return
			}
		}
	})
	reserved(t, b, pillar)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	circuits, next := 0, uint32(0)
	send := func() error {
		if err := a.DialThrough(ctx, b.Self(), via(pillar)); err != nil {
			return err
		}
		s, err := a.Open(ctx, b.Self(), proto)
		if err != nil {
			return err
		}
		defer s.Reset()
		circuits++
		for next < messages {
			_ = s.SetReadDeadline(time.Now().Add(patience))
			_ = s.SetWriteDeadline(time.Now().Add(patience))
			buf := append(binary.BigEndian.AppendUint32(nil, next), bytes.Repeat([]byte{byte(next)}, size)...)
			if _, err := s.Write(buf); err != nil {
				return err
			}
			if _, err := io.ReadFull(s, buf[:4]); err != nil {
				return err
			}
			next++
		}
		done <- struct{}{}
		return nil
	}
	for ctx.Err() == nil && next < messages {
		if err := send(); err != nil {
			t.Logf("circuit %d ended before message %d: %v", circuits, next, err)
		}
	}
	if len(got) != messages || len(done) != 1 {
		t.Fatalf("%d of %d messages came", len(got), messages)
	}
	for i, m := range got {
		if !bytes.Equal(m, bytes.Repeat([]byte{byte(i)}, size)) {
			t.Fatalf("message %d is damaged", i)
		}
	}
	if circuits < 5 {
		t.Errorf("%d circuits of 2 MiB for 10 MiB", circuits)
	}
}

// Who writes until the circuit is cut, and who reads, both get an error.
func TestCutIsNoEnd(t *testing.T) {
	pillar, _ := relaying(t, relay.RelayLimits{Data: mib}, nil)
	a, b := newHost(t, relay.Config{}), newHost(t, relay.Config{})
	b.Admit(a.Self(), time.Now().Add(time.Hour))
	ended := make(chan error, 1)
	b.Handle(proto, func(s overlay.Stream) {
		_, err := io.Copy(io.Discard, s)
		ended <- err
		_ = s.Reset()
	})
	reserved(t, b, pillar)
	if err := a.DialThrough(within(t), b.Self(), via(pillar)); err != nil {
		t.Fatal(err)
	}
	s, err := a.Open(within(t), b.Self(), proto)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	_ = s.SetWriteDeadline(time.Now().Add(patience))
	chunk := make([]byte, 32<<10)
	for err == nil {
		_, err = s.Write(chunk)
	}
	if err := <-ended; err == nil {
		t.Error("the reader saw a clean end")
	}
}

func TestRelayLimitsConfig(t *testing.T) {
	for name, l := range map[string]relay.RelayLimits{
		"negative circuits": {Circuits: -1},
		"negative data":     {Data: -1},
		"budget too small":  {Data: mib, AccountBytes: mib - 1},
		"short life":        {Duration: time.Millisecond},
	} {
		if h, err := relay.New(relay.Config{Key: newKey(t), Role: relay.RolePillar, Relay: l}); !errors.Is(err, relay.ErrConfig) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = h.Shutdown()
			}
		}
	}
}
