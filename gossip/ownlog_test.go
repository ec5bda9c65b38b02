package gossip_test

import (
	"testing"
	"time"
)

// A pillar whose disk lost part of the log that it writes gets it back from
// those who have it, without anything being submitted before.
func TestOwnLogIsFilledAgain(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		end := a.submit(10)
		until(t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		a.disk.Rewind(end.Log, 5)
		until(t, 10*time.Second, "all of it again", func() bool { return a.held(end.Log).Position == end })
		next := a.submit(3)
		if next.Log == end.Log {
			t.Fatal("a log that was told of is written otherwise")
		}
		until(t, 5*time.Second, "converged again", func() bool { return converged(a, b) })
		if n := len(a.mesh.SyncStatus().Forks); n != 0 {
			t.Errorf("%d forks", n)
		}
	})
}
