package memnet

import (
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// stream is one end of a stream; the other end has the same pipes swapped.
type stream struct {
	in, out *pipe
	peer    peer.ID
	remote  multiaddr.Multiaddr
	ended   atomic.Bool // this end was closed or reset
	other   *stream
	conn    *conn
}

func newStreamPair(c *conn, opener, accepter *Host, limit int, delay time.Duration) (*stream, *stream) {
	ab, ba := newPipe(limit, delay), newPipe(limit, delay)
	a := &stream{in: ba, out: ab, peer: accepter.id, remote: c.remote(opener), conn: c}
	b := &stream{in: ab, out: ba, peer: opener.id, remote: c.remote(accepter), conn: c}
	a.other, b.other = b, a
	return a, b
}

func (s *stream) Read(b []byte) (int, error)         { return s.in.Read(b) }
func (s *stream) Write(b []byte) (int, error)        { return s.out.Write(b) }
func (s *stream) SetReadDeadline(t time.Time) error  { s.in.setRead(t); return nil }
func (s *stream) SetWriteDeadline(t time.Time) error { s.out.setWrite(t); return nil }
func (s *stream) Peer() peer.ID                      { return s.peer }
func (s *stream) Remote() multiaddr.Multiaddr        { return s.remote }

func (s *stream) CloseWrite() error {
	s.out.closeWrite()
	return nil
}

func (s *stream) Close() error {
	s.out.closeWrite()
	s.in.closeRead()
	s.ended.Store(true)
	if s.other.ended.Load() {
		s.conn.forget(s)
	}
	return nil
}

func (s *stream) Reset() error {
	if s.conn.isMuted() {
		s.ended.Store(true)
		s.leave()
		return nil
	}
	s.ended.Store(true)
	s.other.ended.Store(true)
	s.reset(errReset)
	s.conn.forget(s)
	return nil
}

// leave fails this end of a muted stream.
func (s *stream) leave() {
	s.in.resetRead(errReset)
	s.out.resetWrite(errReset)
}

// reset fails both ends without touching the connection.
func (s *stream) reset(err error) {
	s.in.reset(err)
	s.out.reset(err)
}
