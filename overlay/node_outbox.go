package overlay

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Bounds of the outbox.
const (
	maxUnfinished = 100_000 // messages not in a final state; Send refuses more
	maxClientID   = 64
)

// nodeOutbox holds what the node sends until its fate is known. What is not in
// a final state is in memory, less its bytes; everything is on disk.
type nodeOutbox struct {
	n     *Node
	wake  chan struct{} // pump: something to submit
	retry chan struct{} // sealer: something may be sealable now

	mu       sync.Mutex
	last     uint64                              // guarded by mu; order of the newest message
	handles  map[Handle]*outEntry                // guarded by mu; unfinished ones
	ids      map[RecordID]*outEntry              // guarded by mu; unfinished, sealed ones
	clients  map[string]*outEntry                // guarded by mu; unfinished ones by client ID
	unsealed map[uint64]*outEntry                // guarded by mu; by order
	parked   map[identity.AccountID]*parking     // guarded by mu; accounts that messages wait for
	sealerOn bool                                // guarded by mu; somebody takes what is parked
	freed    chan struct{}                       // guarded by mu; closed when an account is free, nil while nobody waits
	byEpoch  map[seal.EpochID]*shipment          // guarded by mu; epochs still on disk
	hidden   map[RecordID]*shipment              // guarded by mu
	counts   OutboxCounts                        // guarded by mu
	seqs     map[identity.AccountID]*outSequence // guarded by mu
	line     shipLine                            // guarded by mu; what goes out, in order
	due      dueLists                            // guarded by mu; what goes to devices, unless nothing does
	active   *nodeSession                        // guarded by mu
	byDot    map[LogID][]*shipment               // guarded by mu; ascending; waiting for copies
	dirty    map[uint64]*outEntry                // guarded by mu; changed and not staged
	only     bool                                // guarded by mu; something was there that no pillar gets
}

// outEntry is a message sent. Guarded by the outbox's mu, but for what never
// changes.
type outEntry struct {
	order   uint64
	handle  Handle
	client  string
	to      []identity.AccountID // ascending; with the own account where it belongs
	typ     BodyType
	sent    uint64 // Unix ms
	concern int
	only    bool // no pillar gets it

	body       []byte // while unsealed
	parkedAt   []identity.AccountID
	expires    uint64
	sealed     bool
	sealing    bool // somebody seals it at the moment
	id         RecordID
	epoch      seal.EpochID
	seqs       []Sequence
	missing    []identity.DeviceID
	state      State
	reason     Code
	copies     int
	recipients []recipient // as to
	ship       *shipment   // until replicated
	changed    chan struct{}
}

// recipient is what became of a message at one account of its to.
type recipient struct {
	state  State
	at     uint64 // Unix ms; 0: nothing yet
	reason string
}

func newNodeOutbox(n *Node) *nodeOutbox {
	o := &nodeOutbox{n: n, wake: make(chan struct{}, 1), retry: make(chan struct{}, 1),
		handles: map[Handle]*outEntry{}, ids: map[RecordID]*outEntry{}, clients: map[string]*outEntry{},
		unsealed: map[uint64]*outEntry{}, parked: map[identity.AccountID]*parking{}, byEpoch: map[seal.EpochID]*shipment{}, hidden: map[RecordID]*shipment{},
		seqs: map[identity.AccountID]*outSequence{}, line: newShipLine(), due: dueLists{}, byDot: map[LogID][]*shipment{},
		dirty: map[uint64]*outEntry{}}
	o.line.out = o.out
	return o
}

// Send puts a message into the outbox and returns when it is durable there: it
// will be sent, whatever happens to this process, as long as it lives. It works
// offline and before a network is known. What the message becomes is seen by
// Wait, Sent and events.
//
// Errors: CodeBadRequest (recipients, client ID), CodeTooLarge, CodeTooLongLived,
// CodeFull (100,000 messages are unfinished), or the disk's.
func (n *Node) Send(ctx context.Context, m Outgoing) (OutMessage, error) {
	e, err := n.outbox.draft(m)
	if err != nil {
		return OutMessage{}, err
	}
	if err := ctx.Err(); err != nil {
		return OutMessage{}, err
	}
	if known, err := n.outbox.enter(e); known != nil || err != nil {
		return n.outbox.answer(known, err)
	}
	finish, err := n.outbox.sealNow(ctx, e, true)
	if finish != nil {
		err = finish()
	}
	return n.outbox.answer(e, err)
}

