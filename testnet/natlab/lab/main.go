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
	open := flag.String("open", "", "instead: build the topology of one `scenario`, start its pillars and a node at every place, and keep it all up until interrupted, to be asked by hand")
	speak := flag.String("speak", "", "with -open: what pillars and nodes `speak` instead of what the scenario says: all, ports (no WebSocket on port 443), quic or tcp")
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
	var byHand *natlab.Scenario
	if *open != "" {
		i := slices.Index(names, *open)
		if i < 0 || *only != "" {
			return 2, fmt.Errorf("-open %s: want one scenario, and no -only: %s", *open, strings.Join(names, ", "))
		}
		byHand = &natlab.Scenarios[i]
	}
	speech := natlab.Speech(*speak)
	if !slices.Contains([]natlab.Speech{"", natlab.SpeakAll, natlab.SpeakPorts, natlab.SpeakQUIC, natlab.SpeakTCP}, speech) || speech != "" && byHand == nil {
		return 2, fmt.Errorf("-speak %s: want all, ports, quic or tcp, and -open", speech)
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
	if byHand != nil {
		return keepOpen(ctx, byHand, speech, *binary, *seed)
	}
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

// keepOpen has a lab stand until ctx ends.
func keepOpen(ctx context.Context, s *natlab.Scenario, speech natlab.Speech, binary string, seed uint64) (code int, err error) {
	t := s.Topology
	if speech != "" {
		t.Speech = speech
	}
	l, err := natlab.Open(ctx, t, binary, seed)
	if err != nil {
		return 3, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Furnish(ctx, s.Home); err != nil {
		return 3, err
	}
	ask, err := l.Asker(binary)
	if err != nil {
		return 3, err
	}
	fmt.Printf("%s: %s\n", s.Name, s.Says)
	for _, p := range l.Processes() {
		fmt.Printf("%s is process %d, %s\n", p.Name, p.PID, strings.Join(p.Listen, " "))
	}
	fmt.Printf("ask them with\n  %s NAME COMMAND [FLAG]...\nend it with an interrupt\n", ask)
	<-ctx.Done()
	return 0, nil
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
