package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// story is a run of the demo.
type story struct {
	*teller
	net     *testnet.Network
	pillars []*testnet.Process
	nodes   []*testnet.Process

	mu    sync.Mutex
	posts []post // guarded by mu
	round int
}

// post is a message that a node was asked to send.
type post struct {
	from, to *testnet.Process
	text     string
	state    overlay.State
	took     time.Duration
	err      error
}

// errStory: the demo ran, and something in it did not hold.
var errStory = errors.New("not all of it held")

// demo tells what the network does for its nodes, by having it done. Each
// chapter goes on only if the one before worked.
func demo(ctx context.Context, s *settings, out io.Writer) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute) // it takes one; slow machines more
	defer cancel()
	dir, remove, err := s.workDir("demo")
	if err != nil {
		return err
	}
	n, err := testnet.Create(dir, s.binary, testnet.Options{Memory: memoryOf(s), NodeMemory: memoryOf(s), StoreLimit: storeLimit})
	if err != nil {
		return err
	}
	st := &story{teller: newTeller(out), net: n}
	err = st.tell(ctx, s)
	interrupted := ctx.Err() != nil
	if interrupted {
		n.KillAll()
	} else {
		stopCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
		stopErr := n.Down(stopCtx)
		cancel()
		if err == nil && stopErr != nil {
			err = fmt.Errorf("end the processes: %w", stopErr)
		}
	}
	if err == nil && len(st.failed) > 0 {
		err = errStory
	}
	fmt.Fprintln(out)
	if interrupted {
		return fmt.Errorf("stopped before its end (%w); logs and data are kept in %s", context.Cause(ctx), dir)
	}
	if err != nil {
		for _, f := range st.failed {
			fmt.Fprintf(out, "   %s %s\n", st.in(red, "✗"), f)
		}
		return fmt.Errorf("%w; logs and data are kept in %s", err, dir)
	}
	fmt.Fprintf(out, "   %s (%.0f s)\n", st.in(bold, "All of it held."), time.Since(began).Seconds())
	return remove()
}

func (s *story) tell(ctx context.Context, set *settings) error {
	for _, chapter := range []func(context.Context, *settings) error{
		s.buildPillars, s.bringNodes, s.everyoneWrites, s.pillarDies, s.onePillarLeft, s.pillarsReturn, s.count,
	} {
		if err := chapter(ctx, set); err != nil {
			return err
		}
		if len(s.failed) > 0 {
			return errStory
		}
	}
	return nil
}

// quick bounds what should take a moment, on a slow machine too.
func quick(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 2*time.Minute)
}

func (s *story) buildPillars(ctx context.Context, set *settings) error {
	s.title("%d pillars: public servers that keep a copy of everything", set.pillars)
	first, err := s.net.StartPillar(ctx, pillarName(0))
	if err != nil {
		return err
	}
	s.say("pillar-1 starts and makes the network's key. Whoever holds that key says who may be a pillar.")
	err = several(set.pillars-1, func(i int) error {
		_, err := s.net.StartPillar(ctx, pillarName(i+1))
		return err
	})
	if err != nil {
		return err
	}
	s.pillars = s.net.Pillars()
	others := processNames(s.pillars[1:])
	s.say("%s make keys of their own, are admitted with `obelisk network admit`,", list(others))
	s.say("and are told one address: pillar-1's. They find each other by gossip.")
	ctx, cancel := quick(ctx)
	defer cancel()
	err = testnet.WaitTogether(ctx, s.pillars, set.pillars)
	s.check(err == nil, "every pillar sees all %d%s", set.pillars, because(err))
	if st, err := first.PillarStatus(ctx); err == nil {
		s.aside("network %s", st.Network)
	}
	return nil
}

func (s *story) bringNodes(ctx context.Context, set *settings) error {
	s.title("%d nodes: devices that are told a single pillar", set.nodes)
	told := make(map[string]string)
	for i := range set.nodes {
		told[nodeName(i)] = s.pillars[i%len(s.pillars)].Name
	}
	err := several(set.nodes, func(i int) error {
		_, err := s.net.StartNode(ctx, nodeName(i), s.pillars[i%len(s.pillars)])
		return err
	})
	if err != nil {
		return err
	}
	s.nodes = s.net.Nodes()
	var parts []string
	for _, n := range s.nodes {
		parts = append(parts, fmt.Sprintf("%s is told %s", n.Name, told[n.Name]))
	}
	s.say("%s. Nothing else.", list(parts))
	ctx, cancel := quick(ctx)
	defer cancel()
	err = testnet.WaitConnected(ctx, s.nodes, set.pillars)
	s.check(err == nil, "from it each learns all %d pillars, and keeps two of them warm%s", set.pillars, because(err))
	return nil
}

