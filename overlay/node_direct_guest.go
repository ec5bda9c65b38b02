package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// What a device may ask of us.
const (
	maxGreeting      = 64 // streams before their Hello, of all
	maxGreetingPeer  = 4  // and of one device
	maxGuests        = 128
	maxGuestsAccount = 16               // of one account, which can make up devices
	guestIdle        = 10 * time.Minute // between frames
	guestStall       = 20 * time.Second // between bytes of a frame
	guestFrameIn     = 2 * time.Minute  // for a whole frame
	guestBan         = time.Minute      // after a violation
	guestRecords     = 256.0            // a second, in the long run
	guestBytes       = 4.0 * (1 << 20)  // a second, in the long run
	guestBurst       = 4.0              // seconds of that at once
	guestClockAhead  = 30_000           // ms that a record may be created in the future
	maxBannedDevices = 1024
)

// errViolation ends a stream whose device did what none of ours does. It is not
// listened to again for a while.
var errViolation = errors.New("it breaks the rules")

// errNotWelcome refuses whom the node's rule, or its user, keeps out.
var errNotWelcome = Refuse(CodeNotAdmitted, "this device takes nothing from this account")

// directGuest is a stream over which a device delivers to us.
type directGuest struct {
	d       *nodeDirect
	stream  Stream
	clock   *frameClock
	frames  *FrameReader
	path    Path
	account identity.AccountID
	device  identity.DeviceID
	serial  uint64        // of the certificate it came with
	signer  []byte        // the last certificate that was looked at
	gone    chan struct{} // another stream of the device took its place
	once    sync.Once
	held    Message // read too early
	next    uint64  // number of the next record
	records pace
	bytes   pace
	near    directNear
}

// directWork is a delivery on its way through the inbox.
type directWork struct {
	path    Path
	from    identity.AccountID
	records []*Record
	errs    map[RecordID]*Error
	forged  bool // a signature was wrong
	durable bool // all that is not in errs is on disk
}

// refuse notes why a record was not taken.
func (w *directWork) refuse(id RecordID, err *Error) {
	if w.errs == nil {
		w.errs = map[RecordID]*Error{}
	}
	w.errs[id] = err
}

// takeDirect takes what a device delivers: in the same order and by the same
// rules as a page, within the account's quota.
func (b *nodeInbox) takeDirect(w *directWork) error {
	recs, err := b.unseen(w.records, func(*Record, []byte) {})
	if err != nil {
		return err
	}
	good := b.valid(recs, func(rec *Record) {
		w.forged = true
		w.refuse(rec.ID, Refuse(CodeInvalid, "wrong signature"))
	})
	now := b.n.now()
	kept := good[:0]
	for _, rec := range good {
		if err := b.n.direct.quota.take(w.from, float64(len(rec.Raw))*float64(keptMillis(rec.Expires, now)), now); err != nil {
			w.refuse(rec.ID, err)
			continue
		}
		kept = append(kept, rec)
	}
	if len(kept) > 0 {
		unkept, err := b.take(kept, w.path)
		if err != nil {
			return err
		}
		for id := range unkept {
			w.refuse(id, &Error{Code: CodeFull, Text: "too much waits for its epoch", Retry: sweepPending})
		}
	}
	w.durable = true
	return nil
}

// hello is what this node says of itself to a device.
func (d *nodeDirect) hello() *Hello {
	n := d.n
	return &Hello{Role: RoleNode, Formats: Format, Network: n.network(), Time: n.now(), Account: n.account(), Credential: n.self.certificate()}
}

// checkHello verifies what a device says of itself: that it is a node of our
// network and that its account, which has not removed it, speaks through it.
func (d *nodeDirect) checkHello(h *Hello, p peer.ID) (*identity.Certificate, *Error) {
	network := d.n.network()
	switch {
	case h.Role != RoleNode:
		return nil, Refuse(CodeInvalid, "only nodes deliver")
	case network.IsZero() || h.Network != network:
		return nil, Refuse(CodeWrongNetwork, "this node is of another network")
	}
	cert, err := checkCredential(h, p, network)
	if err != nil {
		return nil, err
	}
	if now := d.n.now(); !cert.Covers(now) && !d.n.sessions.clockWrong() {
		return nil, Refuse(CodeInvalid, "certificate: out of date: it holds from %s to %s", millisText(cert.NotBefore), millisText(cert.NotAfter))
	}
	if d.removed(h.Account, cert.Device, cert.Serial) {
		return nil, removedDevice(cert.Device)
	}
	return cert, nil
}

