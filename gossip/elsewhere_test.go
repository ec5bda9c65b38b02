package gossip_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// Providers with room for three send the others on to those three: two hops, and
// each pillar still receives each record once.
func TestElsewhere(t *testing.T) {
	inBubble(t, func(w *world) {
		all := make([]*pillar, 12)
		for i := range all {
			all[i] = w.pillar()
			all[i].config = func(c *gossip.Config) { c.MaxFollowers = 3 }
			all[i].start(all[:min(i, 1)]...)
		}
		until(t, time.Minute, "full mesh", func() bool { return meshed(all...) })
		for range 5 {
			for _, p := range all {
				p.submit(3)
			}
			time.Sleep(200 * time.Millisecond)
		}
		until(t, 10*time.Second, "converged", func() bool { return all[0].disk.Count() == 180 && converged(all...) })
		began := time.Now()
		all[4].submit(1)
		until(t, 5*time.Second, "a record at all", func() bool { return all[0].disk.Count() == 181 && converged(all...) })
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("a record took %s over two hops", took)
		}
		var received, fresh, sent, elsewhere float64
		for _, p := range all {
			received += p.count("entries_received_total")
			fresh += p.count("entries_new_total")
			elsewhere += p.count("elsewhere_total")
			sent = max(sent, p.count("followers"))
		}
		if received > 1.05*fresh {
			t.Errorf("%v entries received for %v new ones", received, fresh)
		}
		if elsewhere < 12*8 {
			t.Errorf("%v follows were sent on, want 8 of each log at least", elsewhere)
		}
		for i, p := range all {
			if n := p.count("follow_faults_total"); n != 0 {
				t.Errorf("%d faulted honest pillars %v times", i, n)
			}
		}
		// A relay that is gone is replaced.
		all[1].stop()
		all[2].stop()
		all[3].stop()
		rest := append(all[:1:1], all[4:]...)
		for _, p := range rest {
			p.submit(1)
		}
		until(t, 20*time.Second, "converged without them", func() bool { return all[0].disk.Count() == 190 && converged(rest...) })
	}, memnet.WithLatency(10*time.Millisecond))
}
