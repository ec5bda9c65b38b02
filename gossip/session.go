package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of a session.
const (
	sessionQueue    = 256                    // messages waiting to be written
	sessionRequests = 32                     // requests waiting to be answered
	askTimeout      = 15 * time.Second       // for an answer
	announceEvery   = 100 * time.Millisecond // least time between announcements of positions
	rosterChunk     = 256                    // records in one message
)

// session is the one control stream with a connected pillar. Both sides say
// Hello, then their whole roster and vector, then what changes.
type session struct {
	m      *Mesh
	peer   peer.ID
	id     identity.PillarID
	opener peer.ID // who opened the stream
	stream overlay.Stream
	frames *overlay.FrameReader
	local  bool // over a private or loopback address
	since  time.Time

	out      chan overlay.Message
	kick     chan struct{} // capacity 1: a position should be told now
	requests chan overlay.Message
	done     chan struct{} // closed at the end
	end      sync.Once

	pending atomic.Int64 // bytes that follows from them hold without a head
	room    room         // for runs from them that wait to be stored
	rate    rate         // entries a second that ranges from them brought
	audit   *auditLink
	asked   overlay.Tokens // of Locate from them; the reader's
	stray   overlay.Tokens // of Located that is too late; the reader's
	links   overlay.Tokens // of Links from them; the reader's

	mu      sync.Mutex
	seen    time.Time                          // guarded by mu; last message
	vector  map[overlay.LogID]told             // guarded by mu; what they hold
	waiting map[uint64]chan overlay.Message    // guarded by mu; answers by number
	number  uint64                             // guarded by mu
	said    struct{ record, key overlay.Hash } // guarded by mu; in our last Hello
	clock   clockReading                       // guarded by mu; ours in it
	resend  bool                               // guarded by mu; a roster message was lost
	untold  bool                               // guarded by mu; a fork could not be told
	forked  map[overlay.LogID]bool             // guarded by mu; logs it tells that were forked; true if it could not be told so
	asks    overlay.Tokens                     // guarded by mu; of Locate to them
	locates map[uint64]*locating               // guarded by mu; open ones, by number
}

// handleSession is the handler of ProtoPillar.
func (m *Mesh) handleSession(s overlay.Stream) {
	ctx, leave, ok := m.enter()
	if !ok {
		s.Reset()
		return
	}
	defer leave()
	m.runSession(ctx, s, s.Peer(), func(*session, error) {})
}

// openSession opens a session to a connected pillar and lives in it until it
// ends. ready is called once: with the session, or why there is none.
func (m *Mesh) openSession(ctx context.Context, p peer.ID, ready func(*session, error)) error {
	open, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := m.cfg.Links.Open(open, p, overlay.ProtoPillar)
	if err != nil {
		err = fmt.Errorf("open session: %w", err)
		ready(nil, err)
		return err
	}
	return m.runSession(ctx, s, peer.ID(m.self), ready)
}

// runSession greets and then serves a session until it ends. It owns the
// stream.
func (m *Mesh) runSession(ctx context.Context, stream overlay.Stream, opener peer.ID, ready func(*session, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { stream.Reset() })()
	s := &session{
		m: m, peer: stream.Peer(), id: identity.PillarID(stream.Peer()), opener: opener,
		stream: stream, frames: overlay.NewFrameReader(stream),
		local: overlay.IsNear(stream.Remote()), since: time.Now(),
		out: make(chan overlay.Message, sessionQueue), kick: make(chan struct{}, 1),
		requests: make(chan overlay.Message, sessionRequests), done: make(chan struct{}),
		vector: map[overlay.LogID]told{}, forked: map[overlay.LogID]bool{}, waiting: map[uint64]chan overlay.Message{},
		locates: map[uint64]*locating{},
	}
	s.audit = newAuditLink(s)
	stream.SetReadDeadline(time.Now().Add(openTimeout))
	if err := s.greet(); err != nil {
		err = fmt.Errorf("greet %s: %w", s.peer, err)
		m.met.refused.WithLabelValues(string(codeOf(err))).Inc()
		if opener == peer.ID(m.self) || m.sessions.mention(s.peer) {
			m.log.Warn("no session with peer", "peer", s.peer, "addr", stream.Remote(), "err", err)
		}
		ready(nil, err)
		if !errors.As(err, new(*overlay.Error)) {
			stream.Reset()
		} else {
			stream.Close()
		}
		return err
	}
	stream.SetReadDeadline(time.Time{})
	if !m.sessions.add(s) {
		stream.Close()
		ready(m.sessions.get(s.peer), nil)
		return nil
	}
	ready(s, nil)
	m.log.Info("session opened", "pillar", s.id, "addr", stream.Remote())
	var work sync.WaitGroup
	var writeErr error
	work.Go(func() { defer s.close(); writeErr = s.write(ctx) })
	work.Go(func() { s.answer(ctx) })
	work.Go(func() { s.audit.serve(ctx) })
	err := s.read(ctx)
	if misframed(err) && ctx.Err() == nil {
		select {
		case <-s.done: // cut by us
		default:
			m.scores.offend(s.peer, faultFrame)
		}
	}
	s.close()
	m.sessions.remove(s)
	cancel()
	work.Wait()
	if writeErr != nil {
		err = writeErr // reading failed because writing did
	}
	m.log.Info("session ended", "pillar", s.id, "err", err)
	m.dialer.lost(s.id, err)
	return err
}

