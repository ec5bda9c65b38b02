package natlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/obelisk-network/obelisk/testnet"
)

// Lab is a Topology that exists: namespaces, NATs, the internet, and a network
// of processes in them. Its methods are not for concurrent use.
type Lab struct {
	topology Topology
	box      *sandbox
	router   *Router
	net      *testnet.Network
	outside  []netip.Addr // of each gateway, now
	moves    []int        // of each gateway
	home     *testnet.Process
	runs     map[string]int // of each place: how many nodes were there
}

// homePort is where a home pillar listens, so that it finds its NAT's mapping
// again after a restart.
const homePort = 4001

// Open builds a topology. binary is the obelisk binary; what is random on the
// internet comes from seed. Close must be called even after the context ends.
func Open(ctx context.Context, t Topology, binary string, seed uint64) (*Lab, error) {
	box, err := newSandbox(ctx)
	if err != nil {
		return nil, err
	}
	l := &Lab{topology: t, box: box, router: NewRouter(t.Path, seed), runs: make(map[string]int)}
	if err := l.build(ctx, binary); err != nil {
		return nil, errors.Join(fmt.Errorf("open lab: %w", err), l.Close())
	}
	return l, nil
}

// Close ends all processes and removes everything.
func (l *Lab) Close() error {
	if l.net != nil {
		l.net.KillAll()
	}
	l.router.Close()
	return l.box.remove(context.Background())
}

// Dir holds data directories and logs, until Close.
func (l *Lab) Dir() string { return filepath.Join(l.box.dir, "net") }

// Router is the internet.
func (l *Lab) Router() *Router { return l.router }

// Processes are all that were started.
func (l *Lab) Processes() []*testnet.Process { return l.net.Processes() }

func pillarName(i int) string  { return "pillar-" + strconv.Itoa(i+1) }
func gatewayName(i int) string { return "gateway-" + strconv.Itoa(i+1) }

func (l *Lab) build(ctx context.Context, binary string) error {
	for i := range l.topology.Pillars {
		if err := l.attach(ctx, pillarName(i), pillarAddr(i)); err != nil {
			return err
		}
	}
	for i, place := range l.topology.Public {
		if err := l.attach(ctx, place, publicAddr(i)); err != nil {
			return err
		}
	}
	for i, g := range l.topology.Gateways {
		if err := l.gateway(ctx, i, g); err != nil {
			return fmt.Errorf("%s: %w", gatewayName(i), err)
		}
	}
	var err error
	l.net, err = testnet.Create(l.Dir(), binary, testnet.Options{
		Memory: "32MiB", NodeMemory: "32MiB", StoreLimit: "1GiB", LogLevel: "debug", Place: l.place,
	})
	return err
}

// attach makes a namespace that is on the internet.
func (l *Lab) attach(ctx context.Context, place string, addr netip.Addr) error {
	if err := l.box.add(ctx, place); err != nil {
		return err
	}
	tun, err := l.box.openTUN(place, "inet")
	if err != nil {
		return err
	}
	if err := l.address(ctx, place, addr); err != nil {
		tun.Close()
		return err
	}
	return l.router.Attach(addr, tun)
}

// address gives a namespace its public address and a way to all others.
func (l *Lab) address(ctx context.Context, place string, addr netip.Addr) error {
	return l.box.batch(ctx, place,
		"addr add "+addr.String()+"/32 dev inet",
		"link set inet up",
		"route replace default dev inet")
}

// gateway makes a NAT and the network behind it.
func (l *Lab) gateway(ctx context.Context, i int, g Gateway) error {
	place := gatewayName(i)
	if err := l.attach(ctx, place, gatewayAddr(i)); err != nil {
		return err
	}
	l.outside, l.moves = append(l.outside, gatewayAddr(i)), append(l.moves, 0)
	if err := l.box.set(place, "ipv4/ip_forward", "1"); err != nil {
		return err
	}
	prefix := "/" + strconv.Itoa(lanBits)
	if err := l.box.batch(ctx, place,
		"link add lan type bridge",
		"addr add "+lanGateway(i).String()+prefix+" dev lan",
		"link set lan up"); err != nil {
		return err
	}
	// Where bridges hand their frames to iptables, neighbours would be
	// filtered as if they were outside.
	if err := l.box.set(place, "bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, errNoSetting) {
		return err
	}
	if err := command(ctx, g.rules(), "ip", "netns", "exec", l.box.name(place), "iptables-restore"); err != nil {
		return err
	}
	for k, host := range g.Behind {
		if err := l.box.add(ctx, host); err != nil {
			return err
		}
		port := "port" + strconv.Itoa(k)
		if err := l.box.batch(ctx, place,
			"link add "+port+" type veth peer name eth0 netns "+l.box.name(host),
			"link set "+port+" master lan up"); err != nil {
			return err
		}
		if err := l.box.batch(ctx, host,
			"addr add "+lanAddr(i, k).String()+prefix+" dev eth0",
			"link set eth0 up",
			"route add default via "+lanGateway(i).String()); err != nil {
			return err
		}
	}
	return nil
}

