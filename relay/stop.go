package relay

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
)

// A relay hands this host a circuit over a stop stream, which libp2p's circuit
// client takes (circuitv2/client), behind a door of ours: that one lets every
// connected peer be a relay, waits a minute for a message, and answers all relays
// in one goroutine, so that a relay which does not read its answer keeps the
// circuits of all others waiting.
//
//	stop stream ─► door: whose, how many, the request, our answer ─► libp2p: handshake, gate
//	                 └─ refuses: PERMISSION_DENIED, RESOURCE_LIMIT_EXCEEDED, …
//
// Whom the relay names in its request is its word and counts for nothing: the
// handshake shows who is there, and the gate (gate.go) decides about him.

const (
	// stopTimeout bounds the wait for a request, and for the answer to be taken.
	stopTimeout = 10 * time.Second
	// maxStops is how many circuits one relay may have open to this host, unmade
	// ones included: half as many again as a pillar lets one peer have.
	maxStops = 96
)

// What came of a circuit that a relay offered.
const (
	offerTaken      = "taken"      // handed on to the handshake
	offerUnreserved = "unreserved" // this host has no reservation there
	offerCrowd      = "crowd"      // the relay has too many open
	offerMalformed  = "malformed"  // no request
	offerStalled    = "stalled"    // no whole request, or the answer was not taken
)

// stopDoor stands before libp2p's handler of stop streams.
type stopDoor struct {
	metrics *metrics
	timeout time.Duration
	expects func(peer.ID) bool // set before the first connection

	mu   sync.Mutex
	open map[peer.ID]int // guarded by mu; stop streams by relay
}

func newStopDoor(m *metrics) *stopDoor {
	return &stopDoor{metrics: m, timeout: stopTimeout, open: make(map[peer.ID]int)}
}

// serve takes one offer and hands it on, or refuses it.
func (d *stopDoor) serve(s network.Stream, next network.StreamHandler) {
	relay := s.Conn().RemotePeer()
	if isCircuit(s.Conn().RemoteMultiaddr()) || !d.expects(relay) {
		d.refuse(s, pb.Status_PERMISSION_DENIED, offerUnreserved)
		return
	}
	if !d.enter(relay) {
		d.refuse(s, pb.Status_RESOURCE_LIMIT_EXCEEDED, offerCrowd)
		return
	}
	stop := &stopStream{fronted: fronted{Stream: s}, leave: sync.OnceFunc(func() { d.leave(relay) })}
	raw, status, outcome := d.read(s)
	if outcome != "" {
		stop.leave()
		d.refuse(s, status, outcome)
		return
	}
	if d.answer(s, pb.Status_OK) != nil {
		d.metrics.offers.WithLabelValues(offerStalled).Inc()
		_ = stop.Reset()
		return
	}
	d.metrics.offers.WithLabelValues(offerTaken).Inc()
	stop.front = raw
	next(stop)
}

// read takes a request; if outcome is not "", there was none.
func (d *stopDoor) read(s network.Stream) (raw []byte, status pb.Status, outcome string) {
	var msg pb.StopMessage
	raw, err := readRequest(s, d.timeout, func(r *util.DelimitedReader) error { return r.ReadMsg(&msg) })
	switch {
	case errors.Is(err, errNoMemory):
		return nil, pb.Status_RESOURCE_LIMIT_EXCEEDED, offerCrowd
	case isTimeout(err):
		return nil, pb.Status_MALFORMED_MESSAGE, offerStalled
	case err != nil:
		return nil, pb.Status_MALFORMED_MESSAGE, offerMalformed
	case msg.GetType() != pb.StopMessage_CONNECT:
		return nil, pb.Status_UNEXPECTED_MESSAGE, offerMalformed
	}
	if _, err := util.PeerToPeerInfoV2(msg.GetPeer()); err != nil {
		return nil, pb.Status_MALFORMED_MESSAGE, offerMalformed
	}
	return raw, 0, ""
}

func (d *stopDoor) answer(s network.Stream, status pb.Status) error {
	_ = s.SetWriteDeadline(time.Now().Add(d.timeout))
	err := util.NewDelimitedWriter(s).WriteMsg(&pb.StopMessage{Type: pb.StopMessage_STATUS.Enum(), Status: status.Enum()})
	_ = s.SetWriteDeadline(time.Time{})
	return err
}

func (d *stopDoor) refuse(s network.Stream, status pb.Status, outcome string) {
	d.metrics.offers.WithLabelValues(outcome).Inc()
	if outcome == offerStalled || d.answer(s, status) != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (d *stopDoor) enter(relay peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[relay] >= maxStops {
		return false
	}
	d.open[relay]++
	return true
}

func (d *stopDoor) leave(relay peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[relay]--; d.open[relay] == 0 {
		delete(d.open, relay)
	}
}

// stopStream is a stop stream whose request was read and answered. libp2p's
// client reads the request again and answers it, which nobody is told, and from
// then on the stream is the circuit.
type stopStream struct {
	fronted
	leave  func()
	answer []byte // what is written of the answer
	told   bool   // all of it is, and answer no longer used
}

// Write takes the answer for itself. Only libp2p's handler writes it, before the
// circuit is used.
func (s *stopStream) Write(b []byte) (int, error) {
	if s.told {
		return s.Stream.Write(b)
	}
	s.answer = append(s.answer, b...)
	var msg pb.StopMessage
	r := util.NewDelimitedReader(bytes.NewReader(s.answer), maxHopMessage)
	defer r.Close()
	switch err := r.ReadMsg(&msg); {
	case err == nil && msg.GetStatus() == pb.Status_OK:
		s.told, s.answer = true, nil
	case err == nil, len(s.answer) > maxHopMessage:
		// It was said to be taken, and could not be: the relay sees it cut.
		_ = s.Reset()
		return 0, network.ErrReset
	}
	return len(b), nil
}

func (s *stopStream) Close() error {
	s.leave()
	return s.Stream.Close()
}

func (s *stopStream) Reset() error {
	s.leave()
	return s.Stream.Reset()
}

func (s *stopStream) ResetWithError(code network.StreamErrorCode) error {
	s.leave()
	return s.Stream.ResetWithError(code)
}