// draft checks what is to be sent and makes the entry.
func (o *nodeOutbox) draft(m Outgoing) (*outEntry, error) {
	to := slices.Clone(m.To)
	for _, a := range to {
		if _, err := identity.AccountFromBytes([]byte(a)); err != nil {
			return nil, Refuse(CodeBadRequest, "recipient: %v", err)
		}
	}
	slices.Sort(to)
	to = slices.Compact(to)
	self := o.n.account()
	if len(to) > 0 && !slices.Contains(to, self) && o.n.self.otherDevices() {
		to = append(to, self)
		slices.Sort(to)
	}
	ttl := m.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	switch {
	case len(m.To) == 0:
		return nil, Refuse(CodeBadRequest, "a message needs a recipient")
	case o.n.direct.only() && len(to) == 1 && to[0] == self && !o.n.self.otherDevices():
		return nil, Refuse(CodeBadRequest, "a message to oneself, with --direct only and without another device, has nowhere to go")
	case len(to) > MaxTo:
		return nil, Refuse(CodeBadRequest, "%d recipients, at most %d are allowed", len(to), MaxTo)
	case len(m.Body) > MaxBody:
		return nil, Refuse(CodeTooLarge, "a body of %d bytes, at most %d are allowed", len(m.Body), MaxBody)
	case ttl < time.Millisecond:
		return nil, Refuse(CodeBadRequest, "a life of %s", ttl)
	case ttl > MaxLife*time.Millisecond:
		return nil, Refuse(CodeTooLongLived, "a life of %s, at most 30 days are allowed", ttl)
	case len(m.ClientID) > maxClientID:
		return nil, Refuse(CodeBadRequest, "a client ID of %d bytes, at most %d are allowed", len(m.ClientID), maxClientID)
	}
	now := o.n.now()
	concern := m.Concern
	if concern <= 0 {
		concern = o.n.cfg.Concern
	}
	return &outEntry{handle: NewHandle(), client: m.ClientID, to: to, typ: m.Type, sent: now,
		expires: now + uint64(ttl.Milliseconds()), concern: concern, only: o.n.direct.only(), body: slices.Clone(m.Body),
		state: StateQueued, recipients: make([]recipient, len(to))}, nil
}

