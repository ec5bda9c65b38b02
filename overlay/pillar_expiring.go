package overlay

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// The look for messages that are about to expire unconfirmed: they end within
// expiringWithin, have lived half of their life, and a recipient has written no
// receipt to their author since they were created. A pillar cannot read receipts,
// but where there is none it knows.
//
// The look goes through the box entries of the expiry days in question, in passes,
// some of a pass every few minutes, and on from where it stopped. What it finds it
// gathers by author, and then walks through each author's mailbox once for the
// receipts there:
//
//	gather messages of the days, until a batch is full or the days are over
//	read   the mailbox of one author of the batch after the other
//	judge  the batch
//
// It has a budget for what it reads at a time, whatever the store holds and
// whoever filled it: with more to read the passes take longer. It costs the
// commits nothing: it reads snapshots, and nothing is kept for it as records come.

const (
	// expiringWithin is how soon a message ends that counts.
	expiringWithin = 24 * time.Hour
	// lookEvery is the time from one look to the next.
	lookEvery = 2 * time.Minute
	// lookKeys is what it takes off the budget to see whether an author still has
	// devices.
	lookKeys = 64
)

// lookBounds are what looks keep to.
type lookBounds struct {
	look    readBudget // of one look
	chunk   readBudget // in one view
	batch   int        // answers that are waited for, in memory
	mailbox int        // entries of one author's mailbox, for a batch: of whose is larger nothing is said
	told    int        // recipients that are told apart
	// rest is how often the time that a chunk took a look rests after it, so that it
	// has a tenth of a core at most while it goes on.
	rest time.Duration
}

func newLookBounds() lookBounds {
	return lookBounds{look: readBudget{1 << 17, 128 << 20}, chunk: readBudget{4096, 4 << 20}, batch: 1 << 15, mailbox: 1 << 18, told: 1 << 14, rest: 9}
}

// Expiring is what the pillar knows of messages that are about to expire
// unconfirmed.
type Expiring struct {
	// Messages end within a day, have lived half of their life, and at least one
	// recipient has written no receipt to their author since they were created.
	Messages int
	// Accounts are the recipients that have not.
	Accounts int
	// AtLeast: there may be more, because not everything was looked at.
	AtLeast bool
	// At is when the last look was over that went through everything; of the first
	// one, which still goes on, how far it is. Zero: nothing was looked at.
	At time.Time
}

// expiringLook is the look as it goes on. One goroutine uses it.
type expiringLook struct {
	p      *Pillar
	bounds lookBounds
	done   bool // a pass was over

	// What follows belongs to a pass.

	begun uint64 // the pass, Unix ms; 0: none has
	days  []Day  // of messages that are still to be gone through
	at    Place  // in the first of them: gone through up to here

	// The batch.
	messages []expiringMessage
	waits    int // answers that are waited for
	authors  map[identity.AccountID]*expiringAuthor
	queue    []*expiringAuthor // whose mailboxes are still to be read
	mailDays []Day             // of the mailboxes; nil while messages are gathered

	// What the pass has found.
	found    int
	accounts map[identity.AccountID]struct{}
	partial  bool

	to [][]byte // for taking records apart
}

// expiringMessage is a message of the batch.
type expiringMessage struct {
	created uint64
	author  *expiringAuthor
	waits   []*expiringAnswer
}

// expiringAuthor is an author of messages in the batch.
type expiringAuthor struct {
	id      identity.AccountID
	answers map[identity.AccountID]*expiringAnswer
	open    int // answers that are older than the newest message they may confirm
	// Up to where the mailbox was read: in mailDays[day], after a local position.
	day   int
	after uint64
	read  int  // entries
	skip  bool // nothing can be said of its messages
}

// expiringAnswer is what one account wrote to one author.
type expiringAnswer struct {
	account identity.AccountID
	newest  uint64 // the newest message that waits for it was created then, Unix ms
	receipt uint64 // the newest receipt was, Unix ms; 0: there is none
}

