package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/obelisk-network/obelisk/testnet"
)

// inspected is what it costs an operator to look, at pillars with --total records.
type inspected struct {
	Differences int     `json:"differences"` // that a diff listed on its first page
	Bytes       uint64  `json:"bytes"`       // of that page, both ways between the pillars
	RoundTrips  int     `json:"round_trips"`
	TookMS      float64 `json:"took_ms"`
	// Of readsTimed reads of each, one after the other; p99 is the slowest.
	StatusMS  quantiles `json:"status_ms"`
	MetricsMS quantiles `json:"metrics_ms"`
	PageMS    quantiles `json:"page_ms"` // the dashboard
}

const (
	readsTimed = 50
	diffPage   = 1000 // differences that a page lists at most
)

// inspect lists what differs, moving nothing, and times what operators read.
func (b *bench) inspect(ctx context.Context, gap, whole *testnet.Process) (*inspected, error) {
	var r inspected
	for {
		var d struct {
			OnlyHere   []struct{} `json:"only_here"`
			OnlyThere  []struct{} `json:"only_there"`
			Bytes      uint64     `json:"bytes"`
			RoundTrips int        `json:"round_trips"`
			TookMS     float64    `json:"took_ms"`
		}
		err := askSync(ctx, gap, http.MethodGet, "/v1/sync/diff", url.Values{"peer": {whole.ID}}, &d)
		if n := len(d.OnlyHere) + len(d.OnlyThere); err == nil && n >= min(b.missing, diffPage) {
			r.Differences, r.Bytes, r.RoundTrips, r.TookMS = n, d.Bytes, d.RoundTrips, round(d.TookMS, 1)
			break
		}
		// They have not agreed on a key or an instant yet, or count their records.
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, fmt.Errorf("no diff of the two: %w", errors.Join(err, context.Cause(ctx)))
		}
	}
	for path, times := range map[string]*quantiles{"/v1/status": &r.StatusMS, "/metrics": &r.MetricsMS, "/": &r.PageMS} {
		took := make([]time.Duration, readsTimed)
		for i := range took {
			begun := time.Now()
			if err := askSync(ctx, gap, http.MethodGet, path, nil, nil); err != nil {
				return nil, err
			}
			took[i] = time.Since(begun)
		}
		*times = quantilesOf(took)
	}
	return &r, nil
}
