package overlay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// How the inbox keeps order.
const (
	sweepPending = 10 * time.Second
	maxPending   = 65_536 // records whose epoch is not there; more are left for a mailbox check
	// maxPendingDirect is with how many of them a device's delivery finds no room
	// any more: pillars have quotas, and what they bring comes first.
	maxPendingDirect = maxPending / 4
	sequencesKept    = 64   // newest of every device, to see gaps
	sequenceCache    = 4096 // devices whose sequences are in memory
)

// nodeInbox takes what is in the account's mailbox: messages, receipts and the
// epochs they are sealed in. Its run goroutine takes one page after the other;
// all that a page changes is one Apply.
type nodeInbox struct {
	n    *Node
	work chan boxWork

	// Owned by run.
	order     uint64
	saved     uint64              // order, as on disk
	total     atomic.Int64        // messages on disk
	pending   atomic.Int64        // records that wait for their epoch; written by run alone
	sequences map[string][]uint64 // by author and device, ascending
	epochs    openedEpochs

	mu      sync.Mutex
	counts  InboxCounts         // guarded by mu
	unacked map[uint64]struct{} // guarded by mu; by order
}

func newNodeInbox(n *Node) *nodeInbox {
	return &nodeInbox{n: n, work: make(chan boxWork, 4), sequences: map[string][]uint64{},
		epochs: openedEpochs{n: n}, unacked: map[uint64]struct{}{}}
}

func (b *nodeInbox) load() (err error) {
	if b.order, err = b.n.counter("inorder"); err != nil {
		return err
	}
	b.saved = b.order
	total, err := b.n.disk.count(keyInID)
	if err != nil {
		return err
	}
	b.total.Store(int64(total))
	if err := b.n.disk.table.Scan([]byte(keyUnacked), nil, func(key, _ []byte) bool {
		b.unacked[orderOf(key)] = struct{}{}
		return true
	}); err != nil {
		return err
	}
	b.counts = InboxCounts{Total: int(b.total.Load()), Unacked: len(b.unacked)}
	return b.n.disk.table.Scan([]byte(keyPending), nil, func(_, _ []byte) bool {
		b.pending.Add(1)
		return true
	})
}

// cursorWrite keeps a cursor.
func cursorWrite(box BoxKind, v Vector) Write {
	return Write{nodeKey(keyCursor, []byte{byte(box)}), AppendVector(nil, v)}
}

// readCursor returns the cursor on disk; none is empty: everything.
func (n *Node) readCursor(box BoxKind) (Vector, error) {
	data, err := n.disk.get(nodeKey(keyCursor, []byte{byte(box)}))
	if err != nil || data == nil {
		return nil, err
	}
	r := canon.NewReader(data)
	v := ReadVector(r)
	if r.End() != nil {
		return nil, nil // damaged: read everything, most of it is known
	}
	return v, nil
}

// resume asks a new active pillar for all that the cursor does not cover.
func (b *nodeInbox) resume(s *nodeSession) {
	cursor, err := b.n.readCursor(BoxMail)
	if err != nil {
		b.n.giveUp(err)
		return
	}
	s.send(&Resume{Box: BoxMail, Cursor: cursor, Live: true})
}

// run takes pages until ctx ends.
func (b *nodeInbox) run(ctx context.Context) {
	tick := time.NewTicker(sweepPending)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case w := <-b.work:
			err = b.takeWork(w)
			if w.done != nil {
				close(w.done)
			}
		case <-tick.C:
			err = b.sweep()
		}
		if err != nil {
			b.n.giveUp(fmt.Errorf("node: inbox: %w", err))
			return
		}
	}
}

// takeWork takes a page in this order:
//
//	parse · for us, alive, not seen · verify, together · open · one Apply · Saved
//
// and only then do the app and the sender hear of it.
func (b *nodeInbox) takeWork(w boxWork) error {
	if w.isCursor {
		return b.n.disk.apply(cursorWrite(BoxMail, w.cursor))
	}
	if w.direct != nil {
		return b.takeDirect(w.direct)
	}
	recs, err := b.fresh(w.records)
	if err != nil {
		return err
	}
	if w.check && len(recs) > 0 {
		b.n.metrics.withheld.Add(float64(len(recs)))
		b.n.log.Warn("a mailbox check brought what no page did", "records", len(recs), "pillar", w.session.pillar)
	}
	if len(recs) > 0 {
		if _, err := b.take(recs, PathPillar); err != nil {
			return err
		}
	}
	if w.page {
		w.session.send(&Saved{Box: BoxMail, To: w.to})
	}
	if w.last {
		w.session.resumed.Store(true)
		b.n.checker.request()
	}
	return nil
}

