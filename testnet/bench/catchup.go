package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/seal"
)

// catchupResult is what --mode catchup prints.
type catchupResult struct {
	Messages         int     `json:"messages"`
	MsgsPerSRead     float64 `json:"msgs_per_s_read"`   // taken off the stream
	MsgsPerSOpened   float64 `json:"msgs_per_s_opened"` // verified and opened too
	PillarCPUMSPer1k float64 `json:"pillar_cpu_ms_per_1k"`
	ClientCPUMSPer1k float64 `json:"client_cpu_ms_per_1k"` // of reading alone
	WireBytesPerMsg  float64 `json:"wire_bytes_per_msg"`
	WireSource       string  `json:"wire_source"`
	Size             int     `json:"size"`
	Pillars          int     `json:"pillars"`
	Transport        string  `json:"transport"`
	Mode             string  `json:"mode"`
	Machine          string  `json:"machine"`
}

// String is the table for people.
func (r *catchupResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "mailbox\t%d messages of %d bytes, read from one of %d pillars, transport %s\n", r.Messages, r.Size, r.Pillars, r.Transport)
	fmt.Fprintf(w, "machine\t%s, shared by pillars and load\n", r.Machine)
	fmt.Fprintf(w, "read\t%.0f messages/s\n", r.MsgsPerSRead)
	fmt.Fprintf(w, "read, verified, opened\t%.0f messages/s\n", r.MsgsPerSOpened)
	fmt.Fprintf(w, "CPU of the pillars\t%.1f ms per 1,000 messages read\n", r.PillarCPUMSPer1k)
	fmt.Fprintf(w, "CPU of the reader\t%.1f ms per 1,000 messages read\n", r.ClientCPUMSPer1k)
	fmt.Fprintf(w, "wire\t%.0f bytes per message (%s)\n", r.WireBytesPerMsg, r.WireSource)
	w.Flush()
	return b.String()
}

// catchup fills a mailbox and has its device, which was away, read it twice
// from the beginning: once only taking pages, once also opening what is in
// them.
func (b *bench) catchup(ctx context.Context) (*catchupResult, error) {
	reader, err := b.device(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, reader); err != nil {
		return nil, fmt.Errorf("fill the mailbox: %w", err)
	}
	last := b.addrs[len(b.addrs)-1] // nobody submitted here, if --spread is first
	s, err := reader.dial(ctx, last)
	if err != nil {
		return nil, err
	}
	defer s.stream.Reset()
	before := measure(b.pillars)
	n, err := drain(s, func([][]byte) error { return nil })
	if err != nil {
		return nil, err
	}
	after := measure(b.pillars)
	if n < b.messages {
		return nil, fmt.Errorf("%d of %d messages were in the mailbox", n, b.messages)
	}
	s.stream.Reset()

	again, err := reader.dial(ctx, last)
	if err != nil {
		return nil, err
	}
	defer again.stream.Reset()
	o := &opener{d: reader, verifier: overlay.NewVerifier(reader.network), epochs: make(map[seal.EpochID]*seal.Opened)}
	began := time.Now()
	if _, err := drain(again, o.open); err != nil {
		return nil, err
	}
	took := time.Since(began)
	if o.messages < b.messages {
		return nil, fmt.Errorf("%d of %d messages could be opened", o.messages, b.messages)
	}
	thousands := float64(n) / 1000
	return &catchupResult{
		Messages: b.messages, MsgsPerSRead: round(float64(n)/after.at.Sub(before.at).Seconds(), 0),
		MsgsPerSOpened:   round(float64(n)/took.Seconds(), 0),
		PillarCPUMSPer1k: round(millisOf(after.pillars-before.pillars)/thousands, 2),
		ClientCPUMSPer1k: round(millisOf(after.self-before.self)/thousands, 2),
		WireBytesPerMsg:  round(float64(after.wire-before.wire)/float64(n), 0), WireSource: wireSource,
		Size: b.size, Pillars: b.settings.pillars, Transport: b.transport, Mode: "catchup", Machine: machine(),
	}, nil
}

// fill sends the messages to a device that is away.
func (b *bench) fill(ctx context.Context, receiver *device) error {
	// The recipient is known, since a mailbox belongs to a registered account.
	s, err := receiver.dial(ctx, b.addrs[0])
	if err != nil {
		return err
	}
	s.stream.Close()
	l, err := b.clients(ctx, receiver)
	if err != nil {
		return err
	}
	var readers sync.WaitGroup
	for _, c := range l.clients {
		readers.Go(func() { _ = c.read(l) }) // the pump reports it
	}
	err = l.run(ctx, b.messages)
	for _, c := range l.clients {
		c.stream.Reset()
	}
	readers.Wait()
	if err != nil {
		return err
	}
	return b.settle(ctx, l)
}

// drain reads a mailbox from its beginning to its end, handing over each page's
// records, and returns how many there were.
func drain(s *session, fn func([][]byte) error) (int, error) {
	if err := s.write(&overlay.Resume{Box: overlay.BoxMail}); err != nil {
		return 0, err
	}
	if err := s.stream.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return 0, err
	}
	n := 0
	for {
		m, err := s.frames.Next()
		if err != nil {
			return n, fmt.Errorf("read the mailbox: %w", err)
		}
		switch m := m.(type) {
		case *overlay.Page:
			// Saved first: the pillar gets the next page ready meanwhile.
			if err := s.write(&overlay.Saved{Box: m.Box, To: m.To}); err != nil {
				return n, err
			}
			n += len(m.Records)
			if err := fn(m.Records); err != nil {
				return n, err
			}
			if m.Last {
				return n, nil
			}
		case *overlay.Busy:
			return n, m.Err
		}
	}
}

// opener verifies and opens what a device reads.
type opener struct {
	d        *device
	verifier *overlay.Verifier
	epochs   map[seal.EpochID]*seal.Opened
	messages int
}

func (o *opener) open(records [][]byte) error {
	recs := make([]*overlay.Record, len(records))
	for i, raw := range records {
		rec, err := o.verifier.Parse(raw)
		if err != nil {
			return err
		}
		recs[i] = rec
	}
	errs := make([]error, len(recs))
	o.verifier.Verify(recs, errs)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, rec := range recs {
		if rec.Kind == overlay.KindEpoch {
			opened, err := seal.OpenEpoch(o.d.network, binding(rec), rec.Bin, []byte(o.d.key.ID()), o.d.ring)
			if err != nil {
				return err
			}
			o.epochs[opened.ID()] = opened
		}
	}
	for _, rec := range recs {
		if rec.Kind != overlay.KindMessage {
			continue
		}
		id, err := seal.MessageEpoch(rec.Bin)
		if err != nil {
			return err
		}
		epoch := o.epochs[id]
		if epoch == nil {
			return fmt.Errorf("message %s came before its epoch", rec.ID)
		}
		if _, err := epoch.Open(binding(rec), rec.Payload(), rec.BinOffset()); err != nil {
			return err
		}
		o.messages++
	}
	return nil
}

// binding is what a record by a device says of itself.
func binding(rec *overlay.Record) seal.Binding {
	b := seal.Binding{Account: []byte(rec.Author), Device: []byte(rec.Device()), Created: rec.Created, Expires: rec.Expires}
	for _, a := range rec.To {
		b.To = append(b.To, []byte(a))
	}
	return b
}
