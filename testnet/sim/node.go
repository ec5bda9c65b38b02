package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/seal"
	"github.com/obelisk-network/obelisk/store"
)

// node is a real overlay.Node with an app on it: keys and a disk that outlive
// its processes. It sends to its partner, is stopped, loses its power, and
// starts again.
type node struct {
	w       *world
	name    string
	account *identity.AccountKey
	device  *identity.DeviceKey
	sealing *seal.Keyring
	table   *store.MemoryTable
	partner *node
	rng     *rand.Rand // of the goroutine that lives

	mu      sync.Mutex
	network identity.NetworkID          // guarded by mu; as pinned
	sent    int                         // guarded by mu; texts handed to Send so far
	sure    map[string]bool             // guarded by mu; texts whose Send returned
	app     map[overlay.RecordID]string // guarded by mu; what the app acknowledged
	running *overlay.Node               // guarded by mu; nil while it is down
}

func newNode(w *world, name, dir string, rng *rand.Rand) (*node, error) {
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		return nil, err
	}
	ring, err := seal.OpenKeyring(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	w.ledger.nodes[string(account.ID())] = true
	return &node{w: w, name: name, account: account, device: identity.NewDeviceKey(), sealing: ring, rng: rng,
		table: store.NewMemoryTable(), sure: map[string]bool{}, app: map[overlay.RecordID]string{}}, nil
}

// nodeDisk is a table as one process sees it.
type nodeDisk struct {
	*store.MemoryTable
	mu  sync.Mutex
	off bool // guarded by mu
}

// Apply implements overlay.Table.
func (d *nodeDisk) Apply(ws []overlay.Write) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return errors.Join(overlay.ErrStoreFailed, errPowerCut)
	}
	return d.MemoryTable.Apply(ws)
}

// live runs the node until ctx ends: up for a while, down for a while, and up
// without a pause once the network is healed.
func (n *node) live(ctx context.Context) {
	for ctx.Err() == nil {
		up := ctx
		if left := n.w.plan.last - time.Since(n.w.history.began); left > 0 {
			var cancel context.CancelFunc
			up, cancel = context.WithTimeout(ctx, min(left, time.Duration(10+n.rng.IntN(50))*time.Second))
			defer cancel()
		}
		if err := n.run(up, ctx); err != nil {
			n.w.fail("%s: %v", n.name, err)
			return
		}
		if !pause(ctx, time.Duration(100+n.rng.IntN(8000))*time.Millisecond) {
			return
		}
	}
}

// run is one process, until up ends.
func (n *node) run(up, ctx context.Context) error {
	disk := &nodeDisk{MemoryTable: n.table}
	host := n.w.net.Host(peer.ID(n.device.ID()), "-")
	host.Guard() // others come by circuits, which become direct after a while
	defer host.Shutdown()
	log := slog.New(slog.DiscardHandler)
	if n.w.log != nil {
		log = n.w.log.With("self", n.name)
	}
	n.mu.Lock()
	network := n.network
	n.mu.Unlock()
	invited := overlay.Invitation{Pillars: []overlay.PillarAddr{n.w.pillars[0].given(), n.w.pillars[1].given()}}
	core, err := overlay.NewNode(overlay.NodeConfig{Account: n.account, Device: n.device, Sealing: n.sealing, Table: disk,
		Links: host, Peers: host, Traversal: host, Presence: "anyone", Network: network, Bootstrap: []overlay.Invitation{invited}, Name: n.name, Logger: log,
		Pin: func(id identity.NetworkID) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.network = id
			return nil
		}})
	if err != nil {
		return err
	}
	n.set(core)
	defer n.set(nil)
	runCtx, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var failed error
	work.Go(func() { failed = core.Run(runCtx) })
	appCtx, endApp := context.WithCancel(context.Background())
	words := rand.New(rand.NewPCG(n.w.plan.seed, n.rng.Uint64()))
	work.Go(func() { n.write(appCtx, core, words) })
	work.Go(func() { n.read(appCtx, core) })
	<-up.Done()
	crash := ctx.Err() == nil && n.rng.IntN(2) == 0
	if crash {
		n.powerOff(disk, host)
		n.w.history.add("%s lost its power", n.name)
	}
	endApp()
	end()
	work.Wait()
	if crash {
		return nil
	}
	return failed
}

