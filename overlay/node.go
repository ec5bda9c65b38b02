package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// ErrCloned is what Node.Run returns when the network knows a newer device
// record of this device than its own disk: the data directory is a restored
// copy, or another process runs with another copy of it. Going on would write
// two histories under one name; the device needs a new key.
var ErrCloned = errors.New("this device's data is a restored or cloned copy: the network knows newer records of it")

// NodeConfig is what a Node is made of. Fields without a default are required.
type NodeConfig struct {
	Account *identity.AccountKey
	Device  *identity.DeviceKey
	Sealing *seal.Keyring
	Table   Table
	Links   Links
	Peers   Peers
	// Traversal gets to other nodes' devices. Nil: what goes directly goes only to
	// devices that are connected; the node neither asks where others are nor says
	// where it is.
	Traversal Traversal

	// PillarsChanged is called when the node works with other pillars than
	// before, its active or its standby one (see Pillars). It must not block, nor
	// call the node. Nil: nobody is.
	PillarsChanged func()

	// Network is the pinned network; zero: not pinned yet.
	Network identity.NetworkID
	// Pin persists the pinned network. It is called once, before the network is
	// used; an error leaves the node without one. Nil: nothing to do.
	Pin func(identity.NetworkID) error
	// Bootstrap is where to start from. The addresses are remembered, and being
	// given by hand may be private.
	Bootstrap []Invitation

	Name     string // claimed in the directory
	Concern  int    // copies before replicated. Default 2
	Direct   string // on, off or only. Default on
	Presence string // contacts, anyone or nobody. Default contacts

	// Now is the clock. Default time.Now.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Validate fills in defaults and says what is missing or contradictory.
func (c *NodeConfig) Validate() error {
	if c.Account == nil || c.Device == nil || c.Sealing == nil || c.Table == nil || c.Links == nil || c.Peers == nil {
		return errors.New("node: account, device, sealing, table, links and peers are required")
	}
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if c.Concern <= 0 {
		c.Concern = 2
	}
	if c.Direct == "" {
		c.Direct = "on"
	}
	if c.Presence == "" {
		c.Presence = "contacts"
	}
	if c.Pin == nil {
		c.Pin = func(identity.NetworkID) error { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Node sends and receives for one account on one device. It keeps sessions
// with two pillars, an outbox and an inbox on disk, and goes on as long as any
// pillar of its network is up. All methods are safe for concurrent use; they
// work before Run, without a network too, where they need no pillar.
//
//	   Send            Inbox, Ack, Subscribe
//	    │                        ▲
//	nodeOutbox ◄─receipts── nodeInbox ◄── nodeDirectory
//	    │ Submit                 ▲ Page, Push    ▲
//	    ▼                        │               │
//	nodeSession (active)   nodeSession (standby)
//	    └──────── nodeSessions ──┘  which pillars, failover
//
// Everything durable goes through nodeDisk's group commit.
type Node struct {
	cfg  NodeConfig
	log  *slog.Logger
	disk *nodeDisk

	self     *nodeSelf
	sessions *nodeSessions
	guard    *nodeGuard
	outbox   *nodeOutbox
	epochs   *nodeEpochs
	inbox    *nodeInbox
	receipts *nodeReceipts
	dir      *nodeDirectory
	checker  *nodeChecker
	events   *nodeEvents
	contacts *nodeContacts
	direct   *nodeDirect
	metrics  *nodeMetrics
	nat      nodeNAT

	locator   *nodeLocator
	presence  *nodePresence
	converges nodeConvergence

	upkeep  chan struct{} // maintain: look now
	pinning sync.Mutex    // held while a network is pinned

	mu       sync.Mutex
	running  bool       // guarded by mu
	verifier *Verifier  // guarded by mu; nil until pinned
	roster   *Roster    // guarded by mu; nil until pinned
	fatal    chan error // the first reason for Run to give up
}

// NewNode returns a Node with the state that its table has. It makes no
// connection; Run does.
func NewNode(cfg NodeConfig) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger.With("component", "node"), disk: newNodeDisk(cfg.Table), fatal: make(chan error, 1), upkeep: make(chan struct{}, 1)}
	n.metrics = newNodeMetrics(cfg.Registerer)
	newPathCollector(n).register(cfg.Registerer)
	n.events = newNodeEvents()
	n.direct = newNodeDirect(n)
	n.self = &nodeSelf{n: n}
	n.dir = newNodeDirectory(n)
	n.epochs = newNodeEpochs(n)
	n.outbox = newNodeOutbox(n)
	n.disk.before = n.outbox.stageDirty
	n.inbox = newNodeInbox(n)
	n.receipts = newNodeReceipts(n)
	n.checker = newNodeChecker(n)
	n.contacts = newNodeContacts(n)
	n.locator = newNodeLocator(n)
	n.presence = newNodePresence(n)
	n.sessions = newNodeSessions(n)
	n.guard = newNodeGuard(n)
	for _, load := range []func() error{n.contacts.load, n.self.load, n.dir.load, n.outbox.load, n.inbox.load, n.receipts.load, n.sessions.load} {
		if err := load(); err != nil {
			return nil, fmt.Errorf("node: read its state: %w", err)
		}
	}
	if err := n.startNetwork(); err != nil {
		return nil, err
	}
	return n, nil
}

// startNetwork pins what the configuration, the disk or a join link says.
func (n *Node) startNetwork() error {
	network, onDisk := n.cfg.Network, n.self.network
	if network.IsZero() {
		network = onDisk
	}
	for _, inv := range n.cfg.Bootstrap {
		if network.IsZero() {
			network = inv.Network
		}
	}
	if !onDisk.IsZero() && network != onDisk {
		return Refuse(CodeWrongNetwork, "this data belongs to network %s and cannot be used in %s: use another data directory", onDisk, network)
	}
	if !network.IsZero() {
		if _, err := n.pin(network); err != nil {
			return err
		}
	}
	for _, inv := range n.cfg.Bootstrap {
		if !inv.Network.IsZero() && inv.Network != network {
			return Refuse(CodeWrongNetwork, "the join link leads into network %s, this node belongs to %s", inv.Network, network)
		}
		for _, p := range inv.Pillars {
			n.sessions.addHand(p)
		}
	}
	return nil
}

// pin makes id the node's network for ever: its keys get their certificate and
// records, and no other network is talked to from then on. It returns whether
// id was new.
func (n *Node) pin(id identity.NetworkID) (bool, error) {
	n.pinning.Lock()
	defer n.pinning.Unlock()
	if have := n.network(); have == id {
		return false, nil
	} else if !have.IsZero() {
		return false, Refuse(CodeWrongNetwork, "this node belongs to network %s, not %s", have, id)
	}
	if id != n.cfg.Network {
		if err := n.cfg.Pin(id); err != nil {
			return false, fmt.Errorf("pin network %s: %w", id, err)
		}
	}
	verifier := NewVerifier(id)
	roster := NewRoster(verifier)
	if err := n.self.certify(id); err != nil {
		return false, fmt.Errorf("pin network %s: %w", id, err)
	}
	if err := n.sessions.loadRoster(roster); err != nil {
		return false, fmt.Errorf("pin network %s: %w", id, err)
	}
	n.mu.Lock()
	n.verifier, n.roster = verifier, roster
	n.mu.Unlock()
	n.log.Info("network pinned", "network", id)
	n.outbox.retrySealing()
	return true, nil
}

// network is the pinned network, zero before.
func (n *Node) network() identity.NetworkID {
	if v := n.verify(); v != nil {
		return v.Network()
	}
	return identity.NetworkID{}
}

// verify is the Verifier of the pinned network, nil before.
func (n *Node) verify() *Verifier {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.verifier
}

// pillars is the roster of the pinned network, nil before.
func (n *Node) pillars() *Roster {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.roster
}

// now is the node's clock in Unix milliseconds.
func (n *Node) now() uint64 { return uint64(max(0, n.cfg.Now().UnixMilli())) }

// account is the node's account.
func (n *Node) account() identity.AccountID { return n.cfg.Account.ID() }

// device is the node's device.
func (n *Node) device() identity.DeviceID { return n.cfg.Device.ID() }

// giveUp makes Run return err.
func (n *Node) giveUp(err error) {
	select {
	case n.fatal <- err:
	default:
	}
}

// Run keeps the node connected, sends what is queued and receives, until ctx
// ends, and returns nil then. It returns ErrCloned for a restored copy, and an
// error if the disk fails; nothing else ends it. It owns every goroutine of the
// node, has ended all of them when it returns, and may be called once.
func (n *Node) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.running {
		n.mu.Unlock()
		return errors.New("node: Run was called already")
	}
	n.running = true
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.direct.open()
	var work sync.WaitGroup
	for _, run := range []func(context.Context){
		n.disk.run,       // writes nobody waits for
		n.sessions.run,   // which pillars; owns the sessions' goroutines
		n.outbox.pump,    // Submit
		n.outbox.sweep,   // expiry, retries
		n.outbox.sealer,  // messages that could not be sealed at once
		n.inbox.run,      // mailbox records
		n.dir.run,        // directory records
		n.receipts.run,   // receipts to others
		n.direct.run,     // to and from other devices; owns their streams' goroutines
		n.checker.run,    // mailbox check, offers
		n.locator.run,    // where others are
		n.presence.run,   // where this device is, to those who may know
		n.maintain,       // keys, own records, what is over
		n.sessions.watch, // connections
		n.guard.run,      // whether pillars live
	} {
		work.Go(func() { run(ctx) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-n.fatal:
	case <-n.disk.fail:
		err = fmt.Errorf("node: its disk: %w", n.disk.err())
	}
	cancel()
	work.Wait()
	n.epochs.erase()
	n.inbox.erase()
	if ferr := n.disk.flush(); err == nil && ferr != nil {
		err = fmt.Errorf("node: its disk: %w", ferr)
	}
	return err
}

// maintain renews keys and own records and drops what is over.
func (n *Node) maintain(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	var retained time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.upkeep: // a new active pillar
		case <-tick.C:
		}
		if n.network().IsZero() {
			continue
		}
		if err := n.self.renew(); err != nil {
			n.log.Error("cannot renew own records", "err", err)
		}
		if !n.sessions.clockConfirmed() {
			continue
		}
		if _, err := n.cfg.Sealing.Erase(n.now()); err != nil {
			n.log.Error("cannot erase old sealing keys", "err", err)
		}
		if err := n.inbox.purge(n.now()); err != nil {
			n.log.Error("cannot drop what is expired", "err", err)
		}
		if now := time.Now(); now.Sub(retained) >= retainEvery {
			retained = now
			if err := n.retain(n.now(), maxFinished); err != nil {
				n.log.Error("cannot drop messages that are over", "err", err)
			}
		}
	}
}

// Account is the node's account.
func (n *Node) Account() identity.AccountID { return n.account() }

// Device is the node's device.
func (n *Node) Device() identity.DeviceID { return n.device() }
