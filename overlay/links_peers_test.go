package overlay_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// A watcher that is busy while the connections of a peer change gets only what
// still matters.
func TestPeerTableMerges(t *testing.T) {
	const (
		connected, upgraded, lost = overlay.PeerConnected, overlay.PeerUpgraded, overlay.PeerLost
		direct, relayed           = overlay.PathDirect, overlay.PathRelayed
	)
	add := func(path overlay.Path) func(*overlay.PeerTable) {
		return func(table *overlay.PeerTable) { table.Add("peer", path) }
	}
	remove := func(path overlay.Path) func(*overlay.PeerTable) {
		return func(table *overlay.PeerTable) { table.Remove("peer", path) }
	}
	type steps []func(*overlay.PeerTable)
	for name, c := range map[string]struct {
		do   steps
		want []overlay.PeerChange
	}{
		"connected":                      {steps{add(direct)}, []overlay.PeerChange{connected}},
		"second connection":              {steps{add(direct), add(direct), remove(direct)}, []overlay.PeerChange{connected}},
		"upgraded":                       {steps{add(relayed), add(direct)}, []overlay.PeerChange{connected, upgraded}},
		"relayed beside direct":          {steps{add(direct), add(relayed)}, []overlay.PeerChange{connected}},
		"upgraded twice":                 {steps{add(relayed), add(direct), remove(direct), add(direct)}, []overlay.PeerChange{connected, upgraded}},
		"circuit closed after upgrade":   {steps{add(relayed), add(direct), remove(relayed)}, []overlay.PeerChange{connected, upgraded}},
		"lost":                           {steps{add(relayed), add(direct), remove(direct), remove(relayed)}, []overlay.PeerChange{lost}},
		"lost and back":                  {steps{add(direct), remove(direct), add(direct)}, []overlay.PeerChange{lost, connected}},
		"lost, back by circuit, punched": {steps{add(direct), remove(direct), add(relayed), add(direct)}, []overlay.PeerChange{lost, connected, upgraded}},
		"often":                          {steps{add(direct), remove(direct), add(direct), remove(direct), add(relayed)}, []overlay.PeerChange{lost, connected}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var table overlay.PeerTable
			table.Add("other", direct)
			ctx, cancel := context.WithCancel(t.Context())
			release := make(chan struct{})
			var got []overlay.PeerChange
			go table.Watch(ctx, func(e overlay.PeerEvent) {
				if e.Peer == "other" {
					<-release
					return
				}
				got = append(got, e.What)
			})
			synctest.Wait() // busy with the other peer
			for _, step := range c.do {
				step(&table)
			}
			close(release)
			synctest.Wait()
			cancel()
			synctest.Wait()
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		})
	}
}

// Many peers, one slow watcher: nobody's newest change is left out.
func TestPeerTableManyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table overlay.PeerTable
		ctx, cancel := context.WithCancel(t.Context())
		last := make(map[peer.ID]overlay.PeerChange)
		go table.Watch(ctx, func(e overlay.PeerEvent) { last[e.Peer] = e.What })
		synctest.Wait()
		for i := range 1000 {
			p := peer.ID([]byte{byte(i), byte(i >> 8)})
			table.Add(p, overlay.PathDirect)
			if i%2 == 0 {
				table.Remove(p, overlay.PathDirect)
			}
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		for i := range 1000 {
			want := overlay.PeerConnected
			if i%2 == 0 {
				want = overlay.PeerLost
			}
			if got := last[peer.ID([]byte{byte(i), byte(i >> 8)})]; got != want {
				t.Fatalf("peer %d: %v, want %v", i, got, want)
			}
		}
	})
}
