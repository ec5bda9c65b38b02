package overlay

import (
	"encoding/binary"
	"fmt"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages of the audit: rounds in which two pillars compare the records they
// hold and exchange what only one has. A round is a row of questions and answers
// of one number N, which who began it asks, one after the other.

// Bounds of the audit's messages.
const (
	MaxAuditCells = 16_384 // cells of one run, and of a Cells message
	MaxAuditParts = 4096   // parts of a Buckets, runs of a Cells
	MaxAuditItems = 16_384 // items of an IDs
	AuditItemLen  = 16
	maxCellLen    = 17
)

// AuditGrid is the unit of time in which rounds name instants: 10 s, in
// milliseconds.
const AuditGrid = 10_000

// Root is what a pillar holds of the records created before Settled and
// expiring at or after Front, both in grid steps from the Unix epoch:
// [19, n, answer 0|1, settled, front, count, sum bin(16), key bin(8), spot].
// key is the beginning of the short key's name; spot is [] or
// [day, bits, seed bin(8), digest bin(8)].
//
// As the answer to a Root it speaks of the smaller Settled and the larger Front
// of both. An unequal one may be answered with Cells at once. One of zeros as the
// answer to anything in a round ends it: see NoRounds.
type Root struct {
	N              uint64
	Answer         bool
	Settled, Front uint64
	Tally          Tally
	Key            [8]byte
	Spot           *Spot
}

// NoRounds reports whether the message says, as the answer to anything in a round,
// that its sender does no rounds now: all of it is zero but its number.
func (m *Root) NoRounds() bool {
	return *m == Root{N: m.N, Answer: true}
}

// Spot is a sample of records, read from the disk: those of an expiry day whose
// IDs begin with the first Bits bits of Seed, and a digest of them under the
// seed.
type Spot struct {
	Day    Day
	Bits   uint64 // 0, 4, 8 … 64
	Seed   [8]byte
	Digest [8]byte
}

// Type implements Message.
func (*Root) Type() MessageType { return TypeRoot }

func (m *Root) append(b []byte) []byte {
	sum := m.Tally.Sum.Bytes()
	b = canon.AppendArray(b, 9)
	b = canon.AppendUint(b, uint64(TypeRoot))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.Answer)))
	b = canon.AppendUint(b, m.Settled)
	b = canon.AppendUint(b, m.Front)
	b = canon.AppendUint(b, m.Tally.Count)
	b = canon.AppendBin(b, sum[:])
	b = canon.AppendBin(b, m.Key[:])
	if m.Spot == nil {
		return canon.AppendArray(b, 0)
	}
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(m.Spot.Day))
	b = canon.AppendUint(b, m.Spot.Bits)
	b = canon.AppendBin(b, m.Spot.Seed[:])
	return canon.AppendBin(b, m.Spot.Digest[:])
}

func (m *Root) read(r *canon.Reader, n int) {
	fields(r, n, 8)
	m.N, m.Answer = r.Uint(), r.UintMax(1) == 1
	m.Settled, m.Front = readInstant(r), readInstant(r)
	m.Tally.Count = r.Uint()
	if sum := r.BinExact(16); sum != nil {
		m.Tally.Sum = SumFromBytes(sum)
	}
	copy(m.Key[:], r.BinExact(8))
	switch r.ArrayMax(4) {
	case 0:
		return
	case 4:
		s := &Spot{Day: Day(r.UintMax(1<<32 - 1)), Bits: r.UintMax(64)}
		copy(s.Seed[:], r.BinExact(8))
		copy(s.Digest[:], r.BinExact(8))
		if r.Err() == nil && s.Bits%4 != 0 {
			r.Fail(fmt.Errorf("%w: a spot of %d bits", canon.ErrType, s.Bits))
		}
		m.Spot = s
	default:
		r.Fail(canon.ErrType)
	}
}

// readInstant takes a grid step; none is so large that arithmetic with it
// overflows.
func readInstant(r *canon.Reader) uint64 { return r.UintMax(1 << 48) }

// Cells asks for cells of a round's set, or brings them:
// [20, n, answer 0|1, runs], run = [part, from, count, cells bin].
// A question names how many cells it wants of a part from one on, and has no
// cells. An answer has the runs asked for, as many as go into a message, in
// order, and may have fewer cells in one: count is then how many records the
// part has, which the cells are encoded with (gossip/sketch). Part is 0 before a
// Buckets.
type Cells struct {
	N      uint64
	Answer bool
	Runs   []CellRun
}

// CellRun is a row of cells of one part.
type CellRun struct {
	Part, From, Count uint64
	Cells             []byte
}

// Type implements Message.
func (*Cells) Type() MessageType { return TypeCells }

func (m *Cells) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeCells))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.Answer)))
	b = canon.AppendArray(b, len(m.Runs))
	for i := range m.Runs {
		run := &m.Runs[i]
		b = canon.AppendArray(b, 4)
		b = canon.AppendUint(b, run.Part)
		b = canon.AppendUint(b, run.From)
		b = canon.AppendUint(b, run.Count)
		b = canon.AppendBin(b, run.Cells)
	}
	return b
}

