package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// This file reads and writes what memberlist sends: packets and, at the start of
// a stream, one message. Both begin with a type byte; most messages are then one
// msgpack map of the names below. memberlist reads such maps by reflection and
// takes a great deal for one; here everything has a bound, and what memberlist
// gets to see is written anew from what was understood, so there is nothing to
// understand differently.
//
//	ping, ping request   SeqNo, Node (whom), Target, Port (where it is), Nack,
//	                     SourceAddr, SourcePort, SourceNode (who asks)
//	ack, nack            SeqNo, Payload
//	suspect, dead        Incarnation, Node, From (who says so)
//	alive                Incarnation, Node, Addr, Port, Meta, Vsn
//	push/pull            Nodes, UserStateLen, Join; then as many maps of Name, Addr,
//	                     Port, Meta, Incarnation, State, Vsn; then the user state
//	user message         any bytes (in packets)
//	compound             count (1), count lengths (2 each), the messages
//	checksum             CRC-32 (4, IEEE) of the message behind it

// wireType is memberlist's message type.
type wireType byte

const (
	wirePing wireType = iota
	wirePingFor
	wireAck
	wireSuspect
	wireAlive
	wireDead
	wirePushPull
	wireCompound
	wireUser
	wireCompressed
	wireEncrypted
	wireNack
	wireChecksum
	wireError
)

// States of a member in a push/pull.
const (
	stateAlive = iota
	stateSuspect
	stateDead
	stateLeft
)

// Bounds of what is read.
const (
	maxWireName  = 96      // bytes; <peer ID>.<run> has 66 at most
	maxWireMeta  = 512     // memberlist's own limit
	maxWireKeys  = 16      // entries of a map
	maxWireState = 4096    // members in a push/pull
	maxWireNodes = 1 << 20 // bytes of them
	maxWireUser  = 1 << 20 // bytes of user state behind them
)

// memberVsn is what every member speaks: memberlist's protocol 1 to 5, spoken
// 2, and no protocol of a delegate.
var memberVsn = []byte{1, 5, 2, 0, 0, 0}

// errWire: not a message of memberlist, or one out of bounds.
var errWire = errors.New("malformed")

// memberMsg is a message, with the fields that its type has. Node is whom it is
// about, from who says it or asks.
type memberMsg struct {
	kind        wireType
	seq         uint32
	node, from  string
	incarnation uint32
	addr        []byte
	port        uint16
	meta        []byte
	nack        bool
	state       int
	body        []byte // of a user message

	nodes, userLen int
	join           bool
}

// memberState is a push/pull.
type memberState struct {
	join  bool
	nodes []memberMsg
	user  []byte
}

// source is where messages are read from: a packet or a buffered stream.
type source interface {
	io.Reader
	io.ByteReader
}

// wireReader reads msgpack, at most left bytes, up to its first error: the
// source's, or errWire.
type wireReader struct {
	src  source
	left int
	err  error
}

func (r *wireReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errWire, fmt.Sprintf(format, args...))
	}
}

func (r *wireReader) byte() byte {
	if r.err != nil {
		return 0
	}
	if r.left--; r.left < 0 {
		r.fail("too long")
		return 0
	}
	b, err := r.src.ReadByte()
	if err != nil {
		r.err = err
	}
	return b
}

// bytes reads n bytes; the caller has bounded n.
func (r *wireReader) bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if r.left -= n; r.left < 0 {
		r.fail("too long")
		return nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.src, b); err != nil {
		r.err = err
		return nil
	}
	return b
}

// fixed reads an n-byte big-endian number, n ≤ 8.
func (r *wireReader) fixed(n int) (v uint64) {
	for range n {
		v = v<<8 | uint64(r.byte())
	}
	return v
}

// entries reads a map's header.
func (r *wireReader) entries() int {
	n := 0
	switch b := r.byte(); {
	case b&0xf0 == 0x80:
		n = int(b & 0x0f)
	case b == 0xde:
		n = int(r.fixed(2))
	default:
		r.fail("no map")
	}
	if n > maxWireKeys {
		r.fail("a map of %d", n)
		return 0
	}
	return n
}

// raw reads a string of at most limit bytes; nil is an empty one.
func (r *wireReader) raw(limit int) []byte {
	n := uint64(0)
	switch b := r.byte(); {
	case b == 0xc0:
	case b&0xe0 == 0xa0:
		n = uint64(b & 0x1f)
	case b == 0xd9, b == 0xc4:
		n = r.fixed(1)
	case b == 0xda, b == 0xc5:
		n = r.fixed(2)
	default:
		r.fail("no string")
	}
	if n > uint64(limit) {
		r.fail("a string of %d bytes", n)
		return nil
	}
	return r.bytes(int(n))
}

