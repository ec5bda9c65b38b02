package sim

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of healing, in virtual time.
const (
	convergeIn = 5 * time.Minute // all equal, all delivered, all acknowledged
	agreeIn    = 2 * time.Minute // and then the signed summaries
	poll       = 500 * time.Millisecond
)

// check waits for what must come about and looks at what must hold.
func (w *world) check(r *Result) {
	began := time.Now()
	why := w.wait(convergeIn, w.apart)
	if why != "" {
		w.fail("not within %s: %s", convergeIn, why)
	} else {
		w.history.add("equal, delivered and acknowledged %.1f s after healing", time.Since(began).Seconds())
		began = time.Now()
		if why := w.wait(agreeIn, w.disagree); why != "" {
			w.fail("not within %s: %s", agreeIn, why)
		} else {
			w.history.add("summaries agree %.1f s after that", time.Since(began).Seconds())
			if why := w.wait(agreeIn, w.unsettled); why != "" {
				w.fail("not within %s: %s", agreeIn, why)
			}
		}
	}
	for _, n := range w.nodes {
		n.check()
	}
	w.checkStored()
	w.checkLost(r)
	w.checkEffort()
	for _, p := range w.pillars {
		w.history.add("%s", w.describe(p))
	}
}

// wait polls until what stands in the way is nothing.
func (w *world) wait(limit time.Duration, inTheWay func() string) string {
	for end := time.Now().Add(limit); ; time.Sleep(poll) {
		why := inTheWay()
		if why == "" || time.Now().After(end) {
			return why
		}
	}
}

// apart says what still differs; "" if nothing.
func (w *world) apart() string {
	now := time.Now()
	first, err := w.pillars[0].unexpired(now)
	if err != nil {
		return err.Error()
	}
	for _, p := range w.honest()[1:] {
		held, err := p.unexpired(now)
		if err != nil {
			return err.Error()
		}
		if why := w.difference(w.pillars[0], first, p, held); why != "" {
			return why
		}
	}
	for _, m := range w.ledger.all() {
		if !m.expires.After(now) || !first[m.id] {
			continue
		}
		for _, d := range m.to {
			if !d.has(m.id) {
				return fmt.Sprintf("%s is stored and was not delivered to %s%s", w.name(m.id), d.name, w.whereabouts(m.id))
			}
		}
	}
	for _, d := range w.devices {
		if n := d.unacknowledged(); n > 0 {
			return fmt.Sprintf("%d messages of %s have not the copies that it asked for", n, d.name)
		}
	}
	for _, n := range w.nodes {
		if why := n.apart(); why != "" {
			return why
		}
	}
	return ""
}

// difference describes how two pillars differ; "" if they do not.
func (w *world) difference(a *pillar, ofA map[overlay.RecordID]bool, b *pillar, ofB map[overlay.RecordID]bool) string {
	var missing []string
	n := 0
	for _, side := range []struct {
		has, lacks *pillar
		of, from   map[overlay.RecordID]bool
	}{{a, b, ofA, ofB}, {b, a, ofB, ofA}} {
		for id := range side.of {
			if !side.from[id] {
				if n++; len(missing) < 5 {
					missing = append(missing, fmt.Sprintf("%s has %s and %s has not", side.has.name, w.name(id), side.lacks.name))
				}
			}
		}
	}
	if n == 0 {
		return ""
	}
	slices.Sort(missing)
	return fmt.Sprintf("%d differences: %s", n, strings.Join(missing, "; "))
}

// unexpired is what the pillar's disk holds of what still lives.
func (p *pillar) unexpired(now time.Time) (map[overlay.RecordID]bool, error) {
	held := map[overlay.RecordID]bool{}
	view := p.disk.content.View()
	defer view.Close()
	at := millis(now)
	err := view.Records(overlay.DayOf(at), func(_ overlay.Day, r overlay.StoredRecord) bool {
		if r.Expires > at {
			held[r.ID] = true
		}
		return true
	})
	return held, err
}

// disagree says how the signed summaries differ; "" if they do not.
func (w *world) disagree() string {
	own := func(p *pillar) (overlay.Summary, bool) {
		for _, s := range p.proc.mesh.Summaries() {
			if s.Pillar == p.key.ID() {
				return s, true
			}
		}
		return overlay.Summary{}, false
	}
	first, ok := own(w.pillars[0])
	if !ok {
		return w.pillars[0].name + " has no summary"
	}
	for _, p := range w.honest()[1:] {
		s, ok := own(p)
		switch {
		case !ok:
			return p.name + " has no summary"
		case s.Key != first.Key:
			return fmt.Sprintf("%s and %s count under different keys", w.pillars[0].name, p.name)
		case s.Count != first.Count || s.Digest != first.Digest:
			return fmt.Sprintf("%s counts %d and %s %d, settled %d and %d", w.pillars[0].name, first.Count, p.name, s.Count, first.Settled, s.Settled)
		}
	}
	if w.plan.lies != (lies{}) {
		return "" // what it signs is not theirs to agree with
	}
	for _, p := range w.pillars {
		if !p.proc.core.Converged(p.proc.mesh.Pillars()) {
			return p.name + " does not say that all have converged"
		}
	}
	return ""
}

