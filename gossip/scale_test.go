package gossip_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// Many pillars that all start from one find each other, and every record
// reaches each of them once.
func TestManyPillars(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		all := make([]*pillar, 8)
		for i := range all {
			all[i] = w.pillar().start(all[:min(i, 1)]...)
		}
		began := time.Now()
		until(t, time.Minute, "full mesh", func() bool { return meshed(all...) })
		t.Logf("full mesh after %s", time.Since(began))
		for range 3 {
			for _, p := range all {
				p.submit(2)
			}
			time.Sleep(50 * time.Millisecond)
		}
		want := len(all) * 6
		until(t, 5*time.Second, "converged", func() bool { return all[0].disk.Count() == want && converged(all...) })
		var received, fresh float64
		for _, p := range all {
			received += p.count("entries_received_total")
			fresh += p.count("entries_new_total")
		}
		if received > 1.05*fresh {
			t.Errorf("%v entries received for %v new ones", received, fresh)
		}
		time.Sleep(25 * time.Second)
		for _, p := range all {
			if n := len(p.mesh.Summaries()); n != len(all) {
				t.Errorf("%d summaries, want one of each", n)
			}
		}
		stopAll(all)
	}, memnet.WithLatency(20*time.Millisecond))
}

// A renewed record reaches everybody, also over a session that is open.
func TestRecordRenewed(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b, c := w.pillar(), w.pillar(), w.pillar()
		a.admit, b.admit, c.admit = 10*time.Minute, 10*time.Minute, 10*time.Minute
		a.start()
		b.start(a)
		c.start(a)
		until(t, 10*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		time.Sleep(time.Minute)
		record := a.renew()
		until(t, 5*time.Second, "the new record", func() bool {
			x, _ := b.roster.Lookup(a.key.ID())
			y, _ := c.roster.Lookup(a.key.ID())
			return x.Record.ID == record.ID && y.Record.ID == record.ID
		})
		// Who is not admitted any more loses its sessions.
		time.Sleep(6 * time.Minute)
		a.renew()
		b.renew()
		until(t, 5*time.Second, "still meshed", func() bool { return meshed(a, b, c) })
		time.Sleep(4 * time.Minute) // c's admission is over
		until(t, 5*time.Second, "without c", func() bool { return c.count("sessions") == 0 && a.count("sessions") == 1 })
		c.renew()
		until(t, 3*time.Minute, "with c again", func() bool { return meshed(a, b, c) })
	})
}
