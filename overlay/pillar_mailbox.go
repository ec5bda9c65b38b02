package overlay

import (
	"math"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
)

// How a mailbox reaches a device:
//
//   - drain: Resume names a cursor. The pillar notes the mailbox's end and its
//     own vector in one snapshot and sends in pages what lies before the end
//     and is not covered by the cursor, in local order, the next page when the
//     one before is saved. After the last one is saved the snapshot's vector is
//     the device's new cursor.
//   - behind: what came since is read from the store and pushed, one push at a
//     time, until nothing is left.
//   - live: every record is pushed by the commit that stored it. When more than
//     a window of them is not saved, the session is behind again: it is never
//     waited for, and nothing is lost, because the store has it all.
//
// A vector that was taken before the scrub's first pass was over becomes no cursor:
// the device keeps the one it has, and a live one is handed one later, when what
// that pass brought to light was pushed.
//
// Positions are local commit sequences. Whatever the mode, what was queued is a
// prefix of the mailbox in local order, up to delivery.pos.

// cursorSeconds is how often a live session is handed a new cursor.
const cursorSeconds = 5

// The window of pushes that are not saved.
const (
	windowRecords = 2048
	windowBytes   = 4 << 20
)

type deliveryMode uint8

const (
	deliverNothing  deliveryMode = iota // before a Resume, and a standby after it
	deliverPages                        // drain
	deliverBehind                       // waits until all is saved, then reads the store
	deliverCatching                     // reads the store; commits add to queue
	deliverLive                         // commits add to queue
)

// delivery is the state of a session's mailbox, guarded by the session's mu.
type delivery struct {
	mode  deliveryMode
	live  bool // asked for
	nudge bool // asked for, before a Resume
	drain boxDrain
	pos   uint64 // everything of the mailbox up to here was queued
	queue []pushed
	bytes int
	// overflow: while catching, more was committed than fits the window.
	overflow bool
	// unsaved are the pushes whose Saved has not come, ascending.
	unsaved      []unsavedPush
	unsavedBytes int
	// fresh: something was pushed since the last cursor.
	fresh bool
	mark  *cursorMark
	// watched are records of watched accounts to be pushed.
	watched [][]byte
}

type pushed struct {
	local uint64
	raw   []byte
}

// unsavedPush is a push of what lies in (after, local].
type unsavedPush struct {
	after, local uint64
	bytes        int
}

// cursorMark is a vector that becomes the cursor once everything up to need is
// saved.
type cursorMark struct {
	need   uint64
	vector Vector
}

// boxDrain reads a box up to an end.
type boxDrain struct {
	box    BoxID
	cursor Vector
	end    uint64
	vector Vector // of the snapshot in which end was the end
	sure   bool   // what vector covers is in the box
	pos    uint64 // read up to here
	from   uint64 // where the page that is not saved yet begins: before it all is saved
	page   uint64 // its To
	last   bool   // it is the last
}

// directoryRead is a drain of the directory, guarded by the session's mu.
type directoryRead struct {
	active bool
	drain  boxDrain
}

// maxWatchedPushes is how many records of watched accounts wait for a session
// that does not read; then it is dropped, and finds anew when it is back.
const maxWatchedPushes = 1024

// resume begins to read a box.
func (s *pillarSession) resume(m *Resume) *Error {
	p := s.p
	// The vector is taken before the snapshot, so that everything it covers is in
	// there.
	d := boxDrain{box: Directory, sure: p.scrubbed.Load()}
	d.vector, d.cursor = p.vouched(m.Cursor)
	if m.Box == BoxMail {
		d.box = Mailbox(s.account)
	}
	view := p.cfg.Store.View()
	defer view.Close()
	d.end = view.LastLocal()
	s.mu.Lock()
	if m.Box == BoxMail {
		s.mail = delivery{mode: deliverPages, live: m.Live, watched: s.mail.watched}
	}
	s.mu.Unlock()
	return s.page(view, m.Box, &d)
}

// vouched returns the pillar's vector and what counts of a cursor: positions in
// logs that are held here, on the chain that is held as far as that shows. A log
// that was dropped, for a fork or because it died, covers nothing any more: what
// a device read of another history of it must not hide what is here.
func (p *Pillar) vouched(cursor Vector) (vector, counts Vector) {
	now := p.past()
	p.mu.Lock()
	defer p.mu.Unlock()
	counts = make(Vector, 0, len(cursor))
	for _, pos := range cursor {
		if s := p.logs[pos.Log]; s != nil && !s.denies(Mark{pos.Seq, pos.Hash}) {
			counts = append(counts, pos)
		}
	}
	return p.vectorLocked(now), counts
}

