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
// gathers by author, and then looks for receipts in these authors' mailboxes:
//
//	gather messages of the days, until a batch is full or the days are over
//	seek   the mailboxes of the batch's authors, one after the other, or
//	scan   all boxes, if there are so many authors that this is less work
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
)

// lookBounds are what looks keep to.
type lookBounds struct {
	look    readBudget // of one look
	chunk   readBudget // in one view
	batch   int        // answers that are waited for, in memory
	mailbox int        // entries sought in one author's mailbox, for a batch: of whose is larger nothing is said
	seek    uint64     // as how many entries of a scan seeking one mailbox on one day counts
	told    int        // recipients that are told apart
	// rest is how often the time that a chunk took a look rests after it, so that it
	// has a tenth of a core at most while it goes on.
	rest time.Duration
}

func newLookBounds() lookBounds {
	return lookBounds{look: readBudget{1 << 18, 256 << 20}, chunk: readBudget{4096, 4 << 20}, batch: 1 << 16, mailbox: 1 << 18,
		seek: seekCost, told: 1 << 14, rest: 9}
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

	expiringBatch

	// What the pass has found.
	found    int
	accounts map[identity.AccountID]struct{}
	partial  bool

	to [][]byte // for taking records apart
}

// expiringBatch is what is judged at a time.
type expiringBatch struct {
	messages []expiringMessage
	waits    int // answers that are waited for
	authors  map[identity.AccountID]*expiringAuthor
	queue    []*expiringAuthor // whose mailboxes are still to be sought
	open     int               // authors that have open answers
	mailDays []Day             // of the mailboxes; nil while messages are gathered
	// Of a scan:
	boxes   map[BoxID]*expiringAuthor // nil: mailboxes are sought
	scanned []Day                     // what is left of mailDays
	scanAt  Place                     // in the first of them: gone through up to here
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
	// Up to where the mailbox was sought: in mailDays[day], after a local position.
	day   int
	after uint64
	read  int  // entries
	skip  bool // nothing is said of its messages
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
	case l.mailDays != nil && l.open > 0 && l.boxes != nil && len(l.scanned) > 0:
		return false, l.scan(view, budget)
	case l.mailDays != nil && l.open > 0 && l.boxes == nil && len(l.queue) > 0:
		return false, l.seek(view, budget)
	case l.mailDays != nil:
		l.judge()
		return false, nil
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
			l.open += btoi(a.open == 0)
			a.open++
		}
		x.newest = max(x.newest, e.Created)
		m.waits = append(m.waits, x)
	}
	l.messages = append(l.messages, m)
	l.waits += len(m.waits)
}

// turn ends the gathering: receipts are looked for next, on all expiry days that
// are still there. What receipts outlive their messages by has them, as a rule, on
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
	if uint64(len(l.queue)*len(days))*l.bounds.seek >= l.p.cfg.Store.Stats().Records {
		l.boxes, l.scanned = make(map[BoxID]*expiringAuthor, len(l.queue)), l.mailDays
		for _, a := range l.queue {
			l.boxes[Mailbox(a.id)] = a
		}
	}
	return nil
}

// scan goes on through all boxes of a day.
func (l *expiringLook) scan(view View, budget *readBudget) error {
	stopped := false
	a := l.boxes[l.scanAt.Box]
	err := view.Parts().Places(l.scanned[0], l.scanAt, func(at Place, e BoxEntry) bool {
		if at.Box != l.scanAt.Box {
			a = l.boxes[at.Box]
		}
		l.scanAt = at
		more := budget.spend(&e)
		if a != nil && len(e.Raw) > 0 {
			if f, err := readStored(e.Raw, ""); err == nil && f.kind == KindReceipt {
				l.note(a, &f, &e)
			}
		}
		stopped = !more || l.open == 0
		return !stopped
	})
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	if !stopped {
		l.scanned, l.scanAt = l.scanned[1:], Place{}
	}
	return nil
}

// seek goes on with the mailbox of the first author in the queue.
func (l *expiringLook) seek(view View, budget *readBudget) error {
	a := l.queue[0]
	switch {
	case a.open == 0 || a.day == len(l.mailDays):
		l.queue = l.queue[1:]
		return nil
	case a.read >= l.bounds.mailbox:
		a.skip, l.partial = true, true
		l.queue = l.queue[1:]
		return nil
	}
	before := budget.entries
	reached, err := eachReceipt(view.Parts(), l.mailDays[a.day], Mailbox(a.id), a.after, budget, func(f *storedFields, e *BoxEntry) bool {
		l.note(a, f, e)
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

// note takes a receipt to an author into account.
func (l *expiringLook) note(a *expiringAuthor, f *storedFields, e *BoxEntry) {
	x := a.answers[identity.AccountID(f.author)]
	if x == nil || e.Created <= x.receipt {
		return
	}
	if !mayConfirm(x.receipt, x.newest) && mayConfirm(e.Created, x.newest) {
		a.open--
		l.open -= btoi(a.open == 0)
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
	l.expiringBatch = expiringBatch{}
}
