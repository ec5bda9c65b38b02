package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
)

// Probe implements overlay.Peers with libp2p's ping, which every host answers
// in a goroutine of its own. A refusal is an answer: a host takes so many pings
// from a peer at once, and may not have seen the end of the last one. On QUIC any packet
// that arrives meanwhile counts, an acknowledgement too: the ping itself may wait
// behind what is being sent.
func (h *Host) Probe(ctx context.Context, p peer.ID) error {
	c := best(h.swarm.ConnsToPeer(p))
	if c == nil {
		return fmt.Errorf("probe %s: %w: not connected", p, overlay.ErrUnreachable)
	}
	before := heard(c)
	pctx, cancel := context.WithCancel(network.WithNoDial(ctx, "probe"))
	defer cancel()
	var err error
	// Ping opens its stream before it returns and echoes until pctx ends.
	select {
	case res, ok := <-ping.Ping(pctx, h.host, p):
		if err = res.Error; ok && err == nil {
			return nil
		}
	case <-ctx.Done():
	}
	switch {
	case heard(c) > before:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("probe %s: %w", p, ctx.Err())
	case best(h.swarm.ConnsToPeer(p)) == nil:
		return fmt.Errorf("probe %s: %w: the connection ended", p, overlay.ErrUnreachable)
	case refused(err):
		return nil
	default:
		return fmt.Errorf("probe %s: %v", p, err) // not ErrUnreachable, whatever it wraps
	}
}

// refused says whether err is the other end's word on a stream.
func refused(err error) bool {
	var reset *network.StreamError
	return errors.As(err, &reset) && reset.Remote
}

// heard is how many authentic packets came on a QUIC connection; 0 on others.
func heard(c network.Conn) uint64 {
	var qc *quicgo.Conn
	if !c.As(&qc) || qc == nil {
		return 0
	}
	return qc.ConnectionStats().PacketsReceived
}
