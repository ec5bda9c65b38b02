package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// partitionResult is what --mode partition prints: a network that was in two
// halves, with writes in both.
type partitionResult struct {
	Pillars   int     `json:"pillars"`
	Rate      int     `json:"rate"` // messages/s in each half
	Seconds   float64 `json:"seconds"`
	Messages  int     `json:"messages"` // written while it was split
	Missing   uint64  `json:"missing"`  // records that pillars lacked when it healed, summed over all
	EqualMS   float64 `json:"equal_ms"` // from healing until every pillar held every record
	ConvergeS float64 `json:"converge_s"`
	// NeedMS is how long this machine needs for what was missing, everywhere, if it
	// simply comes, see oneStream.
	NeedMS    float64 `json:"need_ms"`
	CPUMS     float64 `json:"cpu_ms"` // of all pillars, from healing to equal
	WireBytes uint64  `json:"wire_bytes"`
	Size      int     `json:"size"`
	Mode      string  `json:"mode"`
	Machine   string  `json:"machine"`
}

// String is the table for people.
func (r *partitionResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("split", "%d pillars in two halves for %.0f s, %d messages/s of %d bytes in each, %d in all", r.Pillars, r.Seconds, r.Rate, r.Size, r.Messages)
	row("machine", "%s, shared by pillars, load and the network between them", r.Machine)
	row("missing", "%d records, summed over all pillars", r.Missing)
	row("equal", "%.0f ms after healing", r.EqualMS)
	row("signed summaries equal", "%.1f s after healing", r.ConvergeS)
	row("the machine needs", "%.0f ms to verify and store what was missing", r.NeedMS)
	row("CPU of all pillars", "%.0f ms until equal", r.CPUMS)
	row("wire", "%d bytes (%s)", r.WireBytes, wireSource)
	w.Flush()
	return b.String()
}

// partition splits the network, writes in both halves, heals it and waits.
func (b *bench) partition(ctx context.Context) (*partitionResult, error) {
	r := &partitionResult{Pillars: len(b.pillars), Rate: b.rate, Size: b.size, Mode: "partition", Machine: machine()}
	writers, err := b.paced(ctx)
	if err != nil {
		return nil, err
	}
	defer writers.close()
	equal, err := testnet.WaitEqual(ctx, b.pillars)
	if err != nil {
		return nil, err
	}
	b.proxies.cut.Store(true)
	if err := b.waitSplit(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := writers.run(ctx, time.Duration(b.seconds)*time.Second); err != nil {
		return nil, err
	}
	r.Seconds, r.Messages = round(time.Since(began).Seconds(), 1), int(writers.acked.Load())
	want, missing, err := b.behind(ctx, equal[0].Records)
	if err != nil {
		return nil, err
	}
	r.Missing = missing
	before := measure(b.pillars)
	b.proxies.cut.Store(false)
	if err := b.waitRecords(ctx, want); err != nil {
		return nil, err
	}
	after := measure(b.pillars)
	r.EqualMS = round(millisOf(after.at.Sub(before.at)), 0)
	r.CPUMS, r.WireBytes = millisOf(after.pillars-before.pillars), after.wire-before.wire
	if _, err := testnet.WaitConverged(ctx, b.pillars, before.at); err != nil {
		return nil, err
	}
	r.ConvergeS = round(time.Since(before.at).Seconds(), 1)
	stopCtx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := b.pillars[0].Stop(stopCtx); err != nil {
		return nil, err
	}
	alone, err := b.oneStream(ctx, b.pillars[0], b.devices[0].network)
	if err != nil {
		return nil, err
	}
	r.NeedMS = round(millisOf(alone.took)*float64(r.Missing)/float64(max(1, alone.entries)), 0)
	return r, nil
}

// half is in which half pillar i is.
func (b *bench) half(i int) int { return 2 * i / b.settings.pillars }

// announce puts a proxy in front of the pillar that is started next.
func (b *bench) announce(name string, port int) (string, error) {
	b.direct[name] = fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port)
	return b.proxies.announce(port, b.half(len(b.direct)-1))
}

