package relay

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are this package's own; libp2p registers its own beside them.
type metrics struct {
	packetsSent    prometheus.Counter
	packetsDropped *prometheus.CounterVec
	streamsBad     prometheus.Counter
}

// Reasons for which packets are dropped.
const (
	dropUnconnected = "unconnected" // no connection to the peer
	dropQueue       = "queue_full"  // more were sent than the peer takes
	dropStream      = "stream"      // the packet stream failed
	dropKind        = "kind"        // received, but nobody wants that kind
)

// newMetrics registers the counters, or finds those of another host of the
// process. A nil reg gives counters that nobody reads.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		packetsSent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "obelisk_relay_packets_sent_total",
			Help: "Packets handed to a connection.",
		}),
		packetsDropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "obelisk_relay_packets_dropped_total",
			Help: "Packets dropped, by reason.",
		}, []string{"reason"}),
		streamsBad: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "obelisk_relay_packet_streams_malformed_total",
			Help: "Packet streams reset because of a malformed frame.",
		}),
	}
	if reg != nil {
		m.packetsSent = register(reg, m.packetsSent)
		m.packetsDropped = register(reg, m.packetsDropped)
		m.streamsBad = register(reg, m.streamsBad)
	}
	for _, reason := range []string{dropUnconnected, dropQueue, dropStream, dropKind} {
		m.packetsDropped.WithLabelValues(reason)
	}
	return m
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var exists prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &exists) {
		if old, ok := exists.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}

func (m *metrics) dropped(reason string, n int) {
	if n > 0 {
		m.packetsDropped.WithLabelValues(reason).Add(float64(n))
	}
}
