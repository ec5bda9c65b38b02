package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

func newSync(a *app) *cobra.Command {
	return group("sync", "Show how pillars replicate, what differs, and mend it", newSyncStatus(a), newSyncDiff(a), newSyncRepair(a),
		newSyncPause(a, true), newSyncPause(a, false))
}

func newSyncStatus(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "status", Short: "Show what the pillar holds of each log, what is missing, and the last audit rounds", Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			s, err := r.pillar.Sync(cmd.Context())
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, s)
			}
			return a.printSync(&s)
		}),
	})
}

func (a *app) printSync(s *admin.SyncStatus) error {
	w := newTable(a.out)
	settled := "nothing yet"
	if s.Settled.Until != nil {
		settled = fmt.Sprintf("%d records, digest %s, until %s", s.Settled.Count, s.Settled.Digest, when(*s.Settled.Until))
	}
	w.pair("settled", settled)
	w.pair("missing", fmt.Sprintf("%d log entries, %d records asked for", s.Missing, s.Wanted))
	if s.Backlog > 0 {
		left := "no progress"
		if s.BacklogRate > 0 {
			left = time.Duration(float64(s.Backlog) / s.BacklogRate * float64(time.Second)).Round(time.Second).String()
		}
		w.pair("backlog", fmt.Sprintf("%d entries of history to come, %.0f a second, %s left", s.Backlog, s.BacklogRate, left))
	}
	switch {
	case s.PausedBy == overlay.PausedByClock:
		w.pair("audit", "paused: this pillar's clock is in doubt (see status)")
	case s.Paused:
		w.pair("audit", "paused")
	}
	for _, u := range s.Unreachable {
		w.pair("unreachable", fmt.Sprintf("%d records known only to %s (log %s, %d to %d)", u.Records, u.Pillar, u.Log, u.From, u.To))
	}
	for _, f := range s.Forks {
		w.pair("forked", fmt.Sprintf("log %s of %s, since %s: it signed two histories", f.Log, f.Pillar, when(f.Since)))
	}
	if err := w.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	w = newTable(a.out, "LOG", "PILLAR", "HELD TO")
	logs := make([]string, 0, len(s.Vector))
	for log := range s.Vector {
		logs = append(logs, log)
	}
	slices.SortFunc(logs, func(x, y string) int {
		if c := strings.Compare(s.Vector[x].Pillar.String(), s.Vector[y].Pillar.String()); c != 0 {
			return c
		}
		return strings.Compare(x, y)
	})
	for _, log := range logs {
		w.row(log, s.Vector[log].Pillar.String(), fmt.Sprint(s.Vector[log].Seq))
	}
	if err := w.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	w = newTable(a.out, "PEER", "BEHIND BY", "LAST ROUND", "RESULT", "DIFFERENCES", "BYTES", "ROUNDS")
	for _, p := range s.Peers {
		at, result, differences, bytes := "-", "-", "-", "-"
		if r := p.LastRound; r != nil {
			at, result, differences = when(r.At), string(r.Result), fmt.Sprint(r.Differences)
			bytes = fmt.Sprintf("%d out, %d in", r.BytesSent, r.BytesReceived)
		}
		w.row(p.ID.String(), fmt.Sprint(p.VectorBehind), at, result, differences, bytes, fmt.Sprint(p.Totals.Rounds))
	}
	return w.flush()
}

func newConvergence(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "convergence",
		Short: "Show what every pillar says it holds, side by side",
		Long: `Show the last signed summary of every pillar, side by side, and whether it equals
those of the others at the same instant. A pillar shows what reached it; a node
asks its pillars and checks every signature itself. One or two unequal
comparisons are records on their way; three in a row are a divergence.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find("")
			if err != nil {
				return err
			}
			var list []admin.ConvergenceEntry
			if r.node != nil {
				list, err = r.node.Convergence(cmd.Context())
			} else {
				list, err = r.pillar.Convergence(cmd.Context())
			}
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, list)
			}
			w := newTable(a.out, "PILLAR", "SETTLED UNTIL", "RECORDS", "DIGEST", "EQUAL", "AGE")
			for i := range list {
				e := &list[i]
				w.row(e.Pillar.String(), when(e.SettledUntil), fmt.Sprint(e.Count), e.Digest, equality(e),
					(time.Duration(e.AgeMS) * time.Millisecond).Round(100*time.Millisecond).String())
			}
			return w.flush()
		}),
	})
}

// equality says how a pillar compares.
func equality(e *admin.ConvergenceEntry) string {
	switch {
	case e.Full:
		return "behind: its disk is full"
	case e.Agreement == overlay.AgreeEqual:
		return "yes"
	case e.Agreement == overlay.AgreeTraffic:
		return fmt.Sprintf("not yet (%d in a row)", e.Unequal)
	case e.Agreement == overlay.AgreeDiverged:
		return "DIVERGED since " + whenPtr(e.Since)
	default:
		return "not compared"
	}
}