// waitSplit waits until no pillar sees one of the other half.
func (b *bench) waitSplit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	size := [2]int{}
	for i := range b.pillars {
		size[b.half(i)]++
	}
	return testnet.Until(ctx, func() string {
		for i, p := range b.pillars {
			s, err := p.PillarStatus(ctx)
			if err != nil {
				return err.Error()
			}
			if s.PillarsAlive > size[b.half(i)] {
				return fmt.Sprintf("%s still sees %d pillars", p.Name, s.PillarsAlive)
			}
		}
		return ""
	})
}

// behind returns how many records there are in all and how many copies of them
// are missing. common is how many both halves had.
func (b *bench) behind(ctx context.Context, common uint64) (want, missing uint64, err error) {
	held := make([]uint64, len(b.pillars))
	var most [2]uint64
	for i, p := range b.pillars {
		s, err := p.PillarStatus(ctx)
		if err != nil {
			return 0, 0, err
		}
		held[i] = s.Records
		most[b.half(i)] = max(most[b.half(i)], s.Records)
	}
	want = most[0] + most[1] - common
	for _, n := range held {
		missing += want - n
	}
	return want, missing, nil
}

// waitRecords waits until every pillar holds so many records.
func (b *bench) waitRecords(ctx context.Context, want uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return testnet.Until(ctx, func() string {
		for _, p := range b.pillars {
			s, err := p.PillarStatus(ctx)
			if err != nil {
				return err.Error()
			}
			if s.Records != want {
				return fmt.Sprintf("%s holds %d of %d records", p.Name, s.Records, want)
			}
		}
		return ""
	})
}

// pacedLoad writes messages at a steady rate at pillars of both halves.
type pacedLoad struct {
	b       *bench
	clients []*client
	acked   atomic.Int64
	readers sync.WaitGroup
	l       *load
}

// paced connects one writer to a pillar of each half.
func (b *bench) paced(ctx context.Context) (*pacedLoad, error) {
	receiver, err := b.device(ctx)
	if err != nil {
		return nil, err
	}
	p := &pacedLoad{b: b, l: &load{concern: 1}}
	for _, at := range []int{0, len(b.pillars) - 1} {
		d, err := b.device(ctx)
		if err != nil {
			p.close()
			return nil, err
		}
		s, err := d.dial(ctx, b.addrs[at])
		if err != nil {
			p.close()
			return nil, err
		}
		c := newClient(d, s, newWriter(d, b.size), receiver.account, 1<<20)
		p.clients = append(p.clients, c)
		p.readers.Go(func() { _ = c.read(p.l) }) // a lost session shows as messages that are not acknowledged
		if err := c.openEpoch(receiver, 1); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

// run writes for a time and waits until all of it is acknowledged.
func (p *pacedLoad) run(ctx context.Context, d time.Duration) error {
	const beat = 50 * time.Millisecond
	p.l.acked.Store(0)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	sent, began := 0, time.Now()
	for time.Since(began) < d {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		due := int(time.Since(began).Seconds() * float64(p.b.rate))
		for _, c := range p.clients {
			batch := make([]*flight, 0, due)
			for range due - sent {
				rec, err := c.writer.message(c.to)
				if err != nil {
					return err
				}
				batch = append(batch, &flight{raw: rec.Raw, began: time.Now()})
			}
			for part := range slices.Chunk(batch, overlay.MaxSubmit) {
				if err := c.submit(part, 1); err != nil {
					return err
				}
			}
		}
		sent = due
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := testnet.Until(ctx, func() string {
		if n, want := p.l.acked.Load(), int64(sent*len(p.clients)); n < want {
			return fmt.Sprintf("%d of %d messages are acknowledged", n, want)
		}
		return ""
	})
	p.acked.Store(p.l.acked.Load())
	return err
}

func (p *pacedLoad) close() {
	for _, c := range p.clients {
		c.stream.Reset()
	}
	p.readers.Wait()
}
