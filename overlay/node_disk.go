package overlay

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A node's table, by key prefix. Numbers in keys are 8 bytes big-endian, so
// that they sort; IDs are raw.
//
//	self/…                     pinned network, certificate, own records, counters
//	roster/p/<pillar>          [local 0|1] and the newest pillar record
//	roster/r/<pillar>          the newest revocation
//	addr/<pillar><multiaddr>   an address given by hand, or that worked
//	cur/<box>                  the cursor of a box
//	out/<order>                an outgoing message, less body and record
//	outb/<order>               its plaintext
//	outr/<order>               its record, until a final state
//	outh/<handle> outi/<id> outc/<client id>   its order
//	hid/<id>                   epochs, receipts, own records on their way
//	hio/<id>                   epochs and receipts that no pillar gets
//	seq/<account>              sequences given out
//	in/<order>                 a message received
//	ini/<id>                   its order
//	una/<order>                it is not acknowledged
//	seen/<day><id>             every record of the mailbox: created, expires, [1 if no pillar has shown it]
//	ep/<epoch><id>             an epoch record received
//	pend/<epoch><order>        a message or receipt whose epoch is not there yet
//	sq/<author><device>        the newest sequences received from a device
//	rcq/<author><id>           a receipt line not yet on its way
//	dira/<account> dird/<account><device>      the directory
//	con/<account>              a contact
const (
	keySelf    = "self/"
	keyRosterP = "roster/p/"
	keyRosterR = "roster/r/"
	keyAddr    = "addr/"
	keyCursor  = "cur/"
	keyOut     = "out/"
	keyOutBody = "outb/"
	keyOutRec  = "outr/"
	keyOutHand = "outh/"
	keyOutID   = "outi/"
	keyOutCli  = "outc/"
	keyHidden  = "hid/"
	keyHidOnly = "hio/"
	keySeq     = "seq/"
	keyIn      = "in/"
	keyInID    = "ini/"
	keyUnacked = "una/"
	keySeen    = "seen/"
	keyEpoch   = "ep/"
	keyPending = "pend/"
	keySeqSeen = "sq/"
	keyReceipt = "rcq/"
	keyDirAcc  = "dira/"
	keyDirDev  = "dird/"
	keyContact = "con/"
	lazyDelay  = 20 * time.Millisecond // how long a write that nobody waits for may wait for company
	purgeChunk = 4096                  // deletes of one Apply
	lazyLimit  = 1 << 16               // writes of a group that nobody waits for before it goes at once
	riderLimit = 1 << 12               // writes that ride along before a group goes for their sake
)

func nodeKey[T ~string | ~[]byte](prefix string, rest ...T) []byte {
	k := []byte(prefix)
	for _, r := range rest {
		k = append(k, r...)
	}
	return k
}

func orderKey(prefix string, order uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), order)
}

// orderOf reads the number that ends a key.
func orderOf(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key[len(key)-8:])
}

// nodeDisk gathers the writes of many goroutines into one Apply at a time: one
// fsync for all that waited. Writes become durable in the order in which they
// were staged, so nothing durable ever lacks what was staged before it.
type nodeDisk struct {
	table Table
	lead  chan struct{} // holds a token while somebody applies
	wake  chan struct{} // something was staged that nobody waits for
	fail  chan struct{} // closed at the first error
	// before stages what its owner holds back, at every flush.
	before func()

	mu     sync.Mutex
	next   *diskGroup // guarded by mu; gathers what is staged
	failed error      // guarded by mu
}

// diskGroup is what one Apply writes.
type diskGroup struct {
	writes []Write
	riders atomic.Int64 // how many of them came by rider
	done   chan struct{}
	err    error // valid once done is closed
}

func newNodeDisk(t Table) *nodeDisk {
	return &nodeDisk{table: t, lead: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		fail: make(chan struct{}), next: &diskGroup{done: make(chan struct{})}}
}

// stage puts writes in line; commit waits for them. It does no I/O, so it may
// be called under a lock that orders the writes.
func (d *nodeDisk) stage(ws ...Write) *diskGroup {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next.writes = append(d.next.writes, ws...)
	return d.next
}

// commit returns when the group is durable: one of those who wait for it
// writes it.
func (d *nodeDisk) commit(g *diskGroup) error {
	select {
	case <-g.done:
		return g.err
	case d.lead <- struct{}{}:
	}
	defer func() { <-d.lead }()
	d.mu.Lock()
	if d.next != g { // somebody else wrote it meanwhile
		d.mu.Unlock()
		return g.err
	}
	d.next = &diskGroup{done: make(chan struct{})}
	err := d.failed
	d.mu.Unlock()
	if err == nil && len(g.writes) > 0 {
		err = d.table.Apply(g.writes)
	}
	g.err, g.writes = err, nil
	close(g.done)
	if err != nil {
		d.mu.Lock()
		if d.failed == nil {
			d.failed = err
			close(d.fail)
		}
		d.mu.Unlock()
	}
	return err
}

// apply is stage and commit.
func (d *nodeDisk) apply(ws ...Write) error { return d.commit(d.stage(ws...)) }

// lazy stages writes that nobody waits for; they are durable soon, and never
// later than anything staged after them.
func (d *nodeDisk) lazy(ws ...Write) {
	if len(ws) == 0 {
		return
	}
	d.stage(ws...)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// rider stages writes that can be lost, in which case somebody notices and makes
// them again: the next Apply takes them along, and none is made for them unless
// there are very many.
func (d *nodeDisk) rider(ws ...Write) {
	if len(ws) == 0 {
		return
	}
	if g := d.stage(ws...); g.riders.Add(int64(len(ws))) >= riderLimit {
		wakeUp(d.wake)
	}
}

// flush makes everything staged so far durable.
func (d *nodeDisk) flush() error {
	if d.before != nil {
		d.before()
	}
	d.mu.Lock()
	g := d.next
	d.mu.Unlock()
	return d.commit(g)
}

// run writes what nobody waits for, until ctx ends.
func (d *nodeDisk) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		}
		d.mu.Lock()
		full := len(d.next.writes) >= lazyLimit
		d.mu.Unlock()
		if !full {
			pause(ctx, lazyDelay)
		}
		_ = d.flush() // the error is kept and ends Run
	}
}

// err returns the first error of the table.
func (d *nodeDisk) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// purge deletes the keys of a prefix that drop names, in pieces. drop says
// whether to delete the key and whether to go on.
func (d *nodeDisk) purge(prefix string, drop func(key, data []byte) (del, more bool)) (n int, err error) {
	var after []byte
	for {
		var ws []Write
		done := true
		err := d.table.Scan([]byte(prefix), after, func(key, data []byte) bool {
			del, more := drop(key, data)
			if del {
				ws = append(ws, Write{Key: slices.Clone(key)})
			}
			if more && len(ws) >= purgeChunk {
				done = false
				after = slices.Clone(key)
				return false
			}
			return more
		})
		if err != nil {
			return n, err
		}
		if len(ws) > 0 {
			if err := d.apply(ws...); err != nil {
				return n, err
			}
			n += len(ws)
		}
		if done {
			return n, nil
		}
	}
}

// get is Table.Get for state that was staged long before.
func (d *nodeDisk) get(key []byte) ([]byte, error) { return d.table.Get(key) }

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// wakeUp signals a channel of capacity one without waiting.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
