package identity_test

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	"github.com/hdevalence/ed25519consensus"

	"github.com/obelisk-network/obelisk/identity"
)

func TestTags(t *testing.T) {
	seen := make(map[identity.Tag]bool)
	for _, tag := range identity.Tags() {
		if seen[tag] {
			t.Errorf("tag %q twice", tag)
		}
		seen[tag] = true
		if !strings.HasPrefix(tag.String(), "obk1 ") {
			t.Errorf("tag %q does not start with obk1", tag)
		}
		if strings.ContainsFunc(tag.String(), func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("tag %q is not printable ASCII", tag)
		}
	}
}

// TestHash: the expected value is sha256sum's of "obk1 head", seven NULs, "abc".
func TestHash(t *testing.T) {
	const want = "08eb821e19de689db08a9b98721ae5147a848d385b5f9b3591b9953ff550f3e8"
	whole, parts := identity.Hash(identity.TagHead, []byte("abc")), identity.Hash(identity.TagHead, []byte("a"), nil, []byte("bc"))
	if hex.EncodeToString(whole[:]) != want || parts != whole {
		t.Errorf("got %x and %x, want %s", whole, parts, want)
	}
	if identity.Hash(identity.TagSummary, []byte("abc")) == whole {
		t.Error("the tag does not matter")
	}
}

// TestSignatureBinds alters everything that a signature covers.
func TestSignatureBinds(t *testing.T) {
	network, other := identity.NewNetworkKey().ID(), identity.NewNetworkKey().ID()
	signers := map[string]identity.Check{
		"account":     signedBy(edAccount(t), identity.TagRecord, network, "message"),
		"rsa account": signedBy(rsaKey(), identity.TagRecord, network, "message"),
		"device":      signedBy(identity.NewDeviceKey(), identity.TagRecord, network, "message"),
		"pillar":      signedBy(identity.NewPillarKey(), identity.TagRecord, network, "message"),
		"network":     signedBy(identity.NewNetworkKey(), identity.TagRecord, network, "message"),
	}
	changes := map[string]func(c *identity.Check){
		"tag":             func(c *identity.Check) { c.Tag = identity.TagHead },
		"network":         func(c *identity.Check) { c.Network = other },
		"message":         func(c *identity.Check) { c.Message = []byte("massage") },
		"longer message":  func(c *identity.Check) { c.Message = []byte("message\x00") },
		"empty message":   func(c *identity.Check) { c.Message = nil },
		"other key":       func(c *identity.Check) { c.Key = identity.NewDeviceKey().Public() },
		"other rsa key":   func(c *identity.Check) { c.Key = rsaOf(t, 2048, 65537) },
		"no key":          func(c *identity.Check) { c.Key = identity.PublicKey{} },
		"no key, no sig":  func(c *identity.Check) { c.Key, c.Signature = identity.PublicKey{}, nil },
		"signature":       func(c *identity.Check) { c.Signature[3] ^= 1 },
		"end of sig":      func(c *identity.Check) { c.Signature[len(c.Signature)-1] ^= 0x80 },
		"short signature": func(c *identity.Check) { c.Signature = c.Signature[:len(c.Signature)-1] },
		"long signature":  func(c *identity.Check) { c.Signature = append(c.Signature, 0) },
		"no signature":    func(c *identity.Check) { c.Signature = nil },
	}
	for who, sound := range signers {
		t.Run(who, func(t *testing.T) {
			if !verdict(t, sound) {
				t.Fatal("a sound signature is refused")
			}
			for name, change := range changes {
				c := sound
				c.Signature = append([]byte(nil), sound.Signature...)
				change(&c)
				if verdict(t, c) {
					t.Errorf("%s: accepted", name)
				}
			}
		})
	}
}

