package overlay

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages between pillars with which operators find out why two stores differ
// and where a record is. None of them moves a record or changes a store, but for
// a Compare that asks for repair.

// Bounds of one message.
const (
	MaxStubs    = 2048 // stubs of a Stubs, records of a Trace
	MaxCompared = 2048 // differences of a Compared
	maxDetail   = 256  // bytes of a Detail
	maxLogTable = 4096 // logs that dots of one message name
)

// Stub is what is said of a record without its bytes.
type Stub struct {
	ID      RecordID
	Kind    Kind
	Created uint64 // Unix ms
	Expires uint64 // Unix ms
	Dot     Dot    // one of its places; zero if it is in no log
}

// Stubs names records of a round: [25, n, answer 0|1, shorts bin, logs, stubs,
// next]. A question has short IDs as in IDs; the answer what it holds of them,
// stub = [id bin, kind, created, life, log index + 1 or 0, seq], logs being the
// list of LogIDs that indexes count in, life = expires - created; next is the
// index in the question's shorts to go on from.
type Stubs struct {
	N      uint64
	Answer bool
	Shorts []uint64
	Stubs  []Stub
	Next   uint64
}

// Type implements Message.
func (*Stubs) Type() MessageType { return TypeStubs }

func (m *Stubs) append(b []byte) []byte {
	b = canon.AppendArray(b, 7)
	b = canon.AppendUint(b, uint64(TypeStubs))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.Answer)))
	b = appendShorts(b, m.Shorts)
	var logs logTable
	for i := range m.Stubs {
		logs.index(m.Stubs[i].Dot.Log)
	}
	b = logs.append(b)
	b = canon.AppendArray(b, len(m.Stubs))
	for i := range m.Stubs {
		b = m.Stubs[i].append(b, &logs)
	}
	return canon.AppendUint(b, m.Next)
}

func (m *Stubs) read(r *canon.Reader, n int) {
	fields(r, n, 6)
	m.N, m.Answer = r.Uint(), r.UintMax(1) == 1
	m.Shorts = readShorts(r)
	logs := readLogTable(r)
	for range r.ArrayMax(MaxStubs) {
		s := readStub(r, logs)
		if r.Err() != nil {
			return
		}
		m.Stubs = append(m.Stubs, s)
	}
	m.Next = r.UintMax(MaxIDs)
}

func (s *Stub) append(b []byte, logs *logTable) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendBin(b, s.ID[:])
	b = canon.AppendUint(b, uint64(s.Kind))
	b = canon.AppendUint(b, s.Created)
	b = canon.AppendUint(b, s.Expires-s.Created)
	b = canon.AppendUint(b, logs.index(s.Dot.Log))
	return canon.AppendUint(b, s.Dot.Seq)
}

func readStub(r *canon.Reader, logs []LogID) (s Stub) {
	r.Array(6)
	s.ID, s.Kind = readID(r), Kind(r.Uint())
	s.Created = r.UintMax(1 << 60)
	s.Expires = s.Created + r.UintMax(1<<60)
	s.Dot = readDot(r, logs)
	return s
}

// logTable is the list of logs that the dots of one message count in.
type logTable struct {
	list []LogID
	at   map[LogID]uint64
}

// index returns a log's index + 1, put in the table if need be; 0 for the zero
// LogID.
func (t *logTable) index(log LogID) uint64 {
	if log == (LogID{}) {
		return 0
	}
	i, ok := t.at[log]
	if !ok {
		t.list = append(t.list, log)
		i = uint64(len(t.list))
		if t.at == nil {
			t.at = map[LogID]uint64{}
		}
		t.at[log] = i
	}
	return i
}

func (t *logTable) append(b []byte) []byte {
	b = canon.AppendArray(b, len(t.list))
	for i := range t.list {
		b = canon.AppendBin(b, t.list[i][:])
	}
	return b
}

func readLogTable(r *canon.Reader) (logs []LogID) {
	for range r.ArrayMax(maxLogTable) {
		log := readLog(r)
		if r.Err() != nil {
			return nil
		}
		logs = append(logs, log)
	}
	return logs
}

// readDot reads a log's index + 1 and a sequence.
func readDot(r *canon.Reader, logs []LogID) (d Dot) {
	i, seq := r.UintMax(maxLogTable), r.Uint()
	switch {
	case r.Err() != nil:
	case i == 0 && seq == 0:
	case i == 0 || seq == 0 || i > uint64(len(logs)):
		r.Fail(fmt.Errorf("%w: a dot in log %d of %d", canon.ErrType, i, len(logs)))
	default:
		d = Dot{Log: logs[i-1], Seq: seq}
	}
	return d
}

func appendShorts(b []byte, shorts []uint64) []byte {
	b = canon.AppendBinLen(b, 8*len(shorts))
	for _, s := range shorts {
		b = binary.BigEndian.AppendUint64(b, s)
	}
	return b
}

