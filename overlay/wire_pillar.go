package overlay

import (
	"bytes"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages between pillars.

// Bounds of lists on the wire.
const (
	MaxBatch = 4096 // entries of a Batch
	MaxIDs   = 4096 // IDs of a Get, Has, Find or Checked
)

// VectorMsg tells positions: the first on a session all of them, later ones
// what changed: [10, full 0|1, positions, islands].
type VectorMsg struct {
	Full      bool
	Positions Vector
	// Islands are runs of entries held above a log's prefix: [log, from, to].
	Islands []Span
}

// Span is the entries From..To of a log.
type Span struct {
	Log      LogID
	From, To uint64
}

// Type implements Message.
func (*VectorMsg) Type() MessageType { return TypeVector }

func (m *VectorMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeVector))
	b = canon.AppendUint(b, uint64(btoi(m.Full)))
	b = AppendVector(b, m.Positions)
	b = canon.AppendArray(b, len(m.Islands))
	for _, s := range m.Islands {
		b = canon.AppendArray(b, 3)
		b = canon.AppendBin(b, s.Log[:])
		b = canon.AppendUint(b, s.From)
		b = canon.AppendUint(b, s.To)
	}
	return b
}

func (m *VectorMsg) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.Full = r.UintMax(1) == 1
	m.Positions = ReadVector(r)
	k := r.ArrayMax(MaxVector)
	for range k {
		r.Array(3)
		s := Span{Log: readLog(r), From: r.Uint(), To: r.Uint()}
		if r.Err() != nil {
			return
		}
		m.Islands = append(m.Islands, s)
	}
}

func readLog(r *canon.Reader) (l LogID) {
	copy(l[:], r.BinExact(len(l)))
	return l
}

// Follow asks a holder to stream a log in order, from entry From on, whose
// predecessor's chain hash is Before: [11, log bin, from, before bin, to]. The
// answer is a stream of Batch, or one Elsewhere, Forked or Busy.
//
// To 0 means live: what is held from there on, then every batch as it is
// committed, until the stream ends. Else the stream ends, gracefully, with the
// first signed head at or past To.
//
// Before all zero means that the follower knows no hash there. Then the stream
// begins behind the first signed head that the provider keeps at or past
// From-1, or behind its newest one if there is none (From 2^64-1: what comes
// from now on), and says so in a first Batch without entries, which carries
// that head.
type Follow struct {
	Log    LogID
	From   uint64
	Before Hash
	To     uint64
}

// Type implements Message.
func (*Follow) Type() MessageType { return TypeFollow }

func (m *Follow) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeFollow))
	b = canon.AppendBin(b, m.Log[:])
	b = canon.AppendUint(b, m.From)
	b = canon.AppendBin(b, m.Before[:])
	return canon.AppendUint(b, m.To)
}

func (m *Follow) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.Log, m.From, m.Before, m.To = readLog(r), r.Uint(), readHash(r), r.Uint()
}

// BatchEntry is one entry of a log on the wire: a record as it is, or
// [expires, ID bin, why, void bin] without a body, or, for a run of entries
// that are all expired, [count, latest expiry, hash bin], hash being the
// chain's behind them.
type BatchEntry struct {
	Raw []byte // the record; nil if bodiless

	Expires uint64
	ID      RecordID // for WhyGone the chain's hash behind the run
	Why     Why
	Count   uint64 // entries of the run; only for WhyGone, else 0
	Void    []byte // the offending bytes of a void entry, so that others judge them
}

// Len is how many places of the log the entry takes.
func (e *BatchEntry) Len() uint64 {
	if e.Why == WhyGone {
		return e.Count
	}
	return 1
}

// ChainEntry continues a chain over e, whose ID and Expires must be set.
func ChainEntry(before Hash, e *BatchEntry) Hash {
	if e.Why == WhyGone {
		return Hash(e.ID)
	}
	return Chain(before, e.Expires, e.ID)
}

// Batch is a run of a log: [12, log bin, from, entries, head bin or empty].
// A head is at or past the last entry; a batch without one is under that of the
// batch before it in the stream.
type Batch struct {
	Log     LogID
	From    uint64
	Entries []BatchEntry
	Head    *Head
}

// Type implements Message.
func (*Batch) Type() MessageType { return TypeBatch }

func (m *Batch) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeBatch))
	b = canon.AppendBin(b, m.Log[:])
	b = canon.AppendUint(b, m.From)
	b = canon.AppendArray(b, len(m.Entries))
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Raw != nil {
			b = append(b, e.Raw...)
			continue
		}
		if e.Why == WhyGone {
			b = canon.AppendArray(b, 3)
			b = canon.AppendUint(b, e.Count)
			b = canon.AppendUint(b, e.Expires)
			b = canon.AppendBin(b, e.ID[:])
			continue
		}
		b = canon.AppendArray(b, 4)
		b = canon.AppendUint(b, e.Expires)
		b = canon.AppendBin(b, e.ID[:])
		b = canon.AppendUint(b, uint64(e.Why))
		b = canon.AppendBin(b, e.Void)
	}
	if m.Head == nil {
		return canon.AppendBin(b, "")
	}
	return canon.AppendBin(b, m.Head.Append(nil))
}

