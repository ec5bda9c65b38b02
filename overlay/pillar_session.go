package overlay

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// Bounds of sessions.
const (
	helloTimeout = 10 * time.Second
	writeTimeout = 30 * time.Second // for a peer that does not read
	endTimeout   = 2 * time.Second  // for the last frames of a session that ends
	// maxPerPeer is how many streams one device may have open: more than one
	// because an old one can take a while to die.
	maxPerPeer = 4
	// maxInFlight is how many submitted records of one session wait at once;
	// more are refused as busy.
	maxInFlight = 4096
	// maxResults is how many answers wait for a session that does not read.
	// Then the session is dropped: the node submits again and gets the same
	// answers.
	maxResults = 4 * maxInFlight
	// outTarget is how many bytes wait to be written before reading stops:
	// whoever does not take answers may not ask. outMax is where a session is
	// dropped whose other frames (roster, watched accounts) pile up.
	outTarget = 1 << 20
	outMax    = 8 << 20
	// sessionBuffer and sessionSpare are the bytes that an idle session keeps for
	// what it reads and for each of two that it writes: there may be thousands.
	sessionBuffer = 512
	sessionSpare  = 512
	// maxClockOff is how far a clock may be off.
	maxClockOff = 30 * time.Second
)

// Refusals that are always the same.
var (
	errDraining    = &Error{Code: CodeDraining, Text: "this pillar is being drained", Retry: time.Minute}
	errEnding      = &Error{Code: CodeDraining, Text: "this pillar is stopping", Retry: 10 * time.Second}
	errTooMany     = &Error{Code: CodeBusy, Text: "this pillar serves as many sessions as it can", Retry: 30 * time.Second}
	errReplaced    = &Error{Code: CodeBusy, Text: "this device has opened a newer session here"}
	errPerPeer     = &Error{Code: CodeBusy, Text: "this device has too many sessions open", Retry: 10 * time.Second}
	errInFlight    = &Error{Code: CodeBusy, Text: "too many submissions of this session are waiting", Retry: time.Second}
	errQueueFull   = &Error{Code: CodeBusy, Text: "too many submissions are waiting", Retry: time.Second}
	errUnread      = &Error{Code: CodeBusy, Text: "this session does not read its answers"}
	errStoreBroken = &Error{Code: CodeBusy, Text: "the store failed: this pillar only serves reads until it is restarted", Retry: time.Minute}
	errForgetting  = &Error{Code: CodeBusy, Text: "the store is being repaired", Retry: time.Second}
	errReading     = &Error{Code: CodeBusy, Text: "the store could not be read", Retry: 10 * time.Second}
)

// pillarSession is a node's stream at a pillar. One goroutine reads (serve),
// one writes (write); others hand answers to the writer through the fields
// under mu, and never wait for it.
type pillarSession struct {
	p      *Pillar
	stream Stream
	peer   peer.ID

	// Set by the Hello, before anybody else sees the session:
	account    identity.AccountID
	cert       *identity.Certificate
	credential []byte // cert's bytes
	share      *accountShare
	source     string // of its remote address, see sourceOf

	registered bool         // the reader's; live since
	listed     bool         // guarded by Pillar.mu; among Pillar.live
	summarised time.Time    // the reader's; when it was told summaries
	inFlight   atomic.Int64 // submitted records without an answer
	waits      sessionWaits // guarded by Pillar.copies.mu
	watched    map[identity.AccountID]struct{}
	asks       Tokens // the reader's; of Locate
	asked      Tokens // of questions passed on to it; guarded by Pillar.mu

	wake  chan struct{} // to the writer: something waits
	space chan struct{} // to the reader: less than outTarget waits
	done  chan struct{} // closed by the writer at its end; nil while there is none

	mu      sync.Mutex
	closing bool          // the writer sends what waits and ends
	dead    bool          // nothing more is taken or sent
	frames  []byte        // encoded
	results []ResultLine  // bounded by maxResults
	marks   []Watermark   // bounded by maxResults
	nudged  uint64        // when a Nudge was sent, Unix ms
	mail    delivery      // of the mailbox
	dir     directoryRead // of the directory
}

