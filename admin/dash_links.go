package admin

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// How pillars are connected, in words and in a table. Whose word it stands on is
// always told: pillars can say what they like.

// linksView is what a page shows of what pillars said of their connections, made
// once for every round: in a large network it is much.
type linksView struct {
	Say   string        // all of it in a sentence
	Arcs  template.HTML // of the map
	Trips template.HTML // a table of round trips

	sight *linkSight
	seen  []linksSeen
}

// linksSeen is what else a linksView depends on.
type linksSeen struct {
	pillarName
	connected, member bool
}

// linksViews keeps the last linksView.
type linksViews struct {
	mu   sync.Mutex
	last *linksView // guarded by mu
}

// links returns how pillars are connected, for a page with that map. members are
// the pillars that belong to the network.
func (d *dashboard) links(m *mapView, s *linkSight, members []pillarName, names map[identity.PillarID]pillarName) (*linksView, error) {
	seen := make([]linksSeen, 0, len(m.Nodes)+len(members))
	for i := range m.Nodes {
		seen = append(seen, linksSeen{pillarName: m.Nodes[i].pillarName, connected: m.Nodes[i].Connected})
	}
	for _, n := range members {
		seen = append(seen, linksSeen{pillarName: n, member: true})
	}
	d.linksViews.mu.Lock()
	defer d.linksViews.mu.Unlock()
	if v := d.linksViews.last; v != nil && v.sight == s && slices.Equal(v.seen, seen) {
		return v, nil
	}
	v := &linksView{Say: linksSay(s, names), sight: s, seen: seen}
	if len(names) == 1 {
		v.Say = "This pillar knows of no other."
	}
	var err error
	if v.Arcs, err = d.part("arcs", struct {
		Wheel bool
		Arcs  []mapArc
	}{m.Wheel, newArcs(m, s, names)}); err != nil {
		return nil, err
	}
	if v.Trips, err = d.part("trips", newTrips(s, members, names)); err != nil {
		return nil, err
	}
	d.linksViews.last = v
	return v, nil
}

// part renders a part of a page.
func (d *dashboard) part(name string, data any) (template.HTML, error) {
	var b bytes.Buffer
	if err := d.pages.ExecuteTemplate(&b, name, data); err != nil {
		return "", fmt.Errorf("part %s of a page: %w", name, err)
	}
	return template.HTML(b.String()), nil // made by a template: everything in it is escaped
}

// linkText is a connection as one end sees it: relayed through vesta over TCP,
// 14 ms.
func linkText(l *overlay.PillarLink, names map[identity.PillarID]pillarName) string {
	text := string(l.Path)
	if l.Through != "" {
		text += " through " + naming(names, l.Through).Text
	}
	switch l.Transport {
	case overlay.LinkQUIC:
		text += " over QUIC"
	case overlay.LinkTCP:
		text += " over TCP"
	case overlay.LinkWebSocket:
		text += " over WebSocket"
	}
	if l.RTT > 0 {
		text += ", " + msText(tookMS(l.RTT))
	}
	return text
}

// sumText sums up the connections of a pillar; "" if nobody said anything.
func (s *linkSight) sumText(p identity.PillarID) string {
	if s == nil {
		return ""
	}
	sum := s.sums[p]
	text := fmt.Sprintf("connected with %s %s", countText(sum.links), plural(sum.links, "pillar", "pillars"))
	if sum.relayed > 0 {
		text += fmt.Sprintf(", %s through a relay", countText(sum.relayed))
	}
	return text
}

// edgeText is a connection between two pillars in a line.
func edgeText(e *overlay.LinkEdge, names map[identity.PillarID]pillarName) string {
	a, b := naming(names, e.A).Text, naming(names, e.B).Text
	text := fmt.Sprintf("%s – %s: %s", a, b, linkText(&e.PillarLink, names))
	says, other := a, b
	if e.AsA == nil {
		says, other = b, a
	}
	switch e.Word {
	case overlay.LinkOne:
		text += fmt.Sprintf(", says %s; %s did not answer", says, other)
	case overlay.LinkDenied:
		text += fmt.Sprintf(", says %s; %s knows of none", says, other)
	}
	return text
}

