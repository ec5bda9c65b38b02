package testnet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// Options are what all processes of a Network have in common.
type Options struct {
	// Memory is the budget of each pillar as --memory takes it; "": the binary's
	// default.
	Memory string
	// StoreLimit is the largest store of each pillar as --store-limit takes it; "":
	// the binary's default, with which a pillar refuses messages on a disk of which a
	// tenth is free, whatever has filled it.
	StoreLimit string
	// NodeMemory is what Memory is, for nodes.
	NodeMemory string
	// LogLevel of all processes. Default info.
	LogLevel string
	// Transports of pillars: "quic", "tcp" or "both". Default both.
	Transports string
	// Announce returns the address that a pillar, which listens on port of
	// 127.0.0.1, announces instead: that of something in front of it. Nil: none.
	Announce func(name string, port int) (string, error)
	// Place returns where a process runs. Nil: all of them on 127.0.0.1.
	Place func(role, name string) Place
}

// Place is where a process runs, if that is not a free port of 127.0.0.1.
type Place struct {
	// Exec is put before the command line of the binary, to run it somewhere
	// else: in a network namespace, say. It must become the binary (exec), so
	// that the process stays one.
	Exec []string
	// Listen is where it listens, as --listen takes it. Nil: on 127.0.0.1.
	Listen []string
	// Args are further flags of run.
	Args []string
	// Dial reaches its admin port or API there, if that is not a Unix socket.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// ErrInUse: the directory holds a network whose processes run.
var ErrInUse = errors.New("a network runs there already")

// ErrNoNetwork: the directory holds no network.
var ErrNoNetwork = errors.New("no network there")

// fileList is where the processes are listed.
const fileList = "testnet.json"

// Network is a directory with the processes of one network. Methods that start
// processes may be called from several goroutines.
type Network struct {
	Dir    string
	binary string
	opt    Options

	mu    sync.Mutex
	procs []*Process   // guarded by mu; see less
	first *Process     // the pillar that has the network key; set by the first add
	ports map[int]bool // guarded by mu; given to pillars
}

// Create begins a network in dir, which must not hold one already. binary is
// the obelisk binary.
func Create(dir, binary string, opt Options) (*Network, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if opt.LogLevel == "" {
		opt.LogLevel = "info"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create network: %w", err)
	}
	if old, err := Open(dir); err == nil {
		for _, p := range old.Processes() {
			if p.Alive() {
				return nil, fmt.Errorf("%s: %w: end it with `testnet/run.sh down --dir %s`, or choose another --dir", dir, ErrInUse, dir)
			}
		}
		return nil, fmt.Errorf("%s holds what an earlier network left: remove it, or choose another --dir", dir)
	}
	return &Network{Dir: dir, binary: binary, opt: opt, ports: make(map[int]bool)}, nil
}

// Open reads the network that another process created in dir.
func Open(dir string) (*Network, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, fileList))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: start one with `testnet/run.sh up --dir %s`", dir, ErrNoNetwork, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	var list []Entry
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("open network: %s: %w", filepath.Join(dir, fileList), err)
	}
	n := &Network{Dir: dir, ports: make(map[int]bool)}
	for _, e := range list {
		n.procs = append(n.procs, &Process{Entry: e, net: n})
	}
	return n, nil
}

// save writes testnet.json.
func (n *Network) save() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]Entry, 0, len(n.procs))
	for _, p := range n.procs {
		if p.ID != "" { // else it never ran
			list = append(list, p.Entry)
		}
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = identity.WriteFileAtomic(filepath.Join(n.Dir, fileList), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", fileList, err)
	}
	return nil
}

// Processes are all processes, whether they run or not: pillars, then nodes, by
// name.
func (n *Network) Processes() []*Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Process(nil), n.procs...)
}

// Pillars are the processes that are pillars.
func (n *Network) Pillars() []*Process { return n.ofRole(RolePillar) }

// Nodes are the processes that are nodes.
func (n *Network) Nodes() []*Process { return n.ofRole(RoleNode) }

func (n *Network) ofRole(role string) []*Process {
	var out []*Process
	for _, p := range n.Processes() {
		if p.Role == role {
			out = append(out, p)
		}
	}
	return out
}

// add makes room for a process.
func (n *Network) add(role, name string) (*Process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.procs {
		if p.Name == name {
			return nil, fmt.Errorf("there is a process %q already", name)
		}
	}
	p := &Process{net: n, Entry: Entry{Role: role, Name: name, Data: filepath.Join(n.Dir, name)}}
	if n.opt.Place != nil {
		p.place = n.opt.Place(role, name)
	}
	n.procs = append(n.procs, p)
	slices.SortFunc(n.procs, order)
	if role == RolePillar && n.first == nil {
		n.first = p
	}
	return p, nil
}

// order has pillars before nodes, and names as people count: pillar-9 before
// pillar-10.
func order(a, b *Process) int {
	if a.Role != b.Role {
		return strings.Compare(b.Role, a.Role)
	}
	aName, aNumber := numbered(a.Name)
	bName, bNumber := numbered(b.Name)
	return cmp.Or(strings.Compare(aName, bName), cmp.Compare(aNumber, bNumber))
}

func numbered(name string) (string, int) {
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		if n, err := strconv.Atoi(name[i+1:]); err == nil {
			return name[:i], n
		}
	}
	return name, 0
}

