package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

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
// errors of overlay.Links, in one line.
func (h *Host) dialError(err error) error {
	select {
	case <-h.done:
		return fmt.Errorf("%w: %w", overlay.ErrUnreachable, overlay.ErrLinksClosed)
	default:
	}
	if isUnspoken(err) {
		return overlay.ErrProtocol
	}
	var de *swarm.DialError
	if !errors.As(err, &de) {
		return fmt.Errorf("%w: %w", overlay.ErrUnreachable, err)
	}
	kind := overlay.ErrUnreachable
	text := make([]string, 0, len(de.DialErrors))
	for i := range de.DialErrors {
		te := &de.DialErrors[i]
		text = append(text, fmt.Sprintf("%s: %s", te.Address, oneLine(te.Cause)))
		switch {
		case isMismatch(te.Cause):
			kind = overlay.ErrWrongPeer
		case kind == overlay.ErrUnreachable && isRefusal(te.Cause):
			kind = overlay.ErrFull
		}
	}
	if len(text) == 0 && de.Cause != nil {
		text = append(text, oneLine(de.Cause))
	}
	why := strings.Join(text, "; ")
	if kind == overlay.ErrFull {
		return fmt.Errorf("%w: %w: %s", overlay.ErrUnreachable, kind, why)
	}
	return fmt.Errorf("%w: %s", kind, why)
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
