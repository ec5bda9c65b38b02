package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// load is a number of messages, spread over devices that keep a number of them
// in flight.
type load struct {
	concern int
	clients []*client
	probe   *probe // nil: none

	left  atomic.Int64 // messages that nobody has begun yet
	count atomic.Int64 // begun; every probeEvery-th goes to the probe
	acked atomic.Int64
	again atomic.Int64 // refused for a moment and submitted again
}

// client is one device with one session, on which `window` senders have one
// message in flight each.
type client struct {
	*device
	*session
	writer *writer
	to     identity.AccountID
	window int
	ahead  []*overlay.Record // sealed before the clock started; nil: as they are sent

	mu      sync.Mutex
	free    int                         // guarded by mu; senders without a message
	next    uint64                      // guarded by mu; number of the next submission
	flying  map[uint64]*flight          // guarded by mu; submitted and without a result
	stored  map[overlay.LogID][]*flight // guarded by mu; durable, waiting for copies
	retry   []*flight                   // guarded by mu; to be submitted again
	wake    chan struct{}               // a sender is free, or something is to be retried
	acks    []time.Duration             // guarded by mu
	failure error                       // guarded by mu
}

// flight is a message of one sender, from before it is sealed until it is
// acknowledged.
type flight struct {
	raw   []byte
	began time.Time
	seq   uint64
}

func newClient(d *device, s *session, w *writer, to identity.AccountID, window int) *client {
	return &client{device: d, session: s, writer: w, to: to, window: window, free: window,
		flying: make(map[uint64]*flight), stored: make(map[overlay.LogID][]*flight), wake: make(chan struct{}, 1)}
}

// stalled is how long nothing may be acknowledged before the run is given up.
const stalled = 30 * time.Second

// errStalled: the pillars stopped acknowledging.
var errStalled = errors.New("no acknowledgement for 30 s")

// run sends n messages and returns when all are acknowledged, and whatever was
// submitted before.
func (l *load) run(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.left.Store(int64(n))
	l.acked.Store(0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range l.clients {
		c.mu.Lock()
		c.acks = c.acks[:0]
		c.mu.Unlock()
		c.poke()
		wg.Go(func() {
			if err := c.pump(ctx, l); err != nil {
				cancel(err)
			}
		})
	}
	go func() {
		wg.Wait()
		close(done)
	}()
	watch := time.NewTicker(stalled)
	defer watch.Stop()
	last := int64(-1)
	for {
		select {
		case <-done:
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return nil
		case <-watch.C:
			now := l.acked.Load()
			if now == last {
				cancel(fmt.Errorf("%w: %d of %d messages are acknowledged", errStalled, now, n))
			}
			last = now
		}
	}
}

func (c *client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// pump submits for the senders that are free: everything that waits goes into
// one frame, as a node does it. It returns when no message is left and none is
// in flight.
func (c *client) pump(ctx context.Context, l *load) error {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			batch, last, err := c.take(l)
			if err != nil {
				return err
			}
			if len(batch) == 0 {
				if last {
					return nil
				}
				break
			}
			if err := c.submit(batch, l.concern); err != nil {
				return err
			}
		}
	}
}

// take seals the next messages of free senders, as many as fit one frame; last
// says that nothing is left to do.
func (c *client) take(l *load) (batch []*flight, last bool, err error) {
	c.mu.Lock()
	free, again := c.free, c.retry
	c.retry, err = nil, c.failure
	c.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	batch = again
	size := 0
	for free > 0 && len(batch) < overlay.MaxSubmit && size < overlay.FrameTarget && l.left.Add(-1) >= 0 {
		f := &flight{began: time.Now()}
		rec, err := c.record(l, f.began)
		if err != nil {
			return nil, false, err
		}
		f.raw = rec.Raw
		batch = append(batch, f)
		size += len(f.raw)
		free--
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free -= len(batch) - len(again)
	return batch, len(batch) == 0 && c.free == c.window && l.left.Load() <= 0, nil
}

// record makes the next message, every probe.every-th of them to the probe.
func (c *client) record(l *load, began time.Time) (*overlay.Record, error) {
	if l.probe != nil && l.count.Add(1)%l.probe.every == 0 {
		rec, err := c.writer.message(l.probe.account)
		if err == nil {
			l.probe.expect(rec.ID, began)
		}
		return rec, err
	}
	if n := len(c.ahead); n > 0 {
		rec := c.ahead[n-1]
		c.ahead = c.ahead[:n-1]
		return rec, nil
	}
	return c.writer.message(c.to)
}

// submit numbers the batch and writes it.
func (c *client) submit(batch []*flight, concern int) error {
	c.mu.Lock()
	m := c.number(batch, concern)
	c.mu.Unlock()
	if err := c.session.write(m); err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	return nil
}

// number makes the message of a batch; c.mu is held.
func (c *client) number(batch []*flight, concern int) *overlay.Submit {
	m := &overlay.Submit{First: c.next, Concern: uint64(concern), Records: make([][]byte, len(batch))}
	c.next += uint64(len(batch))
	for i, f := range batch {
		m.Records[i] = f.raw
		c.flying[m.First+uint64(i)] = f
	}
	return m
}

// read takes the answers of the pillar until the stream ends.
func (c *client) read(l *load) error {
	for {
		m, err := c.frames.Next()
		if err != nil {
			return c.fail(fmt.Errorf("session: %w", err))
		}
		now := time.Now()
		switch m := m.(type) {
		case *overlay.Result:
			for i := range m.Lines {
				if err := c.result(l, &m.Lines[i], now); err != nil {
					return c.fail(err)
				}
			}
			c.poke()
		case *overlay.Watermark:
			c.watermark(l, m, now)
			c.poke()
		case *overlay.Busy:
			return c.fail(m.Err)
		}
	}
}

func (c *client) fail(err error) error {
	c.mu.Lock()
	c.failure = err
	c.mu.Unlock()
	c.poke()
	return err
}

func (c *client) result(l *load, line *overlay.ResultLine, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.flying[line.N]
	if f == nil {
		return fmt.Errorf("an answer to submission %d, which waits for none", line.N)
	}
	delete(c.flying, line.N)
	switch {
	case line.Err != nil && line.Err.Code.Final():
		return fmt.Errorf("refused for good: %w", line.Err)
	case line.Err != nil:
		l.again.Add(1)
		time.AfterFunc(max(line.Err.Retry, 10*time.Millisecond), func() {
			c.mu.Lock()
			c.retry = append(c.retry, f)
			c.mu.Unlock()
			c.poke()
		})
	case line.Copies >= uint64(l.concern):
		c.ack(l, f, now)
	default:
		f.seq = line.Dot.Seq
		c.stored[line.Dot.Log] = append(c.stored[line.Dot.Log], f)
	}
	return nil
}

func (c *client) watermark(l *load, m *overlay.Watermark, now time.Time) {
	if m.Copies < uint64(l.concern) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting := c.stored[m.Log]
	rest := waiting[:0]
	for _, f := range waiting {
		if f.seq >= m.From && f.seq <= m.To {
			c.ack(l, f, now)
		} else {
			rest = append(rest, f)
		}
	}
	clear(waiting[len(rest):])
	c.stored[m.Log] = rest
}

// ack frees the sender of f; c.mu is held.
func (c *client) ack(l *load, f *flight, now time.Time) {
	c.free++
	c.acks = append(c.acks, now.Sub(f.began))
	l.acked.Add(1)
}
