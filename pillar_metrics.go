package obelisk

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
)

// pillarCollector makes metrics of what a pillar says of itself when somebody
// asks for them; between scrapes it costs nothing. There is one for a registry.
type pillarCollector struct {
	p *Pillar

	check, others, links                   *prometheus.Desc
	records, mailboxes, stored, free, disk *prometheus.Desc
	skew, converged, lag, uptime           *prometheus.Desc
	missingHere, missingThere              *prometheus.Desc
}

func newPillarCollector(p *Pillar) *pillarCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("obelisk_pillar_"+name, help, labels, nil)
	}
	return &pillarCollector{
		p:            p,
		check:        desc("check", "1 if a check of /readyz passes, 0 if not.", "check"),
		others:       desc("others", "Other pillars of the network, by state.", "state"),
		links:        desc("others_connected", "Other pillars with an open session, by how they are connected.", "path"),
		records:      desc("records", "Records in the store."),
		mailboxes:    desc("mailboxes", "Accounts with records in the store."),
		stored:       desc("store_bytes", "Bytes of the store's files."),
		free:         desc("disk_free_bytes", "Bytes that are free on the disk of the store."),
		disk:         desc("disk_bytes", "Size of the disk of the store in bytes."),
		skew:         desc("clock_skew_seconds", "How far its clock is from its peers'."),
		converged:    desc("converged", "1 if all pillars that are alive said at the same instant that they hold the same, 0 if not."),
		lag:          desc("convergence_lag_seconds", "Time since the newest instant at which a pillar that is alive was seen to agree; the longest of all of them."),
		uptime:       desc("uptime_seconds", "Time since the pillar started."),
		missingHere:  desc("missing_here_entries", "Log entries that a connected pillar has and this one lacks; the most of all of them."),
		missingThere: desc("missing_there_entries", "Log entries that a connected pillar lacks and this one has; the most of all of them."),
	}
}

func (c *pillarCollector) all() []*prometheus.Desc {
	return []*prometheus.Desc{c.check, c.others, c.links, c.records, c.mailboxes, c.stored, c.free, c.disk,
		c.skew, c.converged, c.lag, c.uptime, c.missingHere, c.missingThere}
}

// Describe implements prometheus.Collector.
func (c *pillarCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *pillarCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.p.Status()
	_, ready := c.p.Checks()
	for _, check := range ready {
		gauge(c.check, asFloat(check.OK), check.Name)
	}
	states := map[overlay.PillarState]int{overlay.PillarAlive: 0, overlay.PillarSuspect: 0, overlay.PillarDead: 0, overlay.PillarLeft: 0, overlay.PillarFull: 0}
	paths := map[overlay.Path]int{overlay.PathDirect: 0, overlay.PathRelayed: 0}
	var here, there uint64
	for _, o := range c.p.Pillars() {
		states[o.State]++
		if !o.Connected {
			continue
		}
		paths[o.Path]++
		here, there = max(here, o.MissingHere), max(there, o.MissingThere)
	}
	for state, n := range states {
		gauge(c.others, float64(n), string(state))
	}
	for path, n := range paths {
		gauge(c.links, float64(n), string(path))
	}
	if free, total, err := diskSpace(c.p.dir.path); err == nil {
		gauge(c.free, float64(free))
		gauge(c.disk, float64(total))
	}
	gauge(c.records, float64(s.Records))
	gauge(c.mailboxes, float64(s.Mailboxes))
	gauge(c.stored, float64(s.StoreBytes))
	gauge(c.skew, float64(s.ClockSkewMS)/1000)
	gauge(c.converged, asFloat(s.Converged))
	gauge(c.lag, c.p.convergenceLag(time.Now()).Seconds())
	gauge(c.uptime, time.Since(c.p.started).Seconds())
	gauge(c.missingHere, float64(here))
	gauge(c.missingThere, float64(there))
}

func asFloat(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// convergenceLag is how long ago the pillar that is furthest behind was seen to
// agree, of those that are alive: since it began to disagree, or since it was
// compared last, or, if it never was, since this pillar started.
func (p *Pillar) convergenceLag(now time.Time) (lag time.Duration) {
	alive := make(map[PillarID]bool)
	for _, o := range p.mesh.Pillars() {
		alive[o.ID] = o.State == overlay.PillarAlive
	}
	for _, s := range p.core.Statements() {
		if !alive[s.Pillar] {
			continue
		}
		agreed := p.started
		if at := s.Compared; s.Unequal == 0 && at > 0 {
			agreed = time.UnixMilli(int64(at))
		} else if s.Since > 0 {
			agreed = time.UnixMilli(int64(s.Since))
		}
		lag = max(lag, now.Sub(agreed))
	}
	return lag
}