// serve owns the stream of one session from its first byte to its last.
func (p *Pillar) serve(stream Stream) {
	s := &pillarSession{
		p: p, stream: stream, peer: stream.Peer(),
		wake: make(chan struct{}, 1), space: make(chan struct{}, 1),
	}
	if err := p.enter(s); err != nil {
		p.metrics.refused.WithLabelValues(string(err.Code)).Inc()
		s.refuse(err)
		return
	}
	defer p.leave(s)
	select {
	case <-p.started:
	case <-time.After(helloTimeout):
		stream.Reset()
		return
	}
	frames := newFrameReader(stream, sessionBuffer)
	var err *Error
	apart(func() { err = s.hello(frames) })
	if err != nil {
		if err != errGone {
			p.metrics.refused.WithLabelValues(string(err.Code)).Inc()
			s.refuse(err)
		} else {
			stream.Reset()
		}
		return
	}
	frames.Accept()
	s.mu.Lock()
	s.done = make(chan struct{})
	s.mu.Unlock()
	go s.write()
	if p.isClosed() {
		s.end(errEnding)
	} else {
		s.end(s.read(frames))
	}
	<-s.done
}

// apart calls fn in a goroutine of its own and waits for it: what signatures need
// of stack, tens of kilobytes, a session would otherwise keep for as long as it
// lasts and idles.
func apart(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// errGone ends a session without a word: there is nobody to hear it.
var errGone = &Error{Code: CodeUnreachable, Text: "the peer is gone"}

// enter admits a stream.
func (p *Pillar) enter(s *pillarSession) *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return errEnding
	case len(p.open) >= p.cfg.MaxSessions:
		return errTooMany
	case p.perPeer[s.peer] >= maxPerPeer:
		return errPerPeer
	}
	p.open[s] = struct{}{}
	p.perPeer[s.peer]++
	p.streams.Add(1)
	return nil
}

// leave undoes enter and register.
func (p *Pillar) leave(s *pillarSession) {
	p.mu.Lock()
	delete(p.open, s)
	if p.perPeer[s.peer]--; p.perPeer[s.peer] == 0 {
		delete(p.perPeer, s.peer)
	}
	if s.listed {
		p.unlist(s)
	}
	for a := range s.watched {
		if delete(p.watching[a], s); len(p.watching[a]) == 0 {
			delete(p.watching, a)
		}
	}
	p.mu.Unlock()
	p.copies.forget(s)
	if s.share != nil {
		p.shares.give(s.account)
	}
	p.streams.Done()
}

// unlist takes a registered session out of those that are live. p.mu is held.
func (p *Pillar) unlist(s *pillarSession) {
	s.listed = false
	p.metrics.sessions.Dec()
	rest := p.live[s.account][:0:0]
	for _, t := range p.live[s.account] {
		if t != s {
			rest = append(rest, t)
		}
	}
	if p.live[s.account] = rest; len(rest) == 0 {
		delete(p.live, s.account)
	}
	if p.devices[s.cert.Device]--; p.devices[s.cert.Device] == 0 {
		delete(p.devices, s.cert.Device)
		delete(p.owners, s.cert.Device)
	}
	delete(p.nudges, s)
	p.saw(s.cert.Device)
}

func (p *Pillar) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// endSessions takes no further streams and ends those that are open.
func (p *Pillar) endSessions() {
	p.mu.Lock()
	p.closed = true
	open := make([]*pillarSession, 0, len(p.open))
	for s := range p.open {
		open = append(open, s)
	}
	p.mu.Unlock()
	for _, s := range open {
		s.mu.Lock()
		greeted := s.done != nil
		s.mu.Unlock()
		if greeted {
			s.end(errEnding)
			s.stream.SetWriteDeadline(time.Now().Add(endTimeout)) // for a Write under way
		}
		// A reader blocked in the Hello or in Read returns.
		s.stream.SetReadDeadline(time.Unix(1, 0))
	}
}

// endRemoved ends the sessions of devices that a new account record removed.
func (p *Pillar) endRemoved(rec *Record) {
	p.mu.Lock()
	sessions := p.live[rec.Account()] // replaced, never changed, but for what is appended
	p.mu.Unlock()
	if len(sessions) == 0 {
		return
	}
	newest, err := p.newestAccount(rec.Account())
	if err != nil || newest == nil {
		return
	}
	for _, s := range sessions {
		if newest.IsRemoved(s.cert.Device, s.cert.Serial) {
			s.end(removedDevice(s.cert.Device))
		}
	}
}

// endAll ends all registered sessions.
func (p *Pillar) endAll(why *Error) {
	p.mu.Lock()
	var open []*pillarSession
	for _, sessions := range p.live {
		open = append(open, sessions...)
	}
	p.mu.Unlock()
	for _, s := range open {
		s.end(why)
	}
}

