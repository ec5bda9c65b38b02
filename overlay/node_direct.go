package overlay

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Bounds of direct delivery.
const (
	maxDirectPairs = 64      // accounts that are delivered to at a time
	maxDirectKnown = 1024    // accounts whose back-off is remembered
	maxDirectItems = 256     // records that wait for one account
	maxDirectBytes = 8 << 20 // of them all that are in memory; the others are read from disk
	directIdle     = 3 * time.Minute
	directBusy     = 10 * time.Second // for which an account that something went to keeps its place
	directRetryMin = 3 * time.Second
	directRetryMax = 10 * time.Minute
	directSweep    = 5 * time.Second  // between looks for what only devices get
	directHadFor   = 10 * time.Minute // how long a device's word counts while no receipt comes
)

// nodeDirect hands what the node sends to the recipients' devices as well, and
// takes what they hand over: beside the pillars, or, with --direct only, instead
// of them.
//
//	nodeOutbox ──offer──► directAccount ──► directLane ──Deliver──► the other's
//	     ▲                 where its          one a        Near      inbox
//	     └──── answered ── devices are        device     ◄─Delivered─┘
//
// Nothing here delays a submission: offers never wait, and what finds no room or
// no device is left to the pillars. A device is sent an account's messages in
// order and without a gap, or none: see refill.
//
// Locks: the outbox's may be held when mu is taken, never the other way round.
type nodeDirect struct {
	n     *Node
	find  func(context.Context, identity.AccountID) ([]Presence, error)
	wake  chan struct{} // run: accounts want to be started
	look  chan struct{} // run: somebody may be reached who was not before
	nears chan nearDial
	quota directQuota

	mu       sync.Mutex
	closed   bool                                  // guarded by mu; true unless Run runs
	work     sync.WaitGroup                        // added to under mu while not closed
	stop     chan struct{}                         // closed when closed becomes true
	accounts map[identity.AccountID]*directAccount // guarded by mu
	starts   []*directAccount                      // guarded by mu; to be started
	bytes    int                                   // guarded by mu; see maxDirectBytes
	guests   map[peer.ID]*directGuest              // guarded by mu; who has a stream to us
	greeting map[Stream]struct{}                   // guarded by mu; streams before their Hello
	banned   map[peer.ID]time.Time                 // guarded by mu; until then nothing is taken
	known    map[identity.DeviceID]*directContact  // guarded by mu
}

// directItem is a record for an account's devices.
type directItem struct {
	ship     *shipment
	id       RecordID
	kind     Kind
	only     bool
	at       time.Time // when it came here
	raw      []byte    // nil: on disk
	epoch    seal.EpochID
	epochRaw []byte // nil: the device has to find it elsewhere
}

func newNodeDirect(n *Node) *nodeDirect {
	d := &nodeDirect{n: n, wake: make(chan struct{}, 1), look: make(chan struct{}, 1), closed: true, stop: make(chan struct{}),
		accounts: map[identity.AccountID]*directAccount{}, guests: map[peer.ID]*directGuest{}, greeting: map[Stream]struct{}{}, nears: make(chan nearDial, 16),
		banned: map[peer.ID]time.Time{}, known: map[identity.DeviceID]*directContact{}}
	d.find = n.locate
	return d
}

// off reports whether nothing goes directly.
func (d *nodeDirect) off() bool { return d.n.cfg.Direct == "off" }

// only reports whether nothing goes to pillars.
func (d *nodeDirect) only() bool { return d.n.cfg.Direct == "only" }

// open lets streams in; run closes.
func (d *nodeDirect) open() {
	if d.off() {
		return
	}
	d.mu.Lock()
	d.closed = false
	d.mu.Unlock()
	d.n.cfg.Links.Handle(ProtoDirect, d.accept)
}

// run starts what is to be delivered, until ctx ends. It owns every goroutine of
// direct delivery.
func (d *nodeDirect) run(ctx context.Context) {
	if d.off() {
		return
	}
	defer d.close()
	tick := time.NewTicker(directSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-tick.C:
			d.sweep()
		case <-d.look:
			d.sweep()
		case w := <-d.nears:
			d.goWork(func() { d.dialNear(ctx, w) })
		}
		d.mu.Lock()
		for _, p := range d.starts {
			d.work.Go(func() { p.run(ctx) })
		}
		d.starts = nil
		d.mu.Unlock()
	}
}

// close ends all streams and waits for their goroutines.
func (d *nodeDirect) close() {
	d.n.cfg.Links.Handle(ProtoDirect, nil)
	d.mu.Lock()
	d.closed = true
	close(d.stop)
	for _, g := range d.guests {
		_ = g.stream.Reset()
	}
	for stream := range d.greeting {
		_ = stream.Reset()
	}
	d.mu.Unlock()
	d.work.Wait()
}

// goWork runs fn unless direct delivery is over.
func (d *nodeDirect) goWork(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.work.Go(fn)
	}
}

// offer takes a record that is durable in the outbox. Records come in the order
// in which they go to pillars. The outbox's mu is held; offer never waits.
func (d *nodeDirect) offer(s *shipment) {
	if s.kind != KindMessage && s.kind != KindReceipt || d.off() {
		return
	}
	item := d.item(s)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	for _, a := range s.to {
		d.account(a).offer(item)
	}
}

