package overlay

import (
	"errors"
	"net/netip"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages between two devices. Records go one way on a stream, from who opened
// it; each direction of a pair has a stream of its own.

// Bounds of one message.
const (
	MaxDeliver = 256 // records of a Deliver, lines of a Delivered
	maxPublic  = 8   // public addresses of a Near
)

// Deliver hands over records that the opener's device wrote, numbered First,
// First+1, … on this stream, from 1: [60, first, records]. An epoch stands
// before what is sealed in it. Each gets one line of a Delivered.
type Deliver struct {
	First   uint64
	Records [][]byte
}

// Type implements Message.
func (*Deliver) Type() MessageType { return TypeDeliver }

func (m *Deliver) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeDeliver))
	b = canon.AppendUint(b, m.First)
	return appendRecords(b, m.Records)
}

func (m *Deliver) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.First, m.Records = r.Uint(), readRecords(r, MaxDeliver)
}

// DeliveredLine is the answer to one delivered record.
type DeliveredLine struct {
	N   uint64
	Err *Error // refused; nil: durable on this device, now or since before
}

// Delivered answers deliveries, in their order: [61, lines], a line being
// [n, error].
type Delivered struct {
	Lines []DeliveredLine
}

// Type implements Message.
func (*Delivered) Type() MessageType { return TypeDelivered }

func (m *Delivered) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeDelivered))
	b = canon.AppendArray(b, len(m.Lines))
	for i := range m.Lines {
		b = canon.AppendArray(b, 2)
		b = canon.AppendUint(b, m.Lines[i].N)
		b = appendError(b, m.Lines[i].Err)
	}
	return b
}

func (m *Delivered) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	k := r.ArrayMax(MaxDeliver)
	if r.Err() != nil {
		return
	}
	m.Lines = make([]DeliveredLine, k)
	for i := range m.Lines {
		r.Array(2)
		m.Lines[i] = DeliveredLine{N: r.Uint(), Err: readError(r)}
	}
}

// Near says where a device is, over a circuit: [62, public, near]. public are
// the IP addresses that pillars see it at, each 4 or 16 bytes; near are
// addresses on its own network, told only to who said one of the same public
// ones.
type Near struct {
	Public []netip.Addr
	Near   []multiaddr.Multiaddr // without /p2p
}

// Type implements Message.
func (*Near) Type() MessageType { return TypeNear }

func (m *Near) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeNear))
	b = canon.AppendArray(b, len(m.Public))
	for _, a := range m.Public {
		b = canon.AppendBin(b, a.Unmap().AsSlice())
	}
	b = canon.AppendArray(b, len(m.Near))
	for _, a := range m.Near {
		b = canon.AppendBin(b, a.Bytes())
	}
	return b
}

// errNoIP: an address in a Near that has one form too many, or none.
var errNoIP = errors.New("no IP address of 4 or 16 bytes")

func (m *Near) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	k := r.ArrayMax(maxPublic)
	for range k {
		a, ok := netip.AddrFromSlice(r.Bin(16))
		if r.Err() != nil {
			return
		}
		if !ok || a.Is4In6() {
			r.Fail(errNoIP)
			return
		}
		m.Public = append(m.Public, a)
	}
	k = r.ArrayMax(MaxNear)
	for range k {
		b := r.Bin(MaxAddrLen)
		if r.Err() != nil {
			return
		}
		a, err := multiaddr.NewMultiaddrBytes(b)
		if err != nil {
			r.Fail(err)
			return
		}
		m.Near = append(m.Near, a)
	}
}
