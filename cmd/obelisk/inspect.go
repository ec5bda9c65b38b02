package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// pairArgs reads [A] B.
func pairArgs(args []string) (of, with identity.PillarID, err error) {
	if with, err = identity.ParsePillar(args[len(args)-1]); err == nil && len(args) == 2 {
		of, err = identity.ParsePillar(args[0])
	}
	return of, with, err
}

func newSyncDiff(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "diff [A] B",
		Short: "Show what two pillars hold differently, and why",
		Long: `Show what two pillars hold differently and why, without moving a record: the
pillar that is asked and B, or A and B. What was created in the last seconds is
not compared.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			of, with, err := pairArgs(args)
			if err != nil {
				return err
			}
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			all, err := r.pillar.Diff(cmd.Context(), of, with, "")
			for next := all.Next; err == nil && next != ""; {
				var page admin.DiffAnswer
				if page, err = r.pillar.Diff(cmd.Context(), of, with, next); err != nil {
					break
				}
				all.OnlyHere, all.OnlyThere = append(all.OnlyHere, page.OnlyHere...), append(all.OnlyThere, page.OnlyThere...)
				all.Bytes, all.RoundTrips, all.TookMS = all.Bytes+page.Bytes, all.RoundTrips+page.RoundTrips, all.TookMS+page.TookMS
				if len(page.OnlyHere)+len(page.OnlyThere) == 0 || page.Next == next {
					break // there are more than it names
				}
				next = page.Next
				all.Next = next
			}
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, all)
			}
			return a.printDiff(&all)
		}),
	})
}

func (a *app) printDiff(d *admin.DiffAnswer) error {
	if d.Equal {
		_, err := fmt.Fprintf(a.out, "equal: %s and %s hold the same records created before %s\n", d.Of, d.Peer, when(d.SettledUntil))
		return err
	}
	w := newTable(a.out, "RECORD", "KIND", "CREATED", "ONLY AT", "WHY NOT AT THE OTHER", "")
	for _, side := range []struct {
		pillar identity.PillarID
		list   []admin.DiffEntry
	}{{d.Of, d.OnlyHere}, {d.Peer, d.OnlyThere}} {
		for i := range side.list {
			e := &side.list[i]
			w.row(e.ID.String(), e.Kind, when(e.Created), side.pillar.String(), words(e.Why), escape(e.Detail))
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	more := ""
	if d.Next != "" {
		more = ", and there are more"
	}
	_, err := fmt.Fprintf(a.out, "%d only at %s, %d only at %s%s; found with %d bytes in %s\n", len(d.OnlyHere), d.Of, len(d.OnlyThere), d.Peer, more,
		d.Bytes, duration(d.TookMS))
	return err
}

// words writes a code as words.
func words(a overlay.Absence) string { return strings.ReplaceAll(string(a), "_", " ") }

func duration(ms float64) time.Duration {
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Millisecond)
}

func newSyncRepair(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use:   "repair [A] B",
		Short: "Exchange what two pillars hold differently, now",
		Long: `Exchange what two pillars hold differently, now: the pillar that is asked and B,
or A and B. Pillars do this by themselves every few seconds. Doing it twice does
no harm.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: a.act(func(cmd *cobra.Command, args []string) error {
			of, with, err := pairArgs(args)
			if err != nil {
				return err
			}
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			done, err := r.pillar.Repair(cmd.Context(), of, with)
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, done)
			}
			_, err = fmt.Fprintf(a.out, "%d records fetched, %d sent, %d bytes in %s\n", done.Fetched, done.Sent, done.Bytes, duration(done.TookMS))
			return err
		}),
	})
}

func newSyncPause(a *app, pause bool) *cobra.Command {
	var t target
	use, short, done := "resume", "Let the pillar begin audit rounds again", "audit rounds go on"
	if pause {
		use, short, done = "pause", "Have the pillar begin no audit rounds, until resume or its next start", "audit rounds are paused: differences that no log explains stay"
	}
	return t.register(&cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find(rolePillar)
			if err != nil {
				return err
			}
			if err := r.pillar.PauseRounds(cmd.Context(), pause); err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, struct {
					Paused bool `json:"paused"`
				}{pause})
			}
			_, err = fmt.Fprintln(a.out, done)
			return err
		}),
	})
}