// waitKnown returns when every node has everybody in its directory.
func (s *story) waitKnown(ctx context.Context, want int) error {
	return testnet.Until(ctx, func() string {
		for _, n := range s.nodes {
			st, err := n.NodeStatus(ctx)
			if err != nil {
				return fmt.Sprintf("%s: %v", n.Name, err)
			}
			if st.NodesKnown < want-1 { // it may or may not count itself
				return fmt.Sprintf("%s knows %d of %d nodes", n.Name, st.NodesKnown, want)
			}
		}
		return ""
	})
}

func (s *story) everyoneWrites(ctx context.Context, _ *settings) error {
	s.title("Everyone writes to everyone")
	s.say("Messages are sealed for the recipient's device: pillars carry them and cannot read them.")
	s.exchange(ctx, s.nodes, s.nodes, overlay.StateDelivered)
	a, b := s.nodes[0], s.nodes[1]
	inbox, err := b.Inbox(ctx)
	if err != nil {
		return err
	}
	for _, m := range inbox {
		if m.From.String() == a.Account && m.Text != nil {
			s.aside("what %s reads: from %s, who calls itself %s: “%s”", b.Name, short(a.Account), m.FromClaims, *m.Text)
		}
	}
	return nil
}

func (s *story) pillarDies(ctx context.Context, _ *settings) error {
	alice := s.nodes[0]
	active, err := s.activeOf(ctx, alice)
	if err != nil {
		return err
	}
	s.title("A pillar dies")
	s.say("%s is %s's active pillar. It is killed (kill -9): no goodbye, nothing flushed.", active.Name, alice.Name)
	if err := s.kill(ctx, active, s.nodes); err != nil || len(s.failed) > 0 {
		return err
	}
	s.say("And everybody writes to everybody again.")
	s.exchange(ctx, s.nodes, s.nodes, overlay.StateDelivered)
	return nil
}

// kill kills a pillar and waits until the nodes, of which some had it, have
// another; it says how long they took.
func (s *story) kill(ctx context.Context, victim *testnet.Process, nodes []*testnet.Process) error {
	before := make([]overlay.NodeStatus, len(nodes))
	for i, n := range nodes {
		st, err := n.NodeStatus(ctx)
		if err != nil {
			return err
		}
		before[i] = st
	}
	if err := victim.Kill(ctx); err != nil {
		return err
	}
	killed := time.Now()
	ctx, cancel := quick(ctx)
	defer cancel()
	for i, n := range nodes {
		if before[i].Pillar != victim.ID {
			continue
		}
		var now overlay.NodeStatus
		err := testnet.Until(ctx, func() string {
			var err error
			if now, err = n.NodeStatus(ctx); err != nil {
				return fmt.Sprintf("%s: %v", n.Name, err)
			}
			if now.Pillar == "" || now.Pillar == victim.ID || now.Failovers == before[i].Failovers {
				return n.Name + " has no other pillar yet"
			}
			return ""
		})
		if err != nil {
			s.check(false, "%s does not get over the death of %s%s", n.Name, victim.Name, because(err))
			return nil
		}
		s.check(true, "%s notices and goes on with %s after %s (the switch alone: %d ms)",
			n.Name, s.nameOf(now.Pillar), time.Since(killed).Round(10*time.Millisecond), now.LastFailoverMS)
	}
	return nil
}

