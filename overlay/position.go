package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// LogNonceLen is the length of the random part of a LogID's preimage.
const LogNonceLen = 16

// MakeLogID returns the ID of the log that pillar named with nonce.
func MakeLogID(network identity.NetworkID, pillar identity.PillarID, nonce [LogNonceLen]byte) LogID {
	sum := identity.Hash(identity.TagLogID, network[:], []byte(pillar), nonce[:])
	return LogID(sum[:len(LogID{})])
}

// ChainStart is h(0) of a log: SHA-256(tag, LogID).
func ChainStart(log LogID) Hash { return Hash(identity.Hash(identity.TagLogChain, log[:])) }

// Chain returns h(n) = SHA-256(tag, h(n-1), expires(n) as 8 bytes big-endian,
// ID(n)).
func Chain(before Hash, expires uint64, id RecordID) Hash {
	var e [8]byte
	binary.BigEndian.PutUint64(e[:], expires)
	return Hash(identity.Hash(identity.TagLogChain, before[:], e[:], id[:]))
}

// ChainAll continues before over entries.
func ChainAll(before Hash, entries []LogEntry) Hash {
	for i := range entries {
		before = Chain(before, entries[i].Expires, entries[i].ID)
	}
	return before
}

// Position is the prefix 1..Seq of a log; Hash is h(Seq).
type Position struct {
	Log  LogID
	Seq  uint64
	Hash Hash
}

// Vector is a set of positions, one a log, ascending by LogID.
type Vector []Position

// Find returns the position in log, false if the vector has none.
func (v Vector) Find(log LogID) (Position, bool) {
	i, ok := slices.BinarySearchFunc(v, log, func(p Position, l LogID) int { return bytes.Compare(p.Log[:], l[:]) })
	if !ok {
		return Position{}, false
	}
	return v[i], true
}

// Covers reports whether d lies in a prefix of the vector.
func (v Vector) Covers(d Dot) bool {
	p, ok := v.Find(d.Log)
	return ok && d.Seq >= 1 && d.Seq <= p.Seq
}

// Sort brings positions into a Vector's order.
func (v Vector) Sort() {
	slices.SortFunc(v, func(a, b Position) int { return bytes.Compare(a.Log[:], b.Log[:]) })
}

// Hash is SHA-256 over (tag, for each position LogID, seq as 8 bytes
// big-endian, hash).
func (v Vector) Hash() Hash {
	b := make([]byte, 0, len(v)*(16+8+32))
	for _, p := range v {
		b = append(b, p.Log[:]...)
		b = binary.BigEndian.AppendUint64(b, p.Seq)
		b = append(b, p.Hash[:]...)
	}
	return Hash(identity.Hash(identity.TagVector, b))
}

// MaxVector bounds the positions of a vector on the wire: the living logs of a
// large network.
const MaxVector = 16384

// AppendVector appends a list of [log bin, seq, hash bin].
func AppendVector(b []byte, v Vector) []byte {
	b = canon.AppendArray(b, len(v))
	for _, p := range v {
		b = appendPosition(b, p)
	}
	return b
}

func appendPosition(b []byte, p Position) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendBin(b, p.Log[:])
	b = canon.AppendUint(b, p.Seq)
	return canon.AppendBin(b, p.Hash[:])
}

// ReadVector takes a vector off r; positions must be strictly ascending.
func ReadVector(r *canon.Reader) Vector {
	n := r.ArrayMax(MaxVector)
	if r.Err() != nil || n == 0 {
		return nil
	}
	v := make(Vector, 0, n)
	for i := range n {
		p := readPosition(r)
		if r.Err() != nil {
			return nil
		}
		if i > 0 && bytes.Compare(v[i-1].Log[:], p.Log[:]) >= 0 {
			r.Fail(fmt.Errorf("%w: positions not ascending", canon.ErrType))
			return nil
		}
		v = append(v, p)
	}
	return v
}

func readPosition(r *canon.Reader) (p Position) {
	r.Array(3)
	copy(p.Log[:], r.BinExact(len(p.Log)))
	p.Seq = r.Uint()
	copy(p.Hash[:], r.BinExact(len(p.Hash)))
	return p
}

// Head is a log's newest position, signed by the log's pillar. Its preimage
// shows that no other pillar can sign for this log.
type Head struct {
	Pillar   identity.PillarID
	Nonce    [LogNonceLen]byte
	Seq      uint64
	Hash     Hash
	BaseSeq  uint64 // everything up to here is expired and may be gone
	BaseHash Hash
	Dies     uint64 // latest expiry in the log, Unix ms: from then on it is ignored
	Sig      []byte
}

// Position is where the head stands.
func (h *Head) Position(network identity.NetworkID) Position {
	return Position{Log: MakeLogID(network, h.Pillar, h.Nonce), Seq: h.Seq, Hash: h.Hash}
}

// appendSigned appends what is signed:
// [pillar bin, nonce bin, seq, hash bin, base seq, base hash bin, dies].
func (h *Head) appendSigned(b []byte) []byte {
	b = canon.AppendArray(b, 7)
	b = canon.AppendBin(b, h.Pillar)
	b = canon.AppendBin(b, h.Nonce[:])
	b = canon.AppendUint(b, h.Seq)
	b = canon.AppendBin(b, h.Hash[:])
	b = canon.AppendUint(b, h.BaseSeq)
	b = canon.AppendBin(b, h.BaseHash[:])
	return canon.AppendUint(b, h.Dies)
}

// Sign sets Sig.
func (h *Head) Sign(network identity.NetworkID, key Signer) {
	h.Sig = key.Sign(identity.TagHead, network, h.appendSigned(nil))
}

// Verify reports whether the head is signed by its pillar and not of a shape
// that no log has.
func (h *Head) Verify(network identity.NetworkID) bool {
	key, err := identity.Ed25519Public(h.Pillar.Ed25519Key())
	if err != nil || h.Seq == 0 || h.BaseSeq > h.Seq {
		return false
	}
	return identity.Verify(&identity.Check{Key: key, Tag: identity.TagHead, Network: network,
		Message: h.appendSigned(nil), Signature: h.Sig})
}

// Equal reports whether both are the same in every field.
func (h *Head) Equal(o *Head) bool {
	return h.Pillar == o.Pillar && h.Nonce == o.Nonce && h.Seq == o.Seq && h.Hash == o.Hash &&
		h.BaseSeq == o.BaseSeq && h.BaseHash == o.BaseHash && h.Dies == o.Dies && bytes.Equal(h.Sig, o.Sig)
}

// Over reports whether the head says that every entry up to seq has expired by
// now (Unix ms): they are in its base, or everything up to itself has.
func (h *Head) Over(seq, now uint64) bool {
	return seq <= h.BaseSeq || seq <= h.Seq && h.Dies <= now
}

// Append appends [signed array, signature bin].
func (h *Head) Append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = h.appendSigned(b)
	return canon.AppendBin(b, h.Sig)
}

// ReadHead takes a head off r; its signature is not checked.
func ReadHead(r *canon.Reader) (h Head) {
	r.Array(2)
	r.Array(7)
	h.Pillar = readPillar(r)
	copy(h.Nonce[:], r.BinExact(LogNonceLen))
	h.Seq = r.Uint()
	h.Hash = readHash(r)
	h.BaseSeq = r.Uint()
	h.BaseHash = readHash(r)
	h.Dies = r.Uint()
	h.Sig = bytes.Clone(r.Bin(64))
	return h
}

func readHash(r *canon.Reader) (h Hash) {
	copy(h[:], r.BinExact(len(h)))
	return h
}