// TestBatchPositions puts bad signatures at every single position, and at random
// ones, into batches of many sizes: exactly those are refused. One verifier is
// used throughout.
func TestBatchPositions(t *testing.T) {
	network := identity.NewNetworkKey().ID()
	devices := []*identity.DeviceKey{identity.NewDeviceKey(), identity.NewDeviceKey(), identity.NewDeviceKey()}
	const largest = 300 // more than one equation takes
	sound := make([]identity.Check, largest)
	broken := make([]identity.Check, largest)
	for i := range sound {
		if i%50 == 7 {
			sound[i] = signedBy(rsaKey(), identity.TagRecord, network, fmt.Sprint(i))
		} else {
			sound[i] = signedBy(devices[i%len(devices)], identity.TagRecord, network, fmt.Sprint(i))
		}
		broken[i] = sound[i]
		broken[i].Signature = append([]byte(nil), sound[i].Signature...)
		switch i % 3 {
		case 0:
			broken[i].Signature[0] ^= 1 // R, often no point at all
		case 1:
			broken[i].Signature[33] ^= 1 // s
		default:
			broken[i].Message = []byte("another")
		}
	}
	var v identity.BatchVerifier
	try := func(n int, bad map[int]bool) {
		t.Helper()
		checks, ok := append([]identity.Check(nil), sound[:n]...), make([]bool, n)
		for i := range bad {
			checks[i] = broken[i]
		}
		v.Verify(checks, ok)
		for i := range ok {
			if ok[i] == bad[i] {
				t.Fatalf("%d checks with bad %v: verdict %d is %v", n, bad, i, ok[i])
			}
		}
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 8, 17} {
		try(n, nil)
		for i := range n {
			try(n, map[int]bool{i: true})
		}
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 10 {
		n := 1 + random.IntN(largest)
		bad := make(map[int]bool)
		for range random.IntN(20) {
			bad[random.IntN(n)] = true
		}
		t.Logf("seed %d: %d checks, bad %v", seed, n, bad)
		try(n, bad)
	}
	all := make(map[int]bool)
	for i := range 70 {
		all[i] = true
	}
	try(70, all)
	try(largest, nil)
}

func TestBatchLengthsDiffer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	new(identity.BatchVerifier).Verify(make([]identity.Check, 2), make([]bool, 1))
}

// smallOrderEncodings returns all 14 encodings of the 8 points of small order:
// the 8 canonical ones, and those with y + p or a sign bit beside x = 0.
func smallOrderEncodings(t *testing.T) (encodings [][]byte) {
	t.Helper()
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	// A generator of the 8: L times some point of full order.
	torsion := torsionPoint(t)
	ys := make(map[string]*big.Int)
	q := edwards25519.NewIdentityPoint()
	for range 8 {
		y := littleEndian(q.Bytes())
		y.SetBit(y, 255, 0)
		ys[y.String()] = y
		q.Add(q, torsion)
	}
	for _, y := range ys {
		for _, candidate := range []*big.Int{y, new(big.Int).Add(y, p)} {
			if candidate.BitLen() > 255 {
				continue
			}
			for sign := range uint(2) {
				e := new(big.Int).SetBit(candidate, 255, sign).FillBytes(make([]byte, 32))
				for i := range 16 {
					e[i], e[31-i] = e[31-i], e[i]
				}
				encodings = append(encodings, e)
			}
		}
	}
	if len(encodings) != 14 {
		t.Fatalf("%d encodings of small order, 14 expected", len(encodings))
	}
	return encodings
}

func littleEndian(b []byte) *big.Int {
	r := make([]byte, len(b))
	for i := range b {
		r[len(b)-1-i] = b[i]
	}
	return new(big.Int).SetBytes(r)
}

// torsionPoint returns a point of order 8.
func torsionPoint(t *testing.T) *edwards25519.Point {
	t.Helper()
	minusOne := edwards25519.NewScalar().Negate(scalar(1)) // L - 1
	for y := byte(2); ; y++ {
		p, err := new(edwards25519.Point).SetBytes(append([]byte{y}, make([]byte, 31)...))
		if err != nil {
			continue
		}
		q := new(edwards25519.Point).ScalarMult(minusOne, p)
		q.Add(q, p) // L p
		four := new(edwards25519.Point).Add(q, q)
		four.Add(four, four)
		if four.Equal(edwards25519.NewIdentityPoint()) == 0 {
			return q
		}
	}
}

