package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// plan is what a seed decides: the network and everything that happens to it.
type plan struct {
	seed     uint64
	pillars  int
	devices  int
	latency  time.Duration
	loss     float64 // of packets
	jitter   time.Duration
	fsync    time.Duration
	scrub    time.Duration // what a step of a scrub takes
	nodes    bool          // two real nodes write to each other
	quiet    bool          // nothing goes wrong
	late     int           // this pillar joins in the middle; 0: none does
	lies     lies          // of the last pillar
	messages int           // written by each device
	last     time.Duration // when the faults and the load end
	steps    []step        // by at
}

// step is one thing that happens. Steps of a pillar that is not there do
// nothing.
type step struct {
	at   time.Duration
	what string
	do   func(w *world)
}

// newPlan draws a plan from a seed.
func newPlan(seed uint64) *plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := &plan{
		seed:     seed,
		pillars:  3 + rng.IntN(5),
		devices:  2 + rng.IntN(3),
		latency:  time.Duration(1+rng.IntN(40)) * time.Millisecond,
		jitter:   time.Duration(1+rng.IntN(30)) * time.Millisecond,
		fsync:    time.Duration(rng.IntN(4)) * time.Millisecond,
		scrub:    time.Duration(seed%4) * 100 * time.Millisecond,
		nodes:    rng.IntN(4) == 0,
		messages: 20 + rng.IntN(30),
		last:     time.Duration(60+rng.IntN(60)) * time.Second,
	}
	if rng.IntN(3) == 0 {
		p.loss = 0.3 * rng.Float64()
	}
	if rng.IntN(2) == 0 {
		p.liar(rng)
	}
	if rng.IntN(4) == 0 {
		p.join(2+rng.IntN(p.pillars-2), p.last/3+time.Duration(rng.Int64N(int64(p.last/2))))
	}
	for range 2 + rng.IntN(6) {
		p.fault(rng)
	}
	slices.SortStableFunc(p.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return p
}

// quietPlan is a plan in which nothing goes wrong.
func quietPlan(seed uint64) *plan {
	p := newPlan(seed)
	p.quiet, p.loss, p.late, p.lies, p.steps = true, 0, 0, lies{}, nil
	return p
}

func (p *plan) add(at time.Duration, do func(w *world), format string, args ...any) {
	p.steps = append(p.steps, step{min(at, p.last), fmt.Sprintf(format, args...), do})
}

// String describes the network.
func (p *plan) String() string {
	s := fmt.Sprintf("seed %d: %d pillars, %d devices of %d messages, latency %s, packet loss %.0f %% and jitter up to %s, fsync %s, scrub steps of %s, faults for %s",
		p.seed, p.pillars, p.devices, p.messages, p.latency, 100*p.loss, p.jitter, p.fsync, p.scrub, p.last)
	if p.nodes {
		s += ", two nodes"
	}
	if names := p.lies.names(); len(names) > 0 {
		s += fmt.Sprintf("; %s %s", pillarName(p.pillars-1), strings.Join(names, ", "))
	}
	return s
}

func pillarName(n int) string { return fmt.Sprintf("pillar-%d", n+1) }
