package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// What can happen to a network, drawn into a plan. A fault has a beginning and
// an end, within the time of the plan; what is still wrong then heals with
// everything.

// faults are what is drawn from, as often as they stand here.
var faults = []func(p *plan, rng *rand.Rand, n int, from, to time.Duration){
	(*plan).split, (*plan).split, (*plan).split,
	(*plan).breakLink,
	(*plan).flap,
	(*plan).stop,
	(*plan).crash, (*plan).crash, (*plan).crash,
	(*plan).crashOlder,
	(*plan).crashEmpty,
	(*plan).crashSpoilt, (*plan).crashSpoilt,
	(*plan).crashAll,
	(*plan).clockSteps,
	(*plan).clockBoots,
}

// fault draws one fault, of pillar n where it is one pillar's.
func (p *plan) fault(rng *rand.Rand) {
	from := 5*time.Second + time.Duration(rng.Int64N(int64(p.last-10*time.Second)))
	to := from + time.Second + time.Duration(rng.Int64N(int64(40*time.Second)))
	faults[rng.IntN(len(faults))](p, rng, rng.IntN(p.pillars), from, to)
}

func (p *plan) split(rng *rand.Rand, n int, from, to time.Duration) {
	side := make([]bool, p.pillars)
	for i := range side {
		side[i] = rng.IntN(2) == 0
	}
	side[n], side[(n+1)%p.pillars] = true, false
	p.add(from, func(w *world) { w.split(side, true) }, "the network splits: %s", sides(side))
	p.add(to, func(w *world) { w.split(side, false) }, "the split ends: %s", sides(side))
}

func (p *plan) breakLink(rng *rand.Rand, n int, from, to time.Duration) {
	m := (n + 1 + rng.IntN(p.pillars-1)) % p.pillars
	p.add(from, func(w *world) { w.cut(n, m, true) }, "the link of %s and %s breaks", pillarName(n), pillarName(m))
	p.add(to, func(w *world) { w.cut(n, m, false) }, "the link of %s and %s is back", pillarName(n), pillarName(m))
}

func (p *plan) flap(_ *rand.Rand, n int, from, _ time.Duration) {
	p.add(from, func(w *world) { w.flap(n) }, "%s loses all its connections", pillarName(n))
}

func (p *plan) stop(_ *rand.Rand, n int, from, to time.Duration) {
	p.add(from, func(w *world) { w.stop(n) }, "%s is stopped", pillarName(n))
	p.add(to, func(w *world) { w.start(n) }, "%s is started", pillarName(n))
}

// powerOff has a pillar lose its power, before or after a commit is durable or
// between two.
func (p *plan) powerOff(rng *rand.Rand, n int, at time.Duration) {
	point := crashPoint(rng.IntN(3))
	p.add(at, func(w *world) { w.crash(n, point) }, "%s is to lose its power", pillarName(n))
}

func (p *plan) crash(rng *rand.Rand, n int, from, to time.Duration) {
	p.powerOff(rng, n, from)
	p.add(to, func(w *world) { w.start(n) }, "%s is started", pillarName(n))
}

func (p *plan) crashOlder(rng *rand.Rand, n int, from, to time.Duration) {
	p.powerOff(rng, n, from)
	back := rng.IntN(3)
	p.add(to, func(w *world) { w.startOlder(n, back) }, "%s is started with an older copy of its disk", pillarName(n))
}

func (p *plan) crashEmpty(rng *rand.Rand, n int, from, to time.Duration) {
	p.powerOff(rng, n, from)
	p.add(to, func(w *world) { w.startEmpty(n) }, "%s is started with an empty disk", pillarName(n))
}

func (p *plan) crashSpoilt(rng *rand.Rand, n int, from, to time.Duration) {
	p.powerOff(rng, n, from)
	what, seed := damage(rng.IntN(int(damages))), rng.Uint64()
	p.add(to, func(w *world) { w.startSpoilt(n, what, seed) }, "%s is started without %s", pillarName(n), what)
}

// crashAll has everybody lose power at once and come back in any order, half of
// the time at new addresses, but for the first.
func (p *plan) crashAll(rng *rand.Rand, _ int, from, to time.Duration) {
	p.add(from, func(w *world) {
		for i := range p.pillars {
			w.crash(i, noCrash)
		}
	}, "all pillars lose their power")
	moved := rng.IntN(2) == 0
	for i, n := range rng.Perm(p.pillars) {
		at := to + time.Duration(i)*time.Second
		if moved && n > 0 {
			p.add(at, func(w *world) { w.move(n); w.start(n) }, "%s is started at another address", pillarName(n))
		} else {
			p.add(at, func(w *world) { w.start(n) }, "%s is started", pillarName(n))
		}
	}
}

// clockErrors are by how much clocks go wrong: within what is allowed, beyond
// it, and to other decades, counted from the year 2000 in which a bubble begins.
var clockErrors = []time.Duration{
	-25 * time.Second, 20 * time.Second, -40 * time.Second, time.Minute, time.Hour, -3 * time.Hour,
	-30 * year, 40 * year,
}

const year = 8766 * time.Hour

// clockSteps has a clock go wrong while the pillar runs, for long enough that
// it would delete what it takes for expired.
func (p *plan) clockSteps(rng *rand.Rand, n int, from, to time.Duration) {
	by := clockErrors[rng.IntN(len(clockErrors))]
	p.add(from, func(w *world) { w.skew(n, by) }, "the clock of %s goes wrong by %s", pillarName(n), by)
	p.add(to+time.Minute, func(w *world) { w.skew(n, 0) }, "the clock of %s is right again", pillarName(n))
}

// clockBoots has a pillar start with a wrong clock.
func (p *plan) clockBoots(rng *rand.Rand, n int, from, to time.Duration) {
	by := clockErrors[rng.IntN(len(clockErrors))]
	p.powerOff(rng, n, from)
	p.add(to, func(w *world) { w.skew(n, by); w.start(n) }, "%s is started with a clock that is wrong by %s", pillarName(n), by)
	p.add(to+70*time.Second, func(w *world) { w.skew(n, 0) }, "the clock of %s is right again", pillarName(n))
}

// join has a pillar that nobody knows yet join.
func (p *plan) join(n int, at time.Duration) {
	p.late = n
	p.add(at, func(w *world) { w.start(n) }, "%s joins", pillarName(n))
}

// liar draws how the last pillar lies.
func (p *plan) liar(rng *rand.Rand) {
	all := []*bool{
		&p.lies.withhold, &p.lies.poison, &p.lies.garble, &p.lies.forge, &p.lies.overclaim, &p.lies.fork,
		&p.lies.invent, &p.lies.stall, &p.lies.noise,
	}
	for range 1 + rng.IntN(3) {
		*all[rng.IntN(len(all))] = true
	}
}

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