// place says where a process runs. Nodes are named after their place, with a
// number.
func (l *Lab) place(role, name string) testnet.Place {
	at := placeOf(role, name)
	p := testnet.Place{Exec: l.box.exec(at), Dial: l.box.dial(at)}
	if role == testnet.RoleNode {
		p.Listen = l.topology.Speech.hostListen(0)
		return p
	}
	for i := range l.topology.Pillars {
		if pillarName(i) == name {
			p.Listen = l.topology.Speech.pillarListen(pillarAddr(i))
			if l.topology.Closed {
				p.Args = []string{"--registration", "closed"}
			}
			return p
		}
	}
	p.Listen = l.topology.Speech.hostListen(homePort)
	p.Args = []string{"--home"}
	return p
}

// placeOf is where a process runs: a node's name has a number after that.
func placeOf(role, name string) string {
	if role == testnet.RoleNode {
		return name[:strings.LastIndexByte(name, '-')]
	}
	return name
}

// StartPillars starts all public pillars and returns when they see each other.
func (l *Lab) StartPillars(ctx context.Context) error {
	for i := range l.topology.Pillars {
		if _, err := l.net.StartPillar(ctx, pillarName(i)); err != nil {
			return err
		}
	}
	return testnet.WaitTogether(ctx, l.net.Pillars(), l.topology.Pillars)
}

// StartHome starts the home pillar, at a place behind a gateway.
func (l *Lab) StartHome(ctx context.Context, place string) error {
	p, err := l.net.StartPillar(ctx, place)
	if err != nil {
		return err
	}
	l.home = p
	return testnet.WaitTogether(ctx, l.net.Pillars(), l.topology.Pillars+1)
}

// public are the pillars that are not at home.
func (l *Lab) public() []*testnet.Process {
	var list []*testnet.Process
	for _, p := range l.net.Pillars() {
		if p != l.home {
			list = append(list, p)
		}
	}
	return list
}

// relaying is the pillar with a circuit, or, if none says it has one, the one
// that node works with.
func (l *Lab) relaying(ctx context.Context, node *testnet.Process) (*testnet.Process, error) {
	st, err := node.NodeStatus(ctx)
	if err != nil {
		return nil, err
	}
	var active *testnet.Process
	for _, p := range l.public() {
		if s, err := p.PillarStatus(ctx); err == nil && s.RelayedCircuits > 0 {
			return p, nil
		}
		if p.ID == st.Pillar {
			active = p
		}
	}
	if active == nil {
		return nil, fmt.Errorf("%s works with %q, which is no public pillar", node.Name, st.Pillar)
	}
	return active, nil
}

// reset ends the nodes of a run, brings pillars back that died in it, and lets
// the gateways forget.
func (l *Lab) reset(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readiness)
	defer cancel()
	for _, p := range l.net.Nodes() {
		if err := p.Stop(ctx); err != nil {
			return err
		}
	}
	for _, p := range l.net.Pillars() {
		if !p.Alive() {
			if err := p.Restart(ctx); err != nil {
				return err
			}
		}
	}
	if err := testnet.WaitTogether(ctx, l.net.Pillars(), len(l.net.Pillars())); err != nil {
		return err
	}
	return l.Forget(ctx)
}

// StartNode starts a new node at a place behind a gateway, with an identity of
// its own, that is told one pillar.
func (l *Lab) StartNode(ctx context.Context, place string, pillar *testnet.Process) (*testnet.Process, error) {
	l.runs[place]++
	return l.net.StartNode(ctx, place+"-"+strconv.Itoa(l.runs[place]), pillar)
}

// Forget makes all gateways forget their mappings, as after a long time.
func (l *Lab) Forget(ctx context.Context) error {
	var errs []error
	for i := range l.topology.Gateways {
		errs = append(errs, command(ctx, "", "ip", "netns", "exec", l.box.name(gatewayName(i)), "conntrack", "-F"))
	}
	return errors.Join(errs...)
}

// Move gives a gateway another public address, as some providers do once a day,
// and with it all its mappings end.
func (l *Lab) Move(ctx context.Context, gateway int) error {
	l.moves[gateway]++
	if l.moves[gateway] > maxMoves {
		return fmt.Errorf("%s moved %d times", gatewayName(gateway), maxMoves)
	}
	place, to := gatewayName(gateway), movedAddr(gateway, l.moves[gateway])
	if err := l.router.Move(l.outside[gateway], to); err != nil {
		return err
	}
	l.outside[gateway] = to
	// Linux ends masqueraded flows when the address goes.
	if err := l.box.ip(ctx, place, "addr", "flush", "dev", "inet"); err != nil {
		return err
	}
	return l.address(ctx, place, to)
}

// Between is what gateways sent each other, both ways: what no pillar carried.
func (l *Lab) Between(a, b int) Traffic {
	there, back := l.passed(a, b), l.passed(b, a)
	return Traffic{Packets: there.Packets + back.Packets, Bytes: there.Bytes + back.Bytes}
}

// passed is what has arrived at gateway b from gateway a, whatever addresses they
// had then.
func (l *Lab) passed(a, b int) (sum Traffic) {
	for _, from := range l.addresses(a) {
		for _, to := range l.addresses(b) {
			t := l.router.Traffic(from, to)
			sum.Packets += t.Packets
			sum.Bytes += t.Bytes
		}
	}
	return sum
}

// addresses are all that a gateway has had.
func (l *Lab) addresses(gateway int) []netip.Addr {
	list := []netip.Addr{gatewayAddr(gateway)}
	for n := range l.moves[gateway] {
		list = append(list, movedAddr(gateway, n+1))
	}
	return list
}
