package overlay_test

import (
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// BenchmarkPillarSubmit measures what one record costs from frame to answer:
// verified, deduped, in the log and the store (Pebble on a temporary
// directory, with its fsyncs). Signing is not counted.
func BenchmarkPillarSubmit(b *testing.B) {
	for _, bench := range []struct {
		name  string
		batch int // records in flight, one Submit each time
	}{{"512 in flight", 512}, {"1 in flight", 1}} {
		b.Run(bench.name, func(b *testing.B) {
			db, err := store.OpenPebble(store.PebbleConfig{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			rig := newPillarRig(b, nil, func(c *overlay.PillarConfig) { c.Store = db })
			c := rig.device(nil).session()
			to := []identity.AccountID{rig.device(nil).id()}
			var raws [][]byte
			for n := range b.N {
				raws = append(raws, c.sign(overlay.KindMessage, to, make([]byte, 600), func(d *overlay.Draft) { d.Bin[0], d.Bin[1], d.Bin[2] = byte(n), byte(n>>8), byte(n>>16) }))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for len(raws) > 0 {
				n := min(bench.batch, len(raws))
				c.submit(1, raws[:n]...)
				for _, l := range c.results(n) {
					if l.Err != nil {
						b.Fatal(l.Err)
					}
				}
				raws = raws[n:]
			}
			b.StopTimer()
			rig.stop()
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
