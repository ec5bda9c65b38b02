package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// How records go to a device.
const (
	directWindow      = 256      // records a device has not answered
	directWindowBytes = 1 << 20  // and their bytes
	directFrame       = 64 << 10 // of records in a Deliver
	directHello       = 10 * time.Second
	directAnswerIn    = 15 * time.Second // for a line; what is in flight needs time, too
	directSlowest     = 16 << 10         // bytes a second that are waited for
	maxDirectEpochs   = 1024             // that a stream remembers to have sent
)

// patience is how long to wait for the other end with so many bytes under way.
func patience(bytes int) time.Time {
	return time.Now().Add(directAnswerIn + time.Duration(bytes)*time.Second/directSlowest)
}

var (
	errBetterPath = errors.New("there is a better path")
	errStalled    = errors.New("the device does not answer")
)

// directLane delivers to one device, over one stream at a time: a new one as
// soon as the path gets better. What the old one left unanswered goes again.
type directLane struct {
	p      *directAccount
	device identity.DeviceID
	wake   chan struct{}

	next   uint64 // guarded by nodeDirect's mu; position of what is sent next
	sent   uint64 // guarded by nodeDirect's mu; everything before was written, or needs not be
	acked  uint64 // guarded by nodeDirect's mu; everything before is answered
	better bool   // guarded by nodeDirect's mu; a direct connection is there
}

// directStream is an open stream to a device that said who it is.
type directStream struct {
	stream Stream
	frames *FrameReader
	path   Path
	done   chan struct{}
	once   sync.Once
	err    error      // valid once done is closed
	say    chan *Near // what the reader wants to be said
	near   directNear // the reader's, but for its first word

	mu     sync.Mutex
	number uint64                    // guarded by mu; of the newest record sent
	flight []inFlight                // guarded by mu; not answered, in order
	bytes  int                       // guarded by mu; of them
	epochs map[seal.EpochID]struct{} // guarded by mu; sent on this stream
}

// inFlight is a record that was sent, or one that needs no sending.
type inFlight struct {
	number uint64 // 0: skipped
	item   directItem
	pos    uint64 // of item; an epoch in front of it has none
	epoch  bool
	skip   bool // it needs no sending any more
	size   int
}

// greet opens a stream to a connected device and learns that it is one of the
// account's.
func (d *nodeDirect) greet(ctx context.Context, a identity.AccountID, dev identity.DeviceID) (_ *directStream, err error) {
	ctx, cancel := context.WithTimeout(ctx, directHello)
	defer cancel()
	stream, err := d.n.cfg.Links.Open(ctx, peer.ID(dev), ProtoDirect)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer func() {
		stop()
		if err != nil {
			_ = stream.Reset()
		}
	}()
	if err := writeFrame(stream, d.hello()); err != nil {
		return nil, err
	}
	frames := NewFrameReader(stream)
	h, err := nextOf[*Hello](frames)
	if err != nil {
		return nil, err
	}
	if _, refusal := d.checkHello(h, peer.ID(dev)); refusal != nil {
		return nil, refusal
	}
	if h.Account != a {
		return nil, Refuse(CodeInvalid, "device %s belongs to account %s, not to %s", dev, h.Account, a)
	}
	frames.Accept()
	d.met(a, dev)
	return &directStream{stream: stream, frames: frames, path: pathOf(stream), done: make(chan struct{}),
		say: make(chan *Near, 2), near: directNear{d: d, peer: peer.ID(dev)}, epochs: map[seal.EpochID]struct{}{}}, nil
}

// pathOf is how a stream runs.
func pathOf(s Stream) Path {
	if a := s.Remote(); a != nil {
		if _, err := a.ValueForProtocol(multiaddr.P_CIRCUIT); err == nil {
			return PathRelayed
		}
	}
	return PathDirect
}

// end closes the stream; the first reason counts.
func (s *directStream) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
		_ = s.stream.Reset()
	})
}

// run serves the device until ctx ends or no stream to it is left.
func (l *directLane) run(ctx context.Context, s *directStream) {
	for s != nil {
		s = l.over(ctx, s)
	}
}