// StartPillar starts a pillar and returns when it is ready. The first one,
// which must be ready before others are started, makes the network's key;
// every other one is admitted by it and joins by its address.
func (n *Network) StartPillar(ctx context.Context, name string) (*Process, error) {
	p, err := n.add(RolePillar, name)
	if err != nil {
		return nil, err
	}
	args := []string{"run", "--role", RolePillar, "--data", p.Data, "--admin", "127.0.0.1:0", "--log-level", n.opt.LogLevel}
	if p.place.Listen == nil {
		loopback, err := n.loopback(name)
		if err != nil {
			return nil, err
		}
		args = append(args, loopback...)
	}
	args = append(args, p.place.flags()...)
	if n.opt.Memory != "" {
		args = append(args, "--memory", n.opt.Memory)
	}
	if n.opt.StoreLimit != "" {
		args = append(args, "--store-limit", n.opt.StoreLimit)
	}
	if first := n.first; first != p {
		file, err := n.admit(ctx, p, first, args)
		if err != nil {
			return nil, fmt.Errorf("admit %s: %w", name, err)
		}
		args = append(append(args, "--admission", file), first.told("--join")...)
	}
	if err := p.run(ctx, args); err != nil {
		return nil, err
	}
	return p, n.save()
}

// loopback returns the flags of a pillar that listens on 127.0.0.1.
func (n *Network) loopback(name string) ([]string, error) {
	port, err := n.port()
	if err != nil {
		return nil, err
	}
	var args []string
	if n.opt.Transports != "tcp" {
		args = append(args, "--listen", fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port))
	}
	if n.opt.Transports != "quic" {
		args = append(args, "--listen", fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port))
	}
	if n.opt.Announce != nil {
		addr, err := n.opt.Announce(name, port)
		if err != nil {
			return nil, fmt.Errorf("announce %s: %w", name, err)
		}
		args = append(args, "--announce", addr)
	}
	return args, nil
}

// flags are the flags of run that a Place asks for.
func (p Place) flags() []string {
	var args []string
	for _, a := range p.Listen {
		args = append(args, "--listen", a)
	}
	return append(args, p.Args...)
}

// admit does what an operator does to get a new pillar into a network: starts
// it once, so that it makes its keys and says what is missing, and has its ID
// signed where the network key is. It returns the admission's file.
func (n *Network) admit(ctx context.Context, p, first *Process, args []string) (string, error) {
	if len(first.Listen) == 0 {
		return "", fmt.Errorf("%s is not ready", first.Name)
	}
	const exitRefused = 4
	out, err := n.Command(ctx, append(append([]string(nil), args...), "--join", first.Address())...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitRefused {
		return "", fmt.Errorf("a pillar that nobody admitted should exit %d: %v: %s", exitRefused, err, out)
	}
	out, err = n.Command(ctx, "id", "show", "--data", p.Data, "--json")
	if err != nil {
		return "", err
	}
	var who struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(out, &who); err != nil {
		return "", fmt.Errorf("id show: %w: %s", err, out)
	}
	out, err = n.Command(ctx, "network", "admit", who.ID, "--network-key", filepath.Join(first.Data, "network.key"))
	if err != nil {
		return "", err
	}
	file := filepath.Join(n.Dir, p.Name+".admission")
	return file, os.WriteFile(file, out, 0o600)
}

// StartNode starts a node that is told one pillar and nothing else, and returns
// when it is ready.
func (n *Network) StartNode(ctx context.Context, name string, pillar *Process) (*Process, error) {
	p, err := n.add(RoleNode, name)
	if err != nil {
		return nil, err
	}
	args := append([]string{"run", "--role", RoleNode, "--data", p.Data, "--name", name, "--log-level", n.opt.LogLevel}, pillar.told("--pillar")...)
	if p.place.Listen == nil {
		args = append(args, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1")
	}
	args = append(args, p.place.flags()...)
	// The path of a Unix socket has at most 104 to 108 bytes.
	if len(filepath.Join(p.Data, "api.sock")) > 100 {
		args = append(args, "--api", "127.0.0.1:0")
	}
	if n.opt.NodeMemory != "" {
		args = append(args, "--memory", n.opt.NodeMemory)
	}
	if err := p.run(ctx, args); err != nil {
		return nil, err
	}
	return p, n.save()
}

// Command runs the binary to its end and returns what it printed.
func (n *Network) Command(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, n.binary, args...)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+n.Dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return []byte(stderr.String()), fmt.Errorf("obelisk %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// Address is one of the process's addresses, with /p2p.
func (p *Process) Address() string {
	if len(p.Listen) == 0 {
		return ""
	}
	return p.Listen[0]
}

// told is a flag for each of the process's addresses, as a join link has all of
// them: which of them can be reached depends on where one is.
func (p *Process) told(flag string) []string {
	var args []string
	for _, addr := range p.Listen {
		args = append(args, flag, addr)
	}
	return args
}

// Ports for pillars lie below those that systems hand out by themselves, so a
// pillar that is down for a while finds its own free when it comes back.
const (
	firstPort = 18000
	lastPort  = 32000
)

// port finds a port that is free for UDP and TCP.
func (n *Network) port() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if !n.ports[port] && isFree(port) {
			n.ports[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}

func isFree(port int) bool {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	t, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer t.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	u.Close()
	return true
}

// Down ends every process that still is one of this network's, nodes first.
// Those that do not end within ctx are killed.
func (n *Network) Down(ctx context.Context) error {
	var wg sync.WaitGroup
	end := func(list []*Process) error {
		errs := make([]error, len(list))
		for i, p := range list {
			wg.Go(func() { errs[i] = p.Stop(ctx) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	nodes := end(n.Nodes())
	return errors.Join(nodes, end(n.Pillars()))
}

// KillAll ends every process at once, for who is in a hurry.
func (n *Network) KillAll() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, p := range n.Processes() {
		_ = p.Kill(ctx) // gone already, or out of reach; nothing is left to try
	}
}
