//go:build linux

// Command lab plays the scenarios of package natlab and prints their table. It
// exits 1 if a requirement is not met, 2 if it was called wrongly, 3 if it cannot
// run here.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/obelisk-network/obelisk/testnet/natlab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "natlab:", err)
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context) (int, error) {
	names := make([]string, len(natlab.Scenarios))
	for i, s := range natlab.Scenarios {
		names[i] = s.Name
	}
	only := flag.String("only", "", "comma-separated `scenarios` to play; default all: "+strings.Join(names, ", "))
	runs := flag.Int("runs", 0, "how often each is played; default what the table asks for")
	binary := flag.String("binary", "", "the obelisk `binary`; default: built from this tree")
	asJSON := flag.Bool("json", false, "print the results as JSON instead of a table")
	keep := flag.String("keep", "", "copy logs of failed runs to this `directory`")
	all := flag.Bool("keep-all", false, "with -keep: of all runs")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what is random on the internet")
	flag.Parse()
	if flag.NArg() > 0 {
		return 2, fmt.Errorf("unexpected %q", flag.Arg(0))
	}
	var chosen []natlab.Scenario
	for _, s := range natlab.Scenarios {
		if *only == "" || slices.Contains(strings.Split(*only, ","), s.Name) {
			chosen = append(chosen, s)
		}
	}
	if *only != "" && len(chosen) != len(strings.Split(*only, ",")) {
		return 2, fmt.Errorf("-only %s: scenarios are %s", *only, strings.Join(names, ", "))
	}
	if missing := natlab.Missing(); missing != "" {
		return 3, errors.New("cannot run here: " + missing)
	}
	if *binary == "" {
		dir, err := os.MkdirTemp("", "natlab-binary-")
		if err != nil {
			return 3, err
		}
		defer os.RemoveAll(dir)
		*binary = filepath.Join(dir, "obelisk")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", *binary, "github.com/obelisk-network/obelisk/cmd/obelisk")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 3, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	fmt.Fprintf(os.Stderr, "seed %d\n", *seed)
	opt := natlab.Options{Binary: *binary, Runs: *runs, Seed: *seed, After: func(s natlab.Scenario, r natlab.Run, l *natlab.Lab) {
		note(s, r)
		if *keep == "" || len(r.Failures) == 0 && !*all {
			return
		}
		if err := keepLogs(l.Dir(), filepath.Join(*keep, fmt.Sprintf("%s-%d", s.Name, r.Number))); err != nil {
			fmt.Fprintln(os.Stderr, "natlab: keep logs:", err)
		}
	}}
	var results []natlab.Result
	code := 0
	for _, s := range chosen {
		r, err := natlab.Play(ctx, s, opt)
		if ctx.Err() != nil {
			fmt.Fprintf(os.Stderr, "natlab: interrupted in %s: %v\n", s.Name, err)
			code = 1
			break
		}
		if err != nil {
			r.Failures = append(r.Failures, err.Error())
			fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, err)
		}
		if !r.OK() {
			code = 1
		}
		results = append(results, r)
	}
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return code, e.Encode(results)
	}
	return code, natlab.WriteTable(os.Stdout, results)
}

// note tells of a run as it ends.
func note(s natlab.Scenario, r natlab.Run) {
	fmt.Fprintf(os.Stderr, "%s %d: direct %t after %.0f ms, first %.0f ms, most %.0f ms, slowest %.0f ms, next %.0f ms; %d sent, %d lost, %d twice; came direct/circuit/pillar %d/%d/%d; %.1f s; netcheck true %s %s\n",
		s.Name, r.Number, r.Direct, r.DirectMS, r.FirstMS, r.MostMS, r.SlowestMS, r.NextMS, r.Sent, r.Lost, r.Twice,
		r.ByDirect, r.ByCircuit, r.ByPillar, r.TookS, r.Netcheck, strings.Join(r.Failures, "; "))
}

// keepLogs copies the logs of a lab.
func keepLogs(from, to string) error {
	logs, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(path)), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
