package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// failoverResult is what --mode failover prints: how long a conversation stands
// still when a pillar is killed in it.
type failoverResult struct {
	Runs       int       `json:"runs"`
	NextMS     quantiles `json:"next_ms"` // from the kill to the receipt of the next message
	MaxMS      float64   `json:"max_ms"`
	SenderMS   quantiles `json:"sender_ms"`    // of those in which the sender's pillar was killed
	RecipMS    quantiles `json:"recipient_ms"` // and the recipient's
	Lost       int       `json:"lost"`
	Duplicated int       `json:"duplicated"`
	Pillars    int       `json:"pillars"`
	Transport  string    `json:"transport"`
	Mode       string    `json:"mode"`
	Machine    string    `json:"machine"`
}

// String is the table for people.
func (r *failoverResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "failover\t%d kills (-9) of a pillar in use, %d pillars, transport %s\n", r.Runs, r.Pillars, r.Transport)
	fmt.Fprintf(w, "next message\tdelivered, with its receipt, p50 %.0f ms, p99 %.0f ms, at most %.0f ms after the kill\n", r.NextMS.P50, r.NextMS.P99, r.MaxMS)
	fmt.Fprintf(w, "\tp50 %.0f ms if the sender's pillar was killed, %.0f ms if the recipient's\n", r.SenderMS.P50, r.RecipMS.P50)
	fmt.Fprintf(w, "lost\t%d, delivered twice %d\n", r.Lost, r.Duplicated)
	w.Flush()
	return b.String()
}

// failover kills the sender's and the recipient's pillar by turns, and sends.
func (b *bench) failover(ctx context.Context) (*failoverResult, error) {
	alice, err := b.net.StartNode(ctx, "alice", b.pillars[0])
	if err != nil {
		return nil, err
	}
	bob, err := b.net.StartNode(ctx, "bob", b.pillars[1])
	if err != nil {
		return nil, err
	}
	r := &failoverResult{Runs: b.runs, Pillars: b.settings.pillars, Transport: b.transport, Mode: "failover", Machine: machine()}
	var all, sender, recipient []time.Duration
	sent := map[string]int{}
	for i := range b.runs {
		whose := []*testnet.Process{alice, bob}[i%2]
		took, err := b.killOne(ctx, i, alice, bob, whose)
		if err != nil {
			return nil, fmt.Errorf("kill %d: %w", i+1, err)
		}
		sent[before(i)], sent[after(i)] = 0, 0
		if all = append(all, took); whose == alice {
			sender = append(sender, took)
		} else {
			recipient = append(recipient, took)
		}
	}
	inbox, err := bob.Inbox(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range inbox {
		if m.Text != nil {
			sent[*m.Text]++
		}
	}
	for _, n := range sent {
		r.Lost += btoi(n == 0)
		r.Duplicated += btoi(n > 1)
	}
	r.NextMS, r.SenderMS, r.RecipMS = quantilesOf(all), quantilesOf(sender), quantilesOf(recipient)
	r.MaxMS = percentile(all, 1)
	return r, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func before(i int) string { return fmt.Sprintf("before kill %d", i+1) }
func after(i int) string  { return fmt.Sprintf("after kill %d", i+1) }

// killOne kills the active pillar of one of the nodes between two messages and
// says how long the second took. Then it brings the pillar back.
func (b *bench) killOne(ctx context.Context, i int, alice, bob, whose *testnet.Process) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := testnet.WaitConnected(ctx, b.net.Nodes(), b.settings.pillars); err != nil {
		return 0, err
	}
	if err := say(ctx, alice, bob, before(i)); err != nil {
		return 0, err
	}
	st, err := whose.NodeStatus(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range b.pillars {
		if p.ID != st.Pillar {
			continue
		}
		began := time.Now()
		if err := p.Kill(ctx); err != nil {
			return 0, err
		}
		if err := say(ctx, alice, bob, after(i)); err != nil {
			return 0, err
		}
		took := time.Since(began)
		if err := p.Restart(ctx); err != nil {
			return 0, err
		}
		return took, testnet.WaitTogether(ctx, b.pillars, b.settings.pillars)
	}
	return 0, fmt.Errorf("%s uses pillar %q, which is none of the network", whose.Name, st.Pillar)
}

// say sends a message and waits for its receipt.
func say(ctx context.Context, from, to *testnet.Process, text string) error {
	c, err := from.Node()
	if err != nil {
		return err
	}
	m, err := c.Send(ctx, admin.SendRequest{To: []string{to.Account}, Text: &text, Wait: overlay.StateDelivered, TimeoutMS: 60_000})
	if err != nil {
		return err
	}
	if m.State != overlay.StateDelivered {
		return fmt.Errorf("%q is %s (%s)", text, m.State, m.Reason)
	}
	return nil
}
