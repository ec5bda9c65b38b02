// Command obelisk runs a node or a pillar of an Obelisk network, and talks to
// running ones.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// quietQUIC is the variable that keeps quic-go from writing lines of its own to
// standard error, where nothing but our log belongs.
const quietQUIC = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"

func main() {
	if _, ok := os.LookupEnv(quietQUIC); !ok {
		_ = os.Setenv(quietQUIC, "true") // at worst there is a line more
	}
	os.Exit(execute(&app{in: os.Stdin, out: os.Stdout, errs: os.Stderr, env: os.LookupEnv}, os.Args[1:]))
}

// app is the process's surroundings.
type app struct {
	in   io.Reader
	out  io.Writer
	errs io.Writer
	env  func(name string) (string, bool)

	working bool // the command line was understood and its command begun
}

// execute runs a command line and returns the exit code. What went wrong is
// one line on standard error.
func execute(a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitDone
	}
	if !a.working {
		err = usage("%w", err)
	}
	if text := describe(err); text != "" {
		fmt.Fprintf(a.errs, "obelisk: %s\n", text)
	}
	return exitCode(err)
}

func newRoot(a *app) *cobra.Command {
	var opts runOptions
	root := &cobra.Command{
		Use:   "obelisk",
		Short: "Messages between devices through pillars that each hold a copy of everything",
		Long: `Obelisk carries end-to-end sealed messages between devices, through servers
called pillars. Every pillar holds a copy of everything, so the network works as
long as one of them is up.

  obelisk run --role pillar            start a network: the first pillar
  obelisk run --role node --join LINK  start a node; the pillar printed the link
  obelisk send ACCOUNT hello           send from the running node
  obelisk inbox                        what it received`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			if opts.role == "" {
				cmd.SetOut(a.errs)
				_ = cmd.Help()
				return usage("")
			}
			return a.run(cmd, &opts)
		}),
	}
	opts.register(root.Flags())
	root.AddCommand(
		newRun(a), newID(a), newSend(a), newInbox(a), newOutbox(a), newContacts(a), newNodes(a), newPillars(a),
		newStatus(a), newNetcheck(a), newNetwork(a), newPillar(a), newSync(a), newConvergence(a), newTrace(a), newBundle(a), newOpen(a), newConfig(a), newVersion(a),
	)
	return root
}

// act wraps a command: settings from the environment and the file are applied
// before it, and errors after that are not about the command line.
func (a *app) act(fn func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := a.applySettings(cmd.Flags()); err != nil {
			return err
		}
		a.working = true
		return fn(cmd, args)
	}
}

// group is a command that only has subcommands, or shows something by itself.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return fmt.Errorf("%s needs a subcommand: see %s --help", cmd.CommandPath(), cmd.CommandPath())
	}}
	c.AddCommand(subs...)
	return c
}
