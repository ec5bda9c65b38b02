package gossip_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

func (p *pillar) trouble(q *pillar) overlay.Trouble {
	p.w.t.Helper()
	for _, s := range p.mesh.Pillars() {
		if s.ID == q.key.ID() {
			return s.Trouble
		}
	}
	p.w.t.Fatal("the pillar is not in the roster")
	return overlay.Trouble{}
}

// TestWhyNotConnected: a pillar says why another is not connected, since when and
// when it tries next, whatever the reason; and nothing while it is.
func TestWhyNotConnected(t *testing.T) {
	inBubble(t, func(w *world) {
		t := w.t
		a := w.pillar().start()
		b, c := w.pillar().start(a), w.pillar().start(a)
		until(t, 10*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		if x := a.trouble(b); x.Error != "" || x.ErrorSince != nil || x.NextTry != nil || x.Trying {
			t.Errorf("connected: %+v", x)
		}

		at := time.Now()
		b.stop()
		time.Sleep(10 * time.Minute) // virtual
		x := a.trouble(b)
		if x.Error != "connection refused over TCP" || x.ErrorCode != overlay.CodeUnreachable || len(x.Attempts) != 1 ||
			x.Attempts[0].Addr != b.where().Addr.String() || x.Attempts[0].Fault != overlay.FaultRefused {
			t.Errorf("stopped: %+v", x)
		}
		if d := x.ErrorSince.Sub(at); d < 0 || d > time.Second || x.ErrorAt.Sub(at) < 5*time.Minute {
			t.Errorf("stopped at %v: since %v, tried at %v", at, x.ErrorSince, x.ErrorAt)
		}
		if x.NextTry == nil && !x.Trying {
			t.Fatal("no next try")
		}
		if x.NextTry != nil {
			if d := time.Until(*x.NextTry); d < 0 || d > 2*time.Minute {
				t.Errorf("next try in %v", d)
			}
			time.Sleep(time.Until(*x.NextTry) + 100*time.Millisecond) // it keeps its word
			if y := a.trouble(b); !y.ErrorAt.After(*x.ErrorAt) || !y.ErrorSince.Equal(*x.ErrorSince) {
				t.Errorf("not tried at %v: %+v", x.NextTry, y)
			}
		}
		b.restart()
		until(t, 5*time.Minute, "back", func() bool { return meshed(a, b, c) })
		if x := a.trouble(b); x.Error != "" || x.ErrorSince != nil {
			t.Errorf("back: %+v", x)
		}

		// Nothing of it comes through any more.
		at = time.Now()
		w.net.Cut(a.id(), b.id())
		until(t, 5*time.Minute, "timed out", func() bool { return a.trouble(b).Error == "timed out over TCP" })
		if x := a.trouble(b); x.ErrorSince.Before(at) || x.Attempts[0].Fault != overlay.FaultTimeout {
			t.Errorf("cut off: %+v", x)
		}
		w.net.Heal(a.id(), b.id())
		until(t, 5*time.Minute, "healed", func() bool { return meshed(a, b, c) })

		// No pillar any more: it is not tried.
		time.Sleep(time.Second)
		at = time.Now()
		a.revoke(c)
		until(t, 10*time.Second, "parted", func() bool { return a.sees(c) != overlay.PillarAlive })
		x = a.trouble(c)
		if x.Error != "its admission was revoked: it is no pillar any more" || x.ErrorCode != overlay.CodeNotAdmitted || x.NextTry != nil || x.Trying {
			t.Errorf("revoked: %+v", x)
		}
		if d := x.ErrorSince.Sub(at).Abs(); d > time.Second {
			t.Errorf("revoked at %v, since %v", at, x.ErrorSince)
		}
		until(t, time.Minute, "the revoked one knows why", func() bool {
			return c.trouble(a).Error == "not admitted: this pillar itself is none any more"
		})
	})
}

// TestWhyNotByClock: an admission that is in force only by the other's clock is said
// to be a matter of clocks.
func TestWhyNotByClock(t *testing.T) {
	inBubble(t, func(w *world) {
		t := w.t
		a, b := w.pillar(), w.pillar()
		skew := b.skew()
		a.start()
		skew.Store(int64(40 * 24 * time.Hour))
		b.start(a)
		want := overlay.Trouble{Error: "the clocks differ: this machine's is 960h0m0s ahead of that pillar's, and an admission is in force by one only", ErrorCode: overlay.CodeClockWrong}
		a.roster.Add(uint64(time.Now().UnixMilli()), true, b.record.Load().Raw)
		b.roster.Add(uint64(time.Now().UnixMilli()), true, a.record.Load().Raw)
		until(t, 5*time.Minute, "a reason", func() bool { return b.trouble(a).ErrorCode == want.ErrorCode })
		if x := b.trouble(a); x.Error != want.Error {
			t.Errorf("%q, want %q", x.Error, want.Error)
		}
	})
}
