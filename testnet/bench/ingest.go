package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// quantiles are two percentiles in ms.
type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func quantilesOf(times []time.Duration) quantiles {
	return quantiles{percentile(times, 0.5), percentile(times, 0.99)}
}

// ingestResult is what --mode ingest prints.
type ingestResult struct {
	MsgsPerS           float64   `json:"msgs_per_s"`
	AckMS              quantiles `json:"ack_ms"`
	EverywhereMS       quantiles `json:"everywhere_ms"` // submitted to pushed at every pillar
	PillarCPUMSPer1k   float64   `json:"pillar_cpu_ms_per_1k"`
	ClientCPUMSPer1k   float64   `json:"client_cpu_ms_per_1k"`
	PillarRSSMB        []float64 `json:"pillar_rss_mb"`
	WireBytesPerMsg    float64   `json:"wire_bytes_per_msg"`
	WireSource         string    `json:"wire_source"`
	CopiesPerRecord    float64   `json:"copies_per_record"` // received by follows, per record that was new there
	Messages           int       `json:"messages"`
	Senders            int       `json:"senders"`
	Size               int       `json:"size"`
	Pillars            int       `json:"pillars"`
	Concern            int       `json:"concern"`
	Clients            int       `json:"clients"`
	Spread             string    `json:"spread"`
	Transport          string    `json:"transport"` // asked for
	Transports         []string  `json:"client_transports"`
	Ahead              bool      `json:"ahead"`
	Mode               string    `json:"mode"`
	TookS              float64   `json:"took_s"`
	EqualMS            float64   `json:"equal_ms"` // from the last acknowledgement to equal pillars
	Records            uint64    `json:"records"`  // at every pillar, in the end
	Resubmitted        int64     `json:"resubmitted"`
	EverywhereMessages int       `json:"everywhere_messages"`
	Machine            string    `json:"machine"`
}

// wireSource says what wire_bytes_per_msg counts.
const wireSource = "loopback interface: all traffic of the machine over it, with headers, each packet once"

// String is the table for people.
func (r *ingestResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("load", "%d messages of %d bytes, %d in flight from %d devices at %s, %d pillars, concern %d, over %s",
		r.Messages, r.Size, r.Senders, r.Clients, map[string]string{"all": "all pillars", "first": "the first pillar"}[r.Spread], r.Pillars, r.Concern, strings.Join(r.Transports, " and "))
	row("machine", "%s, shared by pillars and load", r.Machine)
	row("ingest", "%.0f messages/s (%.1f s)", r.MsgsPerS, r.TookS)
	row("acknowledged", "p50 %.2f ms, p99 %.2f ms", r.AckMS.P50, r.AckMS.P99)
	row("readable everywhere", "p50 %.2f ms, p99 %.2f ms (%d messages)", r.EverywhereMS.P50, r.EverywhereMS.P99, r.EverywhereMessages)
	row("CPU of all pillars", "%.0f ms per 1,000 messages", r.PillarCPUMSPer1k)
	row("CPU of the load", "%.0f ms per 1,000 messages", r.ClientCPUMSPer1k)
	row("memory of each pillar", "%v MB", r.PillarRSSMB)
	row("wire", "%.0f bytes per message (%s)", r.WireBytesPerMsg, r.WireSource)
	row("copies received", "%.3f per record", r.CopiesPerRecord)
	row("equal", "all pillars held the same %d records %.0f ms after the last acknowledgement", r.Records, r.EqualMS)
	if r.Resubmitted > 0 {
		row("resubmitted", "%d, refused for a moment", r.Resubmitted)
	}
	w.Flush()
	return b.String()
}

// probeEvery is which share of the messages goes to the probe.
const probeEvery = 50

