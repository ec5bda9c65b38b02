package overlay

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// Where devices are. A pillar passes a node's question on to the account's
// sessions here and to all other pillars, which pass it on to theirs and no
// further, and passes back what the devices answer. It stores nothing, and tells
// nobody what it knows itself: an answer is a device's own word, and silence is
// the same whether a device is away, elsewhere or does not want to be found. So
// who asks always waits as long for the last word.

// Bounds of questions.
const (
	// locateWindow is how long a question is open.
	locateWindow = 2 * time.Second
	// maxQuestions of nodes are open at once, and as many of other pillars, of one
	// of them at most maxQuestionsOf.
	maxQuestions   = 1024
	maxQuestionsOf = 256
	// maxPresences is how many answers one question gets.
	maxPresences = 8 * MaxDevices
	// asksBurst and asksRate bound what a session asks; askedBurst and askedRate
	// what it is asked, whoever asks.
	asksBurst, asksRate   = 64, 8
	askedBurst, askedRate = 40, 10
)

var errQuestions = &Error{Code: CodeBusy, Text: "too many questions where devices are wait for an answer", Retry: locateWindow}

// questions are those that are open.
type questions struct {
	wake chan struct{} // capacity 1: queue was empty

	mu     sync.Mutex
	number uint64                    // guarded by mu
	open   map[uint64]*question      // guarded by mu; by number
	queue  []*question               // guarded by mu; open ones, the oldest first
	nodes  int                       // guarded by mu; open ones of nodes
	of     map[identity.PillarID]int // guarded by mu; of other pillars, by which
}

// question is a Locate that was passed on.
type question struct {
	n      uint64            // as devices know it
	from   identity.PillarID // who passed it on; "": a node of this pillar asks
	target identity.AccountID
	asker  identity.DeviceID
	until  time.Time
	answer func(*Located) // must not block

	// Guarded by questions.mu:
	waits map[identity.DeviceID]bool // devices asked here that have not answered
	left  int                        // answers it may still get
	stop  func()                     // no pillar is to answer any more; nil: none was asked
}

func (t *questions) init() {
	t.wake = make(chan struct{}, 1)
	t.open, t.of = map[uint64]*question{}, map[identity.PillarID]int{}
}

// add numbers q and opens it, unless too many are.
func (t *questions) add(q *question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.from == "" {
		if t.nodes >= maxQuestions {
			return false
		}
		t.nodes++
	} else {
		if t.of[q.from] >= maxQuestionsOf || len(t.open)-t.nodes >= maxQuestions {
			return false
		}
		t.of[q.from]++
	}
	t.number++
	q.n, q.left = t.number, maxPresences
	q.until = time.Now().Add(locateWindow)
	t.open[q.n] = q
	if t.queue = append(t.queue, q); len(t.queue) == 1 {
		wakeUp(t.wake)
	}
	return true
}

// asks notes what devices q was passed on to.
func (t *questions) asks(q *question, sessions []*pillarSession) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q.waits = make(map[identity.DeviceID]bool, len(sessions))
	for _, s := range sessions {
		q.waits[s.cert.Device] = true
	}
}

// endsWith has stop called when q is over.
func (t *questions) endsWith(q *question, stop func()) {
	t.mu.Lock()
	open := t.open[q.n] == q
	if open {
		q.stop = stop
	}
	t.mu.Unlock()
	if !open {
		stop()
	}
}

// due takes the questions that are over, and returns when the next one is; zero
// if there is none.
func (t *questions) due(now time.Time) (over []*question, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) > 0 && !now.Before(t.queue[0].until) {
		q := t.queue[0]
		t.queue = t.queue[1:]
		delete(t.open, q.n)
		if q.from == "" {
			t.nodes--
		} else if t.of[q.from]--; t.of[q.from] == 0 {
			delete(t.of, q.from)
		}
		over = append(over, q)
	}
	if len(t.queue) == 0 {
		t.queue = nil // gives the array back
		return over, time.Time{}
	}
	return over, t.queue[0].until
}

// answered takes the word of a device for question n; nil if that does not wait
// for it.
func (t *questions) answered(n uint64, target identity.AccountID, p *Presence) *question {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.open[n]
	if q == nil || q.target != target || q.asker != p.Asker || !q.waits[p.Device] || q.left == 0 {
		return nil
	}
	delete(q.waits, p.Device)
	q.left--
	return q
}

// pay takes one of the answers that q may get; false if there is none left, or q
// is over.
func (t *questions) pay(q *question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[q.n] != q || q.left == 0 {
		return false
	}
	q.left--
	return true
}

