package gossip

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the counters of one Mesh. Copies received per record is
// entries_received_total / entries_new_total.
type metrics struct {
	sessions        prometheus.Gauge
	follows         prometheus.Gauge
	followers       prometheus.Gauge
	fills           prometheus.Gauge
	lag             prometheus.Gauge
	backlog         prometheus.Gauge
	backlogRate     prometheus.Gauge
	elsewhere       prometheus.Counter
	forks           prometheus.Counter
	banned          prometheus.Counter
	batchesSent     prometheus.Counter
	batchesReceived prometheus.Counter
	entriesSent     prometheus.Counter
	entriesReceived prometheus.Counter
	entriesNew      prometheus.Counter
	void            prometheus.Counter
	faults          *prometheus.CounterVec // reason
	forged          *prometheus.CounterVec // what
	refused         *prometheus.CounterVec // code
	rejoins         prometheus.Counter
	memberDropped   *prometheus.CounterVec // reason
	offences        *prometheus.CounterVec // reason
	unasked         prometheus.Counter
	auditMetrics
}

// Why a provider is faulted.
const (
	faultFrame  = "frame"  // no message that belongs there
	faultLog    = "log"    // another log than asked for
	faultOrder  = "order"  // entries missing, repeated or too many
	faultHead   = "head"   // a head that is missing, unsigned or another log's
	faultChain  = "chain"  // entries that do not link to the signed head
	faultSilent = "silent" // nothing while the log moves, or in the middle of a range
	faultGone   = "gone"   // entries said to be gone that live, or of which nothing signed says so
	faultEmpty  = "empty"  // a log that it tells and says it does not hold
	faultClaim  = "claim"  // entries told and not sent
	faultVector = "vector" // another history told and not shown
	faultFork   = "fork"   // a proof that proves nothing
	faultMember = "member" // what memberlist does not send, or with a forged signature

	faultLocate   = "locate"   // questions where devices are too often
	faultPresence = "presence" // an answer to no question, or for somebody else
)

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_gossip_" + name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_gossip_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "obelisk_gossip_" + name, Help: help})
	}
	batches := counters("follow_batches_total", "Batches of log entries, by direction.", "direction")
	m := &metrics{
		sessions:        gauge("sessions", "Pillars with an open session."),
		follows:         gauge("follows", "Logs being followed."),
		fills:           gauge("fills", "Ranges of history being followed."),
		backlog:         gauge("backlog_entries", "Log entries that ranges of history still have to bring."),
		backlogRate:     gauge("backlog_entries_per_second", "Log entries of history stored a second, lately."),
		elsewhere:       counter("elsewhere_total", "Follows sent on to another holder by a provider without room."),
		forks:           counter("forks_total", "Logs proven to have two histories. Any is an alarm: its pillar's key is used twice, or it lies."),
		banned:          counter("pillars_refused_total", "Pillars refused for a while for repeated offences."),
		followers:       gauge("followers", "Followers being served."),
		lag:             gauge("follow_lag_entries", "Log entries that connected pillars have and this one lacks."),
		entriesSent:     counter("entries_sent_total", "Log entries sent to followers."),
		entriesReceived: counter("entries_received_total", "Log entries received by follows."),
		entriesNew:      counter("entries_new_total", "Log entries received by follows that were not held before."),
		void:            counter("entries_void_total", "Void log entries received."),
		faults:          counters("follow_faults_total", "Follows ended through their provider's fault, by reason.", "reason"),
		forged:          counters("forged_total", "Signed statements refused, by what they claimed to be.", "what"),
		refused:         counters("sessions_refused_total", "Sessions refused, by code.", "code"),
		rejoins:         counter("rejoin_attempts_total", "Attempts to reach pillars without a session."),
		memberDropped:   counters("member_dropped_total", "Messages of memberlist dropped before it saw them, by reason; echo, stale and run are everyday.", "reason"),
		offences:        counters("offences_total", "What pillars did wrong, by reason.", "reason"),
		unasked:         counter("locate_unasked_total", "Pillars left out when it was asked where devices are, for want of room."),
		auditMetrics:    newAuditMetrics(reg),
	}
	if reg != nil {
		batches = register(reg, batches)
		m.register(reg)
	}
	for _, why := range memberDrops {
		m.memberDropped.WithLabelValues(string(why))
	}
	m.batchesSent, m.batchesReceived = batches.WithLabelValues("sent"), batches.WithLabelValues("received")
	return m
}

func (m *metrics) register(reg prometheus.Registerer) {
	m.sessions, m.follows = register(reg, m.sessions), register(reg, m.follows)
	m.followers, m.lag = register(reg, m.followers), register(reg, m.lag)
	m.fills, m.backlog, m.backlogRate = register(reg, m.fills), register(reg, m.backlog), register(reg, m.backlogRate)
	m.elsewhere, m.forks = register(reg, m.elsewhere), register(reg, m.forks)
	m.banned = register(reg, m.banned)
	m.faults = register(reg, m.faults)
	m.forged, m.refused = register(reg, m.forged), register(reg, m.refused)
	m.entriesSent, m.entriesReceived = register(reg, m.entriesSent), register(reg, m.entriesReceived)
	m.entriesNew, m.void = register(reg, m.entriesNew), register(reg, m.void)
	m.rejoins, m.memberDropped = register(reg, m.rejoins), register(reg, m.memberDropped)
	m.offences, m.unasked = register(reg, m.offences), register(reg, m.unasked)
}

// register registers c, or finds the one that another Mesh registered.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var exists prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &exists) {
		if old, ok := exists.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}
