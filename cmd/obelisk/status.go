package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
)

func newStatus(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "status", Short: "Show how the running node or pillar does", Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find("")
			if err != nil {
				return err
			}
			if r.node != nil {
				s, err := r.node.Status(cmd.Context())
				if err != nil {
					return err
				}
				if t.json {
					return printJSON(a.out, s)
				}
				return a.printNodeStatus(&s)
			}
			s, err := r.pillar.Status(cmd.Context())
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, s)
			}
			return a.printPillarStatus(&s)
		}),
	})
}

func (a *app) printNodeStatus(s *obelisk.NodeStatus) error {
	w := newTable(a.out)
	w.pair("account", s.Account)
	w.pair("device", s.Device)
	w.pair("name", orDash(s.Name))
	w.pair("network", orDash(s.Network))
	w.pair("pillar", orDash(s.Pillar))
	w.pair("standby", orDash(s.Standby))
	w.pair("known", fmt.Sprintf("%d pillars, %d accounts", s.PillarsKnown, s.NodesKnown))
	w.pair("reachable", s.Reachability)
	w.pair("outbox", fmt.Sprintf("%d queued, %d stored, %d replicated", s.Outbox.Queued, s.Outbox.Stored, s.Outbox.Replicated))
	w.pair("inbox", fmt.Sprintf("%d, %d not acknowledged", s.Inbox.Total, s.Inbox.Unacked))
	w.pair("failovers", fmt.Sprintf("%d, the last took %d ms", s.Failovers, s.LastFailoverMS))
	w.pair("clock", fmt.Sprintf("%d ms off its pillars", s.ClockSkewMS))
	return w.flush()
}

func joinIDs(ids []obelisk.PillarID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return strings.Join(texts, " ")
}

func (a *app) printPillarStatus(s *obelisk.PillarStatus) error {
	w := newTable(a.out)
	w.pair("pillar", s.ID)
	w.pair("network", s.Network)
	w.pair("version", s.Version)
	w.pair("up", time.Duration(s.UptimeS)*time.Second)
	w.pair("listens", strings.Join(s.Listen, " "))
	if s.Home {
		relays := "nothing: no public pillar holds a place for it yet"
		if len(s.Relays) > 0 {
			relays = joinIDs(s.Relays)
		}
		w.pair("reached through", relays)
	}
	w.pair("records", fmt.Sprintf("%d in %d mailboxes, %d bytes", s.Records, s.Mailboxes, s.StoreBytes))
	w.pair("log", fmt.Sprintf("%s at %d", orDash(s.Log.ID), s.Log.Seq))
	w.pair("nodes", s.NodesConnected)
	w.pair("pillars", fmt.Sprintf("%d alive, converged: %s", s.PillarsAlive, yes(s.Converged)))
	w.pair("clock", fmt.Sprintf("%d ms off its peers", s.ClockSkewMS))
	if s.ClockWarning != "" {
		w.pair("WARNING", s.ClockWarning)
	}
	switch s.Standing {
	case overlay.StandingAdmitted, "":
	case overlay.StandingRevoked:
		w.pair("WARNING", "this pillar is revoked: no other pillar and no node takes it; whoever holds the network key can admit it again with network admit")
	default:
		w.pair("WARNING", "this pillar is not admitted: "+string(s.Standing))
	}
	if s.Diverged > 0 {
		w.pair("WARNING", fmt.Sprintf("%d pillars diverge: see obelisk convergence", s.Diverged))
	}
	if text := s.Expiring.Text(); text != "" {
		w.pair("expiring", text)
	}
	if s.Draining {
		w.pair("draining", "nodes are sent to other pillars")
	}
	if s.Full {
		w.pair("full", "the disk or the store's limit is reached: nothing is taken")
	}
	if s.CatchingUp {
		w.pair("catching up", "what other pillars have is still coming")
	}
	return w.flush()
}
