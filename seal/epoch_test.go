package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

func TestEpochRecord(t *testing.T) {
	alice, bob, phone, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "bob", "phone", start), newParty(t, "carol", "1", start)
	e := newEpoch(t, alice, start+hour, carol, phone, bob)
	if e.Created() != start+hour || e.Expires() != start+hour+31*day || len(e.Missing()) != 0 {
		t.Errorf("from %d to %d, %d missing", e.Created(), e.Expires(), len(e.Missing()))
	}
	record, err := seal.ParseEpoch(e.Bin())
	if err != nil {
		t.Fatal(err)
	}
	if record.ID != e.ID() || len(record.Entries) != 3 || !bytes.Equal(record.Append(nil), e.Bin()) {
		t.Error("the record is not what was parsed")
	}
	for _, entry := range record.Entries {
		if len(entry.Sealed) != 1168 || !e.Has(entry.Device) {
			t.Errorf("an entry of %d bytes", len(entry.Sealed))
		}
	}
	for _, p := range []*party{bob, phone, carol} {
		if o := p.open(t, e); o.Secret() != e.Secret() {
			t.Error("another secret was opened")
		}
	}
	if _, err := seal.OpenEpoch(network, e.Binding(), e.Bin(), alice.device, alice.ring); !errors.Is(err, seal.ErrNotForUs) {
		t.Errorf("opened by a device it is not sealed to: %v", err)
	}
	if bytes.Contains(e.Bin(), func() []byte { s := e.Secret(); return s[:] }()) {
		t.Error("the record holds the secret")
	}
}

// A rotated key still opens what was sealed to the one before.
func TestEpochAcrossRotation(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start, bob)
	for i := range uint64(31) {
		rotate(t, bob.ring, start+i*day)
		if _, err := bob.ring.Erase(start + i*day); err != nil {
			t.Fatal(err)
		}
	}
	bob.open(t, e)
}

// HPKE's info binds network, epoch, sender, recipient and key: a sealed secret
// taken from its place opens nowhere else.
func TestSealedSecretIsBoundToItsPlace(t *testing.T) {
	alice, bob, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "carol", "1", start)
	b := newEpoch(t, alice, start, bob).Binding()
	var secret [32]byte
	copy(secret[:], "a secret that the test knows ...")
	commitment := seal.Commit(network, &secret)
	id := seal.MakeEpochID(alice.device, commitment)
	otherNetwork := [32]byte{1}
	otherKey := rotate(t, bob.ring, start)

	for _, c := range []struct {
		name              string
		network           [32]byte
		id                seal.EpochID
		sender, recipient []byte
		bound             seal.KeyID
		opens             bool
	}{
		{"its own place", network, id, alice.device, bob.device, bob.key.ID, true},
		{"another network", otherNetwork, id, alice.device, bob.device, bob.key.ID, false},
		{"another epoch", network, seal.EpochID{1}, alice.device, bob.device, bob.key.ID, false},
		{"another sender device", network, id, carol.device, bob.device, bob.key.ID, false},
		{"another recipient device", network, id, alice.device, carol.device, bob.key.ID, false},
		{"sender and recipient exchanged", network, id, bob.device, alice.device, bob.key.ID, false},
		{"another key's ID", network, id, alice.device, bob.device, otherKey.ID, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			sealed, err := seal.SealSecret(c.network, c.id, c.sender, c.recipient, bob.key, c.bound, secret[:])
			if err != nil {
				t.Fatal(err)
			}
			record := seal.EpochRecord{ID: id, Commitment: commitment, Entries: []seal.Entry{{Device: bob.device, Key: bob.key.ID, Sealed: sealed}}}
			_, err = seal.OpenEpoch(network, b, record.Append(nil), bob.device, bob.ring)
			if c.opens && err != nil || !c.opens && !errors.Is(err, seal.ErrInvalidEpoch) {
				t.Error(err)
			}
		})
	}
	t.Run("read in another network", func(t *testing.T) {
		e := newEpoch(t, alice, start, bob)
		if _, err := seal.OpenEpoch(otherNetwork, e.Binding(), e.Bin(), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Error(err)
		}
	})
	t.Run("entries of two epochs exchanged", func(t *testing.T) {
		one, two := newEpoch(t, alice, start, bob), newEpoch(t, alice, start, bob)
		r1, _ := seal.ParseEpoch(one.Bin())
		r2, _ := seal.ParseEpoch(two.Bin())
		r1.Entries = r2.Entries
		if _, err := seal.OpenEpoch(network, one.Binding(), r1.Append(nil), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Error(err)
		}
	})
	t.Run("key ID of another of our keys", func(t *testing.T) {
		e := newEpoch(t, alice, start, bob)
		r, _ := seal.ParseEpoch(e.Bin())
		r.Entries[0].Key = otherKey.ID
		if _, err := seal.OpenEpoch(network, e.Binding(), r.Append(nil), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Error(err)
		}
	})
}