// denies reports whether the log is known not to pass through m.
func (s *LogState) denies(m Mark) bool {
	differs := func(x Mark) bool { return x.Seq == m.Seq && x.Hash != m.Hash }
	for _, i := range s.Islands {
		if differs(i.After) || differs(i.End) {
			return true
		}
	}
	return differs(Mark{s.Seq, s.Hash})
}

// page reads and queues the next page of a drain, which is stored as the
// session's state.
func (s *pillarSession) page(view View, box BoxKind, d *boxDrain) *Error {
	records, reached, _, err := readBox(view, d.box, d.pos, d.end, d.cursor, s.p.past())
	if err != nil {
		s.p.log.Error("box not read", "err", err)
		return errReading
	}
	d.from, d.pos, d.page, d.last = d.pos, reached, reached, reached == d.end
	s.mu.Lock()
	defer s.wakeWriter()
	defer s.mu.Unlock()
	if box == BoxMail {
		s.mail.drain, s.mail.pos = *d, d.pos
		s.p.metrics.paged.Add(float64(len(records)))
	} else {
		s.dir = directoryRead{active: true, drain: *d}
	}
	s.sendLocked(&Page{Box: box, To: d.page, Last: d.last, Records: records})
	return nil
}

// readBox reads up to a page of a box's records in (after, to] that live and
// are not covered by cursor. It returns up to where it read, to if nothing is
// left before it, and the local position of the last record.
func readBox(view View, box BoxID, after, to uint64, cursor Vector, now uint64) (records [][]byte, reached, last uint64, err error) {
	wanted := func(e *BoxEntry) bool {
		return e.Expires > now && (e.Dot == Dot{} || !cursor.Covers(e.Dot))
	}
	if len(cursor) > 0 {
		// Most of the box may be covered: find where that ends without bodies.
		first := uint64(0)
		err = view.Box(box, after, to, DayOf(now), false, func(e BoxEntry) bool {
			if wanted(&e) {
				first = e.Local
			}
			return first == 0
		})
		if err != nil || first == 0 {
			return nil, to, 0, err
		}
		after = first - 1
	}
	bytes, full := 0, false
	var buf []byte
	var ends []int
	err = view.Box(box, after, to, DayOf(now), true, func(e BoxEntry) bool {
		if !wanted(&e) {
			return true
		}
		if len(ends) > 0 && (bytes+len(e.Raw) > FrameTarget || len(ends) >= MaxPage) {
			full = true
			return false
		}
		buf = append(buf, e.Raw...)
		ends = append(ends, len(buf))
		bytes += len(e.Raw)
		last = e.Local
		return true
	})
	if reached = to; full {
		reached = last
	}
	return sliceUp(buf, ends), reached, last, err
}

// sliceUp cuts buf at ends.
func sliceUp(buf []byte, ends []int) [][]byte {
	out := make([][]byte, len(ends))
	start := 0
	for i, end := range ends {
		out[i] = buf[start:end:end]
		start = end
	}
	return out
}

// saved goes on after the device has something on disk.
func (s *pillarSession) saved(m *Saved) *Error {
	if m.Box == BoxDirectory {
		return s.savedDirectory(m.To)
	}
	s.mu.Lock()
	d := &s.mail
	to := min(m.To, d.pos)
	d.save(to)
	s.handOverLocked()
	if d.mode == deliverPages && to >= d.drain.page {
		drain := d.drain
		if !drain.last {
			s.mu.Unlock()
			return s.nextPage(BoxMail, &drain)
		}
		if drain.sure {
			s.sendLocked(&CursorMsg{Box: BoxMail, Cursor: drain.vector})
		} else {
			d.fresh = true
		}
		d.drain = boxDrain{}
		if d.mode = deliverNothing; d.live {
			d.mode = deliverBehind
		}
	}
	behind := d.mode == deliverBehind && len(d.unsaved) == 0
	s.mu.Unlock()
	s.wakeWriter()
	if behind {
		return s.catchUp()
	}
	return nil
}

// save forgets the pushes up to a position.
func (d *delivery) save(to uint64) {
	i := 0
	for i < len(d.unsaved) && d.unsaved[i].local <= to {
		d.unsavedBytes -= d.unsaved[i].bytes
		i++
	}
	if d.unsaved = d.unsaved[i:]; len(d.unsaved) == 0 {
		d.unsaved = nil
	}
}

