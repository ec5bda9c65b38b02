package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// How receipts are gathered.
const (
	receiptDelay = 200 * time.Millisecond
	// receiptPrompt is the delay if an author who is connected waits, and no
	// receipt was written within the last receiptDelay.
	receiptPrompt = 5 * time.Millisecond
	receiptRetry  = 30 * time.Second
	receiptSlack  = DayMillis // a receipt outlives the message it speaks of by this
)

// nodeReceipts tells senders what became of their messages: gathered, one
// record a sender, sealed to the sender's devices. Lines wait on disk until
// their record does.
type nodeReceipts struct {
	n      *Node
	wake   chan struct{}
	prompt atomic.Bool
}

func newNodeReceipts(n *Node) *nodeReceipts {
	return &nodeReceipts{n: n, wake: make(chan struct{}, 1)}
}

func (r *nodeReceipts) load() error {
	wakeUp(r.wake)
	return nil
}

// due says that lines wait, and whether somebody who is connected does.
func (r *nodeReceipts) due(prompt bool) {
	if prompt {
		r.prompt.Store(true)
	}
	wakeUp(r.wake)
}

// answer queues a receipt line for rec's author. What came by no pillar is
// answered by none if that is how this node sends.
func (b *nodeInbox) answer(in *intake, rec *Record, code ReceiptCode, path Path) {
	value := binary.BigEndian.AppendUint64([]byte{byte(code)}, rec.Expires)
	if path != PathPillar {
		in.prompt = true
		if b.n.direct.only() {
			value = append(value, 1)
		}
	}
	in.writes = append(in.writes, Write{append(nodeKey(keyReceipt, rec.Author), rec.ID[:]...), value})
	in.answers = true
}

// unreadable queues the line for a message that cannot be opened.
func (b *nodeInbox) unreadable(in *intake, rec *Record, path Path) {
	if rec.Kind == KindMessage && rec.Account() != b.n.account() {
		b.answer(in, rec, ReceiptUnreadable, path)
	}
}

// run writes receipts until ctx ends.
func (r *nodeReceipts) run(ctx context.Context) {
	tick := time.NewTicker(receiptRetry)
	defer tick.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-tick.C:
		}
		delay := receiptDelay
		if r.prompt.Swap(false) && time.Since(last) >= receiptDelay {
			delay = receiptPrompt
		}
		if !pause(ctx, delay) {
			return
		}
		last = time.Now()
		if r.n.network().IsZero() || r.n.sessions.clockWrong() {
			continue
		}
		if err := r.flush(ctx); err != nil {
			r.n.giveUp(err)
			return
		}
	}
}

// receiptLines are an author's lines that go the same way, and their keys.
type receiptLines struct {
	author  identity.AccountID
	only    bool // to the author's devices, by no pillar
	lines   []ReceiptLine
	keys    []Write
	expires uint64
}

// flush writes receipts for all lines that wait.
func (r *nodeReceipts) flush(ctx context.Context) error {
	var after []byte
	for ctx.Err() == nil {
		var sets []*receiptLines
		n := 0
		err := r.n.disk.table.Scan([]byte(keyReceipt), after, func(key, data []byte) bool {
			rest := key[len(keyReceipt):]
			if len(rest) <= len(RecordID{}) || len(data) != 9 && len(data) != 10 {
				return true
			}
			author, only := identity.AccountID(rest[:len(rest)-len(RecordID{})]), len(data) == 10
			s := openSet(sets, author, only)
			if s == nil {
				if n >= 8*MaxReceiptLines {
					return false
				}
				s = &receiptLines{author: author, only: only}
				sets = append(sets, s)
			}
			after = slices.Clone(key)
			l := ReceiptLine{Code: ReceiptCode(data[0])}
			copy(l.ID[:], rest[len(author):])
			s.lines = append(s.lines, l)
			s.keys = append(s.keys, Write{Key: slices.Clone(key)})
			s.expires = max(s.expires, binary.BigEndian.Uint64(data[1:9]))
			n++
			return true
		})
		if err != nil {
			return err
		}
		if len(sets) == 0 {
			return nil
		}
		if err := r.write(sets); err != nil {
			return err
		}
	}
	return nil
}

