package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/store"
	"github.com/obelisk-network/obelisk/testnet"
)

// resyncResult is what --mode resync prints: what it costs two pillars to become
// equal again.
type resyncResult struct {
	Missing       int     `json:"missing"`
	Total         int     `json:"total"`
	OverheadBytes uint64  `json:"overhead_bytes"` // both ways, without the records
	PayloadBytes  uint64  `json:"payload_bytes"`  // the records
	RoundTrips    int     `json:"round_trips"`
	TookMS        float64 `json:"took_ms"`
	CPUMS         float64 `json:"cpu_ms"` // of both pillars
	Rounds        int     `json:"rounds"` // audit rounds that this took
	// WireBytes is what the loopback interface carried meanwhile: transport,
	// acknowledgements, membership and everybody else's traffic included.
	WireBytes uint64 `json:"wire_bytes"`
	// EqualBytes is what a round between the two cost once they were equal, the
	// larger of the two ways.
	EqualBytes uint64 `json:"equal_bytes"`
	// BaselineMS, of --explained, is how long the same records take if they simply
	// come in one stream and are verified and stored, see oneStream.
	BaselineMS float64 `json:"baseline_ms,omitempty"`
	// Inspect is what it costs to look before anything is repaired; without
	// --explained only.
	Inspect   *inspected `json:"inspect,omitempty"`
	Where     string     `json:"where"`
	Explained bool       `json:"explained"`
	Size      int        `json:"size"`
	Transport string     `json:"transport"`
	Mode      string     `json:"mode"`
	Machine   string     `json:"machine"`
}

// String is the table for people.
func (r *resyncResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	why := r.Where + ", deleted by hand"
	if r.Explained {
		why = "written while the pillar was away"
	}
	row("missing", "%d of %d records of %d bytes, %s", r.Missing, r.Total, r.Size, why)
	row("machine", "%s, shared by both pillars", r.Machine)
	row("beside the records", "%d bytes both ways, %d round trips, %d rounds", r.OverheadBytes, r.RoundTrips, r.Rounds)
	row("records", "%d bytes", r.PayloadBytes)
	row("took", "%.1f ms, CPU of both pillars %.0f ms", r.TookMS, r.CPUMS)
	if r.Explained {
		row("one stream alone", "%.1f ms for the same, read, sent, verified and stored", r.BaselineMS)
	}
	row("a round once equal", "%d bytes the larger way", r.EqualBytes)
	row("wire", "%d bytes (%s)", r.WireBytes, wireSource)
	if i := r.Inspect; i != nil {
		row("diff", "%d differences named for %d bytes, %d round trips, in %.1f ms", i.Differences, i.Bytes, i.RoundTrips, i.TookMS)
		row("reads", "median and slowest of %d: status %.1f and %.1f ms, metrics %.1f and %.1f ms, dashboard %.1f and %.1f ms", readsTimed,
			i.StatusMS.P50, i.StatusMS.P99, i.MetricsMS.P50, i.MetricsMS.P99, i.PageMS.P50, i.PageMS.P99)
	}
	w.Flush()
	return b.String()
}

// resync measures how two pillars become equal again.
func (b *bench) resync(ctx context.Context) (*resyncResult, error) {
	d, err := b.device(ctx)
	if err != nil {
		return nil, err
	}
	whole, gap := b.pillars[0], b.pillars[1]
	r := &resyncResult{Missing: b.missing, Total: b.total, Where: b.where, Explained: b.explained, Size: b.size,
		Transport: b.transport, Mode: "resync", Machine: machine()}
	if err := b.stopBoth(ctx); err != nil {
		return nil, err
	}
	base := b.total
	if b.explained {
		base -= b.missing
	}
	stubs, err := b.fillBoth(ctx, d, base)
	if err != nil {
		return nil, fmt.Errorf("write %d records to the disks: %w", base, err)
	}
	if b.explained {
		err = b.resyncExplained(ctx, r, whole, gap)
	} else {
		lost := pick(stubs, b.missing, b.where == "newest")
		for i := range lost {
			r.PayloadBytes += uint64(lost[i].size)
		}
		err = b.resyncByHand(ctx, r, whole, gap, lost)
	}
	if err != nil {
		return nil, err
	}
	if err := b.equalRound(ctx, r, gap, whole); err != nil {
		return nil, err
	}
	if err := b.stopBoth(ctx); err != nil {
		return nil, err
	}
	n, err := sameRecords(b.pillars)
	if err == nil && n < b.total {
		err = fmt.Errorf("%d of %d records are there in the end", n, b.total)
	}
	if err == nil && b.explained {
		var alone streamed
		if alone, err = b.oneStream(ctx, whole, d.network); err != nil {
			return nil, err
		}
		r.BaselineMS, r.PayloadBytes = round(millisOf(alone.took), 1), alone.bytes
		r.OverheadBytes -= min(r.OverheadBytes, r.PayloadBytes)
	}
	return r, err
}