// removed reports whether an account has removed a device, as far as known.
func (d *nodeDirect) removed(a identity.AccountID, dev identity.DeviceID, serial uint64) bool {
	acc, err := d.n.dir.account(a)
	return err == nil && acc.info != nil && acc.info.IsRemoved(dev, serial)
}

// accept owns a stream that a device opened.
func (d *nodeDirect) accept(stream Stream) {
	p := stream.Peer()
	if !d.enter(stream) {
		d.n.metrics.dropped.WithLabelValues("direct_crowd").Inc()
		_ = stream.Reset()
		return
	}
	defer d.work.Done()
	g, err := d.hear(stream)
	if err != nil {
		d.n.metrics.dropped.WithLabelValues("direct_refused").Inc()
		d.n.log.Debug("direct stream refused", "peer", p, "err", err)
		var refusal *Error
		if errors.As(err, &refusal) {
			_ = stream.SetWriteDeadline(time.Now().Add(directHello))
			_ = writeFrame(stream, &Busy{Err: refusal})
			_ = stream.Close()
		} else {
			_ = stream.Reset()
		}
		return
	}
	err = g.serve()
	_ = stream.Reset()
	d.leave(g, errors.Is(err, errViolation) || errors.Is(err, ErrFrame) && !errors.Is(err, ErrCut))
	d.n.log.Debug("direct stream ended", "device", g.device, "err", err)
}

// enter makes room for a stream before its Hello.
func (d *nodeDirect) enter(stream Stream) bool {
	p := stream.Peer()
	d.mu.Lock()
	defer d.mu.Unlock()
	its := 0
	for other := range d.greeting {
		its += btoi(other.Peer() == p)
	}
	if d.closed || len(d.greeting) >= maxGreeting || its >= maxGreetingPeer || d.banned[p].After(time.Now()) {
		return false
	}
	d.greeting[stream] = struct{}{}
	d.work.Add(1)
	return true
}

// hear exchanges Hellos. An *Error is what to tell the device.
func (d *nodeDirect) hear(stream Stream) (*directGuest, error) {
	p := stream.Peer()
	defer func() {
		d.mu.Lock()
		delete(d.greeting, stream)
		d.mu.Unlock()
	}()
	deadline := time.Now().Add(directHello)
	_ = stream.SetReadDeadline(deadline)
	_ = stream.SetWriteDeadline(deadline)
	reader := &frameClock{stream: stream}
	frames := NewFrameReader(reader)
	m, err := frames.Next()
	if err != nil {
		return nil, err
	}
	h, ok := m.(*Hello)
	if !ok {
		return nil, fmt.Errorf("%w: a stream begins with a Hello", ErrFrame)
	}
	cert, refusal := d.checkHello(h, p)
	if refusal != nil {
		return nil, refusal
	}
	if !d.welcomes(h.Account) {
		return nil, errNotWelcome
	}
	if err := writeFrame(stream, d.hello()); err != nil {
		return nil, err
	}
	frames.Accept()
	reader.runs = true
	g := &directGuest{d: d, stream: stream, clock: reader, frames: frames, path: pathOf(stream), account: h.Account, device: cert.Device, serial: cert.Serial,
		gone: make(chan struct{}), next: 1, near: directNear{d: d, peer: p}}
	d.mu.Lock()
	old := d.guests[p]
	switch {
	case d.closed:
		d.mu.Unlock()
		return nil, errNodeStopped
	case old == nil && len(d.guests) >= maxGuests:
		d.mu.Unlock()
		return nil, Refuse(CodeBusy, "too many devices deliver here")
	case old == nil && d.guestsOf(h.Account) >= maxGuestsAccount:
		d.mu.Unlock()
		return nil, Refuse(CodeBusy, "too many devices of this account deliver here")
	case old != nil: // the device has found a better path, or lost the old one
		g.records, g.bytes = old.records, old.bytes
		old.replaced()
	}
	d.guests[p] = g
	d.mu.Unlock()
	d.met(h.Account, cert.Device)
	d.heard(h.Account)
	return g, nil
}