// tellAll queues m for every registered session.
func (p *Pillar) tellAll(m Message) {
	frame := AppendFrame(nil, m)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sessions := range p.live {
		for _, s := range sessions {
			s.queue(frame)
		}
	}
}

// refuse says why there is no session and ends the stream. There is no writer
// yet.
func (s *pillarSession) refuse(err *Error) {
	s.stream.SetWriteDeadline(time.Now().Add(endTimeout))
	if _, werr := s.stream.Write(AppendFrame(nil, &Busy{Err: err})); werr != nil {
		s.stream.Reset()
		return
	}
	s.stream.Close()
}

// hello says who the pillar is and learns who the node is. The pillar does not
// wait for the node's Hello: a node that has pinned no network needs the
// pillar's first.
func (s *pillarSession) hello(frames *FrameReader) *Error {
	p := s.p
	now := p.now()
	own := &Hello{Role: RolePillar, Formats: Format, Network: p.cfg.Network, Time: now, Credential: p.Record().Raw}
	s.stream.SetWriteDeadline(time.Now().Add(helloTimeout))
	if _, err := s.stream.Write(AppendFrame(nil, own)); err != nil {
		return errGone
	}
	s.stream.SetReadDeadline(time.Now().Add(helloTimeout))
	if p.isClosed() { // else endSessions shortens the deadline from now on
		return errEnding
	}
	m, err := frames.Next()
	if err != nil {
		if errors.Is(err, ErrFrame) {
			return Refuse(CodeInvalid, "%v", err)
		}
		return errGone
	}
	s.stream.SetReadDeadline(time.Time{})
	h, ok := m.(*Hello)
	switch {
	case !ok:
		return Refuse(CodeInvalid, "a session begins with a Hello")
	case h.Role != RoleNode:
		return Refuse(CodeInvalid, "only nodes have sessions of this protocol")
	case h.Network.IsZero():
		return Refuse(CodeWrongNetwork, "the Hello names no network; this pillar is of %s", p.cfg.Network)
	case h.Network != p.cfg.Network:
		return Refuse(CodeWrongNetwork, "this pillar is of network %s, not %s", p.cfg.Network, h.Network)
	case p.out.Load() != nil:
		return p.out.Load()
	case p.draining.Load():
		return errDraining
	}
	return s.checkCertificate(h)
}

// checkCertificate verifies that the account named speaks through the device
// at the other end of the stream.
func (s *pillarSession) checkCertificate(h *Hello) *Error {
	cert, refusal := checkCredential(h, s.peer, s.p.cfg.Network)
	if refusal != nil {
		return refusal
	}
	if !s.p.inForce(cert) {
		return s.p.refuseTime("certificate: out of date: it holds from %s to %s",
			millisText(cert.NotBefore), millisText(cert.NotAfter))
	}
	s.account, s.cert, s.credential = h.Account, cert, bytes.Clone(h.Credential)
	s.share, s.source = s.p.shares.get(s.account), sourceOf(s.stream.Remote())
	return nil
}

func millisText(ms uint64) string {
	return PlainTime(ms).Format(time.RFC3339)
}

// read handles frames until the session ends and returns why, errGone if the
// node ended it.
func (s *pillarSession) read(frames *FrameReader) *Error {
	for {
		m, err := frames.Next()
		switch {
		case err == nil:
		case errors.Is(err, ErrFrame) && !errors.Is(err, io.ErrUnexpectedEOF):
			return Refuse(CodeInvalid, "%v", err)
		default:
			return errGone
		}
		if err := s.handle(m); err != nil {
			return err
		}
		if !s.waitSpace() {
			return errGone
		}
	}
}

// handle acts on one message; an error ends the session.
func (s *pillarSession) handle(m Message) *Error {
	if r, ok := m.(*Register); ok {
		var err *Error
		apart(func() { err = s.register(r) })
		return err
	}
	if !s.registered {
		return Refuse(CodeBadRequest, "a session registers before anything else")
	}
	switch m := m.(type) {
	case *Submit:
		s.submit(m)
	case *Resume:
		return s.resume(m)
	case *Saved:
		return s.saved(m)
	case *Check:
		return s.check(m)
	case *Find:
		return s.find(m)
	case *SummaryMsg:
		return s.tellSummaries(m)
	case *Nudge:
		s.askNudges()
	case *Locate:
		return s.locate(m)
	case *Located:
		return s.located(m)
	default:
		return Refuse(CodeInvalid, "a message of type %d has no place in a node's session", m.Type())
	}
	return nil
}