// rank puts epochs before what is sealed in them.
func rank(r *Record) int { return btoi(r.Kind != KindEpoch) }

// sortBySender puts each sender device's messages into the order they were
// written in, in the places that this sender's messages have.
func sortBySender(recs []*Record, self identity.AccountID) {
	places := map[string][]int{}
	for i, rec := range recs {
		if rec.Kind == KindMessage {
			by := rec.Author + string(rec.Signer)
			places[by] = append(places[by], i)
		}
	}
	for _, list := range places {
		sorted := make([]*Record, len(list))
		for j, i := range list {
			sorted[j] = recs[i]
		}
		slices.SortStableFunc(sorted, func(x, y *Record) int {
			return cmp.Compare(sequenceTo(x, self).Seq, sequenceTo(y, self).Seq)
		})
		for j, i := range list {
			recs[i] = sorted[j]
		}
	}
}

// sequenceTo is a message's sequence to account a.
func sequenceTo(r *Record, a identity.AccountID) Sequence {
	for i, t := range r.To {
		if t == a && i < len(r.Sequences) {
			return r.Sequences[i]
		}
	}
	return Sequence{}
}

// intake is what one page, or one delivery of a device, changes.
type intake struct {
	now      uint64
	path     Path                  // how it came; of what waited for it, see arrival
	unkept   map[RecordID]struct{} // for want of room: as if they never came
	writes   []Write
	epochs   []Write // durable before what is sealed in them is opened
	messages []InMessage
	receipts []receiptIn
	arrived  map[string]struct{} // epochs, by openedEpochs' key
	answers  bool                // receipts of ours are waiting
	prompt   bool                // and somebody who is connected waits for them
	missing  bool                // an epoch is
}

type receiptIn struct {
	author identity.AccountID
	lines  []ReceiptLine
}

// take takes verified records that were not seen before, and returns those that
// there was no room for.
func (b *nodeInbox) take(recs []*Record, path Path) (unkept map[RecordID]struct{}, err error) {
	in := &intake{now: b.n.now(), path: path, arrived: map[string]struct{}{}}
	for _, rec := range recs {
		if err := b.takeRecord(in, rec); err != nil {
			return nil, err
		}
	}
	if err := b.keepEpochs(in); err != nil {
		return nil, err
	}
	for key := range in.arrived {
		if err := b.retryPending(in, key); err != nil {
			return nil, err
		}
	}
	return in.unkept, b.finish(in)
}

// keepEpochs writes the epochs that came, all at once.
func (b *nodeInbox) keepEpochs(in *intake) error {
	if len(in.epochs) == 0 {
		return nil
	}
	ws := in.epochs
	in.epochs = nil
	return b.n.disk.apply(ws...)
}

// takeRecord takes one record that is new.
func (b *nodeInbox) takeRecord(in *intake, rec *Record) error {
	device := b.n.deviceOf(rec)
	if rec.Kind != KindEpoch {
		if err := b.keepEpochs(in); err != nil {
			return err
		}
	}
	kept := true
	var err error
	switch {
	case rec.Format != Format: // of a later version
	case rec.Kind == KindEpoch:
		err = b.epochs.keep(in, rec, device)
	case rec.Kind == KindMessage:
		gap, gerr := b.gap(in, rec, device)
		if gerr != nil {
			return gerr
		}
		kept, err = b.open(in, rec, device, arrival{in.path, gap}, true)
	case rec.Kind == KindReceipt:
		kept, err = b.open(in, rec, device, arrival{in.path, false}, true)
	}
	switch {
	case err != nil:
	case kept:
		in.writes = append(in.writes, Write{seenKey(rec.Expires, rec.ID), seenValue(rec, in.path == PathPillar)})
	default:
		if in.unkept == nil {
			in.unkept = map[RecordID]struct{}{}
		}
		in.unkept[rec.ID] = struct{}{}
	}
	return err
}