// codeOf is overlay.CodeOf for errors of connections: no code of their own
// means unreachable.
func codeOf(err error) overlay.Code {
	var e *overlay.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return overlay.CodeUnreachable
}

// close ends the session; whoever runs it cleans up.
func (s *session) close() {
	s.end.Do(func() {
		close(s.done)
		s.stream.Reset()
	})
}

// greet exchanges Hello. The short key goes only to who is admitted, so the
// opener, who speaks first, sends it later if it does not know the other yet.
func (s *session) greet() error {
	opened := s.opener != s.peer
	if opened {
		if err := s.sendHello(s.m.cfg.Roster.Admitted(s.id, s.m.now())); err != nil {
			return err
		}
	}
	msg, err := s.firstWord()
	if err != nil {
		return err
	}
	if busy, ok := msg.(*overlay.Busy); ok && busy.Err != nil {
		skew, _ := s.m.clocks.skew(s.id)
		return overlay.DoubtClock(fmt.Errorf("refused by the pillar: %w", busy.Err), skew)
	}
	hello, ok := msg.(*overlay.Hello)
	if !ok {
		return fmt.Errorf("%w: a session begins with Hello", overlay.ErrFrame)
	}
	if err := s.accept(hello); err != nil {
		var refusal *overlay.Error
		if errors.As(err, &refusal) {
			s.tellRevocation()
			finish(s.stream, &overlay.Busy{Err: refusal})
		}
		return err
	}
	s.frames.Accept()
	if !opened {
		return s.sendHello(true)
	}
	return nil
}

// firstWord reads what the other side begins with. Who refuses a pillar because
// it is revoked sends the revocation first, so that it can believe it.
func (s *session) firstWord() (overlay.Message, error) {
	msg, err := s.frames.Next()
	if roster, ok := msg.(*overlay.RosterMsg); ok && err == nil {
		if _, err := s.m.cfg.Roster.Add(s.m.now(), false, roster.Records...); err != nil {
			s.m.met.forged.WithLabelValues("roster").Inc()
		}
		msg, err = s.frames.Next()
	}
	return msg, err
}

// tellRevocation sends a pillar that is refused the revocation of it, if there
// is one.
func (s *session) tellRevocation() {
	if rev := s.m.cfg.Roster.Revocation(s.id); rev != nil {
		s.writeMessage(&overlay.RosterMsg{Records: [][]byte{rev.Raw}})
	}
}

// sendHello writes our Hello. Only greet and the writer call it.
func (s *session) sendHello(withKey bool) error {
	own := s.m.cfg.Own()
	if own == nil {
		return overlay.Refuse(overlay.CodeNotAdmitted, "this pillar has no admission yet")
	}
	now := s.m.now()
	h := &overlay.Hello{Role: overlay.RolePillar, Formats: overlay.Format, Network: s.m.cfg.Network,
		Time: now, Credential: own.Raw}
	s.mu.Lock()
	s.clock = clockReading{ours: now, at: time.Now()}
	s.said.record = overlay.Hash(own.ID)
	if withKey {
		key := s.m.holdings.key()
		h.ShortKey = key[:]
		s.said.key = key.Name()
	}
	s.mu.Unlock()
	return s.writeMessage(h)
}

// accept judges a Hello, first or repeated, and takes what it says.
func (s *session) accept(h *overlay.Hello) error {
	m := s.m
	now := m.now()
	if left := m.scores.refused(s.peer); left > 0 {
		refusal := overlay.Refuse(overlay.CodeNotAdmitted, "pillar %s is refused for a while: it broke the rules again and again", s.id)
		refusal.Retry = left
		return refusal
	}
	rec, info, err := overlay.CheckPillarHello(h, s.id, m.cfg.Network, now)
	if _, known := m.cfg.Roster.Lookup(s.id); known || err == nil {
		m.clocks.heard(s.id, h.Time)
	}
	if err != nil {
		return overlay.DoubtClock(err, time.Duration(int64(h.Time)-int64(now))*time.Millisecond)
	}
	if m.cfg.Roster.Revoked(s.id, info.Admission.Serial) {
		return overlay.Refuse(overlay.CodeNotAdmitted, "pillar %s: its admission is revoked", s.id)
	}
	if _, err := m.cfg.Roster.Add(now, s.local, rec.Raw); err != nil {
		return fmt.Errorf("roster: %w", err)
	}
	if !m.cfg.Roster.Admitted(s.id, now) {
		return m.cfg.Roster.NotAdmitted(s.id, now)
	}
	s.mu.Lock()
	s.seen = time.Now()
	s.mu.Unlock()
	if len(h.ShortKey) > 0 {
		m.holdings.offer(overlay.ShortKey(h.ShortKey))
	}
	return nil
}

