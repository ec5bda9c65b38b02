package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// session is a device's stream to a pillar.
type session struct {
	d      *device
	frames *overlay.FrameReader

	mu     sync.Mutex // of writing
	stream overlay.Stream
	next   uint64 // the sender's; number of the next submission
}

const (
	answerIn = 20 * time.Second       // how long a pillar may take to answer
	tick     = 300 * time.Millisecond // how often what waits is submitted
)

func (s *session) write(ms ...overlay.Message) error {
	var b []byte
	for _, m := range ms {
		b = overlay.AppendFrame(b, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stream.SetWriteDeadline(time.Now().Add(answerIn)); err != nil {
		return err
	}
	_, err := s.stream.Write(b)
	return err
}

// run registers, reads the mailbox and submits.
func (s *session) run(ctx context.Context, p *pillar) error {
	d := s.d
	if err := s.register(p); err != nil {
		return err
	}
	d.mu.Lock()
	d.liar = p.lies != (lies{})
	for _, o := range d.outbox {
		o.n, o.after, o.dot = 0, time.Time{}, overlay.Dot{}
	}
	d.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel()
	sender.Go(func() { s.submitLoop(ctx) })
	if err := s.write(&overlay.Resume{Box: overlay.BoxMail, Cursor: d.cursor, Live: true}); err != nil {
		return err
	}
	for {
		m, err := s.frames.Next()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := s.take(m); err != nil {
			return err
		}
	}
}

func (s *session) register(p *pillar) error {
	d := s.d
	if err := s.stream.SetReadDeadline(time.Now().Add(answerIn)); err != nil {
		return err
	}
	now := millis(time.Now())
	if err := s.write(&overlay.Hello{Role: overlay.RoleNode, Formats: overlay.Format, Network: d.w.key.ID(),
		Time: now, Account: d.id(), Credential: d.cert}); err != nil {
		return err
	}
	m, err := s.frames.Next()
	if err != nil {
		return err
	}
	hello, ok := m.(*overlay.Hello)
	if !ok {
		return fmt.Errorf("%T for a Hello", m)
	}
	if _, _, err := overlay.CheckPillarHello(hello, identity.PillarID(p.id()), d.w.key.ID(), now); err != nil {
		return errElsewhere // its clock is wrong
	}
	s.frames.Accept()
	if err := s.write(&d.records); err != nil {
		return err
	}
	for {
		m, err := s.frames.Next()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *overlay.Registered:
			if m.Err != nil {
				return refused(m.Err)
			}
			return s.stream.SetReadDeadline(time.Time{})
		case *overlay.Busy:
			return refused(m.Err)
		}
	}
}

// refused tells a pillar that cannot now from one that is wrong.
func refused(err *overlay.Error) error {
	if err.Code.Final() {
		return err
	}
	return errElsewhere
}

// take handles what the pillar says.
func (s *session) take(m overlay.Message) error {
	d := s.d
	switch m := m.(type) {
	case *overlay.Page:
		if err := d.receive(m.Records); err != nil {
			return err
		}
		return s.write(&overlay.Saved{Box: m.Box, To: m.To})
	case *overlay.Push:
		if m.To == 0 {
			return nil
		}
		if err := d.receive(m.Records); err != nil {
			return err
		}
		return s.write(&overlay.Saved{Box: overlay.BoxMail, To: m.To})
	case *overlay.CursorMsg:
		d.cursor = m.Cursor
	case *overlay.Result:
		for i := range m.Lines {
			if err := d.result(&m.Lines[i]); err != nil {
				return err
			}
		}
	case *overlay.Watermark:
		d.watermark(m)
	case *overlay.Busy:
		return refused(m.Err)
	}
	return nil
}

// receive saves records that the pillar delivers.
func (d *device) receive(raws [][]byte) error {
	for _, raw := range raws {
		rec, err := overlay.ParseRecord(d.w.key.ID(), raw)
		if err != nil {
			d.w.fail("%s was delivered something that is no record: %v", d.name, err)
			return err
		}
		if !d.w.ledger.knows(rec.ID) {
			d.w.fail("%s was delivered %s, which nobody signed", d.name, rec.ID)
		}
		if !rec.IsTo(d.id()) {
			d.w.fail("%s was delivered %s, which is not addressed to it", d.name, rec.ID)
		}
		d.mu.Lock()
		d.got[rec.ID] = struct{}{}
		d.mu.Unlock()
	}
	return nil
}

// result takes the answer to one submission.
func (d *device) result(line *overlay.ResultLine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.flying(func(o *outgoing) bool { return o.n == line.N })
	switch {
	case o == nil:
		return nil // acknowledged by a watermark already
	case line.Err == nil:
		o.dot = line.Dot
		d.copiesLocked(o, line.Copies)
		return nil
	case line.Err.Code.Final():
		if o.expires.After(time.Now()) {
			d.w.fail("%s: its message %s was refused for good: %v", d.name, o.id, line.Err)
		}
		d.dropLocked(o)
		return nil
	default:
		o.n, o.after = 0, time.Now().Add(max(line.Err.Retry, time.Second))
		if line.Err.Code == overlay.CodeBusy || line.Err.Code == overlay.CodeQuota {
			return nil
		}
		return errElsewhere
	}
}

// watermark takes what became of messages that were stored.
func (d *device) watermark(m *overlay.Watermark) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := 0; i < len(d.outbox); {
		o := d.outbox[i]
		if o.dot.Log == m.Log && o.dot.Seq >= m.From && o.dot.Seq <= m.To {
			d.copiesLocked(o, m.Copies)
		}
		if i < len(d.outbox) && d.outbox[i] == o {
			i++
		}
	}
}

// copiesLocked notes that a message has so many copies. d.mu is held.
func (d *device) copiesLocked(o *outgoing, copies uint64) {
	if !d.liar { // whose word is worth nothing
		d.w.ledger.acknowledge(o.id, copies)
	}
	if copies >= o.concern {
		d.dropLocked(o)
	}
}

func (d *device) flying(is func(*outgoing) bool) *outgoing {
	for _, o := range d.outbox {
		if is(o) {
			return o
		}
	}
	return nil
}

func (d *device) dropLocked(o *outgoing) {
	for i := range d.outbox {
		if d.outbox[i] == o {
			d.outbox = append(d.outbox[:i], d.outbox[i+1:]...)
			return
		}
	}
}

// submitLoop submits what waits until ctx ends.
func (s *session) submitLoop(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if err := s.submit(); err != nil {
			if !errors.Is(err, errElsewhere) {
				s.stream.Reset()
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.d.wake:
		}
	}
}

// submit hands over what is not submitted yet.
func (s *session) submit() error {
	d := s.d
	now := time.Now()
	var msgs []overlay.Message
	d.mu.Lock()
	kept := d.outbox[:0]
	for _, o := range d.outbox {
		if !o.expires.After(now) {
			continue
		}
		kept = append(kept, o)
		if o.n == 0 && !o.after.After(now) {
			o.n = s.next
			s.next++
			msgs = append(msgs, &overlay.Submit{First: o.n, Concern: o.concern, Records: [][]byte{o.raw}})
		}
	}
	clear(d.outbox[len(kept):])
	d.outbox = kept
	d.mu.Unlock()
	if len(msgs) == 0 {
		return nil
	}
	return s.write(msgs...)
}

// pause sleeps; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
