package overlay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// Streams carry frames: the length of what follows as four bytes big-endian,
// then one message, a canonical array whose first value is the message's type
// and whose others are its fields.

// Frame bounds in bytes.
const (
	// MaxFrame bounds every frame: two records of the largest size and room to
	// spare.
	MaxFrame = 1 << 20
	// MaxHelloFrame bounds frames before the Hello was accepted.
	MaxHelloFrame = 16 << 10
	// FrameTarget is how full senders fill frames that carry many values.
	FrameTarget = 256 << 10
)

// MessageType is the first value of every message.
type MessageType uint64

// The messages. Numbers never change their meaning.
const (
	TypeHello MessageType = 1
	// between pillars
	TypeVector    MessageType = 10
	TypeFollow    MessageType = 11
	TypeBatch     MessageType = 12
	TypeAck       MessageType = 13
	TypeElsewhere MessageType = 14
	TypeGet       MessageType = 15
	TypeGot       MessageType = 16
	TypeHas       MessageType = 17
	TypeHeld      MessageType = 18
	TypeRoot      MessageType = 19
	TypeCells     MessageType = 20
	TypeBuckets   MessageType = 21
	TypeIDs       MessageType = 22
	TypeSummary   MessageType = 23
	TypeForked    MessageType = 24
	TypeStubs     MessageType = 25
	TypeTrace     MessageType = 26
	TypeTraced    MessageType = 27
	TypeCompare   MessageType = 28
	TypeCompared  MessageType = 29
	TypeLinks     MessageType = 30
	TypeLinked    MessageType = 31
	// node and pillar
	TypeRegister   MessageType = 40
	TypeRegistered MessageType = 41
	TypeSubmit     MessageType = 42
	TypeResult     MessageType = 43
	TypeWatermark  MessageType = 44
	TypeResume     MessageType = 45
	TypePage       MessageType = 46
	TypeCursor     MessageType = 47
	TypePush       MessageType = 48
	TypeSaved      MessageType = 49
	TypeCheck      MessageType = 50
	TypeChecked    MessageType = 51
	TypeFind       MessageType = 52
	TypeFound      MessageType = 53
	TypeRoster     MessageType = 54
	TypeBusy       MessageType = 55
	// TypeLocate and TypeLocated, between node and pillar and between pillars;
	// TypeNudge between a node and the pillar that it has as its standby.
	TypeLocate  MessageType = 56
	TypeLocated MessageType = 57
	TypeNudge   MessageType = 58
	// device to device
	TypeDeliver   MessageType = 60
	TypeDelivered MessageType = 61
	TypeNear      MessageType = 62
	// netcheck
	TypeProbe  MessageType = 70
	TypeProbed MessageType = 71
)

// ErrFrame is wrapped by errors about frames that break the rules; whoever
// sent one is disconnected.
var ErrFrame = errors.New("bad frame")

// ErrCut is wrapped, beside ErrFrame, by the error of a stream that ended inside
// a frame: whoever sent it may have lost its connection.
var ErrCut = errors.New("cut short")

// Message is something a frame carries.
type Message interface {
	Type() MessageType
	// appendFields appends the fields' count plus one as an array header, the
	// type, and the fields.
	append(b []byte) []byte
	// read takes the fields; the array header and the type are taken already.
	// n is how many fields there are.
	read(r *canon.Reader, n int)
}

// FrameLen returns how long m is as a frame.
func FrameLen(m Message) int { return 4 + len(m.append(nil)) }

// AppendFrame appends m as a frame.
func AppendFrame(b []byte, m Message) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = m.append(b)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// FrameReader takes frames off a stream.
type FrameReader struct {
	r     *bufio.Reader
	limit int
	size  int
}

// NewFrameReader returns a FrameReader of r that takes frames up to
// MaxHelloFrame until Accept is called.
func NewFrameReader(r io.Reader) *FrameReader { return newFrameReader(r, 16<<10) }

// newFrameReader is NewFrameReader with a buffer of that many bytes. A frame
// that does not fit is read past it.
func newFrameReader(r io.Reader, buffer int) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, buffer), limit: MaxHelloFrame}
}

// Accept lifts the limit to MaxFrame, once the peer is known.
func (f *FrameReader) Accept() { f.limit = MaxFrame }

// Buffered reports whether at least one byte of a further frame has arrived:
// a hint for who gathers what waits.
func (f *FrameReader) Buffered() bool { return f.r.Buffered() > 4 }

