package main

import (
	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/overlay"
)

func newPillar(a *app) *cobra.Command {
	return group("pillar", "Change which pillars a running node or pillar knows", newPillarAdd(a))
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
