package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
)

func newNodes(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "nodes", Short: "List the accounts of the network and their devices", Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find("")
			if err != nil {
				return err
			}
			var all admin.NodePage
			for after := ""; ; {
				var page admin.NodePage
				if r.node != nil {
					page, err = r.node.Nodes(cmd.Context(), after, 1000)
				} else {
					page, err = r.pillar.Nodes(cmd.Context(), after, 1000)
				}
				if err != nil {
					return err
				}
				all.Nodes = append(all.Nodes, page.Nodes...)
				if after = page.Next; after == "" {
					break
				}
			}
			if t.json {
				if all.Nodes == nil {
					all.Nodes = []obelisk.NodeEntry{}
				}
				return printJSON(a.out, all)
			}
			w := newTable(a.out, "ACCOUNT", "NAME (CLAIMED)", "DEVICES", "ONLINE")
			for _, n := range all.Nodes {
				online := 0
				for _, d := range n.Devices {
					if d.Online {
						online++
					}
				}
				w.row(n.Account.String(), orDash(n.Name), strconv.Itoa(len(n.Devices)), strconv.Itoa(online))
			}
			return w.flush()
		}),
	})
}
