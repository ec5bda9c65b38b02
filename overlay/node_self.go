package overlay

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Lives of what a node says of itself, in milliseconds.
const (
	certLife       = 400 * DayMillis
	certBackdate   = DayMillis       // for records of a clock that is a little behind
	certRenewLeft  = 100 * DayMillis // renewed with this much left
	ownRecordLife  = MaxKeyLife
	ownRecordRenew = MaxKeyLife / 2
)

// nodeSelf is what the node says of itself: certificate, account record,
// device record. They are on disk before anybody sees them.
type nodeSelf struct {
	n       *Node
	network identity.NetworkID // as on disk; zero: none. Set by load and certify

	mu      sync.Mutex
	cert    *identity.Certificate // guarded by mu
	wire    []byte                // guarded by mu; cert as it stands in records
	account *Record               // guarded by mu; nil: never made, or its bytes on disk are of a key that is gone
	info    *AccountInfo          // guarded by mu; of account
	device  *Record               // guarded by mu
	// known: a pillar has told what it knows of the account and this device. Until
	// then what is on disk is published as it is: a copy of the device that wrote
	// anything new first could not be told from the original any more. Guarded
	// by mu.
	known bool
}

func (s *nodeSelf) load() error {
	b, err := s.n.disk.get([]byte(keySelf + "network"))
	if err != nil || b == nil {
		return err
	}
	if len(b) != len(s.network) {
		return fmt.Errorf("the network on disk has %d bytes", len(b))
	}
	copy(s.network[:], b)
	return nil
}

// certify makes sure of a certificate, an account and a device record in
// network, all on disk.
func (s *nodeSelf) certify(network identity.NetworkID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadRecords(network); err != nil {
		return err
	}
	ws, err := s.makeMissing(network, s.n.now(), false)
	if err != nil {
		return err
	}
	ws = append(ws, Write{[]byte(keySelf + "network"), slices.Clone(network[:])})
	if err := s.n.disk.apply(ws...); err != nil {
		return err
	}
	s.network = network
	return nil
}

// loadRecords reads what is on disk. What is damaged or of another key is made
// anew. s.mu is held.
func (s *nodeSelf) loadRecords(network identity.NetworkID) error {
	v := NewVerifier(network)
	wire, err := s.n.disk.get([]byte(keySelf + "cert"))
	if err != nil {
		return err
	}
	if cert, err := identity.ParseCertificate(s.n.account(), wire); err == nil && cert.Device == s.n.device() {
		if check, err := cert.Check(network); err == nil && identity.Verify(&check) {
			s.cert, s.wire = cert, wire
		}
	}
	read := func(name string, kind Kind) (*Record, error) {
		raw, err := s.n.disk.get([]byte(keySelf + name))
		if err != nil || raw == nil {
			return nil, err
		}
		rec, err := v.Parse(raw)
		if err != nil || rec.Kind != kind || rec.Account() != s.n.account() || v.VerifyOne(rec) != nil {
			return nil, nil
		}
		return rec, nil
	}
	if s.account, err = read("account", KindAccount); err != nil {
		return err
	}
	if s.account != nil {
		if s.info, err = ParseAccountInfo(s.account.Bin); err != nil {
			s.account, s.info = nil, nil
		}
	}
	if s.device, err = read("device", KindDevice); err != nil {
		return err
	}
	if s.device != nil && s.device.Device() != s.n.device() {
		s.device = nil
	}
	return nil
}

// makeMissing makes what is missing or due and returns what to write. With
// rotate, the sealing key is replaced if that is due. s.mu is held.
func (s *nodeSelf) makeMissing(network identity.NetworkID, now uint64, rotate bool) ([]Write, error) {
	var ws []Write
	fresh := false
	if s.cert == nil || !s.cert.Covers(now) || s.known && s.cert.NotAfter-now < certRenewLeft {
		serial := now
		if s.cert != nil {
			serial = max(serial, s.cert.Serial+1)
		}
		from := now - min(now, certBackdate)
		cert, err := s.n.cfg.Account.Certify(network, s.n.device(), serial, from, from+certLife)
		if err != nil {
			return nil, err
		}
		s.cert, s.wire, fresh = cert, cert.Append(nil), true
		ws = append(ws, Write{[]byte(keySelf + "cert"), s.wire})
	}
	if s.account == nil || fresh || !s.lists(s.info) || due(s.account, now) {
		if err := s.makeAccount(network, now, s.merged(s.info)); err != nil {
			return nil, err
		}
		ws = append(ws, Write{[]byte(keySelf + "account"), s.account.Raw})
	}
	key, turn := s.n.cfg.Sealing.Current(now)
	if turn && (rotate && s.known || key.Scheme == 0) {
		var err error
		if key, err = s.n.cfg.Sealing.Rotate(now); err != nil {
			return nil, err
		}
	}
	if s.device == nil || fresh || now >= s.device.Expires || s.known && (due(s.device, now) || !s.saysSo(key)) {
		if err := s.makeDevice(network, now, key); err != nil {
			return nil, err
		}
		ws = append(ws, Write{[]byte(keySelf + "device"), s.device.Raw})
	}
	return ws, nil
}

