package gossip_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// A log that has died is unreachable to nobody: not where it never came, though
// summaries told of it, and not where it was held and dropped.
func TestDeadLogsAreNotUnreachable(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 20*time.Second, "meshed", func() bool { return meshed(a, b) })
		end := a.disk.Submit(w.author.Message(t, 20, 2*time.Minute))
		until(t, 10*time.Second, "converged", func() bool { return converged(a, b) })
		time.Sleep(time.Minute)
		until(t, time.Minute, "a summary with the log's head", func() bool {
			for _, s := range b.mesh.Summaries() {
				if s.Pillar == a.key.ID() && s.Head.Seq == 1 {
					return true
				}
			}
			return false
		})
		time.Sleep(3 * time.Minute)
		c := w.pillar().start(a) // it died before c came
		until(t, 20*time.Second, "meshed", func() bool { return meshed(a, b, c) })
		time.Sleep(time.Minute)
		if list := c.mesh.SyncStatus().Unreachable; len(list) != 0 {
			t.Errorf("named by who never had it: %+v", list)
		}
		for _, p := range []*pillar{a, b} { // as a pillar does an hour later, if nobody looked meanwhile
			if err := p.disk.Drop(w.t.Context(), end.Log); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for _, p := range []*pillar{a, b, c} {
			if list := p.mesh.SyncStatus().Unreachable; len(list) != 0 {
				t.Errorf("named after it was dropped: %+v", list)
			}
		}
	})
}

// What a pillar that is away had is named until it dies, or its pillar is back
// and tells nothing of it.
func TestUnreachableOfWhoIsAway(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 20*time.Second, "meshed", func() bool { return meshed(a, b) })
		end := a.submit(3)
		until(t, 10*time.Second, "converged", func() bool { return converged(a, b) })
		time.Sleep(30 * time.Second)
		b.stop()
		a.submit(4)
		time.Sleep(30 * time.Second)
		c := w.pillar().start(a)
		until(t, 20*time.Second, "a session", func() bool { return c.count("sessions") == 1 })
		until(t, time.Minute, "the log", func() bool { return c.held(end.Log).Seq == 7 })
		time.Sleep(30 * time.Second)
		a.stop()
		time.Sleep(time.Second)
		c.disk.Rewind(end.Log, 6) // as if its disk had lost the end of it
		until(t, time.Minute, "the end of it named", func() bool {
			list := c.mesh.SyncStatus().Unreachable
			return len(list) == 1 && list[0] == overlay.Unreachable{Pillar: a.key.ID(), Log: end.Log, From: 6, To: 7}
		})
		time.Sleep(25 * time.Hour) // a message of this author lives for a day
		if list := c.mesh.SyncStatus().Unreachable; len(list) != 0 {
			t.Errorf("named after it died: %+v", list)
		}
	})
}
