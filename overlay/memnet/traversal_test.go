package memnet_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// behind runs fn with two guarded hosts that are connected with a pillar and
// that have admitted each other.
func behind(t *testing.T, fn func(n *memnet.Network, a, b, pillar *memnet.Host), opts ...memnet.Option) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(opts...)
		a, b, pillar := n.Host(newID(t), "-"), n.Host(newID(t), "-"), n.Host(newID(t), "")
		for _, h := range []*memnet.Host{a, b, pillar} {
			defer h.Shutdown()
		}
		for _, h := range []*memnet.Host{a, b} {
			h.Guard()
			if err := h.Connect(t.Context(), pillar.Self(), pillar.Addrs()); err != nil {
				t.Fatal(err)
			}
		}
		a.Admit(b.Self(), time.Now().Add(time.Hour))
		b.Admit(a.Self(), time.Now().Add(time.Hour))
		fn(n, a, b, pillar)
	})
}

func via(pillar *memnet.Host) []overlay.PillarAddr {
	return []overlay.PillarAddr{{Pillar: identity.PillarID(pillar.Self()), Addr: pillar.Addrs()[0]}}
}

func path(h *memnet.Host, p peer.ID) overlay.Path {
	info, _ := h.Info(p)
	return info.Path
}

func TestPunchNever(t *testing.T) {
	behind(t, func(_ *memnet.Network, a, b, pillar *memnet.Host) {
		if err := a.DialThrough(t.Context(), b.Self(), via(pillar)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // virtual
		if got := path(a, b.Self()); got != overlay.PathRelayed {
			t.Errorf("path %q after an hour", got)
		}
	}, memnet.WithPunch(memnet.NeverPunch))
}

func TestPunchInItsTime(t *testing.T) {
	behind(t, func(n *memnet.Network, a, b, pillar *memnet.Host) {
		n.SetPunch(a.Self(), b.Self(), 3*time.Second)
		if err := a.DialThrough(t.Context(), b.Self(), via(pillar)); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			wait time.Duration
			want overlay.Path
		}{{2999 * time.Millisecond, overlay.PathRelayed}, {2 * time.Millisecond, overlay.PathDirect}, {time.Minute, overlay.PathDirect}} {
			time.Sleep(step.wait) // virtual
			synctest.Wait()
			if got := path(b, a.Self()); got != step.want {
				t.Errorf("path %q, want %q", got, step.want)
			}
		}
		n.Cut(a.Self(), b.Self())
		if got := path(a, b.Self()); got != overlay.PathNone {
			t.Errorf("path %q after the only connection was cut", got)
		}
	})
}

func TestCutPreventsPunching(t *testing.T) {
	behind(t, func(n *memnet.Network, a, b, pillar *memnet.Host) {
		n.Cut(a.Self(), b.Self())
		if err := a.DialThrough(t.Context(), b.Self(), via(pillar)); err != nil {
			t.Fatalf("a circuit does not need the way that is cut: %v", err)
		}
		time.Sleep(time.Minute) // virtual
		if got := path(a, b.Self()); got != overlay.PathRelayed {
			t.Errorf("path %q across the cut", got)
		}
	})
}

func TestCircuitEndsWithItsPillar(t *testing.T) {
	behind(t, func(_ *memnet.Network, a, b, pillar *memnet.Host) {
		b.Handle(proto, echo)
		if err := a.DialThrough(t.Context(), b.Self(), via(pillar)); err != nil {
			t.Fatal(err)
		}
		s, err := a.Open(t.Context(), b.Self(), proto)
		if err != nil {
			t.Fatal(err)
		}
		pillar.Kill()
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("a stream outlived the pillar its circuit goes through")
		}
		if path(a, b.Self()) != overlay.PathNone || path(b, a.Self()) != overlay.PathNone {
			t.Error("the circuit outlived its pillar")
		}
	}, memnet.WithPunch(memnet.NeverPunch))
}

func TestFullPillar(t *testing.T) {
	behind(t, func(_ *memnet.Network, a, b, pillar *memnet.Host) {
		pillar.SetFull(true)
		err := a.DialThrough(t.Context(), b.Self(), via(pillar))
		if !errors.Is(err, overlay.ErrUnreachable) || !errors.Is(err, overlay.ErrFull) {
			t.Errorf("through a full pillar: %v", err)
		}
		err = a.DialThrough(t.Context(), b.Self(), append(via(pillar), overlay.PillarAddr{Pillar: identity.PillarID(newID(t))}))
		if !errors.Is(err, overlay.ErrFull) {
			t.Errorf("a full pillar, then one that is not there: %v", err)
		}
		pillar.SetFull(false)
		if err := a.DialThrough(t.Context(), b.Self(), via(pillar)); err != nil {
			t.Error(err)
		}
	})
}

func TestGuardRefusesDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := n.Host(newID(t), ""), n.Host(newID(t), "")
		defer a.Shutdown()
		defer b.Shutdown()
		b.Guard()
		if err := a.Connect(t.Context(), b.Self(), b.Addrs()); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("a stranger connects directly: %v", err)
		}
		b.Admit(a.Self(), time.Now().Add(time.Minute))
		if err := a.Connect(t.Context(), b.Self(), b.Addrs()); err != nil {
			t.Error(err)
		}
	})
}

func TestNearby(t *testing.T) {
	near := func(s string) overlay.Vicinity {
		return overlay.Vicinity{Public: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, Near: []multiaddr.Multiaddr{multiaddr.StringCast(s)}}
	}
	behind(t, func(_ *memnet.Network, a, b, pillar *memnet.Host) {
		a.SetVicinity(near("/ip4/192.168.1.2/tcp/4001"))
		if err := a.DialThrough(t.Context(), b.Self(), via(pillar)); err != nil {
			t.Fatal(err)
		}
		b.SetVicinity(near("/ip4/192.168.2.3/tcp/4001"))
		if err := a.DialNear(t.Context(), b.Self(), b.Vicinity().Near); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("an address of another network: %v", err)
		}
		b.SetVicinity(near("/ip4/192.168.1.3/tcp/4001"))
		if err := a.DialNear(t.Context(), b.Self(), b.Vicinity().Near); !errors.Is(err, overlay.ErrUnreachable) {
			t.Errorf("again at once: %v", err)
		}
		time.Sleep(5 * time.Second) // virtual
		if err := a.DialNear(t.Context(), b.Self(), b.Vicinity().Near); err != nil {
			t.Error(err)
		}
		if got := path(b, a.Self()); got != overlay.PathDirect {
			t.Errorf("path %q", got)
		}
	}, memnet.WithPunch(memnet.NeverPunch))
}
