package overlay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/seal"
	"github.com/obelisk-network/obelisk/store"
)

// A nodeHome is what a node keeps over restarts: keys and disk.
type nodeHome struct {
	t       testing.TB
	net     *memnet.Network
	account *identity.AccountKey
	device  *identity.DeviceKey
	sealing *seal.Keyring
	table   overlay.Table
	network identity.NetworkID // as pinned
}

func newNodeHome(t testing.TB, net *memnet.Network) *nodeHome {
	t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	h := &nodeHome{t: t, net: net, account: must(t, account, err), device: identity.NewDeviceKey(), table: store.NewMemoryTable()}
	ring, err := seal.OpenKeyring(filepath.Join(t.TempDir(), "sealing"))
	h.sealing = must(t, ring, err)
	return h
}

// A testNode is a running node.
type testNode struct {
	*overlay.Node
	home *nodeHome
	host *memnet.Host
	stop func() error  // returns Run's error
	over chan struct{} // closed when Run has returned
}

type nodeOption func(*overlay.NodeConfig)

// config is the node's configuration on host.
func (h *nodeHome) config(host *memnet.Host, pillars ...overlay.PillarAddr) overlay.NodeConfig {
	cfg := overlay.NodeConfig{Account: h.account, Device: h.device, Sealing: h.sealing, Table: h.table,
		Links: host, Peers: host, Network: h.network, Pin: func(id identity.NetworkID) error { h.network = id; return nil }}
	if len(pillars) > 0 {
		cfg.Bootstrap = []overlay.Invitation{{Pillars: pillars}}
	}
	return cfg
}

// start runs the node until the test ends, or stop.
func (h *nodeHome) start(pillars []overlay.PillarAddr, opts ...nodeOption) *testNode {
	t := h.t
	t.Helper()
	host := h.net.Host(peer.ID(h.device.ID()), "-")
	cfg := h.config(host, pillars...)
	for _, o := range opts {
		o(&cfg)
	}
	n, err := overlay.NewNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	tn := &testNode{Node: n, home: h, host: host, over: make(chan struct{})}
	go func() { done <- n.Run(ctx); close(tn.over) }()
	var once sync.Once
	var result error
	tn.stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case result = <-done:
			case <-time.After(patience):
				result = errors.New("Run does not end")
			}
			host.Shutdown()
		})
		return result
	}
	t.Cleanup(func() {
		if err := tn.stop(); err != nil && !errors.Is(err, overlay.ErrCloned) && !errors.Is(err, overlay.ErrStoreFailed) {
			t.Errorf("node Run: %v", err)
		}
	})
	return tn
}

func (n *testNode) id() identity.AccountID { return n.home.account.ID() }

// send sends text and waits for a state.
func (n *testNode) send(want overlay.State, text string, to ...identity.AccountID) overlay.OutMessage {
	n.home.t.Helper()
	m, err := n.Send(context.Background(), overlay.Outgoing{To: to, Type: overlay.BodyText, Body: []byte(text)})
	if err != nil {
		n.home.t.Fatalf("send: %v", err)
	}
	return n.wait(m.Handle, want)
}

// wait waits for a state; another final one fails the test.
func (n *testNode) wait(h overlay.Handle, want overlay.State) overlay.OutMessage {
	n.home.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := n.Wait(ctx, h, want)
	if err != nil {
		n.home.t.Fatalf("waiting for %s: %v (%s, %s)", want, err, m.State, m.Reason)
	}
	if m.State.Final() && m.State != want {
		if want.Final() || m.State != overlay.StateDelivered {
			n.home.t.Fatalf("waiting for %s: %s, %s", want, m.State, m.Reason)
		}
	}
	return m
}

// until waits for cond, which events of the node may change.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-tick.C
	}
}

// texts reads the inbox until there are n messages and returns their texts.
func (n *testNode) texts(want int) []string {
	n.home.t.Helper()
	var list []overlay.InMessage
	until(n.home.t, fmt.Sprintf("%d messages", want), func() bool {
		for after := uint64(0); ; {
			page, err := n.Inbox(after, 0, false)
			if err != nil {
				n.home.t.Fatal(err)
			}
			if len(page) == 0 {
				return len(list) >= want
			}
			if after == 0 {
				list = list[:0]
			}
			list, after = append(list, page...), page[len(page)-1].Order
		}
	})
	out := make([]string, len(list))
	for i, m := range list {
		if m.Text != nil {
			out[i] = *m.Text
		}
	}
	return out
}

func (rig *pillarRig) addr() []overlay.PillarAddr {
	return []overlay.PillarAddr{{Pillar: identity.PillarID(rig.host.Self()), Addr: rig.host.Addrs()[0]}}
}

// stopped reports whether Run has returned.
func (n *testNode) stopped() bool {
	select {
	case <-n.over:
		return true
	default:
		return false
	}
}

// copyTable is what a backup of the disk would be.
func copyTable(t testing.TB, from overlay.Table) overlay.Table {
	t.Helper()
	to := store.NewMemoryTable()
	var ws []overlay.Write
	if err := from.Scan(nil, nil, func(key, data []byte) bool {
		ws = append(ws, overlay.Write{Key: bytes.Clone(key), Data: bytes.Clone(data)})
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err := to.Apply(ws); err != nil {
		t.Fatal(err)
	}
	return to
}

// manyDevices publishes an account with n devices and returns it.
func (c *fakeCluster) manyDevices(t testing.TB, n int) identity.AccountID {
	t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	must(t, account, err)
	ring, err := seal.OpenKeyring(filepath.Join(t.TempDir(), "sealing"))
	must(t, ring, err)
	now := millis(time.Now())
	key, err := ring.Rotate(now)
	must(t, key, err)
	info := overlay.AccountInfo{Counter: now}
	for range n {
		device := identity.NewDeviceKey()
		cert, err := account.Certify(c.id, device.ID(), 1, now-1, now+overlay.DayMillis)
		must(t, cert, err)
		info.Devices = append(info.Devices, overlay.DeviceSerial{Device: device.ID(), Serial: 1})
		d := overlay.Draft{Kind: overlay.KindDevice, Author: string(account.ID()), Signer: cert.Append(nil), Created: now, Expires: now + overlay.DayMillis,
			Bin: (&overlay.DeviceInfo{Keys: []seal.PublicKey{key}}).Append(nil)}
		rec, err := d.Sign(c.id, device)
		c.take(nil, must(t, rec, err).Raw)
	}
	d := overlay.Draft{Kind: overlay.KindAccount, Author: string(account.ID()), Created: now, Expires: now + overlay.DayMillis, Bin: info.Append(nil)}
	rec, err := d.Sign(c.id, account)
	c.take(nil, must(t, rec, err).Raw)
	return account.ID()
}
