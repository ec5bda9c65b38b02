package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

func newSend(a *app) *cobra.Command {
	var t target
	var ttl, timeout time.Duration
	var clientID string
	wait := string(overlay.StateReplicated)
	cmd := t.register(&cobra.Command{
		Use:   "send TO[,TO…] [TEXT]",
		Short: "Send a message from the running node",
		Long: `Send a message from the running node. TO is an account, a contact link, or the
name of a local contact. Without TEXT, or with -, the message is read from
standard input. Prints the record ID, or the handle while there is none.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			req := admin.SendRequest{Wait: overlay.State(wait), ClientID: clientID}
			for _, to := range strings.Split(args[0], ",") {
				if to = strings.TrimSpace(to); to != "" {
					req.To = append(req.To, to)
				}
			}
			if len(req.To) == 0 {
				return usage("send needs a recipient: an account, a contact link or a contact's name")
			}
			if ttl <= 0 || timeout <= 0 {
				return usage("--ttl and --timeout must be more than nothing")
			}
			req.TTLS = int64((ttl + time.Second - 1) / time.Second)
			req.TimeoutMS = max(1, timeout.Milliseconds())
			if err := a.readBody(&req, args[1:]); err != nil {
				return err
			}
			r, err := t.find(roleNode)
			if err != nil {
				return err
			}
			defer r.node.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout+10*time.Second)
			defer cancel()
			result, err := r.node.Send(ctx, req)
			if errors.Is(err, context.DeadlineExceeded) {
				return coded(exitTimedOut, "the node did not answer in time; whether it has the message shows `obelisk outbox`")
			}
			if err != nil {
				return err
			}
			if err := a.printSent(&t, &result); err != nil {
				return err
			}
			return a.judgeSent(ctx, r.node, &result, req.Wait, timeout)
		}),
	})
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", overlay.DefaultTTL, "how long the message lives")
	f.Var(choiceValue{&wait, []string{"queued", "stored", "replicated", "delivered"}}, "wait", "the state to wait for")
	f.DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	f.StringVar(&clientID, "client-id", "", "`TEXT` that makes sending again return the first message")
	return cmd
}

// readBody takes the message from the arguments or standard input.
func (a *app) readBody(req *admin.SendRequest, args []string) error {
	var body []byte
	if len(args) > 0 && args[0] != "-" {
		body = []byte(args[0])
	} else {
		var err error
		if body, err = io.ReadAll(io.LimitReader(a.in, overlay.DefaultMaxBody+1)); err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
	}
	if len(body) > overlay.DefaultMaxBody {
		return coded(exitRefused, "too_large: a message has at most %d bytes", overlay.DefaultMaxBody)
	}
	if !utf8.Valid(body) {
		req.Body = body
		return nil
	}
	text := string(body)
	req.Text = &text
	return nil
}

func (a *app) printSent(t *target, r *admin.SendResult) error {
	if t.json {
		return printJSON(a.out, r)
	}
	name := r.Handle.String()
	if r.ID != nil {
		name = r.ID.String()
	}
	_, err := fmt.Fprintln(a.out, name)
	return err
}

// judgeSent says how the state that was reached compares to the one asked for.
func (a *app) judgeSent(ctx context.Context, n *admin.NodeClient, r *admin.SendResult, want overlay.State, timeout time.Duration) error {
	reason := ""
	if r.Reason != "" {
		reason = " (" + string(r.Reason) + ")"
	}
	switch {
	case r.State == overlay.StateRejected:
		return coded(exitRefused, "the message was rejected%s: it is not tried again", reason)
	case r.State == overlay.StateExpired:
		return coded(exitTimedOut, "the message expired before it was %s: send it with a longer --ttl", want)
	case r.State.Reached(want):
		return nil
	case r.State == overlay.StateStored && want == overlay.StateReplicated:
		if s, err := n.Status(ctx); err == nil && s.PillarsKnown <= 1 {
			fmt.Fprintln(a.errs, "obelisk: stored: the network has a single pillar, so there is one copy; add a pillar to have more")
			return nil
		}
	}
	return coded(exitTimedOut, "the message is %s%s and not %s after %s: it is tried on; `obelisk outbox` shows how it goes", r.State, reason, want, timeout)
}