// write sends what is queued, and positions: all at first, then what changed,
// every VectorEvery or soon after a kick.
func (s *session) write(ctx context.Context) error {
	tick := time.NewTicker(s.m.cfg.VectorEvery)
	defer tick.Stop()
	soon := time.NewTimer(time.Hour)
	soon.Stop()
	defer soon.Stop()
	clock := clockReading{ours: s.m.now(), at: time.Now()}
	var version uint64
	err := s.tellRoster() // first: logs of pillars that are not known are not taken
	if err == nil {
		version, err = s.tellVector(0)
	}
	if err == nil {
		err = s.tellForks()
	}
	last := time.Now()
	for err == nil {
		select {
		case msg := <-s.out:
			err = s.writeMessage(msg)
			continue
		case <-s.kick:
			if wait := announceEvery - time.Since(last); wait > 0 {
				soon.Reset(wait)
				continue
			}
		case <-soon.C:
		case <-tick.C:
			if now := s.m.now(); clock.stepped(now).Abs() >= clockStep {
				clock, version = clockReading{ours: now, at: time.Now()}, 0 // other logs live by it
			}
			err = s.renew()
		case <-s.done:
			return nil
		case <-ctx.Done():
			return nil
		}
		if err == nil {
			version, err = s.tellVector(version)
			last = time.Now()
		}
	}
	return err
}

// renew says Hello again if our record or the short key changed or our clock
// stepped, repeats a lost roster message, and ends the session of who is not
// admitted any more.
func (s *session) renew() error {
	if now := s.m.now(); !s.m.cfg.Roster.Admitted(s.id, now) {
		refusal := s.m.cfg.Roster.NotAdmitted(s.id, now)
		s.writeMessage(&overlay.Busy{Err: refusal})
		return refusal
	}
	s.mu.Lock()
	said, clock, resend := s.said, s.clock, s.resend
	s.resend = false
	forks := s.untold
	s.mu.Unlock()
	if forks {
		if err := s.tellForks(); err != nil {
			return err
		}
	}
	if resend {
		if err := s.tellRoster(); err != nil {
			return err
		}
	}
	own := s.m.cfg.Own()
	if own == nil || overlay.Hash(own.ID) == said.record && s.m.holdings.key().Name() == said.key &&
		clock.stepped(s.m.now()).Abs() < clockStep {
		return nil
	}
	return s.sendHello(true)
}

func (s *session) tellRoster() error {
	records := s.m.cfg.Roster.Records()
	for len(records) > 0 {
		n := min(rosterChunk, len(records))
		if err := s.writeMessage(&overlay.RosterMsg{Records: records[:n]}); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

func (s *session) writeMessage(msg overlay.Message) error {
	s.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := s.stream.Write(overlay.AppendFrame(nil, msg))
	return err
}

// post queues a message; false if the queue is full.
func (s *session) post(msg overlay.Message) bool {
	select {
	case s.out <- msg:
		return true
	default:
		return false
	}
}

// read takes messages until the stream ends.
func (s *session) read(ctx context.Context) error {
	for {
		msg, err := s.frames.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		s.mu.Lock()
		s.seen = time.Now()
		s.mu.Unlock()
		switch msg := msg.(type) {
		case *overlay.Hello:
			err = s.accept(msg)
		case *overlay.VectorMsg:
			err = s.takeVector(msg)
		case *overlay.Forked:
			s.m.forks.received(ctx, s, msg)
		case *overlay.RosterMsg:
			if _, e := s.m.cfg.Roster.Add(s.m.now(), s.local, msg.Records...); e != nil {
				s.m.met.forged.WithLabelValues("roster").Inc()
			}
		case *overlay.SummaryMsg:
			s.m.summaries.receive(msg.Summaries)
		case *overlay.Get, *overlay.Has, *overlay.TraceMsg:
			select {
			case s.requests <- msg:
			case <-s.done: // nobody answers any more
				return errSessionLost
			case <-ctx.Done():
				return ctx.Err()
			}
		case *overlay.Compare:
			s.m.compares.serve(s, msg)
		case *overlay.Root, *overlay.Cells, *overlay.Buckets, *overlay.IDs, *overlay.Stubs:
			s.audit.hear(msg, s.frames.Size())
		case *overlay.LinksMsg:
			s.tellLinks(msg)
		case *overlay.Locate:
			s.locateHere(msg)
		case *overlay.Located:
			s.located(msg)
		case *overlay.Got:
			s.deliver(msg.N, msg)
		case *overlay.Held:
			s.deliver(msg.N, msg)
		case *overlay.TracedMsg:
			s.deliver(msg.N, msg)
		case *overlay.Compared:
			s.deliver(msg.N, msg)
		case *overlay.LinkedMsg:
			s.deliver(msg.N, msg)
		case *overlay.Busy:
			if msg.Err == nil {
				return overlay.ErrFrame
			}
			err = fmt.Errorf("ended by the pillar: %w", msg.Err)
		default:
			err = fmt.Errorf("%w: message type %d in a session", overlay.ErrFrame, msg.Type())
		}
		if err != nil {
			return err
		}
	}
}

// answer serves requests, one after the other.
func (s *session) answer(ctx context.Context) {
	for {
		var reply overlay.Message
		select {
		case msg := <-s.requests:
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