// lookLoop looks until ctx ends.
func (p *Pillar) lookLoop(ctx context.Context) {
	l := &expiringLook{p: p, bounds: newLookBounds()}
	for sleep(ctx, lookEvery) {
		// Before the first scrub mailboxes may lack what the store holds, and a
		// clock in doubt knows of no end.
		if !p.scrubbed.Load() || !p.clock.mayDelete(p.now()) {
			continue
		}
		if err := l.look(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("not looked for messages about to expire", "err", err)
			l.reset()
		}
	}
}

// reset forgets the pass.
func (l *expiringLook) reset() { *l = expiringLook{p: l.p, bounds: l.bounds, done: l.done} }

// look goes on until the pass is over or the budget of one look used up.
func (l *expiringLook) look(ctx context.Context) error {
	left := l.bounds.look
	for over := false; !over && left.left(); {
		begun := time.Now()
		chunk := readBudget{min(left.entries, l.bounds.chunk.entries), min(left.bytes, l.bounds.chunk.bytes)}
		before := chunk
		view := l.p.cfg.Store.View()
		var err error
		for over = false; err == nil && !over && chunk.left(); {
			over, err = l.step(view, &chunk)
		}
		view.Close()
		left.entries -= before.entries - chunk.entries
		left.bytes -= before.bytes - chunk.bytes
		l.p.metrics.expiringReads.Add(float64(before.entries - chunk.entries))
		if err != nil {
			return err
		}
		if !sleep(ctx, l.bounds.rest*time.Since(begun)) {
			return ctx.Err()
		}
		if over {
			l.publish(l.partial)
			l.done = true
			l.reset()
		}
	}
	if l.begun != 0 && !l.done {
		l.publish(true) // better than nothing
	}
	return nil
}

// publish tells what was found.
func (l *expiringLook) publish(atLeast bool) {
	e := &Expiring{Messages: l.found, Accounts: len(l.accounts), AtLeast: atLeast, At: l.p.cfg.Now().UTC()}
	l.p.expiring.Store(e)
	l.p.metrics.expiringMessages.Set(float64(e.Messages))
	l.p.metrics.expiringAccounts.Set(float64(e.Accounts))
}

// step does the next thing that is to be done, as far as the budget reaches. It
// reports whether the pass is over.
func (l *expiringLook) step(view View, budget *readBudget) (over bool, err error) {
	switch {
	case l.begun == 0:
		now := l.p.now()
		l.begun, l.accounts = now, map[identity.AccountID]struct{}{}
		l.days = []Day{DayOf(now), DayOf(now + uint64(expiringWithin.Milliseconds()))}
		return false, nil
	case l.mailDays != nil:
		return false, l.read(view, budget)
	case l.waits >= l.bounds.batch, len(l.days) == 0 && l.waits > 0:
		return false, l.turn(view)
	case len(l.days) > 0:
		return false, l.gather(view, budget)
	default:
		return true, nil
	}
}

// gather adds messages to the batch.
func (l *expiringLook) gather(view View, budget *readBudget) error {
	stopped := false
	err := view.Parts().Places(l.days[0], l.at, func(at Place, e BoxEntry) bool {
		l.at = at
		more := budget.spend(&e)
		l.take(&e)
		stopped = !more || l.waits >= l.bounds.batch
		return !stopped
	})
	if err != nil {
		return fmt.Errorf("read expiring messages: %w", err)
	}
	if !stopped {
		l.days, l.at = l.days[1:], Place{}
	}
	return nil
}

