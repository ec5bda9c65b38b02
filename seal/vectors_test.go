package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// hexBytes is a byte string in a vector file: lower-case hex.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.AppendDecode(nil, b)
	return err
}

// messageVector is the symmetric part, every step of it: from a secret, a salt
// and the payload before the bin to the whole payload.
type messageVector struct {
	Name         string   `json:"name"`
	Network      hexBytes `json:"network"`
	SenderDevice hexBytes `json:"sender_device"`
	Secret       hexBytes `json:"secret"`
	Commitment   hexBytes `json:"commitment"`
	EpochID      hexBytes `json:"epoch_id"`
	Salt         hexBytes `json:"salt"`
	KeyNonce     hexBytes `json:"key_nonce"` // key || nonce
	Body         hexBytes `json:"body"`
	Prefix       hexBytes `json:"prefix"` // payload to the header of its last bin, inclusive
	Bin          hexBytes `json:"bin"`    // what follows it
}

// epochVector is an epoch record sealed to a fixed private key. HPKE is not
// deterministic: it is to be opened, not to be made again.
type epochVector struct {
	Name          string     `json:"name"`
	Network       hexBytes   `json:"network"`
	SenderAccount hexBytes   `json:"sender_account"`
	SenderDevice  hexBytes   `json:"sender_device"`
	To            []hexBytes `json:"to"`
	Created       uint64     `json:"created"`
	Expires       uint64     `json:"expires"`
	Device        hexBytes   `json:"device"`
	PrivateKey    hexBytes   `json:"private_key"` // X-Wing seed
	PublicKey     hexBytes   `json:"public_key"`  // as it stands in the device record
	KeyID         hexBytes   `json:"key_id"`      //
	KeyCreated    uint64     `json:"key_created"` // until is 32 days later
	Bin           hexBytes   `json:"bin"`         //
	Secret        hexBytes   `json:"secret"`      // empty: it must not open
	Error         string     `json:"error"`       // why not: invalid, commitment, outlives, not_for_us, no_key
}

func TestVectors(t *testing.T) {
	t.Run("messages", func(t *testing.T) {
		vectors := load(t, "messages.json", makeMessageVectors)
		for _, v := range vectors {
			t.Run(v.Name, func(t *testing.T) { checkMessageVector(t, v) })
		}
	})
	t.Run("epochs", func(t *testing.T) {
		vectors := load(t, "epochs.json", makeEpochVectors)
		for _, v := range vectors {
			t.Run(v.Name, func(t *testing.T) { checkEpochVector(t, v) })
		}
	})
	t.Run("padding", func(t *testing.T) {
		vectors := load(t, "padding.json", func(*testing.T) (list [][2]int) {
			for n := 0; n <= seal.MaxBody; n++ {
				if n == 0 || n == seal.MaxBody || seal.PaddedLen(n) != seal.PaddedLen(n+1) || seal.PaddedLen(n) != seal.PaddedLen(n-1) {
					list = append(list, [2]int{n, seal.PaddedLen(n)})
				}
			}
			return list
		})
		for _, v := range vectors {
			if got := seal.PaddedLen(v[0]); got != v[1] {
				t.Errorf("a body of %d pads to %d, the vector says %d", v[0], got, v[1])
			}
		}
	})
}

func load[T any](t *testing.T, name string, create func(*testing.T) []T) (list []T) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		b, err := json.MarshalIndent(create(t), "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no vectors")
	}
	return list
}