// unsettled says what honest pillars among themselves still find missing once
// they are equal; "" if nothing.
func (w *world) unsettled() string {
	if w.plan.lies != (lies{}) {
		return ""
	}
	reverts := 0
	for _, p := range w.pillars {
		reverts += len(p.disk.reverts)
	}
	for _, p := range w.pillars {
		st := p.proc.mesh.SyncStatus()
		lacks := 0
		for i := range st.Logs {
			lacks += len(st.Logs[i].Lacks)
		}
		switch {
		case len(st.Forks) > 0:
			return p.name + " has a fork proven to somebody who made none"
		case st.Missing > 0 || st.Backlog > 0:
			return fmt.Sprintf("%s misses %d log entries that others have, %d of them in ranges that it fetches", p.name, st.Missing, st.Backlog)
		case reverts == 0 && (len(st.Unreachable) > 0 || lacks > 0 || st.Wanted > 0):
			return fmt.Sprintf("%s holds %d parts of logs for unreachable, lacks %d records and wants %d, and no disk was lost", p.name, len(st.Unreachable), lacks, st.Wanted)
		}
	}
	return ""
}

// checkStored looks for records that nobody signed.
func (w *world) checkStored() {
	verifier := overlay.NewVerifier(w.key.ID())
	checked := map[overlay.RecordID]bool{}
	for _, p := range w.honest() {
		var ids []overlay.Ref
		view := p.disk.content.View()
		err := view.Records(0, func(_ overlay.Day, r overlay.StoredRecord) bool {
			ids = append(ids, overlay.Ref{ID: r.ID})
			return true
		})
		if err == nil {
			err = view.Get(ids, func(_ int, r overlay.StoredRecord) bool {
				if checked[r.ID] {
					return true
				}
				checked[r.ID] = true
				rec, err := verifier.Parse(bytes.Clone(r.Raw))
				if err == nil {
					err = verifier.VerifyOne(rec)
				}
				switch {
				case err != nil:
				case rec.ID != r.ID:
					err = fmt.Errorf("it is %s", rec.ID)
				case !w.ledger.nodes[rec.Author] && !w.ledger.knows(rec.ID):
					err = errors.New("nobody signed it")
				}
				if err != nil {
					w.fail("%s stores %s wrongly: %v", p.name, r.ID, err)
				}
				return true
			})
		}
		view.Close()
		if err != nil {
			w.fail("%s cannot be read: %v", p.name, err)
		}
	}
}

// checkLost looks for what was acknowledged and is gone.
func (w *world) checkLost(r *Result) {
	now := time.Now()
	held := map[overlay.RecordID]bool{} // by anybody
	for _, p := range w.honest() {
		of, err := p.unexpired(now)
		if err != nil {
			w.fail("%v", err)
			return
		}
		maps.Copy(held, of)
	}
	for _, m := range w.ledger.all() {
		r.Messages++
		copies := 0
		for k, at := range m.acked {
			if k > 0 && !at.IsZero() {
				copies = k
			}
		}
		if copies > 0 {
			r.Acked++
		}
		if copies == 0 || held[m.id] || !m.expires.After(now) {
			continue
		}
		lost := len(w.pillars) - len(w.honest())
		for _, p := range w.honest() {
			if p.disk.revertedSince(m.created) {
				lost++
			}
		}
		if lost <= copies-1 {
			w.fail("%s was acknowledged with %d copies and is gone, although only %d disks were lost since it was written", w.name(m.id), copies, lost)
		}
		r.Lost++
	}
}

// name describes a record.
func (w *world) name(id overlay.RecordID) string {
	m, ok := w.ledger.message(id)
	if !ok {
		return "record " + id.String()[:12]
	}
	var acks []string
	for k, at := range m.acked {
		if k > 0 && !at.IsZero() {
			acks = append(acks, fmt.Sprintf("%d at %.3fs", k, at.Sub(w.history.began).Seconds()))
		}
	}
	return fmt.Sprintf("message %s (%s at %.3fs, copies %s)", id.String()[:12], m.author.name, m.created.Sub(w.history.began).Seconds(), strings.Join(acks, ", "))
}

// whereabouts says how a record came to every pillar that holds it.
func (w *world) whereabouts(id overlay.RecordID) string {
	var b strings.Builder
	for _, p := range w.pillars {
		view := p.disk.content.View()
		_ = view.Get([]overlay.Ref{{ID: id}}, func(_ int, r overlay.StoredRecord) bool { // in memory
			fmt.Fprintf(&b, "; %s since %.3fs by %s", p.name, r.Received.Sub(w.history.began).Seconds(), r.Via)
			for _, dot := range r.Dots {
				fmt.Fprintf(&b, " %s %d", dot.Log.String()[:8], dot.Seq)
			}
			return true
		})
		view.Close()
	}
	return b.String()
}

// describe is the state of a pillar in a line.
func (w *world) describe(p *pillar) string {
	held, err := p.unexpired(time.Now())
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s holds %d unexpired records", p.name, len(held))
	if p.proc == nil {
		return b.String() + " and does not run"
	}
	for _, st := range p.proc.mesh.Pillars() {
		fmt.Fprintf(&b, ", %s %s", st.Name, st.State)
	}
	for _, l := range p.proc.core.Logs() {
		owner := "?"
		for _, q := range w.pillars {
			if q.key.ID() == l.Pillar {
				owner = q.name
			}
		}
		fmt.Fprintf(&b, "\n\t\tlog %s of %s up to %d", l.Log.String()[:8], owner, l.Seq)
		if l.Head != nil {
			fmt.Fprintf(&b, ", head %d", l.Head.Seq)
		}
		for _, i := range l.Islands {
			fmt.Fprintf(&b, ", %d..%d", i.After.Seq+1, i.End.Seq)
		}
		if len(l.Lacks) > 0 {
			fmt.Fprintf(&b, ", %d lacks", len(l.Lacks))
		}
	}
	return b.String()
}
