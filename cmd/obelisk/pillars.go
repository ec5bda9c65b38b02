package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

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
				}
				return w.flush()
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
			}
			return w.flush()
		}),
	})
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
