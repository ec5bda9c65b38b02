package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

// encode returns what stands under out/<order>:
//
//	[handle bin, client bin, to, type, sent, concern, expires,
//	 id bin (empty: not sealed), epoch bin20, sequences, missing,
//	 state bin, reason bin, copies, recipients, only 0|1]
//	sequences = list of [seq, prev]; missing = list of device bin
//	recipients = list of [state bin, at, reason bin]
//
// The outbox's mu is held.
func (e *outEntry) encode() []byte {
	b := canon.AppendArray(make([]byte, 0, 256), 16)
	b = canon.AppendBin(b, e.handle[:])
	b = canon.AppendBin(b, e.client)
	b = canon.AppendArray(b, len(e.to))
	for _, a := range e.to {
		b = canon.AppendBin(b, a)
	}
	b = canon.AppendUint(b, uint64(e.typ))
	b = canon.AppendUint(b, e.sent)
	b = canon.AppendUint(b, uint64(e.concern))
	b = canon.AppendUint(b, e.expires)
	if e.sealed {
		b = canon.AppendBin(b, e.id[:])
	} else {
		b = canon.AppendBin(b, "")
	}
	b = canon.AppendBin(b, e.epoch[:])
	b = canon.AppendArray(b, len(e.seqs))
	for _, s := range e.seqs {
		b = canon.AppendArray(b, 2)
		b = canon.AppendUint(b, s.Seq)
		b = canon.AppendUint(b, s.Prev)
	}
	b = canon.AppendArray(b, len(e.missing))
	for _, d := range e.missing {
		b = canon.AppendBin(b, d)
	}
	b = canon.AppendBin(b, string(e.state))
	b = canon.AppendBin(b, string(e.reason))
	b = canon.AppendUint(b, uint64(e.copies))
	b = canon.AppendArray(b, len(e.recipients))
	for _, r := range e.recipients {
		b = canon.AppendArray(b, 3)
		b = canon.AppendBin(b, string(r.state))
		b = canon.AppendUint(b, r.at)
		b = canon.AppendBin(b, r.reason)
	}
	return canon.AppendUint(b, uint64(btoi(e.only)))
}

// decodeEntry reads what encode wrote.
func decodeEntry(order uint64, data []byte) (*outEntry, error) {
	r := canon.NewReader(data)
	fields := r.ArrayMax(16)
	e := &outEntry{order: order}
	copy(e.handle[:], r.BinExact(len(e.handle)))
	e.client = string(r.Bin(maxClientID))
	for range r.ArrayMax(MaxTo) {
		e.to = append(e.to, identity.AccountID(r.Bin(identity.Ed25519IDLen)))
	}
	e.typ = BodyType(r.Uint())
	e.sent = r.Uint()
	e.concern = int(r.Uint())
	e.expires = r.Uint()
	if id := r.Bin(len(e.id)); len(id) == len(e.id) {
		e.sealed = true
		copy(e.id[:], id)
	}
	copy(e.epoch[:], r.BinExact(len(e.epoch)))
	for range r.ArrayMax(MaxTo) {
		r.Array(2)
		e.seqs = append(e.seqs, Sequence{r.Uint(), r.Uint()})
	}
	for range r.ArrayMax(1 << 16) {
		e.missing = append(e.missing, identity.DeviceID(r.Bin(identity.Ed25519IDLen)))
	}
	e.state, e.reason = State(r.Bin(32)), Code(r.Bin(32))
	e.copies = int(r.Uint())
	for range r.ArrayMax(MaxTo) {
		r.Array(3)
		e.recipients = append(e.recipients, recipient{State(r.Bin(32)), r.Uint(), string(r.Bin(64))})
	}
	if fields == 16 { // one less before there was a way around the pillars
		e.only = r.UintMax(1) == 1
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("message %d of the outbox: %w", order, err)
	}
	if len(e.recipients) != len(e.to) || e.sealed && len(e.seqs) != len(e.to) {
		return nil, fmt.Errorf("message %d of the outbox contradicts itself", order)
	}
	return e, nil
}

// fromDisk reads one message.
func (o *nodeOutbox) fromDisk(order uint64) (*outEntry, error) {
	data, err := o.n.disk.get(orderKey(keyOut, order))
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, Refuse(CodeNotFound, "message %d is gone from the outbox", order)
	}
	return decodeEntry(order, data)
}

// byClient returns the message sent with a client ID, nil if there is none on
// disk.
func (o *nodeOutbox) byClient(client string) (*outEntry, error) {
	order, err := o.n.disk.get(nodeKey(keyOutCli, client))
	if err != nil || order == nil {
		return nil, err
	}
	o.mu.Lock()
	e := o.clients[client]
	o.mu.Unlock()
	if e != nil {
		return e, nil
	}
	if err := o.n.disk.flush(); err != nil {
		return nil, err
	}
	return o.fromDisk(orderOf(order))
}

