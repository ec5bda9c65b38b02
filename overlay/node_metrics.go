package overlay

import "github.com/prometheus/client_golang/prometheus"

// nodeMetrics counts what a node does. Without a registerer it counts for
// nobody.
type nodeMetrics struct {
	failovers prometheus.Counter
	states    *prometheus.CounterVec // sent messages that reached a state
	received  prometheus.Counter     // messages for the app
	dropped   *prometheus.CounterVec // records from pillars that were not used
	withheld  prometheus.Counter     // records only a mailbox check brought
	dials     *prometheus.CounterVec
	located   *prometheus.CounterVec // questions asked, by how they ended
	asked     *prometheus.CounterVec // questions where this device is, by what became of them

	direct        *prometheus.CounterVec // messages that went from device to device
	directFailed  *prometheus.CounterVec // steps of that
	directSkipped *prometheus.CounterVec // messages left to the pillars
}

func newNodeMetrics(r prometheus.Registerer) *nodeMetrics {
	m := &nodeMetrics{
		failovers: prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_node_failovers_total", Help: "Changes of the active pillar."}),
		states:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_sent_total", Help: "Sent messages that reached a state."}, []string{"state"}),
		received:  prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_node_received_total", Help: "Messages received."}),
		dropped:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_dropped_total", Help: "Records from pillars that were not used."}, []string{"why"}),
		withheld:  prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_node_withheld_total", Help: "Mailbox records that only the mailbox check brought."}),
		dials:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_dials_total", Help: "Attempts to open a session with a pillar."}, []string{"result"}),
		located:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_located_total", Help: "Questions where an account's devices are: found, nobody (answered), refused or failed."}, []string{"result"}),
		asked:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_asked_total", Help: "Questions where this device is: answered, or not and why."}, []string{"answer"}),

		direct: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_direct_messages_total",
			Help: "Messages that went from device to device."}, []string{"way", "path"}),
		directFailed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_direct_failures_total",
			Help: "Steps of delivery to a device that failed."}, []string{"step"}),
		directSkipped: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_node_direct_skipped_total",
			Help: "Messages to an account that were left to the pillars."}, []string{"why"}),
	}
	if r != nil {
		r.MustRegister(m.failovers, m.states, m.received, m.dropped, m.withheld, m.dials, m.located, m.asked, m.direct, m.directFailed, m.directSkipped)
	}
	return m
}
