package overlay

import "errors"

// What Links, Packets and their users branch on. Errors returned by an
// implementation wrap these; the text beside them says which address failed
// and how.
var (
	// ErrUnreachable: no connection exists and none could be made.
	ErrUnreachable = errors.New("unreachable")
	// ErrWrongPeer: an address was answered by somebody else than the peer asked
	// for. The address is not tried again by itself.
	ErrWrongPeer = errors.New("somebody else answers there")
	// ErrProtocol: the peer is connected but does not speak the protocol.
	ErrProtocol = errors.New("protocol not spoken by the peer")
	// ErrFull: the peer is there but takes no more connections or reservations,
	// or none of ours. It comes together with ErrUnreachable where a connection
	// was asked for. Another pillar may have room.
	ErrFull = errors.New("refused: full, or not welcome")
	// ErrLinksClosed: the local host is closed.
	ErrLinksClosed = errors.New("the local host is closed")
	// ErrPacketSize: a packet's payload is over MaxPacket bytes.
	ErrPacketSize = errors.New("packet too large")
)