// openSet returns the set that a line of author's belongs to, nil if there is
// none with room. Lines come author by author.
func openSet(sets []*receiptLines, author identity.AccountID, only bool) *receiptLines {
	for i := len(sets) - 1; i >= 0 && sets[i].author == author; i-- {
		if s := sets[i]; s.only == only && len(s.lines) < MaxReceiptLines {
			return s
		}
	}
	return nil
}

// write signs the receipts, and makes them durable together with the end of
// their lines: a crash repeats a receipt rather than losing it.
func (r *nodeReceipts) write(sets []*receiptLines) error {
	var recs []hiddenRecord
	var ws []Write
	for _, s := range sets {
		sealed, err := r.seal(s)
		switch {
		case errors.Is(err, seal.ErrNoSealingKey):
			r.n.dir.want(s.author)
			if s.expires+receiptSlack > r.n.now() {
				continue // their key may come
			}
		case errors.Is(err, seal.ErrTooManyDevices):
			r.n.log.Warn("an account has too many devices for a receipt", "account", s.author)
		case err != nil:
			r.n.log.Error("cannot write a receipt", "account", s.author, "err", err)
			continue
		default:
			for _, rec := range sealed {
				recs = append(recs, hiddenRecord{rec, s.only})
			}
		}
		ws = append(ws, s.keys...)
	}
	if len(ws) == 0 {
		return nil
	}
	return r.n.outbox.sendWith(ws, recs)
}

// seal makes the record. Where one to all devices would end before it should,
// with the key of one that has been away for weeks, a second one is made that the
// others have for as long as they need it: of the same lines, which do no harm
// twice.
func (r *nodeReceipts) seal(s *receiptLines) ([]*Record, error) {
	now := r.n.now()
	until := min(max(s.expires, now)+receiptSlack, now+MaxLife)
	rec, err := r.sealIn(r.n.epochs.get, s, now, until)
	if err != nil {
		return nil, err
	}
	if rec.Expires < until {
		if lasting, err := r.sealIn(r.n.epochs.lasting, s, now, until); err == nil {
			return []*Record{rec, lasting}, nil
		} else if !errors.Is(err, seal.ErrNoSealingKey) {
			return nil, err
		}
	}
	return []*Record{rec}, nil
}

// sealIn makes the record in an epoch that get returns.
func (r *nodeReceipts) sealIn(get func([]identity.AccountID, bool) (*liveEpoch, error), s *receiptLines, now, until uint64) (*Record, error) {
	to := []identity.AccountID{s.author}
	for {
		ep, err := get(to, s.only)
		if err != nil {
			return nil, err
		}
		rec, err := r.n.epochs.sealRecord(ep, Draft{Kind: KindReceipt, To: to, Created: now, Expires: until}, AppendReceipt(nil, s.lines))
		if errors.Is(err, seal.ErrErased) {
			continue
		}
		return rec, err
	}
}

// onReceipt takes what an account says of our messages. Only accounts that a
// message is to have a say.
func (o *nodeOutbox) onReceipt(author identity.AccountID, lines []ReceiptLine) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.n.now()
	for _, l := range lines {
		e := o.ids[l.ID]
		if e == nil {
			continue
		}
		i, ok := slices.BinarySearch(e.to, author)
		if !ok {
			o.n.metrics.dropped.WithLabelValues("receipt").Inc()
			continue
		}
		r := &e.recipients[i]
		if r.state == StateDelivered || e.state.Final() {
			continue
		}
		switch l.Code {
		case ReceiptDelivered:
			*r = recipient{StateDelivered, now, ""}
		case ReceiptRefused:
			*r = recipient{StateRejected, now, l.Code.String()}
		case ReceiptUnreadable:
			if r.state == "" {
				*r = recipient{"", now, l.Code.String()} // another device may still
			}
		default:
			continue
		}
		if r.state != "" {
			o.due.ended(author)
		}
		o.touch(e)
		o.conclude(e)
	}
}

// conclude ends a message that all recipients have answered. The own account's
// other devices get a copy, but nobody waits for them unless the message is to
// nobody else. o.mu is held.
func (o *nodeOutbox) conclude(e *outEntry) {
	refused := false
	for i, r := range e.recipients {
		if len(e.to) > 1 && e.to[i] == o.n.account() {
			continue
		}
		switch r.state {
		case StateDelivered:
		case StateRejected:
			refused = true
		default:
			return
		}
	}
	if refused {
		o.setState(e, StateRejected, CodeBlocked)
		return
	}
	o.setState(e, StateDelivered, "")
}