func (s *pillarSession) savedDirectory(to uint64) *Error {
	s.mu.Lock()
	drain, active := s.dir.drain, s.dir.active
	if !active || to < drain.page {
		s.mu.Unlock()
		return nil
	}
	if drain.last {
		s.dir = directoryRead{}
		if drain.sure {
			s.sendLocked(&CursorMsg{Box: BoxDirectory, Cursor: drain.vector})
		}
		s.mu.Unlock()
		s.wakeWriter()
		return nil
	}
	s.mu.Unlock()
	return s.nextPage(BoxDirectory, &drain)
}

func (s *pillarSession) nextPage(box BoxKind, drain *boxDrain) *Error {
	view := s.p.cfg.Store.View()
	defer view.Close()
	return s.page(view, box, drain)
}

// catchUp pushes what the store has after pos. All that was pushed is saved.
func (s *pillarSession) catchUp() *Error {
	for {
		s.mu.Lock()
		d := &s.mail
		d.mode, d.overflow, d.queue, d.bytes = deliverCatching, false, nil, 0
		after := d.pos
		s.mu.Unlock()
		// From here on commits add to the queue. What they published before is
		// in the view.
		again, err := s.catchOnce(after)
		if err != nil || !again {
			return err
		}
	}
}

// catchOnce reads one push from the store. again: nothing waits to be saved,
// so nobody else will go on.
func (s *pillarSession) catchOnce(after uint64) (again bool, refusal *Error) {
	p := s.p
	view := p.cfg.Store.View()
	defer view.Close()
	end := view.LastLocal()
	records, reached, last, err := readBox(view, Mailbox(s.account), after, end, nil, p.past())
	if err != nil {
		p.log.Error("mailbox not read", "err", err)
		return false, errReading
	}
	s.mu.Lock()
	defer s.wakeWriter()
	defer s.mu.Unlock()
	d := &s.mail
	var newer []pushed
	if d.mode = deliverBehind; reached == end {
		i := 0
		for i < len(d.queue) && d.queue[i].local <= end {
			i++
		}
		if newer = d.queue[i:]; !d.overflow {
			d.mode = deliverLive
		}
	}
	d.queue, d.bytes, d.unsaved, d.unsavedBytes = nil, 0, nil, 0
	d.pos = max(reached, d.pos)
	if len(records) > 0 {
		s.sendLocked(&Push{To: last, Records: records})
		d.unsaved = append(d.unsaved, unsavedPush{after: after, local: last})
		d.fresh = true
		p.metrics.paged.Add(float64(len(records)))
	}
	for _, x := range newer {
		d.add(x)
	}
	p.metrics.pushes.Add(float64(len(newer)))
	return d.mode == deliverBehind && len(d.unsaved) == 0, nil
}

// add queues a record for pushing.
func (d *delivery) add(x pushed) {
	d.queue = append(d.queue, x)
	d.bytes += len(x.raw)
	d.unsaved = append(d.unsaved, unsavedPush{x.local - 1, x.local, len(x.raw)})
	d.unsavedBytes += len(x.raw)
	d.pos = x.local
	d.fresh = true
}

// offer gives a record that was just committed to the sessions it is for and
// appends them to woken. p.mu is held.
func (p *Pillar) offer(rec *Record, local uint64, woken []*pillarSession) []*pillarSession {
	switch rec.Kind {
	case KindAccount, KindDevice:
		for s := range p.watching[rec.Account()] {
			s.offerWatched(rec.Raw)
			woken = append(woken, s)
		}
		return woken
	}
	for _, a := range rec.To {
		for _, s := range p.live[a] {
			if s.offer(pushed{local, rec.Raw}) {
				p.metrics.pushes.Inc()
				woken = append(woken, s)
			} else if s.nudge(rec.Created) {
				woken = append(woken, s)
			}
		}
	}
	return woken
}

// offer queues a record of the mailbox unless the session reads the store
// anyway.
func (s *pillarSession) offer(x pushed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.mail
	if s.dead || s.closing {
		return false
	}
	switch d.mode {
	case deliverCatching:
		if d.overflow = d.overflow || len(d.queue) >= windowRecords || d.bytes >= windowBytes; !d.overflow {
			d.queue = append(d.queue, x)
			d.bytes += len(x.raw)
		}
		return false
	case deliverLive:
		if x.local <= d.pos {
			return false
		}
		if len(d.unsaved) >= windowRecords || d.unsavedBytes >= windowBytes {
			d.mode = deliverBehind
			return false
		}
		d.add(x)
		return true
	default:
		return false
	}
}

