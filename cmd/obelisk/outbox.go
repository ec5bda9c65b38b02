package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/overlay"
)

func newOutbox(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "outbox [ID]", Short: "List the messages sent, and what became of them", Args: cobra.MaximumNArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			r, err := t.find(roleNode)
			if err != nil {
				return err
			}
			defer r.node.Close()
			var list []overlay.OutMessage
			if len(args) == 1 {
				m, err := r.node.Message(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if m.Out == nil {
					return coded(exitNotFound, "message %s was received, not sent: see `obelisk inbox`", args[0])
				}
				list = append(list, *m.Out)
			}
			for after := uint64(0); len(args) == 0; {
				page, err := r.node.Outbox(cmd.Context(), after, 0)
				if err != nil {
					return err
				}
				list = append(list, page.Messages...)
				if after = page.Next; after == 0 {
					break
				}
			}
			return a.printOutbox(&t, list)
		}),
	})
}

func (a *app) printOutbox(t *target, list []overlay.OutMessage) error {
	if t.json {
		for i := range list {
			if err := printJSON(a.out, &list[i]); err != nil {
				return err
			}
		}
		return nil
	}
	w := newTable(a.out, "SENT", "ID", "STATE", "COPIES", "TO")
	for _, m := range list {
		id := m.Handle.String() + " (handle)"
		if m.ID != nil {
			id = m.ID.String()
		}
		state := string(m.State)
		if m.Reason != "" {
			state += " (" + string(m.Reason) + ")"
		}
		var to []string
		for _, r := range m.Recipients {
			to = append(to, r.Account.String()+" "+string(r.State))
		}
		w.row(when(m.Sent), id, state, strconv.Itoa(m.Copies), strings.Join(to, ", "))
	}
	return w.flush()
}
