package gossip

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
)

// traffic is overlay.Links that count what replication writes to streams and
// reads from them: frames and what is in them, not what carries them.
type traffic struct {
	overlay.Links
	of map[overlay.Protocol]streamBytes
}

// streamBytes are the counters of one protocol.
type streamBytes struct{ sent, received prometheus.Counter }

// newTraffic returns links, counted on reg if that is not nil.
func newTraffic(links overlay.Links, reg prometheus.Registerer) *traffic {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_gossip_bytes_total",
		Help: "Bytes of streams between pillars, frames included and their transport left out, by what they are and direction."},
		[]string{"stream", "direction"})
	if reg != nil {
		bytes = register(reg, bytes)
	}
	t := &traffic{Links: links, of: make(map[overlay.Protocol]streamBytes)}
	for proto, name := range map[overlay.Protocol]string{
		overlay.ProtoPillar: "session", overlay.ProtoFollow: "follow", overlay.ProtoMember: "member",
	} {
		t.of[proto] = streamBytes{bytes.WithLabelValues(name, "sent"), bytes.WithLabelValues(name, "received")}
	}
	return t
}

// Open implements overlay.Links.
func (t *traffic) Open(ctx context.Context, p peer.ID, proto overlay.Protocol) (overlay.Stream, error) {
	s, err := t.Links.Open(ctx, p, proto)
	if err != nil {
		return nil, err
	}
	return t.count(s, proto), nil
}

// Handle implements overlay.Links.
func (t *traffic) Handle(proto overlay.Protocol, fn func(overlay.Stream)) {
	if fn == nil {
		t.Links.Handle(proto, nil)
		return
	}
	t.Links.Handle(proto, func(s overlay.Stream) { fn(t.count(s, proto)) })
}

func (t *traffic) count(s overlay.Stream, proto overlay.Protocol) overlay.Stream {
	if bytes, ok := t.of[proto]; ok {
		return &countedStream{s, bytes}
	}
	return s
}

type countedStream struct {
	overlay.Stream
	bytes streamBytes
}

// Read implements overlay.Stream.
func (s *countedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	s.bytes.received.Add(float64(n))
	return n, err
}

// Write implements overlay.Stream.
func (s *countedStream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	s.bytes.sent.Add(float64(n))
	return n, err
}
