package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// probe is a device that listens at every pillar at once and notes when a
// message could be read at all of them.
type probe struct {
	*device
	every    int64 // each so-many-th message is addressed to it
	sessions []*session

	mu      sync.Mutex
	waiting map[overlay.RecordID]*arrival // guarded by mu
	times   []time.Duration               // guarded by mu
	done    chan struct{}                 // closed while nothing is waited for; guarded by mu
}

// arrival is a message on its way to all pillars.
type arrival struct {
	began time.Time
	seen  []bool
	left  int
}

func newProbe(ctx context.Context, d *device, every int64, pillars []pillar) (*probe, error) {
	p := &probe{device: d, every: every, waiting: make(map[overlay.RecordID]*arrival)}
	for _, pl := range pillars {
		s, err := d.dial(ctx, pl)
		if err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		if err := s.write(&overlay.Resume{Box: overlay.BoxMail, Live: true}); err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		p.sessions = append(p.sessions, s)
	}
	return p, nil
}

// expect notes a message before it is submitted.
func (p *probe) expect(id overlay.RecordID, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[id] = &arrival{began: began, seen: make([]bool, len(p.sessions)), left: len(p.sessions)}
	if p.done == nil {
		p.done = make(chan struct{})
	}
}

// read takes what pillar i pushes until the stream ends.
func (p *probe) read(i int) error {
	s := p.sessions[i]
	for {
		m, err := s.frames.Next()
		if err != nil {
			return err
		}
		now := time.Now()
		switch m := m.(type) {
		case *overlay.Push:
			if m.To == 0 {
				continue // a watched account, which is never saved
			}
			err = p.took(i, m.Records, now, &overlay.Saved{Box: overlay.BoxMail, To: m.To})
		case *overlay.Page:
			err = p.took(i, m.Records, now, &overlay.Saved{Box: m.Box, To: m.To})
		case *overlay.Busy:
			err = m.Err
		}
		if err != nil {
			return err
		}
	}
}

func (p *probe) took(i int, records [][]byte, now time.Time, saved *overlay.Saved) error {
	for _, raw := range records {
		rec, err := overlay.ParseRecord(p.network, raw)
		if err != nil {
			return fmt.Errorf("pushed: %w", err)
		}
		p.arrived(i, rec.ID, now)
	}
	return p.sessions[i].write(saved)
}

func (p *probe) arrived(i int, id overlay.RecordID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.waiting[id]
	if a == nil || a.seen[i] {
		return
	}
	a.seen[i] = true
	if a.left--; a.left > 0 {
		return
	}
	delete(p.waiting, id)
	p.times = append(p.times, now.Sub(a.began))
	if len(p.waiting) == 0 && p.done != nil {
		close(p.done)
		p.done = nil
	}
}

// reset forgets the times so far.
func (p *probe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times = nil
}

// wait returns the times of all messages once they have arrived everywhere.
func (p *probe) wait(ctx context.Context) ([]time.Duration, error) {
	for {
		p.mu.Lock()
		done, missing, times := p.done, len(p.waiting), p.times
		p.mu.Unlock()
		if missing == 0 {
			return times, nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d messages did not reach a reader at every pillar: %w", missing, ctx.Err())
		}
	}
}