// uint reads an integer from 0 to limit.
func (r *wireReader) uint(limit uint64) uint64 {
	v, negative := uint64(0), false
	switch b := r.byte(); {
	case b < 0x80:
		v = uint64(b)
	case b >= 0xcc && b <= 0xcf:
		v = r.fixed(1 << (b - 0xcc))
	case b >= 0xd0 && b <= 0xd3:
		n := 1 << (b - 0xd0)
		v = r.fixed(n)
		negative = v>>(8*n-1) != 0
	default:
		r.fail("no number")
	}
	if negative || v > limit {
		r.fail("a number out of range")
		return 0
	}
	return v
}

func (r *wireReader) bool() bool {
	switch r.byte() {
	case 0xc2:
	case 0xc3:
		return true
	default:
		r.fail("no truth value")
	}
	return false
}

// skip passes over a value of a name unknown here: a newer memberlist's.
func (r *wireReader) skip() {
	switch b := r.byte(); {
	case b < 0x80, b >= 0xe0, b == 0xc0, b == 0xc2, b == 0xc3:
	case b&0xe0 == 0xa0:
		r.bytes(int(b & 0x1f))
	case b == 0xd9, b == 0xc4:
		r.bytes(int(r.fixed(1)))
	case b == 0xda, b == 0xc5:
		r.bytes(int(r.fixed(2)))
	case b == 0xca, b == 0xcb:
		r.fixed(4 << (b - 0xca))
	case b >= 0xcc && b <= 0xcf:
		r.fixed(1 << (b - 0xcc))
	case b >= 0xd0 && b <= 0xd3:
		r.fixed(1 << (b - 0xd0))
	default:
		r.fail("a value of type %#x", b)
	}
}

// fields reads one map into m. A name may come once, whatever the type; the
// caller judges what must be there.
func (r *wireReader) fields(m *memberMsg) {
	var seen []string
	for range r.entries() {
		key := string(r.raw(16))
		if slices.Contains(seen, key) {
			r.fail("%q twice", key)
		}
		if r.err != nil {
			return
		}
		seen = append(seen, key)
		switch key {
		case "SeqNo":
			m.seq = uint32(r.uint(1<<32 - 1))
		case "Node", "Name":
			m.node = string(r.raw(maxWireName))
		case "From", "SourceNode":
			m.from = string(r.raw(maxWireName))
		case "Incarnation":
			m.incarnation = uint32(r.uint(1<<32 - 1))
		case "Addr", "Target":
			m.addr = r.raw(16)
		case "Port":
			m.port = uint16(r.uint(1<<16 - 1))
		case "Meta":
			m.meta = r.raw(maxWireMeta)
		case "Nack":
			m.nack = r.bool()
		case "State":
			m.state = int(r.uint(stateLeft))
		case "Nodes":
			m.nodes = int(r.uint(maxWireState))
		case "UserStateLen":
			m.userLen = int(r.uint(maxWireUser))
		case "Join":
			m.join = r.bool()
		default:
			r.skip()
		}
	}
}

// readMember reads one message of a packet, all of b.
func readMember(b []byte) (*memberMsg, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty", errWire)
	}
	m := &memberMsg{kind: wireType(b[0])}
	if m.kind == wireUser {
		m.body = b[1:]
		return m, nil
	}
	src := bytes.NewReader(b[1:])
	r := &wireReader{src: src, left: len(b)}
	r.fields(m)
	if r.err == nil && src.Len() > 0 {
		r.fail("%d bytes more", src.Len())
	}
	return m, r.err
}

// readState reads a push/pull behind its type byte.
func readState(src source) (*memberState, error) {
	r := &wireReader{src: src, left: maxWireNodes}
	var header memberMsg
	r.fields(&header)
	s := &memberState{join: header.join}
	for range header.nodes {
		if r.err != nil {
			break
		}
		var n memberMsg
		r.fields(&n)
		s.nodes = append(s.nodes, n)
	}
	r.left = maxWireUser
	s.user = r.bytes(header.userLen)
	return s, r.err
}