func (m *Cells) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.N, m.Answer = r.Uint(), r.UintMax(1) == 1
	k := r.ArrayMax(MaxAuditParts)
	if r.Err() != nil {
		return
	}
	m.Runs = make([]CellRun, 0, k)
	for range k {
		r.Array(4)
		run := CellRun{Part: r.UintMax(MaxAuditParts - 1), From: r.UintMax(MaxAuditCells), Count: r.UintMax(1 << 31),
			Cells: r.Bin(MaxAuditCells * maxCellLen)}
		if r.Err() == nil && !m.Answer && len(run.Cells) > 0 {
			r.Fail(fmt.Errorf("%w: a question with cells", canon.ErrType))
		}
		if r.Err() != nil {
			return
		}
		m.Runs = append(m.Runs, run)
	}
}

// Buckets divides the set of a round in 2^Bits parts by a hash under a key that
// was made of Seed for this round only:
// [21, n, answer 0|1, settled, front, seed bin(16), whole 0|1, bits, parts],
// part = [index, count, digest bin(8)], ascending. A question has the parts that
// are not empty, the answer those that differ. From then on the round's Cells
// and IDs are about these parts and name records under that key. Whole says that
// the names are made of whole IDs, read from the disk, not of what is in memory.
type Buckets struct {
	N              uint64
	Answer         bool
	Settled, Front uint64
	Seed           [16]byte
	Whole          bool
	Bits           uint64
	Parts          []AuditPart
}

// AuditPart is a part of a set.
type AuditPart struct {
	Index, Count, Digest uint64
}

// Type implements Message.
func (*Buckets) Type() MessageType { return TypeBuckets }

func (m *Buckets) append(b []byte) []byte {
	b = canon.AppendArray(b, 9)
	b = canon.AppendUint(b, uint64(TypeBuckets))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.Answer)))
	b = canon.AppendUint(b, m.Settled)
	b = canon.AppendUint(b, m.Front)
	b = canon.AppendBin(b, m.Seed[:])
	b = canon.AppendUint(b, uint64(btoi(m.Whole)))
	b = canon.AppendUint(b, m.Bits)
	b = canon.AppendArray(b, len(m.Parts))
	for _, p := range m.Parts {
		b = canon.AppendArray(b, 3)
		b = canon.AppendUint(b, p.Index)
		b = canon.AppendUint(b, p.Count)
		b = canon.AppendBinLen(b, 8)
		b = binary.BigEndian.AppendUint64(b, p.Digest)
	}
	return b
}

func (m *Buckets) read(r *canon.Reader, n int) {
	fields(r, n, 8)
	m.N, m.Answer = r.Uint(), r.UintMax(1) == 1
	m.Settled, m.Front = readInstant(r), readInstant(r)
	copy(m.Seed[:], r.BinExact(16))
	m.Whole = r.UintMax(1) == 1
	m.Bits = r.UintMax(12)
	k := r.ArrayMax(1 << m.Bits)
	if r.Err() != nil {
		return
	}
	m.Parts = make([]AuditPart, 0, k)
	for i := range k {
		r.Array(3)
		p := AuditPart{Index: r.UintMax(1<<m.Bits - 1), Count: r.UintMax(1 << 31)}
		if digest := r.BinExact(8); digest != nil {
			p.Digest = binary.BigEndian.Uint64(digest)
		}
		if r.Err() == nil && i > 0 && p.Index <= m.Parts[i-1].Index {
			r.Fail(fmt.Errorf("%w: parts not ascending", canon.ErrType))
		}
		if r.Err() != nil {
			return
		}
		m.Parts = append(m.Parts, p)
	}
}

// IDs repairs: [22, n, answer 0|1, parts, items bin, shorts bin, records, next].
//
// A question gives the records that the other side lacks, as many as go into a
// message, and asks for others: by their short IDs, 8 bytes each, in shorts, or
// for the list of all that is in some parts, in parts.
//
// The answer comes when the records given are durable, or refused. It has the
// records asked for as far as a message goes, and in shorts those that the
// answerer cannot or not yet give; next is the index in the question's shorts to
// go on from, their number if all were looked up. If parts were asked for, items
// has them, 16 bytes each: the first 8 bytes of the record's ID and its 8 bytes
// short ID under the short key.
type IDs struct {
	N       uint64
	Answer  bool
	Parts   []uint64
	Items   []byte
	Shorts  []uint64
	Records [][]byte
	Next    uint64
}

// Type implements Message.
func (*IDs) Type() MessageType { return TypeIDs }

func (m *IDs) append(b []byte) []byte {
	b = canon.AppendArray(b, 8)
	b = canon.AppendUint(b, uint64(TypeIDs))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.Answer)))
	b = canon.AppendArray(b, len(m.Parts))
	for _, p := range m.Parts {
		b = canon.AppendUint(b, p)
	}
	b = canon.AppendBin(b, m.Items)
	b = appendShorts(b, m.Shorts)
	b = appendRecords(b, m.Records)
	return canon.AppendUint(b, m.Next)
}

func (m *IDs) read(r *canon.Reader, n int) {
	fields(r, n, 7)
	m.N, m.Answer = r.Uint(), r.UintMax(1) == 1
	for range r.ArrayMax(MaxAuditParts) {
		m.Parts = append(m.Parts, r.UintMax(MaxAuditParts-1))
	}
	m.Items = r.Bin(MaxAuditItems * AuditItemLen)
	if r.Err() == nil && len(m.Items)%AuditItemLen != 0 {
		r.Fail(fmt.Errorf("%w: part of an ID", canon.ErrType))
	}
	m.Shorts = readShorts(r)
	m.Records, m.Next = readRecords(r, MaxIDs), r.UintMax(MaxIDs)
}
