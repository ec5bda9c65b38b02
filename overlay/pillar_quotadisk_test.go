package overlay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestQuotaOutlivesRestarts: what somebody owes is owed after a restart, also one
// without a farewell, and forgiven by time and not by damage.
func TestQuotaOutlivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var post letters
		rig := bareRig(newTestNetwork(t))
		key := identity.NewPillarKey()
		quota := func(c *overlay.PillarConfig) { c.Quotas = overlay.Quotas{Author: 512 << 10} }
		rig.start(nil, key, quota)
		defer func() { rig.stop() }()
		device, to := rig.device(nil), rig.device(nil).id()
		session := func() *testClient { // of another device each time
			device = rig.device(device.account)
			return device.session()
		}
		big := func() []byte { return post.mail(device, to, 8<<10, 10*24*time.Hour) }
		c := session()
		fillUp(t, c, big, 100)
		restart := func() {
			rig.stop()
			rig.start(nil, key, quota)
			c = session()
		}
		restart()
		raw := big()
		l := c.one(raw)
		refusedFor(t, l, "after a restart")
		time.Sleep(2 * time.Minute)         // it is saved once a minute
		crashed := rig.store.Memory.Clone() // nothing that a stop writes
		rig.stop()
		rig.store.Memory = crashed
		rig.start(nil, key, quota)
		c = session()
		l = c.one(raw)
		refusedFor(t, l, "after a crash")
		time.Sleep(l.Err.Retry)
		if l := c.one(raw); l.Err != nil {
			t.Errorf("when it was told to come again: %v", l.Err)
		}
		fillUp(t, c, big, 100)
		for _, spoilt := range [][]byte{{1}, nil, make([]byte, 8+3), append(make([]byte, 8), 0xff, 0xff, 0x7f, 0xff, 0, 0, 0, 0, 0, 0)} {
			rig.stop()
			view := rig.store.View()
			var values []overlay.Value
			if err := view.Values("quota/a", func(k string, _ []byte) bool {
				values = append(values, overlay.Value{Key: k, Data: spoilt})
				return true
			}); err != nil {
				t.Fatal(err)
			}
			view.Close()
			if _, err := rig.store.Memory.Commit(&overlay.Commit{Values: values}); err != nil {
				t.Fatal(err)
			}
			rig.start(nil, key, quota)
			c = session()
			if n := fillUp(t, c, big, 100); n < 30 {
				t.Errorf("%d messages were taken where debts of %x are forgiven", n, spoilt)
			}
		}
	})
}
