package overlay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bounds of one group commit: what waits beyond them is the next one's.
const (
	commitRecords = 4096
	commitBytes   = 4 << 20
)

// recentIDs bounds each of the committer's two generations of IDs.
const recentIDs = 16 << 10

// errPillarEnded: asked of a Pillar whose Run is over.
var errPillarEnded = errors.New("the pillar is stopping")

// commitJob is something to be made durable. Exactly what is set is done.
type commitJob struct {
	chunk *chunk       // submissions, once verified
	run   *followedRun // a run of somebody else's log
	// arrivals are verified records that came by no log, but by via.
	arrivals []*Record
	via      Via
	values   []Value
	notes    func() ([]Value, error) // of replication's own, see LogRun
	fix      *recordFix              // what a scrub found of records and boxes
	logFix   *logFix                 // and of a log
	drop     []LogID                 // logs to be forgotten
	stray    bool                    // only those of which there is no state
	dead     uint64                  // not zero: only if they are still dead at that time, Unix ms
	lapse    uint64                  // not zero: lacks that are expired at that time are none any more
	// done, of capacity 1, gets the result. Without it the chunk is given back
	// by the committer.
	done chan error
}

// commit hands a job to the committer and returns when it is durable or
// failed. ctx counts until the committer has it.
func (p *Pillar) commit(ctx context.Context, job commitJob) error {
	select {
	case <-p.ending:
		return errPillarEnded
	case <-ctx.Done():
		return ctx.Err()
	case p.commits <- job:
	}
	select {
	case err := <-job.done:
		return err
	case <-p.ended:
	}
	select {
	case err := <-job.done:
		return err
	default:
		return errPillarEnded
	}
}

func (p *Pillar) commitValues(ctx context.Context, values []Value) error {
	return p.commit(ctx, commitJob{values: values, done: make(chan error, 1)})
}

// committer makes group commits. Only its goroutine touches it.
type committer struct {
	p    *Pillar
	head *commitJob // taken off the queue, for the next commit

	// What is being committed:
	jobs   []commitJob
	errs   []error // one for each of jobs: why it is not part of the commit
	weight int     // records and entries
	bytes  int
	commit Commit
	recs   []*Record             // of commit.Records
	batch  map[RecordID]int      // index in commit.Records
	known  map[RecordID]struct{} // answered as duplicates
	states map[LogID]*LogState
	order  []LogID // the keys of states, in the order they came
	own    LogCommit
	event  []LogCommit // of followed logs

	// lacking finds the lacks of all logs by the record they lack. filled are
	// those that the commit ends, ended the same once the states are settled.
	lacking map[RecordID][]Dot
	filled  []Dot
	ended   []endedLack
	dropped []LogID
	fixes   []*recordFix

	accounts []*Record // account records that were new in it

	// later are dots of records that had another one in the same commit.
	later []Arrival

	// recent and older are the records of the newest commits and their first
	// dots: complete for local sequences above floor, so that a duplicate of
	// what was committed after it was looked for is found without the store.
	recent, older    map[RecordID]Dot
	floor, olderEnds uint64
	local            uint64 // newest local sequence committed
}

// commitLoop is step 4. It ends when quit is closed and nothing waits.
func (p *Pillar) commitLoop() {
	c := &committer{p: p, batch: map[RecordID]int{}, known: map[RecordID]struct{}{}, states: map[LogID]*LogState{}, lacking: map[RecordID][]Dot{},
		recent: map[RecordID]Dot{}, local: p.local, floor: p.local, olderEnds: p.local}
	c.loadLacks()
	for c.wait() {
		for c.weight < commitRecords && c.bytes < commitBytes && c.more() {
			c.take()
		}
		c.write()
	}
}

// wait blocks until something is to be committed and takes it; false at the
// end.
func (c *committer) wait() bool {
	if c.head == nil {
		select {
		case job := <-c.p.commits:
			c.head = &job
		case <-c.p.quit:
			select {
			case job := <-c.p.commits:
				c.head = &job
			default:
				return false
			}
		}
	}
	if c.head.chunk != nil {
		<-c.head.chunk.done
	}
	c.begin()
	// What begin put into the commit may be in the way: then it goes first.
	if c.head.chunk != nil || c.fits(c.head) {
		c.take()
	}
	return true
}

