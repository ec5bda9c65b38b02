package relay_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// pairOver connects two hosts over one transport.
func pairOver(b *testing.B, listen string, fn func(overlay.Stream)) (*relay.Host, *relay.Host) {
	p := newHost(b, relay.Config{Role: relay.RolePillar}, listen)
	p.Handle(proto, fn)
	if err := p.Listen(); err != nil {
		b.Fatal(err)
	}
	c := newHost(b, relay.Config{})
	if err := c.Connect(within(b), p.Self(), p.Addrs()); err != nil {
		b.Fatal(err)
	}
	return c, p
}

// BenchmarkStream writes frames that the other side throws away; both ends
// share the machine.
func BenchmarkStream(b *testing.B) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		for _, size := range []int{700, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				c, p := pairOver(b, listen, func(s overlay.Stream) {
					_, _ = io.Copy(io.Discard, s)
					_ = s.Close()
				})
				s, err := c.Open(within(b), p.Self(), proto)
				if err != nil {
					b.Fatal(err)
				}
				frame := make([]byte, size)
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := s.Write(frame); err != nil {
						b.Fatal(err)
					}
				}
				_ = s.CloseWrite()
				_, _ = io.ReadAll(s)
			})
		}
	}
}

// BenchmarkEcho is a round trip of one small frame.
func BenchmarkEcho(b *testing.B) {
	for name, listen := range map[string]string{"quic": quic, "tcp": tcp} {
		b.Run(name, func(b *testing.B) {
			c, p := pairOver(b, listen, echo)
			s, err := c.Open(within(b), p.Self(), proto)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Reset()
			frame := make([]byte, 700)
			for b.Loop() {
				if _, err := s.Write(frame); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(s, frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
