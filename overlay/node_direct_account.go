package overlay

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// How an account's devices are found.
const (
	directLocateIn = 5 * time.Second  // for the answer of where they are
	directDialIn   = 15 * time.Second // for a circuit
	directLook     = time.Minute      // between looks for further devices while one is served
	directRefill   = time.Second      // between looks whether all that is undelivered fits
	maxDirectLanes = 8                // devices of one account
	directRecent   = 30 * time.Second // for a further device to be found that no pillar serves
)

// errNobody: no device of the account can be reached.
var errNobody = errors.New("no device of the account is to be reached")

// directAccount delivers to the devices of one account. Everything is guarded
// by nodeDirect's mu, but for what never changes.
type directAccount struct {
	d       *nodeDirect
	account identity.AccountID
	wake    chan struct{} // run: a lane ended, all was taken

	running bool
	started time.Time     // when it began to
	over    chan struct{} // closed to end run
	ending  bool          // it is
	used    time.Time     // when something last went, or was to go
	fails   int
	nextTry time.Time

	// items wait for at least one lane, or for further devices to be found, see
	// trim; items[0] has position base. Positions only grow. What is before done a
	// device has answered.
	items []directItem
	base  uint64
	done  uint64
	lanes map[identity.DeviceID]*directLane
	// behind: something was left out after items, so nothing may be added until
	// refill took all that is undelivered.
	behind   bool
	refilled time.Time
	looked   time.Time // when its devices were last asked for
	lost     bool      // since then a lane ended
	progress bool      // since then a device took something
}

// offer takes a record, or leaves it to the pillars. d.mu is held.
func (p *directAccount) offer(item directItem) {
	d := p.d
	guest := d.guestsOf(p.account) > 0
	receipt := item.kind == KindReceipt && !item.only
	switch {
	case receipt && !guest && len(p.lanes) == 0: // not worth a search
		return
	case !p.running && !guest && time.Now().Before(p.nextTry):
		d.n.metrics.directSkipped.WithLabelValues("backoff").Inc()
		return
	case p.waiting() >= maxDirectItems:
		d.n.metrics.directSkipped.WithLabelValues("full").Inc()
		p.behind = p.behind || !receipt
		return
	case p.behind && !receipt:
		d.n.metrics.directSkipped.WithLabelValues("behind").Inc()
		return
	}
	if !p.running && !d.start(p) {
		d.n.metrics.directSkipped.WithLabelValues("crowd").Inc()
		return
	}
	p.used = time.Now()
	item.at = p.used
	if d.bytes+len(item.raw) > maxDirectBytes {
		item.raw = nil
		if receipt {
			return // it may be gone from the disk when its turn comes
		}
	}
	p.items = append(p.items, item)
	d.bytes += len(item.raw)
	wakeUp(p.wake)
	for _, l := range p.lanes {
		wakeUp(l.wake)
	}
}

// end has run return. d.mu is held.
func (p *directAccount) end() {
	if !p.ending {
		p.ending = true
		close(p.over)
	}
}

// clear drops what waits. d.mu is held.
func (p *directAccount) clear() {
	for i := range p.items {
		p.d.bytes -= len(p.items[i].raw)
	}
	p.base += uint64(len(p.items))
	p.items, p.done = nil, p.base
}

// waiting is how many records no device has answered. d.mu is held.
func (p *directAccount) waiting() int { return len(p.items) - int(p.done-p.base) }

// trim drops what every lane's device has answered. What no pillar carries stays
// for some seconds more: the account's other devices are found one after the
// other. d.mu is held.
func (p *directAccount) trim() {
	if len(p.lanes) == 0 {
		return
	}
	now := time.Now()
	least := p.base + uint64(len(p.items))
	for _, l := range p.lanes {
		least = min(least, l.acked)
		p.done = max(p.done, l.acked)
	}
	n := 0
	for n < int(least-p.base) && (!p.items[n].only || len(p.items)-n > maxDirectItems || now.Sub(p.items[n].at) >= directRecent) {
		p.d.bytes -= len(p.items[n].raw)
		n++
	}
	clear(p.items[:n])
	p.items = p.items[n:]
	p.base += uint64(n)
	if len(p.items) == 0 {
		p.items = nil
	}
}

