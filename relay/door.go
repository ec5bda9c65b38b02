package relay

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
)

// What both of our doors before libp2p's circuits are made of (service.go for hop
// streams, stop.go for stop streams): the host that libp2p is given, the request
// that the door reads first, and the stream on which libp2p reads it again.

// maxHopMessage is the largest message of the circuit protocols in bytes.
const maxHopMessage = 4 << 10

// doorHost is a host whose handler of one protocol comes after a door.
type doorHost struct {
	host.Host
	id   protocol.ID
	door func(s network.Stream, next network.StreamHandler)
}

// SetStreamHandler implements host.Host.
func (h doorHost) SetStreamHandler(id protocol.ID, fn network.StreamHandler) {
	if id == h.id {
		next := fn
		fn = func(s network.Stream) { h.door(s, next) }
	}
	h.Host.SetStreamHandler(id, fn)
}

// errNoMemory: the peer's streams use as much memory as they may.
var errNoMemory = errors.New("no memory is left for the peer")

// readRequest has read read one message and returns its bytes, for a fronted stream.
func readRequest(s network.Stream, wait time.Duration, read func(*util.DelimitedReader) error) ([]byte, error) {
	if err := s.Scope().ReserveMemory(maxHopMessage, network.ReservationPriorityAlways); err != nil {
		return nil, errNoMemory
	}
	defer s.Scope().ReleaseMemory(maxHopMessage)
	var raw bytes.Buffer
	_ = s.SetReadDeadline(time.Now().Add(wait))
	r := util.NewDelimitedReader(io.TeeReader(s, &raw), maxHopMessage)
	defer r.Close()
	err := read(r)
	_ = s.SetReadDeadline(time.Time{})
	return raw.Bytes(), err
}

// fronted is a stream of which something was read already, that is to be read
// again.
type fronted struct {
	network.Stream
	front []byte // as long as it is not read again
}

func (s *fronted) Read(b []byte) (int, error) {
	if len(s.front) > 0 {
		n := copy(b, s.front)
		s.front = s.front[n:]
		return n, nil
	}
	return s.Stream.Read(b)
}
