package gossip_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// A gap that the only holder of a log has too keeps nobody from what lies behind
// it, and is not asked for again and again; nor does what he cannot serve,
// because the head that it leads to was lost in a crash.
func TestGapOfAHolder(t *testing.T) {
	for _, c := range []struct {
		name   string
		ends   []uint64 // where it has signed heads
		prefix uint64   // what can be had of it
	}{
		{"a gap", []uint64{10, 19, 30}, 10},
		{"a lost head", []uint64{19, 30}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				log := replicatest.NewLog(w.key.ID(), identity.NewPillarKey())
				log.Add(t, w.author.Messages(t, 30)...)
				b := w.pillar().hold(log, 1, 10).hold(log, 20, 30)
				var ends []*overlay.Head
				for _, seq := range c.ends {
					ends = append(ends, log.Head(seq))
				}
				if err := gossip.SaveHeads(b.disk, log.ID, nil, ends...); err != nil {
					t.Fatal(err)
				}
				b.start()
				a := w.pillar().start(b)
				until(t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
				until(t, 10*time.Second, "what lies behind the gap", func() bool {
					st := a.held(log.ID)
					return st.Seq == c.prefix && len(st.Islands) == 1 && st.Islands[0].End.Seq == 30
				})
				before := a.opened.Load()
				time.Sleep(time.Minute)
				if n := a.opened.Load() - before; n > 15 {
					t.Errorf("%d streams in a minute for what nobody has", n)
				}
				if n := a.count("offences_total"); n > 0 {
					t.Errorf("%v offences", n)
				}
			})
		})
	}
}

// Whatever a pillar tells of a log it can serve after a crash, though nothing was
// written but what was committed with the entries.
func TestEndsSurviveACrash(t *testing.T) {
	inBubble(t, func(w *world) {
		log := replicatest.NewLog(w.key.ID(), identity.NewPillarKey())
		log.Add(t, w.author.Messages(t, 30)...)
		a := w.pillar().hold(log, 1, 10).hold(log, 20, 30)
		if err := gossip.SaveHeads(a.disk, log.ID, nil, log.Head(10), log.Head(19), log.Head(30)); err != nil {
			t.Fatal(err)
		}
		a.start()
		b := w.pillar().start(a)
		both := func(p *pillar) func() bool {
			return func() bool {
				st := p.held(log.ID)
				return st.Seq == 10 && len(st.Islands) == 1 && st.Islands[0].End.Seq == 30
			}
		}
		until(t, 10*time.Second, "what there is of the log", both(b))
		crashed := b.disk.Reopen() // what was on the disk by then, and no more
		a.stop()
		b.stop()
		b.disk = crashed
		b.start()
		c := w.pillar().start(b)
		until(t, 10*time.Second, "all of it, from the one who crashed", both(c))
		if n := c.count("offences_total"); n > 0 {
			t.Errorf("%v offences", n)
		}
	})
}