func (s *pillarSession) offerWatched(raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead || s.closing {
		return
	}
	if s.mail.watched = append(s.mail.watched, raw); len(s.mail.watched) > maxWatchedPushes {
		s.dropLocked()
		s.mail.watched = nil
	}
}

// pushWriter is what the writer takes of the queues and encodes without the
// session's lock.
type pushWriter struct {
	queue   []pushed
	watched [][]byte
	msg     Push
}

// take moves to w what can be written. The session's mu is held.
func (d *delivery) take(w *pushWriter) {
	w.queue, w.watched = nil, d.watched
	d.watched = nil
	if d.mode == deliverLive || d.mode == deliverBehind {
		w.queue, d.queue, d.bytes = d.queue, nil, 0
	}
}

// append appends the frames of what was taken.
func (w *pushWriter) append(b []byte) []byte {
	b = w.appendPushes(b, len(w.queue), func(i int) pushed { return w.queue[i] })
	b = w.appendPushes(b, len(w.watched), func(i int) pushed { return pushed{raw: w.watched[i]} })
	w.queue, w.watched = nil, nil
	return b
}

func (w *pushWriter) appendPushes(b []byte, n int, at func(int) pushed) []byte {
	bytes := 0
	for i := range n {
		x := at(i)
		if k := len(w.msg.Records); k > 0 && (k >= MaxPage || bytes+len(x.raw) > FrameTarget) {
			b, bytes = w.appendPush(b), 0
		}
		w.msg.Records = append(w.msg.Records, x.raw)
		w.msg.To = x.local
		bytes += len(x.raw)
	}
	if len(w.msg.Records) > 0 {
		b = w.appendPush(b)
	}
	return b
}

func (w *pushWriter) appendPush(b []byte) []byte {
	b = AppendFrame(b, &w.msg)
	clear(w.msg.Records)
	w.msg.Records = w.msg.Records[:0]
	return b
}

// handOverCursors notes, for every live session that was pushed something, the
// vector that its cursor becomes once all of it is saved.
func (p *Pillar) handOverCursors() {
	if !p.scrubbed.Load() {
		return
	}
	now := p.past()
	p.mu.Lock()
	defer p.mu.Unlock()
	var v Vector
	for _, sessions := range p.live {
		for _, s := range sessions {
			s.mu.Lock()
			if d := &s.mail; d.mode == deliverLive && d.fresh && d.mark == nil {
				if v == nil {
					v = p.vectorLocked(now)
				}
				d.mark = &cursorMark{need: d.pos, vector: v}
				d.fresh = false
				s.handOverLocked()
				s.wakeWriter()
			}
			s.mu.Unlock()
		}
	}
}

// vectorLocked returns what may be promised of the living logs as published.
// p.mu is held.
func (p *Pillar) vectorLocked(now uint64) Vector {
	v := make(Vector, 0, len(p.logs))
	for _, s := range p.logs {
		if s.Dies <= now {
			continue
		}
		if told := s.toldPrefix(); told.Seq > 0 {
			v = append(v, told)
		}
	}
	v.Sort()
	return slices.Clip(v[:min(len(v), MaxVector)])
}

// handOverLocked sends the marked cursor if everything before it is saved.
// s.mu is held, the writer to be woken.
func (s *pillarSession) handOverLocked() {
	d := &s.mail
	if d.mark == nil {
		return
	}
	saved := uint64(math.MaxUint64)
	if len(d.unsaved) > 0 {
		saved = d.unsaved[0].local - 1
	}
	if saved >= d.mark.need {
		s.sendLocked(&CursorMsg{Box: BoxMail, Cursor: d.mark.vector})
		d.mark = nil
	}
}

// watch adds accounts whose account and device records are to be pushed. It
// reports false if they are too many.
func (s *pillarSession) watch(accounts []identity.AccountID) bool {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.watched == nil {
		s.watched = map[identity.AccountID]struct{}{}
	}
	for _, a := range accounts {
		if _, ok := s.watched[a]; ok {
			continue
		}
		if len(s.watched) >= MaxWatched {
			return false
		}
		s.watched[a] = struct{}{}
		if p.watching[a] == nil {
			p.watching[a] = map[*pillarSession]struct{}{}
		}
		p.watching[a][s] = struct{}{}
	}
	return true
}
