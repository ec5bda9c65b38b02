package overlay

import "github.com/prometheus/client_golang/prometheus"

// nodeMetrics counts what a node does. Without a registerer it counts for
// nobody.
type nodeMetrics struct {
	failovers prometheus.Counter
	failover  prometheus.Histogram
	states    *prometheus.CounterVec        // sent messages that reached a state
	reached   map[State]prometheus.Observer // how long after they were sent
	received  map[Path]prometheus.Counter   // messages for the app
	dropped   *prometheus.CounterVec        // records from pillars that were not used
	withheld  prometheus.Counter            // records only a mailbox check brought
	dials     *prometheus.CounterVec
	located   *prometheus.CounterVec // questions asked, by how they ended
	asked     *prometheus.CounterVec // questions where this device is, by what became of them

	direct        *prometheus.CounterVec // messages that went from device to device
	directFailed  *prometheus.CounterVec // steps of that
	directSkipped *prometheus.CounterVec // messages left to the pillars
}

var (
	// failoverBuckets are fine around the 2 s within which a dead pillar is to be
	// noticed and replaced.
	failoverBuckets = []float64{.05, .1, .25, .5, .75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 3600}
	// reachedBuckets go from a disk's fsync to the life of a message: a recipient
	// may be away for days.
	reachedBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 15, 60, 300, 3600, 6 * 3600, 86400, 3 * 86400}
)

// newNodeMetrics registers the metrics, or finds those of a node that was there
// before under another device key.
func newNodeMetrics(r prometheus.Registerer) *nodeMetrics {
	m := &nodeMetrics{
		failovers: registered(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_node_failovers_total", Help: "Changes of the active pillar."})),
		states:    registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_sent_total", Help: "Sent messages that reached a state."}, []string{"state"})),
		failover: registered(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "obelisk_node_failover_seconds",
			Help: "Time from when the active pillar began to be missed until another was active.", Buckets: failoverBuckets})),
		dropped:  registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_dropped_total", Help: "Records from pillars that were not used."}, []string{"why"})),
		withheld: registered(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_node_withheld_total", Help: "Mailbox records that only the mailbox check brought."})),
		dials:    registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_dials_total", Help: "Attempts to open a session with a pillar."}, []string{"result"})),
		located:  registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_located_total", Help: "Questions where an account's devices are: found, nobody (answered), refused or failed."}, []string{"result"})),
		asked:    registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_asked_total", Help: "Questions where this device is: answered, or not and why."}, []string{"answer"})),

		direct: registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_direct_messages_total",
			Help: "Messages that went from device to device."}, []string{"way", "path"})),
		directFailed: registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_direct_failures_total",
			Help: "Steps of delivery to a device that failed."}, []string{"step"})),
		directSkipped: registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_direct_skipped_total",
			Help: "Messages to an account that were left to the pillars."}, []string{"why"})),
	}
	reached := registered(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "obelisk_node_reached_seconds",
		Help: "Time from when a message was sent until it was in a state.", Buckets: reachedBuckets}, []string{"state"}))
	m.reached = make(map[State]prometheus.Observer)
	for _, s := range []State{StateStored, StateReplicated, StateDelivered, StateExpired, StateRejected} {
		m.states.WithLabelValues(string(s))
		m.reached[s] = reached.WithLabelValues(string(s))
	}
	received := registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_received_total",
		Help: "Messages received, by how each came first: direct, relayed (device to device, through a pillar) or pillar (from its mailbox)."}, []string{"path"}))
	m.received = make(map[Path]prometheus.Counter)
	for _, path := range []Path{PathDirect, PathRelayed, PathPillar} {
		m.received[path] = received.WithLabelValues(string(path))
	}
	return m
}

// moved counts a message that is in a state now; now and sent are Unix ms.
func (m *nodeMetrics) moved(s State, now, sent uint64) {
	m.states.WithLabelValues(string(s)).Inc()
	if h := m.reached[s]; h != nil {
		h.Observe(float64(now-min(now, sent)) / 1000)
	}
}
