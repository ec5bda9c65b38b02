package gossip_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// Whatever happens to links, processes and disks, with more history than a live
// follow brings, and with a log that was forked: when all can talk again all
// hold the same, and nobody honest was blamed. A failing seed prints what it did.
func TestChaos(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(w *world) { chaos(w, seed) },
				memnet.WithLatency(8*time.Millisecond), memnet.WithPacketLoss(0.02, 0, seed))
		})
	}
}

func chaos(w *world, seed uint64) {
	t := w.t
	w.member = seed%6 == 0
	r := rand.New(rand.NewPCG(seed, 1))
	all := make([]*pillar, 5)
	for i := range all {
		all[i] = w.pillar()
		all[i].disk.Trusting = true
	}
	left, right := w.twoHistories(identity.NewPillarKey(), r.IntN(3), 1+r.IntN(30), 1+r.IntN(30))
	all[r.IntN(2)].hold(left, 1, left.Position().Seq)
	all[2+r.IntN(3)].hold(right, 1, right.Position().Seq)
	var ids []overlay.RecordID
	story := []string{}
	note := func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
	defer func() {
		if t.Failed() {
			t.Log(story)
		}
	}()
	submit := func(i, n int) {
		note("submit %d at %d", n, i)
		raws := w.author.Messages(t, n)
		for _, raw := range raws {
			rec, err := overlay.ParseRecord(w.key.ID(), raw)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, rec.ID)
		}
		all[i].disk.Submit(raws...)
	}
	complete := func() bool {
		for _, p := range all {
			has, _ := p.disk.Has(ids)
			for _, h := range has {
				if !h {
					return false
				}
			}
		}
		return converged(all...)
	}
	for i, p := range all {
		p.start(all[:min(i, 1)]...)
	}
	until(t, 10*time.Second, "meshed at first", func() bool { return meshed(all...) })
	for range 50 {
		i, j := r.IntN(len(all)), r.IntN(len(all))
		switch r.IntN(12) {
		case 0, 1:
			if i != j {
				note("cut %d %d", i, j)
				w.net.Cut(all[i].id(), all[j].id())
			}
		case 2, 3:
			note("heal %d %d", i, j)
			w.net.Heal(all[i].id(), all[j].id())
		case 4, 5:
			note("restart %d", i)
			all[i].restart()
		case 6:
			if complete() { // else what only this one has would be lost with it
				note("wipe %d", i)
				all[i].stop()
				all[i].disk = replicatest.NewMemory(w.key.ID(), all[i].key)
				all[i].disk.Trusting = true
				all[i].restart()
			}
		case 7:
			submit(i, 1100+r.IntN(1500))
		default:
			submit(i, 1+r.IntN(20))
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
	}
	for i := range all {
		for j := range i {
			w.net.Heal(all[i].id(), all[j].id())
		}
	}
	until(t, 3*time.Minute, "meshed", func() bool { return meshed(all...) })
	until(t, 30*time.Second, "converged", complete)
	for i, p := range all {
		if !forkedAt(p, left.ID) {
			t.Errorf("%d does not know of the fork", i)
		}
		if n := p.count("follow_faults_total") + p.count("offences_total"); n != 0 {
			t.Errorf("%d blamed honest pillars %v times", i, n)
		}
	}
	stopAll(all)
}