// over serves the device over s until that ends, and returns the stream to go on
// with, if there is one.
func (l *directLane) over(ctx context.Context, s *directStream) *directStream {
	d := l.p.d
	d.mu.Lock()
	l.next, l.sent = l.acked, l.acked
	d.mu.Unlock()
	var reading sync.WaitGroup
	reading.Go(func() { l.read(s) })
	defer reading.Wait()
	if s.path == PathRelayed {
		if m := s.near.first(); m != nil {
			s.say <- m // of capacity two, and nobody else said anything yet
		}
	}
	for {
		err := l.send(ctx, s)
		if errors.Is(err, errBetterPath) {
			next, gerr := d.greet(ctx, l.p.account, l.device)
			if gerr != nil {
				d.failed("stream", l.p.account, gerr)
				continue // the old one still works
			}
			s.end(err)
			return next
		}
		if ctx.Err() == nil {
			d.failed("cut", l.p.account, err)
		}
		s.end(err)
		return nil
	}
}

// send writes what there is to send until s ends or there is a better path.
func (l *directLane) send(ctx context.Context, s *directStream) error {
	for {
		batch, err := l.take(s)
		if err == nil {
			err = s.deliver(batch)
		}
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			l.written(s)
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return s.err
		case <-l.wake:
		case m := <-s.say:
			_ = s.stream.SetWriteDeadline(patience(0))
			if err := writeFrame(s.stream, m); err != nil {
				return err
			}
		}
	}
}

// take returns what goes next, as far as the window lets it.
func (l *directLane) take(s *directStream) ([]inFlight, error) {
	p, d := l.p, l.p.d
	s.mu.Lock()
	room := max(0, directWindow-len(s.flight)) // epochs may go over it
	if s.bytes >= directWindowBytes {
		room = 0
	}
	s.mu.Unlock()
	d.mu.Lock()
	if l.better {
		l.better = false
		if s.path == PathRelayed {
			d.mu.Unlock()
			return nil, errBetterPath
		}
	}
	rest := p.items[l.next-p.base:]
	rest = rest[:min(len(rest), room, MaxDeliver/4)]
	batch := make([]inFlight, len(rest))
	for i := range rest {
		batch[i] = inFlight{item: rest[i], pos: l.next}
		l.next++
	}
	d.mu.Unlock()
	d.n.outbox.skipFinished(p.account, batch)
	for i := range batch {
		b := &batch[i]
		if b.skip || b.item.raw != nil {
			continue
		}
		var err error
		if b.item.raw, err = d.n.outbox.rawOf(b.item.ship); err != nil {
			return nil, err
		}
		b.skip = b.item.raw == nil // finished meanwhile
	}
	return batch, nil
}

// skipFinished marks messages that the account has by now.
func (o *nodeOutbox) skipFinished(a identity.AccountID, batch []inFlight) {
	if len(batch) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range batch {
		s := batch[i].item.ship
		if e := s.entry; e != nil && !s.only {
			at, ok := slices.BinarySearch(e.to, a)
			batch[i].skip = s.gone || !ok || e.recipients[at].state != ""
		}
	}
}

// deliver writes a batch, every epoch in front of what is sealed in it.
func (s *directStream) deliver(batch []inFlight) error {
	m := &Deliver{}
	size := 0
	flush := func() error {
		if len(m.Records) == 0 {
			return nil
		}
		_ = s.stream.SetWriteDeadline(patience(directWindowBytes))
		err := writeFrame(s.stream, m)
		m.Records, size = nil, 0
		return err
	}
	add := func(f inFlight, raw []byte) error {
		if len(m.Records) > 0 && (size+len(raw) > directFrame || len(m.Records) == MaxDeliver) {
			if err := flush(); err != nil {
				return err
			}
		}
		f.size = len(raw)
		n := s.note(f)
		if len(m.Records) == 0 {
			m.First = n
		}
		m.Records = append(m.Records, raw)
		size += len(raw)
		return nil
	}
	for _, f := range batch {
		if f.skip {
			s.note(f)
			continue
		}
		if f.item.epochRaw != nil && s.needs(f.item.epoch) {
			if err := add(inFlight{item: directItem{epoch: f.item.epoch}, epoch: true}, f.item.epochRaw); err != nil {
				return err
			}
		}
		if err := add(f, f.item.raw); err != nil {
			return err
		}
	}
	return flush()
}

// needs reports whether the epoch has to be sent, and notes that it was.
func (s *directStream) needs(id seal.EpochID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, sent := s.epochs[id]; sent {
		return false
	}
	if len(s.epochs) >= maxDirectEpochs {
		clear(s.epochs) // sent again: a duplicate
	}
	s.epochs[id] = struct{}{}
	return true
}

