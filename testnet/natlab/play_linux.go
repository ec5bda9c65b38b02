package natlab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// Options say how to play scenarios.
type Options struct {
	// Binary is the obelisk binary.
	Binary string
	// Runs is how often. 0: what the scenario says.
	Runs int
	// Seed decides what is random on the internet.
	Seed uint64
	// After is called after each run, while its processes still run. Nil: nothing
	// is.
	After func(Scenario, Run, *Lab)
}

const (
	// pace is how often each of two that talk says something.
	pace = 100 * time.Millisecond
	// patience is how long a conversation waits for direct messages.
	patience = 20 * time.Second
	// relayedTalk is how long a conversation goes on that need not become direct,
	// while the network tries to punch.
	relayedTalk = 6 * time.Second
	// before and after are how long it goes on around a disturbance.
	before, after = 2 * time.Second, 5 * time.Second
	// settled is how many direct messages in a row, in each direction, show that
	// it stays so.
	settled = 3
	// contactName is what each calls the other.
	contactName = "peer"
	// arrival is how long the last messages may take.
	arrival = 20 * time.Second
	// readiness is how long processes may take to be ready for a run.
	readiness = 30 * time.Second
)

// Play runs a scenario. The error is about the lab; what the network failed to
// do is in the result.
func Play(ctx context.Context, s Scenario, opt Options) (result Result, err error) {
	runs := opt.Runs
	if runs == 0 {
		runs = s.Runs
	}
	result = Result{Scenario: s.Name, Says: s.Says}
	l, err := Open(ctx, s.Topology, opt.Binary, opt.Seed)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	ready, cancel := context.WithTimeout(ctx, readiness)
	defer cancel()
	if err := l.StartPillars(ready); err != nil {
		return result, err
	}
	if s.Home != "" {
		if err := l.StartHome(ready, s.Home); err != nil {
			return result, err
		}
	}
	for i := range runs {
		run := play(ctx, s, l, i)
		if ctx.Err() != nil {
			return result, ctx.Err()
		}
		run.judge(s.Must)
		result.Runs = append(result.Runs, run)
		if opt.After != nil {
			opt.After(s, run, l)
		}
		if err := l.reset(ctx); err != nil {
			return result, fmt.Errorf("after run %d: %w", i+1, err)
		}
	}
	result.judge(s.Must)
	return result, nil
}

// play is one run.
func play(ctx context.Context, s Scenario, l *Lab, number int) Run {
	begin := time.Now()
	c := &conversation{scenario: s, lab: l}
	c.run.Number = number + 1
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := c.talk(ctx, number)
	if err != nil {
		c.run.fail("%v", err)
	}
	c.measure()
	if c.from != nil {
		if err := c.count(ctx); err != nil {
			c.run.fail("%v", err)
		}
	}
	c.run.TookS = time.Since(begin).Seconds()
	if c.from != nil && c.to != nil {
		if err := c.check(ctx, begin); err != nil {
			c.run.fail("%v", err)
		}
	}
	cancel()
	for _, p := range []*party{c.from, c.to} {
		if p != nil {
			p.listening.Wait()
		}
	}
	return c.run
}

// conversation is a run in progress.
type conversation struct {
	scenario Scenario
	lab      *Lab
	from, to *party
	gates    [2]int            // the gateways of from and to
	passed   map[[2]int]uint64 // packets from one gateway to another, before the run
	numbered int               // messages
	said     []said
	next     []said // what was said first after the disturbance, in each direction
	run      Run
}

// talk is the story of a run.
func (c *conversation) talk(ctx context.Context, number int) error {
	if err := c.gather(ctx, number); err != nil {
		return err
	}
	if _, err := c.say(ctx, c.from, c.to); err != nil {
		return err
	}
	wait := relayedTalk
	if c.scenario.Must.Direct || c.scenario.Disturb == MoveOne {
		wait = patience
	}
	direct := func() bool {
		c.run.Direct = c.isDirect()
		return c.run.Direct
	}
	if err := c.keep(ctx, wait, direct); err != nil {
		return err
	}
	if c.scenario.Disturb != None {
		if err := c.disturb(ctx); err != nil {
			return err
		}
	}
	if err := c.allArrive(ctx); err != nil {
		return err
	}
	return c.atHome(ctx)
}

