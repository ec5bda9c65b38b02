package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Bounds of what is kept of others' epochs.
const (
	maxOpened       = 4096 // epochs with their secrets in memory
	maxEpochRecords = 16   // records of one epoch
)

// errNoEpoch: the epoch's record is not there, or none of them is for us yet.
var errNoEpoch = errors.New("the epoch is not there")

// openedEpochs are epochs of others, opened when something sealed in them
// comes. Used by the inbox's goroutine; erase by another after that ended.
type openedEpochs struct {
	n    *Node
	mu   sync.Mutex
	open map[string]*seal.Opened // guarded by mu; by epochKey
}

// epochKey names an epoch of a device. The device is in it so that nobody can
// put records in front of another's epoch.
func epochKey(id seal.EpochID, device identity.DeviceID) string {
	return string(id[:]) + string(device)
}

// keep stores an epoch record, unopened.
func (p *openedEpochs) keep(in *intake, rec *Record, device identity.DeviceID) error {
	ep, err := seal.ParseEpoch(rec.Bin)
	if err != nil {
		p.n.metrics.dropped.WithLabelValues("epoch").Inc()
		return nil
	}
	if rec.Account() == p.n.account() && device == p.n.device() && !slices.ContainsFunc(ep.Entries, func(e seal.Entry) bool { return string(e.Device) == string(device) }) {
		return nil // our own, for others
	}
	key := epochKey(ep.ID, device)
	n := 0
	if err := p.n.disk.table.Scan(nodeKey(keyEpoch, key), nil, func(_, _ []byte) bool { n++; return n < maxEpochRecords }); err != nil {
		return err
	}
	if n >= maxEpochRecords {
		p.n.metrics.dropped.WithLabelValues("epoch").Inc()
		return nil
	}
	value := append(binary.BigEndian.AppendUint64(nil, rec.Expires), rec.Raw...)
	in.epochs = append(in.epochs, Write{append(nodeKey(keyEpoch, key), rec.ID[:]...), value})
	in.arrived[key] = struct{}{}
	return nil
}

// get returns the epoch. Errors are errNoEpoch or seal.OpenEpoch's.
func (p *openedEpochs) get(id seal.EpochID, device identity.DeviceID) (*seal.Opened, error) {
	key := epochKey(id, device)
	p.mu.Lock()
	o := p.open[key]
	p.mu.Unlock()
	if o != nil {
		return o, nil
	}
	v := p.n.verify()
	result := errNoEpoch
	var raws [][]byte
	if err := p.n.disk.table.Scan(nodeKey(keyEpoch, key), nil, func(_, data []byte) bool {
		raws = append(raws, bytes.Clone(data))
		return true
	}); err != nil {
		return nil, err
	}
	for _, raw := range raws {
		if len(raw) < 8 {
			continue
		}
		rec, err := v.Parse(raw[8:])
		if err != nil {
			continue
		}
		o, err := seal.OpenEpoch(p.n.network(), bindingOf(rec, device), rec.Bin, []byte(p.n.device()), p.n.cfg.Sealing)
		if err != nil {
			if !errors.Is(err, seal.ErrNotForUs) {
				result = err
			}
			continue
		}
		p.mu.Lock()
		if p.open == nil {
			p.open = map[string]*seal.Opened{}
		}
		if len(p.open) >= maxOpened {
			for k, other := range p.open {
				other.Erase()
				delete(p.open, k)
				break
			}
		}
		p.open[key] = o
		p.mu.Unlock()
		return o, nil
	}
	return nil, result
}

// purge forgets epochs that are over.
func (p *openedEpochs) purge(now uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, o := range p.open {
		if o.Expires() <= now {
			o.Erase()
			delete(p.open, k)
		}
	}
}

// erase zeroes all secrets.
func (b *nodeInbox) erase() { b.epochs.purge(1<<64 - 1) }

// arrival is how a record came, and whether the message before it is missing.
type arrival struct {
	path Path
	gap  bool
}

// byte is what an arrival is on disk.
func (a arrival) byte() byte {
	b := byte(btoi(a.gap))
	switch a.path {
	case PathRelayed:
		b |= 1 << 1
	case PathDirect:
		b |= 2 << 1
	}
	return b
}

func arrivalOf(b byte) arrival {
	a := arrival{PathPillar, b&1 == 1}
	switch b >> 1 {
	case 1:
		a.path = PathRelayed
	case 2:
		a.path = PathDirect
	}
	return a
}

