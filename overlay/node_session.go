package overlay

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// maxAnswers is how many frames one answer may have.
const maxAnswers = 512

// nodeSession is a registered session with one pillar.
type nodeSession struct {
	n      *Node
	pillar identity.PillarID
	stream Stream
	frames *FrameReader
	out    chan Message
	done   chan struct{}
	once   sync.Once
	err    error     // valid once done is closed
	missed time.Time // the same; since when the pillar was missed, zero: until then it was there

	// Set before the session is shared.
	skew  time.Duration // its clock minus ours
	rtt   time.Duration // of the registration
	local bool          // over a private or loopback connection
	run   uint64        // of the pillar
	haste int           // how often this pillar was given up although it lived
	// relayed: over a circuit, which has limits and is closed once there is a
	// direct connection.
	relayed bool
	since   time.Time

	lastFrame atomic.Int64 // Unix nanoseconds of the transport's clock
	lastMail  atomic.Int64 // the same, of the last record of the mailbox
	handing   atomic.Bool  // our own side is behind
	vital     vitals       // the guard's
	counter   atomic.Uint64
	resumed   atomic.Bool // the last page of the resume came

	judged Tokens // of questions where this device is; nodePresence's run's

	summaries   chan []Summary // of capacity 1: the newest answer to askSummaries
	summariesAt time.Time      // guarded by nodeConvergence.asking; when that came

	mu      sync.Mutex
	waiting map[uint64]*nodeCall // guarded by mu

	// Guarded by the outbox's mu:
	inflight map[uint64]*shipment
	oldest   time.Time // since when something is unanswered, at least as far as the newest answer
}

// nodeCall is a question that was asked.
type nodeCall struct {
	since   time.Time // zero: it may take its time
	answers []Message
	stream  chan Message // if not nil, answers go here, as far as there is room
	count   int
	done    chan struct{} // closed when the last answer has come
}

// take reserves k numbers and returns the first.
func (s *nodeSession) take(k int) uint64 { return s.counter.Add(uint64(k)) - uint64(k) + 1 }

// send queues m. It waits while the queue is full and reports whether the
// session was still there.
func (s *nodeSession) send(m Message) bool {
	select {
	case <-s.done:
		return false
	default:
	}
	select {
	case s.out <- m:
		return true
	case <-s.done:
		return false
	}
}

// standBy asks the pillar of a new session to tell when there is mail.
func (s *nodeSession) standBy() {
	select {
	case s.out <- &Nudge{}:
	default: // never: nothing else was sent
	}
}

// end closes the session; the first reason counts.
func (s *nodeSession) end(err error) { s.endSince(time.Time{}, err) }

// endSince is end for a pillar that was missed for some time.
func (s *nodeSession) endSince(since time.Time, err error) {
	s.once.Do(func() {
		s.err, s.missed = err, since
		close(s.done)
		_ = s.stream.Reset()
	})
}

// ended reports whether the session is over.
func (s *nodeSession) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// write sends what is queued, several messages in one Write if they wait.
func (s *nodeSession) write() {
	var buf []byte
	for {
		var m Message
		select {
		case <-s.done:
			return
		case m = <-s.out:
		}
		buf = AppendFrame(buf[:0], m)
		for more := true; more && len(buf) < FrameTarget; {
			select {
			case m := <-s.out:
				buf = AppendFrame(buf, m)
			default:
				more = false
			}
		}
		if _, err := s.stream.Write(buf); err != nil {
			s.end(fmt.Errorf("write: %w", err))
			return
		}
		if cap(buf) > 4*FrameTarget {
			buf = nil
		}
	}
}

// read hands every message to whom it concerns.
func (s *nodeSession) read() {
	for {
		m, err := s.frames.Next()
		if err != nil {
			s.end(fmt.Errorf("read: %w", err))
			return
		}
		s.lastFrame.Store(time.Now().UnixNano())
		if err := s.dispatch(m); err != nil {
			s.end(err)
			return
		}
	}
}

