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
	// maxQuestions of nodes are open at once, of one account and of one part of the
	// internet at most these shares of them. Accounts that have fewer than fewQuestions
	// open may bring it to twice as many, in all and of one part. And
	// maxPillarQuestions of other pillars, of one of them maxQuestionsOf: all that it
	// may ask in locateWindow.
	maxQuestions       = 4096
	fewQuestions       = 4
	accountQuestions   = maxQuestions / 32
	sourceQuestions    = maxQuestions / 4
	maxPillarQuestions = 4096
	maxQuestionsOf     = LocateBurst + LocateRate*int(locateWindow/time.Second)
	// maxPresences is how many answers one question gets.
	maxPresences = 8 * MaxDevices
	// asksBurst and asksRate bound what a session asks; askedBurst and askedRate
	// what it is asked, whoever asks.
	asksBurst, asksRate   = 64, 8
	askedBurst, askedRate = 40, 10
)

var errQuestions = &Error{Code: CodeBusy, Text: "too many questions where devices are wait for an answer", Retry: locateWindow}

var errShare = &Error{Code: CodeQuota, Text: "more is asked where devices are than the other pillars may be, much of it by this account or near it", Retry: locateWindow}

// questions are those that are open.
type questions struct {
	wake chan struct{} // capacity 1: queue was empty

	mu       sync.Mutex
	number   uint64                     // guarded by mu
	open     map[uint64]*question       // guarded by mu; by number
	queue    []*question                // guarded by mu; open ones, the oldest first
	nodes    int                        // guarded by mu; open ones of nodes
	accounts map[identity.AccountID]int // guarded by mu; of these, by whose
	sources  map[string]int             // guarded by mu; and by where it is, as far as that is known
	of       map[identity.PillarID]int  // guarded by mu; open ones of other pillars, by which
	onward   Tokens                     // guarded by mu; of questions to the other pillars
	line     askLine                    // guarded by mu; those that wait for it
}

// question is a Locate that was passed on.
type question struct {
	n       uint64             // as devices know it
	from    identity.PillarID  // who passed it on; "": a node of this pillar asks
	account identity.AccountID // of that node
	source  string             // and the part of the internet where it is, see sourceOf
	target  identity.AccountID
	asker   identity.DeviceID
	until   time.Time
	answer  func(*Located) // must not block

	// Guarded by questions.mu:
	waits   map[identity.DeviceID]bool // devices asked here that have not answered
	left    int                        // answers it may still get
	stop    func()                     // no pillar is to answer any more; nil: none was asked
	refused bool                       // its last word is said
}

func (t *questions) init() {
	t.wake = make(chan struct{}, 1)
	t.open, t.of = map[uint64]*question{}, map[identity.PillarID]int{}
	t.accounts, t.sources = map[identity.AccountID]int{}, map[string]int{}
}

// add numbers q and opens it, unless too many are.
func (t *questions) add(q *question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.from == "" {
		most, ofSource := maxQuestions, sourceQuestions
		if t.accounts[q.account] < fewQuestions {
			most, ofSource = 2*most, 2*ofSource
		}
		if t.nodes >= most || t.accounts[q.account] >= accountQuestions || q.source != "" && t.sources[q.source] >= ofSource {
			return false
		}
		t.nodes++
		t.accounts[q.account]++
		t.sources[q.source]++
	} else {
		if t.of[q.from] >= maxQuestionsOf || len(t.open)-t.nodes >= maxPillarQuestions {
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

// mayAsk reports whether the other pillars may be asked q now. If not, it waits for
// its turn; then dropped is the question that does not any more, or nil.
func (t *questions) mayAsk(q *question, m *Locate) (now bool, dropped *question) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.line.waiting == 0 && t.onward.Take(time.Now(), LocateBurst, LocateRate) == 0 {
		return true, nil
	}
	if t.line.waiting == 0 {
		wakeUp(t.wake)
	}
	return false, t.line.push(waitingAsk{q, m})
}

// turn takes the next question that waits for the other pillars to be asked, or
// returns when it may be; zero if none waits.
func (t *questions) turn(now time.Time) (w waitingAsk, ok bool, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.line.waiting > 0 {
		if wait := t.onward.Take(now, LocateBurst, LocateRate); wait > 0 {
			return w, false, now.Add(wait)
		}
		for !ok && t.line.waiting > 0 {
			w, _ = t.line.pop()
			ok = t.open[w.q.n] == w.q // else it was over before its turn
		}
		if ok {
			return w, true, time.Time{}
		}
	}
	return w, false, time.Time{}
}

// refuse reports whether q, which is open, is to be refused now: its last word is
// said by whoever asked. It takes its room until its time is over.
func (t *questions) refuse(q *question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[q.n] != q || q.refused {
		return false
	}
	q.refused = true
	return true
}

// lessOne counts one less for k, and forgets who has none.
func lessOne[K comparable](of map[K]int, k K) {
	if of[k]--; of[k] == 0 {
		delete(of, k)
	}
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
			lessOne(t.accounts, q.account)
			lessOne(t.sources, q.source)
		} else {
			lessOne(t.of, q.from)
		}
		if !q.refused {
			over = append(over, q)
		}
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
		for {
			w, ok, turn := p.questions.turn(time.Now())
			if ok {
				p.askOthers(w.q, w.m)
				continue
			}
			if !turn.IsZero() && (next.IsZero() || turn.Before(next)) {
				next = turn
			}
			break
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
	q := &question{account: s.account, source: s.source, target: m.Target, asker: s.cert.Device, answer: func(a *Located) {
		a.N = m.N
		s.send(a)
	}}
	if !p.questions.add(q) {
		p.metrics.questions.WithLabelValues("node", string(CodeBusy)).Inc()
		s.send(&Located{N: m.N, Err: errQuestions})
		return nil
	}
	p.metrics.questions.WithLabelValues("node", "taken").Inc()
	p.passOn(q, m)
	now, dropped := p.questions.mayAsk(q, m)
	if now {
		p.askOthers(q, m)
	}
	if dropped != nil {
		p.metrics.questions.WithLabelValues("node", "share").Inc()
		// Where a device of the target is here, that has to do.
		if !p.serves(dropped.target) && p.questions.refuse(dropped) {
			dropped.answer(&Located{Err: errShare})
		}
	}
	return nil
}

// askOthers passes a node's question on to the other pillars.
func (p *Pillar) askOthers(q *question, m *Locate) {
	p.questions.endsWith(q, p.others.Locate(m, func(presence Presence) { p.passBack(q, presence) }))
}

// LocateHere passes a question that another pillar passed on to the devices of
// its target that are connected here. answer is called, from any goroutine, with
// what each of them says; it must not block. Nothing comes if there is none, or
// none wants to be found, or too much is asked.
func (p *Pillar) LocateHere(from identity.PillarID, m *Locate, answer func(Presence)) {
	if !p.serves(m.Target) {
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

// serves reports whether a device of the account is connected here.
func (p *Pillar) serves(a identity.AccountID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.live[a]) > 0
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
