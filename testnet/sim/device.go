package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/seal"
)

// device is the simplest honest client: it writes messages to other devices,
// submits each until it has the copies it asked for, and reads its mailbox by
// cursor and by push. It does no mailbox check, so what a cursor hides from it
// stays hidden: that is what it is for.
type device struct {
	w       *world
	name    string
	account *identity.AccountKey
	key     *identity.DeviceKey
	cert    []byte
	records overlay.Register
	rng     *rand.Rand // of the goroutine that runs
	host    *memnet.Host

	mu     sync.Mutex
	seqs   map[identity.AccountID]uint64 // guarded by mu; last sequence
	outbox []*outgoing                   // guarded by mu; not acknowledged yet
	liar   bool                          // guarded by mu; the session's pillar lies
	wake   chan struct{}

	// On the device's disk:
	cursor overlay.Vector
	got    map[overlay.RecordID]struct{} // guarded by mu
}

// outgoing is a message until it has its copies.
type outgoing struct {
	id      overlay.RecordID
	raw     []byte
	concern uint64
	expires time.Time
	// Of the session: when it may be submitted (again), its number, 0 while it is
	// not submitted, and its place in the pillar's log once it is stored.
	after time.Time
	n     uint64
	dot   overlay.Dot
}

func newDevice(w *world, name string, rng *rand.Rand) (*device, error) {
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		return nil, err
	}
	d := &device{w: w, name: name, account: account, key: identity.NewDeviceKey(), rng: rng,
		seqs: map[identity.AccountID]uint64{}, wake: make(chan struct{}, 1), got: map[overlay.RecordID]struct{}{}}
	now := millis(time.Now())
	const serial = 1
	cert, err := account.Certify(w.key.ID(), d.key.ID(), serial, now-3_600_000, now+40*overlay.DayMillis)
	if err != nil {
		return nil, err
	}
	d.cert = cert.Append(nil)
	info := overlay.AccountInfo{Counter: now, Devices: []overlay.DeviceSerial{{Device: d.key.ID(), Serial: serial}}}
	draft := overlay.Draft{Kind: overlay.KindAccount, Author: string(account.ID()), Created: now,
		Expires: now + 30*overlay.DayMillis, Bin: info.Append(nil)}
	rec, err := draft.Sign(w.key.ID(), account)
	if err != nil {
		return nil, err
	}
	w.ledger.signOther(rec.ID)
	d.records.Account = rec.Raw
	claims := overlay.DeviceInfo{Name: name, Keys: []seal.PublicKey{}}
	draft = overlay.Draft{Kind: overlay.KindDevice, Author: string(account.ID()), Signer: d.cert, Created: now,
		Expires: now + 30*overlay.DayMillis, Bin: claims.Append(nil)}
	if rec, err = draft.Sign(w.key.ID(), d.key); err != nil {
		return nil, err
	}
	w.ledger.signOther(rec.ID)
	d.records.Device = rec.Raw
	d.host = w.net.Host(peer.ID(d.key.ID()), "-")
	return d, nil
}

func (d *device) id() identity.AccountID { return d.account.ID() }

// write signs a message and queues it.
func (d *device) write(rng *rand.Rand, to []*device, concern int, life time.Duration) error {
	slices.SortFunc(to, func(a, b *device) int { return compareIDs(a.id(), b.id()) })
	now := time.Now()
	m := &signed{author: d, to: to, created: now, expires: now.Add(life)}
	draft := overlay.Draft{Kind: overlay.KindMessage, Author: string(d.id()), Signer: d.cert,
		Created: millis(now), Expires: millis(m.expires), Bin: make([]byte, 40+rng.IntN(400))}
	for i := range draft.Bin {
		draft.Bin[i] = byte(rng.Uint32())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range to {
		prev := d.seqs[t.id()]
		seq := max(prev+1, uint64(now.UnixMicro()))
		draft.To = append(draft.To, t.id())
		draft.Sequences = append(draft.Sequences, overlay.Sequence{Seq: seq, Prev: prev})
		d.seqs[t.id()] = seq
	}
	rec, err := draft.Sign(d.w.key.ID(), d.key)
	if err != nil {
		return err
	}
	m.id, m.bytes = rec.ID, len(rec.Raw)
	d.w.ledger.sign(m)
	d.outbox = append(d.outbox, &outgoing{id: rec.ID, raw: rec.Raw, concern: uint64(concern), expires: m.expires})
	d.poke()
	return nil
}

func (d *device) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// has reports whether the device has a record on its disk.
func (d *device) has(id overlay.RecordID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.got[id]
	return ok
}

// unacknowledged counts messages still alive that wait for copies.
func (d *device) unacknowledged() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.outbox {
		if o.expires.After(time.Now()) {
			n++
		}
	}
	return n
}

// run keeps a session with one pillar after the other until ctx ends.
func (d *device) run(ctx context.Context) {
	defer d.host.Shutdown()
	for {
		if p := d.w.anyPillar(d.rng); p != nil {
			err := d.session(ctx, p)
			if err != nil && !errors.Is(err, errElsewhere) && ctx.Err() == nil {
				d.w.trace("%s: session with %s: %v", d.name, p.name, err)
			}
		}
		if !pause(ctx, time.Duration(50+d.rng.IntN(1500))*time.Millisecond) {
			return
		}
	}
}

// errElsewhere ends a session whose pillar does not take messages now.
var errElsewhere = errors.New("another pillar is tried")

// session is one stream to a pillar, until it breaks, the pillar refuses, or
// the device changes its mind.
func (d *device) session(ctx context.Context, p *pillar) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(10+d.rng.IntN(60))*time.Second)
	defer cancel()
	opening, opened := context.WithTimeout(ctx, 10*time.Second)
	defer opened()
	if err := d.host.Connect(opening, p.id(), nil); err != nil {
		if err = d.host.Connect(opening, p.id(), []multiaddr.Multiaddr{p.where().Addr}); err != nil {
			return errElsewhere
		}
	}
	stream, err := d.host.Open(opening, p.id(), overlay.ProtoNode)
	if err != nil {
		return errElsewhere
	}
	s := &session{d: d, stream: stream, frames: overlay.NewFrameReader(stream), next: 1}
	stop := context.AfterFunc(ctx, func() { stream.Reset() })
	defer stop()
	defer stream.Reset()
	return s.run(ctx, p)
}
