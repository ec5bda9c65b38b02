package natlab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// asked is what a node answered.
type asked struct {
	before, after overlay.NodeStatus
	netcheck      overlay.Netcheck
	over          time.Time // when it had
}

// check asks netcheck of both and holds every statement against what is so. It
// comes after everything that is measured.
func (c *conversation) check(ctx context.Context, begun time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, readiness)
	defer cancel()
	parties := []*party{c.from, c.to}
	paths := c.newest()
	var (
		work    sync.WaitGroup
		answers [2]asked
		errs    [2]error
	)
	for i, p := range parties {
		work.Go(func() { answers[i], errs[i] = p.ask(ctx) })
	}
	work.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	now, err := c.once(ctx)
	if err != nil {
		return err
	}
	for i, p := range parties {
		t := c.truth(i, answers[i])
		t.contact.paths, t.begun = [2][]overlay.Path{paths, now}, begun
		v := t.hold(&answers[i].netcheck, answers[i].after.Reachability)
		for _, lie := range v.Lies {
			c.run.fail("netcheck of %s: %s", p.name, lie)
		}
		c.run.Netcheck.add(v)
	}
	return nil
}

// ask has the node find out about its way to others. Its status stands around
// that.
func (p *party) ask(ctx context.Context) (a asked, err error) {
	if a.before, err = p.node.NodeStatus(ctx); err != nil {
		return a, fmt.Errorf("status of %s: %w", p.name, err)
	}
	if a.netcheck, err = p.api.Netcheck(ctx); err != nil {
		return a, fmt.Errorf("netcheck of %s: %w", p.name, err)
	}
	a.over = time.Now()
	if a.after, err = p.node.NodeStatus(ctx); err != nil {
		return a, fmt.Errorf("status of %s: %w", p.name, err)
	}
	return a, nil
}

// newest is how the newest messages came, of each direction the last that did.
func (c *conversation) newest() (paths []overlay.Path) {
	found := make(map[*party]bool)
	for _, s := range slices.Backward(c.said) {
		if _, path, ok := s.arrived(); ok && !found[s.from] {
			found[s.from] = true
			paths = append(paths, path)
		}
	}
	return paths
}

// once has both say one thing more, which nothing counts, and returns how it came.
func (c *conversation) once(ctx context.Context) (paths []overlay.Path, err error) {
	counted := c.said
	defer func() { c.said = counted }()
	c.said = nil
	for _, pair := range [][2]*party{{c.from, c.to}, {c.to, c.from}} {
		if _, err := c.say(ctx, pair[0], pair[1]); err != nil {
			return nil, err
		}
	}
	if err := c.allArrive(ctx); err != nil {
		return nil, err
	}
	return c.newest(), nil
}

// truth is what is so for the first or second of the two.
func (c *conversation) truth(i int, a asked) *truth {
	topology, l := c.scenario.Topology, c.lab
	here, there := c.gates[i], c.gates[1-i]
	other := []*party{c.to, c.from}[i]
	t := &truth{
		gateway: topology.Gateways[here], speech: topology.Speech, outside: l.outside[here], apart: 2 * topology.Path.Delay,
		contact: contactTruth{name: contactName, account: other.node.Account, device: other.node.ID, sameLAN: here == there},
		over:    a.over,
	}
	others := []int{there}
	if c.scenario.Home != "" {
		others = append(others, topology.behind(c.scenario.Home))
	}
	for _, g := range others {
		if g != here && t.gateway.punchable() && topology.Gateways[g].punchable() && c.since(here, g) > 0 && c.since(g, here) > 0 {
			t.mayHavePunched = true
		}
	}
	for k, p := range l.public() {
		t.pillars = append(t.pillars, pillarTruth{id: p.ID, alive: p.Alive(), addrs: topology.Speech.pillarListen(pillarAddr(k))})
	}
	if l.home != nil {
		t.pillars = append(t.pillars, pillarTruth{id: l.home.ID, alive: l.home.Alive(), home: true})
	}
	for k := range t.pillars {
		p := &t.pillars[k]
		p.used = uses(a.before, p.id) && uses(a.after, p.id)
	}
	return t
}

// uses reports whether a node works with a pillar, or has it at its side.
func uses(st overlay.NodeStatus, pillar string) bool {
	return st.Pillar == pillar || st.Standby == pillar
}
