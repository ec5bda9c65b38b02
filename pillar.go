package obelisk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
	"github.com/obelisk-network/obelisk/store"
)

// Memory budgets in bytes.
const (
	DefaultMemory = 512 << 20
	minMemory     = 8 << 20
)

// PillarConfig describes a Pillar. Dir is required.
type PillarConfig struct {
	// Dir is the data directory, made with mode 0700 if it does not exist.
	Dir string
	// Listen and Announce are multiaddrs without /p2p, e.g.
	// /ip4/0.0.0.0/udp/4001/quic-v1; port 0 picks a free one. Defaults: UDP and
	// TCP port 4001 on all addresses; what it listens on.
	Listen, Announce []string
	// Join are pillars to start from, each a multiaddr with /p2p or a join link.
	// They are remembered.
	Join []string
	// NetworkKey is the file of the network key. Default network.key in Dir,
	// which is made, and with it a network, only if the pillar knows of no
	// network: neither Join, now or earlier, nor an admission.
	NetworkKey string
	// Admission is the file of an admission by who holds the network key; it is
	// read again when one is needed. Default admission in Dir.
	Admission string
	// Home says that the pillar is behind a NAT and is reached through others: of
	// its own addresses only those of Announce are told.
	Home bool
	// Rejoin lets a pillar that left for good belong to its network again.
	Rejoin bool
	// Name is told to others beside the ID; anybody can claim any.
	Name string
	// Concern is how many pillars must hold a message before it counts as
	// replicated, where its sender does not say. Default 2.
	Concern int
	// StoreLimit is the largest store in bytes. Default 90 % of the disk.
	StoreLimit uint64
	// Memory is about how much the pillar may take in bytes, at least 8 MiB.
	// Default DefaultMemory.
	Memory int64
	// Registration says who may register. Default RegistrationOpen.
	Registration Registration
	// MaxPeers is about how many nodes and pillars may be connected at once; an
	// idle one takes about 70 KB of memory. PerIP is how many connections, and
	// how many reservations at the relay, one IPv4 address or IPv6 /56 may have,
	// PerSubnet how many connections an IPv4 /24 or IPv6 /48. Defaults
	// relay.DefaultPillarPeers, relay.DefaultPillarPerIP and four times PerIP.
	MaxPeers, PerIP, PerSubnet int

	// Admin is the HOST:PORT of the admin port; "" or Off: none. An address that
	// others reach needs a certificate or AdminInsecure.
	Admin string
	// AdminTLSCert and AdminTLSKey are PEM files.
	AdminTLSCert, AdminTLSKey string
	// AdminInsecure allows an admin port without TLS on any address.
	AdminInsecure bool

	// Version is told to others and stands in the status. Default Version().
	Version string
	// Logger gets what an operator acts on. Default: discarded.
	Logger *slog.Logger
	// Registry collects the metrics. Default: one of its own; two pillars must
	// not share one.
	Registry *prometheus.Registry
}

