package overlay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestNewLogsAreRationed: a pillar that is restarted in a loop begins 16 logs and
// then one a minute, across its restarts; meanwhile it sends submitters to
// others, unless there are none.
func TestNewLogsAreRationed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := bareRig(newTestNetwork(t))
		rig.unscrubbed = true // no time passes between the starts
		key := identity.NewPillarKey()
		mesh := newFakeMesh()
		mesh.others = []overlay.PillarStatus{{State: overlay.PillarAlive, Connected: true}}
		dev := rig.device(nil)
		submit := func(mesh overlay.Mesh) *overlay.Error {
			rig.start(mesh, key)
			defer rig.stop()
			host := rig.net.Host(peer.ID(dev.key.ID()), "-")
			defer host.Shutdown()
			c := dev.openFrom(host).greet()
			c.register()
			return c.one(c.message(c.id())).Err
		}
		for i := range 16 {
			if err := submit(mesh); err != nil {
				t.Fatalf("log %d: %v", i+1, err)
			}
		}
		err := submit(mesh)
		if err == nil || err.Code != overlay.CodeBusy || err.Retry <= 0 || err.Retry > time.Minute {
			t.Fatalf("the 17th: %v", err)
		}
		if err := submit(overlay.NoMesh{}); err != nil {
			t.Errorf("alone: %v", err)
		}
		time.Sleep(err.Retry) // virtual
		if err := submit(mesh); err != nil {
			t.Errorf("when it was told to come again: %v", err)
		}
		if err := submit(mesh); err == nil {
			t.Error("a second one in that minute")
		}
		time.Sleep(time.Hour)
		rig.start(mesh, key)
		defer rig.stop()
		c := dev.session()
		for range 3 { // one log takes any number
			if l := c.one(c.message(c.id())); l.Err != nil {
				t.Error(l.Err)
			}
		}
	})
}
