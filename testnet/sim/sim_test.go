package sim_test

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/testnet/sim"
)

var (
	oneSeed  = flag.Uint64("sim.seed", 0, "run this seed only and print its history")
	allSeeds = flag.Int("sim.seeds", seeds, "run seeds 1 to this")
	logs     = flag.Bool("sim.log", false, "with -sim.seed: print what pillars log")
)

// quietSeeds is how many of TestQuiet there are.
const quietSeeds = 5

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSeeds lives through a history for every seed.
func TestSeeds(t *testing.T) {
	if *oneSeed != 0 {
		var opt sim.Options
		if *logs {
			opt.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		opt.Dir = t.TempDir()
		synctest.Test(t, func(t *testing.T) { report(t, sim.Run(*oneSeed, opt), true) })
		return
	}
	for seed := uint64(1); seed <= uint64(*allSeeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			opt := sim.Options{Dir: t.TempDir()}
			synctest.Test(t, func(t *testing.T) { report(t, sim.Run(seed, opt), false) })
		})
	}
}

// TestQuiet lives through networks in which nothing goes wrong: each pillar
// receives each record once.
func TestQuiet(t *testing.T) {
	for seed := uint64(1); seed <= quietSeeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			opt := sim.Options{Dir: t.TempDir(), Quiet: true}
			synctest.Test(t, func(t *testing.T) { report(t, sim.Run(seed, opt), false) })
		})
	}
}

func report(t *testing.T, r *sim.Result, always bool) {
	t.Helper()
	if always || len(r.Failures) > 0 {
		t.Logf("%s\n%s\n%d messages, %d acknowledged, %d lost with their disks", r.Plan, r.History, r.Messages, r.Acked, r.Lost)
	}
	if len(r.Failures) > 0 {
		t.Errorf("seed %d, again with -sim.seed=%d:\n%s", r.Seed, r.Seed, strings.Join(r.Failures, "\n"))
	}
}
