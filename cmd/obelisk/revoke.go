package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// revocation is network revoke --json.
type revocation struct {
	Pillar     obelisk.PillarID  `json:"pillar"`
	Network    obelisk.NetworkID `json:"network"`
	Serial     uint64            `json:"serial"`
	Revocation string            `json:"revocation"`
	Given      string            `json:"given"` // running, next_start, or "": to be carried to a pillar
}

func newNetworkRevoke(a *app) *cobra.Command {
	var t target
	var keyFile string
	var serial uint64
	cmd := t.register(&cobra.Command{
		Use:   "revoke ID|REVOCATION",
		Short: "Take the admission of a pillar back; works offline",
		Long: `Sign that the admissions of the pillar ID made so far count no more, and hand
that to the pillar that runs here, from where it reaches every pillar and node
within seconds: they part from the revoked one. If none runs, the pillar that
lives here takes it at its next start; if none lives here, the signed revocation
is printed, and any pillar takes it with

  obelisk network revoke obelisk-revocation:…

A revocation counts for ever. A pillar that is admitted afterwards, with network
admit, is one again. One that holds the network key itself can admit itself as
well: if that key was stolen, only a new network helps.`,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			out, err := t.revocation(args[0], keyFile, serial)
			if err != nil {
				return err
			}
			if err := t.giveRevocation(cmd, &out); err != nil {
				return err
			}
			switch {
			case t.json:
				return printJSON(a.out, out)
			case out.Given == givenRunning:
				_, err = fmt.Fprintf(a.out, "pillar %s is revoked\n", out.Pillar)
			case out.Given == givenLater:
				_, err = fmt.Fprintf(a.out, "pillar %s is revoked from the next start of the pillar in this directory on\n", out.Pillar)
			default:
				_, err = fmt.Fprintln(a.out, out.Revocation)
			}
			return err
		}),
	})
	networkKeyFlag(cmd, &keyFile)
	cmd.Flags().Uint64Var(&serial, "serial", 0, "newest admission serial to take back (default: the time now, which covers all made so far)")
	return cmd
}

const (
	givenRunning = "running"
	givenLater   = "next_start"
)

// revocation signs one of the pillar with that ID, or reads one that was signed
// elsewhere.
func (t *target) revocation(arg, keyFile string, serial uint64) (out revocation, err error) {
	if overlay.IsRevocationText(arg) {
		_, id, err := t.identity()
		if err != nil {
			return out, err
		}
		out.Network, out.Revocation = id.Network, arg
	} else {
		id, err := identity.ParsePillar(arg)
		if err != nil {
			return out, err
		}
		key, err := t.networkKey(keyFile)
		if err != nil {
			return out, err
		}
		out.Network = key.ID()
		if out.Revocation, err = obelisk.SignRevocation(key, id, serial); err != nil {
			return out, err
		}
	}
	_, info, err := overlay.ParseRevocation(out.Network, out.Revocation)
	if err != nil {
		return out, err
	}
	out.Pillar, out.Serial = info.Pillar, info.Serial
	return out, nil
}

// giveRevocation hands it to the pillar that runs or lives here, if that is of
// the network.
func (t *target) giveRevocation(cmd *cobra.Command, out *revocation) error {
	r, err := t.find(rolePillar)
	if err == nil {
		if _, err := r.pillar.Revoke(cmd.Context(), out.Revocation); err != nil {
			return err
		}
		out.Given = givenRunning
		return nil
	}
	dir, id, missing := t.identity()
	here := missing == nil && id.Role == obelisk.RolePillar
	switch {
	case t.admin != "" || here && exitCode(err) != exitNotRunning:
		return err
	case !here || id.Network != out.Network:
		return nil // nobody to give it to: it is printed
	}
	if err := obelisk.RevokeLater(dir, out.Revocation); err != nil {
		return err
	}
	out.Given = givenLater
	return nil
}