func (s *nodeSession) dispatch(m Message) error {
	n := s.n
	switch m := m.(type) {
	case *Result:
		n.outbox.onResult(s, m.Lines)
	case *Watermark:
		n.outbox.onWatermark(m)
	case *Page:
		work := boxWork{session: s, records: m.Records, to: m.To, page: true, last: m.Last}
		if m.Box == BoxDirectory {
			s.hand(n.dir.work, work)
		} else {
			n.guard.mail(s, len(m.Records))
			s.hand(n.inbox.work, work)
		}
	case *Push:
		if m.To == 0 {
			s.hand(n.dir.work, boxWork{session: s, records: m.Records})
		} else {
			n.guard.mail(s, len(m.Records))
			s.hand(n.inbox.work, boxWork{session: s, records: m.Records, to: m.To, page: true})
		}
	case *CursorMsg:
		work := boxWork{session: s, cursor: m.Cursor, isCursor: true}
		if m.Box == BoxDirectory {
			s.hand(n.dir.work, work)
		} else {
			s.hand(n.inbox.work, work)
		}
	case *Found:
		return s.answer(m.N, m, m.More)
	case *Checked:
		return s.answer(m.N, m, m.More)
	case *Located:
		return s.answer(m.N, m, m.More)
	case *Locate:
		n.presence.hear(s, m)
	case *RosterMsg:
		n.sessions.learn(s.local, m.Records)
	case *SummaryMsg:
		select {
		case s.summaries <- m.Summaries:
		default: // nobody asked
		}
	case *Nudge:
		n.guard.nudged(s)
	case *Busy:
		if m.Err == nil {
			return Refuse(CodeBusy, "the pillar sends us away")
		}
		return m.Err
	default:
		return fmt.Errorf("%w: message type %d is not for a node", ErrFrame, m.Type())
	}
	return nil
}

// boxWork is a piece of a box on its way to its worker.
type boxWork struct {
	session  *nodeSession
	records  [][]byte
	to       uint64 // with page: what to say Saved to
	page     bool
	last     bool
	cursor   Vector
	isCursor bool
	check    bool        // records a mailbox check brought
	direct   *directWork // instead of records: a device brought them
	done     chan struct{}
}

// hand waits for a worker's queue. Meanwhile the pillar's silence means
// nothing: nobody reads what it says. Once something was left out because the
// session ended, all that follows is, cursors above all: what a worker gets is
// always a prefix of what the pillar sent.
func (s *nodeSession) hand(to chan boxWork, w boxWork) {
	if s.ended() {
		return
	}
	s.handing.Store(true)
	defer func() {
		s.lastFrame.Store(time.Now().UnixNano())
		s.handing.Store(false)
	}()
	select {
	case to <- w:
	case <-s.done: // stays closed, so nothing comes after the gap
	}
}

// answer gives m to who asked.
func (s *nodeSession) answer(n uint64, m Message, more bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.waiting[n]
	if c == nil {
		return nil // nobody waits any more
	}
	if c.count++; c.count > maxAnswers {
		return fmt.Errorf("%w: an answer of over %d frames", ErrFrame, maxAnswers)
	}
	if c.stream == nil {
		c.answers = append(c.answers, m)
	} else {
		select {
		case c.stream <- m:
		default:
		}
	}
	if !more {
		delete(s.waiting, n)
		close(c.done)
	}
	return nil
}

// expect has answers numbered n go to c, until dismiss.
func (s *nodeSession) expect(n uint64, c *nodeCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[n] = c
}

func (s *nodeSession) dismiss(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, n)
}

// ask sends a question numbered n and waits for all of its answer.
func (s *nodeSession) ask(ctx context.Context, n uint64, m Message) ([]Message, error) {
	c := &nodeCall{since: time.Now(), done: make(chan struct{})}
	s.expect(n, c)
	defer s.dismiss(n)
	wakeUp(s.n.guard.wake)
	if !s.send(m) {
		return nil, s.err
	}
	select {
	case <-c.done:
		return c.answers, nil
	case <-s.done:
		return nil, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// find asks with f and returns the records and, for OnlyHeld, the bits.
func (s *nodeSession) find(ctx context.Context, f *Find) (records [][]byte, held []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	f.N = s.take(1)
	answers, err := s.ask(ctx, f.N, f)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range answers {
		found, ok := a.(*Found)
		switch {
		case !ok:
			return nil, nil, fmt.Errorf("%w: a wrong answer to Find", ErrFrame)
		case found.Err != nil:
			return nil, nil, found.Err
		}
		records = append(records, found.Records...)
		held = append(held, found.Held...)
	}
	return records, held, nil
}
