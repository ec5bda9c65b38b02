package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

func newTrace(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "trace ID",
		Short: "Ask every pillar for a record: who has it, who lacks it and why, which receipts there are",
		Long: `Ask every pillar, through a pillar's admin port, for the record with that ID: who
has it, since when and how it came, who lacks it and why, and who did not answer
within two seconds. Of a message also what the pillars see of its recipients: a
receipt is sealed to the author, so they see that there is one, not of which
messages it speaks. The ID of a message is what send prints and outbox shows.

Asked at a node, it says what became of the message for certain, as far as that
node knows: its own outbox, whose receipts it can read.`,
		Args: cobra.ExactArgs(1),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			var id overlay.RecordID
			if err := id.UnmarshalText([]byte(args[0])); err != nil {
				return err
			}
			r, err := t.find(t.traceRole())
			if err != nil {
				return err
			}
			if r.node != nil {
				defer r.node.Close()
				return a.traceAtNode(cmd.Context(), r.node, id, t.json)
			}
			list, err := r.pillar.Trace(cmd.Context(), id)
			if err != nil {
				return err
			}
			if t.json {
				err = printJSON(a.out, list)
			} else {
				err = a.printTrace(list)
			}
			for i := range list {
				if list[i].Has {
					return err
				}
			}
			if err == nil {
				err = overlay.Refuse(overlay.CodeNotFound, "no pillar that answered has %s", id)
			}
			return err
		}),
	})
}

func (a *app) printTrace(list []admin.TraceEntry) error {
	w := newTable(a.out, "PILLAR", "HAS IT", "SINCE", "VIA", "EXPIRES", "IN LOG", "WHY NOT", "")
	for i := range list {
		e := &list[i]
		has, places := "no", make([]string, len(e.Dots))
		switch {
		case !e.Answered:
			has = "no answer"
		case e.Has:
			has = "yes"
		}
		for j, d := range e.Dots {
			places[j] = fmt.Sprintf("%s:%d", d.Log, d.Seq)
		}
		why := words(e.Why)
		if !e.Answered {
			why = ""
		}
		w.row(e.Pillar.String(), has, whenPtr(e.ReceivedAt), e.Via, whenPtr(e.Expires), strings.Join(places, " "), why, escape(e.Detail))
	}
	if err := w.flush(); err != nil {
		return err
	}
	return a.printOutcomes(admin.Outcomes(list))
}

// printOutcomes says what pillars see of a message's recipients.
func (a *app) printOutcomes(list []admin.Outcome) error {
	if len(list) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(a.out); err != nil {
		return err
	}
	w := newTable(a.out, "RECIPIENT", "CONFIRMED", "DEVICES CONNECTED")
	for i := range list {
		o := &list[i]
		devices := make([]string, len(o.Devices))
		for j := range o.Devices {
			d := &o.Devices[j]
			devices[j] = fmt.Sprintf("%s %s (at %s)", d.Device, d.Text(), d.Pillar)
		}
		if len(devices) == 0 {
			devices = []string{"none"}
		}
		w.row(o.Account.String(), o.Text(), strings.Join(devices, "; "))
	}
	if err := w.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, "Receipts are sealed to the author; for certain the author's node knows: `obelisk trace ID` or `obelisk outbox ID` there.")
	return err
}

// traceRole is whom a trace asks: a pillar if one is named, else whoever is found.
func (t *target) traceRole() string {
	if t.admin != "" && t.admin != obelisk.Off {
		return rolePillar
	}
	return ""
}

// traceAtNode says what a node knows of a message.
func (a *app) traceAtNode(ctx context.Context, n *admin.NodeClient, id overlay.RecordID, asJSON bool) error {
	m, err := n.Message(ctx, id.String())
	if err != nil {
		return err
	}
	switch {
	case asJSON && m.In != nil:
		return printJSON(a.out, m.In)
	case asJSON:
		return printJSON(a.out, m.Out)
	case m.In != nil:
		acked := "not acknowledged yet"
		if m.In.Acked {
			acked = "acknowledged"
		}
		_, err := fmt.Fprintf(a.out, "received %s from %s, %s\n", when(m.In.Received), m.In.From, acked)
		return err
	}
	return a.printFate(m.Out)
}

// printFate says what became of a message sent, recipient by recipient.
func (a *app) printFate(m *overlay.OutMessage) error {
	state := string(m.State)
	if m.Reason != "" {
		state += " (" + string(m.Reason) + ")"
	}
	if _, err := fmt.Fprintf(a.out, "%s, sent %s, expires %s, on %d pillars\n\n", state, when(m.Sent), when(m.Expires), m.Copies); err != nil {
		return err
	}
	w := newTable(a.out, "RECIPIENT", "STATE", "SINCE", "REASON")
	for _, r := range m.Recipients {
		w.row(r.Account.String(), string(r.State), whenPtr(r.At), string(r.Reason))
	}
	if err := w.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, "This is the word of the receipts. Which pillars hold the message: `obelisk trace ID --admin HOST:PORT` at a pillar.")
	return err
}
