package obelisk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
	"github.com/obelisk-network/obelisk/seal"
	"github.com/obelisk-network/obelisk/store"
)

// NodeConfig describes a Node. Dir is required, and Join at the first start.
type NodeConfig struct {
	// Dir is the data directory, made with mode 0700 if it does not exist. A
	// copy of it is not a second device: the node notices and makes new keys.
	Dir string
	// Join are pillars to start from, each a multiaddr with /p2p or a join link.
	// One is enough, once: the node learns of the others and remembers.
	Join []string
	// Listen are multiaddrs without /p2p. Default: random ports.
	Listen []string
	// Name is claimed in the directory; not unique, not trusted by anybody.
	Name string
	// KeyType and RSABits describe the account's key, when it is made. Defaults
	// KeyEd25519 and 3072.
	KeyType KeyType
	RSABits int
	// Concern is how many pillars must hold a message before it counts as
	// replicated. Default 2.
	Concern int
	// Direct says whether messages also go to their recipient directly: on, off
	// or only. Presence says who may ask where this device is: contacts, anyone
	// or nobody. Defaults on, contacts.
	Direct, Presence string
	// StoreLimit is the size of outbox and inbox on disk, in bytes, above which
	// nothing more is sent; what comes is still received. Default 90 % of the
	// disk.
	StoreLimit uint64
	// Memory is about how much the store may take in bytes, at least 2 MiB.
	// Default 4 MiB.
	Memory int64

	// API is where the local API listens: unix:PATH or HOST:PORT; "" or Off: it
	// does not. APISocket(Dir) is the usual place.
	API string

	// Version is told to others. Default Version().
	Version string
	// Logger gets what an operator acts on. Default: discarded.
	Logger *slog.Logger
	// Registry collects the metrics. Default: none are kept.
	Registry *prometheus.Registry
}

// Validate fills in defaults and says what is missing or contradictory.
func (c *NodeConfig) Validate() error {
	if c.Dir == "" {
		return fmt.Errorf("%w: no data directory", ErrConfig)
	}
	if c.KeyType == "" {
		c.KeyType = KeyEd25519
	}
	if c.RSABits == 0 {
		c.RSABits = 3072
	}
	switch c.KeyType {
	case KeyEd25519, KeyRSA:
	default:
		return fmt.Errorf("%w: key type %q; want ed25519 or rsa", ErrConfig, c.KeyType)
	}
	if c.RSABits < identity.MinRSABits || c.RSABits > identity.MaxRSABits {
		return fmt.Errorf("%w: RSA of %d bits; want %d to %d", ErrConfig, c.RSABits, identity.MinRSABits, identity.MaxRSABits)
	}
	if c.Concern < 0 || c.Concern > 255 {
		return fmt.Errorf("%w: a concern of %d copies; want 1 to 255", ErrConfig, c.Concern)
	}
	switch c.Direct {
	case "", "on", "off", "only":
	default:
		return fmt.Errorf("%w: direct %q; want on, off or only", ErrConfig, c.Direct)
	}
	switch c.Presence {
	case "", "contacts", "anyone", "nobody":
	default:
		return fmt.Errorf("%w: presence %q; want contacts, anyone or nobody", ErrConfig, c.Presence)
	}
	if err := overlay.CheckName(c.Name); err != nil {
		return fmt.Errorf("%w: name: %w", ErrConfig, err)
	}
	if c.API == Off {
		c.API = ""
	}
	if c.API != "" && !isUnix(c.API) {
		if _, _, err := net.SplitHostPort(c.API); err != nil {
			return fmt.Errorf("%w: API address %q; want unix:PATH, HOST:PORT or off", ErrConfig, c.API)
		}
		if !admin.IsLoopback(c.API) {
			return fmt.Errorf("%w: the API address %s is reached by others; it must be a loopback address or a Unix socket", ErrConfig, c.API)
		}
	}
	if c.Version == "" {
		c.Version = Version()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func isUnix(addr string) bool { return len(addr) > 5 && addr[:5] == "unix:" }

// Node is a running node. All methods are safe for concurrent use.
type Node struct {
	cfg     NodeConfig
	log     *slog.Logger
	life    *lifecycle
	dir     *dataDir
	account *identity.AccountKey
	keyring *seal.Keyring
	table   overlay.Table
	invited []overlay.Invitation
	listen  []multiaddr.Multiaddr
	started time.Time
	api     string // where the local API listens; "" if it does not
	// checking is taken by the Netcheck that runs.
	checking chan struct{}

	mu     sync.Mutex
	parts  *nodeParts // guarded by mu; replaced when the device gets a new key
	used   uint64     // guarded by mu; bytes of the store at usedAt
	usedAt time.Time  // guarded by mu
}

// nodeParts are what depends on the device's key.
type nodeParts struct {
	host      *relay.Host
	core      *overlay.Node
	protected *protector
}

// OpenNode starts a node and returns when it can be used, which does not mean
// that it has found a pillar: messages wait in the outbox until it has. ctx
// bounds the start only: the node runs until Close, or until Done tells that
// it failed.
//
// Errors: ErrLocked, ErrConfig, an *Error with wrong_network, and what
// identity, seal, store and relay say of keys, disk and addresses.
//
//	local API ── run.json
//	    │
//	  Node ──────► overlay.Node ──► store.PebbleTable, seal.Keyring
//	    │               │
//	    └─ reserves ─► relay.Host
//	                Links, Peers, Traversal
//
// Started: lock, keys, keyring, table, host, node, listening, local API,
// run.json; stopped in the reverse order.
func OpenNode(ctx context.Context, cfg NodeConfig) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	join, listen, _, err := parseAddresses(cfg.Join, cfg.Listen, nil)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := openDataDir(cfg.Dir, RoleNode)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, life: newLifecycle(), dir: dir, listen: listen, started: time.Now(),
		checking: make(chan struct{}, 1)}
	n.life.onStop("lock", dir.close)
	if err := n.start(join); err != nil {
		return nil, n.life.abandon(err)
	}
	n.life.supervise()
	return n, nil
}

