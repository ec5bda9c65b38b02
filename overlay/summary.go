package overlay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Sum is a multiset hash: a sum modulo 2^128 of keyed SHA-256 values cut to 16
// bytes. Adding and subtracting commute, so sums of buckets add up to the sum
// of their union. It says nothing to who does not know the key, and who does
// not know the key cannot forge one.
type Sum struct {
	Hi, Lo uint64
}

// Add returns s + t.
func (s Sum) Add(t Sum) Sum {
	lo, carry := bits.Add64(s.Lo, t.Lo, 0)
	hi, _ := bits.Add64(s.Hi, t.Hi, carry)
	return Sum{hi, lo}
}

// Sub returns s - t.
func (s Sum) Sub(t Sum) Sum {
	lo, borrow := bits.Sub64(s.Lo, t.Lo, 0)
	hi, _ := bits.Sub64(s.Hi, t.Hi, borrow)
	return Sum{hi, lo}
}

// Bytes is the big-endian form.
func (s Sum) Bytes() (b [16]byte) {
	for i := range 8 {
		b[i], b[8+i] = byte(s.Hi>>(56-8*i)), byte(s.Lo>>(56-8*i))
	}
	return b
}

// SumFromBytes reads the big-endian form of 16 bytes.
func SumFromBytes(b []byte) (s Sum) {
	for i := range 8 {
		s.Hi, s.Lo = s.Hi<<8|uint64(b[i]), s.Lo<<8|uint64(b[8+i])
	}
	return s
}

// Tally is how many records a set has and their Sum.
type Tally struct {
	Count uint64
	Sum   Sum
}

// Add returns the tally of two disjoint sets together.
func (t Tally) Add(u Tally) Tally { return Tally{t.Count + u.Count, t.Sum.Add(u.Sum)} }

// Sub returns the tally of t without its subset u.
func (t Tally) Sub(u Tally) Tally { return Tally{t.Count - u.Count, t.Sum.Sub(u.Sum)} }

// ShortKey is the network-wide secret under which pillars digest record IDs.
type ShortKey [32]byte

// Name is how a ShortKey is called where the key itself must not appear; of two
// keys the one with the smaller name wins everywhere.
func (k ShortKey) Name() Hash {
	return Hash(identity.Hash(identity.TagShortKey, []byte("name"), k[:]))
}

// Term is what one record adds to a Sum: the first 16 bytes of
// SHA-256(tag, key, record ID).
func (k ShortKey) Term(id RecordID) Sum {
	h := identity.Hash(identity.TagShortKey, k[:], id[:])
	return SumFromBytes(h[:16])
}

// Terms returns the Term of a record and its short ID, which is independent of
// it: the next 8 bytes of the same hash.
func (k ShortKey) Terms(id RecordID) (term Sum, short uint64) {
	var b [16 + 32 + 32]byte
	copy(b[:], identity.TagShortKey[:])
	copy(b[16:], k[:])
	copy(b[48:], id[:])
	h := sha256.Sum256(b[:])
	return SumFromBytes(h[:16]), binary.BigEndian.Uint64(h[16:])
}

// CellKey is the key of the cells of sets of short IDs.
func (k ShortKey) CellKey() [16]byte {
	h := identity.Hash(identity.TagShortKey, []byte("cells"), k[:])
	return [16]byte(h[:16])
}

// SpotKey is the key of the digests of one spot check.
func (k ShortKey) SpotKey(seed [8]byte) ShortKey {
	return identity.Hash(identity.TagShortKey, []byte("spot"), k[:], seed[:])
}

// DeepKey is the key of one deep round.
func (k ShortKey) DeepKey(seed [16]byte) ShortKey {
	return identity.Hash(identity.TagShortKey, []byte("deep"), k[:], seed[:])
}

// WholeKey is the key that a deep round over whole IDs has in place of the
// network's.
func (k ShortKey) WholeKey(seed [16]byte) ShortKey {
	return identity.Hash(identity.TagShortKey, []byte("whole"), k[:], seed[:])
}

// DeepTerms returns, under the key of a deep round, the short ID of a record
// whose ID begins with prefix and has the short ID short under the network's key,
// and what it adds to digests of parts.
func (k ShortKey) DeepTerms(prefix, short uint64) (deep, term uint64) {
	var b [16 + 32 + AuditItemLen]byte
	copy(b[:], identity.TagShortKey[:])
	copy(b[16:], k[:])
	binary.BigEndian.PutUint64(b[48:], prefix)
	binary.BigEndian.PutUint64(b[56:], short)
	h := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])
}

// Summary is a pillar's signed statement of what it holds: the digest that
// memberlist carries, and the convergence statement that anyone can compare.
type Summary struct {
	Pillar  identity.PillarID
	Head    Position // newest position of its own log; zero before its first entry
	Vector  Hash     // of its vector
	Settled uint64   // W in Unix ms: it speaks of records created before
	Front   uint64   // F in Unix ms: and expiring at or after
	Count   uint64
	Digest  Sum
	Key     Hash   // name of the ShortKey of Digest
	At      uint64 // when it was made, Unix ms
	Full    bool   // its disk is full: behind, not divergent
	Sig     []byte
}

// appendSigned appends what is signed: [pillar bin, head, vector bin, settled,
// front, count, digest bin(16), key bin, at, full 0|1].
func (s *Summary) appendSigned(b []byte) []byte {
	digest := s.Digest.Bytes()
	b = canon.AppendArray(b, 10)
	b = canon.AppendBin(b, s.Pillar)
	b = appendPosition(b, s.Head)
	b = canon.AppendBin(b, s.Vector[:])
	b = canon.AppendUint(b, s.Settled)
	b = canon.AppendUint(b, s.Front)
	b = canon.AppendUint(b, s.Count)
	b = canon.AppendBin(b, digest[:])
	b = canon.AppendBin(b, s.Key[:])
	b = canon.AppendUint(b, s.At)
	return canon.AppendUint(b, uint64(btoi(s.Full)))
}

// Sign sets Sig.
func (s *Summary) Sign(network identity.NetworkID, key Signer) {
	s.Sig = key.Sign(identity.TagSummary, network, s.appendSigned(nil))
}

// Verify reports whether the summary is signed by its pillar.
func (s *Summary) Verify(network identity.NetworkID) bool {
	key, err := identity.Ed25519Public(s.Pillar.Ed25519Key())
	if err != nil {
		return false
	}
	return identity.Verify(&identity.Check{Key: key, Tag: identity.TagSummary, Network: network,
		Message: s.appendSigned(nil), Signature: s.Sig})
}

// Append appends [signed array, signature bin].
func (s *Summary) Append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = s.appendSigned(b)
	return canon.AppendBin(b, s.Sig)
}

// ReadSummary takes a summary off r; its signature is not checked.
func ReadSummary(r *canon.Reader) (s Summary) {
	r.Array(2)
	r.Array(10)
	s.Pillar = readPillar(r)
	s.Head = readPosition(r)
	s.Vector = readHash(r)
	s.Settled, s.Front, s.Count = r.Uint(), r.Uint(), r.Uint()
	if d := r.BinExact(16); d != nil {
		s.Digest = SumFromBytes(d)
	}
	s.Key = readHash(r)
	s.At = r.Uint()
	s.Full = r.UintMax(1) == 1
	s.Sig = bytes.Clone(r.Bin(64))
	return s
}