func scalar(v byte) *edwards25519.Scalar {
	s, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{v}, make([]byte, 31)...))
	if err != nil {
		panic(err)
	}
	return s
}

func TestSmallOrderKeysRefused(t *testing.T) {
	for _, e := range smallOrderEncodings(t) {
		if err := identity.CheckEd25519(e); err == nil {
			t.Errorf("%x accepted", e)
		}
	}
	device := identity.NewDeviceKey().ID().Ed25519Key()
	if err := identity.CheckEd25519(device); err != nil {
		t.Errorf("%x: %v", device, err)
	}
}

// TestCanonical holds CheckEd25519's byte rules against the curve arithmetic,
// for every y near the prime and near zero, and for random ones.
func TestCanonical(t *testing.T) {
	try := func(e []byte) {
		t.Helper()
		want := false
		if p, err := new(edwards25519.Point).SetBytes(e); err == nil {
			small := new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1
			want = string(p.Bytes()) == string(e) && !small
		}
		if got := identity.CheckEd25519(e) == nil; got != want {
			t.Errorf("%x: accepted %v, want %v", e, got, want)
		}
	}
	for low := range 256 {
		for _, high := range []byte{0x00, 0x80, 0x7f, 0xff} {
			fill := byte(0)
			if high&0x7f == 0x7f {
				fill = 0xff
			}
			e := append([]byte{byte(low)}, make([]byte, 31)...)
			for i := 1; i < 31; i++ {
				e[i] = fill
			}
			e[31] = high
			try(e)
		}
	}
	random := rand.NewChaCha8([32]byte{1})
	for range 500 {
		e := make([]byte, 32)
		random.Read(e)
		try(e)
	}
	for _, n := range []int{0, 31, 33} {
		if identity.CheckEd25519(make([]byte, n)) == nil {
			t.Errorf("%d bytes accepted", n)
		}
	}
}

// zip215 asks the reference, with our message format.
func zip215(key []byte, c identity.Check) bool {
	signed := append(append(append([]byte(nil), c.Tag[:]...), c.Network[:]...), c.Message...)
	return ed25519consensus.Verify(key, signed, c.Signature)
}

// TestZIP215SmallOrder is the matrix of ZIP-215: every encoding of small order as
// key and as R, with s = 0. All 196 are valid, which std refuses in part; such
// keys never get this far, since CheckEd25519 refuses them, but such R do.
func TestZIP215SmallOrder(t *testing.T) {
	encodings := smallOrderEncodings(t)
	network := identity.NewNetworkKey().ID()
	var all []identity.Check
	for _, a := range encodings {
		for _, r := range encodings {
			c := identity.Check{
				Key: identity.UncheckedEd25519(a), Tag: identity.TagRecord, Network: network,
				Message: []byte("Zcash"), Signature: append(append([]byte(nil), r...), make([]byte, 32)...),
			}
			if !zip215(a, c) || !verdict(t, c) {
				t.Errorf("key %x, R %x: refused", a, r)
			}
			all = append(all, c)
		}
	}
	ok := make([]bool, len(all))
	new(identity.BatchVerifier).Verify(all, ok)
	for i := range ok {
		if !ok[i] {
			t.Errorf("case %d refused in a batch of all", i)
		}
	}
}