// enter gives e its place. If its client ID was used before, it returns that
// message instead.
func (o *nodeOutbox) enter(e *outEntry) (*outEntry, error) {
	if e.client != "" {
		// Final ones are only on disk; read without the lock, then look again in
		// memory, where every other one is.
		if old, err := o.byClient(e.client); old != nil || err != nil {
			return old, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.client != "" {
		if old := o.clients[e.client]; old != nil {
			return old, nil
		}
		o.clients[e.client] = e
	}
	if len(o.handles) >= maxUnfinished {
		if e.client != "" {
			delete(o.clients, e.client)
		}
		return nil, Refuse(CodeFull, "%d messages are on their way already", len(o.handles))
	}
	o.last++
	o.only = o.only || e.only
	e.order = o.last
	e.sealing = true
	o.handles[e.handle] = e
	o.unsealed[e.order] = e
	o.counts.Queued++
	return nil, nil
}

// answer is what Send returns.
func (o *nodeOutbox) answer(e *outEntry, err error) (OutMessage, error) {
	if err != nil {
		return OutMessage{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.show(e), nil
}

// show describes e. o.mu is held.
func (o *nodeOutbox) show(e *outEntry) OutMessage {
	m := OutMessage{Handle: e.handle, To: e.to, State: e.state, Reason: e.reason,
		Sent: time.UnixMilli(int64(e.sent)).UTC(), Expires: time.UnixMilli(int64(e.expires)).UTC(),
		Copies: e.copies, DevicesMissing: e.missing, Order: e.order,
		Recipients: make([]RecipientState, len(e.to))}
	if e.sealed {
		id := e.id
		m.ID = &id
	}
	if m.DevicesMissing == nil {
		m.DevicesMissing = []identity.DeviceID{}
	}
	for i, r := range e.recipients {
		s := RecipientState{Account: e.to[i], State: r.state, Reason: r.reason}
		if r.at != 0 {
			at := time.UnixMilli(int64(r.at)).UTC()
			s.At = &at
		}
		if r.state == "" {
			if s.State = e.state; s.State == StateDelivered {
				s.State = StateReplicated // of the others, not of this one
			}
		}
		m.Recipients[i] = s
	}
	return m
}

// Wait returns when the message is at least at want, or in a final state. If
// ctx ends before, it returns what the message is then, and ctx's error.
func (n *Node) Wait(ctx context.Context, h Handle, want State) (OutMessage, error) {
	o := n.outbox
	o.mu.Lock()
	e := o.handles[h]
	if e == nil {
		o.mu.Unlock()
		return n.Sent(h)
	}
	for {
		if e.state.Reached(want) {
			defer o.mu.Unlock()
			return o.show(e), nil
		}
		if e.changed == nil {
			e.changed = make(chan struct{})
		}
		changed := e.changed
		o.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		o.mu.Lock()
		if err != nil && !e.state.Reached(want) {
			defer o.mu.Unlock()
			return o.show(e), err
		}
	}
}

// Sent returns a message sent, CodeNotFound if there is none with that handle.
func (n *Node) Sent(h Handle) (OutMessage, error) {
	return n.outbox.lookup(func() *outEntry { return n.outbox.handles[h] }, nodeKey(keyOutHand, h[:]), h.String())
}

// SentByID is Sent by the record's ID.
func (n *Node) SentByID(id RecordID) (OutMessage, error) {
	return n.outbox.lookup(func() *outEntry { return n.outbox.ids[id] }, nodeKey(keyOutID, id[:]), id.String())
}

func (o *nodeOutbox) lookup(inMemory func() *outEntry, key []byte, name string) (OutMessage, error) {
	o.mu.Lock()
	e := inMemory()
	o.mu.Unlock()
	if e == nil {
		if err := o.n.disk.flush(); err != nil { // its final state may only be staged
			return OutMessage{}, err
		}
		order, err := o.n.disk.get(key)
		if err != nil {
			return OutMessage{}, err
		}
		if order == nil {
			return OutMessage{}, Refuse(CodeNotFound, "no message %s was sent from here", name)
		}
		if e, err = o.fromDisk(orderOf(order)); err != nil {
			return OutMessage{}, err
		}
	}
	return o.withText(e)
}

// withText describes e with its text.
func (o *nodeOutbox) withText(e *outEntry) (OutMessage, error) {
	o.mu.Lock()
	m := o.show(e)
	body := e.body
	o.mu.Unlock()
	if e.typ != BodyText {
		return m, nil
	}
	if body == nil {
		var err error
		if body, err = o.n.disk.get(orderKey(keyOutBody, e.order)); err != nil {
			return m, err
		}
	}
	text := string(body)
	m.Text = &text
	return m, nil
}

// Outbox lists messages sent, oldest first, after the one with that order; at
// most limit, and never more than 1,000.
func (n *Node) Outbox(after uint64, limit int) ([]OutMessage, error) {
	o := n.outbox
	list := []OutMessage{}
	limit = pageLimit(limit)
	var entries []*outEntry
	if err := n.disk.flush(); err != nil {
		return nil, err
	}
	err := n.disk.table.Scan([]byte(keyOut), orderKey(keyOut, after), func(key, data []byte) bool {
		if e, err := decodeEntry(orderOf(key), data); err == nil {
			entries = append(entries, e)
		}
		return len(entries) < limit
	})
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		o.mu.Lock()
		if fresh := o.handles[e.handle]; fresh != nil {
			e = fresh
		}
		o.mu.Unlock()
		m, err := o.withText(e)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// pageLimit bounds a page of a list.
func pageLimit(limit int) int {
	if limit <= 0 || limit > 1000 {
		return 1000
	}
	return limit
}

// setState moves e on. It never goes back, and a final state stays. o.mu is
// held.
func (o *nodeOutbox) setState(e *outEntry, s State, why Code) {
	if e.state.Final() || s == e.state && why == e.reason || s.rank() < e.state.rank() {
		return
	}
	moved := s != e.state
	if moved {
		o.count(e.state, -1)
		o.count(s, 1)
	}
	e.state, e.reason = s, why
	o.touch(e)
	if s.Final() {
		o.finish(e)
	}
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
	if moved {
		o.n.metrics.moved(s, o.n.now(), e.sent)
	}
	m := o.show(e)
	o.n.events.add(Event{Kind: EventState, Sent: &m})
}

func (o *nodeOutbox) count(s State, d int) {
	switch s {
	case StateQueued:
		o.counts.Queued += d
	case StateStored:
		o.counts.Stored += d
	case StateReplicated:
		o.counts.Replicated += d
	}
}

// touch makes sure that e's change gets to the disk. o.mu is held.
func (o *nodeOutbox) touch(e *outEntry) {
	if len(o.dirty) == 0 {
		wakeUp(o.n.disk.wake)
	}
	o.dirty[e.order] = e
}

// finish forgets what only an unfinished message needs. It stays in memory
// until its final state is staged. o.mu is held.
func (o *nodeOutbox) finish(e *outEntry) {
	if e.ship != nil {
		o.drop(e.ship)
		e.ship = nil
	}
	e.body = nil
	o.unpark(e)
	delete(o.unsealed, e.order)
	if !e.sealed {
		return
	}
	if e.state == StateExpired || e.state == StateRejected {
		for i, a := range e.to {
			o.sequence(a).failed(e.seqs[i])
		}
	}
	if ep := o.byEpoch[e.epoch]; ep != nil {
		ep.refs--
		o.release(ep)
	}
}

// stageDirty stages all changed entries, to be called before every commit that
// must not overtake them.
func (o *nodeOutbox) stageDirty() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.dirty) == 0 {
		return
	}
	ws := make([]Write, 0, len(o.dirty))
	for order, e := range o.dirty {
		ws = append(ws, Write{orderKey(keyOut, order), e.encode()})
		if e.state.Final() {
			ws = append(ws, Write{Key: orderKey(keyOutRec, order)})
			delete(o.handles, e.handle)
			delete(o.ids, e.id)
			if e.client != "" {
				delete(o.clients, e.client)
			}
		}
	}
	clear(o.dirty)
	o.n.disk.stage(ws...)
}