func readShorts(r *canon.Reader) (shorts []uint64) {
	b := r.Bin(8 * MaxIDs)
	if r.Err() == nil && len(b)%8 != 0 {
		r.Fail(fmt.Errorf("%w: part of an ID", canon.ErrType))
	}
	if r.Err() != nil {
		return nil
	}
	for ; len(b) > 0; b = b[8:] {
		shorts = append(shorts, binary.BigEndian.Uint64(b))
	}
	return shorts
}

// Sought is a record that is asked about, with a place in a log where it is
// known to be.
type Sought struct {
	ID      RecordID
	Expires uint64 // Unix ms; 0: unknown
	Dot     Dot    // zero: unknown
	// Recipients: of a message, what became of it at each recipient is asked too.
	// It costs a walk through the author's mailbox and is answered of the first
	// record of a Trace alone.
	Recipients bool
}

// TraceMsg asks what is known of records: [26, n, logs, list of [id bin,
// expires, log index + 1 or 0, seq, recipients 0|1]].
type TraceMsg struct {
	N      uint64
	Sought []Sought
}

// Type implements Message.
func (*TraceMsg) Type() MessageType { return TypeTrace }

func (m *TraceMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeTrace))
	b = canon.AppendUint(b, m.N)
	var logs logTable
	for i := range m.Sought {
		logs.index(m.Sought[i].Dot.Log)
	}
	b = logs.append(b)
	b = canon.AppendArray(b, len(m.Sought))
	for i := range m.Sought {
		s := &m.Sought[i]
		b = canon.AppendArray(b, 5)
		b = canon.AppendBin(b, s.ID[:])
		b = canon.AppendUint(b, s.Expires)
		b = canon.AppendUint(b, logs.index(s.Dot.Log))
		b = canon.AppendUint(b, s.Dot.Seq)
		b = canon.AppendUint(b, uint64(btoi(s.Recipients)))
	}
	return b
}

func (m *TraceMsg) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.N = r.Uint()
	logs := readLogTable(r)
	for range r.ArrayMax(MaxStubs) {
		r.Array(5)
		s := Sought{ID: readID(r), Expires: r.Uint(), Dot: readDot(r, logs), Recipients: r.UintMax(1) == 1}
		if r.Err() != nil {
			return
		}
		m.Sought = append(m.Sought, s)
	}
}

// absences are the reasons in the order of their numbers on the wire.
var absences = []Absence{AbsentNot, AbsentUnsettled, AbsentExpired, AbsentVoid, AbsentFull, AbsentDeleted,
	AbsentDeadLog, AbsentPaused, AbsentComing, AbsentNever, AbsentUnknown, AbsentRefused}

func (a Absence) number() uint64 {
	for i := range absences {
		if absences[i] == a {
			return uint64(i)
		}
	}
	return AbsentUnknown.number()
}

// TracedMsg answers a TraceMsg in its order: [27, n, list]. What is held is
// [1, kind, created, expires, size, received, via, list of [log bin, seq],
// recipients], what is not [0, why, detail]. A recipient is [account bin, list of
// [receipt id bin, created, received], more 0|1, list of [device bin, state]],
// state counting in deliveryStates.
type TracedMsg struct {
	N      uint64
	Traces []Trace // Pillar and Answered are not on the wire
}

// Type implements Message.
func (*TracedMsg) Type() MessageType { return TypeTraced }

func (m *TracedMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeTraced))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendArray(b, len(m.Traces))
	for i := range m.Traces {
		t := &m.Traces[i]
		if !t.Has {
			b = canon.AppendArray(b, 3)
			b = canon.AppendUint(b, 0)
			b = canon.AppendUint(b, t.Why.number())
			b = canon.AppendBin(b, t.Detail[:min(len(t.Detail), maxDetail)])
			continue
		}
		b = canon.AppendArray(b, 9)
		b = canon.AppendUint(b, 1)
		b = canon.AppendUint(b, uint64(t.Kind))
		b = canon.AppendUint(b, t.Created)
		b = canon.AppendUint(b, t.Expires)
		b = canon.AppendUint(b, t.Size)
		b = canon.AppendUint(b, uint64(max(0, t.Received.UnixMilli())))
		b = canon.AppendUint(b, uint64(t.Via))
		dots := t.Dots[:min(len(t.Dots), MaxDots)]
		b = canon.AppendArray(b, len(dots))
		for _, d := range dots {
			b = canon.AppendArray(b, 2)
			b = canon.AppendBin(b, d.Log[:])
			b = canon.AppendUint(b, d.Seq)
		}
		b = appendRecipients(b, t.Recipients)
	}
	return b
}

func (m *TracedMsg) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.N = r.Uint()
	for range r.ArrayMax(MaxStubs) {
		t := readTrace(r)
		if r.Err() != nil {
			return
		}
		m.Traces = append(m.Traces, t)
	}
}