func (n *Node) start(join []string) error {
	var err error
	if n.account, _, err = identity.LoadOrCreateAccountKey(n.dir.file(fileAccount), n.cfg.KeyType, n.cfg.RSABits); err != nil {
		return err
	}
	device, _, err := identity.LoadOrCreateDeviceKey(n.dir.file(fileDevice))
	if err != nil {
		return err
	}
	if n.invited, err = n.dir.remember(join); err != nil {
		return err
	}
	if n.keyring, err = seal.OpenKeyring(n.dir.file(dirSealing)); err != nil {
		return err
	}
	table, err := store.OpenTable(store.TableConfig{Dir: n.dir.file(dirStore), Memory: n.cfg.Memory, Logger: n.log})
	if err != nil {
		return err
	}
	n.table = table
	n.life.onStop("store", table.Close)
	if n.parts, err = n.build(device); err != nil {
		return err
	}
	n.life.onStop("connections", func() error { return n.current().host.Shutdown() })
	n.life.run("node", n.run)
	if err := n.startAPI(); err != nil {
		return err
	}
	n.life.onStop("run.json", n.dir.removeRun)
	written := n.runInfo()
	if err := n.dir.writeRun(written); err != nil {
		return err
	}
	n.life.run("run.json", func(ctx context.Context) error { return n.dir.keepRun(ctx, written, n.runInfo) })
	n.log.Info("node ready", "account", n.Account(), "device", n.Device(), "api", n.api)
	return nil
}

// build makes what depends on the device's key. On success the host listens.
func (n *Node) build(device *identity.DeviceKey) (*nodeParts, error) {
	network, err := n.dir.network()
	if err != nil {
		return nil, err
	}
	rc := relay.Config{Key: device.Private(), Role: relay.RoleNode, Listen: n.listen,
		UserAgent: "obelisk/" + n.cfg.Version, Logger: n.log}
	nc := overlay.NodeConfig{
		Account: n.account, Device: device, Sealing: n.keyring, Table: n.table, Network: network, Pin: n.dir.pin,
		Bootstrap: n.invited, Name: n.cfg.Name, Concern: n.cfg.Concern, Direct: n.cfg.Direct,
		Presence: n.cfg.Presence, Logger: n.log,
	}
	if n.cfg.Registry != nil { // a nil pointer in the interface would not be nil
		rc.Registerer, nc.Registerer = n.cfg.Registry, n.cfg.Registry
	}
	host, err := relay.New(rc)
	if err != nil {
		return nil, err
	}
	nc.Links, nc.Peers, nc.Traversal = host, host, host
	nc.PillarsChanged = host.Reconsider
	core, err := overlay.NewNode(nc)
	if err == nil {
		err = host.Listen()
	}
	if err != nil {
		return nil, errors.Join(err, host.Shutdown())
	}
	return &nodeParts{host, core, newProtector(host.Protect)}, nil
}

// run keeps the node going. A restored or copied data directory gets a new
// device key: two devices under one name would write two histories.
func (n *Node) run(ctx context.Context) error {
	for {
		err := n.runParts(ctx, n.current())
		if !errors.Is(err, overlay.ErrCloned) || ctx.Err() != nil {
			return err
		}
		n.log.Warn("this data directory was restored or copied: the device gets a new key", "device", n.Device())
		if err := n.replaceDevice(); err != nil {
			return fmt.Errorf("new device key: %w", err)
		}
	}
}