func (b *bench) stopBoth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return errors.Join(b.pillars[0].Stop(ctx), b.pillars[1].Stop(ctx))
}

// fillBoth writes n records to the disks of both pillars.
func (b *bench) fillBoth(ctx context.Context, d *device, n int) (stubs []stub, err error) {
	var disks []*store.Pebble
	for _, p := range b.pillars {
		disk, err := openStore(p)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, disk.Close()) }()
		disks = append(disks, disk)
	}
	return b.fillDisks(ctx, d, n, disks)
}

// startTime bounds a start: a pillar with many records counts them first.
const startTime = 5 * time.Minute

// restart starts pillars that are down and lets them begin no audit by
// themselves.
func (b *bench) restart(ctx context.Context, pillars ...*testnet.Process) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, p := range pillars {
		if err := p.Restart(ctx); err != nil {
			return err
		}
		if err := pauseAudit(ctx, p, true); err != nil {
			return err
		}
	}
	return testnet.WaitTogether(ctx, b.pillars, len(b.pillars))
}

// resyncByHand deletes records from a disk and has an audit bring them back.
func (b *bench) resyncByHand(ctx context.Context, r *resyncResult, whole, gap *testnet.Process, lost []stub) error {
	if err := deleteByHand(gap, lost); err != nil {
		return err
	}
	if err := b.restart(ctx, whole, gap); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	var err error
	if r.Inspect, err = b.inspect(ctx, gap, whole); err != nil {
		return err
	}
	for found := 0; found < b.missing; {
		before := measure(b.pillars)
		if err := beginRound(ctx, gap, whole); err != nil {
			return err
		}
		after := measure(b.pillars)
		last, err := lastRound(ctx, gap, whole)
		switch {
		case err != nil:
			return err
		case last != nil && last.Result == "equal" && r.Rounds == 0:
			return errors.New("the pillars are equal before a round: what was deleted came back otherwise")
		case last != nil && last.Result == "equal":
			return nil
		case last != nil && last.Differences > 0:
			found += last.Differences
			r.Rounds++
			r.OverheadBytes += last.BytesSent + last.BytesReceived
			r.RoundTrips += last.RoundTrips
			r.TookMS += round(millisOf(after.at.Sub(before.at)), 3)
			r.CPUMS += millisOf(after.pillars - before.pillars)
			r.WireBytes += after.wire - before.wire
			continue
		}
		// They have not agreed on a key or an instant yet, or count their records.
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("no round between the two: %w", context.Cause(ctx))
		}
	}
	return nil
}

// equalRound has two pillars that are equal say so.
func (b *bench) equalRound(ctx context.Context, r *resyncResult, a, peer *testnet.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return testnet.Until(ctx, func() string {
		if err := beginRound(ctx, a, peer); err != nil {
			return err.Error()
		}
		last, err := lastRound(ctx, a, peer)
		switch {
		case err != nil:
			return err.Error()
		case last == nil:
			return "no round is known of"
		case last.Result != "equal":
			return "the pillars are not equal: a round says " + last.Result
		}
		r.EqualBytes = max(last.BytesSent, last.BytesReceived)
		return ""
	})
}
