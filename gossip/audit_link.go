package gossip

import (
	"context"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of the audit in a session.
const (
	auditQueue = 4                // questions waiting to be answered; over it they are dropped
	hostedIdle = 30 * time.Second // for the next question of a round, then it is forgotten
)

// auditLink is the audit's part of a session: the questions of the other side
// wait in a queue of their own, so that rounds keep nothing else waiting.
type auditLink struct {
	s         *session
	turn      chan struct{} // capacity 1: held by the round that is begun here
	questions chan heard

	mu      sync.Mutex
	waiting map[uint64]chan heard // guarded by mu; answers by round
}

// heard is a message of the audit, and its length as a frame.
type heard struct {
	msg  overlay.Message
	size int
}

func newAuditLink(s *session) *auditLink {
	return &auditLink{s: s, turn: make(chan struct{}, 1), questions: make(chan heard, auditQueue), waiting: map[uint64]chan heard{}}
}

// hear takes a message off the reader. It never blocks.
func (l *auditLink) hear(msg overlay.Message, size int) {
	n, answer := roundOf(msg)
	if !answer {
		select {
		case l.questions <- heard{msg, size}:
		default:
			l.s.m.scores.offend(l.s.peer, faultRounds)
		}
		return
	}
	l.mu.Lock()
	waits := l.waiting[n]
	delete(l.waiting, n)
	l.mu.Unlock()
	switch {
	case waits != nil:
		waits <- heard{msg, size}
	case !l.s.numbered(n):
		l.s.m.scores.offend(l.s.peer, faultRound) // else it comes too late, which is no offence
	}
}

// roundOf returns a message's round, and whether it is an answer.
func roundOf(msg overlay.Message) (n uint64, answer bool) {
	switch msg := msg.(type) {
	case *overlay.Root:
		return msg.N, msg.Answer
	case *overlay.Cells:
		return msg.N, msg.Answer
	case *overlay.Buckets:
		return msg.N, msg.Answer
	case *overlay.IDs:
		return msg.N, msg.Answer
	case *overlay.Stubs:
		return msg.N, msg.Answer
	}
	return 0, false
}

// ask sends a question of round n and waits for the answer.
func (l *auditLink) ask(ctx context.Context, n uint64, question overlay.Message) (heard, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer := make(chan heard, 1)
	l.mu.Lock()
	l.waiting[n] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, n)
		l.mu.Unlock()
	}()
	select {
	case l.s.out <- question:
	case <-l.s.done:
		return heard{}, errSessionLost
	case <-ctx.Done():
		return heard{}, ctx.Err()
	}
	select {
	case a := <-answer:
		return a, nil
	case <-l.s.done:
		return heard{}, errSessionLost
	case <-ctx.Done():
		return heard{}, ctx.Err()
	}
}

// serve answers questions, one after the other, until the session ends.
func (l *auditLink) serve(ctx context.Context) {
	h := &host{m: l.s.m, s: l.s}
	defer h.drop()
	idle := time.NewTimer(hostedIdle)
	defer idle.Stop()
	for {
		var q heard
		select {
		case q = <-l.questions:
		case <-idle.C:
			h.drop()
			continue
		case <-l.s.done:
			return
		case <-ctx.Done():
			return
		}
		idle.Reset(hostedIdle)
		reply := h.answer(ctx, q)
		if reply == nil {
			continue
		}
		select {
		case l.s.out <- reply:
		case <-l.s.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// nextNumber returns a fresh number for a question.
func (s *session) nextNumber() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return s.number
}

// numbered reports whether a question had that number.
func (s *session) numbered(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n > 0 && n <= s.number
}
