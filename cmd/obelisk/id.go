package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
)

func newID(a *app) *cobra.Command {
	return group("id", "Who a data directory belongs to", newIDShow(a), newIDLink(a), newIDExport(a), newIDImport(a))
}

// nodeIdentity and pillarIdentity are id show --json.
type nodeIdentity struct {
	Account obelisk.AccountID  `json:"account"`
	Device  obelisk.DeviceID   `json:"device"`
	KeyType obelisk.KeyType    `json:"key_type"`
	Network *obelisk.NetworkID `json:"network"`
}

type pillarIdentity struct {
	Role    string             `json:"role"`
	ID      obelisk.PillarID   `json:"id"`
	Network *obelisk.NetworkID `json:"network"`
}

func newIDShow(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "show", Short: "Show the IDs; works whether it runs or not", Args: cobra.NoArgs,
		RunE: a.act(func(*cobra.Command, []string) error {
			_, id, err := t.identity()
			if err != nil {
				return err
			}
			network, text := &id.Network, id.Network.String()
			if id.Network.IsZero() {
				network, text = nil, "none yet"
			}
			switch {
			case id.Role == obelisk.RolePillar && t.json:
				return printJSON(a.out, pillarIdentity{rolePillar, id.Pillar, network})
			case t.json:
				return printJSON(a.out, nodeIdentity{id.Account, id.Device, id.KeyType, network})
			}
			w := newTable(a.out)
			if id.Role == obelisk.RolePillar {
				w.pair("pillar", id.Pillar)
			} else {
				w.pair("account", id.Account)
				w.pair("device", id.Device)
				w.pair("key type", id.KeyType)
			}
			w.pair("network", text)
			return w.flush()
		}),
	})
}

func newIDLink(a *app) *cobra.Command {
	var t target
	var name string
	cmd := t.register(&cobra.Command{
		Use: "link", Short: "Print the link that others add this account with", Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			dir, id, err := t.identity()
			if err != nil {
				return err
			}
			if id.Role == obelisk.RolePillar {
				return usage("a pillar has no account: `obelisk network link --data %s` prints how to join it", dir)
			}
			if !cmd.Flags().Changed("name") {
				name = claimedName(cmd, &t, dir)
			}
			if err := overlay.CheckName(name); err != nil {
				return usage("--name: %w", err)
			}
			link := overlay.ContactLink(id.Account, name)
			if t.json {
				return printJSON(a.out, struct {
					Link string `json:"link"`
				}{link})
			}
			_, err = fmt.Fprintln(a.out, link)
			return err
		}),
	})
	cmd.Flags().StringVar(&name, "name", "", "claimed name in the link (default: the running node's)")
	return cmd
}

// claimedName asks the running node; the link works without a name as well.
func claimedName(cmd *cobra.Command, t *target, dir string) string {
	info, err := obelisk.ReadRun(dir)
	if err != nil {
		return ""
	}
	r, err := t.connect(info, dir)
	if err != nil || r.node == nil {
		return ""
	}
	defer r.node.Close()
	s, err := r.node.Status(cmd.Context())
	if err != nil {
		return ""
	}
	return s.Name
}