// open opens a message or receipt and takes what is in it. It reports whether
// that is settled: with a missing epoch it is put aside, if fresh; if there is
// no room it is as if it never came.
func (b *nodeInbox) open(in *intake, rec *Record, device identity.DeviceID, how arrival, fresh bool) (settled bool, err error) {
	own := rec.Account() == b.n.account()
	toSelf := len(rec.To) == 1 && own
	if own && device == b.n.device() && (!toSelf || rec.Kind != KindMessage && rec.Kind != KindReceipt) {
		return true, nil // what we sent to others
	}
	if rec.Kind == KindReceipt && len(rec.To) != 1 { // pillars, which cannot open it, go by that
		b.n.metrics.dropped.WithLabelValues("receipt").Inc()
		return true, nil
	}
	if rec.Kind == KindMessage && b.n.contacts.blocked(rec.Account()) {
		b.answer(in, rec, ReceiptRefused, how.path)
		return true, nil
	}
	plain, err := b.unseal(rec, device)
	switch {
	case errors.Is(err, errNoEpoch):
		if own && device == b.n.device() {
			return true, nil // to our other devices
		}
		if !fresh {
			return false, nil
		}
		room := int64(maxPending)
		if how.path != PathPillar {
			room = maxPendingDirect
		}
		if b.pending.Load() >= room {
			b.n.metrics.dropped.WithLabelValues("pending").Inc()
			return false, nil
		}
		b.pending.Add(1)
		in.missing = true
		in.writes = append(in.writes, Write{b.pendingKey(rec, device), append([]byte{how.byte()}, rec.Raw...)})
		return true, nil
	case err != nil:
		b.n.metrics.dropped.WithLabelValues("unreadable").Inc()
		b.n.log.Debug("cannot open", "kind", rec.Kind, "record", rec.ID, "err", err)
		b.unreadable(in, rec, how.path)
		return true, nil
	}
	if rec.Kind == KindReceipt {
		lines, err := ParseReceipt(plain)
		if err != nil {
			b.n.metrics.dropped.WithLabelValues("receipt").Inc()
			return true, nil
		}
		in.receipts = append(in.receipts, receiptIn{rec.Account(), lines})
		return true, nil
	}
	t, body, err := ParseBody(plain)
	if err != nil {
		b.unreadable(in, rec, how.path)
		return true, nil
	}
	b.receive(in, rec, device, t, body, how)
	if !own || toSelf {
		b.answer(in, rec, ReceiptDelivered, how.path)
	}
	return true, nil
}

// unseal returns the plaintext of a message or receipt.
func (b *nodeInbox) unseal(rec *Record, device identity.DeviceID) ([]byte, error) {
	id, err := seal.MessageEpoch(rec.Bin)
	if err != nil {
		return nil, err
	}
	ep, err := b.epochs.get(id, device)
	if err != nil {
		return nil, err
	}
	return ep.Open(bindingOf(rec, device), rec.Payload(), rec.BinOffset())
}

// pendingKey is where a record waits for its epoch, in the order of arrival.
func (b *nodeInbox) pendingKey(rec *Record, device identity.DeviceID) []byte {
	id, _ := seal.MessageEpoch(rec.Bin)
	b.order++ // shared with the inbox: unique is all it has to be
	return append(nodeKey(keyPending, epochKey(id, device)), orderBytes(b.order)...)
}

// retryPending opens what waited for an epoch.
func (b *nodeInbox) retryPending(in *intake, key string) error {
	if b.pending.Load() == 0 {
		return nil
	}
	return b.eachPending(nodeKey(keyPending, key), func(k []byte, rec *Record, how arrival) error {
		settled, err := b.open(in, rec, b.n.deviceOf(rec), how, false)
		if err == nil && settled {
			b.pending.Add(-1)
			in.writes = append(in.writes, Write{Key: k})
		}
		return err
	})
}

// eachPending calls fn for every waiting record under prefix; unreadable ones
// are dropped.
func (b *nodeInbox) eachPending(prefix []byte, fn func(key []byte, rec *Record, how arrival) error) error {
	type waiting struct{ key, data []byte }
	var list []waiting
	if err := b.n.disk.table.Scan(prefix, nil, func(key, data []byte) bool {
		list = append(list, waiting{bytes.Clone(key), bytes.Clone(data)})
		return true
	}); err != nil {
		return err
	}
	for _, w := range list {
		if len(w.data) == 0 {
			continue
		}
		rec, err := b.n.verify().Parse(w.data[1:])
		if err != nil {
			continue
		}
		if err := fn(w.key, rec, arrivalOf(w.data[0])); err != nil {
			return err
		}
	}
	return nil
}

// sweep ends what waited for an epoch until it expired, and looks for the
// epochs of the rest.
func (b *nodeInbox) sweep() error {
	if b.pending.Load() == 0 || b.n.verify() == nil {
		return nil
	}
	in := &intake{now: b.n.now(), arrived: map[string]struct{}{}, missing: true}
	if b.n.sessions.clockWrong() {
		return nil
	}
	err := b.eachPending([]byte(keyPending), func(key []byte, rec *Record, how arrival) error {
		if rec.Expires > in.now {
			return nil
		}
		b.pending.Add(-1)
		in.writes = append(in.writes, Write{Key: key})
		b.unreadable(in, rec, how.path)
		return nil
	})
	if err != nil {
		return err
	}
	return b.finish(in)
}

// purge drops what is expired: what was seen, epochs.
func (b *nodeInbox) purge(now uint64) error {
	today := DayOf(now)
	if _, err := b.n.disk.purge(keySeen, func(key, _ []byte) (del, more bool) {
		past := len(key) >= len(keySeen)+4 && Day(binary.BigEndian.Uint32(key[len(keySeen):])) < today
		return past, past
	}); err != nil {
		return err
	}
	_, err := b.n.disk.purge(keyEpoch, func(_, data []byte) (del, more bool) {
		return len(data) < 8 || binary.BigEndian.Uint64(data) <= now, true
	})
	b.epochs.purge(now)
	return err
}
