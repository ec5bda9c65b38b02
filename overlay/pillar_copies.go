package overlay

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"
)

// Bounds of what waits for copies.
const (
	// maxWaits is how many submissions of one session wait for further copies;
	// the oldest are forgotten first, and their node asks by submitting again.
	maxWaits = 8192
	// maxAsks is how many duplicates of other logs wait to be asked about.
	maxAsks   = 8192
	askEvery  = 2 * time.Second
	askTries  = 150
	askAtOnce = 1024
	askTime   = 5 * time.Second
)

// copiesState knows on how many pillars records are. For the own log the mesh
// tells (Acked); for records of other logs the pillars are asked. mu is taken
// before a session's own lock.
type copiesState struct {
	wake chan struct{} // the own log is held by more
	ask  chan struct{} // fresh has something

	mu      sync.Mutex
	log     LogID     // which durable is about
	durable []Durable // as told last: ascending and disjoint, Copies in no order
	waiting map[*pillarSession]struct{}
	single  []singleCommit // the newest that nobody else is known to hold, ascending
	fresh   []copiesAsk    // not asked yet
	again   []copiesAsk    // asked, and not held by enough
}

// maxSingle bounds the commits whose way to another pillar is timed. While there
// is no other, the oldest are not timed.
const maxSingle = 1024

// singleCommit is the end of a group commit of the own log.
type singleCommit struct {
	log LogID
	seq uint64
	at  time.Time
}

// sessionWaits are a session's submissions in the own log that it wants more
// copies of, ascending.
type sessionWaits struct {
	log  LogID
	list []copiesWait
}

type copiesWait struct {
	seq  uint64
	want uint8 // at most maxLevel
	told uint8 // copies that the session knows of
}

// maxLevel is the highest number of copies that watermarks tell of.
const maxLevel = 16

// copiesAsk is a duplicate in another log than this run's.
type copiesAsk struct {
	s    *pillarSession
	ref  Ref
	dot  Dot
	want uint64
	told uint64
	left int
}

func (c *copiesState) init() {
	c.wake, c.ask = make(chan struct{}, 1), make(chan struct{}, 1)
	c.waiting = map[*pillarSession]struct{}{}
}

// Acked implements gossip.Replica: it tells which parts of the own log are
// durable at other pillars. It does not block.
func (p *Pillar) Acked(log LogID, durable []Durable) {
	c := &p.copies
	c.mu.Lock()
	c.log, c.durable = log, append(c.durable[:0], durable...)
	n := 0
	for ; n < len(c.single); n++ {
		one := &c.single[n]
		if one.log == log {
			if c.of(Dot{log, one.seq}) < 2 {
				break
			}
			p.metrics.copyTook.Observe(time.Since(one.at).Seconds())
		}
	}
	c.single = append(c.single[:0], c.single[n:]...)
	c.mu.Unlock()
	signal(c.wake)
}

// committed has the way of the own log's newest group commit to another pillar
// timed.
func (c *copiesState) committed(log LogID, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.single) == maxSingle {
		c.single = append(c.single[:0], c.single[maxSingle/2:]...)
	}
	c.single = append(c.single, singleCommit{log, seq, time.Now()})
}

// signal puts a token into a channel of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// of returns on how many pillars dot is known to be, this one included. c.mu
// is held.
func (c *copiesState) of(dot Dot) uint64 {
	if dot.Log != c.log {
		return 1
	}
	i := sort.Search(len(c.durable), func(i int) bool { return c.durable[i].To >= dot.Seq })
	if i == len(c.durable) || c.durable[i].From > dot.Seq {
		return 1
	}
	return 1 + uint64(max(0, c.durable[i].Copies))
}

// answer queues the answer to a submission that is stored at dot, and
// remembers it if its session wants to hear of more copies.
func (c *copiesState) answer(sub *submission, dot Dot, ref Ref) {
	if sub.s == nil {
		return
	}
	own := sub.s.p.ownLogID()
	c.mu.Lock()
	ask := c.answerLocked(sub, dot, ref, own)
	c.mu.Unlock()
	sub.s.wakeWriter()
	if ask {
		signal(c.ask)
	}
}