// finish makes in durable and tells of it.
func (b *nodeInbox) finish(in *intake) error {
	for _, r := range in.receipts {
		b.n.outbox.onReceipt(r.author, r.lines)
	}
	b.n.outbox.stageDirty()
	if b.order != b.saved {
		b.saved = b.order
		in.writes = append(in.writes, putCounter("inorder", b.order))
	}
	if len(in.writes) > 0 {
		if err := b.n.disk.apply(in.writes...); err != nil {
			return err
		}
	}
	b.mu.Lock()
	for i := range in.messages {
		b.unacked[in.messages[i].Order] = struct{}{}
	}
	b.counts = InboxCounts{Total: int(b.total.Load()), Unacked: len(b.unacked)}
	b.mu.Unlock()
	for i := range in.messages {
		if c := b.n.metrics.received[in.messages[i].Path]; c != nil {
			c.Inc()
		}
		b.n.events.add(Event{Kind: EventMessage, Message: &in.messages[i]})
	}
	if in.answers {
		b.n.receipts.due(in.prompt)
	}
	if in.missing {
		b.n.checker.request()
	}
	return nil
}

// deviceOf is the device that signed a verified record.
func (n *Node) deviceOf(rec *Record) identity.DeviceID {
	if !rec.Certified() {
		return ""
	}
	if known := n.verify().lookup(certificateHash(rec.Author, rec.Signer)); known != nil {
		return known.cert.Device
	}
	return rec.Device()
}

// gap reports whether the message before rec is missing, and notes rec's
// sequence.
func (b *nodeInbox) gap(in *intake, rec *Record, device identity.DeviceID) (bool, error) {
	name := rec.Author + string(device)
	ring, cached := b.sequences[name]
	if !cached {
		data, err := b.n.disk.get(nodeKey(keySeqSeen, name))
		if err != nil {
			return false, err
		}
		for ; len(data) >= 8; data = data[8:] {
			ring = append(ring, binary.BigEndian.Uint64(data))
		}
	}
	s := sequenceTo(rec, b.n.account())
	_, seen := slices.BinarySearch(ring, s.Prev)
	forgotten := len(ring) >= sequencesKept && s.Prev < ring[0]
	if i, twice := slices.BinarySearch(ring, s.Seq); !twice {
		ring = slices.Insert(ring, i, s.Seq)
	}
	if len(ring) > sequencesKept {
		ring = slices.Delete(ring, 0, len(ring)-sequencesKept)
	}
	if !cached && len(b.sequences) >= sequenceCache {
		for other := range b.sequences {
			delete(b.sequences, other)
			break
		}
	}
	b.sequences[name] = ring
	data := make([]byte, 0, 8*len(ring))
	for _, q := range ring {
		data = binary.BigEndian.AppendUint64(data, q)
	}
	in.writes = append(in.writes, Write{nodeKey(keySeqSeen, name), data})
	return s.Prev != 0 && !seen && !forgotten, nil
}

// receive puts an opened message into the inbox.
func (b *nodeInbox) receive(in *intake, rec *Record, device identity.DeviceID, t BodyType, body []byte, how arrival) {
	b.order++
	b.total.Add(1)
	m := InMessage{ID: rec.ID, From: rec.Account(), FromContact: b.n.contacts.name(rec.Account()),
		FromClaims: b.n.dir.claims(rec.Account(), device), To: rec.To,
		Sent: time.UnixMilli(int64(rec.Created)).UTC(), Received: time.UnixMilli(int64(in.now)).UTC(),
		Path: how.path, Gap: how.gap, Order: b.order}
	m.setBody(t, bytes.Clone(body))
	order := orderBytes(b.order)
	in.messages = append(in.messages, m)
	in.writes = append(in.writes,
		Write{nodeKey(keyIn, order), m.encode(t, body)},
		Write{nodeKey(keyInID, rec.ID[:]), order},
		Write{nodeKey(keyUnacked, order), []byte{1}})
}

// setBody fills in text, or bytes for whatever else it is.
func (m *InMessage) setBody(t BodyType, body []byte) {
	if t == BodyText && utf8.Valid(body) {
		text := string(body)
		m.Text = &text
		return
	}
	m.Body = body
}

// encode returns what stands under in/<order>:
// [id bin, from bin, claims bin, to, sent, received, type, body bin, path bin, gap 0|1].
func (m *InMessage) encode(t BodyType, body []byte) []byte {
	b := canon.AppendArray(make([]byte, 0, len(body)+256), 10)
	b = canon.AppendBin(b, m.ID[:])
	b = canon.AppendBin(b, m.From)
	b = canon.AppendBin(b, m.FromClaims)
	b = canon.AppendArray(b, len(m.To))
	for _, a := range m.To {
		b = canon.AppendBin(b, a)
	}
	b = canon.AppendUint(b, uint64(m.Sent.UnixMilli()))
	b = canon.AppendUint(b, uint64(m.Received.UnixMilli()))
	b = canon.AppendUint(b, uint64(t))
	b = canon.AppendBin(b, body)
	b = canon.AppendBin(b, string(m.Path))
	return canon.AppendUint(b, uint64(btoi(m.Gap)))
}

