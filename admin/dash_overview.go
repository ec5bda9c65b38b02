package admin

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// overview is the first page: the network as one pillar sees it, at one time.
type overview struct {
	frame
	Status   PillarStatus
	At       time.Time
	Verdict  verdict
	Warnings []warning
	Untold   int // warnings beyond maxWarnings
	Pillars  []pillarRow
	Map      mapView
	Matrix   matrixView
	Links    *linksView
	Logs     logsView
	Rounds   []roundRow
	Paused   overlay.Pause
	Charts   []chart
}

// verdict is the page's first sentence.
type verdict struct {
	Text, Detail string
	Alert        bool
}

// pillarRow is a pillar in the table; the first is this one.
type pillarRow struct {
	PillarEntry
	Name      pillarName
	Agreement overlay.Agreement
	Since     *time.Time
	Alert     bool // its records differ, it is gone, or no pillar any more
}

type roundRow struct {
	With pillarName
	RoundEntry
	Totals RoundTotals
}

// logsView is how far every log is held, here and by the connected pillars.
type logsView struct {
	Peers []pillarName
	Rows  []logRow
	More  int // logs that are not shown: all hold the same of them
}

type logRow struct {
	Log    overlay.LogID
	Writer pillarName
	Head   uint64 // the newest entry that its writer signed, as far as is known here
	Here   uint64 // up to where it is held here
	Gaps   []overlay.LogGap
}

// maxLogRows and maxLogPeers bound the table of logs.
const (
	maxLogRows  = 24
	maxLogPeers = 12
)

func (d *dashboard) overviewPage(w http.ResponseWriter, r *http.Request) error {
	o, err := d.overview(r)
	if err != nil {
		return err
	}
	o.Live = d.watch != nil
	return d.render(w, http.StatusOK, "overview", o)
}

// overviewFragment is the sections of the page alone, for the script.
func (d *dashboard) overviewFragment(w http.ResponseWriter, r *http.Request) error {
	o, err := d.overview(r)
	if err != nil {
		return err
	}
	return d.render(w, http.StatusOK, "sections", o)
}

// overview gathers what the page shows.
func (d *dashboard) overview(r *http.Request) (*overview, error) {
	now := time.Now()
	s, sy, statements := d.p.Status(), d.p.Sync(), NewConvergence(d.p.Convergence(), now)
	o := &overview{Status: s, At: now, Paused: sy.Paused,
		frame: frame{Title: "Overview", Self: selfName(&s), Network: s.Network, Version: s.Version, MayChange: mayChange(r)}}
	others := d.p.Pillars()
	names := map[identity.PillarID]pillarName{o.Self.ID: o.Self}
	for i := range others {
		names[others[i].ID] = nameOf(others[i].ID, others[i].Name)
	}
	o.Pillars = pillarRows(&s, o.Self, others, statements)
	o.Warnings = warningsOf(&s, &sy, others, statements, names)
	if n := len(o.Warnings); n > maxWarnings {
		o.Warnings, o.Untold = o.Warnings[:maxWarnings], n-maxWarnings
	}
	o.Verdict = verdictOf(&s, o.Pillars)
	o.Map = newMap(o.Self, o.Pillars[1:])
	var members []pillarName
	for i := range o.Pillars {
		p := &o.Pillars[i]
		if p.State != overlay.PillarLeft && p.Standing != overlay.StandingRevoked {
			members = append(members, p.Name)
		}
	}
	o.Matrix = newMatrix(members, statements)
	sight := d.watch.linkSight(now)
	var err error
	if o.Links, err = d.links(&o.Map, sight, members, names); err != nil {
		return nil, err
	}
	o.Map.tell(sight)
	o.Logs = newLogs(&sy, names, o.Self)
	for i := range sy.Peers {
		p := &sy.Peers[i]
		if p.Last != nil {
			o.Rounds = append(o.Rounds, roundRow{naming(names, p.Pillar), newRoundEntry(p.Last), RoundTotals(p.Totals)})
		}
	}
	slices.SortFunc(o.Rounds, func(a, b roundRow) int { return b.At.Compare(a.At) })
	o.Charts = newCharts(d.watch.history(), now)
	return o, nil
}

func naming(names map[identity.PillarID]pillarName, id identity.PillarID) pillarName {
	if n, ok := names[id]; ok {
		return n
	}
	return nameOf(id, "")
}

