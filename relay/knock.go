package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// A knock finds out whether a UDP address with a QUIC listener behind it can be
// reached from a port that nobody has called: it sends a packet of a QUIC version
// that does not exist, which every listener answers with the versions it has
// (RFC 9000, section 6), keeping nothing and signing nothing.

const (
	knockTimeout = 2 * time.Second
	// knockSize is what a listener wants before it answers, more than it answers.
	knockSize = 1200
	// greaseVersion is of those that RFC 9000, section 15, reserves for this.
	greaseVersion = 0x1a2a3a4a
)

// knockAt are when packets are sent: one may be lost.
var knockAt = []time.Duration{0, 400 * time.Millisecond, 900 * time.Millisecond}

// knock reports whether a QUIC listener at to answers a fresh socket of this
// machine. from is the address to send from, if the machine has several. An error
// means that nothing could be sent.
func knock(ctx context.Context, from netip.Addr, to netip.AddrPort) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	var local *net.UDPAddr
	if from.IsValid() && !from.IsUnspecified() && from.Is4() == to.Addr().Is4() {
		local = &net.UDPAddr{IP: from.AsSlice()}
	}
	// Connected: the kernel drops what others send.
	c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // also at knockTimeout
	defer stop()
	packet, want := knockPacket()
	begin := time.Now()
	buf := make([]byte, 2048)
	for i := range knockAt {
		_, _ = c.Write(packet) // what ICMP said of an earlier one comes back here
		until := begin.Add(knockTimeout)
		if i+1 < len(knockAt) {
			until = begin.Add(knockAt[i+1])
		}
		if err := c.SetReadDeadline(until); err != nil {
			return false, nil // closed: the time is over
		}
		for time.Now().Before(until) {
			n, err := c.Read(buf)
			if err == nil && isKnockAnswer(buf[:n], want) {
				return true, nil
			}
			// A machine on the way may refuse; the next packet may still get through.
			if err != nil && !pause(ctx, time.Until(until)) {
				return false, nil
			}
		}
	}
	return false, nil
}

// knockPacket is a long header packet (RFC 8999, section 5.1) of a version that
// nobody speaks, and the beginning of the answer to it.
func knockPacket() (packet, want []byte) {
	const id = 8
	packet = make([]byte, knockSize)
	_, _ = rand.Read(packet[:7+2*id]) // never fails
	packet[0] |= 0xc0
	binary.BigEndian.PutUint32(packet[1:], greaseVersion)
	packet[5], packet[6+id] = id, id
	to, from := packet[6:6+id], packet[7+id:7+2*id]
	want = append(want, 0, 0, 0, 0, id)
	want = append(want, from...)
	want = append(want, id)
	return packet, append(want, to...)
}

// isKnockAnswer: a Version Negotiation packet to us (RFC 9000, section 17.2.1).
func isKnockAnswer(b, want []byte) bool {
	return len(b) > 1+len(want) && b[0]&0x80 != 0 && bytes.Equal(b[1:1+len(want)], want)
}

// pause waits, false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
