package overlay_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// A directRig is a cluster of scripted pillars and nodes that find each other,
// in virtual time.
type directRig struct {
	*fakeCluster
	mu       sync.Mutex
	nodes    map[identity.AccountID][]*testNode
	hidden   map[identity.AccountID]bool // accounts that do not tell where they are
	searches map[identity.AccountID]int
}

// directBubble runs a test with one-way latencies of 20 ms.
func directBubble(t *testing.T, pillars int, test func(t *testing.T, r *directRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t, 0)
		c.net = memnet.New(memnet.WithLatency(20*time.Millisecond), memnet.WithPunch(memnet.NeverPunch))
		for range pillars {
			c.add()
		}
		c.copies = func() uint64 { return uint64(pillars) }
		test(t, &directRig{fakeCluster: c, nodes: map[identity.AccountID][]*testNode{}, hidden: map[identity.AccountID]bool{},
			searches: map[identity.AccountID]int{}})
	})
}

func withDirect(mode string) nodeOption { return func(c *overlay.NodeConfig) { c.Direct = mode } }

// node starts a node that can be found and finds others.
func (r *directRig) node(home *nodeHome, opts ...nodeOption) *testNode {
	r.t.Helper()
	if os.Getenv("DIRECT_LOG") != "" {
		opts = append(opts, func(c *overlay.NodeConfig) {
			c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", string(c.Device.ID().String()[48:]))
		})
	}
	opts = append([]nodeOption{func(c *overlay.NodeConfig) { c.Traversal = c.Links.(*memnet.Host) }}, opts...)
	n := home.start(r.addrs(), append(opts, func(c *overlay.NodeConfig) {})...)
	n.host.Guard()
	overlay.FindBy(n.Node, func(_ context.Context, a identity.AccountID) ([]overlay.Presence, error) { return r.find(n, a) })
	r.mu.Lock()
	r.nodes[n.id()] = append(r.nodes[n.id()], n)
	r.mu.Unlock()
	until(r.t, "a session", func() bool { return n.Status().Pillar != "" })
	return n
}

// find answers as a device would: it lets the asker in.
func (r *directRig) find(asker *testNode, a identity.AccountID) (list []overlay.Presence, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.searches[a]++
	if r.hidden[a] {
		return nil, overlay.ErrUnreachable
	}
	for _, n := range r.nodes[a] {
		if n.stopped() {
			continue
		}
		n.host.Admit(asker.host.Self(), time.Now().Add(10*time.Minute))
		p := overlay.Presence{Device: n.Device(), Asker: asker.Device()}
		for _, pillar := range n.Pillars() {
			if pillar.Connected {
				p.Pillars = append(p.Pillars, pillar.ID)
			}
		}
		if len(p.Pillars) > 0 {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil, overlay.ErrUnreachable
	}
	return list, nil
}

// withhold keeps pillars from giving records of the kinds to anybody, until the
// returned func is called.
func (r *directRig) withhold(kinds ...overlay.Kind) (release func()) {
	set := func(serve func(*fakePillar, *overlay.Record, string) bool) {
		r.fakeCluster.mu.Lock()
		r.serve = serve
		r.fakeCluster.mu.Unlock()
	}
	set(func(_ *fakePillar, rec *overlay.Record, _ string) bool { return !slices.Contains(kinds, rec.Kind) })
	return func() { set(nil) }
}

var sealedKinds = []overlay.Kind{overlay.KindEpoch, overlay.KindMessage, overlay.KindReceipt}

// stored counts the records of the kinds that pillars have.
func (r *directRig) stored(kinds ...overlay.Kind) (n int) {
	r.fakeCluster.mu.Lock()
	defer r.fakeCluster.mu.Unlock()
	for _, rec := range r.records {
		if slices.Contains(kinds, rec.Kind) {
			n++
		}
	}
	return n
}

// only returns the message with that text, of which there must be exactly one.
func (n *testNode) only(text string) overlay.InMessage {
	n.home.t.Helper()
	var found []overlay.InMessage
	until(n.home.t, fmt.Sprintf("%q arrives", text), func() bool {
		found = found[:0]
		for _, m := range n.inbox() {
			if m.Text != nil && *m.Text == text {
				found = append(found, m)
			}
		}
		return len(found) > 0
	})
	if len(found) != 1 {
		n.home.t.Fatalf("%q arrived %d times", text, len(found))
	}
	return found[0]
}

// inbox reads the whole inbox.
func (n *testNode) inbox() (all []overlay.InMessage) {
	n.home.t.Helper()
	for after := uint64(0); ; {
		page, err := n.Inbox(after, 0, false)
		if err != nil {
			n.home.t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all, after = append(all, page...), page[len(page)-1].Order
	}
}

// path is how n reaches other's device.
func (n *testNode) path(other *testNode) overlay.Path {
	for _, p := range n.ContactPaths() {
		if p.Device == other.Device() {
			return p.Path
		}
	}
	return "never met"
}

// sentTo counts the messages that other's device said to have got directly.
func (n *testNode) sentTo(other *testNode) uint64 {
	for _, p := range n.ContactPaths() {
		if p.Device == other.Device() {
			return p.Sent
		}
	}
	return 0
}

// post sends text and does not wait.
func (n *testNode) post(text string, to ...identity.AccountID) overlay.OutMessage {
	n.home.t.Helper()
	m, err := n.Send(context.Background(), overlay.Outgoing{To: to, Type: overlay.BodyText, Body: []byte(text)})
	if err != nil {
		n.home.t.Fatalf("send: %v", err)
	}
	return m
}

// befriend makes both contacts of each other.
func befriend(t testing.TB, a, b *testNode) {
	t.Helper()
	if err := a.AddContact("b"+b.id().String()[40:], b.id()); err != nil {
		t.Fatal(err)
	}
	if err := b.AddContact("a"+a.id().String()[40:], a.id()); err != nil {
		t.Fatal(err)
	}
}

func peerID(n *testNode) peer.ID { return n.host.Self() }

// pushAll gives n everything that pillars have for it.
func (r *directRig) pushAll(n *testNode) {
	r.fakeCluster.mu.Lock()
	records := slices.Clone(r.records)
	r.fakeCluster.mu.Unlock()
	for _, p := range r.pillars {
		for i, rec := range records {
			for _, s := range p.of(n.id()) {
				if rec.IsTo(n.id()) {
					s.send(&overlay.Push{To: uint64(i + 1), Records: [][]byte{rec.Raw}})
				}
			}
		}
	}
}

// storedTo counts what pillars have in the account's mailbox.
func (r *directRig) storedTo(a identity.AccountID) (n int) {
	r.fakeCluster.mu.Lock()
	defer r.fakeCluster.mu.Unlock()
	for _, rec := range r.records {
		if rec.IsTo(a) {
			n++
		}
	}
	return n
}

// onFrame has fn see every frame that a node sends to a pillar.
func (r *directRig) onFrame(fn func(*fakePillar, *fakeSession, overlay.Message) bool) {
	r.fakeCluster.mu.Lock()
	defer r.fakeCluster.mu.Unlock()
	r.seen = fn
}