// A sender that gives two recipients two secrets under one commitment is found
// out by the one who got the wrong one.
func TestSecondSecretUnderOneCommitment(t *testing.T) {
	alice, bob, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "carol", "1", start)
	e := newEpoch(t, alice, start, bob, carol)
	record, err := seal.ParseEpoch(e.Bin())
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string][]byte{
		"another": bytes.Repeat([]byte{7}, 32), "short": make([]byte, 31), "long": make([]byte, 33), "empty": nil,
	} {
		t.Run(name, func(t *testing.T) {
			sealed, err := seal.SealSecret(network, e.ID(), alice.device, carol.device, carol.key, carol.key.ID, secret)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(record.Entries, func(x seal.Entry) bool { return bytes.Equal(x.Device, carol.device) })
			record.Entries[i].Sealed = sealed
			bin := record.Append(nil)
			_, err = seal.OpenEpoch(network, e.Binding(), bin, carol.device, carol.ring)
			if !errors.Is(err, seal.ErrInvalidEpoch) || len(secret) == 32 && !errors.Is(err, seal.ErrCommitment) {
				t.Errorf("the second secret: %v", err)
			}
			if _, err := seal.OpenEpoch(network, e.Binding(), bin, bob.device, bob.ring); err != nil {
				t.Errorf("the secret committed to: %v", err)
			}
		})
	}
	t.Run("another commitment", func(t *testing.T) {
		record.Commitment[0] ^= 1
		if _, err := seal.OpenEpoch(network, e.Binding(), record.Append(nil), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Error(err)
		}
		record.ID = seal.MakeEpochID(alice.device, record.Commitment)
		if _, err := seal.OpenEpoch(network, e.Binding(), record.Append(nil), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Error(err)
		}
	})
}

func TestEpochMustNotOutliveItsKey(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start+day, bob)
	b := e.Binding()
	b.Expires = bob.key.Until
	if _, err := seal.OpenEpoch(network, b, e.Bin(), bob.device, bob.ring); err != nil {
		t.Errorf("as long as its key: %v", err)
	}
	b.Expires++
	_, err := seal.OpenEpoch(network, b, e.Bin(), bob.device, bob.ring)
	if !errors.Is(err, seal.ErrOutlives) || !errors.Is(err, seal.ErrInvalidEpoch) {
		t.Errorf("1 ms longer: %v", err)
	}
}