// ingest measures how fast messages are taken.
func (b *bench) ingest(ctx context.Context) (*ingestResult, error) {
	l, err := b.clients(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := b.addProbe(ctx, l); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	for _, c := range l.clients {
		readers.Go(func() { _ = c.read(l) }) // the pump reports it
	}
	for i := range l.probe.sessions {
		readers.Go(func() { _ = l.probe.read(i) }) // the wait reports what is missing
	}
	defer func() {
		for _, c := range l.clients {
			c.stream.Reset()
		}
		for _, s := range l.probe.sessions {
			s.stream.Reset()
		}
		readers.Wait()
	}()
	if err := l.run(ctx, b.warmup); err != nil {
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	if err := b.settle(ctx, l); err != nil {
		return nil, err
	}
	if b.ahead {
		if err := l.sealAhead(b.messages); err != nil {
			return nil, err
		}
	}
	return b.timed(ctx, l)
}

// clients makes the devices, registers them and opens their epochs: all write
// to receiver, or, if that is nil, device i to device i+1.
func (b *bench) clients(ctx context.Context, receiver *device) (*load, error) {
	devices := make([]*device, b.settings.clients+1) // the last one only receives
	for i := range devices {
		d, err := b.device(ctx)
		if err != nil {
			return nil, err
		}
		devices[i] = d
	}
	l := &load{concern: b.concern}
	for i, d := range devices[:b.settings.clients] {
		to := devices[i+1]
		if receiver != nil {
			to = receiver
		}
		at := b.addrs[0]
		if b.spread == "all" {
			at = b.addrs[i%len(b.addrs)]
		}
		s, err := d.dial(ctx, at)
		if err != nil {
			return nil, err
		}
		window := b.senders / b.settings.clients
		if i < b.senders%b.settings.clients {
			window++
		}
		c := newClient(d, s, newWriter(d, b.size), to.account, window)
		if err := c.openEpoch(to, l.concern); err != nil {
			return nil, err
		}
		l.clients = append(l.clients, c)
	}
	return l, nil
}

// openEpoch publishes the epoch of messages to another device.
func (c *client) openEpoch(to *device, concern int) error {
	epoch, err := c.writer.open(to)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.free-- // as if a sender had sent it
	c.mu.Unlock()
	return c.submit([]*flight{{raw: epoch, began: time.Now()}}, concern)
}

// addProbe makes the device that listens at every pillar, to which every client
// has an epoch.
func (b *bench) addProbe(ctx context.Context, l *load) error {
	d, err := b.device(ctx)
	if err != nil {
		return err
	}
	if l.probe, err = newProbe(ctx, d, probeEvery, b.addrs); err != nil {
		return err
	}
	for _, c := range l.clients {
		if err := c.openEpoch(d, l.concern); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until everything sent so far is everywhere.
func (b *bench) settle(ctx context.Context, l *load) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if l.probe != nil {
		if _, err := l.probe.wait(ctx); err != nil {
			return err
		}
		l.probe.reset()
	}
	if _, err := testnet.WaitEqual(ctx, b.pillars); err != nil {
		return fmt.Errorf("the pillars do not become equal: %w", err)
	}
	return nil
}

// sealAhead seals and signs n messages before they are sent.
func (l *load) sealAhead(n int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(l.clients))
	share := n/len(l.clients) + n/10 + 1 // senders are not equally fast
	for i, c := range l.clients {
		wg.Go(func() {
			c.ahead = make([]*overlay.Record, 0, share)
			for range share {
				rec, err := c.writer.message(c.to)
				if err != nil {
					errs[i] = err
					return
				}
				c.ahead = append(c.ahead, rec)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// timed is the run that counts.
func (b *bench) timed(ctx context.Context, l *load) (*ingestResult, error) {
	metrics, err := scrapeAll(ctx, b.pillars)
	if err != nil {
		return nil, err
	}
	profiled := b.startProfile(ctx)
	l.again.Store(0)
	before := measure(b.pillars)
	if err := l.run(ctx, b.messages); err != nil {
		return nil, err
	}
	took := time.Since(before.at)
	settleCtx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	everywhere, err := l.probe.wait(settleCtx)
	if err != nil {
		return nil, err
	}
	status, err := testnet.WaitEqual(settleCtx, b.pillars)
	if err != nil {
		return nil, fmt.Errorf("the pillars do not become equal: %w", err)
	}
	after := measure(b.pillars)
	if err := <-profiled; err != nil {
		return nil, err
	}
	if sent := uint64(b.messages + b.warmup); status[0].Records < sent {
		return nil, fmt.Errorf("%d messages were acknowledged and each pillar holds %d records", sent, status[0].Records)
	}
	later, err := scrapeAll(ctx, b.pillars)
	if err != nil {
		return nil, err
	}
	var acks []time.Duration
	for _, c := range l.clients {
		acks = append(acks, c.acks...)
	}
	thousands := float64(b.messages) / 1000
	r := &ingestResult{
		MsgsPerS: round(float64(b.messages)/took.Seconds(), 1), AckMS: quantilesOf(acks), EverywhereMS: quantilesOf(everywhere),
		PillarCPUMSPer1k: round(millisOf(after.pillars-before.pillars)/thousands, 1),
		ClientCPUMSPer1k: round(millisOf(after.self-before.self)/thousands, 1),
		WireBytesPerMsg:  round(float64(after.wire-before.wire)/float64(b.messages), 0), WireSource: wireSource,
		CopiesPerRecord: copies(metrics, later),
		Messages:        b.messages, Senders: b.senders, Size: b.size, Pillars: b.settings.pillars, Concern: b.concern,
		Clients: b.settings.clients, Spread: b.spread, Transport: b.transport, Ahead: b.ahead, Mode: "ingest",
		TookS: round(took.Seconds(), 3), EqualMS: round(millisOf(after.at.Sub(before.at)-took), 0),
		Records: status[0].Records, Resubmitted: l.again.Load(), EverywhereMessages: len(everywhere), Machine: machine(),
	}
	for _, c := range l.clients {
		if name := c.session.transport(); !slices.Contains(r.Transports, name) {
			r.Transports = append(r.Transports, name)
		}
	}
	for _, p := range b.pillars {
		r.PillarRSSMB = append(r.PillarRSSMB, megabytes(rss(p.PID)))
	}
	return r, nil
}

// copies is how often a pillar received a record that it did not write itself,
// on average: 1 is the least there can be.
func copies(before, after map[string]float64) float64 {
	const received, fresh = "obelisk_gossip_entries_received_total", "obelisk_gossip_entries_new_total"
	n := after[fresh] - before[fresh]
	if n <= 0 {
		return 0
	}
	return round((after[received]-before[received])/n, 4)
}

func millisOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// startProfile has the first pillar profile its CPU for a few seconds, if that
// was asked for. The channel says when the profile is written.
func (b *bench) startProfile(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	if b.profile == "" {
		close(done)
		return done
	}
	go func() {
		done <- func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.net.Pillars()[0].Admin+"/debug/pprof/profile?seconds=10", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("profile: %s", resp.Status)
			}
			f, err := os.Create(b.profile)
			if err != nil {
				return err
			}
			_, err = f.ReadFrom(resp.Body)
			return errors.Join(err, f.Close())
		}()
	}()
	return done
}