// decode reads what encode wrote and adds what is known now.
func (b *nodeInbox) decode(order uint64, data []byte) (InMessage, error) {
	r := canon.NewReader(bytes.Clone(data))
	r.Array(10)
	m := InMessage{Order: order}
	copy(m.ID[:], r.BinExact(len(m.ID)))
	m.From = identity.AccountID(r.Bin(identity.Ed25519IDLen))
	m.FromClaims = string(r.Bin(MaxName))
	for range r.ArrayMax(MaxTo) {
		m.To = append(m.To, identity.AccountID(r.Bin(identity.Ed25519IDLen)))
	}
	m.Sent = time.UnixMilli(int64(r.Uint())).UTC()
	m.Received = time.UnixMilli(int64(r.Uint())).UTC()
	t := BodyType(r.Uint())
	m.setBody(t, r.Bin(MaxBody))
	m.Path = Path(r.Bin(16))
	m.Gap = r.UintMax(1) == 1
	if err := r.End(); err != nil {
		return m, fmt.Errorf("message %d of the inbox: %w", order, err)
	}
	m.FromContact = b.n.contacts.name(m.From)
	b.mu.Lock()
	_, un := b.unacked[order]
	b.mu.Unlock()
	m.Acked = !un
	return m, nil
}

// Inbox lists messages received, oldest first, after the one with that order;
// at most limit, and never more than 1,000; with unackedOnly those that the app
// has not acknowledged.
func (n *Node) Inbox(after uint64, limit int, unackedOnly bool) ([]InMessage, error) {
	list := []InMessage{}
	limit = pageLimit(limit)
	prefix := keyIn
	if unackedOnly {
		prefix = keyUnacked
	}
	var orders []uint64
	var bodies [][]byte
	err := n.disk.table.Scan([]byte(prefix), orderKey(prefix, after), func(key, data []byte) bool {
		orders = append(orders, orderOf(key))
		if !unackedOnly {
			bodies = append(bodies, bytes.Clone(data))
		}
		return len(orders) < limit
	})
	if err != nil {
		return nil, err
	}
	for i, order := range orders {
		var data []byte
		if unackedOnly {
			if data, err = n.disk.get(orderKey(keyIn, order)); err != nil {
				return nil, err
			}
		} else {
			data = bodies[i]
		}
		m, err := n.inbox.decode(order, data)
		if err != nil {
			return nil, err
		}
		if unackedOnly && m.Acked {
			continue // meanwhile
		}
		list = append(list, m)
	}
	return list, nil
}

// Received returns a message received, CodeNotFound if there is none.
func (n *Node) Received(id RecordID) (InMessage, error) {
	order, err := n.disk.get(nodeKey(keyInID, id[:]))
	if err != nil {
		return InMessage{}, err
	}
	if order == nil {
		return InMessage{}, Refuse(CodeNotFound, "no message %s was received here", id)
	}
	data, err := n.disk.get(nodeKey(keyIn, order))
	if err != nil {
		return InMessage{}, err
	}
	if data == nil { // removed meanwhile
		return InMessage{}, Refuse(CodeNotFound, "no message %s was received here", id)
	}
	return n.inbox.decode(orderOf(order), data)
}

// Ack says that the app has these messages: they are not handed to it again,
// after a restart neither. It returns when that is durable. Twice is fine; for an
// ID that was not received it returns CodeNotFound and acknowledges the others.
func (n *Node) Ack(ids ...RecordID) error {
	b := n.inbox
	var unknown error
	var orders []uint64
	for _, id := range ids {
		order, err := n.disk.get(nodeKey(keyInID, id[:]))
		if err != nil {
			return err
		}
		if order == nil {
			unknown = Refuse(CodeNotFound, "no message %s was received here", id)
			continue
		}
		orders = append(orders, orderOf(order))
	}
	b.mu.Lock()
	ws := make([]Write, 0, len(orders))
	for _, order := range orders {
		ws = append(ws, Write{Key: orderKey(keyUnacked, order)})
		delete(b.unacked, order)
	}
	b.counts.Unacked = len(b.unacked)
	g := n.disk.stage(ws...)
	b.mu.Unlock()
	if len(ws) > 0 {
		if err := n.disk.commit(g); err != nil {
			return err
		}
	}
	return unknown
}
