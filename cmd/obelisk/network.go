package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func newNetwork(a *app) *cobra.Command {
	return group("network", "Show the network, admit and revoke pillars, admit accounts, print the join link",
		newNetworkShow(a), newNetworkAdmit(a), newNetworkRevoke(a), newNetworkAllow(a), newNetworkLink(a))
}

// networkShow is network show --json.
type networkShow struct {
	Network  *obelisk.NetworkID `json:"network"`
	Key      bool               `json:"key"` // the network key is here
	KeyFile  string             `json:"key_file"`
	JoinLink string             `json:"join_link"`
}

func newNetworkShow(a *app) *cobra.Command {
	var t target
	var keyFile string
	cmd := t.register(&cobra.Command{
		Use: "show", Short: "Show which network this is and whether its key is here; works offline", Args: cobra.NoArgs,
		RunE: a.act(func(*cobra.Command, []string) error {
			var out networkShow
			if keyFile == "" {
				dir, id, err := t.identity()
				if err != nil {
					return err
				}
				if !id.Network.IsZero() {
					out.Network = &id.Network
				}
				out.JoinLink = obelisk.LastJoinLink(dir)
				keyFile = obelisk.NetworkKeyFile(dir)
				if _, err := os.Lstat(keyFile); errors.Is(err, fs.ErrNotExist) {
					keyFile = ""
				}
			}
			if keyFile != "" {
				key, err := identity.LoadNetworkKey(keyFile)
				if err != nil {
					return err
				}
				id := key.ID()
				out.Network, out.Key, out.KeyFile = &id, true, keyFile
			}
			if t.json {
				return printJSON(a.out, out)
			}
			w := newTable(a.out)
			if out.Network == nil {
				w.pair("network", "none yet")
			} else {
				w.pair("network", out.Network)
			}
			if out.Key {
				w.pair("key", out.KeyFile+" (keep a copy offline: who has it decides who is a pillar)")
			} else {
				w.pair("key", "not here")
			}
			if out.JoinLink != "" {
				w.pair("join link", out.JoinLink)
			}
			return w.flush()
		}),
	})
	networkKeyFlag(cmd, &keyFile)
	return cmd
}

func networkKeyFlag(cmd *cobra.Command, v *string) {
	cmd.Flags().StringVar(v, "network-key", "", "`FILE` of the network key (default: network.key in the data directory)")
}

// admitted is network admit --json.
type admitted struct {
	Pillar    obelisk.PillarID  `json:"pillar"`
	Network   obelisk.NetworkID `json:"network"`
	Serial    uint64            `json:"serial"`
	NotAfter  string            `json:"not_after"`
	Admission string            `json:"admission"`
}

func newNetworkAdmit(a *app) *cobra.Command {
	var t target
	var keyFile, out string
	var days int
	cmd := t.register(&cobra.Command{
		Use:   "admit ID",
		Short: "Sign that a pillar belongs to the network; works offline",
		Long: `Sign that the pillar ID belongs to the network, for at most 30 days: renew it
before it ends. The result is no secret; the pillar takes it with --admission.`,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(_ *cobra.Command, args []string) error {
			id, err := identity.ParsePillar(args[0])
			if err != nil {
				return err
			}
			if most := int(identity.MaxAdmissionLife / (24 * time.Hour)); days < 1 || days > most {
				return usage("--days %d: want 1 to %d", days, most)
			}
			key, err := t.networkKey(keyFile)
			if err != nil {
				return err
			}
			now := time.Now()
			until := now.Add(time.Duration(days) * 24 * time.Hour)
			adm := key.Admit(id, uint64(now.UnixMilli()), uint64(until.UnixMilli()))
			text := adm.MarshalFile()
			if out != "" {
				if err := identity.WriteFileAtomic(out, text, 0o644); err != nil {
					return err
				}
			}
			switch {
			case t.json:
				return printJSON(a.out, admitted{id, key.ID(), adm.Serial, until.UTC().Format(time.RFC3339), string(text[:len(text)-1])})
			case out == "":
				_, err = a.out.Write(text)
				return err
			default:
				_, err = fmt.Fprintf(a.out, "%s admits pillar %s until %s\n", escape(out), id, when(until))
				return err
			}
		}),
	})
	networkKeyFlag(cmd, &keyFile)
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write the admission to (default: standard output)")
	cmd.Flags().IntVar(&days, "days", 29, "how long it holds; a day below the limit leaves room for clocks")
	return cmd
}

// networkKey loads the network key: the file given, or that of the pillar in
// the data directory.
func (t *target) networkKey(file string) (*identity.NetworkKey, error) {
	if file == "" {
		dir := t.data
		if dir == "" {
			d, err := obelisk.DefaultDir(obelisk.RolePillar)
			if err != nil {
				return nil, err
			}
			dir = d
		}
		file = obelisk.NetworkKeyFile(dir)
	}
	key, err := identity.LoadNetworkKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, coded(exitNotFound, "there is no network key in %s: name it with --network-key", filepath.Clean(file))
	}
	return key, err
}

func newNetworkAllow(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "allow ACCOUNT", Short: "Let an account register at a pillar whose registration is closed", Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			account, _, isLink, err := overlay.ParseContactLink(args[0])
			if err == nil && !isLink {
				account, err = obelisk.ParseAccount(args[0])
			}
			if err != nil {
				return err
			}
			r, err := t.find(rolePillar)
			switch {
			case err == nil:
				err = r.pillar.Allow(cmd.Context(), account)
			case exitCode(err) == exitNotRunning && t.admin == "":
				var dir string
				var id obelisk.Identity
				if dir, id, err = t.identity(); err == nil && id.Role != obelisk.RolePillar {
					err = usage("%s belongs to a node: name a pillar's with --data", dir)
				}
				if err == nil {
					err = obelisk.AllowAccount(dir, account)
				}
			}
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, struct {
					Allowed obelisk.AccountID `json:"allowed"`
				}{account})
			}
			return nil
		}),
	})
}

func newNetworkLink(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "link", Short: "Print the link that nodes and pillars join with", Args: cobra.NoArgs,
		RunE: a.act(func(*cobra.Command, []string) error {
			dir, err := t.dir()
			if err != nil {
				return err
			}
			link := obelisk.LastJoinLink(dir)
			if info, err := obelisk.ReadRun(dir); err == nil && info.JoinLink != "" {
				link = info.JoinLink
			}
			if link == "" {
				return coded(exitNotFound, "%s knows no address of a pillar yet: start it once", dir)
			}
			if t.json {
				return printJSON(a.out, struct {
					JoinLink string `json:"join_link"`
				}{link})
			}
			_, err = fmt.Fprintln(a.out, link)
			return err
		}),
	})
}