// atHome fails unless both work with the home pillar where no other takes nodes.
func (c *conversation) atHome(ctx context.Context) error {
	if !c.scenario.Topology.Closed {
		return nil
	}
	for _, p := range []*party{c.from, c.to} {
		st, err := p.node.NodeStatus(ctx)
		if err != nil {
			return err
		}
		if st.Pillar != c.lab.home.ID {
			return fmt.Errorf("%s works with %s, which is not the home pillar", p.name, st.Pillar)
		}
	}
	return nil
}

// gather starts both nodes and makes them contacts of each other.
func (c *conversation) gather(ctx context.Context, number int) error {
	ready, cancel := context.WithTimeout(ctx, readiness)
	defer cancel()
	s, l := c.scenario, c.lab
	fromPlace, toPlace := s.From, s.To
	if s.Swap && number%2 == 1 {
		fromPlace, toPlace = toPlace, fromPlace
	}
	c.gates = [2]int{s.Topology.behind(fromPlace), s.Topology.behind(toPlace)}
	c.passed = make(map[[2]int]uint64)
	for a := range s.Topology.Gateways {
		for b := range s.Topology.Gateways {
			c.passed[[2]int{a, b}] = l.passed(a, b).Packets
		}
	}
	pillars := l.public()
	toPillar, fromPillar := pillars[number%len(pillars)], pillars[(number+1)%len(pillars)]
	if l.home != nil {
		fromPillar = l.home
		if s.Topology.Closed {
			toPillar = l.home
		}
	}
	to, err := l.StartNode(ready, toPlace, toPillar)
	if err != nil {
		return err
	}
	if c.to, err = join(ctx, "to", to); err != nil {
		return err
	}
	if err := testnet.WaitConnected(ready, []*testnet.Process{to}, len(pillars)); err != nil {
		return err
	}
	from, err := l.StartNode(ready, fromPlace, fromPillar)
	if err != nil {
		return err
	}
	if c.from, err = join(ctx, "from", from); err != nil {
		return err
	}
	if !s.AtOnce {
		if err := testnet.WaitConnected(ready, []*testnet.Process{from}, len(pillars)); err != nil {
			return err
		}
	}
	_, errTo := c.to.api.AddContact(ready, contactName, from.Account)
	_, errFrom := c.from.api.AddContact(ready, contactName, to.Account)
	return errors.Join(errTo, errFrom)
}

// say has one party say the next thing to the other.
func (c *conversation) say(ctx context.Context, from, to *party) (said, error) {
	c.numbered++
	s, err := from.say(ctx, to, fmt.Sprintf("%d from %s", c.numbered, from.name))
	if err == nil {
		c.said = append(c.said, s)
	}
	return s, err
}

