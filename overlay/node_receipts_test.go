package overlay_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestReceiptOutlivesStaleKey: a device of the author's that has been away for so
// long that its sealing key is about to end does not have the receipt end with it:
// an author who is away for a while would not learn of it, and pillars would take
// the message for unconfirmed.
func TestReceiptOutlivesStaleKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		phone, laptop, bobHome := newNodeHome(t, rig.net), newNodeHome(t, rig.net), newNodeHome(t, rig.net)
		laptop.account = phone.account
		alice, bob, old := phone.start(rig.addr()), bobHome.start(rig.addr()), laptop.start(rig.addr())
		until(t, "two devices", func() bool {
			list, _, _ := bob.Nodes("", 10)
			return slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == alice.id() && len(e.Devices) == 2 })
		})
		for _, n := range []*testNode{alice, bob, old} {
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
		}
		rig.stop()
		time.Sleep(29*24*time.Hour + 12*time.Hour) // virtual
		rig.start(nil, identity.NewPillarKey())
		alice, bob = phone.start(rig.addr()), bobHome.start(rig.addr())
		defer func() {
			alice.stop()
			bob.stop()
		}()
		time.Sleep(26 * time.Hour) // the pillar, which is alone, is sure of its clock again; new keys are told
		m := alice.send(overlay.StateDelivered, "hello", bob.id())
		time.Sleep(time.Minute)
		list := rig.traceOf(*m.ID).Recipients
		if len(list) != 1 || len(list[0].Receipts) == 0 {
			t.Fatalf("%+v", list)
		}
		var ends []uint64
		for _, r := range list[0].Receipts {
			info, ok, err := rig.pillar.Describe(r.ID)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			ends = append(ends, info.Expires)
		}
		slices.Sort(ends)
		if end := millis(m.Expires); len(ends) != 2 || ends[0] > end || ends[1] < end+overlay.DayMillis {
			t.Errorf("of a message that ends at %d the receipts end at %d, want one for the laptop too, whose key is about to end, and one that outlives it by a day", end, ends)
		}
	})
}