func TestNewEpochLeavesOutAndRefuses(t *testing.T) {
	alice, laptop := newParty(t, "alice", "1", start), newParty(t, "alice", "laptop", start)
	bob, phone, carol := newParty(t, "bob", "1", start), newParty(t, "bob", "phone", start), newParty(t, "carol", "1", start)
	now := start + hour
	with := func(p *party, change func(k *seal.PublicKey)) seal.Device {
		d := p.as()
		d.Key.Public = bytes.Clone(d.Key.Public)
		change(&d.Key)
		return d
	}
	none := with(phone, func(k *seal.PublicKey) { *k = seal.PublicKey{} })
	weak := func(p *party) seal.Device {
		return with(p, func(k *seal.PublicKey) { k.Until = now + 48*hour - 1 })
	}
	bobOnly, group, ownToo := accountsOf(bob), accountsOf(bob, carol), accountsOf(alice, bob)

	for _, c := range []struct {
		name    string
		to      [][]byte
		devices []seal.Device
		missing []*party
		err     error
	}{
		{"all", bobOnly, devicesOf(bob, phone), nil, nil},
		{"no key known", bobOnly, []seal.Device{bob.as(), none}, []*party{phone}, nil},
		{"unknown scheme", bobOnly, []seal.Device{bob.as(), with(phone, func(k *seal.PublicKey) { k.Scheme = 2 })}, []*party{phone}, nil},
		{"wrong size", bobOnly, []seal.Device{bob.as(), with(phone, func(k *seal.PublicKey) { k.Public = k.Public[1:] })}, []*party{phone}, nil},
		{"no ML-KEM key", bobOnly, []seal.Device{bob.as(), with(phone, func(k *seal.PublicKey) { k.Public[0], k.Public[1] = 0xff, 0xff })}, []*party{phone}, nil},
		{"X25519 point of small order", bobOnly, []seal.Device{bob.as(), with(phone, func(k *seal.PublicKey) { clear(k.Public[1184:]) })}, []*party{phone}, nil},
		{"expired", bobOnly, []seal.Device{bob.as(), with(phone, func(k *seal.PublicKey) { k.Until = now })}, []*party{phone}, nil},
		{"little left, one account", bobOnly, []seal.Device{weak(bob)}, nil, nil},
		{"little left, several accounts", group, []seal.Device{weak(phone), bob.as(), carol.as()}, []*party{phone}, nil},
		{"little left, nothing else", group, []seal.Device{weak(bob), carol.as()}, nil, seal.ErrNoSealingKey},
		{"one account without a key", group, []seal.Device{bob.as(), none}, nil, seal.ErrNoSealingKey},
		{"one account without a device", group, []seal.Device{bob.as()}, nil, seal.ErrNoSealingKey},
		{"no devices", bobOnly, nil, nil, seal.ErrNoSealingKey},
		{"only key is none", bobOnly, []seal.Device{with(bob, func(k *seal.PublicKey) { clear(k.Public[1184:]) })}, nil, seal.ErrNoSealingKey},
		{"own device too", ownToo, []seal.Device{bob.as(), laptop.as()}, nil, nil},
		{"own device long off", ownToo, []seal.Device{bob.as(), weak(laptop)}, []*party{laptop}, nil},
		{"to itself", accountsOf(alice), devicesOf(laptop), nil, nil},
		{"to itself without a key", accountsOf(alice), []seal.Device{with(laptop, func(k *seal.PublicKey) { k.Until = now })}, nil, seal.ErrNoSealingKey},
		{"a device of a stranger", bobOnly, devicesOf(bob, carol), nil, seal.ErrArgument},
		{"no recipients", nil, nil, nil, seal.ErrArgument},
		{"recipients not ascending", [][]byte{group[1], group[0]}, devicesOf(bob, carol), nil, seal.ErrArgument},
		{"recipient twice", [][]byte{group[0], group[0]}, nil, nil, seal.ErrArgument},
		{"a device twice", bobOnly, []seal.Device{bob.as(), none, bob.as(), phone.as()}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := seal.NewEpoch(network, alice.sender(), c.to, c.devices, now, 31*day)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			var missing [][]byte
			for _, d := range e.Missing() {
				missing = append(missing, d.Device)
			}
			var want [][]byte
			for _, p := range c.missing {
				want = append(want, p.device)
			}
			if !slices.EqualFunc(missing, want, bytes.Equal) {
				t.Errorf("%d devices missing, want %d", len(missing), len(want))
			}
			for _, d := range c.devices {
				if !slices.ContainsFunc(want, func(w []byte) bool { return bytes.Equal(w, d.Device) }) != e.Has(d.Device) {
					t.Error("a device is neither sealed to nor missing, or both")
				}
			}
		})
	}
	for name, args := range map[string][2]uint64{"no life": {now, 0}, "life too long": {now, 32*day + 1}, "absurd time": {1 << 63, day}} {
		if _, err := seal.NewEpoch(network, alice.sender(), bobOnly, devicesOf(bob), args[0], args[1]); !errors.Is(err, seal.ErrArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One device that two accounts certified counts for both and is sealed to once.
func TestDeviceOfTwoAccounts(t *testing.T) {
	alice, bob, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "carol", "1", start)
	shared := bob.as()
	shared.Account = carol.account
	e, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob, carol), []seal.Device{shared, bob.as()}, start, day)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := seal.ParseEpoch(e.Bin()); err != nil || len(r.Entries) != 1 {
		t.Errorf("%v", err)
	}
}