// linksSay sums up how the pillars that answered are connected.
func linksSay(s *linkSight, names map[identity.PillarID]pillarName) string {
	if s == nil {
		return "The pillars are being asked how they are connected with each other."
	}
	type pair struct{ a, b identity.PillarID }
	is := map[pair]bool{}
	for i := range s.edges {
		is[pair{s.edges[i].A, s.edges[i].B}] = s.edges[i].Word != overlay.LinkDenied
	}
	var heard, silent []identity.PillarID
	for i := range s.round.Reports {
		if r := &s.round.Reports[i]; r.Answered {
			heard = append(heard, r.Pillar)
		} else {
			silent = append(silent, r.Pillar)
		}
	}
	if len(heard) < 2 {
		return "No other pillar has answered."
	}
	var apart []string
	for i, a := range heard {
		for _, b := range heard[i+1:] {
			if !is[pair{min(a, b), max(a, b)}] {
				apart = append(apart, naming(names, a).Text+" and "+naming(names, b).Text)
			}
		}
	}
	var text string
	all, relayed := len(heard)*(len(heard)-1)/2, s.event.Relayed
	switch {
	case len(apart) == 0 && relayed == 0:
		text = fmt.Sprintf("Every one of %d pillars is connected with every other, directly.", len(heard))
	case len(apart) == 0:
		text = fmt.Sprintf("Every one of %d pillars is connected with every other; %s of %s connections %s relayed.",
			len(heard), countText(relayed), countText(all), plural(relayed, "is", "are"))
	case len(apart) <= 3:
		text = fmt.Sprintf("%s of %s pairs of pillars are connected; not %s.", countText(all-len(apart)), countText(all), strings.Join(apart, ", "))
	default:
		text = fmt.Sprintf("%s of %s pairs of pillars are connected.", countText(all-len(apart)), countText(all))
	}
	if len(apart) > 0 && relayed > 0 {
		text += fmt.Sprintf(" %s of the connections %s relayed.", countText(relayed), plural(relayed, "is", "are"))
	}
	if n := s.event.Denied; n > 0 {
		text += fmt.Sprintf(" The two ends of %s %s contradict each other.", countText(n), plural(n, "connection", "connections"))
	}
	switch n := len(silent); {
	case n == 1:
		text += " " + naming(names, silent[0]).Text + " did not answer."
	case n > 1:
		text += fmt.Sprintf(" %s pillars did not answer.", countText(n))
	}
	return text
}

// tripsView is a table of round trips: each row is what one pillar says.
type tripsView struct {
	Names []pillarName
	Rows  []tripRow
	Many  bool // the cells are small
	More  int  // pillars that are not shown, for want of room
}

type tripRow struct {
	Of    pillarName
	Cells []tripCell
}

// tripCell is what the pillar of the row says of its connection with that of the
// column.
type tripCell struct {
	Class string // of the cell, for the style sheet
	Text  string
	Aloud string // read instead by who does not see the cell; "": the text
	Title string
}

// tripSteps are up to which round trip a cell is so dark, in ms.
var tripSteps = [...]float64{5, 25, 75, 200}

