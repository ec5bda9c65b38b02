package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// chaosResult is what chaos --json prints.
type chaosResult struct {
	Sent         int  `json:"sent"`         // taken by a node
	Acknowledged int  `json:"acknowledged"` // replicated or delivered, as the sender saw it
	Delivered    int  `json:"delivered"`    // in the recipient's inbox
	Lost         int  `json:"lost"`         // acknowledged, and not delivered
	Duplicated   int  `json:"duplicated"`   // more than once in an inbox
	FailoverMS   span `json:"failover_ms"`
	Failovers    int  `json:"failovers"`
	AckMS        span `json:"ack_ms"` // from the send to replicated, whatever happened meanwhile
	// Converged: equally many records, and then equal summaries of all of them.
	Converged bool `json:"converged"`
	// ConvergeS is from the last pillar's return to equally many records at all.
	ConvergeS float64 `json:"converge_s"`
	Unsent    int     `json:"unsent"` // without a final state in the end
	Kills     int     `json:"kills"`
	Pauses    int     `json:"pauses"`
	Seconds   int     `json:"seconds"`
	Seed      uint64  `json:"seed"`
	Pillars   int     `json:"pillars"`
	Nodes     int     `json:"nodes"`
}

// span is the middle and the end of some durations in ms.
type span struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

func spanOf(ms []int64) span {
	if len(ms) == 0 {
		return span{}
	}
	slices.Sort(ms)
	at := func(q float64) int64 { return ms[min(len(ms)-1, int(q*float64(len(ms))))] }
	return span{at(0.5), at(0.99), ms[len(ms)-1]}
}

// errChaos: the network broke a promise.
var errChaos = errors.New("something acknowledged was lost, came twice or did not converge")

// torment is a run of chaos.
type torment struct {
	*settings
	net   *testnet.Network
	nodes []*testnet.Process
	log   func(format string, args ...any)
	began time.Time

	mu        sync.Mutex
	sent      map[string]bool // guarded by mu; recipient|text, true once acknowledged
	failovers []int64         // guarded by mu; ms
	acks      []int64         // guarded by mu; ms
	kills     int
	pauses    int
}

func chaos(ctx context.Context, s *settings, out, progress io.Writer) error {
	dir, remove, err := s.workDir("chaos")
	if err != nil {
		return err
	}
	n, err := testnet.Create(dir, s.binary, testnet.Options{Memory: memoryOf(s), NodeMemory: memoryOf(s), StoreLimit: storeLimit})
	if err != nil {
		return err
	}
	t := &torment{settings: s, net: n, sent: make(map[string]bool), began: time.Now()}
	t.log = func(format string, args ...any) {
		fmt.Fprintf(progress, "%6.1f s  "+format+"\n", append([]any{time.Since(t.began).Seconds()}, args...)...)
	}
	result, err := t.run(ctx)
	n.KillAll()
	if err != nil {
		return fmt.Errorf("%w; seed %d, logs and data are kept in %s", err, s.seed, dir)
	}
	if s.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(result)
	} else {
		_, err = fmt.Fprintf(out, "%d sent, %d acknowledged, %d delivered, %d lost, %d twice; %d failovers, the longest took %d ms; acknowledged after %d ms (p50), %d ms at most; converged: %s, after %.1f s\n",
			result.Sent, result.Acknowledged, result.Delivered, result.Lost, result.Duplicated,
			result.Failovers, result.FailoverMS.Max, result.AckMS.P50, result.AckMS.Max, yes(result.Converged), result.ConvergeS)
	}
	if err != nil {
		return err
	}
	if result.Lost > 0 || result.Duplicated > 0 || !result.Converged {
		return fmt.Errorf("%w; seed %d, logs and data are kept in %s", errChaos, s.seed, dir)
	}
	return remove()
}

