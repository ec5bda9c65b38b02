package overlay

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// pillarMetrics are the counters of one Pillar.
type pillarMetrics struct {
	submissions *prometheus.CounterVec // result: stored, duplicate or a refusal's code
	stored      prometheus.Counter     // submissions{stored}, looked up once
	duplicate   prometheus.Counter
	commitSize  prometheus.Histogram
	commitTook  prometheus.Histogram
	verifyTook  prometheus.Histogram
	ackTook     prometheus.Histogram
	copyTook    prometheus.Histogram
	sessions    prometheus.Gauge
	refused     *prometheus.CounterVec // sessions refused or ended by this side, by code
	pushes      prometheus.Counter
	paged       prometheus.Counter
	nudges      prometheus.Counter
	void        prometheus.Counter
	droppedDays prometheus.Counter
	watermarks  prometheus.Counter
	lacks       prometheus.Gauge
	scrubbed    prometheus.Counter
	scrubPasses prometheus.Counter
	repairs     *prometheus.CounterVec // by what was repaired
	diverged    prometheus.Gauge
	unanswered  prometheus.Counter
	questions   *prometheus.CounterVec // Locate, by who asked and what became of it
	presences   *prometheus.CounterVec // answers to it, by what became of them
	damaged     prometheus.Counter
	mended      prometheus.Counter

	expiringMessages, expiringAccounts prometheus.Gauge
	expiringReads                      prometheus.Counter
}

func newPillarMetrics(reg prometheus.Registerer) *pillarMetrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "obelisk_overlay_" + name, Help: help}
	}
	histogram := func(name, help string, start, factor float64, n int) prometheus.Histogram {
		return registered(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "obelisk_overlay_" + name, Help: help,
			Buckets: prometheus.ExponentialBuckets(start, factor, n)}))
	}
	m := &pillarMetrics{
		submissions: registered(reg, prometheus.NewCounterVec(counter("submissions_total", "Records submitted by nodes, by result."), []string{"result"})),
		commitSize:  histogram("commit_records", "Records and log entries of a group commit.", 1, 2, 14),
		commitTook:  histogram("commit_seconds", "Time a group commit took to be durable.", 50e-6, 2, 18),
		verifyTook:  histogram("verify_seconds", "Time a chunk of submissions took to be checked.", 50e-6, 2, 16),
		// From the fsync of a fast disk to what a node waits before it turns to
		// another pillar.
		ackTook: histogram("ack_seconds", "Time from when submissions came until those that were stored were answered, once for each chunk of up to 256, for its oldest.", 1e-3, 2, 15),
		// From one round trip in a datacentre to an hour in which no other pillar
		// was reached.
		copyTook: histogram("second_copy_seconds", "Time from a group commit of submissions until another pillar had all of it on its disk too.", 1e-3, 2, 22),
		sessions: registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "obelisk_overlay_sessions", Help: "Registered sessions of nodes."})),
		refused:     registered(reg, prometheus.NewCounterVec(counter("sessions_refused_total", "Sessions refused or ended by this side, by code."), []string{"code"})),
		nudges:      registered(reg, prometheus.NewCounter(counter("nudges_total", "Times a node was told on its standby session that it has mail."))),
		pushes:      registered(reg, prometheus.NewCounter(counter("pushes_total", "Records pushed to connected recipients as they were committed."))),
		paged:       registered(reg, prometheus.NewCounter(counter("paged_total", "Records of mailboxes read from the store for a device: after a resume, or because it was behind."))),
		void:        registered(reg, prometheus.NewCounter(counter("void_total", "Log entries of other pillars that are no valid records."))),
		droppedDays: registered(reg, prometheus.NewCounter(counter("expired_dropped_days", "Expiry days whose records were deleted."))),
		watermarks:  registered(reg, prometheus.NewCounter(counter("watermarks_total", "Watermarks sent."))),
		lacks: registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "obelisk_overlay_lacks", Help: "Records that entries of logs name and that are missing here."})),
		scrubbed:    registered(reg, prometheus.NewCounter(counter("scrubbed_total", "Records, box entries and log entries that the scrub looked at."))),
		scrubPasses: registered(reg, prometheus.NewCounter(counter("scrub_passes_total", "Times the scrub went through the whole store."))),
		repairs: registered(reg, prometheus.NewCounterVec(counter("scrub_repairs_total",
			"What the scrub repaired: record (without bytes or with others, removed), box (record filed anew), orphan (of a record without its entry, stored again), unfiled (entry of no record, removed), hole (of a log), lack, trimmed (log entries), stray (log without state)."), []string{"what"})),
		damaged:    registered(reg, prometheus.NewCounter(counter("damaged_reads_total", "Records with other bytes than their ID says that were not served to other pillars."))),
		mended:     registered(reg, prometheus.NewCounter(counter("store_mended_total", "Places of the store at which the disk gave back other bytes than were written, so that something had to be cut out."))),
		unanswered: registered(reg, prometheus.NewCounter(counter("summary_asks_unanswered_total", "Questions of nodes for summaries that came too fast."))),
		questions: registered(reg, prometheus.NewCounterVec(counter("locate_questions_total",
			"Questions where an account's devices are, by who asked (node, pillar) and whether they were taken."), []string{"from", "result"})),
		presences: registered(reg, prometheus.NewCounterVec(counter("locate_answers_total",
			"Answers of devices: passed on, late (or never asked for), or over what one question gets."), []string{"result"})),
		expiringMessages: registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "obelisk_overlay_expiring_unconfirmed_messages", Help: "Messages that end within a day and of which a recipient has written no receipt to their author."})),
		expiringAccounts: registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "obelisk_overlay_expiring_unconfirmed_accounts", Help: "Recipients of those that have not."})),
		expiringReads: registered(reg, prometheus.NewCounter(counter("expiring_reads_total", "Box entries read to look for them."))),
		diverged: registered(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "obelisk_overlay_pillars_diverged", Help: "Pillars whose summaries are unequal to the others' three times in a row or more."})),
	}
	m.stored = m.submissions.WithLabelValues("stored")
	m.duplicate = m.submissions.WithLabelValues("duplicate")
	return m
}

// registered registers c, or finds the one that another Pillar or Node of the same
// process registered. Without a registerer nobody reads it.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var exists prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &exists) {
		if old, ok := exists.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}
