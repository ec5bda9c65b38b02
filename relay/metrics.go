package relay

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
)

// metrics are this package's own; libp2p registers its own beside them.
type metrics struct {
	packetsSent     *prometheus.CounterVec // path
	packetsReceived *prometheus.CounterVec // path
	packetsDropped  *prometheus.CounterVec // reason
	malformed       *prometheus.CounterVec // path
	punches         *prometheus.CounterVec // outcome
	punched         *prometheus.CounterVec // transport
	strangers       prometheus.Counter
	unasked         prometheus.Counter
	circuits        prometheus.Gauge
	reservations    prometheus.Gauge
	circuitRequests *prometheus.CounterVec // outcome
	relayRefused    *prometheus.CounterVec // reason
	relayedBytes    prometheus.Counter
	probes          *prometheus.CounterVec // outcome
	offers          *prometheus.CounterVec // outcome
}

// How a packet travels.
const (
	byDatagram = "datagram" // QUIC, directly
	byStream   = "stream"   // everything else
)

// Reasons for which packets are dropped.
const (
	dropUnconnected = "unconnected" // no connection to the peer
	dropQueue       = "queue_full"  // more were sent than the peer takes
	dropConnection  = "connection"  // it, or the packet stream on it, failed
	dropKind        = "kind"        // received, but nobody wants that kind
)

// Outcomes of an attempt to punch a hole.
const (
	punchDirect     = "direct"     // there is a direct connection
	punchFailed     = "failed"     // no dial got through
	punchUnanswered = "unanswered" // addresses were not exchanged
	punchRefused    = "refused"    // the peer asked too often, or too many did
)

// Outcomes of a question about somebody's NAT.
const (
	probeAnswered  = "answered"
	probeRefused   = "refused"
	probeMalformed = "malformed"
)

// newMetrics registers the counters, or finds those of another host of the
// process. A nil reg gives counters that nobody reads.
func newMetrics(reg prometheus.Registerer) *metrics {
	paths := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_relay_" + name, Help: help}, []string{"path"})
		if reg != nil {
			v = register(reg, v)
		}
		v.WithLabelValues(byDatagram)
		v.WithLabelValues(byStream)
		return v
	}
	m := &metrics{
		packetsSent:     paths("packets_sent_total", "Packets handed to a connection, by path: datagram or stream."),
		packetsReceived: paths("packets_received_total", "Packets received that somebody wanted, by path."),
		malformed:       paths("packets_malformed_total", "Packets received that cannot be, by path; one on a stream ends it."),
		packetsDropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "obelisk_relay_packets_dropped_total",
			Help: "Packets dropped, by reason.",
		}, []string{"reason"}),
	}
	if reg != nil {
		m.packetsDropped = register(reg, m.packetsDropped)
	}
	for _, reason := range []string{dropUnconnected, dropQueue, dropConnection, dropKind} {
		m.packetsDropped.WithLabelValues(reason)
	}
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_relay_" + name, Help: help}, []string{label})
		if reg != nil {
			v = register(reg, v)
		}
		for _, x := range values {
			v.WithLabelValues(x)
		}
		return v
	}
	one := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_relay_" + name, Help: help})
		if reg != nil {
			c = register(reg, c)
		}
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "obelisk_relay_" + name, Help: help})
		if reg != nil {
			g = register(reg, g)
		}
		return g
	}
	m.punches = vec("punches_total", "Attempts to make a circuit's peer a direct one, at either end, by outcome: direct, failed, unanswered or refused.",
		"outcome", punchDirect, punchFailed, punchUnanswered, punchRefused)
	m.punched = vec("punched_total", "Direct connections that attempts ended in, by transport: quic or tcp.", "transport", overlay.TransportQUIC, overlay.TransportTCP)
	m.strangers = one("strangers_refused_total", "Connections refused because nobody expected the peer.")
	m.unasked = one("addresses_not_dialled_total", "Addresses that a peer advertised and that were not dialled.")
	m.circuits = gauge("circuits", "Circuits that this pillar relays now.")
	m.reservations = gauge("reservations", "Peers that have a reservation at this pillar.")
	m.circuitRequests = vec("circuit_requests_total", "Requests for a circuit that were not refused, by outcome.",
		"outcome", circuitMade, circuitUnreserved, circuitFull, circuitFailed)
	m.relayRefused = vec("refused_total", "Requests to the relay service that were refused, by reason.", "reason",
		refuseStranger, refuseMalformed, refuseAccount, refusePrefix, refuseTotal, refuseOpen, refuseReserved)
	m.probes = vec("nat_questions_total", "Questions of others about their NAT, by outcome: answered, refused or malformed.",
		"outcome", probeAnswered, probeRefused, probeMalformed)
	m.offers = vec("circuits_offered_total", "Circuits that relays offered to this host, by outcome: taken, or refused: unreserved, crowd, malformed or stalled.",
		"outcome", offerTaken, offerUnreserved, offerCrowd, offerMalformed, offerStalled)
	m.relayedBytes = one("relayed_bytes_total", "Bytes relayed for others.")
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
