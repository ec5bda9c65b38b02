package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
	"github.com/obelisk-network/obelisk/seal"
)

// recordLife is how long everything lives that the bench writes.
const recordLife = 24 * time.Hour

// device is an account with one device that speaks the messages of
// docs/protocol.md itself: what a node does on the wire, without its disk.
type device struct {
	network identity.NetworkID
	account identity.AccountID
	key     *identity.DeviceKey
	cert    *identity.Certificate
	signer  []byte // cert on the wire
	host    *relay.Host
	ring    *seal.Keyring
	sealing seal.PublicKey

	accountRecord, deviceRecord []byte
}

// newRing returns a keyring in dir and a new key of it.
func newRing(dir string) (*seal.Keyring, seal.PublicKey, error) {
	ring, err := seal.OpenKeyring(dir)
	if err != nil {
		return nil, seal.PublicKey{}, err
	}
	key, err := ring.Rotate(millis(time.Now()))
	return ring, key, err
}

// newDevice makes fresh keys and a host of its own. sealing is the newest key of
// ring.
func newDevice(network identity.NetworkID, ring *seal.Keyring, sealing seal.PublicKey) (*device, error) {
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		return nil, err
	}
	d := &device{network: network, account: account.ID(), key: identity.NewDeviceKey(), ring: ring, sealing: sealing}
	now := millis(time.Now())
	const serial = 1
	d.cert, err = account.Certify(network, d.key.ID(), serial, now-3_600_000, now+uint64((30*24*time.Hour).Milliseconds()))
	if err != nil {
		return nil, err
	}
	d.signer = d.cert.Append(nil)
	info := overlay.AccountInfo{Counter: now, Devices: []overlay.DeviceSerial{{Device: d.key.ID(), Serial: serial}}}
	accountDraft := overlay.Draft{Kind: overlay.KindAccount, Author: string(d.account), Created: now,
		Expires: now + uint64(recordLife.Milliseconds()), Bin: info.Append(nil)}
	rec, err := accountDraft.Sign(network, account)
	if err != nil {
		return nil, err
	}
	d.accountRecord = rec.Raw
	claims := overlay.DeviceInfo{Keys: []seal.PublicKey{d.sealing}}
	draft := d.draft(overlay.KindDevice, now)
	draft.Bin = claims.Append(nil)
	if rec, err = draft.Sign(network, d.key); err != nil {
		return nil, err
	}
	d.deviceRecord = rec.Raw
	d.host, err = relay.New(relay.Config{Key: d.key.Private(), Role: relay.RoleNode})
	return d, err
}

func (d *device) close() error { return d.host.Shutdown() }

// draft is a record of this device without its content.
func (d *device) draft(kind overlay.Kind, now uint64) overlay.Draft {
	return overlay.Draft{Kind: kind, Author: string(d.account), Signer: d.signer, Created: now,
		Expires: now + uint64(recordLife.Milliseconds())}
}

// session is a registered stream to one pillar. One goroutine writes, one
// reads.
type session struct {
	stream  overlay.Stream
	frames  *overlay.FrameReader
	written []byte // reused by write
}

// dial opens a session: Hello both ways, Register, Registered.
func (d *device) dial(ctx context.Context, p pillar) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := d.host.Connect(ctx, peer.ID(p.id), p.addrs); err != nil {
		return nil, err
	}
	stream, err := d.host.Open(ctx, peer.ID(p.id), overlay.ProtoNode)
	if err != nil {
		return nil, err
	}
	s := &session{stream: stream, frames: overlay.NewFrameReader(stream)}
	if err := d.register(s, p); err != nil {
		stream.Reset()
		return nil, fmt.Errorf("register at %s: %w", p.id, err)
	}
	return s, nil
}

func (d *device) register(s *session, p pillar) error {
	if err := s.stream.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	now := millis(time.Now())
	err := s.write(&overlay.Hello{Role: overlay.RoleNode, Formats: overlay.Format, Network: d.network, Time: now,
		Account: d.account, Credential: d.signer})
	if err != nil {
		return err
	}
	m, err := s.frames.Next()
	if err != nil {
		return err
	}
	hello, ok := m.(*overlay.Hello)
	if !ok {
		return fmt.Errorf("answered with %T instead of a Hello", m)
	}
	if _, _, err := overlay.CheckPillarHello(hello, p.id, d.network, now); err != nil {
		return err
	}
	s.frames.Accept()
	if err := s.write(&overlay.Register{Account: d.accountRecord, Device: d.deviceRecord}); err != nil {
		return err
	}
	for {
		switch m, err := s.frames.Next(); m := m.(type) {
		case *overlay.Registered:
			if m.Err != nil {
				return m.Err
			}
			return s.stream.SetReadDeadline(time.Time{})
		case *overlay.Busy:
			return m.Err
		case nil:
			return err
		}
	}
}