func (s *story) onePillarLeft(ctx context.Context, set *settings) error {
	dave := s.nodes[len(s.nodes)-1]
	rest := s.nodes[:len(s.nodes)-1]
	first := s.pillars[(len(s.nodes)-1)%len(s.pillars)] // what dave was told
	last, err := s.survivor(ctx, dave, first)
	if err != nil {
		return err
	}
	s.title("Only one pillar is left")
	if err := dave.Stop(ctx); err != nil {
		return err
	}
	s.say("%s is switched off. Meanwhile the others write to it.", dave.Name)
	s.exchange(ctx, rest, []*testnet.Process{dave}, overlay.StateReplicated)
	var dead []string
	for _, p := range s.pillars {
		if p == last || !p.Alive() {
			continue
		}
		if err := s.kill(ctx, p, rest); err != nil || len(s.failed) > 0 {
			return err
		}
		dead = append(dead, p.Name)
	}
	s.say("%s %s killed too. Of %d pillars only %s still runs.", list(dead), plural(len(dead), "is", "are"), set.pillars, last.Name)
	s.say("%s is switched on again. The one pillar it was ever told, %s, is dead; the rest it learned.", dave.Name, first.Name)
	began := time.Now()
	if err := dave.Restart(ctx); err != nil {
		return err
	}
	waitCtx, cancel := quick(ctx)
	defer cancel()
	err = testnet.Until(waitCtx, func() string {
		st, err := dave.NodeStatus(waitCtx)
		if err != nil || st.Pillar != last.ID {
			return dave.Name + " is not connected"
		}
		return ""
	})
	s.check(err == nil, "%s finds %s %d ms after its start%s", dave.Name, last.Name, time.Since(began).Milliseconds(), because(err))
	if err != nil {
		return nil
	}
	err = s.waitReceived(waitCtx, dave)
	s.check(err == nil, "and reads what was written to it while it was off%s", because(err))
	s.say("Everybody writes to everybody, through %s alone.", last.Name)
	s.exchange(ctx, s.nodes, s.nodes, overlay.StateDelivered)
	return nil
}

// survivor chooses the pillar that stays up: not the one that dave was told,
// and if possible none that it was connected to.
func (s *story) survivor(ctx context.Context, dave, told *testnet.Process) (*testnet.Process, error) {
	st, err := dave.NodeStatus(ctx)
	if err != nil {
		return nil, err
	}
	var best *testnet.Process
	for _, p := range s.pillars {
		if p == told || !p.Alive() {
			continue
		}
		if best == nil || best.ID == st.Pillar || best.ID == st.Standby {
			best = p
		}
	}
	if best == nil {
		best = told
	}
	return best, nil
}

func (s *story) pillarsReturn(ctx context.Context, set *settings) error {
	s.title("The pillars come back")
	var back []*testnet.Process
	for _, p := range s.pillars {
		if !p.Alive() {
			back = append(back, p)
		}
	}
	began := time.Now()
	err := several(len(back), func(i int) error { return back[i].Restart(ctx) })
	if err != nil {
		return err
	}
	s.say("%s start again on what is on their disks.", list(processNames(back)))
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	_, err = testnet.WaitEqual(ctx, s.pillars)
	s.check(err == nil, "after %.1f s all %d hold equally many records%s", time.Since(began).Seconds(), set.pillars, because(err))
	if err != nil {
		return nil
	}
	s.say("Every 10 s each signs a summary of what it holds, less the newest 10 s, and all compare them.")
	held, err := testnet.WaitConverged(ctx, s.pillars, time.Now())
	s.check(err == nil, "after %.1f s the summaries, which now speak of everything, are equal: the network has converged%s",
		time.Since(began).Seconds(), because(err))
	if len(held) != len(s.pillars) {
		return nil
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "pillar\trecords\tmailboxes\tnodes connected\tconverged")
	for i, p := range s.pillars {
		h := held[i]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", p.Name, h.Records, h.Mailboxes, h.NodesConnected, yes(h.Converged))
	}
	w.Flush()
	for l := range strings.Lines(b.String()) {
		s.say("%s", strings.TrimRight(l, " \n"))
	}
	return nil
}

// count is the last chapter: every message once, at whom it was meant for, and
// its sender knows.
func (s *story) count(ctx context.Context, set *settings) error {
	s.title("Nothing lost, nothing twice")
	want := make(map[string]int) // from|to|text
	for _, p := range s.posts {
		want[p.from.Account+"|"+p.to.Account+"|"+p.text]++
	}
	lost, twice, foreign := 0, 0, 0
	for _, n := range s.nodes {
		inbox, err := n.Inbox(ctx)
		if err != nil {
			return err
		}
		for _, m := range inbox {
			text := ""
			if m.Text != nil {
				text = *m.Text
			}
			key := m.From.String() + "|" + n.Account + "|" + text
			left, known := want[key]
			switch {
			case !known:
				foreign++
			case left == 0:
				twice++
			default:
				want[key]--
			}
		}
	}
	for _, left := range want {
		lost += left
	}
	s.check(lost+twice+foreign == 0, "%d messages sent, each in the right inbox once (%d lost, %d twice, %d of unknown origin)",
		len(s.posts), lost, twice, foreign)
	// The receipts of what arrived last may still be on their way.
	ctx, cancel := quick(ctx)
	defer cancel()
	err := testnet.Until(ctx, func() string {
		for _, n := range s.nodes {
			st, err := n.NodeStatus(ctx)
			if err != nil {
				return fmt.Sprintf("%s: %v", n.Name, err)
			}
			if open := st.Outbox.Queued + st.Outbox.Stored + st.Outbox.Replicated; open > 0 {
				return fmt.Sprintf("%s has %d messages without a receipt", n.Name, open)
			}
		}
		return ""
	})
	s.check(err == nil, "every sender holds a signed receipt for every message%s", because(err))
	// A node reads the directory when it gets a pillar, and once a minute.
	dirCtx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err = s.waitKnown(dirCtx, set.nodes)
	s.check(err == nil, "and every node has all %d in its directory%s", set.nodes, because(err))
	return nil
}