func readTrace(r *canon.Reader) (t Trace) {
	n := r.ArrayMax(9)
	t.Has = r.UintMax(1) == 1
	if r.Err() == nil && (t.Has && n != 9 || !t.Has && n != 3) {
		r.Fail(fmt.Errorf("%w: a trace of %d fields", canon.ErrType, n))
	}
	if r.Err() != nil {
		return t
	}
	if !t.Has {
		t.Why = absences[r.UintMax(uint64(len(absences)-1))]
		t.Detail = string(r.Bin(maxDetail))
		return t
	}
	t.Kind, t.Created, t.Expires, t.Size = Kind(r.Uint()), r.Uint(), r.Uint(), r.Uint()
	t.Received = PlainTime(r.UintMax(MaxTime))
	t.Via = Via(r.UintMax(255))
	for range r.ArrayMax(MaxDots) {
		r.Array(2)
		d := Dot{Log: readLog(r), Seq: r.Uint()}
		if r.Err() != nil {
			return t
		}
		t.Dots = append(t.Dots, d)
	}
	t.Recipients = readRecipients(r)
	return t
}

// Compare asks a pillar to compare itself with another: [28, n, pillar bin,
// repair 0|1, after bin]. Without repair the answer lists what differs, in the
// order of IDs, what follows after; with it what differs is exchanged first, as
// in a round of the audit.
type Compare struct {
	N      uint64
	With   []byte // the other pillar's ID
	Repair bool
	After  RecordID
}

// Type implements Message.
func (*Compare) Type() MessageType { return TypeCompare }

func (m *Compare) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeCompare))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendBin(b, m.With)
	b = canon.AppendUint(b, uint64(btoi(m.Repair)))
	return canon.AppendBin(b, m.After[:])
}

func (m *Compare) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.N = r.Uint()
	if p := readPillar(r); r.Err() == nil {
		m.With = []byte(p)
	}
	m.Repair, m.After = r.UintMax(1) == 1, readID(r)
}

// Compared answers a Compare: [29, n, error, equal 0|1, settled, front, only
// here, only there, more 0|1, bytes, round trips, took ms, fetched, sent], here
// being the pillar that answers, and a difference [id bin, kind, created,
// expires, why, detail].
type Compared struct {
	N             uint64
	Err           *Error
	Diff          Diff
	Fetched, Sent uint64
}

// Type implements Message.
func (*Compared) Type() MessageType { return TypeCompared }

func (m *Compared) append(b []byte) []byte {
	d := &m.Diff
	b = canon.AppendArray(b, 14)
	b = canon.AppendUint(b, uint64(TypeCompared))
	b = canon.AppendUint(b, m.N)
	b = appendError(b, m.Err)
	b = canon.AppendUint(b, uint64(btoi(d.Equal)))
	b = canon.AppendUint(b, d.Settled)
	b = canon.AppendUint(b, d.Front)
	b = appendDifferences(b, d.OnlyHere)
	b = appendDifferences(b, d.OnlyThere)
	b = canon.AppendUint(b, uint64(btoi(d.More)))
	b = canon.AppendUint(b, d.Bytes)
	b = canon.AppendUint(b, uint64(d.RoundTrips))
	b = canon.AppendUint(b, uint64(d.Took.Milliseconds()))
	b = canon.AppendUint(b, m.Fetched)
	return canon.AppendUint(b, m.Sent)
}

func (m *Compared) read(r *canon.Reader, n int) {
	fields(r, n, 13)
	d := &m.Diff
	m.N, m.Err = r.Uint(), readError(r)
	d.Equal, d.Settled, d.Front = r.UintMax(1) == 1, r.Uint(), r.Uint()
	d.OnlyHere, d.OnlyThere = readDifferences(r), readDifferences(r)
	d.More, d.Bytes, d.RoundTrips = r.UintMax(1) == 1, r.Uint(), int(r.UintMax(1<<31-1))
	d.Took = time.Duration(r.UintMax(1<<40)) * time.Millisecond
	m.Fetched, m.Sent = r.Uint(), r.Uint()
}

func appendDifferences(b []byte, list []Difference) []byte {
	b = canon.AppendArray(b, len(list))
	for i := range list {
		d := &list[i]
		b = canon.AppendArray(b, 6)
		b = canon.AppendBin(b, d.ID[:])
		b = canon.AppendUint(b, uint64(d.Kind))
		b = canon.AppendUint(b, d.Created)
		b = canon.AppendUint(b, d.Expires)
		b = canon.AppendUint(b, d.Why.number())
		b = canon.AppendBin(b, d.Detail[:min(len(d.Detail), maxDetail)])
	}
	return b
}

func readDifferences(r *canon.Reader) (list []Difference) {
	for range r.ArrayMax(MaxCompared) {
		r.Array(6)
		d := Difference{ID: readID(r), Kind: Kind(r.Uint()), Created: r.Uint(), Expires: r.Uint()}
		d.Why = absences[r.UintMax(uint64(len(absences)-1))]
		d.Detail = string(r.Bin(maxDetail))
		if r.Err() != nil {
			return nil
		}
		list = append(list, d)
	}
	return list
}
