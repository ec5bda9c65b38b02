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
	nodes    bool          // two real nodes write to each other
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
		messages: 20 + rng.IntN(30),
		last:     time.Duration(60+rng.IntN(60)) * time.Second,
	}
	if rng.IntN(3) == 0 {
		p.loss = 0.3 * rng.Float64()
	}
	for range 2 + rng.IntN(6) {
		p.fault(rng)
	}
	if rng.IntN(2) == 0 {
		p.liar(rng)
	}
	p.nodes = rng.IntN(4) == 0
	slices.SortStableFunc(p.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return p
}

func (p *plan) add(at time.Duration, do func(w *world), format string, args ...any) {
	p.steps = append(p.steps, step{at, fmt.Sprintf(format, args...), do})
}

// liar draws how the last pillar lies.
func (p *plan) liar(rng *rand.Rand) {
	for range 1 + rng.IntN(3) {
		switch rng.IntN(9) {
		case 0:
			p.lies.withhold = true
		case 1:
			p.lies.poison = true
		case 2:
			p.lies.garble = true
		case 3:
			p.lies.forge = true
		case 4:
			p.lies.overclaim = true
		case 5:
			p.lies.fork = true
		case 6:
			p.lies.invent = true
		case 7:
			p.lies.stall = true
		case 8:
			p.lies.noise = true
		}
	}
}

// fault draws one fault and what ends it.
func (p *plan) fault(rng *rand.Rand) {
	from := 5*time.Second + time.Duration(rng.Int64N(int64(p.last-10*time.Second)))
	to := min(p.last, from+time.Second+time.Duration(rng.Int64N(int64(40*time.Second))))
	n := rng.IntN(p.pillars)
	switch kind := rng.IntN(15); kind {
	case 0, 1, 2:
		side := make([]bool, p.pillars)
		for i := range side {
			side[i] = rng.IntN(2) == 0
		}
		side[n], side[(n+1)%p.pillars] = true, false
		p.add(from, func(w *world) { w.split(side, true) }, "the network splits: %s", sides(side))
		p.add(to, func(w *world) { w.split(side, false) }, "the split ends: %s", sides(side))
	case 3:
		m := (n + 1 + rng.IntN(p.pillars-1)) % p.pillars
		p.add(from, func(w *world) { w.cut(n, m, true) }, "the link of %s and %s breaks", pillarName(n), pillarName(m))
		p.add(to, func(w *world) { w.cut(n, m, false) }, "the link of %s and %s is back", pillarName(n), pillarName(m))
	case 4:
		p.add(from, func(w *world) { w.flap(n) }, "%s loses all its connections", pillarName(n))
	case 5:
		p.add(from, func(w *world) { w.stop(n) }, "%s is stopped", pillarName(n))
		p.add(to, func(w *world) { w.start(n) }, "%s is started", pillarName(n))
	case 6, 7, 8, 9, 10, 13, 14:
		at := crashPoint(rng.IntN(3))
		p.add(from, func(w *world) { w.crash(n, at) }, "%s is to lose its power", pillarName(n))
		switch kind {
		case 9:
			back := rng.IntN(3)
			p.add(to, func(w *world) { w.startOlder(n, back) }, "%s is started with an older copy of its disk", pillarName(n))
		case 10:
			p.add(to, func(w *world) { w.startEmpty(n) }, "%s is started with an empty disk", pillarName(n))
		case 13, 14:
			what, seed := damage(rng.IntN(int(damages))), rng.Uint64()
			p.add(to, func(w *world) { w.startSpoilt(n, what, seed) }, "%s is started without %s", pillarName(n), what)
		default:
			p.add(to, func(w *world) { w.start(n) }, "%s is started", pillarName(n))
		}
	case 11:
		p.add(from, func(w *world) {
			for i := range p.pillars {
				w.crash(i, noCrash)
			}
		}, "all pillars lose their power")
		for i, n := range rng.Perm(p.pillars) {
			p.add(min(p.last, to+time.Duration(i)*time.Second), func(w *world) { w.start(n) }, "%s is started", pillarName(n))
		}
	case 12:
		by := clockErrors[rng.IntN(len(clockErrors))]
		p.add(from, func(w *world) { w.skew(n, by) }, "the clock of %s goes wrong by %s", pillarName(n), by)
		p.add(to, func(w *world) { w.skew(n, 0) }, "the clock of %s is right again", pillarName(n))
	}
}

// clockErrors are by how much clocks go wrong: within what is allowed, beyond
// it, and to other decades, counted from the year 2000 in which a bubble begins.
var clockErrors = []time.Duration{
	-25 * time.Second, 20 * time.Second, -40 * time.Second, time.Minute, time.Hour, -3 * time.Hour,
	-30 * year, 40 * year,
}

const year = 8766 * time.Hour

func pillarName(n int) string { return fmt.Sprintf("pillar-%d", n+1) }

// sides describes a split.
func sides(side []bool) string {
	var parts [2][]string
	for i, s := range side {
		which := 0
		if s {
			which = 1
		}
		parts[which] = append(parts[which], fmt.Sprint(i+1))
	}
	return strings.Join(parts[0], " ") + " | " + strings.Join(parts[1], " ")
}

// String describes the network.
func (p *plan) String() string {
	s := fmt.Sprintf("seed %d: %d pillars, %d devices of %d messages, latency %s, packet loss %.0f %% and jitter up to %s, fsync %s, faults for %s",
		p.seed, p.pillars, p.devices, p.messages, p.latency, 100*p.loss, p.jitter, p.fsync, p.last)
	if p.nodes {
		s += ", two nodes"
	}
	if names := p.lies.names(); len(names) > 0 {
		s += fmt.Sprintf("; %s %s", pillarName(p.pillars-1), strings.Join(names, ", "))
	}
	return s
}
