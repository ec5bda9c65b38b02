package gossip

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// maxStreamPing bounds a ping or its answer on a stream.
const maxStreamPing = 1024

// memberConn makes a net.Conn of a stream. Each side says one message on it:
// the filter reads the other's whole before memberlist sees the first byte, and
// changes what memberlist says.
type memberConn struct {
	overlay.Stream
	t       *transport
	from    identity.PillarID
	dialled bool
	read    *bytes.Reader // what memberlist is given; nil before its first Read
}

// Read implements net.Conn. memberlist reads from one goroutine at a time.
func (c *memberConn) Read(b []byte) (int, error) {
	if c.read == nil {
		msg, err := c.t.filter.readStream(c.from, c.Stream, c.dialled)
		c.t.giveReplaced()
		c.read = bytes.NewReader(msg)
		if err != nil {
			c.Reset()
			return 0, err
		}
	}
	return c.read.Read(b)
}

// Write implements net.Conn. memberlist writes a whole message at once.
func (c *memberConn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	out := b
	if wireType(b[0]) == wirePushPull {
		s, err := readState(bytes.NewReader(b[1:]))
		if err != nil {
			return 0, fmt.Errorf("own state: %w", err)
		}
		c.t.filter.outgoingState(s)
		c.t.spreadNews()
		out = s.append(nil)
	}
	if _, err := c.Stream.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements net.Conn.
func (c *memberConn) Close() error {
	c.t.forget(c)
	return c.Stream.Close()
}

// LocalAddr implements net.Conn.
func (c *memberConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: memberAddr(c.t.m.self), Port: memberPort}
}

// RemoteAddr implements net.Conn.
func (c *memberConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: memberAddr(c.from), Port: memberPort}
}

// SetDeadline implements net.Conn.
func (c *memberConn) SetDeadline(d time.Time) error {
	return errors.Join(c.SetReadDeadline(d), c.SetWriteDeadline(d))
}

// readStream reads the one message that comes on a stream and returns what
// memberlist gets of it. An error ends the stream; what is wrong with the
// message is counted.
func (f *memberFilter) readStream(from identity.PillarID, stream io.Reader, dialled bool) ([]byte, error) {
	src := bufio.NewReader(stream)
	b, err := src.ReadByte()
	if err != nil {
		return nil, err
	}
	refuse := func(why memberDrop) ([]byte, error) {
		f.droppedOf(from, why)
		return nil, fmt.Errorf("stream of %s refused: %s", from, why)
	}
	switch kind := wireType(b); kind {
	case wirePushPull:
		s, err := readState(src)
		if err != nil {
			if !errors.Is(err, errWire) {
				return nil, err
			}
			return refuse(dropMalformed)
		}
		f.incomingState(from, s)
		return s.append(nil), nil
	case wirePing, wireAck:
		if (kind == wireAck) != dialled {
			return refuse(dropUnknown)
		}
		msg := &memberMsg{kind: kind}
		r := &wireReader{src: src, left: maxStreamPing}
		if r.fields(msg); r.err != nil {
			if !errors.Is(r.err, errWire) {
				return nil, r.err
			}
			return refuse(dropMalformed)
		}
		if kind == wirePing {
			if why := f.pinged(from, msg); why != "" {
				return refuse(why)
			}
		}
		return msg.append(nil), nil
	case wireCompressed, wireEncrypted:
		return refuse(dropEncoded)
	}
	return refuse(dropUnknown)
}
