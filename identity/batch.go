package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"hash"

	"filippo.io/edwards25519"
)

// Limits of a batch equation in signatures. Below the minimum single checks are
// as cheap; above the maximum nothing is gained and memory is lost.
const (
	minBatch = 2
	maxBatch = 128
)

// maxFailures is how many failed equations a call pays for to find bad
// signatures by halving, before it checks what is left one by one.
const maxFailures = 8

// BatchVerifier verifies many signatures at once, at half the cost per Ed25519
// signature, and at a quarter where many are of the same key. The zero value is
// ready; it is reused to save allocations, by one goroutine at a time.
//
// For Ed25519 signatures (R_i, s_i) of messages M_i by keys A_i it checks
//
//	[8] ( [-Σ z_i s_i] B + Σ [z_i] R_i + Σ [z_i k_i] A_i ) = 0
//
// with k_i = SHA-512(R_i || A_i || M_i) and random z_i of 128 bits, the terms of
// one key added up. ZIP-215 says that this holds for all if each is valid, and
// fails but for a chance of 2^-128 if one is not. A signature is only ever
// refused by Verify: a failed equation says nothing about its parts.
type BatchVerifier struct {
	hash    hash.Hash // SHA-512
	digest  [sha512.Size]byte
	random  []byte
	entries []batchEntry
	keys    []batchKey
	byKey   map[[32]byte]int // index in keys

	// The terms of one equation, pointing into entries and keys.
	scalars []*edwards25519.Scalar
	points  []*edwards25519.Point
}

// batchEntry is an Ed25519 check, decoded.
type batchEntry struct {
	check   int // index in checks
	key     int // index in keys
	r       edwards25519.Point
	s, k, z edwards25519.Scalar
}

// batchKey is a key and the sum of its coefficients in an equation.
type batchKey struct {
	point *edwards25519.Point
	sum   edwards25519.Scalar
	used  bool
}

// Verify sets ok[i] to what Verify(&checks[i]) returns, whatever else is in
// checks. ok must be as long as checks.
func (v *BatchVerifier) Verify(checks []Check, ok []bool) {
	if len(ok) != len(checks) {
		panic("identity: BatchVerifier.Verify: ok and checks differ in length")
	}
	clear(ok)
	budget := maxFailures
	for start := 0; start < len(checks); start += maxBatch {
		end := min(start+maxBatch, len(checks))
		v.verifyChunk(checks[start:end], ok[start:end], &budget)
	}
}

func (v *BatchVerifier) verifyChunk(checks []Check, ok []bool, budget *int) {
	v.reset()
	defer v.reset() // keep no reference to the keys
	for i := range checks {
		if c := &checks[i]; c.Key.Type() != KeyEd25519 {
			ok[i] = Verify(c)
		} else {
			v.add(i, c) // or leave it false
		}
	}
	v.resolve(v.entries, checks, ok, budget, false)
}

func (v *BatchVerifier) reset() {
	if v.hash == nil {
		v.hash = sha512.New()
		v.byKey = make(map[[32]byte]int)
	}
	v.entries = v.entries[:0]
	clear(v.keys)
	v.keys = v.keys[:0]
	clear(v.byKey)
	clear(v.points)
}

// add decodes c. By ZIP-215 s must be canonical, while R and A may be any
// encoding of any point of the curve.
func (v *BatchVerifier) add(i int, c *Check) {
	if len(c.Signature) != ed25519.SignatureSize {
		return
	}
	n := len(v.entries)
	if n < cap(v.entries) {
		v.entries = v.entries[:n+1]
	} else {
		v.entries = append(v.entries, batchEntry{})
	}
	e := &v.entries[n]
	_, errR := e.r.SetBytes(c.Signature[:32])
	_, errS := e.s.SetCanonicalBytes(c.Signature[32:])
	if errR != nil || errS != nil {
		v.entries = v.entries[:n]
		return
	}
	v.hash.Reset()
	v.hash.Write(c.Signature[:32])
	v.hash.Write(c.Key.k.ed[:])
	v.hash.Write(c.Tag[:])
	v.hash.Write(c.Network[:])
	v.hash.Write(c.Message)
	e.k.SetUniformBytes(v.hash.Sum(v.digest[:0])) // fails on a wrong length only

	e.check = i
	key, known := v.byKey[c.Key.k.ed]
	if !known {
		key = len(v.keys)
		v.keys = append(v.keys, batchKey{point: &c.Key.k.point})
		v.byKey[c.Key.k.ed] = key
	}
	e.key = key
}

// resolve sets ok for entries. bad says that the equation of all of them is
// known to fail.
func (v *BatchVerifier) resolve(entries []batchEntry, checks []Check, ok []bool, budget *int, bad bool) {
	if len(entries) < minBatch || bad && (*budget <= 0 || len(entries) < 2*minBatch) {
		for i := range entries {
			j := entries[i].check
			ok[j] = Verify(&checks[j])
		}
		return
	}
	if !bad {
		if v.equation(entries) {
			for i := range entries {
				ok[entries[i].check] = true
			}
			return
		}
		*budget--
		v.resolve(entries, checks, ok, budget, true)
		return
	}
	left, right := entries[:len(entries)/2], entries[len(entries)/2:]
	failed := *budget
	v.resolve(left, checks, ok, budget, false)
	// If nothing failed on the left, it must be on the right.
	v.resolve(right, checks, ok, budget, *budget == failed)
}

// equation reports whether the equation of entries holds.
func (v *BatchVerifier) equation(entries []batchEntry) bool {
	if need := 16 * len(entries); cap(v.random) < need {
		v.random = make([]byte, need)
	}
	random := v.random[:16*len(entries)]
	rand.Read(random) // never fails since Go 1.24
	for i := range v.keys {
		v.keys[i].sum, v.keys[i].used = edwards25519.Scalar{}, false
	}
	var base edwards25519.Scalar
	v.scalars, v.points = v.scalars[:0], v.points[:0]
	for i := range entries {
		e := &entries[i]
		var z [32]byte
		copy(z[:16], random[16*i:])
		e.z.SetCanonicalBytes(z[:]) // 128 bits are always canonical
		base.MultiplyAdd(&e.z, &e.s, &base)
		key := &v.keys[e.key]
		key.sum.MultiplyAdd(&e.z, &e.k, &key.sum)
		key.used = true
		v.scalars = append(v.scalars, &e.z)
		v.points = append(v.points, &e.r)
	}
	for i := range v.keys {
		if key := &v.keys[i]; key.used {
			v.scalars = append(v.scalars, &key.sum)
			v.points = append(v.points, key.point)
		}
	}
	base.Negate(&base)
	v.scalars = append(v.scalars, &base)
	v.points = append(v.points, edwards25519.NewGeneratorPoint())

	var sum edwards25519.Point
	sum.VarTimeMultiScalarMult(v.scalars, v.points)
	return sum.MultByCofactor(&sum).Equal(edwards25519.NewIdentityPoint()) == 1
}