// due reports whether half of a record's life is over, or its time ahead.
func due(r *Record, now uint64) bool {
	return now >= r.Created+ownRecordRenew || now >= r.Expires
}

// lists reports whether info names this device under its certificate, or
// removed it, which is not for the device to undo. s.mu is held.
func (s *nodeSelf) lists(info *AccountInfo) bool {
	return info != nil && (info.Has(s.n.device(), s.cert.Serial) || info.IsRemoved(s.n.device(), s.cert.Serial))
}

// merged returns info with this device in it. s.mu is held.
func (s *nodeSelf) merged(info *AccountInfo) *AccountInfo {
	m := &AccountInfo{}
	if info != nil {
		m.Counter, m.Removed = info.Counter, info.Removed
		for _, d := range info.Devices {
			if d.Device != s.n.device() {
				m.Devices = append(m.Devices, d)
			}
		}
	}
	if !m.IsRemoved(s.n.device(), s.cert.Serial) && len(m.Devices) < MaxDevices {
		m.Devices = append(m.Devices, DeviceSerial{s.n.device(), s.cert.Serial})
	}
	slices.SortFunc(m.Devices, func(a, b DeviceSerial) int { return cmp.Compare(a.Device, b.Device) })
	return m
}

// makeAccount signs an account record that says info. s.mu is held.
func (s *nodeSelf) makeAccount(network identity.NetworkID, now uint64, info *AccountInfo) error {
	info.Counter = max(info.Counter+1, now)
	d := Draft{Kind: KindAccount, Author: string(s.n.account()), Created: now, Expires: now + ownRecordLife, Bin: info.Append(nil)}
	if pub := s.n.cfg.Account.Public(); pub.IsRSA() {
		d.Signer = pub.Marshal()
	}
	if s.account != nil && d.Created <= s.account.Created {
		d.Created = s.account.Created + 1
	}
	d.Expires = d.Created + ownRecordLife
	rec, err := d.Sign(network, s.n.cfg.Account)
	if err != nil {
		return fmt.Errorf("account record: %w", err)
	}
	s.account, s.info = rec, info
	return nil
}

// makeDevice signs a device record with key. s.mu is held.
func (s *nodeSelf) makeDevice(network identity.NetworkID, now uint64, key seal.PublicKey) error {
	info := DeviceInfo{Name: s.n.cfg.Name, Keys: []seal.PublicKey{key}}
	d := Draft{Kind: KindDevice, Author: string(s.n.account()), Signer: s.wire, Created: now, Bin: info.Append(nil)}
	if s.device != nil && d.Created <= s.device.Created {
		d.Created = s.device.Created + 1
	}
	d.Expires = d.Created + ownRecordLife
	rec, err := d.Sign(network, s.n.cfg.Device)
	if err != nil {
		return fmt.Errorf("device record: %w", err)
	}
	s.device = rec
	return nil
}

// saysSo reports whether the device record carries the node's name and key.
// s.mu is held.
func (s *nodeSelf) saysSo(key seal.PublicKey) bool {
	info, err := ParseDeviceInfo(s.device.Bin)
	return err == nil && info.Name == s.n.cfg.Name && len(info.Keys) == 1 && info.Keys[0].ID == key.ID
}

// renew replaces what is due and sends it on its way.
func (s *nodeSelf) renew() error {
	s.mu.Lock()
	if !s.known {
		s.mu.Unlock()
		return nil
	}
	account, device := s.account, s.device
	now := s.n.now()
	ws, err := s.makeMissing(s.network, now, s.n.sessions.clockConfirmed())
	if err == nil && len(ws) > 0 {
		err = s.n.disk.apply(ws...)
	}
	var fresh []*Record
	if err == nil && s.account != account {
		fresh = append(fresh, s.account)
	}
	if err == nil && s.device != device {
		fresh = append(fresh, s.device)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.n.outbox.sendHidden(fresh...)
}

// certificate returns the certificate as it stands in records.
func (s *nodeSelf) certificate() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wire
}

