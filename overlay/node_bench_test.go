package overlay_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// BenchmarkNodeSend sends from one node through one pillar, all in memory:
// what is measured is the node's and the pillar's own work.
func BenchmarkNodeSend(b *testing.B) {
	for _, inFlight := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			rig := newPillarRig(b, nil)
			alice, bob := newNodeHome(b, rig.net).start(rig.addr()), newNodeHome(b, rig.net).start(rig.addr())
			alice.send(overlay.StateDelivered, "warm", bob.id())
			body := make([]byte, 512)
			to := []identity.AccountID{bob.id()}
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var work sync.WaitGroup
			for range inFlight {
				work.Go(func() {
					for left.Add(-1) >= 0 {
						m, err := alice.Send(context.Background(), overlay.Outgoing{To: to, Body: body})
						if err == nil {
							_, err = alice.Wait(context.Background(), m.Handle, overlay.StateStored)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			work.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