// more reports whether head is something that can be committed now.
func (c *committer) more() bool {
	if c.head == nil {
		select {
		case job := <-c.p.commits:
			c.head = &job
		default:
			return false
		}
	}
	if c.head.chunk == nil {
		return c.fits(c.head)
	}
	if len(c.commit.Forget) > 0 {
		return false // it may be a duplicate of what is being forgotten
	}
	select {
	case <-c.head.chunk.done:
		return true
	default:
		return false
	}
}

func (c *committer) begin() {
	clear(c.jobs)
	clear(c.recs)
	clear(c.commit.Records)
	clear(c.batch)
	clear(c.known)
	clear(c.states)
	c.jobs, c.errs, c.recs, c.order = c.jobs[:0], c.errs[:0], c.recs[:0], c.order[:0]
	c.weight, c.bytes = 0, 0
	c.commit = Commit{Time: c.p.cfg.Now(), Records: c.commit.Records[:0]}
	c.own, c.event, c.dropped, c.fixes = LogCommit{}, nil, nil, nil
	c.filled, c.ended = c.filled[:0], c.ended[:0]
	c.p.mu.Lock()
	dropped := c.p.dropped
	c.p.mu.Unlock()
	for i := range c.later {
		if DayOf(c.later[i].Expires) >= dropped { // else it would be a record without bytes
			c.arrive(&c.later[i], nil)
		}
	}
	clear(c.later)
	c.later = c.later[:0]
	clear(c.accounts)
	c.accounts = c.accounts[:0]
}

// take adds head to the commit.
func (c *committer) take() {
	job := *c.head
	c.head = nil
	var err error
	switch {
	case c.p.failure() != nil:
		err = c.p.failure()
	case job.chunk != nil:
		err = c.takeChunk(job.chunk)
	case job.notes != nil:
		if job.values, err = callNotes(job.notes); err == nil && job.run != nil {
			err = c.takeRun(job.run)
		}
	case job.run != nil:
		err = c.takeRun(job.run)
	case job.arrivals != nil:
		for _, rec := range job.arrivals {
			c.arrive(&Arrival{ID: rec.ID, Created: rec.Created, Expires: rec.Expires, Raw: rec.Raw,
				Boxes: BoxesOf(rec), Via: job.via}, rec)
		}
	case job.fix != nil:
		c.takeFix(job.fix)
	case job.logFix != nil:
		err = c.takeLogFix(job.logFix)
	}
	if err == nil {
		c.commit.Values = append(c.commit.Values, job.values...)
		c.takeDrops(&job)
		if job.lapse > 0 {
			c.lapse(job.lapse)
		}
		c.weight++
	}
	c.jobs = append(c.jobs, job)
	c.errs = append(c.errs, err)
}

// arrive adds a record, or reports false if the commit has it already.
func (c *committer) arrive(a *Arrival, rec *Record) bool {
	if _, ok := c.batch[a.ID]; ok {
		return false
	}
	c.batch[a.ID] = len(c.commit.Records)
	if len(c.lacking) > 0 && rec != nil {
		if dots := c.lacking[a.ID]; len(dots) > 0 {
			c.filled = append(c.filled, dots...)
			if a.Dot == (Dot{}) {
				a.Dot = dots[0] // its place was known before it came
			}
		}
	}
	c.commit.Records = append(c.commit.Records, *a)
	c.recs = append(c.recs, rec)
	c.weight++
	c.bytes += len(a.Raw)
	return true
}

// state returns the log's state in this commit, to be changed; nil if the log
// is not known.
func (c *committer) state(log LogID) *LogState {
	if s := c.states[log]; s != nil {
		return s
	}
	c.p.mu.Lock()
	known := c.p.logs[log]
	c.p.mu.Unlock()
	if known == nil {
		return nil
	}
	s := *known
	return &s
}

func (c *committer) setState(s *LogState) {
	if c.states[s.Log] == nil {
		c.order = append(c.order, s.Log)
	}
	c.states[s.Log] = s
}