// counting returns n bytes from, from+1, …
func counting(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func makeMessageVectors(t *testing.T) (list []messageVector) {
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"empty body", nil},
		{"hello", []byte("hello")},
		{"body that ends like padding", []byte{'x', 0x80, 0, 0}},
		{"last of the first class", bytes.Repeat([]byte{0}, 80)},
		{"first of the second class", bytes.Repeat([]byte{0x80}, 81)},
		{"512 bytes", counting(0, 512)},
	} {
		v := messageVector{
			Name: c.name, Network: network[:], SenderDevice: peerID("vector device"),
			Secret: counting(0x40, 32), Salt: counting(0xa0, 16), Body: c.body,
		}
		b := seal.Binding{Account: peerID("vector account"), Device: v.SenderDevice, To: [][]byte{peerID("vector recipient")}, Created: start, Expires: start + day}
		v.Prefix = prefix(b, len(c.body))
		e := seal.EpochFromSecret([32]byte(v.Network), b, [32]byte(v.Secret))
		payload, err := e.SealWithSalt(bytes.Clone(v.Prefix), c.body, [16]byte(v.Salt))
		if err != nil {
			t.Fatal(err)
		}
		v.Bin = payload[len(v.Prefix):]
		id, commitment := e.ID(), seal.Commit([32]byte(v.Network), (*[32]byte)(v.Secret))
		v.EpochID, v.Commitment = id[:], commitment[:]
		if v.KeyNonce, err = seal.KeyNonce([32]byte(v.Secret), v.Bin); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

func checkMessageVector(t *testing.T, v messageVector) {
	b := seal.Binding{Device: v.SenderDevice}
	e := seal.EpochFromSecret([32]byte(v.Network), b, [32]byte(v.Secret))
	if c := seal.Commit([32]byte(v.Network), (*[32]byte)(v.Secret)); !bytes.Equal(c[:], v.Commitment) {
		t.Errorf("commitment %x", c)
	}
	if id := e.ID(); !bytes.Equal(id[:], v.EpochID) {
		t.Errorf("epoch ID %x", id)
	}
	payload, err := e.SealWithSalt(bytes.Clone(v.Prefix), v.Body, [16]byte(v.Salt))
	if err != nil || !bytes.Equal(payload, append(bytes.Clone(v.Prefix), v.Bin...)) {
		t.Errorf("sealed to %x, %v", payload, err)
	}
	if k, err := seal.KeyNonce([32]byte(v.Secret), v.Bin); err != nil || !bytes.Equal(k, v.KeyNonce) {
		t.Errorf("key and nonce %x, %v", k, err)
	}
	id, err := seal.MessageEpoch(v.Bin)
	if err != nil || !bytes.Equal(id[:], v.EpochID) {
		t.Errorf("names epoch %x, %v", id, err)
	}
}

func makeEpochVectors(t *testing.T) (list []epochVector) {
	alice := &party{account: peerID("vector account"), device: peerID("vector device")}
	bob := &party{account: peerID("vector recipient"), device: peerID("vector recipient device"), dir: t.TempDir()}
	bob.ring = openRing(t, bob.dir)
	seed := counting(0x10, 32)
	var err error
	if bob.key, err = bob.ring.AddKey(bytes.Clone(seed), start); err != nil {
		t.Fatal(err)
	}
	e := newEpoch(t, alice, start+hour, bob)
	secret, b := e.Secret(), e.Binding()
	good := epochVector{
		Name: "valid", Network: network[:], SenderAccount: b.Account, SenderDevice: b.Device,
		Created: b.Created, Expires: b.Expires, Device: bob.device,
		PrivateKey: seed, PublicKey: seal.AppendPublicKey(nil, bob.key), KeyID: bob.key.ID[:], KeyCreated: start,
		Bin: e.Bin(), Secret: secret[:],
	}
	for _, a := range b.To {
		good.To = append(good.To, a)
	}
	list = append(list, good)
	bad := func(name, why string, change func(v *epochVector, r *seal.EpochRecord)) {
		v := good
		v.Name, v.Error, v.Secret = name, why, nil
		r, err := seal.ParseEpoch(bytes.Clone(good.Bin))
		if err != nil {
			t.Fatal(err)
		}
		change(&v, r)
		v.Bin = r.Append(nil)
		list = append(list, v)
	}
	bad("another network", "invalid", func(v *epochVector, _ *seal.EpochRecord) { v.Network = counting(1, 32) })
	bad("another sender device", "invalid", func(v *epochVector, _ *seal.EpochRecord) { v.SenderDevice = bob.device })
	bad("another commitment", "invalid", func(_ *epochVector, r *seal.EpochRecord) { r.Commitment[0] ^= 1 })
	bad("sealed secret changed", "invalid", func(_ *epochVector, r *seal.EpochRecord) { r.Entries[0].Sealed[1167] ^= 1 })
	bad("a second secret", "commitment", func(_ *epochVector, r *seal.EpochRecord) {
		if r.Entries[0].Sealed, err = seal.SealSecret(network, r.ID, alice.device, bob.device, bob.key, bob.key.ID, counting(0, 32)); err != nil {
			t.Fatal(err)
		}
	})
	bad("outlives its key", "outlives", func(v *epochVector, _ *seal.EpochRecord) { v.Expires = bob.key.Until + 1 })
	bad("to another device", "not_for_us", func(_ *epochVector, r *seal.EpochRecord) { r.Entries[0].Device = alice.device })
	bad("to an unknown key", "no_key", func(_ *epochVector, r *seal.EpochRecord) { r.Entries[0].Key[0] ^= 1 })
	return list
}

func checkEpochVector(t *testing.T, v epochVector) {
	ring := openRing(t, t.TempDir())
	key, err := ring.AddKey(bytes.Clone(v.PrivateKey), v.KeyCreated)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.ID[:], v.KeyID) {
		t.Errorf("key ID %s", key.ID)
	}
	r := canon.NewReader(v.PublicKey)
	if got := seal.ReadPublicKey(r); r.End() != nil || !bytes.Equal(got.Public, key.Public) || got.Until != key.Until {
		t.Errorf("another public key: %v", r.Err())
	}
	b := seal.Binding{Account: v.SenderAccount, Device: v.SenderDevice, Created: v.Created, Expires: v.Expires}
	for _, a := range v.To {
		b.To = append(b.To, a)
	}
	o, err := seal.OpenEpoch([32]byte(v.Network), b, v.Bin, v.Device, ring)
	want := map[string]error{"": nil, "invalid": seal.ErrInvalidEpoch, "commitment": seal.ErrCommitment,
		"outlives": seal.ErrOutlives, "not_for_us": seal.ErrNotForUs, "no_key": seal.ErrNoKey}
	if wanted, ok := want[v.Error]; !ok || !errors.Is(err, wanted) {
		t.Fatalf("error %v, want %q", err, v.Error)
	}
	if err == nil {
		if s := o.Secret(); !bytes.Equal(s[:], v.Secret) {
			t.Errorf("secret %x", s)
		}
	}
}
