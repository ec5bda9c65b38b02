package overlay

import (
	"context"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Protocol names what a stream speaks, e.g. "/obelisk/node/1".
type Protocol string

// Links reaches identities: it opens and accepts authenticated, encrypted,
// ordered byte streams to and from peer IDs. The real one is relay.Host, the
// one for tests memnet.Host; both pass linktest.
type Links interface {
	// Connect makes sure that a connection to p exists, dialling addrs (without
	// a /p2p part or with p's own) and what is known of p besides. A connection
	// that exists is enough, whatever addrs say. It returns ErrWrongPeer if
	// somebody else answers, else what went wrong with the addresses, wrapped in
	// ErrUnreachable (and ErrFull if the peer itself refused).
	Connect(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error
	// Open opens a stream to p over an existing connection or one dialled to
	// known addresses. ErrUnreachable if there is none, ErrProtocol if the other
	// side does not speak it. Opening may be lazy: the other side's refusal can
	// also come from the first Read, as ErrProtocol or as a reset, and the other
	// side may see the stream only with the first Write.
	Open(ctx context.Context, p peer.ID, proto Protocol) (Stream, error)
	// Handle calls fn, each time in a goroutine of its own, for every stream
	// that a peer opens with proto. fn owns the stream and must close or reset
	// it; a nil fn stops accepting. Handlers are set before the first Connect.
	// Closing the local host waits for all fn to return.
	Handle(proto Protocol, fn func(Stream))
	// Close drops every connection to p; streams on them end with an error on
	// both sides. Not being connected is no error.
	Close(p peer.ID) error
}

// Stream is an ordered byte stream to an authenticated peer. One goroutine may
// read while another writes. Bytes in flight are bounded: a Write waits for the
// peer to read. Read and Write fail with an error that is
// os.ErrDeadlineExceeded once their deadline has passed; a new deadline makes
// the stream usable again.
type Stream interface {
	io.Reader
	io.Writer
	// Close ends both directions gracefully: written bytes still arrive. What
	// the peer writes from then on is lost.
	Close() error
	// CloseWrite ends our direction: the peer reads io.EOF after the last byte.
	CloseWrite() error
	// Reset ends both directions at once; the peer's Read fails.
	Reset() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	// Peer is who is at the other end, proven by the transport.
	Peer() peer.ID
	// Remote is the address the stream runs over; a circuit contains
	// /p2p-circuit.
	Remote() multiaddr.Multiaddr
}

// PacketKind tells apart what packets carry. One byte on the wire.
type PacketKind uint8

// MaxPacket is the largest packet in bytes: it fits a QUIC datagram on a path
// whose MTU has not been probed.
const MaxPacket = 1100

// Packets sends small messages, best effort: any may be lost, repeated or come
// out of order, never altered and never from somebody else than stated.
type Packets interface {
	// Send sends payload, at most MaxPacket bytes, to p if it is connected.
	// It never blocks and keeps no reference to payload. A full queue or a
	// missing connection drops the packet silently; only a payload over the
	// limit is an error, ErrPacketSize.
	Send(p peer.ID, kind PacketKind, payload []byte) error
	// Receive calls fn for every packet of that kind, possibly from several
	// goroutines at once. fn must not block and must not keep payload. Set once
	// per kind, before the first packet.
	Receive(kind PacketKind, fn func(from peer.ID, payload []byte))
}

// Path says how a peer is, or a message was, reached.
type Path string

// The paths of contract.md.
const (
	PathNone    Path = ""
	PathDirect  Path = "direct"
	PathRelayed Path = "relayed"
	PathPillar  Path = "pillar"
)

// PeerInfo describes a connected peer.
type PeerInfo struct {
	Peer   peer.ID
	Path   Path                // direct or relayed
	Remote multiaddr.Multiaddr // address of the best connection
	RTT    time.Duration       // 0 while unknown
	Since  time.Time
}

// PeerEvent is a change of a peer's connections.
type PeerEvent struct {
	Peer peer.ID
	// What is "connected" (first connection), "upgraded" (from relayed to
	// direct) or "lost" (last connection gone).
	What PeerChange
}

// PeerChange is what happened to the connections with a peer.
type PeerChange uint8

// Changes of a peer's connections.
const (
	PeerConnected PeerChange = iota + 1
	PeerUpgraded
	PeerLost
)

// Peers tells who is connected, and finds out whether that is still true.
type Peers interface {
	// Self is the local peer ID.
	Self() peer.ID
	// Info describes p; false if it is not connected.
	Info(p peer.ID) (PeerInfo, bool)
	// Connected lists all connected peers.
	Connected() []PeerInfo
	// Probe asks p for a sign of life over the connection that exists: nil as soon
	// as one came that p gave after the call, from its transport at the latest,
	// however busy what runs above it may be. ErrUnreachable if p is not connected
	// or its connection ends meanwhile, ctx's error if nothing came until ctx
	// ended; other errors say nothing about p, as when it is probed more than
	// twice at once. It never dials. How long a living peer may take, the repetition of what a bad line lost included, is the
	// caller's to know.
	Probe(ctx context.Context, p peer.ID) error
	// Watch calls fn for every change and returns when ctx ends. It begins with
	// PeerConnected for everybody connected at that moment, so nothing is missed
	// between a listing and the first change. fn is called from the caller's
	// goroutine, in the order of each peer's changes, and should return soon:
	// changes queue meanwhile, at most three for a peer. What a newer change made
	// meaningless is left out (a peer lost and found again is reported as both,
	// however often it happened); the newest always comes through.
	Watch(ctx context.Context, fn func(PeerEvent))
}
