package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Bounds of a LogState.
const (
	MaxIslands = 8    // of one log
	MaxLacks   = 4096 // of one log
)

// LogState is what a pillar keeps of a log beside its entries, under the value
// key "log/" + LogID.
//
// Its Position is the end of the prefix: h(Seq) is known and every entry up to
// it is stored. That makes it a place to go on from, not yet a promise: for
// entries named in Lacks the record is missing. What is told to others, to
// nodes in cursors and to pillars in vectors, is Told.
type LogState struct {
	Pillar identity.PillarID // who writes it
	Nonce  [LogNonceLen]byte // with Pillar the LogID's preimage
	Position
	Base    Mark     // everything up to here is one run of gone entries; Seq 0: none is
	Dies    uint64   // latest expiry in what is held, Unix ms
	Head    *Head    // newest signed head known; may be past all that is held; nil for an own log that was never served
	Islands []Island // ascending, apart from the prefix and each other; at most MaxIslands

	// Lacks are entries held for the chain only, prefix and islands alike,
	// ascending; at most MaxLacks, and fewer if other logs have many. They are
	// values of their own, see Lack.
	Lacks []Lack
}

// Mark is a place of a chain: h(Seq) = Hash.
type Mark struct {
	Seq  uint64
	Hash Hash
}

// Island is a run of entries held above a prefix: After.Seq+1 .. End.Seq.
type Island struct {
	After, End Mark
}

// Lack is an entry whose unexpired record is missing here: it came without a
// body, or was lost. It is the value "lack/" + LogID + seq (8 bytes
// big-endian).
type Lack struct {
	Seq     uint64
	Before  Hash // h(Seq-1)
	ID      RecordID
	Expires uint64 // Unix ms
}

// Told returns what may be promised of the log: the prefix up to the first
// entry that lacks its record (Seq 0 and the chain's start if that is the first
// one), and the runs above it without any, at most MaxIslands of them, the
// lowest first.
func (s *LogState) Told() (Position, []Span) {
	told := s.toldPrefix()
	var spans []Span
	cut := func(from, to uint64) {
		i, _ := slices.BinarySearchFunc(s.Lacks, from, func(l Lack, seq uint64) int {
			switch {
			case l.Seq < seq:
				return -1
			case l.Seq > seq:
				return 1
			}
			return 0
		})
		for ; i < len(s.Lacks) && s.Lacks[i].Seq <= to && len(spans) < MaxIslands; i++ {
			if s.Lacks[i].Seq > from {
				spans = append(spans, Span{s.Log, from, s.Lacks[i].Seq - 1})
			}
			from = s.Lacks[i].Seq + 1
		}
		if from <= to && len(spans) < MaxIslands {
			spans = append(spans, Span{s.Log, from, to})
		}
	}
	if told.Seq < s.Seq {
		cut(told.Seq+1, s.Seq)
	}
	for _, i := range s.Islands {
		cut(i.After.Seq+1, i.End.Seq)
	}
	return told, spans
}

// toldPrefix is the first half of Told.
func (s *LogState) toldPrefix() Position {
	told := s.Position
	if len(s.Lacks) > 0 && s.Lacks[0].Seq <= s.Seq {
		told.Seq, told.Hash = s.Lacks[0].Seq-1, s.Lacks[0].Before
	}
	return told
}

// Holds reports whether an entry is held for the chain: in the prefix or an
// island.
func (s *LogState) Holds(seq uint64) bool {
	if seq >= 1 && seq <= s.Seq {
		return true
	}
	for _, i := range s.Islands {
		if seq > i.After.Seq && seq <= i.End.Seq {
			return true
		}
	}
	return false
}

// Top is the highest entry held, in the prefix or an island.
func (s *LogState) Top() Mark {
	if n := len(s.Islands); n > 0 {
		return s.Islands[n-1].End
	}
	return Mark{s.Seq, s.Hash}
}

// Prefixes of value keys.
const (
	logStatePrefix = "log/"
	lackPrefix     = "lack/"
)

// Key is the value key of the state.
func (s *LogState) Key() string { return logStatePrefix + string(s.Log[:]) }

// lackKey is the value key of the lack of an entry.
func lackKey(log LogID, seq uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(lackPrefix+string(log[:])), seq))
}

// Encode returns the state's value, without Lacks:
// [pillar bin, nonce bin, log bin, seq, hash bin, dies, head bin or empty,
// list of island [after seq, after hash bin, end seq, end hash bin], base seq,
// base hash bin].
func (s *LogState) Encode() []byte {
	b := canon.AppendArray(nil, 10)
	b = canon.AppendBin(b, s.Pillar)
	b = canon.AppendBin(b, s.Nonce[:])
	b = canon.AppendBin(b, s.Log[:])
	b = canon.AppendUint(b, s.Seq)
	b = canon.AppendBin(b, s.Hash[:])
	b = canon.AppendUint(b, s.Dies)
	if s.Head == nil {
		b = canon.AppendBin(b, "")
	} else {
		b = canon.AppendBin(b, s.Head.Append(nil))
	}
	b = canon.AppendArray(b, len(s.Islands))
	for _, i := range s.Islands {
		b = canon.AppendArray(b, 4)
		b = canon.AppendUint(b, i.After.Seq)
		b = canon.AppendBin(b, i.After.Hash[:])
		b = canon.AppendUint(b, i.End.Seq)
		b = canon.AppendBin(b, i.End.Hash[:])
	}
	b = canon.AppendUint(b, s.Base.Seq)
	return canon.AppendBin(b, s.Base.Hash[:])
}

// DecodeLogState reads what Encode wrote.
func DecodeLogState(data []byte) (LogState, error) {
	r := canon.NewReader(bytes.Clone(data))
	var s LogState
	r.Array(10)
	s.Pillar = readPillar(r)
	copy(s.Nonce[:], r.BinExact(LogNonceLen))
	s.Log = readLog(r)
	s.Seq, s.Hash, s.Dies = r.Uint(), readHash(r), r.Uint()
	if head := r.Bin(512); len(head) > 0 {
		hr := canon.NewReader(head)
		h := ReadHead(hr)
		if err := hr.End(); err != nil {
			r.Fail(err)
		}
		s.Head = &h
	}
	for range r.ArrayMax(MaxIslands) {
		r.Array(4)
		s.Islands = append(s.Islands, Island{
			After: Mark{r.Uint(), readHash(r)}, End: Mark{r.Uint(), readHash(r)},
		})
	}
	s.Base = Mark{r.Uint(), readHash(r)}
	return s, r.End()
}

// Encode returns the lack's value: [before bin, id bin, expires].
func (l *Lack) Encode() []byte {
	b := canon.AppendArray(nil, 3)
	b = canon.AppendBin(b, l.Before[:])
	b = canon.AppendBin(b, l.ID[:])
	return canon.AppendUint(b, l.Expires)
}

// decodeLack reads a lack from its key and value.
func decodeLack(key string, data []byte) (log LogID, l Lack, err error) {
	if len(key) != len(lackPrefix)+len(log)+8 {
		return log, l, fmt.Errorf("%w: a lack's key of %d bytes", canon.ErrTruncated, len(key))
	}
	copy(log[:], key[len(lackPrefix):])
	l.Seq = binary.BigEndian.Uint64([]byte(key[len(key)-8:]))
	r := canon.NewReader(bytes.Clone(data))
	r.Array(3)
	l.Before, l.ID, l.Expires = readHash(r), readID(r), r.Uint()
	return log, l, r.End()
}
