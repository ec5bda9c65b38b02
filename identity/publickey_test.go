package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"testing"

	lcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// marshalRSA returns an RSA public key of that many bits and that exponent in
// libp2p's form. Nobody knows its private half.
func marshalRSA(t testing.TB, bits, e int) []byte {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits))
	return marshalModulus(t, n.Sub(n, big.NewInt(1)), e)
}

func marshalModulus(t testing.TB, n *big.Int, e int) []byte {
	t.Helper()
	return wrapRSA(derRSA(t, n, e))
}

func derRSA(t testing.TB, n *big.Int, e int) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func wrapRSA(der []byte) []byte {
	return append(binary.AppendUvarint([]byte{8, 0, 0x12}, uint64(len(der))), der...)
}

func rsaOf(t testing.TB, bits, e int) identity.PublicKey {
	t.Helper()
	k, err := identity.ParsePublicKey(marshalRSA(t, bits, e))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestPublicKeyIsLibp2ps: IDs and bytes are those of go-libp2p.
func TestPublicKeyIsLibp2ps(t *testing.T) {
	for _, account := range []*identity.AccountKey{edAccount(t), rsaKey()} {
		public := account.Public()
		theirs, err := lcrypto.UnmarshalPublicKey(public.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		marshalled, err := lcrypto.MarshalPublicKey(theirs)
		if err != nil || !bytes.Equal(marshalled, public.Marshal()) {
			t.Errorf("%s: libp2p marshals another form (%v)", account.Type(), err)
		}
		id, err := peer.IDFromPublicKey(theirs)
		if err != nil || string(id) != string(account.ID()) {
			t.Errorf("%s: libp2p says %v, we %v (%v)", account.Type(), id, account.ID(), err)
		}
		if public.Marshal()[0] != 0x08 {
			t.Errorf("%s: first byte %#x", account.Type(), public.Marshal()[0])
		}
		again, err := identity.ParsePublicKey(public.Marshal())
		if err != nil || again.ID() != public.ID() || again.IsRSA() != (account.Type() == identity.KeyRSA) || again.Type() != account.Type() {
			t.Errorf("%s: not the same after a round trip: %v", account.Type(), err)
		}
		if parsed, err := identity.ParseAccount(account.ID().String()); err != nil || parsed != account.ID() {
			t.Errorf("%s: ID does not survive its text: %v", account.Type(), err)
		}
	}
	var none identity.PublicKey
	if !none.IsZero() || none.ID() != "" || none.Marshal() != nil || none.IsRSA() || none.SignatureLen() != 0 {
		t.Error("the zero key is a key")
	}
}

func TestLongestPublicKey(t *testing.T) {
	if n := len(rsaOf(t, identity.MaxRSABits, 65537).Marshal()); n != identity.MaxPublicKey {
		t.Errorf("RSA %d takes %d bytes, MaxPublicKey is %d", identity.MaxRSABits, n, identity.MaxPublicKey)
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	t.Setenv(lcrypto.WeakRsaKeyEnv, "1") // libp2p's switch has no effect here
	ed := edAccount(t).Public().Marshal()
	sound := marshalRSA(t, 2048, 65537)
	der := sound[5:]
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalPKIXPublicKey(&ecKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	_, secp, err := lcrypto.GenerateSecp256k1Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secpBytes, err := lcrypto.MarshalPublicKey(secp)
	if err != nil {
		t.Fatal(err)
	}
	even := new(big.Int).Lsh(big.NewInt(1), 2047)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, b := range map[string][]byte{
		"empty":                  nil,
		"one byte":               {8},
		"rsa 1024":               marshalRSA(t, 1024, 65537),
		"rsa 2047":               marshalRSA(t, 2047, 65537),
		"rsa 8193":               marshalRSA(t, 8193, 65537),
		"rsa 16384":              marshalRSA(t, 16384, 65537),
		"e = 3":                  marshalRSA(t, 2048, 3),
		"e = 65539":              marshalRSA(t, 2048, 65539),
		"even modulus":           marshalModulus(t, even, 65537),
		"rsa truncated":          sound[:len(sound)-1],
		"rsa with a tail":        join(sound, []byte{0}),
		"unknown field":          join(sound, []byte{0x18, 1}),
		"fields swapped":         join(sound[2:], sound[:2]),
		"type in two bytes":      join([]byte{8, 0x80, 0}, sound[2:]),
		"length in three bytes":  join([]byte{8, 0, 0x12, sound[3], sound[4] | 0x80, 0}, der),
		"length without an end":  {8, 0, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"tail inside the DER":    wrapRSA(join(der, []byte{0})),
		"long form of a length":  wrapRSA(join([]byte{0x30, 0x83, 0}, der[2:])),
		"labelled RSA, holds EC": wrapRSA(ec),
		"secp256k1":              secpBytes,
		"ed25519 short":          ed[:len(ed)-1],
		"ed25519 long":           join(ed, []byte{0}),
		"ed25519 small order":    join(ed[:4], []byte{1}, make([]byte, 31)),
		"ed25519 no point":       join(ed[:4], []byte{2}, make([]byte, 31)),
	} {
		if _, err := identity.ParsePublicKey(b); !errors.Is(err, identity.ErrBadKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewAccountKeyRefuses(t *testing.T) {
	for name, make := range map[string]func() (*identity.AccountKey, error){
		"rsa 1024":  func() (*identity.AccountKey, error) { return identity.NewAccountKey(identity.KeyRSA, 1024) },
		"rsa 2047":  func() (*identity.AccountKey, error) { return identity.NewAccountKey(identity.KeyRSA, 2047) },
		"rsa 8193":  func() (*identity.AccountKey, error) { return identity.NewAccountKey(identity.KeyRSA, 8193) },
		"rsa 0":     func() (*identity.AccountKey, error) { return identity.NewAccountKey(identity.KeyRSA, 0) },
		"no type":   func() (*identity.AccountKey, error) { return identity.NewAccountKey("", 0) },
		"secp256k1": func() (*identity.AccountKey, error) { return identity.NewAccountKey("secp256k1", 0) },
	} {
		if k, err := make(); err == nil || k != nil {
			t.Errorf("%s: made", name)
		}
	}
}

// TestHostKeys: the libp2p host of a device or pillar has its ID.
func TestHostKeys(t *testing.T) {
	device, pillar := identity.NewDeviceKey(), identity.NewPillarKey()
	for id, key := range map[string]lcrypto.PrivKey{
		string(device.ID()): device.Private(),
		string(pillar.ID()): pillar.Private(),
	} {
		host, err := peer.IDFromPrivateKey(key)
		if err != nil || string(host) != id {
			t.Errorf("host ID %v of %x: %v", host, id, err)
		}
	}
	network, other := identity.NewNetworkKey(), identity.NewNetworkKey()
	if identity.NewDeviceKey().ID() == device.ID() || network.ID() == other.ID() {
		t.Error("two new keys are one")
	}
}

func TestIDTexts(t *testing.T) {
	network := identity.NewNetworkKey().ID()
	if parsed, err := identity.ParseNetwork(network.String()); err != nil || parsed != network {
		t.Errorf("network %s: %v", network, err)
	}
	device := identity.NewDeviceKey().ID()
	if parsed, err := identity.ParseDevice(device.String()); err != nil || parsed != device {
		t.Errorf("device %s: %v", device, err)
	}
	pillar := identity.NewPillarKey().ID()
	if parsed, err := identity.ParsePillar(pillar.String()); err != nil || parsed != pillar {
		t.Errorf("pillar %s: %v", pillar, err)
	}
	rsaText := rsaKey().ID().String()
	smallOrder := identity.DeviceID("\x00\x24\x08\x01\x12\x20\x01" + string(make([]byte, 31))).String()
	for _, text := range []string{"", "x", rsaText, smallOrder, network.String(), device.String() + "1"} {
		if _, err := identity.ParseDevice(text); !errors.Is(err, identity.ErrBadID) {
			t.Errorf("device %q accepted", text)
		}
		if _, err := identity.ParsePillar(text); !errors.Is(err, identity.ErrBadID) {
			t.Errorf("pillar %q accepted", text)
		}
		if _, err := identity.ParseAccount(text); !errors.Is(err, identity.ErrBadID) && text != rsaText {
			t.Errorf("account %q accepted", text)
		}
	}
	for _, text := range []string{"", "00", device.String(), network.String() + "00", identity.NetworkID{}.String()} {
		if _, err := identity.ParseNetwork(text); !errors.Is(err, identity.ErrBadID) {
			t.Errorf("network %q accepted", text)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(edAccount(f).Public().Marshal())
	f.Add(marshalRSA(f, 2048, 65537))
	f.Add(marshalRSA(f, 1024, 3))
	f.Add([]byte{8, 0, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := identity.ParsePublicKey(b)
		if err != nil {
			if !errors.Is(err, identity.ErrBadKey) || !k.IsZero() {
				t.Errorf("%x: %v", b, err)
			}
			return
		}
		if !bytes.Equal(k.Marshal(), b) {
			t.Errorf("%x: marshals as %x", b, k.Marshal())
		}
		if theirs, err := lcrypto.UnmarshalPublicKey(b); err != nil {
			t.Errorf("%x: libp2p: %v", b, err)
		} else if id, err := peer.IDFromPublicKey(theirs); err != nil || string(id) != string(k.ID()) {
			t.Errorf("%x: libp2p's ID is %v: %v", b, id, err)
		}
		if _, err := identity.AccountFromBytes([]byte(k.ID())); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	})
}