// take adds a message to the batch if it is one that counts. A message to several
// is taken where its bytes are, which is once.
func (l *expiringLook) take(e *BoxEntry) {
	if len(e.Raw) == 0 || e.Expires <= l.begun || e.Expires > l.begun+uint64(expiringWithin.Milliseconds()) ||
		e.Created > l.begun || l.begun-e.Created < e.Expires-l.begun {
		return
	}
	f, err := readStoredTo(e.Raw, "", slices.Grow(l.to[:0], 1))
	if err != nil || f.kind != KindMessage {
		return
	}
	l.to = f.to
	if l.authors == nil {
		l.authors = map[identity.AccountID]*expiringAuthor{}
	}
	a := l.authors[identity.AccountID(f.author)]
	if a == nil {
		a = &expiringAuthor{id: identity.AccountID(f.author), answers: map[identity.AccountID]*expiringAnswer{}}
		l.authors[a.id] = a
		l.queue = append(l.queue, a)
	}
	m := expiringMessage{created: e.Created, author: a}
	for _, to := range f.to {
		if !awaited(f.author, to, len(f.to)) {
			continue
		}
		x := a.answers[identity.AccountID(to)]
		if x == nil {
			x = &expiringAnswer{account: identity.AccountID(to)}
			a.answers[x.account] = x
			a.open++
		}
		x.newest = max(x.newest, e.Created)
		m.waits = append(m.waits, x)
	}
	l.messages = append(l.messages, m)
	l.waits += len(m.waits)
}

// turn ends the gathering: mailboxes are read next, of all expiry days that are
// still there. What receipts outlive their messages by has them, as a rule, on
// later days than those; what has expired lately counts too.
func (l *expiringLook) turn(view View) error {
	days, err := view.Parts().Days()
	if err != nil {
		return fmt.Errorf("read expiry days: %w", err)
	}
	today := DayOf(l.begun)
	slices.SortFunc(days, func(a, b Day) int {
		return cmp.Or(cmp.Compare(btoi(a <= today), btoi(b <= today)), cmp.Compare(a, b))
	})
	l.mailDays = append([]Day{}, days...)
	return nil
}

// read goes on with the mailbox of the first author in the queue.
func (l *expiringLook) read(view View, budget *readBudget) error {
	if len(l.queue) == 0 {
		l.judge()
		return nil
	}
	a := l.queue[0]
	if a.open > 0 && a.day < len(l.mailDays) && a.read < l.bounds.mailbox {
		before := budget.entries
		reached, err := eachReceipt(view.Parts(), l.mailDays[a.day], Mailbox(a.id), a.after, budget, func(f *storedFields, e *BoxEntry) bool {
			a.note(f, e)
			return a.open > 0
		})
		if err != nil {
			return fmt.Errorf("read receipts: %w", err)
		}
		a.read += before - budget.entries
		if a.after = reached; reached == math.MaxUint64 {
			a.day, a.after = a.day+1, 0
		}
		return nil
	}
	l.queue = l.queue[1:]
	if a.open == 0 {
		return nil
	}
	if a.day < len(l.mailDays) {
		a.skip, l.partial = true, true
		return nil
	}
	// To an account without devices nothing can be sealed: nobody can answer it.
	budget.entries -= lookKeys
	info, err := l.p.newestAccount(a.id)
	if err != nil {
		return fmt.Errorf("read account: %w", err)
	}
	a.skip = info != nil && !slices.ContainsFunc(info.Devices, func(d DeviceSerial) bool { return info.Has(d.Device, d.Serial) })
	return nil
}

// note takes a receipt to the author into account.
func (a *expiringAuthor) note(f *storedFields, e *BoxEntry) {
	x := a.answers[identity.AccountID(f.author)]
	if x == nil || e.Created <= x.receipt {
		return
	}
	if !mayConfirm(x.receipt, x.newest) && mayConfirm(e.Created, x.newest) {
		a.open--
	}
	x.receipt = e.Created
}

// judge counts the messages of the batch that nobody may have confirmed, and ends
// it.
func (l *expiringLook) judge() {
	for i := range l.messages {
		m := &l.messages[i]
		if m.author.skip {
			continue
		}
		missing := false
		for _, x := range m.waits {
			if mayConfirm(x.receipt, m.created) {
				continue
			}
			missing = true
			if _, known := l.accounts[x.account]; !known && len(l.accounts) >= l.bounds.told {
				l.partial = true
			} else {
				l.accounts[x.account] = struct{}{}
			}
		}
		l.found += btoi(missing)
	}
	l.messages, l.waits, l.authors, l.queue, l.mailDays = nil, 0, nil, nil, nil
}