// load reads the outbox. Unfinished messages come into memory, less bodies and
// records; what was on its way goes out again.
func (o *nodeOutbox) load() error {
	table := o.n.disk.table
	err := table.Scan([]byte(keySeq), nil, func(key, data []byte) bool {
		r := canon.NewReader(data)
		r.Array(2)
		s := &outSequence{last: r.Uint(), prev: r.Uint()}
		if r.End() == nil {
			o.seqs[identity.AccountID(key[len(keySeq):])] = s
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, prefix := range []string{keyHidden, keyHidOnly} {
		err = table.Scan([]byte(prefix), nil, func(key, data []byte) bool {
			s := &shipment{raw: bytes.Clone(data), only: prefix == keyHidOnly}
			copy(s.id[:], key[len(prefix):])
			r := canon.MakeReader(data)
			r.Array(2)
			if !s.describe(r.Bin(MaxRecord)) {
				return true
			}
			o.hidden[s.id] = s
			if s.kind == KindEpoch {
				o.byEpoch[s.epoch] = s
				s.done = s.only
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	for _, s := range o.hidden {
		o.hold(s)
	}
	var bad error
	var entries []*outEntry
	err = table.Scan([]byte(keyOut), nil, func(key, data []byte) bool {
		e, err := decodeEntry(orderOf(key), data)
		if err != nil {
			bad = err
			return false
		}
		o.last = max(o.last, e.order)
		if !e.state.Final() {
			entries = append(entries, e)
		}
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return err
	}
	for _, s := range slices.SortedFunc(maps.Values(o.hidden), func(a, b *shipment) int { return int(a.kind) - int(b.kind) }) {
		s.ticket = o.line.ticket()
		o.owe(s)
		if !s.only {
			s.state = shipReady
			o.line.ready = append(o.line.ready, s)
		}
	}
	for _, e := range entries {
		o.handles[e.handle] = e
		o.only = o.only || e.only
		o.count(e.state, 1)
		if e.client != "" {
			o.clients[e.client] = e
		}
		if !e.sealed {
			if e.body, err = o.n.disk.get(orderKey(keyOutBody, e.order)); err != nil {
				return err
			}
			o.unsealed[e.order] = e
			o.park(e, e.to, e.reason)
			continue
		}
		o.ids[e.id] = e
		if ep := o.byEpoch[e.epoch]; ep != nil {
			ep.refs++
		}
		e.ship = &shipment{id: e.id, kind: KindMessage, entry: e, to: e.to, only: e.only, epoch: e.epoch, concern: e.concern,
			expires: e.expires, stored: e.state != StateQueued, copies: e.copies, done: e.state == StateReplicated}
		e.ship.ticket = o.line.ticket()
		o.owe(e.ship)
		if !e.ship.done && !e.only {
			e.ship.state = shipReady
			o.line.ready = append(o.line.ready, e.ship)
		}
	}
	o.line.next = o.line.tickets
	for _, s := range o.hidden { // epochs of an earlier run in which nothing waits
		if s.kind == KindEpoch {
			o.release(s)
		}
	}
	return nil
}

// rawOf returns a shipment's record.
func (o *nodeOutbox) rawOf(s *shipment) ([]byte, error) {
	if s.entry != nil {
		return o.n.disk.get(orderKey(keyOutRec, s.entry.order))
	}
	return o.n.disk.get(s.hiddenKey())
}

// outSequence counts the messages to one account. Guarded by the outbox's mu.
type outSequence struct {
	last uint64 // the highest given out
	prev uint64 // of the newest message neither rejected nor expired
	// dead are messages that were, and what was before them; only as long as
	// somebody newer still points to them.
	dead map[uint64]uint64
}

// sequence returns the counter of messages to a. o.mu is held.
func (o *nodeOutbox) sequence(a identity.AccountID) *outSequence {
	s := o.seqs[a]
	if s == nil {
		s = &outSequence{}
		o.seqs[a] = s
	}
	return s
}

// take gives out the next sequence at now, in µs.
func (s *outSequence) take(now uint64) Sequence {
	q := Sequence{Seq: max(s.last+1, now), Prev: s.prev}
	s.last, s.prev = q.Seq, q.Seq
	return q
}

// failed takes q back: later messages do not refer to it.
func (s *outSequence) failed(q Sequence) {
	if s.dead == nil || len(s.dead) > 4096 {
		s.dead = map[uint64]uint64{}
	}
	s.dead[q.Seq] = q.Prev
	for {
		before, dead := s.dead[s.prev]
		if !dead {
			return
		}
		delete(s.dead, s.prev)
		s.prev = before
	}
}

// write is the change of the table. o.mu is held, so that a later state never
// comes before an earlier one.
func (s *outSequence) write(a identity.AccountID) Write {
	b := canon.AppendArray(nil, 2)
	b = canon.AppendUint(b, s.last)
	b = canon.AppendUint(b, s.prev)
	return Write{nodeKey(keySeq, a), b}
}

// describe reads what a shipment needs to know from its payload.
func (s *shipment) describe(payload []byte) bool {
	p := canon.MakeReader(payload)
	p.Array(9)
	p.Uint()
	s.kind = Kind(p.Uint())
	p.Bin(identity.Ed25519IDLen)
	p.Bin(identity.MaxCertificate)
	for range p.ArrayMax(MaxTo) {
		s.to = append(s.to, identity.AccountID(p.Bin(identity.Ed25519IDLen)))
	}
	for range p.ArrayMax(MaxTo) {
		p.Array(2)
		p.Uint()
		p.Uint()
	}
	p.Uint()
	s.expires = p.Uint()
	bin := p.Bin(MaxRecord)
	if p.End() != nil {
		return false
	}
	var err error
	switch s.kind {
	case KindEpoch:
		var ep *seal.EpochRecord
		if ep, err = seal.ParseEpoch(bin); err == nil {
			s.epoch = ep.ID
		}
	case KindReceipt:
		s.epoch, err = seal.MessageEpoch(bin)
	}
	return err == nil
}

func orderBytes(order uint64) []byte { return binary.BigEndian.AppendUint64(nil, order) }
