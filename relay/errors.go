package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
)

// dialError turns what libp2p says about a failed Connect or Open into the
// errors of overlay.Links. asked are the addresses that the caller named, if he
// did: names among them that the DNS does not know are missing in err.
func (h *Host) dialError(err error, asked ...multiaddr.Multiaddr) error {
	select {
	case <-h.done:
		return &overlay.DialError{Cause: overlay.ErrLinksClosed}
	default:
	}
	if isUnspoken(err) {
		return overlay.ErrProtocol
	}
	var de *swarm.DialError
	if !errors.As(err, &de) {
		return &overlay.DialError{Cause: err}
	}
	out := &overlay.DialError{}
	tried := make(map[string]bool)
	for i := range de.DialErrors {
		te := &de.DialErrors[i]
		tried[port(te.Address)] = true
		if errors.Is(te.Cause, swarm.ErrGaterDisallowedConnection) {
			continue // not asked for, so not tried
		}
		out.Attempts = append(out.Attempts, overlay.DialAttempt{Addr: te.Address, Fault: faultOf(te.Address, te.Cause), Detail: oneLine(te.Cause)})
	}
	for _, a := range asked {
		if isName(a) && !isCircuit(a) && !tried[port(a)] {
			out.Attempts = append(out.Attempts, overlay.DialAttempt{Addr: a, Fault: overlay.FaultNoName, Detail: "no such name, or no DNS"})
		}
	}
	if len(out.Attempts) == 0 {
		switch {
		case errors.Is(de.Cause, swarm.ErrNoAddresses), errors.Is(de.Cause, swarm.ErrNoGoodAddresses), de.Cause == nil, len(de.DialErrors) > 0:
			out.Cause = overlay.ErrNoAddress
		default:
			out.Cause = errors.New(oneLine(de.Cause))
		}
	}
	return out
}

// faultOf says in a word what an attempt at an address came to.
func faultOf(a multiaddr.Multiaddr, err error) overlay.Fault {
	switch {
	case isMismatch(err):
		return overlay.FaultWrongPeer
	case isRefusal(err):
		return overlay.FaultTurnedAway
	case errors.Is(err, swarm.ErrNoTransport):
		return overlay.FaultUnsupported
	case isCircuit(a) && strings.Contains(err.Error(), "relay"): // its words are all that libp2p gives
		return overlay.FaultNoRelay
	case errors.Is(err, syscall.ECONNREFUSED):
		return overlay.FaultRefused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EPERM),
		errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EADDRNOTAVAIL):
		return overlay.FaultNoRoute
	case isTimeout(err):
		return overlay.FaultTimeout
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return overlay.FaultHungUp
	case strings.Contains(err.Error(), "failed to negotiate"), strings.Contains(err.Error(), "websocket: bad handshake"):
		return overlay.FaultNoPillar // as a web server does
	}
	return overlay.FaultFailed
}

// forgetWrong removes the addresses where somebody else than p answered, so
// that they are not dialled again by themselves.
func (h *Host) forgetWrong(p peer.ID, err error) {
	var de *swarm.DialError
	if !errors.As(err, &de) {
		return
	}
	var wrong []multiaddr.Multiaddr
	for i := range de.DialErrors {
		if isMismatch(de.DialErrors[i].Cause) {
			wrong = append(wrong, de.DialErrors[i].Address)
		}
	}
	h.host.Peerstore().SetAddrs(p, wrong, 0)
}

// errHungUp: the peer closed the connection after the handshake, which is what it
// does with strangers.
var errHungUp = errors.New("it hangs up after the handshake")

func oneLine(err error) string {
	if err == nil {
		return "unknown error"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// isMismatch: the handshake showed another peer's key. QUIC carries the error
// of the certificate check as text only.
func isMismatch(err error) bool {
	var m sec.ErrPeerIDMismatch
	return errors.As(err, &m) || strings.Contains(err.Error(), "peer id mismatch")
}

// isRefusal: the other side is there and hung up before or in the handshake,
// which is what a libp2p host over its limits does.
func isRefusal(err error) bool {
	var te *quicgo.TransportError
	if errors.As(err, &te) {
		return te.Remote && te.ErrorCode == quicgo.ConnectionRefused
	}
	var ce *network.ConnError
	if errors.As(err, &ce) && ce.Remote {
		return true
	}
	if circuitRefused(err) {
		return true
	}
	if !strings.Contains(err.Error(), "failed to negotiate security protocol") {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection reset")
}

// circuitRefused: a relay said no to a circuit because it or the peer has too
// many, or because it relays for others only, for which it has one status.
// libp2p's error is text.
func circuitRefused(err error) bool {
	text := err.Error()
	return strings.Contains(text, "error opening relay circuit: "+pb.Status_RESOURCE_LIMIT_EXCEEDED.String()) ||
		strings.Contains(text, "error opening relay circuit: "+pb.Status_PERMISSION_DENIED.String())
}

func isUnspoken(err error) bool {
	var ns multistream.ErrNotSupported[protocol.ID]
	return errors.As(err, &ns)
}

// streamError gives timeouts and refused protocols the errors of
// overlay.Stream; everything else passes unchanged.
func streamError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if isUnspoken(err) {
		return fmt.Errorf("%w: %w", overlay.ErrProtocol, err)
	}
	if isTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// isTimeout reports whether err says that a time ran out.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
