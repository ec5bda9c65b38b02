package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

func newContacts(a *app) *cobra.Command {
	var t target
	cmd := t.register(&cobra.Command{
		Use: "contacts", Short: "List and change the local contacts", Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find(roleNode)
			if err != nil {
				return err
			}
			defer r.node.Close()
			list, err := r.node.Contacts(cmd.Context())
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, list)
			}
			return a.printContacts(list...)
		}),
	})
	cmd.AddCommand(
		contactCommand(a, "add [NAME] ACCOUNT|LINK", "Give an account a local name; a link can bring its own", cobra.RangeArgs(1, 2),
			func(cmd *cobra.Command, n *admin.NodeClient, args []string) (overlay.Contact, error) {
				name := ""
				if len(args) == 2 {
					name = args[0]
				}
				return n.AddContact(cmd.Context(), name, args[len(args)-1])
			}),
		contactCommand(a, "rename NAME NEW", "Give a contact another name", cobra.ExactArgs(2),
			func(cmd *cobra.Command, n *admin.NodeClient, args []string) (overlay.Contact, error) {
				return n.ChangeContact(cmd.Context(), args[0], admin.ContactRequest{Name: &args[1]})
			}),
		newContactRemove(a),
		contactMark(a, "block NAME", "Refuse messages of a contact", func(on bool) admin.ContactRequest {
			return admin.ContactRequest{Blocked: &on}
		}),
		contactMark(a, "verify NAME", "Note that you compared the contact's account with its owner", func(on bool) admin.ContactRequest {
			return admin.ContactRequest{Verified: &on}
		}),
	)
	return cmd
}

func (a *app) printContacts(list ...overlay.Contact) error {
	w := newTable(a.out, "NAME", "ACCOUNT", "VERIFIED", "BLOCKED")
	for _, c := range list {
		w.row(c.Name, c.Account.String(), yes(c.Verified), yes(c.Blocked))
	}
	return w.flush()
}

// contactCommand is a command that changes one contact and prints it.
func contactCommand(a *app, use, short string, args cobra.PositionalArgs,
	change func(*cobra.Command, *admin.NodeClient, []string) (overlay.Contact, error)) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			r, err := t.find(roleNode)
			if err != nil {
				return err
			}
			defer r.node.Close()
			c, err := change(cmd, r.node, args)
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, c)
			}
			return a.printContacts(c)
		}),
	})
}

// contactMark is a command that sets a mark, or with --off takes it away.
func contactMark(a *app, use, short string, change func(on bool) admin.ContactRequest) *cobra.Command {
	var off bool
	cmd := contactCommand(a, use, short, cobra.ExactArgs(1),
		func(cmd *cobra.Command, n *admin.NodeClient, args []string) (overlay.Contact, error) {
			return n.ChangeContact(cmd.Context(), args[0], change(!off))
		})
	cmd.Flags().BoolVar(&off, "off", false, "take it back: un"+strings.Fields(use)[0])
	return cmd
}

func newContactRemove(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "remove NAME", Short: "Forget a contact", Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			r, err := t.find(roleNode)
			if err != nil {
				return err
			}
			defer r.node.Close()
			if err := r.node.RemoveContact(cmd.Context(), args[0]); err != nil || !t.json {
				return err
			}
			return printJSON(a.out, struct {
				Removed string `json:"removed"`
			}{args[0]})
		}),
	})
}
