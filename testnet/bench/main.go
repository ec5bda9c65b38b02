// Command bench loads a network of real pillars on this machine and says how it
// did: real processes of the real binary with their own directories on disk,
// real keys, every message sealed, signed, verified by every pillar and synced
// to disk before it is acknowledged.
//
//	go run ./testnet/bench --pillars 3 --senders 64 --messages 100000 --size 512 --concern 2
//
//	go run ./testnet/bench --mode catchup --messages 100000
//	go run ./testnet/bench --mode idle --nodes 500
//	go run ./testnet/bench --mode resync --missing 1000 --total 1000000 [--where newest] [--explained]
//	go run ./testnet/bench --mode partition --pillars 10 --rate 200 --seconds 60
//	go run ./testnet/bench --mode join --pillars 50 --idle 10
//	go run ./testnet/bench --mode storm --nodes 5000 --transport quic
//	go run ./testnet/bench --mode failover --runs 20 --transport quic
//
// The load comes from light clients in this process, which speak the messages
// of docs/protocol.md over connections of their own; a sender is one message in
// flight. It shares the machine with the pillars, so its own CPU time is shown
// beside theirs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// settings are the command line.
type settings struct {
	mode        string
	pillars     int
	senders     int
	clients     int
	messages    int
	warmup      int
	size        int
	concern     int
	nodes       int
	idleMinutes float64
	runs        int
	address     string
	perIP       int
	rate        int
	seconds     int
	missing     int
	total       int
	where       string
	explained   bool
	spread      string
	transport   string
	memory      string
	binary      string
	dir         string
	profile     string
	ahead       bool
	json        bool
	keep        bool
}

// errUsage: the command line was wrong, and that was said.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	b, err := open(ctx, s)
	if err != nil {
		return err
	}
	var result any
	switch s.mode {
	case "catchup":
		result, err = b.catchup(ctx)
	case "idle":
		result, err = b.idle(ctx)
	case "resync":
		result, err = b.resync(ctx)
	case "partition":
		result, err = b.partition(ctx)
	case "join":
		result, err = b.join(ctx)
	case "storm":
		result, err = b.storm(ctx)
	case "failover":
		result, err = b.failover(ctx)
	default:
		result, err = b.ingest(ctx)
	}
	if err = errors.Join(err, b.close(err != nil || s.keep)); err != nil {
		return err
	}
	if s.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(result)
	}
	_, err = fmt.Fprint(stdout, result)
	return err
}

func parse(args []string, stderr io.Writer) (*settings, error) {
	s := new(settings)
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.mode, "mode", "ingest", "ingest: send messages; catchup: read a full mailbox; idle: hold connections; resync: make two pillars equal again; partition: split the network and heal it; failover: kill pillars in the middle of a conversation; storm: kill a pillar that many are connected to, and bring it back; join: many pillars, one more, and a while of nothing")
	f.IntVar(&s.pillars, "pillars", 3, "pillars")
	f.IntVar(&s.senders, "senders", 64, "senders: messages in flight, all devices together")
	f.IntVar(&s.clients, "clients", 0, "devices that the senders are spread over (default the smaller of senders and 8)")
	f.IntVar(&s.messages, "messages", 100_000, "messages")
	f.IntVar(&s.warmup, "warmup", -1, "messages before the clock starts (default a tenth, at most 2,000)")
	f.IntVar(&s.size, "size", 512, "bytes of a message's plaintext")
	f.IntVar(&s.concern, "concern", 2, "copies before a message counts as acknowledged")
	f.IntVar(&s.nodes, "nodes", 1000, "devices of --mode idle and storm")
	f.StringVar(&s.address, "address", "", "IP address of this machine that pillars listen at in --mode idle and storm, and all devices come from (default 127.0.0.1, of which any number is let in)")
	f.IntVar(&s.perIP, "per-ip", 0, "--per-ip of pillars at that address (default the binary's)")
	f.Float64Var(&s.idleMinutes, "idle", 10, "minutes that --mode join watches a network in which nothing happens")
	f.IntVar(&s.runs, "runs", 20, "kills of --mode failover")
	f.IntVar(&s.rate, "rate", 200, "messages a second in each half of --mode partition")
	f.IntVar(&s.seconds, "seconds", 60, "how long the network is split")
	f.IntVar(&s.missing, "missing", 1000, "records that one of the two pillars of --mode resync lacks")
	f.IntVar(&s.total, "total", 1_000_000, "records that the other one has")
	f.StringVar(&s.where, "where", "scattered", "which of them are missing: scattered or newest")
	f.BoolVar(&s.explained, "explained", false, "they were written while the pillar was away, so that a log explains them; else they are deleted by hand from its disk")
	f.StringVar(&s.spread, "spread", "all", "all: devices are spread over the pillars; first: all are at the first one")
	f.StringVar(&s.transport, "transport", "both", "both, quic or tcp, between everybody")
	f.StringVar(&s.memory, "memory", "", "--memory of each pillar (default the binary's)")
	f.StringVar(&s.binary, "binary", "", "obelisk binary (default: built from this module)")
	f.StringVar(&s.dir, "dir", "", "parent of the temporary directory of the pillars; their disk is measured too")
	f.StringVar(&s.profile, "profile", "", "write a CPU profile of the first pillar under load to this file")
	f.BoolVar(&s.ahead, "ahead", false, "seal and sign before the clock starts, so that the pillars have more of the machine")
	f.BoolVar(&s.json, "json", false, "print JSON")
	f.BoolVar(&s.keep, "keep", false, "keep the pillars' directories")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if err := s.complete(f); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return nil, errUsage
	}
	return s, nil
}