// replaced ends the stream: there is a newer one.
func (g *directGuest) replaced() {
	g.once.Do(func() { close(g.gone) })
	_ = g.stream.Reset()
}

// part ends the connections with an account's devices if it is not welcome any
// more: by them it sees that we are there, and where.
func (d *nodeDirect) part(a identity.AccountID) {
	if d.off() || d.n.cfg.Traversal == nil || d.welcomes(a) {
		return
	}
	devices := d.devicesOf(a)
	if acc, err := d.n.dir.account(a); err == nil {
		for _, dev := range acc.devices {
			devices = append(devices, dev.device)
		}
	}
	for _, dev := range devices {
		if dev == d.n.device() {
			continue
		}
		d.n.cfg.Traversal.Admit(peer.ID(dev), time.Time{})
		_ = d.n.cfg.Links.Close(peer.ID(dev))
	}
}

// leave forgets a stream, and its device for a while if it broke the rules.
func (d *nodeDirect) leave(g *directGuest, broke bool) {
	p := peer.ID(g.device)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.guests[p] == g {
		delete(d.guests, p)
	}
	if !broke {
		return
	}
	d.n.metrics.dropped.WithLabelValues("direct_violation").Inc()
	if len(d.banned) >= maxBannedDevices {
		clear(d.banned) // a minute's worth: nobody is let in who was not before
	}
	d.banned[p] = time.Now().Add(guestBan)
}

// serve takes what the device delivers until the stream ends.
func (g *directGuest) serve() error {
	for {
		m, err := g.read()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *Deliver:
			err = g.take(m)
		case *Near:
			var reply *Near
			if reply, err = g.near.heard(m, g.path); reply != nil {
				err = g.write(reply)
			}
		default:
			err = fmt.Errorf("%w: message type %d is not expected here", ErrFrame, m.Type())
		}
		if err != nil {
			return err
		}
	}
}

// read returns the next message.
func (g *directGuest) read() (Message, error) {
	if m := g.held; m != nil {
		g.held = nil
		return m, nil
	}
	g.clock.begin(g.frames.r.Buffered() > 0)
	return g.frames.Next()
}

func (g *directGuest) write(m Message) error {
	_ = g.stream.SetWriteDeadline(patience(0))
	return writeFrame(g.stream, m)
}

// allowed refuses what came after the account removed the device, or the user
// blocked the account: streams last for long.
func (g *directGuest) allowed() error {
	switch {
	case g.d.removed(g.account, g.device, g.serial):
		return removedDevice(g.device)
	case !g.d.welcomes(g.account):
		return errNotWelcome
	}
	return nil
}

// take has the inbox take a delivery, and what of others has arrived already,
// and answers when that is durable.
func (g *directGuest) take(m *Deliver) error {
	if err := g.allowed(); err != nil {
		return err
	}
	first := g.next
	w := &directWork{path: g.path, from: g.account}
	var ids []RecordID
	for size := 0; ; {
		if m.First != g.next || len(m.Records) == 0 {
			return fmt.Errorf("%w: records from %d where %d comes next", errViolation, m.First, g.next)
		}
		for _, raw := range m.Records {
			rec, err := g.judge(raw, w)
			if err != nil {
				return err
			}
			ids = append(ids, rec.ID)
			size += len(raw)
		}
		g.next += uint64(len(m.Records))
		if err := g.slow(len(m.Records), size); err != nil {
			return err
		}
		if size >= FrameTarget || len(ids) >= MaxDeliver || !g.frames.Buffered() {
			break
		}
		more, err := g.read()
		if err != nil {
			return err
		}
		next, ok := more.(*Deliver)
		if !ok {
			g.held = more
			break
		}
		m = next
	}
	if err := g.hand(w); err != nil {
		return err
	}
	if err := g.answer(first, ids, w); err != nil {
		return err
	}
	if w.forged {
		return fmt.Errorf("%w: a wrong signature", errViolation)
	}
	return nil
}