// Validate fills in defaults and says what is missing or contradictory.
func (c *PillarConfig) Validate() error {
	if c.Dir == "" {
		return fmt.Errorf("%w: no data directory", ErrConfig)
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Memory < minMemory {
		return fmt.Errorf("%w: a memory budget of %d bytes; a pillar needs %d", ErrConfig, c.Memory, minMemory)
	}
	if c.Concern < 0 || c.Concern > 255 {
		return fmt.Errorf("%w: a concern of %d copies; want 1 to 255", ErrConfig, c.Concern)
	}
	if c.MaxPeers < 0 || c.PerIP < 0 || c.PerSubnet < 0 {
		return fmt.Errorf("%w: a negative number of connections", ErrConfig)
	}
	if c.PerSubnet > 0 && c.PerSubnet < c.PerIP {
		return fmt.Errorf("%w: %d connections from one address and %d from its subnet; want no less from the subnet", ErrConfig, c.PerIP, c.PerSubnet)
	}
	switch c.Registration {
	case "", RegistrationOpen, RegistrationClosed:
	default:
		return fmt.Errorf("%w: registration %q; want open or closed", ErrConfig, c.Registration)
	}
	if c.Admin == Off {
		c.Admin = ""
	}
	if (c.AdminTLSCert == "") != (c.AdminTLSKey == "") {
		return fmt.Errorf("%w: --admin-tls-cert and --admin-tls-key go together", ErrConfig)
	}
	if c.Admin != "" {
		if _, _, err := net.SplitHostPort(c.Admin); err != nil {
			return fmt.Errorf("%w: admin address %q; want HOST:PORT or off", ErrConfig, c.Admin)
		}
		if !admin.IsLoopback(c.Admin) && c.AdminTLSCert == "" && !c.AdminInsecure {
			return fmt.Errorf("%w: the admin address %s is reached by others: give --admin-tls-cert and --admin-tls-key, or --admin-insecure", ErrConfig, c.Admin)
		}
	}
	if c.Version == "" {
		c.Version = Version()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
		c.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	return nil
}

// Pillar is a running pillar. All methods are safe for concurrent use.
type Pillar struct {
	cfg  PillarConfig
	log  *slog.Logger
	life *lifecycle
	dir  *dataDir
	host *relay.Host
	core *overlay.Pillar
	// relaying is core, for the relay service, which runs before there is one.
	relaying  atomic.Pointer[overlay.Pillar]
	mesh      *gossip.Mesh
	protected *protector
	home      *homeReach           // nil unless it is a home pillar
	invited   []overlay.PillarAddr // given by hand, now or earlier
	network   identity.NetworkID
	started   time.Time
	admin     string // where the admin port listens; "" if it does not
	opening   *admin.Opening
	access    admin.Config
	leaving   sync.Mutex
}

// OpenPillar starts a pillar and returns when it serves. ctx bounds the start
// only: the pillar runs until Close, or until Done tells that it failed.
//
// Errors: ErrLocked, ErrNotAdmitted, ErrConfig, an *Error with wrong_network,
// and what identity, store and relay say of keys, disk and addresses.
//
//	                       admin port ── run.json
//	                            │
//	    relay.Host ◄──────── Pillar ─────► overlay.Pillar ─► store.Pebble
//	Links, Packets, Peers       │              ▲    │
//	        ▲                   │      Replica │    │ Mesh
//	        └──────────── gossip.Mesh ─────────┘◄───┘
//
// Started: lock, keys, admin port (alive, not ready), store, host, listening,
// pillar, mesh, what the admin port shows, run.json; stopped in the reverse order.
func OpenPillar(ctx context.Context, cfg PillarConfig) (*Pillar, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	invited, listen, announce, err := parseAddresses(cfg.Join, cfg.Listen, cfg.Announce)
	if err != nil {
		return nil, err
	}
	dir, err := openDataDir(cfg.Dir, RolePillar)
	if err != nil {
		return nil, err
	}
	p := &Pillar{cfg: cfg, log: cfg.Logger, life: newLifecycle(), dir: dir, started: time.Now()}
	p.life.onStop("lock", dir.close)
	if err := p.start(ctx, invited, listen, announce); err != nil {
		return nil, p.life.abandon(err)
	}
	p.life.supervise()
	return p, nil
}

// parseAddresses reads what must be right before anything is made on disk.
func parseAddresses(join, listen, announce []string) ([]string, []multiaddr.Multiaddr, []multiaddr.Multiaddr, error) {
	for _, j := range join {
		if _, err := overlay.ParseInvitation(j); err != nil {
			return nil, nil, nil, err
		}
	}
	l, err := relay.ParseAddrs(listen)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a, err := relay.ParseAddrs(announce)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return join, l, a, nil
}

func (p *Pillar) start(ctx context.Context, join []string, listen, announce []multiaddr.Multiaddr) error {
	key, _, err := identity.LoadOrCreatePillarKey(p.dir.file(filePillar))
	if err != nil {
		return err
	}
	invitations, err := p.dir.remember(join)
	if err != nil {
		return err
	}
	member, err := p.dir.findMembership(&p.cfg, key.ID(), invitations)
	if err != nil {
		return err
	}
	if err := p.listenAdmin(); err != nil {
		return err
	}
	records, err := store.OpenPebble(store.PebbleConfig{Dir: p.dir.file(dirStore), Memory: p.cfg.Memory / 2, Logger: p.log})
	if err != nil {
		return err
	}
	p.life.onStop("store", records.Close)
	p.host, err = relay.New(relay.Config{
		Key: key.Private(), Role: relay.RolePillar, Home: p.cfg.Home, Listen: listen, Announce: announce,
		UserAgent: "obelisk/" + p.cfg.Version, Logger: p.log, Registerer: p.cfg.Registry,
		MaxPeers: p.cfg.MaxPeers, PerIP: p.cfg.PerIP, PerSubnet: p.cfg.PerSubnet, RelayUser: p.relayUser,
	})
	if err != nil {
		return err
	}
	p.life.onStop("connections", p.host.Shutdown)
	// The pillar's record says where it listens, so that comes first, and before
	// the first connection: one that does not leave from a listening port shows
	// nobody where this pillar could be reached behind its NAT. Whoever connects
	// before the handlers are there tries again.
	if err := p.host.Listen(); err != nil {
		return err
	}
	if member.network.IsZero() {
		if member.network, p.invited, err = learnNetwork(ctx, p.host, key.ID(), invitations); err != nil {
			return err
		}
	}
	if _, err := member.admit(uint64(p.started.UnixMilli())); err != nil {
		return err
	}
	if err := p.dir.pin(member.network); err != nil {
		return err
	}
	p.network = member.network
	if p.cfg.Home {
		p.home = newHomeReach(p.ID())
	}
	core, err := overlay.NewPillar(overlay.PillarConfig{
		Network: p.network, Key: key, Store: records, Links: p.host, Peers: p.host,
		Admit: member.admit, Addrs: p.told, Home: p.cfg.Home, Name: p.cfg.Name, Rejoin: p.cfg.Rejoin,
		Concern: p.cfg.Concern, Registration: p.cfg.Registration, StoreLimit: p.cfg.StoreLimit, MaxSessions: p.cfg.MaxPeers,
		Disk:   func() (uint64, uint64, error) { return diskSpace(p.dir.path) },
		Logger: p.log, Registerer: p.cfg.Registry,
	})
	if err != nil {
		return err
	}
	p.core = core
	p.relaying.Store(core)
	for _, inv := range invitations {
		p.invited = append(p.invited, inv.Pillars...)
	}
	p.mesh, err = gossip.New(gossip.Config{
		Network: p.network, Key: key, Links: p.host, Packets: p.host, Peers: p.host,
		Roster: p.core.Roster(), Replica: p.core, Records: p.core, Notes: p.core, Own: p.core.Record,
		Full: p.core.Full, Confirmed: p.core.ClockConfirmed, Bootstrap: p.invited, Logger: p.log, Registerer: p.cfg.Registry,
		Devices: p.core,
	})
	if err != nil {
		return err
	}
	p.core.LocateThrough(p.mesh)
	p.life.run("pillar", func(ctx context.Context) error { return p.core.Run(ctx, p.mesh) })
	p.life.run("mesh", p.mesh.Run)
	p.protected = newProtector(p.host.Protect)
	p.life.run("protection", p.protectPillars)
	if p.home != nil {
		p.life.run("reservations", p.stayReachable)
	}
	if err := p.dir.takeAllowed(p.core.Allow); err != nil {
		return err
	}
	if err := p.dir.takeRevocations(func(text string) error {
		_, err := p.Revoke(ctx, text)
		if errors.As(err, new(*overlay.Error)) {
			p.log.Error("revocation not taken", "err", err)
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	told := newPillarCollector(p)
	if err := p.cfg.Registry.Register(told); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	p.life.onStop("metrics", func() error {
		p.cfg.Registry.Unregister(told)
		return nil
	})
	p.startAdmin()
	if p.home != nil {
		p.awaitReach(ctx)
	}
	p.life.onStop("run.json", p.dir.removeRun)
	written := p.runInfo()
	if err := p.dir.writeRun(written); err != nil {
		return err
	}
	if p.home != nil {
		p.life.run("run.json", func(ctx context.Context) error { return p.dir.keepRun(ctx, written, p.runInfo) })
	}
	p.log.Info("pillar ready", "pillar", p.ID(), "network", p.network, "admin", p.admin)
	return nil
}

// relayUser says what somebody is to this pillar as a relay: a device that is
// registered here now, an admitted pillar, or nobody.
func (p *Pillar) relayUser(id peer.ID) relay.RelayUser {
	core := p.relaying.Load()
	if core == nil {
		return relay.RelayUser{}
	}
	if account, ok := core.Registered(DeviceID(id)); ok {
		return relay.RelayUser{Class: relay.RelayNode, Account: account.String()}
	}
	pillar := PillarID(id)
	if !core.Roster().Admitted(pillar, uint64(time.Now().UnixMilli())) {
		return relay.RelayUser{}
	}
	if e, ok := core.Roster().Lookup(pillar); ok && e.Info.Home {
		return relay.RelayUser{Class: relay.RelayHomePillar}
	}
	return relay.RelayUser{Class: relay.RelayPillar}
}

func (p *Pillar) runInfo() *RunInfo {
	return &RunInfo{
		Role: RolePillar.String(), ID: p.ID().String(), PID: os.Getpid(), Version: p.cfg.Version,
		Network: p.network.String(), Listen: p.Listen(), JoinLink: p.JoinLink(), Admin: p.admin, Started: p.started.UTC(),
	}
}

// Run is what run.json says.
func (p *Pillar) Run() RunInfo { return *p.runInfo() }

// ID names the pillar.
func (p *Pillar) ID() PillarID { return PillarID(p.host.ID()) }

// Network is the network it belongs to.
func (p *Pillar) Network() NetworkID { return p.network }

// Listen is where others reach it: multiaddrs with /p2p, as Join takes them. A
// home pillar has none before a public one relays for it.
func (p *Pillar) Listen() []string {
	out := []string{}
	for _, a := range p.addrs() {
		out = append(out, a.String())
	}
	return out
}

func (p *Pillar) addrs() []overlay.PillarAddr {
	var out []overlay.PillarAddr
	told := p.told()
	if e, ok := p.core.Roster().Lookup(p.ID()); ok && p.home != nil {
		told = e.Info.Addrs
	}
	for _, a := range told {
		out = append(out, overlay.PillarAddr{Pillar: p.ID(), Addr: a})
	}
	return out
}

// told is the addresses others are told: in the operator's order, if there is
// one. A home pillar's own are of no use to others; nil: those are not known
// yet at which it is reached.
func (p *Pillar) told() []multiaddr.Multiaddr {
	if p.home != nil {
		var announced []multiaddr.Multiaddr
		if len(p.cfg.Announce) > 0 {
			announced = p.host.Addrs()
		}
		return append(announced, p.home.told()...)
	}
	if len(p.cfg.Announce) > 0 {
		return p.host.Addrs()
	}
	return orderAddrs(p.host.Addrs())
}

// JoinLink pins the network and names this pillar's addresses; "" while a home
// pillar has none.
func (p *Pillar) JoinLink() string {
	addrs := p.addrs()
	if len(addrs) == 0 {
		return ""
	}
	return overlay.JoinLink(p.network, addrs...)
}

// AdminAddr is where the admin port listens, "" if it does not.
func (p *Pillar) AdminAddr() string { return p.admin }

// AddPillar connects to another pillar of the network, given as a multiaddr
// with /p2p or a join link, and returns when it is in the roster: from then on
// both clusters are one and synchronise.
func (p *Pillar) AddPillar(ctx context.Context, addr string) error {
	inv, err := overlay.ParseInvitation(addr)
	if err != nil {
		return err
	}
	if !inv.Network.IsZero() && inv.Network != p.network {
		return overlay.Refuse(overlay.CodeWrongNetwork, "the join link leads into network %s, this pillar belongs to %s", inv.Network, p.network)
	}
	for _, a := range inv.Pillars {
		if e := p.mesh.Inject(ctx, a); e == nil {
			return nil // one is enough: it knows the others
		} else {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Allow lets an account register where registration is closed.
func (p *Pillar) Allow(a AccountID) error { return p.core.Allow(a) }

// Nodes is a page of the directory, after an account; next is "" at its end.
func (p *Pillar) Nodes(after AccountID, limit int) (page []NodeEntry, next AccountID, err error) {
	return p.core.Nodes(after, limit)
}

// Pillars describes every other pillar of the network.
func (p *Pillar) Pillars() []admin.PillarEntry {
	var out []admin.PillarEntry
	now := uint64(time.Now().UnixMilli())
	for _, s := range p.mesh.Pillars() {
		e := admin.NewPillarEntry(&s)
		if e.Standing = p.core.Roster().Standing(s.ID, now); e.Standing == overlay.StandingRevoked && e.State != overlay.PillarLeft {
			e.State = overlay.PillarDead // it is none, whatever membership says of it
		}
		e.LogsPaused = p.core.LogsPaused(s.ID)
		out = append(out, e)
	}
	return out
}

// Status is what the pillar says of itself.
func (p *Pillar) Status() PillarStatus {
	s := p.core.Status()
	others := p.mesh.Pillars()
	out := PillarStatus{
		Role: RolePillar.String(), ID: p.ID().String(), Name: p.cfg.Name, Network: p.network.String(), Version: p.cfg.Version,
		Started: p.started.UTC(), UptimeS: int64(time.Since(p.started).Seconds()), Listen: p.Listen(),
		Records: s.Records, Mailboxes: s.Mailboxes, StoreBytes: dirSize(p.dir.file(dirStore)), NodesConnected: s.NodesConnected,
		RelayedCircuits: p.host.Circuits(), PillarsAlive: 1, Converged: p.core.Converged(others),
		ClockSkewMS: s.ClockSkew.Milliseconds(), ClockWarning: s.ClockText, Standing: s.Standing,
		Draining: s.Draining, Full: s.Full, CatchingUp: s.CatchingUp, Diverged: s.Diverged,
		Home: p.home != nil, Relays: []PillarID{}, Expiring: admin.NewExpiringStatus(&s.Expiring),
	}
	if p.home != nil {
		out.Relays = append(out.Relays, p.home.relays()...)
	}
	if s.Log.Log != (overlay.LogID{}) {
		out.Log = admin.LogStatus{ID: s.Log.Log.String(), Seq: s.Log.Seq}
	}
	for _, o := range others {
		if o.State == overlay.PillarAlive || o.State == overlay.PillarFull {
			out.PillarsAlive++
		}
	}
	return out
}

// Done is closed when the pillar has stopped.
func (p *Pillar) Done() <-chan struct{} { return p.life.done }

// Err is why it stopped; nil while it runs and after a Close without trouble.
func (p *Pillar) Err() error { return p.life.reason() }

// Close stops the pillar and returns when it has stopped. Everything it
// acknowledged is on disk. Closing twice is fine.
func (p *Pillar) Close() error { return p.life.shut() }

var _ admin.Pillar = (*Pillar)(nil)