func (m *Batch) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.Log, m.From = readLog(r), r.Uint()
	k := r.ArrayMax(MaxBatch)
	if r.Err() != nil {
		return
	}
	m.Entries = make([]BatchEntry, 0, k)
	for range k {
		e := readEntry(r)
		if r.Err() != nil {
			return
		}
		m.Entries = append(m.Entries, e)
	}
	if head := r.Bin(512); len(head) > 0 {
		hr := canon.NewReader(head)
		h := ReadHead(hr)
		if err := hr.End(); err != nil {
			r.Fail(err)
		}
		m.Head = &h
	}
}

// readEntry tells the forms apart by their arity: a record is an array of two,
// a run of gone entries one of three, a bodiless entry one of four.
func readEntry(r *canon.Reader) (e BatchEntry) {
	start := r.Offset()
	switch r.ArrayMax(4) {
	case 2:
		r.Bin(MaxRecord)
		r.Bin(MaxSignature)
		e.Raw = r.Since(start)
	case 3:
		e.Why, e.Count, e.Expires = WhyGone, r.Uint(), r.Uint()
		e.ID = readID(r)
		if r.Err() == nil && (e.Count == 0 || e.Count > 1<<62) {
			r.Fail(canon.ErrType)
		}
	case 4:
		e.Expires, e.ID = r.Uint(), readID(r)
		e.Why = Why(r.UintMax(uint64(WhyVoid)))
		if e.Void = r.Bin(MaxRecord); len(e.Void) == 0 {
			e.Void = nil
		}
		if r.Err() == nil && (e.Why == WhyNone || len(e.Void) > 0 && e.Why != WhyVoid) {
			r.Fail(canon.ErrType)
		}
	default:
		r.Fail(canon.ErrType)
	}
	return e
}

// Ack says that everything from the start of the stream to Seq is durable:
// [13, log bin, seq].
type Ack struct {
	Log LogID
	Seq uint64
}

// Type implements Message.
func (*Ack) Type() MessageType { return TypeAck }

func (m *Ack) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeAck))
	b = canon.AppendBin(b, m.Log[:])
	return canon.AppendUint(b, m.Seq)
}

func (m *Ack) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.Log, m.Seq = readLog(r), r.Uint()
}

// Elsewhere is a provider's answer when it has no budget for another follower:
// [14, peer bin].
type Elsewhere struct {
	Peer identity.PillarID
}

// Type implements Message.
func (*Elsewhere) Type() MessageType { return TypeElsewhere }

func (m *Elsewhere) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeElsewhere))
	return canon.AppendBin(b, m.Peer)
}

func (m *Elsewhere) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	m.Peer = readPillar(r)
}

// MaxLinks bounds the entries between the two heads of a Forked.
const MaxLinks = 8192

// Forked shows that a pillar signed two histories of one log:
// [24, head bin, other bin or empty, before bin, links, each [expires, ID bin]].
// Links are the entries after Head.Seq up to Other.Seq in the history of Other,
// Before that history's hash at Head.Seq: chained over the links it gives
// Other's hash, and it is not Head's. Both heads name one log.
//
// As the answer to a Follow whose Before is not what the provider has there,
// Head is left out: the follower has the signed head it stands at.
type Forked struct {
	Head   *Head // nil only in an answer to a Follow
	Other  *Head
	Before Hash
	Links  []LogEntry // Why is not used
}

// Type implements Message.
func (*Forked) Type() MessageType { return TypeForked }

func (m *Forked) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeForked))
	for _, h := range []*Head{m.Head, m.Other} {
		if h == nil {
			b = canon.AppendBin(b, "")
		} else {
			b = canon.AppendBin(b, h.Append(nil))
		}
	}
	b = canon.AppendBin(b, m.Before[:])
	b = canon.AppendArray(b, len(m.Links))
	for i := range m.Links {
		b = canon.AppendArray(b, 2)
		b = canon.AppendUint(b, m.Links[i].Expires)
		b = canon.AppendBin(b, m.Links[i].ID[:])
	}
	return b
}

func (m *Forked) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	for _, h := range []**Head{&m.Head, &m.Other} {
		head := r.Bin(512)
		if len(head) == 0 {
			continue
		}
		hr := canon.NewReader(head)
		decoded := ReadHead(hr)
		if err := hr.End(); err != nil {
			r.Fail(err)
			return
		}
		*h = &decoded
	}
	m.Before = readHash(r)
	k := r.ArrayMax(MaxLinks)
	if r.Err() != nil {
		return
	}
	m.Links = make([]LogEntry, 0, k)
	for range k {
		r.Array(2)
		m.Links = append(m.Links, LogEntry{Expires: r.Uint(), ID: readID(r)})
		if r.Err() != nil {
			return
		}
	}
}