// pillarRows are this pillar and the others, by name; those that left last.
func pillarRows(s *PillarStatus, self pillarName, others []PillarEntry, statements []ConvergenceEntry) []pillarRow {
	rows := []pillarRow{{Name: self, PillarEntry: PillarEntry{ID: self.ID, State: overlay.PillarAlive, Addrs: s.Listen,
		Standing: s.Standing, Home: s.Home}}}
	if s.Full {
		rows[0].State = overlay.PillarFull
	}
	for _, e := range others {
		rows = append(rows, pillarRow{PillarEntry: e, Name: nameOf(e.ID, e.Name)})
	}
	for i := range rows {
		r := &rows[i]
		r.Agreement = overlay.AgreeUnknown
		for j := range statements {
			if statements[j].Pillar == r.ID {
				r.Agreement, r.Since = statements[j].Agreement, statements[j].Since
			}
		}
		gone := r.State == overlay.PillarLeft
		r.Alert = !gone && (r.Agreement == overlay.AgreeDiverged || r.State == overlay.PillarDead || r.State == overlay.PillarFull ||
			r.Standing == overlay.StandingRevoked)
	}
	slices.SortFunc(rows[1:], func(a, b pillarRow) int {
		left := func(r *pillarRow) int {
			if r.State == overlay.PillarLeft {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(left(&a), left(&b)), cmp.Compare(a.Name.Text, b.Name.Text), cmp.Compare(a.ID, b.ID))
	})
	return rows
}

// verdictOf says in a sentence whether all is well.
func verdictOf(s *PillarStatus, rows []pillarRow) verdict {
	var members, diverged, traffic, away int
	for i := range rows {
		r := &rows[i]
		if r.State == overlay.PillarLeft || r.Standing == overlay.StandingRevoked {
			continue
		}
		members++
		switch {
		case r.Agreement == overlay.AgreeDiverged:
			diverged++
		case r.Agreement == overlay.AgreeTraffic:
			traffic++
		}
		if r.State == overlay.PillarDead || r.State == overlay.PillarSuspect {
			away++
		}
	}
	v := verdict{Detail: ""}
	switch {
	case members == 1:
		v.Text = "One pillar, and no other to compare with."
	case diverged > 0:
		v.Alert = true
		v.Text = fmt.Sprintf("%s of %d pillars %s other records.", countText(diverged), members, plural(diverged, "holds", "hold"))
		v.Detail = "Their summaries were unequal three times in a row. The pillar’s page lists the records and repairs them."
	case traffic > 0:
		v.Text = fmt.Sprintf("%s of %d pillars %s at the moment.", countText(traffic), members, plural(traffic, "differs", "differ"))
		v.Detail = "It may be records on their way. After three unequal comparisons in a row it counts as a divergence."
	case s.Converged && away == 0:
		v.Text = fmt.Sprintf("All %d pillars hold the same records.", members)
	case s.Converged:
		v.Text = fmt.Sprintf("%d of %d pillars are here and hold the same records.", members-away, members)
	case s.CatchingUp:
		v.Text = "This pillar is catching up."
	default:
		v.Text = fmt.Sprintf("%d pillars; not all have been compared yet.", members)
		v.Detail = "Pillars publish a signed summary of what they hold every few seconds."
	}
	return v
}

// newLogs lists this pillar's log first, then those that differ, then the rest.
func newLogs(sy *overlay.SyncStatus, names map[identity.PillarID]pillarName, self pillarName) logsView {
	v := logsView{}
	peers := slices.Clone(sy.Peers)
	slices.SortFunc(peers, func(a, b overlay.PeerSync) int {
		return cmp.Compare(naming(names, a.Pillar).Text, naming(names, b.Pillar).Text)
	})
	peers = peers[:min(len(peers), maxLogPeers)]
	for i := range peers {
		v.Peers = append(v.Peers, naming(names, peers[i].Pillar))
	}
	known := map[overlay.LogID]bool{}
	for i := range sy.Logs {
		l := &sy.Logs[i]
		told, _ := l.Told()
		row := logRow{Log: l.Log, Writer: naming(names, l.Pillar), Here: told.Seq, Head: max(told.Seq, l.Seq)}
		if l.Head != nil {
			row.Head = max(row.Head, l.Head.Seq)
		}
		known[l.Log] = true
		v.Rows = append(v.Rows, row)
	}
	for i := range sy.Peers { // logs that only others hold
		for _, g := range sy.Peers[i].Gaps {
			if !known[g.Log] {
				known[g.Log] = true
				v.Rows = append(v.Rows, logRow{Log: g.Log, Writer: pillarName{Text: "unknown"}})
			}
		}
	}
	for i := range v.Rows {
		row := &v.Rows[i]
		for j := range peers {
			gap := overlay.LogGap{Log: row.Log}
			if k, ok := slices.BinarySearchFunc(peers[j].Gaps, row.Log, func(g overlay.LogGap, id overlay.LogID) int {
				return bytes.Compare(g.Log[:], id[:])
			}); ok {
				gap = peers[j].Gaps[k]
			}
			row.Gaps = append(row.Gaps, gap)
		}
	}
	rank := func(r *logRow) int {
		if r.Writer.ID == self.ID {
			return 0
		}
		for _, g := range r.Gaps {
			if g.Here+g.There > 0 {
				return 1
			}
		}
		return 2
	}
	slices.SortFunc(v.Rows, func(a, b logRow) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), cmp.Compare(a.Writer.Text, b.Writer.Text), cmp.Compare(b.Head, a.Head), bytes.Compare(a.Log[:], b.Log[:]))
	})
	if len(v.Rows) > maxLogRows {
		v.Rows, v.More = v.Rows[:maxLogRows], len(v.Rows)-maxLogRows
	}
	return v
}
