package gossip_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// Whatever happens to links and processes, when all can talk again all hold
// the same. A failing seed prints what it did.
func TestChaos(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.member = seed%6 == 0
				r := rand.New(rand.NewPCG(seed, 1))
				all := make([]*pillar, 5)
				for i := range all {
					all[i] = w.pillar().start(all[:min(i, 1)]...)
				}
				until(t, 10*time.Second, "meshed at first", func() bool { return meshed(all...) })
				var story []string
				defer func() {
					if t.Failed() {
						t.Log(story)
					}
				}()
				note := func(format string, args ...any) {
					story = append(story, fmt.Sprintf(format, args...))
				}
				submitted := 0
				for range 40 {
					i, j := r.IntN(len(all)), r.IntN(len(all))
					switch r.IntN(8) {
					case 0:
						if i != j {
							note("cut %d %d", i, j)
							w.net.Cut(all[i].id(), all[j].id())
						}
					case 1, 2:
						note("heal %d %d", i, j)
						w.net.Heal(all[i].id(), all[j].id())
					case 3:
						note("restart %d", i)
						all[i].restart()
					default:
						n := 1 + r.IntN(20)
						note("submit %d at %d", n, i)
						all[i].submit(n)
						submitted += n
					}
					time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
				}
				for i := range all {
					for j := range i {
						w.net.Heal(all[i].id(), all[j].id())
					}
				}
				until(t, 3*time.Minute, "meshed", func() bool { return meshed(all...) })
				until(t, 30*time.Second, "converged", func() bool { return all[0].disk.Count() == submitted && converged(all...) })
				for i, p := range all {
					if n := p.count("follow_faults_total"); n != 0 {
						t.Errorf("%d faulted honest pillars %v times", i, n)
					}
				}
				stopAll(all)
			}, memnet.WithLatency(8*time.Millisecond), memnet.WithPacketLoss(0.02, 0, seed))
		})
	}
}
