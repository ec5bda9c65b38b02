package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

func newInbox(a *app) *cobra.Command {
	var t target
	var follow, peek bool
	cmd := t.register(&cobra.Command{
		Use:   "inbox",
		Short: "Print received messages and acknowledge them",
		Long: `Print the messages that nobody has acknowledged yet, oldest first, and
acknowledge each once it is printed: it is not printed again.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find(roleNode)
			if err != nil {
				return err
			}
			defer r.node.Close()
			in := &inbox{a: a, n: r.node, json: t.json, ack: !peek}
			if !follow {
				return in.print(cmd.Context())
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			// The first event is a resync, so what is there already is printed, too.
			err = r.node.Events(ctx, "", func(ev admin.StreamEvent) error {
				if ev.Kind == overlay.EventMessage || ev.Kind == overlay.EventResync {
					return in.print(ctx)
				}
				return nil
			})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}),
	})
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with messages as they come, until interrupted")
	cmd.Flags().BoolVar(&peek, "peek", false, "do not acknowledge")
	return cmd
}

// inbox prints messages once each.
type inbox struct {
	a     *app
	n     *admin.NodeClient
	json  bool
	ack   bool
	after uint64 // order of the last one printed
}

// print prints what is unacknowledged after the last one printed.
func (in *inbox) print(ctx context.Context) error {
	for {
		page, err := in.n.Inbox(ctx, in.after, 0, true)
		if err != nil {
			return err
		}
		for i := range page.Messages {
			m := &page.Messages[i]
			if err := in.printOne(m); err != nil {
				return fmt.Errorf("standard output: %w", err)
			}
			in.after = m.Order
			if in.ack {
				if err := in.n.Ack(ctx, m.ID); err != nil {
					return err
				}
			}
		}
		if page.Next == 0 {
			return nil
		}
	}
}

// inboxLine is inbox --json: exactly one of text and body_base64 is there.
type inboxLine struct {
	ID          overlay.RecordID `json:"id"`
	From        string           `json:"from"`
	FromContact string           `json:"from_contact"`
	FromClaims  string           `json:"from_claims"`
	To          []string         `json:"to"`
	Sent        string           `json:"sent"`
	Received    string           `json:"received"`
	Text        *string          `json:"text,omitempty"`
	Body        *string          `json:"body_base64,omitempty"`
	Path        overlay.Path     `json:"path"`
	Gap         bool             `json:"gap"`
}

const rfc3339Milli = "2006-01-02T15:04:05.000Z07:00"

func (in *inbox) printOne(m *overlay.InMessage) error {
	if in.json {
		line := inboxLine{ID: m.ID, From: m.From.String(), FromContact: m.FromContact, FromClaims: m.FromClaims,
			To: []string{}, Sent: m.Sent.UTC().Format(rfc3339Milli), Received: m.Received.UTC().Format(rfc3339Milli),
			Text: m.Text, Path: m.Path, Gap: m.Gap}
		for _, to := range m.To {
			line.To = append(line.To, to.String())
		}
		if m.Text == nil {
			body := base64.StdEncoding.EncodeToString(m.Body)
			line.Body = &body
		}
		return printJSON(in.a.out, line)
	}
	from := m.From.String()
	switch {
	case m.FromContact != "":
		from = m.FromContact
	case m.FromClaims != "":
		from += fmt.Sprintf(" (claims to be %q)", m.FromClaims)
	}
	text := fmt.Sprintf("[%d bytes]", len(m.Body))
	if m.Text != nil {
		text = *m.Text
	}
	gap := ""
	if m.Gap {
		gap = "  [an earlier message of this sender is missing]"
	}
	_, err := fmt.Fprintf(in.a.out, "%s  %s: %s%s\n", when(m.Sent), escape(from), escape(text), gap)
	return err
}
