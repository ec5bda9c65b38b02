package gossip_test

import (
	"testing"
	"time"
)

// TestWants loses records that log entries are held of: they are asked for by
// ID, from whoever has them.
func TestWants(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b, c := w.quiet(), w.quiet(), w.quiet()
		a.start()
		raws := w.author.Messages(w.t, 30)
		recs := w.parse(raws)
		a.disk.Submit(raws...)
		b.start(a)
		c.start(a, b)
		until(w.t, 20*time.Second, "all the same", func() bool { return meshed(a, b, c) && converged(a, b, c) })
		b.disk.Lose(recs[3].ID, recs[4].ID, recs[29].ID)
		if n := b.mesh.Wanted(); n != 3 {
			w.t.Errorf("%d records wanted, 3 are lost", n)
		}
		until(w.t, 5*time.Second, "the records back", func() bool { return b.disk.Count() == 30 && b.mesh.Wanted() == 0 })

		// What nobody has is wanted until somebody with it connects.
		lost := recs[7].ID
		c.stop()
		a.disk.Lose(lost)
		b.disk.Lose(lost)
		time.Sleep(10 * time.Second)
		if a.mesh.Wanted() != 1 || b.mesh.Wanted() != 1 {
			w.t.Errorf("%d and %d wanted", a.mesh.Wanted(), b.mesh.Wanted())
		}
		c.restart(a, b)
		until(w.t, 40*time.Second, "the record everywhere", func() bool { return a.disk.Count() == 30 && b.disk.Count() == 30 })
	})
}

// TestWantsExpire: what has expired is wanted no more.
func TestWantsExpire(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b := w.quiet(), w.quiet()
		w.pair(a, b)
		raw := w.author.Message(w.t, 10, time.Minute)
		a.disk.Submit(raw)
		until(w.t, 20*time.Second, "all the same", func() bool { return converged(a, b) })
		id := w.parse([][]byte{raw})[0].ID
		a.disk.Lose(id)
		b.disk.Lose(id)
		time.Sleep(2 * time.Minute)
		if ids := b.mesh.WantedIDs(); len(ids) != 0 {
			w.t.Errorf("still asked for: %v", ids)
		}
	})
}