// item describes a shipment. The outbox's mu is held.
func (d *nodeDirect) item(s *shipment) directItem {
	item := directItem{ship: s, id: s.id, kind: s.kind, only: s.only, raw: s.raw, epoch: s.epoch}
	if ep := d.n.outbox.byEpoch[s.epoch]; ep != nil {
		item.epochRaw = ep.raw
	}
	return item
}

// account returns the account's entry, made if need be; for a new one that no
// longer fits, the one that was unused for longest is forgotten. d.mu is held.
func (d *nodeDirect) account(a identity.AccountID) *directAccount {
	p := d.accounts[a]
	if p != nil {
		return p
	}
	if len(d.accounts) >= maxDirectKnown {
		var oldest *directAccount
		for _, o := range d.accounts {
			if !o.running && (oldest == nil || o.used.Before(oldest.used)) {
				oldest = o
			}
		}
		if oldest != nil {
			delete(d.accounts, oldest.account)
		}
	}
	p = &directAccount{d: d, account: a, wake: make(chan struct{}, 1), lanes: map[identity.DeviceID]*directLane{}}
	d.accounts[a] = p
	return p
}

// start has run start p. If there are too many already, the one that was unused
// for longest ends; false if all are in use. d.mu is held.
func (d *nodeDirect) start(p *directAccount) bool {
	running := 0
	var oldest *directAccount
	for _, o := range d.accounts {
		if o.running {
			running++
			if oldest == nil || o.used.Before(oldest.used) {
				oldest = o
			}
		}
	}
	if running >= maxDirectPairs {
		if time.Since(oldest.used) < directBusy {
			return false
		}
		oldest.end()
	}
	p.running, p.started, p.over = true, time.Now(), make(chan struct{})
	p.used = p.started
	p.lost, p.progress = false, false
	d.starts = append(d.starts, p)
	wakeUp(d.wake)
	return true
}

// sweep starts accounts for which records wait that no pillar gets.
func (d *nodeDirect) sweep() {
	waiting := d.n.outbox.onlyAccounts()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for p, until := range d.banned {
		if until.Before(now) {
			delete(d.banned, p)
		}
	}
	started := 0
	for a := range waiting {
		p := d.account(a)
		if p.running || now.Before(p.nextTry) {
			continue
		}
		// The others in the next rounds: an account that fails backs off.
		if started++; started > maxDirectPairs/2 || !d.start(p) {
			return
		}
	}
}

// heard forgets that an account could not be reached: it just reached us.
func (d *nodeDirect) heard(a identity.AccountID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.accounts[a]; p != nil {
		p.fails, p.nextTry = 0, time.Time{}
	}
	wakeUp(d.look)
}

// connected forgets all back-offs: with a new active pillar everybody may be
// found who was not before.
func (d *nodeDirect) connected() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.accounts {
		p.fails, p.nextTry = 0, time.Time{}
	}
	wakeUp(d.look)
}

// guestsOf is how many devices of the account have a stream to us. d.mu is held.
func (d *nodeDirect) guestsOf(a identity.AccountID) (n int) {
	for _, g := range d.guests {
		n += btoi(g.account == a)
	}
	return n
}

// welcomes reports whether devices of an account may deliver here: to contacts,
// to whom the user has written, or to anybody, as --presence says, and to nobody
// who is blocked.
func (d *nodeDirect) welcomes(a identity.AccountID) bool {
	n := d.n
	if n.contacts.blocked(a) {
		return false
	}
	if n.cfg.Presence == "anyone" || a == n.account() || n.contacts.has(a) {
		return true
	}
	return n.outbox.wroteTo(a)
}

// wroteTo reports whether a message was ever sent to a from here.
func (o *nodeOutbox) wroteTo(a identity.AccountID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seqs[a] != nil
}

// onlyAccounts are those for which something waits that no pillar gets.
func (o *nodeOutbox) onlyAccounts() map[identity.AccountID]struct{} {
	list := map[identity.AccountID]struct{}{}
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for a, l := range o.due {
		if l.only == nil && len(l.had) == 0 {
			continue
		}
		l.again(a, now)
		if len(l.head(&l.only, a, 1, now)) > 0 {
			list[a] = struct{}{}
		}
	}
	return list
}

// hadBy reports whether a device of a said lately that it has the record. The
// outbox's mu is held.
func (s *shipment) hadBy(a identity.AccountID, now time.Time) bool {
	at, ok := s.had[a]
	return ok && now.Sub(at) < directHadFor
}

// answered notes what a device of an account said of records.
func (o *nodeOutbox) answered(a identity.AccountID, items []directItem, errs []*Error) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range items {
		s := items[i].ship
		if s.gone {
			continue
		}
		if err := errs[i]; err != nil {
			if s.entry != nil && s.only && s.entry.state == StateQueued {
				o.setState(s.entry, StateQueued, err.Code)
			}
			continue
		}
		if s.had == nil {
			s.had = map[identity.AccountID]time.Time{}
		}
		s.had[a] = now
		switch {
		case s.entry == nil && s.only: // a receipt: that is all there is to it
			o.drop(s)
		case s.entry != nil && s.only && s.entry.state == StateQueued:
			o.setState(s.entry, StateQueued, "")
		}
	}
}

// unreached says of the messages that only devices of a get why they wait.
func (o *nodeOutbox) unreached(a identity.AccountID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.due.onlyTo(a) {
		if e := s.entry; e != nil && e.state == StateQueued {
			o.setState(e, StateQueued, CodeUnreachable)
		}
	}
}
