package overlay_test

import (
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// BenchmarkScrub is a first pass over a store on disk where nothing is wrong:
// 20,000 messages in one log and in a mailbox. Half of the time it waits.
func BenchmarkScrub(b *testing.B) {
	disk, err := store.OpenPebble(store.PebbleConfig{Dir: b.TempDir(), Memory: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	rig := newPillarRig(b, nil, func(c *overlay.PillarConfig) { c.Store = disk })
	b.Cleanup(func() {
		rig.stop()
		disk.Close()
	})
	const n = 20_000
	alice, bob := rig.device(nil), rig.device(nil)
	log := newHandLog(rig)
	for range n {
		log.add(overlay.BatchEntry{Raw: alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, make([]byte, 512), func(d *overlay.Draft) {
			d.Created -= uint64(len(log.entries))
		})})
	}
	for from := uint64(1); from <= n; from += 2000 {
		log.apply(from, from+1999)
	}
	for b.Loop() {
		if err := overlay.ScrubNow(b.Context(), rig.pillar); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
