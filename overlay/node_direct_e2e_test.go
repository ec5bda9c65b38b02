package overlay_test

import (
	"testing"
	"testing/synctest"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// TestDirectFound: nodes at different pillars find each other by locate, and
// talk with --direct only: no pillar's store ever holds anything of it.
func TestDirectFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLocateWorld(t, 2)
		only := withDirect("only")
		alice, bob := w.node(nil, []int{0}, only), w.node(nil, []int{1}, only)
		w.share() // keys, as replication would
		alice.knows(bob.id(), 1)
		bob.knows(alice.id(), 1)
		// They registered at one pillar each; from now on they can reach the other, too.
		w.rigs[0].net.Heal(peerID(alice), w.rigs[1].host.Self())
		w.rigs[0].net.Heal(peerID(bob), w.rigs[0].host.Self())
		w.rigs[0].net.SetPunch(peerID(alice), peerID(bob), memnet.NeverPunch)
		alice.send(overlay.StateDelivered, "by no pillar", bob.id())
		bob.only("by no pillar")
		bob.send(overlay.StateDelivered, "neither", alice.id())
		if got := alice.only("neither"); got.Path != overlay.PathRelayed {
			t.Errorf("it came %s", got.Path)
		}
		for i, rig := range w.rigs {
			view := rig.store.View()
			defer view.Close()
			var refs []overlay.Ref
			if err := view.Records(0, func(day overlay.Day, r overlay.StoredRecord) bool {
				refs = append(refs, overlay.Ref{ID: r.ID, Day: day})
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if err := view.Get(refs, func(_ int, r overlay.StoredRecord) bool {
				rec, err := overlay.ParseRecord(rig.id, r.Raw)
				if err != nil || rec.Kind != overlay.KindAccount && rec.Kind != overlay.KindDevice {
					t.Errorf("pillar %d holds a %v record, %v", i, rec.Kind, err)
				}
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if len(refs) < 4 {
				t.Errorf("pillar %d holds %d records: the keys of both are missing", i, len(refs))
			}
		}
	})
}
