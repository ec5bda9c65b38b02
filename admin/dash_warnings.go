package admin

import (
	"fmt"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// warning is something that an operator should know, in words.
type warning struct {
	Title, Text string
	Pillar      pillarName // whom it is about, if it is one
	Mild        bool       // it passes by itself, or somebody wanted it
	Resume      bool       // the button that resumes audits ends it
}

// maxWarnings is how many a page shows: a network that lost half of its pillars
// is not understood better by fifty lines.
const maxWarnings = 12

// warningsOf says what is wrong as far as this pillar knows, the worst first.
func warningsOf(s *PillarStatus, sy *overlay.SyncStatus, others []PillarEntry, statements []ConvergenceEntry, names map[identity.PillarID]pillarName) []warning {
	var list []warning
	add := func(title, format string, args ...any) *warning {
		list = append(list, warning{Title: title, Text: fmt.Sprintf(format, args...)})
		return &list[len(list)-1]
	}
	for i := range sy.Forks {
		f := &sy.Forks[i]
		add("Forked log", "%s signed two histories of log %s: its key is used twice, or its disk went back in time. The proof was found at %s. The log is dead; its records come by the audit.",
			naming(names, f.Pillar).Text, tailText(f.Log.String()), f.Since.UTC().Format("15:04 on 2 January")).Pillar = naming(names, f.Pillar)
	}
	if s.Standing != "" && s.Standing != overlay.StandingAdmitted {
		add("Not admitted", "This pillar is %s: the others do not count it as a pillar of the network.", s.Standing)
	}
	if s.Full {
		add("Disk full", "The disk or the store’s limit is reached. Nothing new is taken here until records expire or there is more room.")
	}
	if s.ClockWarning != "" {
		add("Clock", "%s", s.ClockWarning)
	}
	for i := range statements {
		if c := &statements[i]; c.Agreement == overlay.AgreeDiverged {
			n := naming(names, c.Pillar)
			add("Divergence", "%s holds other records than most pillars since %s.", n.Text, whenText(c.Since)).Pillar = n
		}
	}
	var living, connected int
	for i := range others {
		p := &others[i]
		n := naming(names, p.ID)
		if p.State != overlay.PillarLeft && p.Standing != overlay.StandingRevoked {
			living++
			if p.Connected {
				connected++
			}
		}
		switch {
		case p.State == overlay.PillarLeft || p.Standing == overlay.StandingRevoked:
		case p.State == overlay.PillarDead:
			seen := "It was not seen since this pillar started."
			if p.LastSeen != nil {
				seen = "It was last seen at " + whenText(p.LastSeen) + "."
			}
			why := ""
			if p.Error != "" {
				why = ": " + p.Error
			}
			add("Gone", "%s is not reached%s. %s It is tried again for ever.", n.Text, why, seen).Pillar = n
		case p.State == overlay.PillarFull:
			add("Disk full there", "%s takes no records for want of disk.", n.Text).Pillar = n
		}
		if p.LogsPaused {
			add("Log paused", "The logs of %s have used up their share of this pillar’s disk and are not followed.", n.Text).Pillar = n
		}
	}
	switch {
	case living == 0:
		add("Single copy", "No other pillar belongs to this network: every record exists once, and is lost with this disk. Add one with “obelisk network admit”.")
	case connected == 0:
		add("Alone", "Other pillars are known and none is connected: what is stored here now exists once.")
	}
	if s.Home && len(s.Relays) == 0 {
		add("Not reached", "This is a home pillar and no public pillar relays for it: nobody reaches it from outside.")
	}
	for _, u := range sy.Unreachable {
		n := naming(names, u.Pillar)
		add("Unreachable records", "Entries %s to %s of log %s were never seen by a pillar in reach; %s may still have them.",
			countText(u.From), countText(u.To), tailText(u.Log.String()), n.Text).Pillar = n
	}
	if text := s.Expiring.Text(); text != "" {
		add("Expiring unconfirmed", "%s%s: as far as pillars can see they did not arrive. “obelisk nodes” shows who is away; a message’s trace shows what its recipients’ devices were sent.", strings.ToUpper(text[:1]), text[1:])
	}
	mild := func(title, format string, args ...any) *warning {
		w := add(title, format, args...)
		w.Mild = true
		return w
	}
	switch sy.Paused {
	case overlay.PausedByOperator:
		mild("Audit paused", "An operator paused audit rounds here: differences that no log explains stay. “obelisk sync resume” lets them go on.").Resume = true
	case overlay.PausedByClock:
		mild("Audit paused", "The clock is in doubt, and with it what has expired: no audit rounds until it is sure.")
	}
	if s.Draining {
		mild("Draining", "Nodes are being moved to other pillars and no new ones are taken.")
	}
	if s.CatchingUp {
		mild("Catching up", "%s log entries that others had at the start are still coming.", countText(max(sy.Backlog, sy.Missing)))
	}
	return list
}

func whenText(t *time.Time) string {
	if t == nil {
		return "lately"
	}
	return t.UTC().Format("15:04:05 on 2 January")
}