func (n *Node) runParts(ctx context.Context, parts *nodeParts) error {
	reserving, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		_ = parts.host.KeepReserved(reserving, func() []peer.ID { // ends with its context only
			at := worksWith(parts.core)
			parts.protected.set(at)
			for _, r := range parts.host.Reservations() {
				if errors.Is(r.Err, overlay.ErrFull) {
					parts.core.Crowded(PillarID(r.Pillar))
				}
			}
			return at
		})
	})
	work.Go(func() { watchNAT(reserving, parts) })
	err := parts.core.Run(ctx)
	stop()
	work.Wait()
	return err
}

// worksWith are the active and the standby pillar: the connections with them
// are kept.
func worksWith(core *overlay.Node) []peer.ID {
	var at []peer.ID
	for _, p := range core.Pillars() {
		if p.Active || p.Standby {
			at = append(at, peer.ID(p.ID))
		}
	}
	return at
}

// replaceDevice puts the device key aside, for whoever wants to know, and goes
// on with a new one.
func (n *Node) replaceDevice() error {
	old := n.current()
	if err := old.host.Shutdown(); err != nil {
		return err
	}
	aside := fmt.Sprintf("%s.cloned-%d", n.dir.file(fileDevice), time.Now().Unix())
	if err := os.Rename(n.dir.file(fileDevice), aside); err != nil {
		return err
	}
	device, _, err := identity.LoadOrCreateDeviceKey(n.dir.file(fileDevice))
	if err != nil {
		return err
	}
	parts, err := n.build(device)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.parts = parts
	n.mu.Unlock()
	return nil
}

func (n *Node) current() *nodeParts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.parts
}

func (n *Node) core() *overlay.Node { return n.current().core }

func (n *Node) startAPI() error {
	if n.cfg.API == "" {
		return nil
	}
	token, err := admin.LoadOrCreateToken(n.dir.file(fileAPIToken))
	if err != nil {
		return err
	}
	ln, err := admin.Listen(n.cfg.API)
	if err != nil {
		return err
	}
	n.api = admin.ListenAddr(ln)
	h := admin.NewNodeHandler(n, admin.Config{Token: token, Logger: n.log.With("component", "api")})
	n.life.run("local API", func(ctx context.Context) error { return admin.Serve(ctx, ln, h, n.log) })
	return nil
}

func (n *Node) runInfo() *RunInfo {
	info := &RunInfo{
		Role: RoleNode.String(), ID: n.Device().String(), Account: n.Account().String(), PID: os.Getpid(),
		Version: n.cfg.Version, Listen: []string{}, JoinLink: n.JoinLink(), API: n.api, Started: n.started.UTC(),
	}
	if network := n.Network(); !network.IsZero() {
		info.Network = network.String()
	}
	for _, a := range orderAddrs(n.current().host.Addrs()) {
		info.Listen = append(info.Listen, a.String()+"/p2p/"+info.ID)
	}
	return info
}

// Run is what run.json says.
func (n *Node) Run() RunInfo { return *n.runInfo() }

// Account names whom the node sends and receives for.
func (n *Node) Account() AccountID { return n.account.ID() }

// Device names this installation. A node that finds itself restored or copied
// gets another.
func (n *Node) Device() DeviceID { return n.core().Device() }

// Network is the pinned network, zero until there is one.
func (n *Node) Network() NetworkID {
	id, err := identity.ParseNetwork(n.Status().Network)
	if err != nil {
		return NetworkID{} // none is pinned
	}
	return id
}

// APIAddr is where the local API listens, "" if it does not.
func (n *Node) APIAddr() string { return n.api }

// JoinLink pins the network and names pillars that the node knows; "" until it
// knows one.
func (n *Node) JoinLink() string { return n.core().JoinLink() }

// ContactLink is what others add this account with.
func (n *Node) ContactLink() string { return overlay.ContactLink(n.Account(), n.cfg.Name) }

// Status is what the node says of itself.
func (n *Node) Status() NodeStatus { return n.core().Status() }

// Done is closed when the node has stopped.
func (n *Node) Done() <-chan struct{} { return n.life.done }

// Err is why it stopped; nil while it runs and after a Close without trouble.
func (n *Node) Err() error { return n.life.reason() }

// Close stops the node and returns when it has stopped. What is queued is sent
// at the next start. Closing twice is fine.
func (n *Node) Close() error { return n.life.shut() }

var _ admin.Node = (*Node)(nil)
