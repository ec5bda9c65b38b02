package admin_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func newAccount(t testing.TB) identity.AccountID {
	t.Helper()
	k, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	return k.ID()
}

// fakePillar is a Pillar that answers what it is told to.
type fakePillar struct {
	status  admin.PillarStatus
	health  []admin.Check
	ready   []admin.Check
	pillars []admin.PillarEntry
	nodes   []overlay.NodeEntry
	addErr  error

	sync       overlay.SyncStatus
	statements []overlay.Statement
	round      overlay.Round
	revoked    identity.PillarID
	controlErr error
	diff       overlay.Diff
	repaired   overlay.Repaired
	record     overlay.RecordInfo
	traces     []overlay.Trace
	links      *overlay.LinkMap

	mu      sync.Mutex
	added   []string
	allowed []identity.AccountID
	steered []string
}

func (p *fakePillar) Status() admin.PillarStatus            { return p.status }
func (p *fakePillar) Checks() (health, ready []admin.Check) { return p.health, p.ready }
func (p *fakePillar) Pillars() []admin.PillarEntry          { return p.pillars }
func (p *fakePillar) AddPillar(_ context.Context, addr string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.added = append(p.added, addr)
	return p.addErr
}

func (p *fakePillar) Allow(a identity.AccountID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = append(p.allowed, a)
	return nil
}

func (p *fakePillar) Nodes(after identity.AccountID, limit int) ([]overlay.NodeEntry, identity.AccountID, error) {
	return pageOf(p.nodes, after, limit)
}

func pageOf(all []overlay.NodeEntry, after identity.AccountID, limit int) ([]overlay.NodeEntry, identity.AccountID, error) {
	from := 0
	if after != "" {
		from = slices.IndexFunc(all, func(e overlay.NodeEntry) bool { return e.Account == after }) + 1
	}
	page := all[from:min(len(all), from+limit)]
	if from+limit < len(all) {
		return page, page[len(page)-1].Account, nil
	}
	return page, "", nil
}

func (p *fakePillar) Sync() overlay.SyncStatus         { return p.sync }
func (p *fakePillar) Convergence() []overlay.Statement { return p.statements }
func (p *fakePillar) PauseRounds(on bool)              { p.log("pause", on) }
func (p *fakePillar) Leave(context.Context) error      { p.log("leave", true); return p.controlErr }
func (p *fakePillar) Round(_ context.Context, with identity.PillarID) (overlay.Round, error) {
	p.log("round "+with.String(), true)
	return p.round, p.controlErr
}

func (p *fakePillar) SetDrain(_ context.Context, on bool) (int, error) {
	p.log("drain", on)
	return 3, p.controlErr
}

func (p *fakePillar) Revoke(_ context.Context, text string) (admin.Revoked, error) {
	p.log("revoke "+text, true)
	return admin.Revoked{Pillar: p.revoked, Serial: 7}, p.controlErr
}

func (p *fakePillar) Diff(_ context.Context, of, with identity.PillarID, after overlay.RecordID) (overlay.Diff, error) {
	p.log(fmt.Sprintf("diff %s %s %x", of, with, after[:2]), true)
	return p.diff, p.controlErr
}

func (p *fakePillar) Repair(_ context.Context, of, with identity.PillarID) (overlay.Repaired, error) {
	p.log(fmt.Sprintf("repair %s %s", of, with), true)
	return p.repaired, p.controlErr
}

func (p *fakePillar) Describe(id overlay.RecordID) (overlay.RecordInfo, bool, error) {
	return p.record, id == p.record.ID, nil
}

func (p *fakePillar) Trace(context.Context, overlay.RecordID) ([]overlay.Trace, error) {
	return p.traces, p.controlErr
}

func (p *fakePillar) Links(context.Context) (*overlay.LinkMap, error) { return p.links, p.controlErr }

func (p *fakePillar) ExportBundle(context.Context) (string, overlay.BundleCounts, error) {
	return "/data/bundles/x.bundle", overlay.BundleCounts{Records: 3, Bytes: 9}, p.controlErr
}

func (p *fakePillar) ImportBundle(_ context.Context, name string) (overlay.BundleCounts, error) {
	p.log("import "+name, true)
	return overlay.BundleCounts{Records: 3, Taken: 2, Refused: 1, Bytes: 9}, p.controlErr
}

// log notes what was steered.
func (p *fakePillar) log(what string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steered = append(p.steered, fmt.Sprint(what, " ", on))
}

// fakeNode is a Node that keeps everything in memory and delivers at once.
type fakeNode struct {
	netcheck overlay.Netcheck
	account  identity.AccountID
	slow     bool // messages stay queued
	sendErr  error

	statements []overlay.Statement
	pillars    []overlay.NodePillar

	mu       sync.Mutex
	out      []overlay.OutMessage
	in       []overlay.InMessage
	contacts []overlay.Contact
	events   []overlay.Event
	changed  chan struct{}
	clients  map[string]overlay.Handle
	last     overlay.Outgoing
}

func newFakeNode(t testing.TB) *fakeNode {
	return &fakeNode{account: newAccount(t), changed: make(chan struct{}), clients: map[string]overlay.Handle{}}
}

func (n *fakeNode) Status() overlay.NodeStatus {
	return overlay.NodeStatus{Account: n.account, Device: identity.DeviceID(n.account)}
}

func (n *fakeNode) Resolve(to string) (identity.AccountID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.contacts {
		if c.Name == to {
			return c.Account, nil
		}
	}
	a, err := identity.ParseAccount(to)
	if err != nil {
		return a, overlay.Refuse(overlay.CodeNotFound, "nobody is called %q", to)
	}
	return a, nil
}