// newTrips makes the table for pillars in the given order.
func newTrips(s *linkSight, pillars []pillarName, names map[identity.PillarID]pillarName) tripsView {
	if s == nil {
		return tripsView{}
	}
	reports := map[identity.PillarID]*overlay.LinkReport{}
	for i := range s.round.Reports {
		reports[s.round.Reports[i].Pillar] = &s.round.Reports[i]
	}
	says := map[[2]identity.PillarID]*overlay.PillarLink{}
	for i := range s.edges {
		e := &s.edges[i]
		if e.AsA != nil {
			says[[2]identity.PillarID{e.A, e.B}] = e.AsA
		}
		if e.AsB != nil {
			says[[2]identity.PillarID{e.B, e.A}] = e.AsB
		}
	}
	heard := func(p identity.PillarID) bool { return reports[p] != nil && reports[p].Answered }
	shown := pillars[:min(len(pillars), maxMatrix)]
	v := tripsView{Names: shown, Many: len(shown) > 8, More: len(pillars) - len(shown)}
	for _, a := range shown {
		row := tripRow{Of: a}
		for _, b := range shown {
			here, there := says[[2]identity.PillarID{a.ID, b.ID}], says[[2]identity.PillarID{b.ID, a.ID}]
			row.Cells = append(row.Cells, newTrip(a, b, here, there, heard(a.ID), heard(b.ID), names))
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

// newTrip is the cell for what a says of its connection with b: here. There is
// what b says.
func newTrip(a, b pillarName, here, there *overlay.PillarLink, heardA, heardB bool, names map[identity.PillarID]pillarName) tripCell {
	switch {
	case a.ID == b.ID:
		return tripCell{Class: "self", Aloud: "itself"}
	case here == nil && !heardA:
		return tripCell{Class: "unknown", Text: "·", Aloud: "not known", Title: a.Text + " did not answer"}
	case here == nil && there != nil:
		return tripCell{Class: "denied", Text: "–", Aloud: "denied", Title: fmt.Sprintf("%s knows of no connection; %s says: %s", a.Text, b.Text, linkText(there, names))}
	case here == nil:
		return tripCell{Class: "none", Text: "–", Aloud: "not connected", Title: fmt.Sprintf("%s and %s are not connected", a.Text, b.Text)}
	}
	c := tripCell{Class: string(here.Path), Text: "?", Aloud: linkText(here, names)}
	c.Title = fmt.Sprintf("%s – %s: %s", a.Text, b.Text, c.Aloud)
	if ms := tookMS(here.RTT); ms > 0 {
		step := 0
		for step < len(tripSteps) && ms > tripSteps[step] {
			step++
		}
		c.Class += fmt.Sprintf(" trip%d", step)
		if c.Text = fmt.Sprintf("%.1f", ms); ms >= 9.95 {
			c.Text = fmt.Sprintf("%.0f", ms)
		}
	}
	if there == nil && heardB {
		c.Class += " denied"
		c.Title += fmt.Sprintf("; %s knows of none", b.Text)
		c.Aloud += ", denied by the other"
	}
	return c
}

// linkRow is a connection of one pillar, on its page.
type linkRow struct {
	With  pillarName
	Path  string
	RTTMS float64
	Since time.Time
	Word  string // what is to be known of whose word it stands on; ""
}

// linkRows are the connections of a pillar, by name.
func linkRows(s *linkSight, of identity.PillarID, names map[identity.PillarID]pillarName) (rows []linkRow) {
	if s == nil {
		return nil
	}
	for i := range s.edges {
		e := &s.edges[i]
		mine, theirs, other := e.AsA, e.AsB, e.B
		switch of {
		case e.A:
		case e.B:
			mine, theirs, other = e.AsB, e.AsA, e.A
		default:
			continue
		}
		l := e.PillarLink
		r := linkRow{With: naming(names, other), RTTMS: tookMS(l.RTT), Since: s.round.At.Add(-l.Age)}
		l.RTT = 0 // in a column of its own
		r.Path = linkText(&l, names)
		switch {
		case mine != nil && theirs != nil:
		case e.Word == overlay.LinkOne && mine != nil:
			r.Word = "the other did not answer"
		case e.Word == overlay.LinkOne:
			r.Word = "says the other"
		case mine != nil:
			r.Word = "the other knows of none"
		default:
			r.Word = "says the other; this one knows of none"
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b linkRow) int {
		return cmp.Or(cmp.Compare(a.With.Text, b.With.Text), cmp.Compare(a.With.ID, b.With.ID))
	})
	return rows
}