// exchange has every one of from write to every one of to but itself, says how
// it went and checks that all reached want.
func (s *story) exchange(ctx context.Context, from, to []*testnet.Process, want overlay.State) {
	s.round++
	results := make([][]post, len(from))
	var wg sync.WaitGroup
	for i, f := range from {
		wg.Go(func() {
			for _, t := range to {
				if f != t {
					results[i] = append(results[i], s.send(ctx, f, t, want))
				}
			}
		})
	}
	wg.Wait()
	sent, failed := 0, 0
	for i, f := range from {
		var parts []string
		for _, p := range results[i] {
			sent++
			switch {
			case p.err != nil:
				parts = append(parts, fmt.Sprintf("%s: %v", p.to.Name, p.err))
				failed++
			case !p.state.Reached(want):
				parts = append(parts, fmt.Sprintf("%s: still %s after %d ms", p.to.Name, p.state, p.took.Milliseconds()))
				failed++
			default:
				parts = append(parts, fmt.Sprintf("%s %s after %d ms", p.to.Name, p.state, p.took.Milliseconds()))
			}
		}
		if len(parts) > 0 {
			s.say("  %-6s → %s", f.Name, strings.Join(parts, ", "))
		}
	}
	what := "delivered: on the recipient's disk, and the sender holds the receipt"
	if want == overlay.StateReplicated {
		what = "replicated: on the disks of at least two pillars"
	}
	s.check(failed == 0, "%d of %d messages %s", sent-failed, sent, what)
}

func (s *story) send(ctx context.Context, from, to *testnet.Process, want overlay.State) post {
	text := fmt.Sprintf("hello %s, this is %s (message %d)", to.Name, from.Name, s.round)
	p := post{from: from, to: to, text: text}
	c, err := from.Node()
	if err == nil {
		began := time.Now()
		var r admin.SendResult
		r, err = c.Send(ctx, admin.SendRequest{To: []string{to.Account}, Text: &text, Wait: want, TimeoutMS: 30_000})
		p.state, p.took = r.State, time.Since(began)
	}
	p.err = err
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posts = append(s.posts, p)
	return p
}

// waitReceived returns when a node has everything that was sent to it.
func (s *story) waitReceived(ctx context.Context, n *testnet.Process) error {
	return testnet.Until(ctx, func() string {
		inbox, err := n.Inbox(ctx)
		if err != nil {
			return err.Error()
		}
		have := make(map[string]bool)
		for _, m := range inbox {
			if m.Text != nil {
				have[*m.Text] = true
			}
		}
		for _, p := range s.posts {
			if p.to == n && !have[p.text] {
				return fmt.Sprintf("%s lacks “%s”", n.Name, p.text)
			}
		}
		return ""
	})
}

// activeOf is the pillar a node uses.
func (s *story) activeOf(ctx context.Context, n *testnet.Process) (*testnet.Process, error) {
	st, err := n.NodeStatus(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range s.pillars {
		if p.ID == st.Pillar {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s uses pillar %q, which is none of ours", n.Name, st.Pillar)
}

func (s *story) nameOf(id string) string {
	for _, p := range s.pillars {
		if p.ID == id {
			return p.Name
		}
	}
	return id
}

func processNames(list []*testnet.Process) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Name)
	}
	return out
}

// short is an ID cut for reading.
func short(id string) string {
	if len(id) <= 12 {
		return id
	}
	return "…" + id[len(id)-8:]
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