// records returns what a Register submits. account is empty as long as the
// account may have a record that this device never saw.
func (s *nodeSelf) records(first bool) (account, device []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !first || s.known {
		account = s.account.Raw
	}
	return account, s.device.Raw
}

// compare takes what a pillar knows of the own account: a newer device record
// of this very device is somebody else's work, a newer account record is built
// upon. Of records that the pillar sent only verified ones may come here.
func (s *nodeSelf) compare(recs []*Record) error {
	s.mu.Lock()
	now := s.n.now()
	before := s.account
	merged := s.info
	var others []DeviceSerial
	for _, rec := range recs {
		if rec.Account() != s.n.account() {
			continue
		}
		switch rec.Kind {
		case KindDevice:
			cert, err := identity.ParseCertificate(rec.Account(), rec.Signer)
			switch {
			case err != nil:
			case cert.Device == s.n.device() && rec.ID != s.device.ID && newer(rec, s.device):
				s.mu.Unlock()
				return ErrCloned
			case cert.Device != s.n.device() && cert.Covers(now) && rec.Expires > now:
				others = append(others, DeviceSerial{cert.Device, cert.Serial})
			}
		case KindAccount:
			if info, err := ParseAccountInfo(rec.Bin); err == nil && rec.ID != s.account.ID && info.Counter >= merged.Counter {
				merged = info
			}
		}
	}
	s.known = true
	want := s.merged(merged)
	for _, d := range others {
		if !want.IsRemoved(d.Device, d.Serial) && !slices.ContainsFunc(want.Devices, func(x DeviceSerial) bool { return x.Device == d.Device }) && len(want.Devices) < MaxDevices {
			want.Devices = append(want.Devices, d)
		}
	}
	slices.SortFunc(want.Devices, func(a, b DeviceSerial) int { return cmp.Compare(a.Device, b.Device) })
	if want.IsRemoved(s.n.device(), s.cert.Serial) {
		s.n.log.Error("this device was removed from its account; pillars refuse what it sends", "device", s.n.device())
	}
	var err error
	if merged.Counter > s.info.Counter || !slices.Equal(want.Devices, s.info.Devices) {
		if !slices.Equal(want.Devices, merged.Devices) || merged == s.info {
			want.Counter = max(want.Counter, merged.Counter)
			err = s.makeAccount(s.network, now, want)
		} else {
			for _, rec := range recs { // theirs says it all
				if info, perr := ParseAccountInfo(rec.Bin); rec.Kind == KindAccount && rec.Account() == s.n.account() && perr == nil && info.Counter == merged.Counter {
					s.account, s.info = rec, info
				}
			}
		}
	}
	changed := s.account
	if err == nil && changed != before {
		err = s.n.disk.apply(Write{[]byte(keySelf + "account"), bytes.Clone(changed.Raw)})
	}
	s.mu.Unlock()
	if err == nil && changed != before {
		err = s.n.outbox.sendHidden(changed)
	}
	return err
}

// otherDevices reports whether the account has devices beside this one.
func (s *nodeSelf) otherDevices() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.info == nil {
		return false
	}
	for _, d := range s.info.Devices {
		if d.Device != s.n.device() && !s.info.IsRemoved(d.Device, d.Serial) {
			return true
		}
	}
	return false
}

// sign signs what the device writes.
func (s *nodeSelf) sign(d *Draft) (*Record, error) {
	network := s.n.network()
	if network.IsZero() {
		return nil, errors.New("no network is pinned")
	}
	return d.Sign(network, s.n.cfg.Device)
}

// bumpKey is where a counter that must not repeat is kept.
func bumpKey(name string) []byte { return []byte(keySelf + name) }

func putCounter(name string, v uint64) Write {
	return Write{bumpKey(name), binary.BigEndian.AppendUint64(nil, v)}
}

func (n *Node) counter(name string) (uint64, error) {
	b, err := n.disk.get(bumpKey(name))
	if err != nil || len(b) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// deviceRecord is the ID of the device's own record.
func (s *nodeSelf) deviceRecord() RecordID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.device.ID
}