func (t *torment) run(ctx context.Context) (*chaosResult, error) {
	startCtx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := start(startCtx, t.net, t.settings.pillars, t.settings.nodes); err != nil {
		return nil, err
	}
	if err := connected(startCtx, t.net); err != nil {
		return nil, err
	}
	t.nodes = t.net.Nodes()
	t.log("%d pillars and %d nodes are connected; seed %d", t.settings.pillars, t.settings.nodes, t.seed)

	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	sendCtx, stopSending := context.WithTimeout(ctx, time.Duration(t.seconds)*time.Second)
	defer stopSending()
	var watchers, senders sync.WaitGroup
	for i, n := range t.nodes {
		watchers.Go(func() { t.watch(watchCtx, n) })
		senders.Go(func() { t.send(ctx, sendCtx, i) })
	}
	err := t.torture(sendCtx)
	senders.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		stopWatch()
		watchers.Wait()
		return nil, err
	}
	result := t.settle(ctx)
	stopWatch()
	watchers.Wait()
	t.mu.Lock()
	result.FailoverMS, result.Failovers = spanOf(t.failovers), len(t.failovers)
	result.AckMS = spanOf(t.acks)
	t.mu.Unlock()
	return result, nil
}

// watch notes how long a node's failovers took.
func (t *torment) watch(ctx context.Context, n *testnet.Process) {
	c, err := n.Node()
	if err != nil {
		return
	}
	last := ""
	for ctx.Err() == nil {
		_ = c.Events(ctx, last, func(e admin.StreamEvent) error { // asked again from where it broke
			last = e.ID
			if e.Kind == overlay.EventFailover && e.Failover != nil {
				t.mu.Lock()
				t.failovers = append(t.failovers, e.Failover.TookMS)
				t.mu.Unlock()
			}
			return nil
		})
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// inFlight is how many messages of one node wait for an acknowledgement.
const inFlight = 32

// send has node i write to the others, again and again until sendCtx ends, and
// waits for what is under way.
func (t *torment) send(ctx, sendCtx context.Context, i int) {
	c, err := t.nodes[i].Node()
	if err != nil {
		return
	}
	pace := time.NewTicker(time.Second / time.Duration(t.rate))
	defer pace.Stop()
	slots := make(chan struct{}, inFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	for k := 0; ; k++ {
		select {
		case <-pace.C:
		case <-sendCtx.Done():
			return
		}
		select {
		case slots <- struct{}{}:
		case <-sendCtx.Done():
			return
		}
		to := t.nodes[(i+1+k%(len(t.nodes)-1))%len(t.nodes)]
		wg.Go(func() {
			defer func() { <-slots }()
			t.sendOne(ctx, c, to, fmt.Sprintf("%s %d", t.nodes[i].Name, k))
		})
	}
}

func (t *torment) sendOne(ctx context.Context, c *admin.NodeClient, to *testnet.Process, text string) {
	began := time.Now()
	r, err := c.Send(ctx, admin.SendRequest{To: []string{to.Account}, Text: &text, ClientID: text,
		Wait: overlay.StateReplicated, TimeoutMS: 20_000})
	if err != nil {
		t.log("not taken: %v", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	acknowledged := r.State == overlay.StateReplicated || r.State == overlay.StateDelivered
	t.sent[to.Account+"|"+text] = acknowledged
	if acknowledged {
		t.acks = append(t.acks, time.Since(began).Milliseconds())
	}
}

// torture does to the pillars, until ctx ends, what the seed says: kill -9 or
// pause, and after a while back. One at least is left alone at any time.
func (t *torment) torture(ctx context.Context) error {
	random := rand.New(rand.NewPCG(t.seed, 0))
	pillars := t.net.Pillars()
	back := make(map[int]time.Time) // when a broken pillar returns
	background := context.WithoutCancel(ctx)
	for {
		wait := 300*time.Millisecond + time.Duration(random.Int64N(int64(1500*time.Millisecond)))
		victim, pause := random.IntN(len(pillars)), random.IntN(3) == 0
		away := 500*time.Millisecond + time.Duration(random.Int64N(int64(6*time.Second)))
		next := time.Now().Add(wait)
		for due := true; due; { // whoever returns before the next blow
			due = false
			until, who := next, -1
			for i, at := range back {
				if at.Before(until) {
					until, who = at, i
				}
			}
			select {
			case <-ctx.Done():
				return t.bringBack(background, pillars)
			case <-time.After(time.Until(until)):
			}
			if who >= 0 {
				due = true
				delete(back, who)
				if err := t.restore(background, pillars[who]); err != nil {
					return err
				}
			}
		}
		if _, broken := back[victim]; broken || len(back) == len(pillars)-1 {
			continue
		}
		p := pillars[victim]
		var err error
		if pause {
			t.pauses++
			t.log("%s hangs for %.1f s", p.Name, away.Seconds())
			err = p.Pause()
		} else {
			t.kills++
			t.log("%s is killed, back in %.1f s", p.Name, away.Seconds())
			err = p.Kill(background)
		}
		if err != nil {
			return err
		}
		back[victim] = time.Now().Add(away)
	}
}

func (t *torment) restore(ctx context.Context, p *testnet.Process) error {
	if p.Paused() {
		t.log("%s goes on", p.Name)
		return p.Resume()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	t.log("%s starts again", p.Name)
	return p.Restart(ctx)
}

func (t *torment) bringBack(ctx context.Context, pillars []*testnet.Process) error {
	for _, p := range pillars {
		if p.Paused() || !p.Alive() {
			if err := t.restore(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle waits until nothing is under way any more and counts.
func (t *torment) settle(ctx context.Context) *chaosResult {
	back := time.Now()
	r := &chaosResult{Sent: len(t.sent), Kills: t.kills, Pauses: t.pauses, Seconds: t.seconds, Seed: t.seed,
		Pillars: t.settings.pillars, Nodes: t.settings.nodes}
	t.log("all pillars are back; waiting for what is under way")
	waitCtx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := t.waitFinal(waitCtx, r); err != nil {
		t.log("%v", err)
	}
	_, err := testnet.WaitEqual(waitCtx, t.net.Pillars())
	r.ConvergeS = time.Since(back).Round(100 * time.Millisecond).Seconds()
	if err == nil {
		_, err = testnet.WaitConverged(waitCtx, t.net.Pillars(), time.Now())
	}
	if r.Converged = err == nil; !r.Converged {
		t.log("not converged: %v", err)
	}
	t.count(ctx, r)
	return r
}

// waitFinal returns when every message has a final state at its sender.
func (t *torment) waitFinal(ctx context.Context, r *chaosResult) error {
	return testnet.Until(ctx, func() string {
		r.Unsent = 0
		for _, n := range t.nodes {
			st, err := n.NodeStatus(ctx)
			if err != nil {
				return fmt.Sprintf("%s: %v", n.Name, err)
			}
			r.Unsent += st.Outbox.Queued + st.Outbox.Stored + st.Outbox.Replicated
		}
		if r.Unsent > 0 {
			return fmt.Sprintf("%d messages have no final state", r.Unsent)
		}
		return ""
	})
}

// count compares what was sent with what was received.
func (t *torment) count(ctx context.Context, r *chaosResult) {
	got := make(map[string]int)
	for _, n := range t.nodes {
		inbox, err := n.Inbox(ctx)
		if err != nil {
			t.log("inbox of %s: %v", n.Name, err)
			continue
		}
		for _, m := range inbox {
			if m.Text != nil {
				got[n.Account+"|"+*m.Text]++
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, acknowledged := range t.sent {
		n := got[key]
		if acknowledged {
			r.Acknowledged++
		}
		switch {
		case n > 1:
			r.Duplicated++
			fallthrough
		case n == 1:
			r.Delivered++
		case acknowledged:
			r.Lost++
			t.log("lost: %s", key)
		}
	}
}