// run finds the account's devices and serves them until nothing was to be sent
// for a while, none is to be reached, or ctx ends.
func (p *directAccount) run(ctx context.Context) {
	d := p.d
	ctx, cancel := context.WithCancel(ctx)
	var lanes sync.WaitGroup
	defer func() {
		cancel()
		lanes.Wait()
		d.mu.Lock()
		p.running, p.ending, p.behind = false, false, false
		p.clear()
		d.mu.Unlock()
	}()
	tick := time.NewTicker(directRefill)
	defer tick.Stop()
	for {
		d.mu.Lock()
		if p.ending {
			d.mu.Unlock()
			return
		}
		p.trim()
		served := len(p.lanes) > 0
		waits := p.waiting() > 0 || p.behind
		idle := time.Since(p.used) > directIdle
		refill := served && p.behind && p.settled() && time.Since(p.refilled) >= directRefill
		look := served && waits && time.Since(p.looked) >= directLook
		fresh := p.looked.Before(p.started)
		d.mu.Unlock()
		switch {
		case !waits && idle, !waits && !served && !fresh:
			return
		case !served || look:
			if !p.reach(ctx, &lanes) && !served {
				return
			}
			continue
		case refill:
			p.refill()
		}
		select {
		case <-ctx.Done():
			return
		case <-p.over:
			return
		case <-p.wake:
		case <-tick.C:
		}
	}
}