// answerAll answers a committed chunk. records are the commit's.
func (c *copiesState) answerAll(ch *chunk, records []Arrival) {
	if len(ch.subs) == 0 || ch.subs[0].s == nil {
		return
	}
	own := ch.subs[0].s.p.ownLogID()
	c.mu.Lock()
	ask := false
	var last *pillarSession
	for i := range ch.subs {
		sub := &ch.subs[i]
		dot := sub.dot
		if sub.at >= 0 {
			dot = records[sub.at].Dot
		}
		if sub.at < 0 || sub.known {
			sub.s.p.metrics.duplicate.Inc()
		} else {
			sub.s.p.metrics.stored.Inc()
		}
		if c.answerLocked(sub, dot, sub.rec.Ref(), own) {
			ask = true
		}
		if last != nil && last != sub.s {
			last.wakeWriter()
		}
		last = sub.s
	}
	c.mu.Unlock()
	if last != nil {
		last.wakeWriter()
	}
	if ask {
		signal(c.ask)
	}
}

// answerLocked does one answer. It reports whether other pillars are to be
// asked. c.mu is held.
func (c *copiesState) answerLocked(sub *submission, dot Dot, ref Ref, own LogID) (ask bool) {
	s := sub.s
	copies := c.of(dot)
	s.mu.Lock()
	s.answerLocked(ResultLine{N: sub.n, Dot: dot, Copies: copies})
	over := s.dead || s.closing
	s.mu.Unlock()
	want := min(sub.concern, maxLevel)
	if copies >= want || over {
		return false
	}
	if dot.Log == own {
		c.await(s, dot, want, copies)
		return false
	}
	if len(c.fresh)+len(c.again) >= maxAsks {
		return false
	}
	c.fresh = append(c.fresh, copiesAsk{s: s, ref: ref, dot: dot, want: want, told: copies, left: askTries})
	return true
}

// await remembers that a session, which was told of copies of a dot in the own
// log, wants more. c.mu is held.
func (c *copiesState) await(s *pillarSession, dot Dot, want, copies uint64) {
	wait := copiesWait{dot.Seq, uint8(want), uint8(copies)}
	w := &s.waits
	if w.log != dot.Log {
		*w = sessionWaits{log: dot.Log}
	}
	if n := len(w.list); n > 0 && w.list[n-1].seq >= dot.Seq {
		// A duplicate of an older one: it is told as if it were new.
		i := w.from(dot.Seq)
		if w.list[i].seq == dot.Seq {
			wait.want = max(wait.want, w.list[i].want)
			w.list[i] = wait
			return
		}
		w.list = slices.Insert(w.list, i, wait)
	} else {
		w.list = append(w.list, wait)
	}
	if len(w.list) > maxWaits {
		w.list = append(w.list[:0], w.list[len(w.list)-maxWaits/2:]...)
	}
	c.waiting[s] = struct{}{}
}

// forget drops what a session waits for.
func (c *copiesState) forget(s *pillarSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, s)
	s.waits = sessionWaits{}
	gone := func(a copiesAsk) bool { return a.s == s }
	c.fresh = slices.DeleteFunc(c.fresh, gone)
	c.again = slices.DeleteFunc(c.again, gone)
}

// watermarkLoop sends watermarks of the own log until ctx ends.
func (p *Pillar) watermarkLoop(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.copies.wake:
		case <-tick.C:
		}
		p.tellWaiting()
	}
}

// askLoop asks about duplicates of other logs until ctx ends. It waits for
// other pillars, so nothing else may wait for it.
func (p *Pillar) askLoop(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return
		case <-p.copies.ask:
		case <-tick.C:
			all = true
		}
		p.askCopies(ctx, all)
	}
}