var modes = []string{"ingest", "catchup", "idle", "resync", "partition", "join", "failover", "storm"}

// complete fills in what follows from other settings and says what is wrong.
func (s *settings) complete(f *flag.FlagSet) error {
	if s.clients == 0 {
		s.clients = min(s.senders, 8)
	}
	if s.warmup < 0 {
		s.warmup = min(s.messages/10, 2000)
	}
	switch s.mode {
	case "storm":
		s.pillars, s.concern = 1, 1
	case "resync":
		s.pillars, s.spread = 2, "first"
	case "partition":
		s.transport = "quic" // what drops packets between pillars carries datagrams
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case !slices.Contains(modes, s.mode):
		return fmt.Errorf("--mode %s: want %s", s.mode, strings.Join(modes, ", "))
	case s.where != "scattered" && s.where != "newest":
		return fmt.Errorf("--where %s: want scattered or newest", s.where)
	case s.rate < 1 || s.seconds < 1 || s.idleMinutes < 0:
		return errors.New("--rate and --seconds must be at least 1, --idle at least 0")
	case s.address != "" && net.ParseIP(s.address).To4() == nil, s.perIP < 0:
		return errors.New("--address: want an IPv4 address; --per-ip: at least 1")
	case s.runs < 1:
		return errors.New("--runs must be at least 1")
	case s.mode == "partition" && s.pillars < 2, s.mode == "failover" && s.pillars < 2:
		return fmt.Errorf("--mode %s needs two pillars", s.mode)
	case s.missing < 1 || s.total < s.missing:
		return errors.New("--missing must be from 1 to --total")
	case s.spread != "all" && s.spread != "first":
		return fmt.Errorf("--spread %s: want all or first", s.spread)
	case s.transport != "both" && s.transport != "quic" && s.transport != "tcp":
		return fmt.Errorf("--transport %s: want both, quic or tcp", s.transport)
	case s.pillars < 1 || s.senders < 1 || s.messages < 1 || s.nodes < 1:
		return errors.New("--pillars, --senders, --messages and --nodes must be at least 1")
	case s.clients < 1 || s.clients > s.senders:
		return errors.New("--clients must be from 1 to --senders")
	case s.size < 0 || s.size > overlay.DefaultMaxBody:
		return fmt.Errorf("--size: want 0 to %d", overlay.DefaultMaxBody)
	case s.concern < 1 || s.concern > s.pillars:
		return errors.New("--concern must be from 1 to --pillars")
	}
	return nil
}

// bench is a network under test.
type bench struct {
	*settings
	net     *testnet.Network
	work    string // temporary directory of everything
	pillars []*testnet.Process
	addrs   []pillar
	devices []*device
	proxies *proxies          // between pillars; nil: nothing is
	direct  map[string]string // where pillars behind proxies listen, by name
}

// open builds the binary if there is none and starts the pillars.
func open(ctx context.Context, s *settings) (_ *bench, err error) {
	work, err := os.MkdirTemp(s.dir, "obelisk-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{settings: s, work: work}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close(true))
		}
	}()
	if s.binary == "" {
		s.binary = filepath.Join(work, "obelisk")
		build := exec.CommandContext(ctx, "go", "build", "-o", s.binary, "github.com/obelisk-network/obelisk/cmd/obelisk")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the binary: %w\n%s", err, out)
		}
	}
	options := testnet.Options{Memory: s.memory, LogLevel: "warn", Transports: s.transport}
	if s.address != "" {
		options.Place = b.place
	}
	if s.mode == "partition" {
		b.proxies, b.direct = newProxies(), make(map[string]string)
		options.Announce = b.announce
	}
	b.net, err = testnet.Create(filepath.Join(work, "net"), s.binary, options)
	if err != nil {
		return nil, err
	}
	startCtx, cancel := context.WithTimeout(ctx, 2*time.Minute+time.Duration(s.pillars)*5*time.Second)
	defer cancel()
	for i := range s.pillars {
		p, err := b.net.StartPillar(startCtx, fmt.Sprintf("pillar-%d", i+1))
		if err != nil {
			return nil, err
		}
		if b.proxies != nil {
			b.proxies.place(p, b.half(i))
		}
	}
	b.pillars = b.net.Pillars()
	for _, p := range b.pillars {
		listen := p.Listen
		if b.proxies != nil {
			listen = []string{b.direct[p.Name] + "/p2p/" + p.ID}
		}
		addr, err := parsePillar(listen, s.transport)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		b.addrs = append(b.addrs, addr)
	}
	return b, testnet.WaitTogether(startCtx, b.pillars, s.pillars)
}

// close ends the pillars and, unless keep is set, removes their data.
func (b *bench) close(keep bool) error {
	var errs []error
	errs = append(errs, b.closeDevices())
	if b.net != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		errs = append(errs, b.net.Down(ctx))
	}
	if b.proxies != nil {
		b.proxies.close()
	}
	if keep {
		return errors.Join(append(errs, fmt.Errorf("logs and data are kept in %s", b.work))...)
	}
	return errors.Join(append(errs, os.RemoveAll(b.work))...)
}

// device makes a device of the bench.
func (b *bench) device(ctx context.Context) (*device, error) {
	st, err := b.pillars[0].PillarStatus(ctx)
	if err != nil {
		return nil, err
	}
	network, err := identity.ParseNetwork(st.Network)
	if err != nil {
		return nil, err
	}
	ring, key, err := newRing(filepath.Join(b.work, fmt.Sprintf("sealing-%d", len(b.devices))))
	if err != nil {
		return nil, err
	}
	d, err := newDevice(network, ring, key)
	if err != nil {
		return nil, err
	}
	b.devices = append(b.devices, d)
	return d, nil
}
