package overlay

import (
	"bytes"
	"errors"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// The way of a submission. Queues are bounded; each step takes what waits and
// never waits for more.
//
//  1. session.submit   cuts a Submit into jobs          one goroutine a session
//     | accountShare: an account's part of the queue; full: the session waits
//     | Pillar.submits: submitQueue jobs, maxQueued bytes; full: busy
//  2. gather           makes chunks of what waits       one
//     | Pillar.work: as many as there are workers; full: jobs pile up in submits
//  3. judge            shape, duplicate, signature,     one worker a core
//     admission; answers what needs no commit
//     | Pillar.commits: in the order of step 2, so what a session submitted
//     | stays in order although chunks are verified side by side
//  4. commitLoop       appends to the log, one commit   one
//     of everything that is verified by then
//  5. publish          mesh, recipients, submitters     the same goroutine
//
// Nothing of a record leaves the pillar before step 5, nor is its submitter
// told that it is stored. Registrations and runs of followed logs join at
// step 4.
const (
	submitQueue = 1024
	commitQueue = 64
	// maxQueued bounds the bytes of submissions between steps 1 and 5.
	maxQueued = 32 << 20
	// A chunk is verified together; more at once gains nothing.
	chunkRecords = 256
	chunkBytes   = 1 << 20
)

// submission is one record on its way.
type submission struct {
	s       *pillarSession // nil: nobody to be answered by a Result
	n       uint64
	concern uint64
	raw     []byte
	rec     *Record // once it is parsed
	// known: an accepted, durable record with this ID exists; dot is its first
	// place. A known record without any is given one here.
	known bool
	dot   Dot
	at    int // the committer's: index of its record in the commit, -1 if it is known
}

// submitJob is a part of a Submit, at most chunkRecords records.
type submitJob struct {
	s       *pillarSession
	first   uint64
	concern uint64
	records [][]byte
	bytes   int
	since   time.Time // it came
}

// submit is step 1.
func (s *pillarSession) submit(m *Submit) {
	p := s.p
	first, since := m.First, time.Now()
	for records := m.Records; len(records) > 0; {
		n := min(len(records), chunkRecords)
		job := submitJob{s: s, first: first, concern: m.Concern, records: records[:n], since: since}
		records, first = records[n:], first+uint64(n)
		for _, raw := range job.records {
			job.bytes += len(raw)
		}
		if !s.share.await(s.done) {
			return // nobody is there to be answered
		}
		if err := p.take(&job); err != nil {
			s.refuseAll(&job, err)
		}
	}
}

// take queues a job if there is room.
func (p *Pillar) take(job *submitJob) *Error {
	n := int64(len(job.records))
	if job.s.inFlight.Add(n) > maxInFlight {
		job.s.inFlight.Add(-n)
		return errInFlight
	}
	share := job.s.share
	share.bytes.Add(int64(job.bytes))
	share.submits.Add(1)
	if p.queued.Add(int64(job.bytes)) <= maxQueued {
		select {
		case p.submits <- *job:
			return nil
		default:
		}
	}
	p.queued.Add(-int64(job.bytes))
	share.bytes.Add(-int64(job.bytes))
	share.submits.Add(-1)
	job.s.inFlight.Add(-n)
	return errQueueFull
}

func (s *pillarSession) refuseAll(job *submitJob, err *Error) {
	s.mu.Lock()
	for i := range job.records {
		s.answerLocked(ResultLine{N: job.first + uint64(i), Err: err})
	}
	s.mu.Unlock()
	s.p.metrics.submissions.WithLabelValues(string(err.Code)).Add(float64(len(job.records)))
	s.wakeWriter()
}

// answerLocked queues a line of a Result. s.mu is held, the writer to be woken.
func (s *pillarSession) answerLocked(line ResultLine) {
	if s.dead || s.closing {
		return
	}
	if len(s.results) >= maxResults {
		s.dropLocked()
		return
	}
	s.results = append(s.results, line)
}

// chunk is submissions that are verified together. While a worker has it, it
// is the worker's; after done, the committer's.
type chunk struct {
	subs  []submission
	recs  []*Record
	errs  []error // one for each of subs, while they are judged
	refs  []Ref
	index []int
	// local is the store's newest local sequence when duplicates were looked
	// for: what was committed later may be one.
	local uint64
	// forgets is the pillar's count of forgetting commits before that.
	forgets uint64
	bytes   int
	since   time.Time     // its first submission came
	done    chan struct{} // one token once it is verified
}

func (p *Pillar) newChunk() *chunk {
	if ch, ok := p.chunks.Get().(*chunk); ok {
		return ch
	}
	return &chunk{done: make(chan struct{}, 1)}
}

// release gives a chunk back. Nobody else may still have it.
func (p *Pillar) release(ch *chunk) {
	clear(ch.subs)
	clear(ch.recs)
	clear(ch.errs)
	ch.subs, ch.recs, ch.errs, ch.refs, ch.index = ch.subs[:0], ch.recs[:0], ch.errs[:0], ch.refs[:0], ch.index[:0]
	ch.local, ch.bytes, ch.since = 0, 0, time.Time{}
	select {
	case <-ch.done:
	default:
	}
	p.chunks.Put(ch)
}

func (ch *chunk) add(job *submitJob) {
	for i, raw := range job.records {
		ch.subs = append(ch.subs, submission{s: job.s, n: job.first + uint64(i), concern: job.concern, raw: raw})
	}
	ch.bytes += job.bytes
	if ch.since.IsZero() {
		ch.since = job.since
	}
	job.s.share.submits.Add(-1)
	job.s.share.wake()
}

// keep drops the submissions for which fn is false.
func (ch *chunk) keep(fn func(sub *submission, err error) bool) {
	kept := ch.subs[:0]
	for i := range ch.subs {
		if fn(&ch.subs[i], ch.errs[i]) {
			kept = append(kept, ch.subs[i])
		}
	}
	clear(ch.subs[len(kept):])
	ch.subs = kept
}

// gather is step 2. It ends when submits is closed.
func (p *Pillar) gather() {
	defer close(p.work)
	for job := range p.submits {
		ch := p.newChunk()
		ch.add(&job)
		for len(ch.subs) < chunkRecords && ch.bytes < chunkBytes {
			more := true
			select {
			case job, more = <-p.submits:
				if more {
					ch.add(&job)
				}
			default:
				more = false
			}
			if !more {
				break
			}
		}
		p.work <- ch
		p.commits <- commitJob{chunk: ch}
	}
}

// verifyLoop is a worker of step 3.
func (p *Pillar) verifyLoop() {
	for ch := range p.work {
		start := time.Now()
		p.judge(ch)
		p.metrics.verifyTook.Observe(time.Since(start).Seconds())
		ch.done <- struct{}{}
	}
}

// judge checks a chunk in the order size, shape, duplicate, signature,
// admission; it answers what is refused and what is known, and leaves in the
// chunk what is to be committed.
func (p *Pillar) judge(ch *chunk) {
	ch.errs = append(ch.errs[:0], make([]error, len(ch.subs))...)
	for i := range ch.subs {
		ch.subs[i].rec, ch.errs[i] = p.verifier.Parse(ch.subs[i].raw)
	}
	if err := p.findKnown(ch); err != nil {
		p.log.Error("duplicates not looked for", "err", err)
		for i := range ch.errs {
			if ch.errs[i] == nil {
				ch.errs[i] = errReading
			}
		}
	}
	p.verifyFresh(ch)
	p.admit(ch)
	p.doubtKnown(ch)
	p.answerJudged(ch)
	ch.keep(func(sub *submission, err error) bool {
		if err == nil && (!sub.known || sub.dot == (Dot{})) {
			sub.rec.detach()
			return true
		}
		p.finish(sub)
		return false
	})
}

// finish gives back what a submission took of the queues' room. It is
// answered.
func (p *Pillar) finish(sub *submission) {
	if sub.s != nil {
		sub.s.inFlight.Add(-1)
		p.queued.Add(-int64(len(sub.raw)))
		sub.s.share.bytes.Add(-int64(len(sub.raw)))
		sub.s.share.wake()
	}
}

// findKnown sets known and dot of the submissions that are duplicates.
func (p *Pillar) findKnown(ch *chunk) error {
	if len(ch.errs) != len(ch.subs) {
		ch.errs = append(ch.errs[:0], make([]error, len(ch.subs))...)
	}
	ch.refs, ch.index = ch.refs[:0], ch.index[:0]
	for i := range ch.subs {
		if ch.errs[i] == nil {
			ch.refs = append(ch.refs, ch.subs[i].rec.Ref())
			ch.index = append(ch.index, i)
		}
	}
	if len(ch.refs) == 0 {
		return nil
	}
	ch.forgets = p.forgets.Load()
	view := p.cfg.Store.View()
	defer view.Close()
	ch.local = view.LastLocal()
	return view.Get(ch.refs, func(i int, r StoredRecord) bool {
		sub := &ch.subs[ch.index[i]]
		sub.known = true
		if len(r.Dots) > 0 {
			sub.dot = r.Dots[0]
		}
		return true
	})
}

// doubtKnown refuses, for a moment, the duplicates of what may have been
// forgotten since they were looked for, and would be answered as stored.
func (p *Pillar) doubtKnown(ch *chunk) {
	if ch.forgets%2 == 0 && ch.forgets == p.forgets.Load() {
		return
	}
	for i := range ch.subs {
		if sub := &ch.subs[i]; ch.errs[i] == nil && sub.known && sub.dot != (Dot{}) {
			ch.errs[i] = errForgetting
		}
	}
}

// verifyFresh checks the signatures of what parsed and is not known.
func (p *Pillar) verifyFresh(ch *chunk) {
	ch.recs, ch.index = ch.recs[:0], ch.index[:0]
	for i := range ch.subs {
		if ch.errs[i] == nil && !ch.subs[i].known {
			ch.recs = append(ch.recs, ch.subs[i].rec)
			ch.index = append(ch.index, i)
		}
	}
	if len(ch.recs) == 0 {
		return
	}
	verdicts := make([]error, len(ch.recs))
	p.verifier.Verify(ch.recs, verdicts)
	for j, i := range ch.index {
		ch.errs[i] = verdicts[j]
	}
}

// answerJudged answers what is not going to be committed: refusals, and
// duplicates with the answer the first one got.
func (p *Pillar) answerJudged(ch *chunk) {
	for i := range ch.subs {
		sub := &ch.subs[i]
		switch err := ch.errs[i]; {
		case err != nil:
			e := refusalOf(err)
			p.metrics.submissions.WithLabelValues(string(e.Code)).Inc()
			if sub.rec != nil {
				p.refused.note(sub.rec.ID, e.Code, p.cfg.Now())
			}
			if sub.s != nil {
				sub.s.mu.Lock()
				sub.s.answerLocked(ResultLine{N: sub.n, Err: e})
				sub.s.mu.Unlock()
				sub.s.wakeWriter()
			}
		case sub.known && sub.dot != Dot{}:
			p.metrics.duplicate.Inc()
			p.copies.answer(sub, sub.dot, sub.rec.Ref())
		}
	}
}

// refusalOf returns the Error to answer err with.
func refusalOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInvalid, Text: err.Error()}
}

// detach gives the record bytes of its own, so that whoever keeps it does not
// keep the whole frame it came in.
func (r *Record) detach() {
	raw := bytes.Clone(r.Raw)
	header := canon.BinLen(len(r.payload)) - len(r.payload)
	payload := raw[1+header:][:len(r.payload):len(r.payload)]
	signer := 1 + canon.UintLen(r.Format) + canon.UintLen(uint64(r.Kind)) +
		canon.BinLen(len(r.Author)) + canon.BinLen(len(r.Signer)) - len(r.Signer)
	r.Raw, r.payload = raw, payload
	r.signature = raw[len(raw)-len(r.signature):]
	r.Signer = payload[signer:][:len(r.Signer):len(r.Signer)]
	r.Bin = payload[len(payload)-len(r.Bin):]
}
