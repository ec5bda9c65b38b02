package sim

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// effort is what pillars did to become equal.
type effort struct {
	bytes    float64 // written to others on streams
	received float64 // log entries that follows brought
	fresh    float64 // and that were new
	offences float64 // that others were charged with
	banned   float64 // pillars that were refused for them
	starts   int     // of processes
}

func (e *effort) add(o effort) {
	e.bytes += o.bytes
	e.received += o.received
	e.fresh += o.fresh
	e.offences += o.offences
	e.banned += o.banned
	e.starts += o.starts
}

// effortOf reads what a process did so far.
func effortOf(met prometheus.Gatherer) (e effort, err error) {
	e.starts = 1
	families, err := met.Gather()
	for _, f := range families {
		var sum *float64
		switch f.GetName() {
		case "obelisk_gossip_bytes_total":
			sum = &e.bytes
		case "obelisk_gossip_entries_received_total":
			sum = &e.received
		case "obelisk_gossip_entries_new_total":
			sum = &e.fresh
		case "obelisk_gossip_offences_total":
			sum = &e.offences
		case "obelisk_gossip_pillars_refused_total":
			sum = &e.banned
		default:
			continue
		}
		for _, m := range f.GetMetric() {
			if sum == &e.bytes && m.GetLabel()[0].GetValue() != "sent" {
				continue
			}
			*sum += m.GetCounter().GetValue()
		}
	}
	return e, err
}

func (e *effort) String() string {
	return fmt.Sprintf("%.0f bytes written to others by %d processes, %.0f log entries received, %.0f of them new, %.0f offences counted, %.0f times a pillar was refused for them", e.bytes, e.starts, e.received, e.fresh, e.offences, e.banned)
}

// Bounds of an effort.
const (
	copiesMost   = 2.0   // times that a record goes to each pillar, and again for each disk that was lost
	pairSecond   = 1500  // bytes that two pillars may tell each other in a second
	greeting     = 16384 // bytes when two pillars meet again
	receivedMost = 3.0   // entries received for each new one
	quietMost    = 1.05  // the same if nothing goes wrong
)

// checkEffort looks at whether what was done is in proportion to what there was
// to do.
func (w *world) checkEffort() {
	var e effort
	records, reverts := uint64(0), 0
	for _, p := range w.honest() {
		e.add(p.past)
		records = max(records, p.disk.content.Stats().Bytes)
		reverts += len(p.disk.reverts)
		if p.proc == nil {
			continue
		}
		now, err := effortOf(p.proc.met)
		if err != nil {
			w.fail("%s: %v", p.name, err)
		}
		e.add(now)
	}
	others := float64(len(w.pillars) - 1)
	pairs := float64(len(w.pillars)) * others / 2
	bound := copiesMost*float64(records)*(others+float64(reverts)) + pairSecond*pairs*time.Since(w.history.began).Seconds() +
		greeting*float64(e.starts)*others
	w.history.add("%d bytes of records; %s", records, &e)
	if e.bytes > bound {
		w.fail("%.0f bytes were written to other pillars, more than %.0f", e.bytes, bound)
	}
	if most := receivedMost*e.fresh + 500; e.received > most {
		w.fail("%.0f log entries were received for %.0f new ones", e.received, e.fresh)
	}
	if w.plan.quiet && e.received > quietMost*e.fresh {
		w.fail("%.0f log entries were received for %.0f new ones, and nothing went wrong", e.received, e.fresh)
	}
	if w.plan.lies == (lies{}) && e.banned > 0 {
		w.fail("honest pillars were refused %.0f times for %.0f offences", e.banned, e.offences)
	}
}