// keep has both talk at the pace until enough is true or the time is over.
func (c *conversation) keep(ctx context.Context, atMost time.Duration, enough func() bool) error {
	over := time.NewTimer(atMost)
	defer over.Stop()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for !enough() {
		select {
		case <-tick.C:
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, pair := range [][2]*party{{c.to, c.from}, {c.from, c.to}} {
			if _, err := c.say(ctx, pair[0], pair[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func never() bool { return false }

// isDirect reports whether the newest messages that arrived came directly, in
// both directions.
func (c *conversation) isDirect() bool {
	missing := map[*party]int{c.from: settled, c.to: settled}
	for _, s := range slices.Backward(c.said) {
		_, path, ok := s.arrived()
		if !ok || missing[s.from] == 0 {
			continue
		}
		if path != overlay.PathDirect {
			return false
		}
		missing[s.from]--
	}
	return missing[c.from]+missing[c.to] == 0
}

// disturb does the scenario's mischief in the middle of a conversation.
func (c *conversation) disturb(ctx context.Context) error {
	if err := c.keep(ctx, before, never); err != nil {
		return err
	}
	switch c.scenario.Disturb {
	case KillRelay:
		victim, err := c.lab.relaying(ctx, c.from.node)
		if err != nil {
			return err
		}
		if err := victim.Kill(ctx); err != nil {
			return err
		}
	case MoveOne:
		if err := c.lab.Move(ctx, c.gates[0]); err != nil {
			return err
		}
	}
	for _, pair := range [][2]*party{{c.from, c.to}, {c.to, c.from}} {
		s, err := c.say(ctx, pair[0], pair[1])
		if err != nil {
			return err
		}
		c.next = append(c.next, s)
	}
	return c.keep(ctx, after, never)
}

// allArrive waits for the last messages.
func (c *conversation) allArrive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, arrival)
	defer cancel()
	return testnet.Until(ctx, func() string {
		missing := 0
		for _, s := range c.said {
			if _, _, ok := s.arrived(); !ok {
				missing++
			}
		}
		if missing == 0 {
			return ""
		}
		return fmt.Sprintf("%d of %d messages", missing, len(c.said))
	})
}

// measure takes the times.
func (c *conversation) measure() {
	r := &c.run
	r.Sent = len(c.said)
	fastest := time.Hour // of direct messages
	var others []float64
	for i, s := range c.said {
		took, path, ok := s.arrived()
		if !ok {
			continue
		}
		switch path {
		case overlay.PathDirect:
			r.ByDirect++
			fastest = min(fastest, took)
			if since := s.at.Add(took).Sub(c.said[0].at); r.DirectMS == 0 || since < asDuration(r.DirectMS) {
				r.DirectMS = ms(since)
			}
		case overlay.PathRelayed:
			r.ByCircuit++
		default:
			r.ByPillar++
		}
		if i == 0 {
			r.FirstMS = ms(took)
		} else {
			others = append(others, ms(took))
		}
	}
	if slices.Sort(others); len(others) > 0 {
		r.MostMS, r.SlowestMS = others[len(others)*19/20], others[len(others)-1]
	}
	for _, s := range c.next {
		took, path, ok := s.arrived()
		if !ok {
			took = arrival
		}
		if ms(took) > r.NextMS {
			r.NextMS, r.NextHow = ms(took), fmt.Sprintf("%q by %q", s.text, path)
		}
	}
	if c.from == nil || r.ByDirect == 0 {
		return
	}
	if c.gates[0] == c.gates[1] {
		if away := 2 * c.scenario.Topology.Path.Delay; fastest > away {
			r.fail("messages are said to come directly, but the fastest took %v, as long as by a pillar", fastest)
		}
		return
	}
	r.Between = c.since(c.gates[0], c.gates[1]) + c.since(c.gates[1], c.gates[0])
	if r.Between < uint64(r.ByDirect) {
		r.fail("%d messages are said to have come directly, but only %d packets went between the gateways", r.ByDirect, r.Between)
	}
}

// since is how many packets arrived at gateway b from gateway a in this run.
func (c *conversation) since(a, b int) uint64 {
	return c.lab.passed(a, b).Packets - c.passed[[2]int{a, b}]
}

// count compares what was said with what both have in the end.
func (c *conversation) count(ctx context.Context) error {
	times := make(map[string]int)
	for _, p := range []*party{c.from, c.to} {
		list, err := p.node.Inbox(ctx)
		if err != nil {
			return fmt.Errorf("inbox of %s: %w", p.name, err)
		}
		for _, m := range list {
			if m.Text != nil {
				times[*m.Text]++
			}
		}
	}
	for _, s := range c.said {
		h, _ := s.to.has(s.text)
		switch n := max(times[s.text], h.times); {
		case n == 0:
			c.run.Lost++
		case n > 1:
			c.run.Twice++
		}
	}
	return nil
}
