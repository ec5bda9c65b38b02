package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/testnet"
)

// idleResult is what --mode idle prints: what a connected device costs the
// pillars that serve it.
type idleResult struct {
	Nodes             int     `json:"nodes"`
	RSSKBPerNode      float64 `json:"rss_kb_per_node"`
	GoroutinesPerNode float64 `json:"goroutines_per_node"`
	CPUPercent        float64 `json:"cpu_percent"` // of one core, all pillars together
	Pillars           int     `json:"pillars"`
	Transport         string  `json:"transport"`
	Mode              string  `json:"mode"`
	Address           string  `json:"address"` // that all devices come from; "": loopback
	PillarRSSMB       float64 `json:"pillar_rss_mb"`
	LoadAverage       string  `json:"load_average"` // of the machine, at the end
	Machine           string  `json:"machine"`
}

// String is the table for people.
func (r *idleResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "idle\t%d devices, registered and listening, over %d pillars, transport %s\n", r.Nodes, r.Pillars, r.Transport)
	fmt.Fprintf(w, "memory\t%.1f kB a device at its pillar\n", r.RSSKBPerNode)
	fmt.Fprintf(w, "goroutines\t%.1f a device at its pillar\n", r.GoroutinesPerNode)
	fmt.Fprintf(w, "CPU of all pillars\t%.1f %% of one core\n", r.CPUPercent)
	w.Flush()
	return b.String()
}

const (
	idleWatch = 20 * time.Second // how long CPU is counted
)

// idle connects devices that do nothing and measures what they cost.
func (b *bench) idle(ctx context.Context) (*idleResult, error) {
	before, err := scrapeAll(ctx, b.pillars)
	if err != nil {
		return nil, err
	}
	rssBefore := b.rss()
	devices, err := b.crowd(ctx, b.nodes)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	sessions, err := b.connect(ctx, devices)
	defer func() {
		for _, s := range sessions {
			if s != nil {
				s.stream.Reset()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for i, s := range sessions {
		k := &keeper{pillar: b.addrs[i%len(b.addrs)]}
		wg.Go(func() { k.watch(watching, devices[i], s) })
	}
	if _, err := testnet.WaitEqual(ctx, b.pillars); err != nil {
		return nil, err
	}
	first := measure(b.pillars)
	select {
	case <-time.After(idleWatch):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	second := measure(b.pillars)
	after, err := scrapeAll(ctx, b.pillars)
	if err != nil {
		return nil, err
	}
	n := float64(b.nodes)
	return &idleResult{
		Nodes: b.nodes, RSSKBPerNode: round((b.rss()-rssBefore)/1000/n, 1),
		GoroutinesPerNode: round((after["go_goroutines"]-before["go_goroutines"])/n, 1),
		CPUPercent:        round(100*(second.pillars-first.pillars).Seconds()/second.at.Sub(first.at).Seconds(), 1),
		Pillars:           b.settings.pillars, Transport: b.transport, Mode: "idle", Machine: machine(),
		Address: b.address, PillarRSSMB: round(b.rss()/1e6, 1), LoadAverage: loadAverage(),
	}, nil
}

// connect opens a session for every device.
func (b *bench) connect(ctx context.Context, devices []*device) ([]*session, error) {
	sessions := make([]*session, len(devices))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	work := make(chan int)
	for range crowdDialers {
		wg.Go(func() {
			for i := range work {
				s, err := devices[i].dial(ctx, b.addrs[i%len(b.addrs)])
				mu.Lock()
				if sessions[i] = s; err != nil && failed == nil {
					failed = fmt.Errorf("device %d: %w", i, err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range devices {
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		work <- i
	}
	close(work)
	wg.Wait()
	return sessions, failed
}

// discard reads until the stream ends.
func (s *session) discard() {
	for {
		if _, err := s.frames.Next(); err != nil {
			return
		}
	}
}

// rss is the memory of all pillars together, in bytes.
func (b *bench) rss() float64 {
	var sum uint64
	for _, p := range b.pillars {
		sum += rss(p.PID)
	}
	return float64(sum)
}
