package obelisk

import (
	"context"
	"iter"
	"math"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// A SendOption changes a message that Send makes.
type SendOption func(*Outgoing)

// WithTTL sets how long the message lives: 72 h by default, at most 30 days.
func WithTTL(d time.Duration) SendOption { return func(m *Outgoing) { m.TTL = d } }

// WithClientID makes sending idempotent: a second Send with the same ID, at
// most 64 bytes, returns the first message and sends nothing.
func WithClientID(id string) SendOption { return func(m *Outgoing) { m.ClientID = id } }

// WithConcern sets how many pillars must hold the message before it counts as
// replicated.
func WithConcern(copies int) SendOption { return func(m *Outgoing) { m.Concern = copies } }

// AlsoTo adds recipients; all of them see each other.
func AlsoTo(to ...AccountID) SendOption {
	return func(m *Outgoing) { m.To = append(m.To, to...) }
}

// Send puts a text into the outbox and returns when it is on disk: from then on
// it is sent, whatever happens to this process, as long as it lives. Wait tells
// what became of it.
func (n *Node) Send(ctx context.Context, to AccountID, text string, opts ...SendOption) (Sent, error) {
	m := Outgoing{To: []AccountID{to}, Type: BodyText, Body: []byte(text)}
	for _, o := range opts {
		o(&m)
	}
	return n.SendMessage(ctx, m)
}

// SendMessage is Send for any body and recipients. A body over 64 KiB is
// refused here as too_large: no pillar takes it.
func (n *Node) SendMessage(ctx context.Context, m Outgoing) (Sent, error) {
	if len(m.Body) > overlay.DefaultMaxBody {
		return Sent{}, overlay.Refuse(overlay.CodeTooLarge, "a body of %d bytes, at most %d are allowed", len(m.Body), overlay.DefaultMaxBody)
	}
	if used, limit := n.storeUse(); used > limit {
		return Sent{}, overlay.Refuse(overlay.CodeFull, "the store takes %d bytes and %d are allowed: raise the limit, or free space", used, limit)
	}
	return n.core().Send(ctx, m)
}

// useAge is how old the store's size may be that a limit is compared with.
const useAge = 5 * time.Second

// storeUse returns the bytes that the store takes on disk and those that it
// may.
func (n *Node) storeUse() (used, limit uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.usedAt) >= useAge {
		n.used, n.usedAt = dirSize(n.dir.file(dirStore)), time.Now()
	}
	limit = n.cfg.StoreLimit
	if limit == 0 {
		_, total, err := diskSpace(n.dir.path)
		if err != nil {
			return 0, math.MaxUint64 // a disk that cannot be asked sets no limit
		}
		limit = total / 10 * 9
	}
	return n.used, limit
}

// Wait returns when the message has reached want or a final state, or, with
// ctx's error, what it is when ctx ends. In a network of one pillar nothing is
// ever replicated, so there waiting for Replicated ends with Stored.
func (n *Node) Wait(ctx context.Context, h Handle, want State) (Sent, error) {
	core := n.core()
	if want == Replicated {
		m, err := core.Wait(ctx, h, Stored)
		if err != nil || m.State.Reached(want) || core.Status().PillarsKnown <= 1 {
			return m, err
		}
	}
	return core.Wait(ctx, h, want)
}

// SentMessage returns a message sent; the error is CodeNotFound if there is none.
func (n *Node) SentMessage(h Handle) (Sent, error) { return n.core().Sent(h) }

// Message finds a message, sent or received, by record ID or handle in hex.
func (n *Node) Message(id string) (admin.Message, error) {
	core := n.core()
	var h Handle
	if h.UnmarshalText([]byte(id)) == nil {
		m, err := core.Sent(h)
		return admin.Message{Out: &m}, err
	}
	var r RecordID
	if err := r.UnmarshalText([]byte(id)); err != nil {
		return admin.Message{}, overlay.Refuse(overlay.CodeBadRequest, "%q is neither a record ID nor a handle", id)
	}
	in, err := core.Received(r)
	if err == nil {
		return admin.Message{In: &in}, nil
	}
	if overlay.CodeOf(err) != overlay.CodeNotFound {
		return admin.Message{}, err
	}
	out, err := core.SentByID(r)
	return admin.Message{Out: &out}, err
}

// Inbox yields every message that is not acknowledged, oldest first, and then
// those that come, until ctx ends or the loop is left; an error, also ctx's, is
// yielded last. A message that is not acknowledged is yielded again by the next
// Inbox, not by this one.
func (n *Node) Inbox(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		news, stop := n.watchInbox(ctx)
		defer stop()
		var after uint64
		for {
			page, err := n.core().Inbox(after, 100, true)
			if err != nil {
				yield(Message{}, err)
				return
			}
			for _, m := range page {
				after = m.Order
				if !yield(m, nil) {
					return
				}
			}
			if len(page) > 0 {
				continue
			}
			select {
			case <-news:
			case <-ctx.Done():
				yield(Message{}, ctx.Err())
				return
			case <-n.Done():
				yield(Message{}, ErrClosed)
				return
			}
		}
	}
}

// watchInbox starts a goroutine that signals news after every message that
// came; stop ends it. The first signal comes at once.
func (n *Node) watchInbox(ctx context.Context) (news <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	c := make(chan struct{}, 1)
	var work sync.WaitGroup
	work.Go(func() {
		_ = n.Subscribe(ctx, 0, func(e Event) error { // ends with its context only
			if e.Kind == overlay.EventMessage || e.Kind == overlay.EventResync {
				select {
				case c <- struct{}{}:
				default:
				}
			}
			return nil
		})
	})
	return c, func() { cancel(); work.Wait() }
}

// Ack tells that the app has these messages: they are never handed out again.
// Twice is fine.
func (n *Node) Ack(ids ...RecordID) error { return n.core().Ack(ids...) }

// InboxPage is a page of messages received, oldest first, after the Order of
// one; next is 0 at the end.
func (n *Node) InboxPage(after uint64, limit int, unackedOnly bool) (page []Message, next uint64, err error) {
	page, err = n.core().Inbox(after, limit, unackedOnly)
	if len(page) > 0 && len(page) >= limit {
		next = page[len(page)-1].Order
	}
	return page, next, err
}

// OutboxPage is a page of messages sent, oldest first, after the Order of one;
// next is 0 at the end.
func (n *Node) OutboxPage(after uint64, limit int) (page []Sent, next uint64, err error) {
	page, err = n.core().Outbox(after, limit)
	if len(page) > 0 && len(page) >= limit {
		next = page[len(page)-1].Order
	}
	return page, next, err
}

// Subscribe calls fn for every event after the one numbered after until ctx
// ends or fn fails, and returns why. Where they are not all there any more, and
// for after = 0, it begins with a resync event. A device that got a new key
// begins again with a resync as well.
func (n *Node) Subscribe(ctx context.Context, after uint64, fn func(Event) error) error {
	if after == 0 {
		after = math.MaxUint64 // never given, so it is answered with a resync
	}
	return n.core().Subscribe(ctx, after, fn)
}