// Proves reports whether m is a proof: what it says above holds, and both heads
// are signed.
func (m *Forked) Proves(network identity.NetworkID) bool {
	if m.Head == nil || m.Other == nil || m.Head.Pillar != m.Other.Pillar || m.Head.Nonce != m.Other.Nonce ||
		m.Other.Seq < m.Head.Seq || m.Other.Seq-m.Head.Seq != uint64(len(m.Links)) || m.Before == m.Head.Hash {
		return false
	}
	return ChainAll(m.Before, m.Links) == m.Other.Hash && m.Head.Verify(network) && m.Other.Verify(network)
}

// Get asks for records by ID, roster records included: [15, n, IDs]. The
// answer is a Got of the same n.
type Get struct {
	N   uint64
	IDs []RecordID
}

// Type implements Message.
func (*Get) Type() MessageType { return TypeGet }

func (m *Get) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeGet))
	b = canon.AppendUint(b, m.N)
	return appendIDs(b, m.IDs)
}

func (m *Get) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.N, m.IDs = r.Uint(), readIDs(r)
}

// Got answers a Get with what is held of it, in order, as far as a frame
// goes: [16, n, records, next], next being the index in the Get's IDs where a
// further Get should go on; the number of IDs when all were answered.
type Got struct {
	N       uint64
	Records [][]byte
	Next    uint64
}

// Type implements Message.
func (*Got) Type() MessageType { return TypeGot }

func (m *Got) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeGot))
	b = canon.AppendUint(b, m.N)
	b = appendRecords(b, m.Records)
	return canon.AppendUint(b, m.Next)
}

func (m *Got) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.N, m.Records, m.Next = r.Uint(), readRecords(r, MaxIDs), r.Uint()
}

// Has asks which IDs are held durably: [17, n, IDs].
type Has struct {
	N   uint64
	IDs []RecordID
}

// Type implements Message.
func (*Has) Type() MessageType { return TypeHas }

func (m *Has) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeHas))
	b = canon.AppendUint(b, m.N)
	return appendIDs(b, m.IDs)
}

func (m *Has) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.N, m.IDs = r.Uint(), readIDs(r)
}

// Held answers a Has: [18, n, bits bin], bit i (most significant first) set if
// the i-th ID is held.
type Held struct {
	N    uint64
	Bits []byte
}

// Type implements Message.
func (*Held) Type() MessageType { return TypeHeld }

func (m *Held) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeHeld))
	b = canon.AppendUint(b, m.N)
	return canon.AppendBin(b, m.Bits)
}

func (m *Held) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.N, m.Bits = r.Uint(), bytes.Clone(r.Bin(MaxIDs/8))
}

// PackBits returns the Bits of a Held.
func PackBits(held []bool) []byte {
	b := make([]byte, (len(held)+7)/8)
	for i, h := range held {
		if h {
			b[i/8] |= 0x80 >> (i % 8)
		}
	}
	return b
}

// Bit reports whether bit i of a Held's Bits is set.
func (m *Held) Bit(i int) bool { return i/8 < len(m.Bits) && m.Bits[i/8]&(0x80>>(i%8)) != 0 }

// SummaryMsg carries summaries: [23, list of summary]. Without any, from a node,
// it asks for them.
type SummaryMsg struct {
	Summaries []Summary
}

// maxSummaries bounds the summaries of a message: one a pillar.
const maxSummaries = 1024

// Type implements Message.
func (*SummaryMsg) Type() MessageType { return TypeSummary }

func (m *SummaryMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeSummary))
	b = canon.AppendArray(b, len(m.Summaries))
	for i := range m.Summaries {
		b = m.Summaries[i].Append(b)
	}
	return b
}

func (m *SummaryMsg) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	k := r.ArrayMax(maxSummaries)
	for range k {
		s := ReadSummary(r)
		if r.Err() != nil {
			return
		}
		m.Summaries = append(m.Summaries, s)
	}
}

// EncodeMessage returns m without a frame's length, for packets and states.
func EncodeMessage(m Message) []byte { return m.append(nil) }

func appendIDs(b []byte, ids []RecordID) []byte {
	b = canon.AppendArray(b, len(ids))
	for i := range ids {
		b = canon.AppendBin(b, ids[i][:])
	}
	return b
}

func readIDs(r *canon.Reader) []RecordID {
	n := r.ArrayMax(MaxIDs)
	if r.Err() != nil {
		return nil
	}
	ids := make([]RecordID, n)
	for i := range ids {
		ids[i] = readID(r)
	}
	return ids
}

func appendRecords(b []byte, records [][]byte) []byte {
	b = canon.AppendArray(b, len(records))
	for _, raw := range records {
		b = append(b, raw...)
	}
	return b
}

func readRecords(r *canon.Reader, limit int) [][]byte {
	n := r.ArrayMax(limit)
	if r.Err() != nil || n == 0 {
		return nil
	}
	records := make([][]byte, 0, n)
	for range n {
		raw := NextRecord(r)
		if r.Err() != nil {
			return nil
		}
		records = append(records, raw)
	}
	return records
}
