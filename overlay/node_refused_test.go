package overlay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestNodeQuotaElsewhere: what one pillar refuses for its quota, for longer than is
// worth waiting, the standby is given; where both refuse, the node does not go back
// and forth.
func TestNodeQuotaElsewhere(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		until(t, "a standby", func() bool { return alice.Status().Standby != "" })
		full := alice.Status().Pillar
		both := false
		refused := 0
		c.mu.Lock()
		c.judge = func(p *fakePillar, rec *overlay.Record) *overlay.Error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if rec.Kind != overlay.KindMessage || string(rec.Account()) != string(alice.id()) || p.id() != full && !both {
				return nil
			}
			refused++
			err := overlay.Refuse(overlay.CodeQuota, "used up")
			err.Retry = time.Hour
			return err
		}
		c.mu.Unlock()
		began := time.Now()
		alice.send(overlay.StateDelivered, "elsewhere", bob.id())
		if took := time.Since(began); took > 10*time.Second || alice.Status().Pillar == full {
			t.Errorf("delivered after %s, the active pillar is still the one that refuses: %v", took, alice.Status().Pillar == full)
		}
		c.mu.Lock()
		both, refused = true, 0
		c.mu.Unlock()
		m, err := alice.Send(t.Context(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, Type: overlay.BodyText, Body: []byte("nowhere")})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute) // virtual
		c.mu.Lock()
		n := refused
		c.mu.Unlock()
		if m, _ = alice.Sent(m.Handle); m.State != overlay.StateQueued || m.Reason != overlay.CodeQuota || n < 3 || n > 20 {
			t.Errorf("%s, %s, refused %d times in half an hour", m.State, m.Reason, n)
		}
	})
}

// TestNodeRegistrationClosed: a pillar that takes only accounts which its operator
// allowed is alive, the node says why it is not used, and uses it within seconds once
// it is allowed.
func TestNodeRegistrationClosed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		closed := true
		c.mu.Lock()
		c.seen = func(_ *fakePillar, s *fakeSession, m overlay.Message) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			if _, register := m.(*overlay.Register); register && closed {
				s.send(&overlay.Registered{Err: overlay.Refuse(overlay.CodeRegistrationClosed, "closed")})
				return true
			}
			return false
		}
		c.mu.Unlock()
		n := newNodeHome(t, c.net).start(c.addrs())
		time.Sleep(5 * time.Minute) // virtual
		if p := n.Pillars()[0]; p.State != overlay.PillarAlive || p.Reason != overlay.CodeRegistrationClosed {
			t.Errorf("%s, %s", p.State, p.Reason)
		}
		c.mu.Lock()
		closed = false
		c.mu.Unlock()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if p := n.Pillars()[0]; !p.Active || p.Reason != "" {
			t.Errorf("active %v, %s", p.Active, p.Reason)
		}
	})
}