// TestZIP215Torsion signs with keys and nonces that carry points of small order,
// in all 64 combinations: valid with the cofactor, mostly not without. Signatures
// of another message must be refused, alone or in one batch with the good.
func TestZIP215Torsion(t *testing.T) {
	torsion := torsionPoint(t)
	network := identity.NewNetworkKey().ID()
	random := rand.NewChaCha8([32]byte{2})
	uniform := func() *edwards25519.Scalar {
		var b [64]byte
		random.Read(b[:])
		s, err := edwards25519.NewScalar().SetUniformBytes(b[:])
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	withTorsion := func(s *edwards25519.Scalar, n int) []byte {
		p := new(edwards25519.Point).ScalarBaseMult(s)
		for range n {
			p.Add(p, torsion)
		}
		return p.Bytes()
	}
	var checks []identity.Check
	var want []bool
	for a := range 8 {
		for r := range 8 {
			secret, nonce := uniform(), uniform()
			key, rBytes := withTorsion(secret, a), withTorsion(nonce, r)
			public, err := identity.Ed25519Public(key) // a mixed order is allowed
			if err != nil {
				t.Fatalf("torsion %d: %v", a, err)
			}
			c := identity.Check{Key: public, Tag: identity.TagRecord, Network: network, Message: []byte{byte(a), byte(r)}}
			h := sha512.New()
			h.Write(rBytes)
			h.Write(key)
			h.Write(c.Tag[:])
			h.Write(network[:])
			h.Write(c.Message)
			k, err := edwards25519.NewScalar().SetUniformBytes(h.Sum(nil))
			if err != nil {
				t.Fatal(err)
			}
			s := edwards25519.NewScalar().MultiplyAdd(k, secret, nonce)
			c.Signature = append(append([]byte(nil), rBytes...), s.Bytes()...)
			if !zip215(key, c) || !verdict(t, c) {
				t.Errorf("torsion %d in the key, %d in R: refused", a, r)
			}
			checks, want = append(checks, c), append(want, true)

			c.Message = []byte("another")
			if zip215(key, c) || verdict(t, c) {
				t.Errorf("torsion %d in the key, %d in R: another message accepted", a, r)
			}
			if (a+r)%5 == 0 {
				checks, want = append(checks, c), append(want, false)
			}

			// s + L is the same number, and not canonical.
			c = checks[len(checks)-1]
			high := new(big.Int).Add(littleEndian(s.Bytes()), groupOrder)
			c.Signature = append([]byte(nil), rBytes...)
			b := high.FillBytes(make([]byte, 32))
			for i := range b {
				c.Signature = append(c.Signature, b[31-i])
			}
			if zip215(key, c) || verdict(t, c) {
				t.Error("s beyond the group order accepted")
			}
		}
	}
	ok := make([]bool, len(checks))
	new(identity.BatchVerifier).Verify(checks, ok)
	for i := range ok {
		if ok[i] != want[i] {
			t.Errorf("case %d in a batch of all: %v", i, ok[i])
		}
	}
}

// groupOrder is L = 2^252 + 27742317777372353535851937790883648493.
var groupOrder = func() *big.Int {
	l, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
	return l.Add(l, new(big.Int).Lsh(big.NewInt(1), 252))
}()

// FuzzVerify compares single, batch and reference on arbitrary keys and
// signatures.
func FuzzVerify(f *testing.F) {
	d := identity.NewDeviceKey()
	sound := signedBy(d, identity.TagRecord, identity.NetworkID{}, "m")
	f.Add(d.ID().Ed25519Key(), sound.Signature, []byte("m"))
	f.Add(make([]byte, 32), make([]byte, 64), []byte("m"))
	f.Fuzz(func(t *testing.T, key, signature, message []byte) {
		if len(key) != 32 {
			return
		}
		if _, err := new(edwards25519.Point).SetBytes(key); err != nil {
			return
		}
		c := identity.Check{Key: identity.UncheckedEd25519(key), Tag: identity.TagRecord, Message: message, Signature: signature}
		if string(message) == "neighbour" {
			return
		}
		if verdict(t, c) != zip215(key, c) {
			t.Errorf("key %x, message %x, signature %x: not as the reference", key, message, signature)
		}
	})
}
