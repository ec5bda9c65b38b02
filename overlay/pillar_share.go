package overlay

import (
	"sync"
	"sync/atomic"

	"github.com/obelisk-network/obelisk/identity"
)

// One account may have at most queueShare of the room that submissions wait in.
// A session over it is not refused, for then its node would turn to another
// pillar: it is just not read until some of what it sent is answered.
const (
	queueShare     = 8
	accountQueued  = maxQueued / queueShare   // bytes between steps 1 and 5
	accountSubmits = submitQueue / queueShare // jobs between steps 1 and 2
)

// queueShares are the shares of all accounts with sessions.
type queueShares struct {
	mu sync.Mutex
	of map[identity.AccountID]*accountShare // guarded by mu
}

// accountShare is what one account's submissions take of the queues.
type accountShare struct {
	bytes   atomic.Int64
	submits atomic.Int64
	waiting atomic.Int32 // sessions in await

	mu   sync.Mutex
	room chan struct{} // guarded by mu; closed when there is more room
	uses int           // guarded by queueShares.mu; sessions
}

// get returns the share of a's sessions, which counts one more; give undoes it.
func (q *queueShares) get(a identity.AccountID) *accountShare {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.of == nil {
		q.of = map[identity.AccountID]*accountShare{}
	}
	s := q.of[a]
	if s == nil {
		s = &accountShare{room: make(chan struct{})}
		q.of[a] = s
	}
	s.uses++
	return s
}

func (q *queueShares) give(a identity.AccountID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.of[a]
	if s.uses--; s.uses == 0 {
		delete(q.of, a)
	}
}

// hasRoom reports whether a job may be queued. The last one may go over.
func (s *accountShare) hasRoom() bool {
	return s.bytes.Load() < accountQueued && s.submits.Load() < accountSubmits
}

// await returns true when there is room, false when done is closed before.
func (s *accountShare) await(done <-chan struct{}) bool {
	if s.hasRoom() {
		return true
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	for {
		s.mu.Lock()
		room := s.room
		s.mu.Unlock()
		if s.hasRoom() { // looked at after waiting counts, so that no wake is lost
			return true
		}
		select {
		case <-room:
		case <-done:
			return false
		}
	}
}

// wake tells sessions in await to look again.
func (s *accountShare) wake() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	close(s.room)
	s.room = make(chan struct{})
	s.mu.Unlock()
}
