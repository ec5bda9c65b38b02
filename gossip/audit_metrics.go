package gossip

import "github.com/prometheus/client_golang/prometheus"

// auditMetrics are the audit's part of metrics.
type auditMetrics struct {
	rounds      *prometheus.CounterVec // result
	roundBytes  *prometheus.CounterVec // direction
	cells       *prometheus.CounterVec // direction
	repaired    *prometheus.CounterVec // direction
	corrections *prometheus.CounterVec // what
	differences prometheus.Counter
	deep        prometheus.Counter
	wanted      prometheus.Gauge
}

func newAuditMetrics(reg prometheus.Registerer) (m auditMetrics) {
	counter := func(name, help string) prometheus.Counter {
		return registered(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_gossip_" + name, Help: help}))
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return registered(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_gossip_" + name, Help: help}, []string{label}))
	}
	return auditMetrics{
		rounds:      counters("rounds_total", "Audit rounds begun here, by result.", "result"),
		roundBytes:  counters("round_bytes_total", "Bytes of audit rounds, records left out, by direction.", "direction"),
		cells:       counters("round_cells_total", "Sketch cells in audit rounds, by direction.", "direction"),
		repaired:    counters("round_records_total", "Records that audit rounds fetched or sent.", "direction"),
		corrections: counters("ledger_corrections_total", "Records found in memory and not on disk (lost), the other way round (unknown), or damaged.", "what"),
		differences: counter("round_differences_total", "Records on one side only that audit rounds found."),
		deep:        counter("rounds_deep_total", "Audit rounds under a fresh key, begun here or by others."),
		wanted: registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "obelisk_gossip_wanted_records",
			Help: "Records of log entries that are asked for by ID."})),
	}
}

// registered is register where there is a registerer.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	return register(reg, c)
}
