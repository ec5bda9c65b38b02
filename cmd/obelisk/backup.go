package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/obelisk-network/obelisk"
)

const backupNote = `It is age-encrypted with a passphrase, which is asked for at the terminal or read
from the first line of --passphrase-file. It is a backup: a device that is lost is
replaced with it, and whoever has both file and passphrase can act as the account.`

func newIDExport(a *app) *cobra.Command {
	var t target
	var passFile string
	cmd := t.register(&cobra.Command{
		Use:   "export FILE",
		Short: "Back up the account key into a new file, encrypted; - writes it to standard output",
		Long:  "Back up the account key of a node into a new file; - writes it to standard output.\n" + backupNote,
		Args:  cobra.ExactArgs(1),
		RunE: a.act(func(_ *cobra.Command, args []string) error {
			dir, id, err := t.identity()
			if err != nil {
				return err
			}
			if id.Role != obelisk.RoleNode {
				return usage("a pillar has no account: keep copies of pillar.key and network.key in %s", dir)
			}
			pass, err := a.passphrase(passFile, true)
			if err != nil {
				return err
			}
			backup, err := obelisk.ExportAccount(dir, pass)
			if err != nil {
				return err
			}
			if args[0] == "-" {
				_, err = a.out.Write(backup)
				return err
			}
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.Write(backup)
			if err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, struct {
					Account obelisk.AccountID `json:"account"`
					File    string            `json:"file"`
				}{id.Account, args[0]})
			}
			_, err = fmt.Fprintf(a.out, "account %s is backed up in %s\n", id.Account, args[0])
			return err
		}),
	})
	cmd.Flags().StringVar(&passFile, "passphrase-file", "", "`FILE` whose first line is the passphrase")
	return cmd
}

func newIDImport(a *app) *cobra.Command {
	var t target
	var passFile string
	cmd := t.register(&cobra.Command{
		Use:   "import FILE",
		Short: "Put the account key of a backup into a data directory that has none; - reads standard input",
		Long: `Put the account key of a backup into a data directory that has none: --data, or the
default one of nodes. The next start makes a new device for the account.
` + backupNote,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(_ *cobra.Command, args []string) error {
			dir := t.data
			if dir == "" {
				var err error
				if dir, err = obelisk.DefaultDir(obelisk.RoleNode); err != nil {
					return err
				}
			}
			in := a.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			} else if passFile == "" {
				return usage("the backup comes from standard input, so the passphrase cannot: give --passphrase-file")
			}
			backup, err := io.ReadAll(io.LimitReader(in, 1<<20))
			if err != nil {
				return err
			}
			pass, err := a.passphrase(passFile, false)
			if err != nil {
				return err
			}
			account, err := obelisk.ImportAccount(dir, backup, pass)
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, struct {
					Account obelisk.AccountID `json:"account"`
				}{account})
			}
			_, err = fmt.Fprintf(a.out, "%s now holds account %s: start it with `obelisk run --role node --data %s --join LINK`\n", dir, account, dir)
			return err
		}),
	})
	cmd.Flags().StringVar(&passFile, "passphrase-file", "", "`FILE` whose first line is the passphrase")
	return cmd
}

// passphrase reads a passphrase from a file, or asks for it at the terminal,
// twice if it is a new one.
func (a *app) passphrase(file string, isNew bool) (string, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		line, _, _ := strings.Cut(string(b), "\n")
		return strings.TrimSuffix(line, "\r"), err
	}
	tty, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return "", usage("there is no terminal to ask for the passphrase: give --passphrase-file")
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(a.errs, prompt)
		b, err := term.ReadPassword(int(tty.Fd()))
		fmt.Fprintln(a.errs)
		return string(b), err
	}
	pass, err := ask("passphrase: ")
	if err != nil || !isNew {
		return pass, err
	}
	again, err := ask("once more: ")
	if err == nil && again != pass {
		err = usage("the two are not the same")
	}
	return pass, err
}