// questionLoop says the last word about every question in its time.
func (p *Pillar) questionLoop(ctx context.Context) {
	timer := time.NewTimer(locateWindow)
	defer timer.Stop()
	for {
		over, next := p.questions.due(time.Now())
		for _, q := range over {
			if q.stop != nil { // never changes any more
				q.stop()
			}
			if q.from == "" {
				q.answer(&Located{})
			}
		}
		wait := locateWindow
		if !next.IsZero() {
			wait = time.Until(next)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-p.questions.wake:
		case <-timer.C:
		}
	}
}

// LocateThrough has l ask the other pillars where devices are. It is called
// before Run, if at all; else only devices connected here are found.
func (p *Pillar) LocateThrough(l Locator) { p.others = l }

// locate takes a node's question.
func (s *pillarSession) locate(m *Locate) *Error {
	p := s.p
	if m.Asker != s.account || !bytes.Equal(m.Certificate, s.credential) {
		return Refuse(CodeInvalid, "a question where an account is comes from the session's own device")
	}
	if wait := s.asks.Take(time.Now(), asksBurst, asksRate); wait > 0 {
		p.metrics.questions.WithLabelValues("node", string(CodeQuota)).Inc()
		s.send(&Located{N: m.N, Err: &Error{Code: CodeQuota, Text: "this device asks where others are too often", Retry: max(wait, time.Millisecond)}})
		return nil
	}
	q := &question{target: m.Target, asker: s.cert.Device, answer: func(a *Located) {
		a.N = m.N
		s.send(a)
	}}
	if !p.questions.add(q) {
		p.metrics.questions.WithLabelValues("node", string(CodeBusy)).Inc()
		s.send(&Located{N: m.N, Err: errQuestions})
		return nil
	}
	p.metrics.questions.WithLabelValues("node", "taken").Inc()
	p.questions.endsWith(q, p.others.Locate(m, func(presence Presence) { p.passBack(q, presence) }))
	p.passOn(q, m)
	return nil
}

// LocateHere passes a question that another pillar passed on to the devices of
// its target that are connected here. answer is called, from any goroutine, with
// what each of them says; it must not block. Nothing comes if there is none, or
// none wants to be found, or too much is asked.
func (p *Pillar) LocateHere(from identity.PillarID, m *Locate, answer func(Presence)) {
	p.mu.Lock()
	here := len(p.live[m.Target]) > 0
	p.mu.Unlock()
	if !here {
		p.metrics.questions.WithLabelValues("pillar", string(CodeNotFound)).Inc()
		return
	}
	cert, err := p.verifier.CheckCertificate(m.Asker, m.Certificate)
	if err != nil || !cert.Covers(p.now()) {
		p.metrics.questions.WithLabelValues("pillar", string(CodeInvalid)).Inc()
		return
	}
	q := &question{from: from, target: m.Target, asker: cert.Device, answer: func(a *Located) {
		for _, presence := range a.Presences {
			answer(presence)
		}
	}}
	if !p.questions.add(q) {
		p.metrics.questions.WithLabelValues("pillar", string(CodeBusy)).Inc()
		return
	}
	p.metrics.questions.WithLabelValues("pillar", "taken").Inc()
	p.passOn(q, m)
}

// passOn asks the target's sessions here, as far as each may be asked more.
func (p *Pillar) passOn(q *question, m *Locate) {
	on := *m
	on.N = q.n
	frame := AppendFrame(nil, &on)
	now := time.Now()
	var ask []*pillarSession
	p.mu.Lock()
	for _, s := range p.live[q.target] {
		if s.cert.Device != q.asker && s.asked.Take(now, askedBurst, askedRate) == 0 {
			ask = append(ask, s)
		}
	}
	p.mu.Unlock()
	p.questions.asks(q, ask)
	for _, s := range ask {
		s.queue(frame)
	}
}

// located takes a device's answer.
func (s *pillarSession) located(m *Located) *Error {
	if len(m.Presences) != 1 || m.More || m.Err != nil || m.Presences[0].Device != s.cert.Device {
		return Refuse(CodeInvalid, "a device answers a question where it is for itself, with one presence")
	}
	q := s.p.questions.answered(m.N, s.account, &m.Presences[0])
	if q == nil {
		s.p.metrics.presences.WithLabelValues("late").Inc()
		return nil
	}
	s.p.metrics.presences.WithLabelValues("passed").Inc()
	q.answer(&Located{More: true, Presences: m.Presences})
	return nil
}

// passBack takes what came from another pillar.
func (p *Pillar) passBack(q *question, presence Presence) {
	if !p.questions.pay(q) {
		p.metrics.presences.WithLabelValues("over").Inc()
		return
	}
	p.metrics.presences.WithLabelValues("passed").Inc()
	q.answer(&Located{More: true, Presences: []Presence{presence}})
}
