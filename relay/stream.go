package relay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// stream is a libp2p stream with the errors of overlay.Stream.
type stream struct{ s network.Stream }

var _ overlay.Stream = stream{}

func (s stream) Read(b []byte) (int, error) {
	n, err := s.s.Read(b)
	if err != nil {
		err = streamError(err)
	}
	return n, err
}

func (s stream) Write(b []byte) (int, error) {
	n, err := s.s.Write(b)
	if err != nil {
		err = streamError(err)
	}
	return n, err
}

func (s stream) Close() error                       { return streamError(s.s.Close()) }
func (s stream) CloseWrite() error                  { return streamError(s.s.CloseWrite()) }
func (s stream) Reset() error                       { return s.s.Reset() }
func (s stream) SetReadDeadline(t time.Time) error  { return s.s.SetReadDeadline(t) }
func (s stream) SetWriteDeadline(t time.Time) error { return s.s.SetWriteDeadline(t) }
func (s stream) Peer() peer.ID                      { return s.s.Conn().RemotePeer() }
func (s stream) Remote() multiaddr.Multiaddr        { return s.s.Conn().RemoteMultiaddr() }