// takeChunk appends the chunk's submissions to the own log, but for those that
// have become duplicates since they were judged.
func (c *committer) takeChunk(ch *chunk) error {
	if len(ch.subs) == 0 {
		return nil
	}
	if err := c.findRecent(ch); err != nil {
		return err
	}
	var own *LogState
	for i := range ch.subs {
		sub := &ch.subs[i]
		if sub.known && sub.dot != (Dot{}) {
			sub.at = -1
			c.known[sub.rec.ID] = struct{}{}
			continue
		}
		if at, ok := c.batch[sub.rec.ID]; ok {
			sub.at = at
			continue
		}
		if own == nil {
			own = c.ownState()
		}
		own.Seq++
		own.Hash = Chain(own.Hash, sub.rec.Expires, sub.rec.ID)
		own.Dies = max(own.Dies, sub.rec.Expires)
		sub.at = len(c.commit.Records)
		c.arrive(&Arrival{ID: sub.rec.ID, Created: sub.rec.Created, Expires: sub.rec.Expires, Raw: sub.rec.Raw,
			Boxes: BoxesOf(sub.rec), Dot: Dot{own.Log, own.Seq}, Via: ViaSubmit}, sub.rec)
		c.own.Entries = append(c.own.Entries, BatchEntry{Raw: sub.rec.Raw, Expires: sub.rec.Expires, ID: sub.rec.ID})
	}
	if own != nil {
		c.setState(own)
	}
	return nil
}

// ownState returns the state of the own log, to be changed. The log is made
// with its first entry.
func (c *committer) ownState() *LogState {
	own := c.state(c.p.ownLog) // ownLog is only changed by this goroutine
	if own != nil && !slices.Contains(c.commit.DropLog, own.Log) {
		if c.own.From == 0 {
			c.own.From = own.Seq + 1
		}
		return own
	}
	own = &LogState{Pillar: c.p.id}
	rand.Read(own.Nonce[:]) // never fails since Go 1.24
	own.Log = MakeLogID(c.p.cfg.Network, own.Pillar, own.Nonce)
	own.Hash = ChainStart(own.Log)
	c.commit.Values = append(c.commit.Values, c.p.newLogs.take(c.p.now()))
	c.own.From = 1
	c.p.mu.Lock()
	c.p.ownLog = own.Log
	c.p.mu.Unlock()
	return own
}

// findRecent marks the submissions that became duplicates since the chunk was
// judged.
func (c *committer) findRecent(ch *chunk) error {
	if ch.local >= c.local {
		return nil
	}
	if ch.local < c.floor {
		ch.errs = ch.errs[:0]
		return c.p.findKnown(ch)
	}
	for i := range ch.subs {
		sub := &ch.subs[i]
		dot, ok := c.recent[sub.rec.ID]
		if !ok {
			dot, ok = c.older[sub.rec.ID]
		}
		if ok {
			sub.known, sub.dot = true, dot
		}
	}
	return nil
}

// write makes the commit and tells everybody.
func (c *committer) write() {
	p := c.p
	c.settleLacks()
	if n := len(c.own.Entries); n > 0 {
		c.own.Own, c.own.State = true, *c.states[p.ownLog]
		entries := make([]LogEntry, n)
		for i := range entries {
			entries[i] = LogEntry{Expires: c.own.Entries[i].Expires, ID: c.own.Entries[i].ID}
		}
		c.commit.Logs = append(c.commit.Logs, LogAppend{Log: p.ownLog, From: c.own.From, Entries: entries})
		notes, err := callNotes(func() ([]Value, error) { return p.mesh.Notes(&c.own) })
		if err != nil { // the log is served by who has it
			p.log.Warn("notes of the own log", "err", err)
		}
		c.commit.Values = append(c.commit.Values, notes...)
	}
	for i := range c.jobs {
		if run := c.jobs[i].run; run != nil && c.states[run.state.Log] != nil {
			run.result = *c.states[run.state.Log]
		}
	}
	for _, log := range c.order {
		s := c.states[log]
		c.commit.Values = append(c.commit.Values, Value{Key: s.Key(), Data: s.Encode()})
	}
	var done Committed
	var err error
	if !c.empty() {
		start := time.Now()
		done, err = p.cfg.Store.Commit(&c.commit)
		if len(c.commit.Forget) > 0 {
			p.forgets.Add(1)
		}
		if err != nil {
			c.fail(err)
		} else {
			p.metrics.commitTook.Observe(time.Since(start).Seconds())
			p.metrics.commitSize.Observe(float64(c.weight))
			c.publish(&done)
		}
	}
	c.answer()
	for _, rec := range c.accounts { // now that who submitted them is answered
		p.endRemoved(rec)
	}
}