// Size is the length of the last frame that Next read, its length field
// included.
func (f *FrameReader) Size() int { return f.size }

// Next reads one message. Its byte slices belong to the caller. io.EOF means
// that the stream ended between frames.
func (f *FrameReader) Next() (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: %w in its length", ErrFrame, ErrCut)
		}
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > uint32(f.limit) {
		return nil, fmt.Errorf("%w: %d bytes announced, at most %d are allowed", ErrFrame, n, f.limit)
	}
	f.size = len(head) + int(n)
	b, err := f.body(int(n))
	if err != nil {
		return nil, err
	}
	return DecodeMessage(b)
}

// body reads n bytes, allocating only as they come: a peer that announces much
// and sends little costs little.
func (f *FrameReader) body(n int) ([]byte, error) {
	const step = 64 << 10
	b := make([]byte, min(n, step))
	for off := 0; ; {
		if _, err := io.ReadFull(f.r, b[off:]); err != nil {
			return nil, fmt.Errorf("%w: %w after its length: %w", ErrFrame, ErrCut, err)
		}
		if off = len(b); off == n {
			return b, nil
		}
		grown := make([]byte, min(n, 4*len(b)))
		copy(grown, b)
		b = grown
	}
}

// DecodeMessage reads one message that fills b. The message shares b's memory.
func DecodeMessage(b []byte) (Message, error) {
	r := canon.NewReader(b)
	n := r.ArrayMax(16)
	t := MessageType(r.Uint())
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	m := newMessage(t)
	if m == nil {
		return nil, fmt.Errorf("%w: unknown message type %d", ErrFrame, t)
	}
	m.read(r, n-1)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("%w: message type %d: %w", ErrFrame, t, err)
	}
	return m, nil
}

// fields refuses a message with another number of fields than want.
func fields(r *canon.Reader, got, want int) {
	if got != want {
		r.Fail(fmt.Errorf("%w: %d fields, %d expected", canon.ErrType, got, want))
	}
}

func newMessage(t MessageType) Message {
	switch t {
	case TypeHello:
		return new(Hello)
	case TypeVector:
		return new(VectorMsg)
	case TypeFollow:
		return new(Follow)
	case TypeBatch:
		return new(Batch)
	case TypeAck:
		return new(Ack)
	case TypeElsewhere:
		return new(Elsewhere)
	case TypeGet:
		return new(Get)
	case TypeGot:
		return new(Got)
	case TypeHas:
		return new(Has)
	case TypeHeld:
		return new(Held)
	case TypeRoot:
		return new(Root)
	case TypeCells:
		return new(Cells)
	case TypeBuckets:
		return new(Buckets)
	case TypeIDs:
		return new(IDs)
	case TypeSummary:
		return new(SummaryMsg)
	case TypeForked:
		return new(Forked)
	case TypeStubs:
		return new(Stubs)
	case TypeTrace:
		return new(TraceMsg)
	case TypeTraced:
		return new(TracedMsg)
	case TypeCompare:
		return new(Compare)
	case TypeCompared:
		return new(Compared)
	case TypeLinks:
		return new(LinksMsg)
	case TypeLinked:
		return new(LinkedMsg)
	case TypeRegister:
		return new(Register)
	case TypeRegistered:
		return new(Registered)
	case TypeSubmit:
		return new(Submit)
	case TypeResult:
		return new(Result)
	case TypeWatermark:
		return new(Watermark)
	case TypeResume:
		return new(Resume)
	case TypePage:
		return new(Page)
	case TypeCursor:
		return new(CursorMsg)
	case TypePush:
		return new(Push)
	case TypeSaved:
		return new(Saved)
	case TypeCheck:
		return new(Check)
	case TypeChecked:
		return new(Checked)
	case TypeFind:
		return new(Find)
	case TypeFound:
		return new(Found)
	case TypeRoster:
		return new(RosterMsg)
	case TypeBusy:
		return new(Busy)
	case TypeNudge:
		return new(Nudge)
	case TypeLocate:
		return new(Locate)
	case TypeLocated:
		return new(Located)
	case TypeDeliver:
		return new(Deliver)
	case TypeDelivered:
		return new(Delivered)
	case TypeNear:
		return new(Near)
	case TypeProbe:
		return new(Probe)
	case TypeProbed:
		return new(Probed)
	default:
		return nil
	}
}