// judge parses one record and puts it to those that the inbox takes, unless it
// is refused alone. An error is for what no device of ours sends: records of
// others, or not for us.
func (g *directGuest) judge(raw []byte, w *directWork) (*Record, error) {
	n := g.d.n
	rec, err := n.verify().Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errViolation, err)
	}
	switch rec.Kind {
	case KindMessage, KindEpoch, KindReceipt:
	default:
		return nil, fmt.Errorf("%w: a %s record", errViolation, rec.Kind)
	}
	if rec.Account() != g.account || !rec.IsTo(n.account()) {
		return nil, fmt.Errorf("%w: a record of another account, or not for us", errViolation)
	}
	if !bytes.Equal(rec.Signer, g.signer) {
		if rec.Device() != g.device {
			return nil, fmt.Errorf("%w: a record of another device", errViolation)
		}
		g.signer = bytes.Clone(rec.Signer)
	}
	now := n.now()
	switch {
	case n.sessions.clockWrong():
	case rec.Expires <= now:
		w.refuse(rec.ID, Refuse(CodeInvalid, "expired"))
		return rec, nil
	case rec.Created > now+guestClockAhead:
		w.refuse(rec.ID, Refuse(CodeClockWrong, "created %d ms ahead of this clock", rec.Created-now))
		return rec, nil
	}
	w.records = append(w.records, rec)
	return rec, nil
}

// slow waits until the device may hand over that much.
func (g *directGuest) slow(records, size int) error {
	now := time.Now()
	wait := max(g.records.take(float64(records), guestRecords, now), g.bytes.take(float64(size), guestBytes, now))
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-g.gone:
		return io.EOF
	case <-g.d.stop:
		return errNodeStopped
	}
}

// hand gives w to the inbox and waits until it is taken.
func (g *directGuest) hand(w *directWork) error {
	work := boxWork{direct: w, done: make(chan struct{})}
	select {
	case g.d.n.inbox.work <- work:
	case <-g.gone:
		return io.EOF
	case <-g.d.stop:
		return errNodeStopped
	}
	select {
	case <-work.done:
	case <-g.d.stop:
		return errNodeStopped
	}
	if !w.durable {
		return ErrStoreFailed
	}
	return nil
}

// answer says what became of the records, numbered from first.
func (g *directGuest) answer(first uint64, ids []RecordID, w *directWork) error {
	lines := make([]DeliveredLine, len(ids))
	for i, id := range ids {
		lines[i] = DeliveredLine{N: first + uint64(i), Err: w.errs[id]}
	}
	messages := 0
	for _, rec := range w.records {
		messages += btoi(rec.Kind == KindMessage && w.errs[rec.ID] == nil)
	}
	d := g.d
	d.n.metrics.direct.WithLabelValues("received", string(g.path)).Add(float64(messages))
	d.mu.Lock()
	if c := d.known[g.device]; c != nil {
		c.received += uint64(messages)
	}
	d.mu.Unlock()
	for len(lines) > 0 {
		k := min(len(lines), MaxDeliver)
		if err := g.write(&Delivered{Lines: lines[:k]}); err != nil {
			return err
		}
		lines = lines[k:]
	}
	return nil
}

// pace is a rate: what is over it has to wait.
type pace struct {
	debt float64 // of what was taken
	at   time.Time
}

// take takes n at a rate a second and returns how long to wait before more.
func (p *pace) take(n, rate float64, now time.Time) time.Duration {
	p.debt = max(0, p.debt-now.Sub(p.at).Seconds()*rate) + n
	p.at = now
	return time.Duration(max(0, p.debt/rate-guestBurst) * float64(time.Second))
}

// frameClock reads a stream whose sender may be silent between frames, but must
// not stop for long within one, nor for ever be about to end one.
type frameClock struct {
	stream Stream
	runs   bool // after the Hello, which has a time of its own
	ends   time.Time
}

// begin says that a frame comes next, with inside that it has begun.
func (c *frameClock) begin(inside bool) {
	c.ends = time.Time{}
	if inside {
		c.within()
		return
	}
	_ = c.stream.SetReadDeadline(time.Now().Add(guestIdle))
}

// within gives the sender some time for more of the frame.
func (c *frameClock) within() {
	now := time.Now()
	if c.ends.IsZero() {
		c.ends = now.Add(guestFrameIn)
	}
	stall := now.Add(guestStall)
	if c.ends.Before(stall) {
		stall = c.ends
	}
	_ = c.stream.SetReadDeadline(stall)
}

// Read implements io.Reader.
func (c *frameClock) Read(b []byte) (int, error) {
	n, err := c.stream.Read(b)
	if c.runs && n > 0 {
		c.within()
	}
	return n, err
}