func (n *fakeNode) SendMessage(_ context.Context, m overlay.Outgoing) (overlay.OutMessage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = m
	if n.sendErr != nil {
		return overlay.OutMessage{}, n.sendErr
	}
	if h, ok := n.clients[m.ClientID]; ok {
		for _, o := range n.out {
			if o.Handle == h {
				return o, nil
			}
		}
	}
	o := overlay.OutMessage{Handle: overlay.NewHandle(), To: m.To, State: overlay.StateQueued,
		Expires: time.Unix(2e9, 0), Order: uint64(len(n.out) + 1)}
	if m.ClientID != "" {
		n.clients[m.ClientID] = o.Handle
	}
	n.out = append(n.out, o)
	return o, nil
}

func (n *fakeNode) Wait(ctx context.Context, h overlay.Handle, want overlay.State) (overlay.OutMessage, error) {
	n.mu.Lock()
	i := slices.IndexFunc(n.out, func(o overlay.OutMessage) bool { return o.Handle == h })
	o := n.out[i]
	if n.slow {
		n.mu.Unlock()
		<-ctx.Done()
		return o, ctx.Err()
	}
	o.State, o.ID, o.Copies = want, &overlay.RecordID{1, byte(i)}, 2
	n.out[i] = o
	n.mu.Unlock()
	return o, nil
}

func (n *fakeNode) Message(id string) (admin.Message, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.out {
		if n.out[i].Handle.String() == id {
			return admin.Message{Out: &n.out[i]}, nil
		}
	}
	for i := range n.in {
		if n.in[i].ID.String() == id {
			return admin.Message{In: &n.in[i]}, nil
		}
	}
	return admin.Message{}, overlay.Refuse(overlay.CodeNotFound, "no message %s", id)
}

func (n *fakeNode) Ack(ids ...overlay.RecordID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		i := slices.IndexFunc(n.in, func(m overlay.InMessage) bool { return m.ID == id })
		if i < 0 {
			return overlay.Refuse(overlay.CodeNotFound, "no message %s", id)
		}
		n.in[i].Acked = true
	}
	return nil
}

// receive puts a message into the inbox.
func (n *fakeNode) receive(text string) overlay.RecordID {
	n.mu.Lock()
	defer n.mu.Unlock()
	order := uint64(len(n.in) + 1)
	m := overlay.InMessage{ID: overlay.RecordID{2, byte(order)}, From: n.account, Text: &text, Order: order}
	n.in = append(n.in, m)
	n.events = append(n.events, overlay.Event{Seq: uint64(len(n.events) + 1), Kind: overlay.EventMessage, Message: &m})
	close(n.changed)
	n.changed = make(chan struct{})
	return m.ID
}

func (n *fakeNode) InboxPage(after uint64, limit int, unackedOnly bool) (page []overlay.InMessage, next uint64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.in {
		if m.Order <= after || unackedOnly && m.Acked {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].Order, nil
		}
		page = append(page, m)
	}
	return page, 0, nil
}

func (n *fakeNode) OutboxPage(after uint64, limit int) (page []overlay.OutMessage, next uint64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.out {
		if m.Order > after && len(page) < limit {
			page = append(page, m)
		}
	}
	return page, 0, nil
}

func (n *fakeNode) Subscribe(ctx context.Context, after uint64, fn func(overlay.Event) error) error {
	n.mu.Lock()
	resync := after == 0
	if resync {
		after = uint64(len(n.events))
	}
	n.mu.Unlock()
	if resync {
		if err := fn(overlay.Event{Seq: after, Kind: overlay.EventResync}); err != nil {
			return err
		}
	}
	for {
		n.mu.Lock()
		news, changed := slices.Clone(n.events[after:]), n.changed
		n.mu.Unlock()
		for _, e := range news {
			if err := fn(e); err != nil {
				return err
			}
			after = e.Seq
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (n *fakeNode) Nodes(identity.AccountID, int) ([]overlay.NodeEntry, identity.AccountID, error) {
	return nil, "", nil
}
func (n *fakeNode) Pillars() []overlay.NodePillar { return n.pillars }
func (n *fakeNode) Netcheck(context.Context) (overlay.Netcheck, error) {
	return n.netcheck, nil
}

func (n *fakeNode) Convergence(context.Context) ([]overlay.Statement, error) {
	return n.statements, n.sendErr
}
func (n *fakeNode) AddPillar(_ context.Context, addr string) error {
	_, err := overlay.ParseInvitation(addr)
	return err
}

func (n *fakeNode) Contacts() ([]overlay.Contact, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.contacts), nil
}

func (n *fakeNode) AddContact(name string, a identity.AccountID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.contacts = append(n.contacts, overlay.Contact{Name: name, Account: a})
	return nil
}

func (n *fakeNode) change(who string, fn func(*overlay.Contact)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.contacts {
		if n.contacts[i].Name == who {
			fn(&n.contacts[i])
			return nil
		}
	}
	return overlay.Refuse(overlay.CodeNotFound, "no contact %q", who)
}

func (n *fakeNode) RenameContact(old, name string) error {
	return n.change(old, func(c *overlay.Contact) { c.Name = name })
}

func (n *fakeNode) RemoveContact(who string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.contacts)
	n.contacts = slices.DeleteFunc(n.contacts, func(c overlay.Contact) bool { return c.Name == who })
	if len(n.contacts) == before {
		return overlay.Refuse(overlay.CodeNotFound, "no contact %q", who)
	}
	return nil
}

func (n *fakeNode) BlockContact(who string, on bool) error {
	return n.change(who, func(c *overlay.Contact) { c.Blocked = on })
}

func (n *fakeNode) VerifyContact(who string, on bool) error {
	return n.change(who, func(c *overlay.Contact) { c.Verified = on })
}
