package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func newPillars(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "pillars", Short: "List the pillars that a node knows, or the other pillars of a pillar", Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find("")
			if err != nil {
				return err
			}
			var why whyNots
			if r.node != nil {
				list, err := r.node.Pillars(cmd.Context())
				if err != nil {
					return err
				}
				if t.json {
					return printJSON(a.out, list)
				}
				w := newTable(a.out, "PILLAR", "NAME", "STATE", "USE", "PATH", "RTT", "ADDRESSES")
				for _, p := range list {
					use := "-"
					switch {
					case p.Active:
						use = "active"
					case p.Standby:
						use = "standby"
					}
					w.row(p.ID.String(), orDash(p.Name), stateOf(p.State, p.Home), use, orDash(string(p.Path)), millis(p.RTTMS), strings.Join(p.Addrs, " "))
					why.add(p.ID, &p.Trouble)
				}
				return errors.Join(w.flush(), why.print(a.out))
			}
			list, err := r.pillar.Pillars(cmd.Context())
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, list)
			}
			w := newTable(a.out, "PILLAR", "NAME", "STATE", "PATH", "RTT", "MISSING HERE", "THERE", "LAST SEEN")
			for _, p := range list {
				state := stateOf(p.State, p.Home)
				switch {
				case p.Standing == overlay.StandingRevoked:
					state += " (revoked)"
				case p.LogsPaused:
					state += " (logs paused: their share of the disk is used up)"
				}
				w.row(p.ID.String(), orDash(p.Name), state, orDash(string(p.Path)), millis(p.RTTMS),
					fmt.Sprint(p.MissingHere), fmt.Sprint(p.MissingThere), whenPtr(p.LastSeen))
				why.add(p.ID, &p.Trouble)
			}
			return errors.Join(w.flush(), why.print(a.out))
		}),
	})
}

// whyNots are the pillars that are not connected, or not used, though they were
// tried.
type whyNots []whyNot

type whyNot struct {
	pillar identity.PillarID
	*overlay.Trouble
}

func (l *whyNots) add(p identity.PillarID, t *overlay.Trouble) {
	if t.Error != "" {
		*l = append(*l, whyNot{p, t})
	}
}

// print writes a table of them, and one of their addresses.
func (l whyNots) print(out io.Writer) error {
	if len(l) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	w := newTable(out, "PILLAR", "WHY NOT", "SINCE", "LAST TRY", "NEXT TRY")
	addrs := false
	for _, x := range l {
		addrs = addrs || len(x.Attempts) > 0
		w.row(x.pillar.String(), x.Error, whenPtr(x.ErrorSince), whenPtr(x.ErrorAt), nextTry(x.Trouble, time.Now()))
	}
	if err := w.flush(); err != nil || !addrs {
		return err
	}
	fmt.Fprintln(out)
	w = newTable(out, "PILLAR", "TRANSPORT", "ADDRESS", "CAME TO")
	for _, x := range l {
		for _, at := range x.Attempts {
			w.row(x.pillar.String(), at.Transport, at.Addr, at.Error)
		}
	}
	return w.flush()
}

// nextTry says when a pillar is tried next.
func nextTry(t *overlay.Trouble, now time.Time) string {
	switch {
	case t.Trying:
		return "now"
	case t.NextTry == nil && t.ErrorCode == overlay.CodeNotAdmitted:
		return "-"
	case t.NextTry == nil:
		return "when it is needed"
	}
	return "in " + max(0, t.NextTry.Sub(now)).Round(time.Second).String()
}

// stateOf is a pillar's state, and that it is behind a NAT.
func stateOf(s overlay.PillarState, home bool) string {
	if home {
		return string(s) + ", home"
	}
	return string(s)
}

func millis(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}