// note puts f into the flight and returns its number.
func (s *directStream) note(f inFlight) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !f.skip {
		s.number++
		f.number = s.number
		s.bytes += f.size
		_ = s.stream.SetReadDeadline(patience(s.bytes))
	}
	s.flight = append(s.flight, f)
	return f.number
}

// read takes what the device says until the stream ends.
func (l *directLane) read(s *directStream) {
	for {
		m, err := s.frames.Next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.end(errStalled)
			// The connection is as dead as the stream: the next attempt must dial.
			_ = l.p.d.n.cfg.Links.Close(peer.ID(l.device))
			return
		case err != nil:
			s.end(fmt.Errorf("read: %w", err))
			return
		}
		switch m := m.(type) {
		case *Delivered:
			err = l.answered(s, m.Lines)
		case *Near:
			var reply *Near
			if reply, err = s.near.heard(m, s.path); reply != nil {
				select {
				case s.say <- reply:
				default: // it said more than there is to answer
				}
			}
		case *Busy:
			err = m.Err
			if m.Err == nil {
				err = errNobody
			}
		default:
			err = fmt.Errorf("%w: message type %d is not expected here", ErrFrame, m.Type())
		}
		if err != nil {
			s.end(err)
			return
		}
	}
}

// answered takes lines, which come in the order of the records.
func (l *directLane) answered(s *directStream, lines []DeliveredLine) error {
	var items []directItem
	var errs []*Error
	s.mu.Lock()
	for i := range lines {
		s.skipped()
		if len(s.flight) == 0 || s.flight[0].number != lines[i].N {
			s.mu.Unlock()
			return fmt.Errorf("%w: an answer to record %d, which is not the next one", ErrFrame, lines[i].N)
		}
		f := s.flight[0]
		s.flight = s.flight[1:]
		s.bytes -= f.size
		if !f.epoch {
			items, errs = append(items, f.item), append(errs, lines[i].Err)
		} else if lines[i].Err != nil {
			delete(s.epochs, f.item.epoch)
		}
	}
	if s.bytes == 0 {
		_ = s.stream.SetReadDeadline(time.Time{})
	} else {
		_ = s.stream.SetReadDeadline(patience(s.bytes))
	}
	s.mu.Unlock()
	l.settle(s)
	l.count(s, items, errs)
	l.p.d.n.outbox.answered(l.p.account, items, errs)
	wakeUp(l.wake)
	return nil
}

// skipped drops what stands in front of the flight and was not sent. s.mu is
// held.
func (s *directStream) skipped() {
	for len(s.flight) > 0 && s.flight[0].skip {
		s.flight = s.flight[1:]
	}
}

// written notes that all that was taken is in the flight.
func (l *directLane) written(s *directStream) {
	l.p.d.mu.Lock()
	l.sent = l.next
	l.p.d.mu.Unlock()
	l.settle(s)
}

// settle moves acked to the first record that is not answered. What was taken
// and is not in the flight yet is not answered either.
func (l *directLane) settle(s *directStream) {
	p, d := l.p, l.p.d
	d.mu.Lock()
	defer d.mu.Unlock()
	s.mu.Lock()
	s.skipped()
	acked := l.sent
	for _, f := range s.flight {
		if !f.epoch {
			acked = f.pos
			break
		}
	}
	s.mu.Unlock()
	l.acked = max(l.acked, acked)
	p.trim()
	if p.behind && p.waiting() == 0 {
		wakeUp(p.wake)
	}
}

// count notes what the device answered.
func (l *directLane) count(s *directStream, items []directItem, errs []*Error) {
	p, d := l.p, l.p.d
	messages := 0
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, item := range items {
		err := errs[i]
		if err == nil {
			p.progress = true
			messages += btoi(item.kind == KindMessage)
			continue
		}
		d.n.metrics.directFailed.WithLabelValues("refused").Inc()
		if item.only { // nothing else carries it: once more, later
			p.behind = true
			p.refilled = time.Now().Add(max(err.Retry, directRetryMin))
		}
	}
	p.used = time.Now()
	d.n.metrics.direct.WithLabelValues("sent", string(s.path)).Add(float64(messages))
	if c := d.known[l.device]; c != nil {
		c.sent += uint64(messages)
	}
}
