package identity_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

const (
	day     = 24 * 60 * 60 * 1000
	someDay = 1_800_000_000_000 // Unix milliseconds
)

func certify(t testing.TB, k *identity.AccountKey, network identity.NetworkID, device identity.DeviceID) *identity.Certificate {
	t.Helper()
	c, err := k.Certify(network, device, 3, someDay, someDay+400*day)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func certValid(t testing.TB, c *identity.Certificate, network identity.NetworkID) bool {
	t.Helper()
	check, err := c.Check(network)
	return err == nil && verdict(t, check)
}

func TestCertificate(t *testing.T) {
	network, other := identity.NewNetworkKey().ID(), identity.NewNetworkKey().ID()
	device := identity.NewDeviceKey().ID()
	for _, account := range []*identity.AccountKey{edAccount(t), rsaKey()} {
		t.Run(string(account.Type()), func(t *testing.T) {
			c := certify(t, account, network, device)
			wire := c.Append([]byte("before"))[len("before"):]
			if wire[0] != 0x96 || len(wire) > identity.MaxCertificate {
				t.Errorf("first byte %#x, %d bytes", wire[0], len(wire))
			}
			parsed, err := identity.ParseCertificate(account.ID(), wire)
			if err != nil {
				t.Fatal(err)
			}
			kept := bytes.Clone(wire)
			clear(wire) // the certificate keeps nothing of it
			if !bytes.Equal(parsed.Append(nil), kept) {
				t.Error("another wire form after a round trip")
			}
			if parsed.Account != account.ID() || parsed.Device != device || parsed.Serial != 3 ||
				parsed.NotBefore != someDay || parsed.NotAfter != someDay+400*day ||
				(parsed.AccountKey != nil) != (account.Type() == identity.KeyRSA) {
				t.Errorf("got %+v", parsed)
			}
			if !certValid(t, parsed, network) {
				t.Error("a sound certificate is refused")
			}
			if certValid(t, parsed, other) {
				t.Error("accepted in another network")
			}
			for name, change := range map[string]func(c *identity.Certificate){
				"device":     func(c *identity.Certificate) { c.Device = identity.NewDeviceKey().ID() },
				"serial":     func(c *identity.Certificate) { c.Serial++ },
				"not before": func(c *identity.Certificate) { c.NotBefore++ },
				"not after":  func(c *identity.Certificate) { c.NotAfter-- },
				"signature":  func(c *identity.Certificate) { c.Signature[7] ^= 1 },
				"account":    func(c *identity.Certificate) { c.Account, c.AccountKey = edAccount(t).ID(), nil },
				"key":        func(c *identity.Certificate) { c.AccountKey = marshalRSA(t, 2048, 65537) },
				"no sig":     func(c *identity.Certificate) { c.Signature = nil },
				"no span":    func(c *identity.Certificate) { c.NotAfter = c.NotBefore },
				"long span":  func(c *identity.Certificate) { c.NotAfter++ },
			} {
				changed := *parsed
				changed.Signature = bytes.Clone(parsed.Signature)
				change(&changed)
				if certValid(t, &changed, network) {
					t.Errorf("%s changed: accepted", name)
				}
			}
		})
	}
}

func TestCovers(t *testing.T) {
	c := identity.Certificate{NotBefore: 10, NotAfter: 20}
	for ms, want := range map[uint64]bool{0: false, 9: false, 10: true, 15: true, 20: true, 21: false, math.MaxUint64: false} {
		if c.Covers(ms) != want {
			t.Errorf("%d: %v", ms, !want)
		}
	}
}

func TestCertifyRefuses(t *testing.T) {
	k, network, device := edAccount(t), identity.NewNetworkKey().ID(), identity.NewDeviceKey().ID()
	for name, c := range map[string]struct {
		device              identity.DeviceID
		notBefore, notAfter uint64
	}{
		"no span":      {device, someDay, someDay},
		"backwards":    {device, someDay, someDay - 1},
		"too long":     {device, someDay, someDay + 400*day + 1},
		"all of time":  {device, 0, math.MaxUint64},
		"no device":    {"", someDay, someDay + 1},
		"rsa device":   {identity.DeviceID(rsaKey().ID()), someDay, someDay + 1},
		"small device": {identity.DeviceID("\x00\x24\x08\x01\x12\x20\x01" + string(make([]byte, 31))), someDay, someDay + 1},
	} {
		if made, err := k.Certify(network, c.device, 1, c.notBefore, c.notAfter); err == nil || made != nil {
			t.Errorf("%s: certified", name)
		}
	}
}

// wireCert builds a certificate's wire form from arbitrary fields.
func wireCert(device []byte, serial, notBefore, notAfter uint64, key, signature []byte) []byte {
	b := canon.AppendArray(nil, 6)
	b = canon.AppendBin(b, device)
	b = canon.AppendUint(b, serial)
	b = canon.AppendUint(b, notBefore)
	b = canon.AppendUint(b, notAfter)
	b = canon.AppendBin(b, key)
	return canon.AppendBin(b, signature)
}

func TestParseCertificateRefuses(t *testing.T) {
	ed, rsa := edAccount(t), rsaKey()
	deviceID := identity.NewDeviceKey().ID()
	device := deviceID.Ed25519Key()
	network := identity.NewNetworkKey().ID()
	sound := certify(t, ed, network, deviceID).Append(nil)
	soundRSA := certify(t, rsa, network, deviceID).Append(nil)
	rsaPublic := rsa.Public().Marshal()
	sig64, sig256 := make([]byte, 64), make([]byte, 256)
	small := append([]byte{1}, make([]byte, 31)...)

	for name, c := range map[string]struct {
		account identity.AccountID
		wire    []byte
		is      error // besides ErrBadCertificate
	}{
		"empty":                   {ed.ID(), nil, canon.ErrTruncated},
		"public key":              {rsa.ID(), rsaPublic, canon.ErrType},
		"tail":                    {ed.ID(), append(bytes.Clone(sound), 0), canon.ErrTrailing},
		"array of 7":              {ed.ID(), append(append([]byte{0x97}, sound[1:]...), 0), nil},
		"array of 5":              {ed.ID(), append([]byte{0x95}, sound[1:]...), nil},
		"array announcing 2^32-1": {ed.ID(), append([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, sound[1:]...), canon.ErrTooLong},
		"array of 6 in 3 bytes":   {ed.ID(), append([]byte{0xdc, 0, 6}, sound[1:]...), canon.ErrNotMinimal},
		"nested arrays":           {ed.ID(), bytes.Repeat([]byte{0x91}, 2000), nil},
		"huge":                    {ed.ID(), make([]byte, 1<<20), nil},
		"bin announcing 2^32-1":   {ed.ID(), append([]byte{0x96, 0xc6, 0xff, 0xff, 0xff, 0xff}, sound[3:]...), canon.ErrTooLong},
		"device of 31":            {ed.ID(), wireCert(device[:31], 1, 1, 2, nil, sig64), nil},
		"device of 33":            {ed.ID(), wireCert(append(bytes.Clone(device), 0), 1, 1, 2, nil, sig64), canon.ErrTooLong},
		"device of small order":   {ed.ID(), wireCert(small, 1, 1, 2, nil, sig64), identity.ErrBadKey},
		"no span":                 {ed.ID(), wireCert(device, 1, 2, 2, nil, sig64), nil},
		"backwards":               {ed.ID(), wireCert(device, 1, 2, 1, nil, sig64), nil},
		"too long a life":         {ed.ID(), wireCert(device, 1, 1, 2+400*day, nil, sig64), identity.ErrTooLongLived},
		"all of time":             {ed.ID(), wireCert(device, 1, 0, math.MaxUint64, nil, sig64), identity.ErrTooLongLived},
		"signature of 63":         {ed.ID(), wireCert(device, 1, 1, 2, nil, sig64[:63]), nil},
		"signature of 65":         {ed.ID(), wireCert(device, 1, 1, 2, nil, append(sig64, 0)), nil},
		"key beside its ID":       {ed.ID(), wireCert(device, 1, 1, 2, ed.Public().Marshal(), sig64), nil},
		"rsa key of an ed ID":     {ed.ID(), wireCert(device, 1, 1, 2, rsaPublic, sig256), nil},
		"no rsa key":              {rsa.ID(), wireCert(device, 1, 1, 2, nil, sig256), identity.ErrBadKey},
		"ed key of an rsa ID":     {rsa.ID(), wireCert(device, 1, 1, 2, ed.Public().Marshal(), sig64), nil},
		"another rsa key":         {rsa.ID(), wireCert(device, 1, 1, 2, marshalRSA(t, 2048, 65537), sig256), nil},
		"rsa 1024":                {rsa.ID(), wireCert(device, 1, 1, 2, marshalRSA(t, 1024, 65537), sig256[:128]), identity.ErrBadKey},
		"rsa signature of 255":    {rsa.ID(), wireCert(device, 1, 1, 2, rsaPublic, sig256[:255]), nil},
		"rsa signature of 257":    {rsa.ID(), wireCert(device, 1, 1, 2, rsaPublic, append(sig256, 0)), nil},
		"of another ed account":   {edAccount(t).ID(), soundRSA, nil},
		"no account":              {"", sound, nil},
		"small-order account":     {identity.AccountID("\x00\x24\x08\x01\x12\x20" + string(small)), sound, identity.ErrBadKey},
	} {
		got, err := identity.ParseCertificate(c.account, c.wire)
		if got != nil || !errors.Is(err, identity.ErrBadCertificate) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range sound {
		if _, err := identity.ParseCertificate(ed.ID(), sound[:i]); err == nil {
			t.Errorf("the first %d bytes accepted", i)
		}
	}
	// Another Ed25519 account is a matter of the signature.
	c, err := identity.ParseCertificate(edAccount(t).ID(), sound)
	if err != nil || certValid(t, c, network) {
		t.Errorf("of another account: accepted (%v)", err)
	}
}

func TestLongestCertificate(t *testing.T) {
	k := rsaOf(t, identity.MaxRSABits, 65537)
	wire := wireCert(identity.NewDeviceKey().ID().Ed25519Key(), math.MaxUint64, math.MaxUint64-1, math.MaxUint64, k.Marshal(), make([]byte, 1024))
	if len(wire) != identity.MaxCertificate {
		t.Errorf("%d bytes, MaxCertificate is %d", len(wire), identity.MaxCertificate)
	}
	if _, err := identity.ParseCertificate(k.ID(), wire); err != nil {
		t.Error(err)
	}
}

func FuzzParseCertificate(f *testing.F) {
	network, device := identity.NewNetworkKey().ID(), identity.NewDeviceKey().ID()
	for _, k := range []*identity.AccountKey{edAccount(f), rsaKey()} {
		f.Add([]byte(k.ID()), certify(f, k, network, device).Append(nil))
	}
	f.Add([]byte{}, []byte{0x96})
	f.Fuzz(func(t *testing.T, account, wire []byte) {
		c, err := identity.ParseCertificate(identity.AccountID(account), wire)
		if err != nil {
			if !errors.Is(err, identity.ErrBadCertificate) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(c.Append(nil), wire) {
			t.Errorf("%x: another wire form after a round trip", wire)
		}
		check, err := c.Check(network)
		if err != nil {
			t.Errorf("%x: parsed and not checkable: %v", wire, err)
		}
		identity.Verify(&check)
	})
}