// tellWaiting sends what the newest Acked means to each session.
func (p *Pillar) tellWaiting() {
	living := uint64(max(2, p.roster.Living(p.now())))
	c := &p.copies
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.waiting {
		if s.waits.log != c.log {
			continue
		}
		s.waits.tell(s, c.durable, living)
		if len(s.waits.list) == 0 {
			delete(c.waiting, s)
		}
	}
}

// tell sends what durable says that is new about what waits, a watermark for
// each range, and forgets what has the copies it wanted, or as many as there
// are pillars. It looks at nothing above the last range, where nobody has
// anything. The Pillar's copies.mu is held.
func (w *sessionWaits) tell(s *pillarSession, durable []Durable, living uint64) {
	kept, i := 0, 0
	for _, d := range durable {
		copies := uint8(min(uint64(max(0, d.Copies))+1, maxLevel))
		if j := w.from(d.From); j > i {
			kept += copy(w.list[kept:], w.list[i:j])
			i = j
		}
		first := uint64(0) // that learns something
		for ; i < len(w.list) && w.list[i].seq <= d.To; i++ {
			x := w.list[i]
			if x.told < copies {
				if x.told = copies; first == 0 {
					first = x.seq
				}
			}
			if uint64(copies) < min(uint64(x.want), living) {
				w.list[kept] = x
				kept++
			}
		}
		if first > 0 {
			s.mark(Watermark{Log: w.log, From: first, To: d.To, Copies: uint64(copies)})
		}
		if i == len(w.list) {
			break
		}
	}
	if kept < i {
		w.list = append(w.list[:kept], w.list[i:]...)
	}
	if len(w.list) == 0 {
		w.list = nil
	}
}

// from returns the index of the first wait at or after seq.
func (w *sessionWaits) from(seq uint64) int {
	return sort.Search(len(w.list), func(i int) bool { return w.list[i].seq >= seq })
}

// mark queues a watermark.
func (s *pillarSession) mark(m Watermark) {
	s.mu.Lock()
	if !s.dead && !s.closing {
		if s.marks = append(s.marks, m); len(s.marks) > maxResults {
			s.dropLocked()
		}
	}
	s.mu.Unlock()
	s.p.metrics.watermarks.Inc()
	s.wakeWriter()
}

// askCopies asks all pillars about duplicates of other logs: about new ones,
// or about all that wait.
func (p *Pillar) askCopies(ctx context.Context, all bool) {
	c := &p.copies
	c.mu.Lock()
	asks := c.fresh
	c.fresh = nil
	if all {
		asks = append(asks, c.again...)
		c.again = nil
	}
	c.mu.Unlock()
	living := uint64(max(2, p.roster.Living(p.now())))
	var again []copiesAsk
	for len(asks) > 0 {
		n := min(len(asks), askAtOnce)
		again = append(again, p.askSome(ctx, asks[:n], living)...)
		asks = asks[n:]
	}
	if len(again) > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.again = append(c.again, again...)
	}
}

// askSome asks once and returns what is to be asked again.
func (p *Pillar) askSome(ctx context.Context, asks []copiesAsk, living uint64) (again []copiesAsk) {
	ids := make([]RecordID, len(asks))
	for i := range asks {
		ids[i] = asks[i].ref.ID
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	held, err := p.mesh.Copies(ctx, ids)
	for i := range asks {
		a := &asks[i]
		if err == nil && i < len(held) {
			if copies := uint64(max(0, held[i])) + 1; copies > a.told {
				a.told = copies
				a.s.mark(Watermark{Log: a.dot.Log, From: a.dot.Seq, To: a.dot.Seq, Copies: copies})
			}
		}
		a.s.mu.Lock()
		over := a.s.dead || a.s.closing
		a.s.mu.Unlock()
		if a.left--; a.told < min(a.want, living) && a.left > 0 && !over {
			again = append(again, *a)
		}
	}
	return again
}