// splitPacket returns the messages of a packet.
func splitPacket(b []byte) ([][]byte, memberDrop) {
	if len(b) > 0 && wireType(b[0]) == wireChecksum {
		if len(b) < 6 || crc32.ChecksumIEEE(b[5:]) != binary.BigEndian.Uint32(b[1:]) {
			return nil, dropMalformed
		}
		b = b[5:]
	}
	parts := [][]byte{b}
	if len(b) > 1 && wireType(b[0]) == wireCompound {
		n := int(b[1])
		lengths := b[2:]
		if n == 0 || len(lengths) < 2*n {
			return nil, dropMalformed
		}
		parts, b = parts[:0], lengths[2*n:]
		for i := range n {
			size := int(binary.BigEndian.Uint16(lengths[2*i:]))
			if size > len(b) {
				return nil, dropMalformed
			}
			parts, b = append(parts, b[:size]), b[size:]
		}
		if len(b) > 0 {
			return nil, dropMalformed
		}
	}
	for _, part := range parts {
		if len(part) == 0 {
			return nil, dropMalformed
		}
		switch wireType(part[0]) {
		case wireCompound, wireChecksum:
			return nil, dropNested
		case wireCompressed, wireEncrypted:
			return nil, dropEncoded
		}
	}
	return parts, ""
}

// joinPacket makes a packet of at most 255 messages, nil of none.
func joinPacket(parts [][]byte) []byte {
	switch len(parts) {
	case 0:
		return nil
	case 1:
		return parts[0]
	}
	b := []byte{byte(wireCompound), byte(len(parts))}
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	}
	return append(b, bytes.Join(parts, nil)...)
}

// append writes m like memberlist would, for types that packets carry.
func (m *memberMsg) append(b []byte) []byte {
	b = append(b, byte(m.kind))
	switch m.kind {
	case wirePing:
		b = append(b, 0x85)
		b = appendUint(appendName(b, "SeqNo"), uint64(m.seq))
		b = appendRaw(appendName(b, "Node"), []byte(m.node))
		b = m.appendSource(b)
	case wirePingFor:
		b = append(b, 0x88)
		b = appendUint(appendName(b, "SeqNo"), uint64(m.seq))
		b = appendRaw(appendName(b, "Target"), memberAddrOf(m.node))
		b = appendUint(appendName(b, "Port"), memberPort)
		b = appendRaw(appendName(b, "Node"), []byte(m.node))
		b = appendBool(appendName(b, "Nack"), m.nack)
		b = m.appendSource(b)
	case wireAck, wireNack:
		b = append(b, 0x81)
		b = appendUint(appendName(b, "SeqNo"), uint64(m.seq))
	case wireSuspect, wireDead:
		b = append(b, 0x83)
		b = appendUint(appendName(b, "Incarnation"), uint64(m.incarnation))
		b = appendRaw(appendName(b, "Node"), []byte(m.node))
		b = appendRaw(appendName(b, "From"), []byte(m.from))
	case wireAlive:
		b = append(b, 0x86)
		b = m.appendMember(appendRaw(appendName(b, "Node"), []byte(m.node)))
	case wireUser:
		b = append(b, m.body...)
	}
	return b
}

func (m *memberMsg) appendSource(b []byte) []byte {
	b = appendRaw(appendName(b, "SourceAddr"), memberAddrOf(m.from))
	b = appendUint(appendName(b, "SourcePort"), memberPort)
	return appendRaw(appendName(b, "SourceNode"), []byte(m.from))
}

func (m *memberMsg) appendMember(b []byte) []byte {
	b = appendUint(appendName(b, "Incarnation"), uint64(m.incarnation))
	b = appendRaw(appendName(b, "Addr"), memberAddrOf(m.node))
	b = appendUint(appendName(b, "Port"), memberPort)
	b = appendRaw(appendName(b, "Meta"), m.meta)
	return appendRaw(appendName(b, "Vsn"), memberVsn)
}

// append writes a push/pull, type byte and all.
func (s *memberState) append(b []byte) []byte {
	b = append(b, byte(wirePushPull), 0x83)
	b = appendUint(appendName(b, "Nodes"), uint64(len(s.nodes)))
	b = appendUint(appendName(b, "UserStateLen"), uint64(len(s.user)))
	b = appendBool(appendName(b, "Join"), s.join)
	for i := range s.nodes {
		n := &s.nodes[i]
		b = append(b, 0x87)
		b = appendRaw(appendName(b, "Name"), []byte(n.node))
		b = appendUint(appendName(b, "State"), uint64(n.state))
		b = n.appendMember(b)
	}
	return append(b, s.user...)
}

func appendName(b []byte, name string) []byte {
	return append(append(b, 0xa0|byte(len(name))), name...)
}

func appendRaw(b, raw []byte) []byte {
	if len(raw) < 32 {
		return append(append(b, 0xa0|byte(len(raw))), raw...)
	}
	return append(binary.BigEndian.AppendUint16(append(b, 0xda), uint16(len(raw))), raw...)
}

func appendUint(b []byte, v uint64) []byte {
	if v < 0x80 {
		return append(b, byte(v))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0xc3)
	}
	return append(b, 0xc2)
}