// empty reports whether there is nothing to commit.
func (c *committer) empty() bool {
	x := &c.commit
	return len(x.Records)+len(x.Logs)+len(x.Values)+len(x.DropLog)+len(x.CutLog)+
		len(x.Forget)+len(x.Unfile) == 0
}

// fail closes the log: from here on only reads are served.
func (c *committer) fail(err error) {
	p := c.p
	err = fmt.Errorf("commit: %w", err)
	p.failed.Store(&err)
	p.log.Error("the store failed: only reads are served until a restart", "err", err)
	for i := range c.errs {
		c.errs[i] = firstError(c.errs[i], err)
	}
	p.tellAll(&Busy{Err: errStoreBroken})
}

// publish is step 5, but for the submitters: what was committed becomes what
// the pillar says of itself and reaches the mesh and connected recipients.
func (c *committer) publish(done *Committed) {
	p := c.p
	event := &CommitEvent{Time: c.commit.Time, Logs: c.event, Dropped: c.dropped, Gone: c.publishGone(done)}
	if len(c.own.Entries) > 0 {
		event.Logs = append(event.Logs, c.own)
	}
	p.mu.Lock()
	c.publishLogs()
	var woken []*pillarSession
	for i, rec := range c.recs {
		if !done.New[i] || rec == nil {
			continue
		}
		if c.local = done.Local[i]; event.New == nil {
			event.New = make([]*Record, 0, len(c.recs)-i)
		}
		event.New = append(event.New, rec)
		c.remember(rec.ID, c.commit.Records[i].Dot)
		if a := &c.commit.Records[i]; a.Via == ViaFollow && c.states[a.Dot.Log] != nil {
			p.logBytes.add(c.states[a.Dot.Log].Pillar, DayOf(a.Expires), len(rec.Raw))
		}
		woken = p.offer(rec, done.Local[i], woken)
	}
	p.local = c.local
	p.mu.Unlock()
	for _, rec := range event.New {
		if rec.Kind == KindAccount {
			p.accounts.correct(rec)
			c.accounts = append(c.accounts, rec)
		}
		p.mailboxes.note(rec)
	}
	if len(c.own.Entries) > 0 {
		p.copies.committed(c.own.State.Log, c.own.State.Seq)
	}
	if len(event.Logs)+len(event.New)+len(event.Dropped)+len(event.Gone) > 0 {
		p.mesh.Committed(event)
	}
	for _, s := range woken {
		s.wakeWriter()
	}
}

// remember keeps an ID for findRecent.
func (c *committer) remember(id RecordID, dot Dot) {
	if len(c.recent) >= recentIDs {
		c.floor, c.olderEnds = c.olderEnds, c.local-1
		c.older, c.recent = c.recent, make(map[RecordID]Dot, recentIDs)
	}
	c.recent[id] = dot
}

// answer tells submitters and whoever else waits.
func (c *committer) answer() {
	p := c.p
	for i := range c.jobs {
		job := &c.jobs[i]
		if ch := job.chunk; ch != nil {
			if c.errs[i] != nil {
				p.refuseChunk(ch)
			} else {
				p.copies.answerAll(ch, c.commit.Records)
				if !ch.since.IsZero() && len(ch.subs) > 0 {
					p.metrics.ackTook.Observe(time.Since(ch.since).Seconds())
				}
			}
			for j := range ch.subs {
				p.finish(&ch.subs[j])
			}
		}
		if job.done != nil {
			job.done <- c.errs[i]
		} else if job.chunk != nil {
			p.release(job.chunk)
		}
	}
}

// refuseChunk answers submissions whose commit failed.
func (p *Pillar) refuseChunk(ch *chunk) {
	err := errReading
	if p.failure() != nil {
		err = errStoreBroken
	}
	ch.errs = ch.errs[:0]
	for range ch.subs {
		ch.errs = append(ch.errs, err)
	}
	p.answerJudged(ch)
}
