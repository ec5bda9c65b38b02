package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/admin"
)

func newOpen(a *app) *cobra.Command {
	var t target
	var noBrowser bool
	cmd := t.register(&cobra.Command{
		Use:   "open",
		Short: "Open the node's page, or the pillar's dashboard, in the browser",
		Long: `Open the node's page, or the pillar's dashboard, in this user's browser: it is
served on a free loopback port until the command is interrupted, to the one
browser that opens the printed link, which works once and for two minutes.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find("")
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if err := r.alive(ctx); err != nil {
				return err
			}
			front, err := admin.OpenFront(r.at, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			link := front.URL()
			if t.json {
				err = printJSON(a.out, struct {
					URL string `json:"url"`
				}{link})
			} else {
				_, err = fmt.Fprintln(a.out, link)
			}
			if err != nil {
				_ = front.Close()
				return err
			}
			if !noBrowser {
				browse(link)
			}
			return front.Serve(ctx)
		}),
	})
	cmd.Flags().BoolVar(&noBrowser, "no-browser", false, "only print the link")
	return cmd
}

// alive asks the process for its status, so that a link is printed only if
// something is behind it.
func (r *running) alive(ctx context.Context) (err error) {
	if r.node != nil {
		_, err = r.node.Status(ctx)
	} else {
		_, err = r.pillar.Status(ctx)
	}
	return err
}

// browse shows link in the user's browser, if there is one: the link is printed
// all the same.
func browse(link string) {
	name, args := "xdg-open", []string{link}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", link}
	}
	cmd := exec.Command(name, args...)
	if cmd.Start() == nil {
		go func() { _ = cmd.Wait() }() // ends with the launcher, which only passes the link on
	}
}