func TestTooManyDevices(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	var devices []seal.Device
	for i := range seal.MaxDevices {
		devices = append(devices, seal.Device{Account: bob.account, Device: peerID("device %d", i), Key: bob.key})
	}
	e, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), devices, start, day)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Bin()) > seal.MaxEpochBin {
		t.Errorf("%d devices take %d bytes", seal.MaxDevices, len(e.Bin()))
	}
	if _, err := seal.ParseEpoch(e.Bin()); err != nil {
		t.Error(err)
	}
	more := append(devices, bob.as())
	if _, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), more, start, day); !errors.Is(err, seal.ErrTooManyDevices) {
		t.Errorf("%d devices: %v", len(more), err)
	}
	more[3].Key = seal.PublicKey{} // one without a key is no burden
	if e, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), more, start, day); err != nil || len(e.Missing()) != 1 {
		t.Error(err)
	}
}

func TestOpenEpochRefusesBindings(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start, bob)
	for name, change := range map[string]func(b *seal.Binding){
		"no author":          func(b *seal.Binding) { b.Account = nil },
		"no device":          func(b *seal.Binding) { b.Device = nil },
		"no recipients":      func(b *seal.Binding) { b.To = nil },
		"an empty recipient": func(b *seal.Binding) { b.To = [][]byte{{}} },
		"recipient twice":    func(b *seal.Binding) { b.To = [][]byte{bob.account, bob.account} },
		"257 recipients":     func(b *seal.Binding) { b.To = make([][]byte, 257) },
	} {
		b := e.Binding()
		change(&b)
		if _, err := seal.OpenEpoch(network, b, e.Bin(), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseEpochRefuses(t *testing.T) {
	for name, bin := range badEpochs(t) {
		if _, err := seal.ParseEpoch(bin); !errors.Is(err, seal.ErrInvalidEpoch) || !errors.Is(err, seal.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// badEpochs are bins that have not the layout of an epoch record's.
func badEpochs(t testing.TB) map[string][]byte {
	entry := func(i int) seal.Entry {
		return seal.Entry{Device: peerID("device %d", i), Sealed: make([]byte, 1168)}
	}
	entries := func(n int) (list []seal.Entry) {
		for i := range n {
			list = append(list, entry(i))
		}
		slices.SortFunc(list, func(a, b seal.Entry) int { return bytes.Compare(a.Device, b.Device) })
		return list
	}
	encode := func(list ...seal.Entry) []byte { return (&seal.EpochRecord{Entries: list}).Append(nil) }
	good := encode(entries(2)...)
	if _, err := seal.ParseEpoch(good); err != nil {
		t.Fatal(err)
	}
	two := entries(2)
	head := good[:1+22+34]
	bad := map[string][]byte{
		"empty":             nil,
		"truncated":         good[:len(good)-1],
		"trailing":          append(bytes.Clone(good), 0),
		"no entries":        encode(),
		"41 entries":        encode(entries(41)...),
		"descending":        encode(two[1], two[0]),
		"device twice":      encode(two[0], two[0]),
		"short device":      encode(seal.Entry{Device: two[0].Device[1:], Sealed: make([]byte, 1168)}),
		"sealed too long":   encode(seal.Entry{Device: two[0].Device, Sealed: make([]byte, 5000)}),
		"too large":         make([]byte, seal.MaxEpochBin+1),
		"billions":          append(bytes.Clone(head), 0xdd, 0xff, 0xff, 0xff, 0xff),
		"nested":            bytes.Repeat([]byte{0x91}, 10000),
		"not minimal":       append([]byte{0xdc, 0, 3}, good[1:]...),
		"list not minimal":  append(append(bytes.Clone(head), 0xdc, 0, 2), good[len(head)+1:]...),
		"an entry too many": append([]byte{0x94}, good[1:]...),
	}
	for _, n := range []int{1, 2, 22, 23, 40, 56, 57, 60} {
		bad[fmt.Sprintf("cut at %d", n)] = good[:n]
	}
	return bad
}

func TestPublicKeyCodec(t *testing.T) {
	bob := newParty(t, "bob", "1", start)
	b := seal.AppendPublicKey(nil, bob.key)
	r := canon.NewReader(b)
	got := seal.ReadPublicKey(r)
	if err := r.End(); err != nil || got.ID != bob.key.ID || got.Until != bob.key.Until || !bytes.Equal(got.Public, bob.key.Public) {
		t.Errorf("%v", err)
	}
	clear(b)
	if !bytes.Equal(got.Public, bob.key.Public) {
		t.Error("the key shares the reader's memory")
	}

	unknown := seal.PublicKey{Scheme: 77, Public: []byte("whatever"), Until: start + 100*day}
	r = canon.NewReader(seal.AppendPublicKey(nil, unknown))
	got = seal.ReadPublicKey(r)
	if err := r.End(); err != nil || got.Scheme != 77 || got.ID != seal.MakeKeyID(77, unknown.Public) {
		t.Errorf("a key of an unknown scheme: %v", err)
	}
	if seal.UsableKey(got, start, false) {
		t.Error("a key of an unknown scheme is usable")
	}
	if k := seal.ChooseKey([]seal.PublicKey{got, bob.key}, start, true); k.ID != bob.key.ID {
		t.Error("the key of a known scheme was not chosen")
	}
	if k := seal.ChooseKey([]seal.PublicKey{got}, start, true); k.Scheme != 0 {
		t.Error("an unusable key was chosen")
	}

	for name, k := range map[string]seal.PublicKey{
		"no scheme":    {Scheme: 0, Public: []byte("x")},
		"no key":       {Scheme: 5},
		"wrong size":   {Scheme: 1, Public: make([]byte, 1215)},
		"far too long": {Scheme: 5, Public: make([]byte, 5000)},
	} {
		r := canon.NewReader(seal.AppendPublicKey(nil, k))
		if got := seal.ReadPublicKey(r); r.End() == nil || got.Scheme != 0 {
			t.Errorf("%s was read", name)
		}
	}
}

func TestUsableKey(t *testing.T) {
	k := newParty(t, "bob", "1", start).key
	for _, c := range []struct {
		now     uint64
		several bool
		want    bool
	}{
		{start, false, true}, {start, true, true},
		{k.Until - 48*hour, true, true}, {k.Until - 48*hour + 1, true, false},
		{k.Until - 1, false, true}, {k.Until, false, false}, {k.Until + 1, true, false},
		{0, true, true}, {1<<64 - 1, false, false},
	} {
		if got := seal.UsableKey(k, c.now, c.several); got != c.want {
			t.Errorf("%d ms before its end, several %v: %v", int64(k.Until-c.now), c.several, got)
		}
	}
}