func (s *session) write(m overlay.Message) error {
	s.written = overlay.AppendFrame(s.written[:0], m)
	_, err := s.stream.Write(s.written)
	return err
}

// transport is what carries the session.
func (s *session) transport() string {
	if strings.Contains(s.stream.Remote().String(), "/quic-v1") {
		return "quic"
	}
	return "tcp"
}

// writer seals and signs the messages of one device.
type writer struct {
	d      *device
	body   []byte
	epochs map[identity.AccountID]*openEpoch
}

// openEpoch is the epoch for one recipient, and where its sequences are.
type openEpoch struct {
	epoch *seal.Epoch
	to    []identity.AccountID
	last  uint64
}

func newWriter(d *device, size int) *writer {
	text := strings.Repeat("obelisk ", size/8+1)[:size]
	return &writer{d: d, body: overlay.AppendBody(nil, overlay.BodyText, []byte(text)), epochs: make(map[identity.AccountID]*openEpoch)}
}

// open makes the epoch for messages to a recipient and returns its record.
func (w *writer) open(to *device) ([]byte, error) {
	d, now := w.d, millis(time.Now())
	epoch, err := seal.NewEpoch(d.network, seal.Sender{Account: []byte(d.account), Device: []byte(d.key.ID())},
		[][]byte{[]byte(to.account)},
		[]seal.Device{{Account: []byte(to.account), Device: []byte(to.key.ID()), Key: to.sealing}},
		now, uint64((2 * recordLife).Milliseconds()))
	if err != nil {
		return nil, err
	}
	e := &openEpoch{epoch: epoch, to: []identity.AccountID{to.account}}
	w.epochs[to.account] = e
	draft := d.draft(overlay.KindEpoch, epoch.Created())
	draft.To, draft.Expires, draft.Bin = e.to, epoch.Expires(), epoch.Bin()
	rec, err := draft.Sign(d.network, d.key)
	if err != nil {
		return nil, err
	}
	return rec.Raw, nil
}

// message seals and signs the next message to an account whose epoch is open.
func (w *writer) message(to identity.AccountID) (*overlay.Record, error) {
	e := w.epochs[to]
	now := time.Now()
	draft := w.d.draft(overlay.KindMessage, millis(now))
	seq := max(e.last+1, uint64(now.UnixMicro()))
	draft.To, draft.Sequences = e.to, []overlay.Sequence{{Seq: seq, Prev: e.last}}
	e.last = seq
	binLen := seal.SealedLen(len(w.body))
	payload := draft.AppendPrefix(make([]byte, 0, 512+binLen), binLen)
	payload, err := e.epoch.Seal(payload, w.body)
	if err != nil {
		return nil, err
	}
	return overlay.SignPayload(w.d.network, w.d.key, payload)
}

// pillar is what a device has to know to connect to one.
type pillar struct {
	id    identity.PillarID
	addrs []multiaddr.Multiaddr
}

// parsePillar reads the addresses of run.json. transport keeps only "quic" or
// "tcp".
func parsePillar(listen []string, transport string) (pillar, error) {
	var p pillar
	for _, l := range listen {
		a, err := overlay.ParsePillarAddr(l)
		if err != nil {
			return p, err
		}
		p.id = a.Pillar
		isQUIC := strings.Contains(l, "/quic-v1")
		if transport == "quic" && !isQUIC || transport == "tcp" && isQUIC {
			continue
		}
		p.addrs = append(p.addrs, a.Addr)
	}
	if len(p.addrs) == 0 {
		return p, errors.New("the pillar listens on no address of that transport")
	}
	return p, nil
}

func millis(t time.Time) uint64 { return uint64(t.UnixMilli()) }

// percentile returns the q-th percentile of times in ms; times are sorted by
// it.
func percentile(times []time.Duration, q float64) float64 {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	i := min(len(times)-1, int(q*float64(len(times))))
	return round(float64(times[i].Microseconds())/1000, 3)
}