// refill takes all that is undelivered, from the oldest on. If that is too much,
// and pillars carry it, nothing is taken: a device must not get a message while
// an earlier one is on another way, or it would report a gap.
func (p *directAccount) refill() {
	d, o := p.d, p.d.n.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	only, carried := o.due.first(p.account, maxDirectItems+1, time.Now())
	list := only
	if len(only) == 0 || len(only)+len(carried) <= maxDirectItems {
		list = slices.Concat(only, carried)
		slices.SortFunc(list, func(a, b *shipment) int { return cmp.Compare(a.ticket, b.ticket) })
	}
	behind := len(list) > maxDirectItems
	switch {
	case behind && !list[0].only && o.active != nil:
		list = nil
	case behind:
		list = list[:maxDirectItems]
	}
	items := make([]directItem, len(list))
	for i, s := range list {
		items[i] = d.item(s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, item := range p.items {
		// Receipts that pillars have, and what is final but not for the account's
		// other devices, stand in no list.
		if final := item.only && item.ship.gone && item.raw != nil && time.Since(item.at) < directRecent; final || item.kind == KindReceipt && !item.only {
			items = append(items, item)
		}
	}
	slices.SortStableFunc(items, func(a, b directItem) int { return cmp.Compare(a.ship.ticket, b.ship.ticket) })
	p.clear()
	p.behind, p.refilled = behind, time.Now()
	for i := range items {
		if items[i].at.IsZero() {
			items[i].at = p.refilled
		}
		if d.bytes+len(items[i].raw) > maxDirectBytes {
			items[i].raw = nil
		}
		d.bytes += len(items[i].raw)
	}
	p.items = items
	for _, l := range p.lanes {
		l.next, l.sent, l.acked = p.base, p.base, p.base
		wakeUp(l.wake)
	}
}

// settled reports whether no lane has anything to send or to wait for. d.mu is
// held.
func (p *directAccount) settled() bool {
	for _, l := range p.lanes {
		if l.acked < p.base+uint64(len(p.items)) {
			return false
		}
	}
	return true
}

// reach opens lanes to the account's devices: to those that are connected at
// once, then, if something is worth it, to those that say where they are. It
// reports whether there is one; if not, the account is left alone for a while.
func (p *directAccount) reach(ctx context.Context, lanes *sync.WaitGroup) bool {
	d := p.d
	d.mu.Lock()
	p.looked = time.Now()
	search := p.behind || p.waiting() == 0
	for _, item := range p.items {
		search = search || item.kind == KindMessage || item.only
	}
	before := len(p.lanes)
	futile := before == 0 && p.lost && !p.progress // the last lanes led nowhere
	p.lost, p.progress = false, false
	d.mu.Unlock()

	devices, all := p.devices()
	n := 0
	for _, dev := range devices {
		if p.serve(ctx, lanes, dev) == nil {
			n++
		}
	}
	if search && !(all && n == len(devices)) && ctx.Err() == nil {
		n += p.locate(ctx, lanes)
	}
	d.mu.Lock()
	switch {
	case n > 0 && !futile:
		p.fails, p.nextTry = 0, time.Time{}
	case before == 0:
		p.fails++
		p.nextTry = time.Now().Add(jitter(min(directRetryMax, directRetryMin<<min(p.fails-1, 8))))
	}
	ok := before+n > 0 && !(futile && p.fails > 2)
	d.mu.Unlock()
	if !ok && ctx.Err() == nil {
		d.n.outbox.unreached(p.account)
	}
	return ok
}

// devices lists the account's devices that are connected, and whether those are
// all that the directory knows of.
func (p *directAccount) devices() (connected []identity.DeviceID, all bool) {
	n := p.d.n
	acc, err := n.dir.account(p.account)
	if err != nil {
		return nil, false
	}
	add := func(dev identity.DeviceID) bool {
		_, ok := n.cfg.Peers.Info(peer.ID(dev))
		if ok && !slices.Contains(connected, dev) && len(connected) < maxDirectLanes {
			connected = append(connected, dev)
		}
		return ok
	}
	now, listed := n.now(), 0
	for _, dev := range acc.devices {
		if dev.device == n.device() || !dev.cert.Covers(now) || acc.info != nil && !acc.info.Has(dev.device, dev.cert.Serial) {
			continue
		}
		if listed++; add(dev.device) {
			listed--
		}
	}
	for _, dev := range p.d.devicesOf(p.account) { // met before the directory told of them
		add(dev)
	}
	return connected, listed == 0 && len(connected) > 0
}

// locate asks where the account's devices are, dials them, and returns how many
// it opened lanes to.
func (p *directAccount) locate(ctx context.Context, lanes *sync.WaitGroup) (n int) {
	d := p.d
	lctx, cancel := context.WithTimeout(ctx, directLocateIn)
	found, err := d.find(lctx, p.account)
	cancel()
	if err != nil || len(found) == 0 {
		d.failed("locate", p.account, err)
		return 0
	}
	dctx, cancel := context.WithTimeout(ctx, directDialIn)
	defer cancel()
	reached := make(chan identity.DeviceID)
	dials := 0
	var work sync.WaitGroup
	for _, at := range found[:min(len(found), maxDirectLanes)] {
		if at.Device == d.n.device() || p.has(at.Device) {
			continue
		}
		dials++
		work.Go(func() {
			if err := d.dial(dctx, &at); err != nil {
				d.n.locator.forget(p.account)
				d.failed("dial", p.account, err)
				reached <- ""
				return
			}
			reached <- at.Device
		})
	}
	for range dials { // each as soon as it is there
		if dev := <-reached; dev != "" && p.serve(ctx, lanes, dev) == nil {
			n++
		}
	}
	work.Wait()
	return n
}

// dial makes sure of a connection with a device.
func (d *nodeDirect) dial(ctx context.Context, at *Presence) error {
	if _, ok := d.n.cfg.Peers.Info(peer.ID(at.Device)); ok {
		return nil
	}
	if d.n.cfg.Traversal == nil {
		return errNobody
	}
	roster := d.n.pillars()
	var via []PillarAddr
	for _, p := range at.Pillars[:min(len(at.Pillars), MaxPresencePillars)] {
		e, ok := roster.Lookup(p)
		if !ok || e.Info.Home || !roster.Admitted(p, d.n.now()) {
			continue // home pillars relay for nobody
		}
		for _, a := range d.n.sessions.addrsFor(p) {
			via = append(via, PillarAddr{p, a})
		}
	}
	if len(via) == 0 {
		return errNobody
	}
	return d.n.cfg.Traversal.DialThrough(ctx, peer.ID(at.Device), via)
}

// has reports whether there is a lane to the device.
func (p *directAccount) has(dev identity.DeviceID) bool {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	return p.lanes[dev] != nil
}

// serve opens a lane to a connected device. It returns nil if there is one now.
func (p *directAccount) serve(ctx context.Context, lanes *sync.WaitGroup, dev identity.DeviceID) error {
	d := p.d
	if p.has(dev) {
		return errHasLane
	}
	s, err := d.greet(ctx, p.account, dev)
	if err != nil {
		d.failed("stream", p.account, err)
		return err
	}
	d.mu.Lock()
	first := len(p.lanes) == 0
	d.mu.Unlock()
	if first {
		p.refill()
	}
	l := &directLane{p: p, device: dev, wake: make(chan struct{}, 1)}
	d.mu.Lock()
	l.next, l.sent, l.acked = p.base, p.base, p.base
	p.lanes[dev] = l
	// A direct connection may have come while the device was greeted, when there
	// was no lane to be told.
	info, _ := d.n.cfg.Peers.Info(peer.ID(dev))
	l.better = info.Path == PathDirect
	d.mu.Unlock()
	lanes.Go(func() {
		l.run(ctx, s)
		d.mu.Lock()
		delete(p.lanes, dev)
		p.lost = true
		p.trim()
		d.mu.Unlock()
		wakeUp(p.wake)
	})
	return nil
}

// errHasLane: a device has a lane already.
var errHasLane = errors.New("the device is served already")

// failed counts and notes why an account was not reached, or left.
func (d *nodeDirect) failed(what string, a identity.AccountID, err error) {
	d.n.metrics.directFailed.WithLabelValues(what).Inc()
	d.n.log.Debug("direct delivery", "failed", what, "account", a, "err", err)
}
