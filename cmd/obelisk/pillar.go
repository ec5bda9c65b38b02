package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/overlay"
)

func newPillar(a *app) *cobra.Command {
	return group("pillar", "Add a pillar to a running node or pillar, move nodes away from one, take one out of the network",
		newPillarAdd(a), newPillarDrain(a), newPillarLeave(a))
}

func newPillarDrain(a *app) *cobra.Command {
	var t target
	var off bool
	cmd := t.register(&cobra.Command{
		Use:   "drain",
		Short: "Move the nodes of the running pillar to other pillars, before maintenance",
		Long: `Move the nodes of the running pillar to other pillars: each is told to turn to
another one, and what nodes still submit here is refused and goes there.
Replication goes on. It ends with --off, or with the process.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			d, err := r.pillar.Drain(cmd.Context(), off)
			if err != nil {
				return err
			}
			switch {
			case t.json:
				return printJSON(a.out, d)
			case !d.Draining:
				_, err = fmt.Fprintln(a.out, "not draining: nodes may come")
			case d.NodesConnected == 0:
				_, err = fmt.Fprintln(a.out, "draining: no node is connected")
			default:
				_, err = fmt.Fprintf(a.out, "draining: %d nodes are still connected, see obelisk status\n", d.NodesConnected)
			}
			return err
		}),
	})
	cmd.Flags().BoolVar(&off, "off", false, "end it")
	return cmd
}

func newPillarLeave(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "leave",
		Short: "Take the running pillar out of the network for good",
		Long: `Take the running pillar out of the network for good: its nodes move to other
pillars, what only it holds goes to another one, it says that it left, and the
process ends. Others stop counting on it at once. The data directory stays;
started from it again the pillar refuses to run, unless --rejoin says otherwise.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			s, err := r.pillar.Status(cmd.Context())
			if err == nil {
				err = r.pillar.Leave(cmd.Context())
			}
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, struct {
					Left string `json:"left"`
				}{s.ID})
			}
			_, err = fmt.Fprintf(a.out, "pillar %s left the network\n", s.ID)
			return err
		}),
	})
}

func newPillarAdd(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "add ADDR",
		Short: "Tell a running node or pillar of a pillar: a multiaddr with /p2p, or a join link",
		Long: `Tell a running node or pillar of a pillar: a multiaddr that ends in /p2p/<id>, or
a join link. At a pillar this connects both clusters of the network.`,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			if _, err := overlay.ParseInvitation(args[0]); err != nil {
				return err
			}
			r, err := t.find("")
			if err != nil {
				return err
			}
			if r.node != nil {
				err = r.node.AddPillar(cmd.Context(), args[0])
			} else {
				err = r.pillar.AddPillar(cmd.Context(), args[0])
			}
			if err != nil || !t.json {
				return err
			}
			return printJSON(a.out, struct {
				Added string `json:"added"`
			}{args[0]})
		}),
	})
}
