package gossip

import (
	"context"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Questions that the two ends of a session ask each other, and their answers.

// walksBurst and walksRate bound the walks through mailboxes that one session can
// cause: as many as somebody causes who looks at traces.
const walksBurst, walksRate = 16, 0.5

// answer serves requests, one after the other.
func (s *session) answer(ctx context.Context) {
	for {
		var reply overlay.Message
		select {
		case msg := <-s.requests:
			if t, ok := msg.(*overlay.TraceMsg); ok {
				s.spare(t)
			}
			reply = s.m.lookUp(msg)
		case <-s.done:
			return
		case <-ctx.Done():
			return
		}
		if reply == nil {
			continue
		}
		select {
		case s.out <- reply:
		case <-s.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// spare leaves recipients out of a Trace if they were asked for too often: each
// time costs a walk through a mailbox.
func (s *session) spare(t *overlay.TraceMsg) {
	if len(t.Sought) > 0 && t.Sought[0].Recipients && s.walks.Take(time.Now(), walksBurst, walksRate) > 0 {
		t.Sought[0].Recipients = false
	}
}

// lookUp answers a Get, Has or Trace; nil if that failed here.
func (m *Mesh) lookUp(msg overlay.Message) overlay.Message {
	switch msg := msg.(type) {
	case *overlay.Get:
		records, next, err := m.cfg.Records.Get(msg.IDs, overlay.FrameTarget)
		if err != nil {
			m.log.Warn("look up records", "err", err)
			return nil
		}
		return &overlay.Got{N: msg.N, Records: records, Next: uint64(next)}
	case *overlay.Has:
		held, err := m.cfg.Records.Has(msg.IDs)
		if err != nil {
			m.log.Warn("look up records", "err", err)
			return nil
		}
		return &overlay.Held{N: msg.N, Bits: overlay.PackBits(held)}
	case *overlay.TraceMsg:
		traces, err := m.trace(msg.Sought)
		if err != nil {
			m.log.Warn("trace records", "err", err)
			return nil
		}
		return &overlay.TracedMsg{N: msg.N, Traces: traces}
	}
	return nil
}

// has asks which of at most MaxIDs IDs the other side holds durably.
func (s *session) has(ctx context.Context, ids []overlay.RecordID) (*overlay.Held, error) {
	msg, err := s.ask(ctx, func(n uint64) overlay.Message { return &overlay.Has{N: n, IDs: ids} })
	if err != nil {
		return nil, err
	}
	held, ok := msg.(*overlay.Held)
	if !ok {
		return nil, fmt.Errorf("%w: the answer to Has", overlay.ErrFrame)
	}
	return held, nil
}

// get asks for records by ID, at most MaxIDs; what comes is unverified and
// maybe not all.
func (s *session) get(ctx context.Context, ids []overlay.RecordID) (records [][]byte, err error) {
	for len(ids) > 0 {
		some, next, err := s.getSome(ctx, ids)
		if err != nil {
			return records, err
		}
		records = append(records, some...)
		if next == 0 {
			break
		}
		ids = ids[next:]
	}
	return records, nil
}

// getSome is get as far as one answer goes: next is the index in ids to go on
// from.
func (s *session) getSome(ctx context.Context, ids []overlay.RecordID) (records [][]byte, next int, err error) {
	msg, err := s.ask(ctx, func(n uint64) overlay.Message { return &overlay.Get{N: n, IDs: ids} })
	if err != nil {
		return nil, 0, err
	}
	got, ok := msg.(*overlay.Got)
	if !ok || got.Next > uint64(len(ids)) || len(got.Records) > int(got.Next) {
		return nil, 0, fmt.Errorf("%w: the answer to Get", overlay.ErrFrame)
	}
	return got.Records, int(got.Next), nil
}

// ask sends a request and waits for the answer of the same number.
func (s *session) ask(ctx context.Context, request func(n uint64) overlay.Message) (overlay.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return s.askPatiently(ctx, request)
}

// askPatiently is ask for as long as ctx goes.
func (s *session) askPatiently(ctx context.Context, request func(n uint64) overlay.Message) (overlay.Message, error) {
	answer := make(chan overlay.Message, 1)
	s.mu.Lock()
	s.number++
	n := s.number
	s.waiting[n] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, n)
		s.mu.Unlock()
	}()
	select {
	case s.out <- request(n):
	case <-s.done:
		return nil, errSessionLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case msg := <-answer:
		return msg, nil
	case <-s.done:
		return nil, errSessionLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) deliver(n uint64, msg overlay.Message) {
	s.mu.Lock()
	answer := s.waiting[n]
	delete(s.waiting, n)
	s.mu.Unlock()
	if answer != nil {
		answer <- msg
	}
}