func (n *node) powerOff(disk *nodeDisk, host *memnet.Host) {
	disk.mu.Lock()
	disk.off = true
	disk.mu.Unlock()
	host.Kill()
}

func (n *node) set(core *overlay.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running = core
}

// write is the app's half that sends.
func (n *node) write(ctx context.Context, core *overlay.Node, rng *rand.Rand) {
	for pause(ctx, time.Duration(500+rng.IntN(6000))*time.Millisecond) && time.Since(n.w.history.began) < n.w.plan.last {
		n.mu.Lock()
		n.sent++
		text := fmt.Sprintf("%s %d", n.name, n.sent)
		n.mu.Unlock()
		_, err := core.Send(ctx, overlay.Outgoing{To: []identity.AccountID{n.partner.account.ID()}, Type: overlay.BodyText,
			Body: []byte(text), TTL: time.Hour})
		if err == nil {
			n.mu.Lock()
			n.sure[text] = true
			n.mu.Unlock()
		} else if ctx.Err() == nil && !errors.Is(err, overlay.ErrStoreFailed) {
			n.w.fail("%s cannot send: %v", n.name, err)
		}
	}
}

// read is the app's half that reads and acknowledges.
func (n *node) read(ctx context.Context, core *overlay.Node) {
	for pause(ctx, 700*time.Millisecond) {
		list, err := core.Inbox(0, 0, true)
		if err != nil {
			continue // it ends
		}
		for _, m := range list {
			if m.From != n.partner.account.ID() || m.Text == nil {
				n.w.fail("%s received %s from %s, which its partner did not write", n.name, m.ID, m.From)
				continue
			}
			n.mu.Lock()
			_, again := n.app[m.ID]
			n.mu.Unlock()
			if again {
				n.w.fail("%s handed %q to its app again after that acknowledged it", n.name, *m.Text)
			}
			if core.Ack(m.ID) == nil {
				n.mu.Lock()
				n.app[m.ID] = *m.Text
				n.mu.Unlock()
			}
		}
	}
}

// apart says what did not arrive; "" if nothing.
func (n *node) apart() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	got := map[string]int{}
	for _, text := range n.app {
		got[text]++
	}
	n.partner.mu.Lock()
	defer n.partner.mu.Unlock()
	for text := range n.partner.sure {
		if got[text] == 0 {
			return fmt.Sprintf("%s has not received %q, %s", n.name, text, n.partner.describe(text))
		}
	}
	if n.partner.running == nil {
		return n.partner.name + " does not run"
	}
	if left := n.partner.running.Status().Outbox; left != (overlay.OutboxCounts{}) {
		return fmt.Sprintf("%s has %+v in its outbox", n.partner.name, left)
	}
	return ""
}

// describe says what the node knows of a text that it sent. n.mu is held.
func (n *node) describe(text string) string {
	if n.running == nil {
		return n.name + " does not run"
	}
	for after := uint64(0); ; {
		page, err := n.running.Outbox(after, 0)
		if err != nil || len(page) == 0 {
			return "of which its sender knows nothing"
		}
		for _, m := range page {
			if m.Text != nil && *m.Text == text {
				where := ""
				if m.ID != nil {
					where = n.w.whereabouts(*m.ID)
				}
				return fmt.Sprintf("which is %s %s with %d copies, record %v, sent %s%s", m.State, m.Reason, m.Copies, m.ID, m.Sent.Format(time.TimeOnly), where)
			}
			after = m.Order
		}
	}
}

// check looks for what was received twice.
func (n *node) check() {
	n.mu.Lock()
	defer n.mu.Unlock()
	got := map[string]int{}
	for _, text := range n.app {
		if got[text]++; got[text] == 2 {
			n.w.fail("%s received %q twice", n.name, text)
		}
	}
}
