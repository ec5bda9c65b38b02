// Command local is what testnet/run.sh runs: a network of real processes on
// this machine, brought up and down, shown, demonstrated and tormented.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

const usage = `usage: testnet/run.sh [command] [flags]

  demo     (default) five pillars, four nodes, and what they survive; exits 0 only if all of it held
  up       start a network and leave it running; testnet.json in its directory lists the processes
  status   show how the processes are
  down     end them
  chaos    kill, pause and restart pillars under load, then count what was lost or came twice

flags, for all but where it says so:
`

// errUsage: the command line was wrong, and that was said.
var errUsage = errors.New("usage")

// settings are the command line.
type settings struct {
	command string
	pillars int
	nodes   int
	dir     string // "": not given
	binary  string
	memory  string
	json    bool
	seconds int
	seed    uint64
	rate    int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "testnet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	switch s.command {
	case "up":
		return up(ctx, s, stdout)
	case "down":
		return down(ctx, s, stdout)
	case "status":
		return status(ctx, s, stdout)
	case "chaos":
		return chaos(ctx, s, stdout, stderr)
	default:
		return demo(ctx, s, stdout)
	}
}

// parse reads the command line. The obelisk binary is looked for beside this
// one, where run.sh builds both.
func parse(args []string, stderr io.Writer) (*settings, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &settings{command: "demo"}
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		s.command, args = args[0], args[1:]
	}
	switch s.command {
	case "demo", "up", "down", "status", "chaos":
	case "help":
		args = []string{"-h"}
	default:
		fmt.Fprintf(stderr, "testnet: unknown command %q\n%s", s.command, usage)
		return nil, errUsage
	}
	f := flag.NewFlagSet("testnet", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	f.IntVar(&s.pillars, "pillars", 5, "how many `pillars` (up, demo, chaos)")
	f.IntVar(&s.nodes, "nodes", 4, "how many `nodes` (up, demo, chaos)")
	f.StringVar(&s.dir, "dir", "", "`directory` of the network (default for up, down, status: testnet/.net/net; else a temporary one)")
	f.StringVar(&s.binary, "binary", filepath.Join(filepath.Dir(self), "obelisk"), "the obelisk `binary`")
	f.StringVar(&s.memory, "memory", "", "memory `budget` of each process (default: small ones)")
	f.BoolVar(&s.json, "json", false, "print JSON (status, chaos)")
	f.IntVar(&s.seconds, "seconds", 30, "how many `seconds` of chaos")
	f.Uint64Var(&s.seed, "seed", 1, "which chaos: the same `seed` does the same to the same pillars")
	f.IntVar(&s.rate, "rate", 20, "messages `per second` that each node sends (chaos)")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if err := s.check(f); err != nil {
		fmt.Fprintln(stderr, "testnet:", err)
		return nil, errUsage
	}
	if s.dir == "" && (s.command == "up" || s.command == "down" || s.command == "status") {
		s.dir = filepath.Join(filepath.Dir(self), "..", "net")
	}
	return s, nil
}

func (s *settings) check(f *flag.FlagSet) error {
	least := 1
	switch s.command {
	case "demo", "chaos":
		least = 2
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.pillars < least || s.pillars > 200:
		return fmt.Errorf("--pillars %d: want %d to 200", s.pillars, least)
	case s.nodes < 0 || s.nodes > 1000 || least == 2 && s.nodes < 2:
		return fmt.Errorf("--nodes %d: want %d to 1000", s.nodes, 2*(least-1))
	case s.seconds < 1 || s.rate < 1:
		return errors.New("--seconds and --rate must be at least 1")
	}
	return nil
}

// workDir returns the directory for a network that ends with the command, and
// what removes it.
func (s *settings) workDir(name string) (dir string, remove func() error, err error) {
	if s.dir != "" {
		return s.dir, func() error { return nil }, nil
	}
	dir, err = os.MkdirTemp("", "obelisk-"+name+"-")
	return dir, func() error { return os.RemoveAll(dir) }, err
}

// names of nodes that people can tell apart.
var names = [...]string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy",
	"karl", "lena", "mallory", "nina", "oscar", "peggy", "quentin", "ruth", "sybil", "trent", "ursula",
	"victor", "wendy", "xavier", "yara", "zoe"}

func nodeName(i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s-%d", names[i%len(names)], i/len(names)+1)
}

func pillarName(i int) string { return fmt.Sprintf("pillar-%d", i+1) }
