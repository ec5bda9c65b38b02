package gossip_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// crashing is a Replica that keeps what the disk has right after each Apply.
type crashing struct {
	*replicatest.Memory
	mu   sync.Mutex
	disk *replicatest.Memory
}

func (c *crashing) Apply(ctx context.Context, run overlay.LogRun) (overlay.LogState, error) {
	state, err := c.Memory.Apply(ctx, run)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disk = c.Memory.Reopen()
	return state, err
}

// crash starts p anew over what the disk had right after the newest Apply, or has
// now if there was none.
func (c *crashing) crash(p *pillar, bootstrap ...*pillar) {
	p.stop()
	if c.disk == nil {
		c.disk = c.Memory.Reopen()
	}
	p.disk, p.replica = c.disk, nil
	p.start(bootstrap...)
}

// fragile makes a pillar that can be crashed.
func (w *world) fragile() (*pillar, *crashing) {
	p := w.pillar()
	c := &crashing{Memory: p.disk}
	p.replica = c
	return p, c
}

// The heads that history is served in handy runs with are there after a crash,
// whoever wrote the log.
func TestKeptHeadsSurviveACrash(t *testing.T) {
	inBubble(t, func(w *world) {
		a, ca := w.fragile()
		a.start()
		b, cb := w.fragile()
		b.start(a)
		until(t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		time.Sleep(time.Until(time.Now().Truncate(5 * time.Second).Add(5*time.Second + time.Millisecond))) // heads were just written
		var end overlay.Position
		for range 5 {
			end = a.submit(gossip.HeadEvery / 2)
		}
		until(t, time.Second, "the log", func() bool { return b.held(end.Log).Position == end })
		ca.crash(a)
		a.stop()
		cb.crash(b)
		for _, p := range []*pillar{a, b} {
			at := uint64(0)
			for _, next := range append(p.mesh.KeptHeads(end.Log), end.Seq) {
				if next > at+2*gossip.HeadEvery {
					t.Errorf("no head between entries %d and %d", at, next)
				}
				at = next
			}
		}
		a.start(b)
		until(t, 10*time.Second, "a round of writing", func() bool { return meshed(a, b) })
		before := b.mesh.KeptHeads(end.Log)
		time.Sleep(11 * time.Second)
		b.restart(a)
		if after := b.mesh.KeptHeads(end.Log); !slices.Equal(before, after) {
			t.Errorf("heads at %d, and later at %d", before, after)
		}
	})
}

// A gone run can be passed on after a crash right behind the commit that it came in.
func TestGoneRunsSurviveACrash(t *testing.T) {
	inBubble(t, func(w *world) {
		log := replicatest.NewLog(w.key.ID(), identity.NewPillarKey())
		raws := make([][]byte, 20)
		for i := range raws {
			raws[i] = w.author.Message(t, 20, time.Minute)
		}
		log.Add(t, raws...)
		died := log.Head(20)
		log.Add(t, w.author.Messages(t, 10)...)
		a := w.pillar().hold(log, 1, 30)
		if err := gossip.SaveHeads(a.disk, log.ID, nil, died, log.Head(30)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		a.start()
		until(t, 20*time.Second, "a head on the disk that says it is over", func() bool {
			return a.mesh.Over(log.ID, uint64(time.Now().Add(-time.Hour).UnixMilli())) == 20
		})
		a.disk.Trim(log.ID, 1, 20)
		a.restart() // where the head stands nothing ends any more
		b, c := w.fragile()
		b.start(a)
		until(t, 10*time.Second, "the log", func() bool { return b.held(log.ID).Seq == 30 })
		a.stop()
		c.crash(b)
		d := w.pillar().start(b)
		until(t, 10*time.Second, "the log, from the one who crashed", func() bool { return d.held(log.ID).Seq == 30 })
		if n := d.count("entries_received_total"); n != 11 {
			t.Errorf("%v entries received, want a run and 10", n)
		}
		if n := d.count("offences_total"); n > 0 {
			t.Errorf("%v offences", n)
		}
	})
}