// queue hands an encoded frame to the writer.
func (s *pillarSession) queue(frame []byte) {
	s.mu.Lock()
	s.queueLocked(frame)
	s.mu.Unlock()
	s.wakeWriter()
}

// queueLocked is queue with s.mu held and the writer to be woken.
func (s *pillarSession) queueLocked(frame []byte) {
	if s.dead || s.closing {
		return
	}
	if len(s.frames)+len(frame) > outMax {
		s.dropLocked()
		return
	}
	s.frames = append(s.frames, frame...)
}

// send queues m.
func (s *pillarSession) send(m Message) {
	s.mu.Lock()
	s.sendLocked(m)
	s.mu.Unlock()
	s.wakeWriter()
}

func (s *pillarSession) sendLocked(m Message) {
	if s.dead || s.closing {
		return
	}
	s.frames = AppendFrame(s.frames, m)
	if len(s.frames) > outMax {
		s.dropLocked()
	}
}

// dropLocked ends the session of a peer that does not read. s.mu is held.
func (s *pillarSession) dropLocked() {
	if s.dead {
		return
	}
	s.dead = true
	s.frames, s.results, s.marks = nil, nil, nil
	s.stream.SetWriteDeadline(time.Unix(1, 0)) // a writer blocked in Write returns
	s.p.metrics.refused.WithLabelValues(string(errUnread.Code)).Inc()
}

func (s *pillarSession) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// waitSpace waits until less than outTarget is to be written; false when the
// session is over.
func (s *pillarSession) waitSpace() bool {
	for {
		s.mu.Lock()
		n, dead := len(s.frames), s.dead || s.closing
		s.mu.Unlock()
		if dead {
			return false
		}
		if n < outTarget {
			return true
		}
		select {
		case <-s.space:
		case <-s.done:
			return false
		}
	}
}

// end makes the writer say why, send what waits, and end.
func (s *pillarSession) end(err *Error) {
	s.mu.Lock()
	if err != errGone {
		if !s.dead && !s.closing { // what is answered comes before the end
			s.frames, s.results = appendResults(s.frames, s.results), nil
		}
		s.sendLocked(&Busy{Err: err})
		if !s.closing {
			s.p.metrics.refused.WithLabelValues(string(err.Code)).Inc()
		}
	}
	s.closing = true
	s.mu.Unlock()
	s.wakeWriter()
}

// write sends what waits until the session ends, then closes the stream.
func (s *pillarSession) write() {
	defer close(s.done)
	var out, spare []byte
	var push pushWriter
	for {
		select {
		case <-s.wake:
		default: // nothing to do for a while
			spare = s.slim(spare)
			push = pushWriter{}
			<-s.wake
		}
		s.mu.Lock()
		if s.dead {
			s.mu.Unlock()
			s.stream.Reset()
			return
		}
		out, s.frames = s.frames, spare[:0]
		results, marks := s.results, s.marks
		s.results, s.marks = nil, nil
		s.mail.take(&push)
		closing := s.closing
		s.mu.Unlock()
		select {
		case s.space <- struct{}{}:
		default:
		}
		out = appendResults(out, results)
		for i := range marks {
			out = AppendFrame(out, &marks[i])
		}
		out = push.append(out)
		if err := s.flush(out, closing); err != nil {
			s.mu.Lock()
			s.dead = true
			s.mu.Unlock()
			s.stream.Reset()
			return
		}
		if closing {
			s.stream.Close()
			s.stream.SetReadDeadline(time.Unix(1, 0))
			return
		}
		if spare = out; cap(spare) > outTarget {
			spare = nil
		}
	}
}

// slim gives back what an idle session needs no more of its buffers and returns
// the one to keep.
func (s *pillarSession) slim(spare []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.frames) == 0 && cap(s.frames) > sessionSpare {
		s.frames = nil
	}
	if cap(spare) > sessionSpare {
		return nil
	}
	return spare
}

func (s *pillarSession) flush(out []byte, closing bool) error {
	if len(out) == 0 {
		return nil
	}
	timeout := writeTimeout
	if closing {
		timeout = endTimeout
	}
	s.stream.SetWriteDeadline(time.Now().Add(timeout))
	_, err := s.stream.Write(out)
	return err
}

// appendResults appends lines as frames of at most MaxSubmit.
func appendResults(b []byte, lines []ResultLine) []byte {
	for len(lines) > 0 {
		n := min(len(lines), MaxSubmit)
		b = AppendFrame(b, &Result{Lines: lines[:n]})
		lines = lines[n:]
	}
	return b
}
