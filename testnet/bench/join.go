package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	obelisk "github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// joinResult is what --mode join prints: a large network that is joined, and
// then left alone.
type joinResult struct {
	Pillars         int       `json:"pillars"`
	EverywhereMS    quantiles `json:"everywhere_ms"` // submitted to pushed at every pillar
	EverywhereMaxMS float64   `json:"everywhere_max_ms"`
	Probes          int       `json:"probes"`
	// JoinMS is from the start of one further pillar's process until it is
	// connected to all others and holds all records; JoinSeenMS until all others
	// say so, too.
	JoinMS     float64 `json:"join_ms"`
	JoinSeenMS float64 `json:"join_seen_ms"`
	IdleS      float64 `json:"idle_s"`
	// FalseDeaths is how often a pillar took another one, which was there, for
	// anything but alive, in IdleS.
	FalseDeaths int      `json:"false_deaths"`
	Deaths      []string `json:"deaths,omitempty"` // the first of them
	CPUPercent  float64  `json:"cpu_percent"`      // of one core, all pillars together, idle
	PillarRSSMB float64  `json:"pillar_rss_mb"`    // on average
	Records     uint64   `json:"records"`
	Transport   string   `json:"transport"`
	Mode        string   `json:"mode"`
	Machine     string   `json:"machine"`
}

// String is the table for people.
func (r *joinResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("network", "%d pillars, transport %s", r.Pillars, r.Transport)
	row("machine", "%s, shared by all of them", r.Machine)
	row("readable everywhere", "p50 %.0f ms, p99 %.0f ms, at most %.0f ms (%d messages)", r.EverywhereMS.P50, r.EverywhereMS.P99, r.EverywhereMaxMS, r.Probes)
	row("joining", "%.0f ms until one more was connected to all and held all %d records, %.0f ms until all others saw it", r.JoinMS, r.Records, r.JoinSeenMS)
	row("false deaths", "%d in %.0f s", r.FalseDeaths, r.IdleS)
	for _, d := range r.Deaths {
		row("", "%s", d)
	}
	row("CPU of all pillars", "%.1f %% of one core, idle", r.CPUPercent)
	row("memory", "%.1f MB a pillar", r.PillarRSSMB)
	w.Flush()
	return b.String()
}

const (
	joinProbes  = 30                     // messages that are followed everywhere
	joinEvery   = 200 * time.Millisecond // one of them
	idleLook    = 2 * time.Second        // between two looks at who is alive
	deathsShown = 10
)

// join measures a network of many pillars.
func (b *bench) join(ctx context.Context) (*joinResult, error) {
	r := &joinResult{Pillars: len(b.pillars), Transport: b.transport, Mode: "join", Machine: machine()}
	if err := b.everywhere(ctx, r); err != nil {
		return nil, err
	}
	if err := b.joinOne(ctx, r); err != nil {
		return nil, err
	}
	return r, b.watchIdle(ctx, r)
}

// everywhere has messages pushed at every pillar.
func (b *bench) everywhere(ctx context.Context, r *joinResult) error {
	b.settings.clients, b.concern, b.spread = 1, 1, "first"
	l, err := b.clients(ctx, nil)
	if err != nil {
		return err
	}
	if err := b.addProbe(ctx, l); err != nil {
		return err
	}
	c := l.clients[0]
	var readers sync.WaitGroup
	defer readers.Wait()
	defer func() {
		c.stream.Reset()
		for _, s := range l.probe.sessions {
			s.stream.Reset()
		}
	}()
	readers.Go(func() { _ = c.read(l) }) // what it misses the wait reports
	for i := range l.probe.sessions {
		readers.Go(func() { _ = l.probe.read(i) })
	}
	if err := l.run(ctx, b.warmup); err != nil {
		return err
	}
	if err := b.settle(ctx, l); err != nil {
		return err
	}
	for range joinProbes {
		began := time.Now()
		rec, err := c.writer.message(l.probe.account)
		if err != nil {
			return err
		}
		l.probe.expect(rec.ID, began)
		if err := c.submit([]*flight{{raw: rec.Raw, began: began}}, 1); err != nil {
			return err
		}
		select {
		case <-time.After(joinEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	times, err := l.probe.wait(ctx)
	if err != nil {
		return err
	}
	r.EverywhereMS, r.EverywhereMaxMS, r.Probes = quantilesOf(times), percentile(times, 1), len(times)
	return nil
}

// joinOne starts one more pillar.
func (b *bench) joinOne(ctx context.Context, r *joinResult) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	equal, err := testnet.WaitEqual(ctx, b.pillars)
	if err != nil {
		return err
	}
	r.Records = equal[0].Records
	p, err := b.net.StartPillar(ctx, fmt.Sprintf("pillar-%d", len(b.pillars)+1))
	if err != nil {
		return err
	}
	info, err := obelisk.ReadRun(p.Data)
	if err != nil {
		return err
	}
	others := b.pillars
	b.pillars = b.net.Pillars()
	if err := testnet.Until(ctx, func() string {
		s, err := p.PillarStatus(ctx)
		switch {
		case err != nil:
			return err.Error()
		case s.PillarsAlive < len(b.pillars) || s.Records < r.Records:
			return fmt.Sprintf("%s sees %d of %d pillars and holds %d of %d records", p.Name, s.PillarsAlive, len(b.pillars), s.Records, r.Records)
		}
		return ""
	}); err != nil {
		return err
	}
	r.JoinMS = round(millisOf(time.Since(info.Started)), 0)
	if err := testnet.WaitTogether(ctx, others, len(b.pillars)); err != nil {
		return err
	}
	r.JoinSeenMS = round(millisOf(time.Since(info.Started)), 0)
	return nil
}

// watchIdle looks at who takes whom for dead while nothing happens.
func (b *bench) watchIdle(ctx context.Context, r *joinResult) error {
	before := measure(b.pillars)
	tick := time.NewTicker(idleLook)
	defer tick.Stop()
	names := make(map[string]string)
	for _, p := range b.pillars {
		names[p.ID] = p.Name
	}
	states := make(map[[2]string]string) // what the first says of the second
	for end := time.Now().Add(time.Duration(b.idleMinutes * float64(time.Minute))); time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, p := range b.pillars {
			client, err := p.Pillar()
			if err != nil {
				return err
			}
			list, err := client.Pillars(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			for _, other := range list {
				key, state := [2]string{p.ID, other.ID.String()}, string(other.State)
				was, seen := states[key]
				states[key] = state
				if state == string(overlay.PillarAlive) || seen && was == state {
					continue
				}
				if r.FalseDeaths++; len(r.Deaths) < deathsShown {
					r.Deaths = append(r.Deaths, fmt.Sprintf("%s took %s for %s after %.0f s", p.Name, names[other.ID.String()], state, time.Since(before.at).Seconds()))
				}
			}
		}
	}
	after := measure(b.pillars)
	r.IdleS = round(after.at.Sub(before.at).Seconds(), 0)
	r.CPUPercent = round(100*(after.pillars-before.pillars).Seconds()/after.at.Sub(before.at).Seconds(), 1)
	r.PillarRSSMB = round(b.rss()/1e6/float64(len(b.pillars)), 1)
	return nil
}
