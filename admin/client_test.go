package admin_test

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func nodeClient(t *testing.T, n *fakeNode) *admin.NodeClient {
	t.Helper()
	addr := serve(t, "unix:"+filepath.Join(t.TempDir(), "s"), admin.NewNodeHandler(n, admin.Config{}))
	c, err := admin.NewNodeClient(admin.Target{Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSend(t *testing.T) {
	ctx := t.Context()
	n := newFakeNode(t)
	c := nodeClient(t, n)
	text := "hello"
	to := newAccount(t).String()
	r, err := c.Send(ctx, admin.SendRequest{To: []string{to}, Text: &text, Wait: overlay.StateReplicated, TTLS: 60, ClientID: "one"})
	if err != nil || r.State != overlay.StateReplicated || r.ID == nil || r.Copies != 2 || r.DevicesMissing == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if n.last.TTL != time.Minute || n.last.Type != overlay.BodyText || string(n.last.Body) != text {
		t.Errorf("sent %+v", n.last)
	}
	again, err := c.Send(ctx, admin.SendRequest{To: []string{to}, Text: &text, ClientID: "one"})
	if err != nil || again.Handle != r.Handle {
		t.Errorf("the same client ID: %+v, %v", again, err)
	}
	if _, err := c.Send(ctx, admin.SendRequest{To: []string{to}, Body: []byte{0xff}}); err != nil || n.last.Type != overlay.BodyBytes {
		t.Errorf("bytes: %+v, %v", n.last, err)
	}
	m, err := c.Message(ctx, r.Handle.String())
	if err != nil || m.Out == nil || m.In != nil || m.Out.Handle != r.Handle {
		t.Errorf("by handle: %+v, %v", m, err)
	}
	page, err := c.Outbox(ctx, 0, 0)
	if err != nil || len(page.Messages) != 2 {
		t.Errorf("outbox: %+v, %v", page, err)
	}

	// What does not get as far in time is answered with how far it came.
	n.slow = true
	r, err = c.Send(ctx, admin.SendRequest{To: []string{to}, Text: &text, Wait: overlay.StateDelivered, TimeoutMS: 1})
	if err != nil || r.State != overlay.StateQueued || r.ID != nil {
		t.Errorf("after the timeout: %+v, %v", r, err)
	}
	n.sendErr = overlay.Refuse(overlay.CodeFull, "too much")
	_, err = c.Send(ctx, admin.SendRequest{To: []string{to}, Text: &text})
	var refusal *overlay.Error
	if !errors.As(err, &refusal) || refusal.Code != overlay.CodeFull || refusal.Text != "too much" {
		t.Errorf("a refusal: %v", err)
	}
}

func TestNetcheckClient(t *testing.T) {
	n := newFakeNode(t)
	at := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	pillar, device := identity.NewPillarKey().ID(), identity.NewDeviceKey().ID()
	n.netcheck = overlay.Netcheck{At: at, TookMS: 2.5, Mapping: overlay.NATEndpointIndependent, Filtering: overlay.NATPortDependent,
		Reachability: "private", HolePunching: overlay.PunchingLikely, Why: "why",
		Public:   []overlay.SeenAddr{{Transport: "quic", Addr: "/ip4/203.0.113.9/udp/4001/quic-v1", By: pillar}},
		Pillars:  []overlay.NetcheckPillar{{ID: pillar, Name: "p", Path: overlay.PathDirect, Reserved: true, Transports: []overlay.NetcheckTransport{{Transport: "tcp", OK: true, RTTMS: 1}}}},
		Contacts: []overlay.NetcheckContact{{Account: newAccount(t), Name: "bob", Device: device, Path: overlay.PathRelayed, Since: &at, Why: "because"}},
		Warnings: []string{"do something"}}
	got, err := nodeClient(t, n).Netcheck(t.Context())
	if err != nil || !reflect.DeepEqual(got, n.netcheck) {
		t.Errorf("%+v, %v, want %+v", got, err, n.netcheck)
	}
}

func TestInboxAndAck(t *testing.T) {
	ctx := t.Context()
	n := newFakeNode(t)
	c := nodeClient(t, n)
	for _, text := range []string{"a", "b", "c"} {
		n.receive(text)
	}
	page, err := c.Inbox(ctx, 0, 2, true)
	if err != nil || len(page.Messages) != 2 || page.Next != 2 {
		t.Fatalf("%+v, %v", page, err)
	}
	id := page.Messages[0].ID
	for range 2 { // twice is fine
		if err := c.Ack(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	m, err := c.Message(ctx, id.String())
	if err != nil || m.In == nil || !m.In.Acked || *m.In.Text != "a" {
		t.Errorf("%+v, %v", m, err)
	}
	page, err = c.Inbox(ctx, 0, 0, true)
	if err != nil || len(page.Messages) != 2 || page.Next != 0 || *page.Messages[0].Text != "b" {
		t.Errorf("%+v, %v", page, err)
	}
	if err := c.Ack(ctx, overlay.RecordID{9}); overlay.CodeOf(err) != overlay.CodeNotFound {
		t.Errorf("ack of nothing: %v", err)
	}
}

func TestEvents(t *testing.T) {
	n := newFakeNode(t)
	c := nodeClient(t, n)
	n.receive("before")
	stop := errors.New("enough")
	// read returns the events after last until there are count.
	read := func(last string, count int, do func(i int)) []admin.StreamEvent {
		t.Helper()
		var got []admin.StreamEvent
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		err := c.Events(ctx, last, func(e admin.StreamEvent) error {
			got = append(got, e)
			do(len(got))
			if len(got) == count {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Fatalf("events: %v", err)
		}
		return got
	}
	got := read("", 2, func(i int) {
		if i == 1 {
			n.receive("during")
		}
	})
	if got[0].Kind != overlay.EventResync || got[1].Kind != overlay.EventMessage || *got[1].Message.Text != "during" {
		t.Errorf("%+v", got)
	}
	n.receive("while away")
	if got = read(got[1].ID, 1, func(int) {}); *got[0].Message.Text != "while away" {
		t.Errorf("resumed: %+v", got)
	}
	for _, foreign := range []string{"0123.1", "nonsense", "..", "1"} {
		if got = read(foreign, 1, func(int) {}); got[0].Kind != overlay.EventResync {
			t.Errorf("after %q: %+v", foreign, got)
		}
	}
}

func TestContacts(t *testing.T) {
	ctx := t.Context()
	c := nodeClient(t, newFakeNode(t))
	bob := newAccount(t)
	added, err := c.AddContact(ctx, "bob/1", bob.String())
	if err != nil || added.Account != bob || added.Name != "bob/1" {
		t.Fatalf("%+v, %v", added, err)
	}
	eve, err := c.AddContact(ctx, "", overlay.ContactLink(newAccount(t), "Eve"))
	if err != nil || eve.Name != "Eve" {
		t.Errorf("by link: %+v, %v", eve, err)
	}
	name, on := "Bob & co", true
	changed, err := c.ChangeContact(ctx, "bob/1", admin.ContactRequest{Name: &name, Blocked: &on, Verified: &on})
	if err != nil || changed != (overlay.Contact{Name: name, Account: bob, Blocked: true, Verified: true}) {
		t.Errorf("%+v, %v", changed, err)
	}
	if err := c.RemoveContact(ctx, name); err != nil {
		t.Error(err)
	}
	list, err := c.Contacts(ctx)
	if err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.ChangeContact(ctx, "nobody", admin.ContactRequest{Blocked: &on}); overlay.CodeOf(err) != overlay.CodeNotFound {
		t.Errorf("unknown contact: %v", err)
	}
}

func TestPillarClient(t *testing.T) {
	ctx := t.Context()
	p := &fakePillar{status: admin.PillarStatus{Role: "pillar", PillarsAlive: 3}}
	for range 5 {
		p.nodes = append(p.nodes, overlay.NodeEntry{Account: newAccount(t)})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "obelisk_test_gauge"}))
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, registry, admin.Config{Token: testToken}))
	c, err := admin.NewPillarClient(admin.Target{Addr: addr, Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.Status(ctx); err != nil || s.PillarsAlive != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	var seen []identity.AccountID
	for after, pages := "", 0; ; pages++ {
		page, err := c.Nodes(ctx, after, 2)
		if err != nil || pages > 5 {
			t.Fatal(err)
		}
		for _, n := range page.Nodes {
			seen = append(seen, n.Account)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d nodes in pages", len(seen))
	}
	if err := c.AddPillar(ctx, "somewhere"); err != nil || p.added[0] != "somewhere" {
		t.Errorf("%v, %v", p.added, err)
	}
	p.addErr = overlay.Refuse(overlay.CodeWrongNetwork, "not ours")
	if err := c.AddPillar(ctx, "elsewhere"); overlay.CodeOf(err) != overlay.CodeWrongNetwork {
		t.Errorf("%v", err)
	}
	who := newAccount(t)
	if err := c.Allow(ctx, who); err != nil || p.allowed[0] != who {
		t.Errorf("%v, %v", p.allowed, err)
	}
	if list, err := c.Pillars(ctx); err != nil || list == nil {
		t.Errorf("%v, %v", list, err)
	}

	base := "http://" + addr
	if a := ask(t, "GET", base+"/metrics", "", nil); !strings.Contains(a.body, "obelisk_test_gauge") {
		t.Errorf("metrics: %d %.200s", a.status, a.body)
	}
	if a := ask(t, "GET", base+"/debug/pprof/goroutine?debug=1", "", nil); a.status != 200 || !strings.Contains(a.body, "goroutine profile") {
		t.Errorf("profile: %d %.200s", a.status, a.body)
	}
	for path, status := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/nothing": 404, "/debug/pprof/profile?seconds=1e9": 400} {
		if a := ask(t, "GET", base+path, "", nil); a.status != status {
			t.Errorf("%s: %d, want %d", path, a.status, status)
		}
	}
}

func TestChecks(t *testing.T) {
	p := &fakePillar{health: []admin.Check{{Name: "store", OK: true}}, ready: []admin.Check{{Name: "store", OK: true}, {Name: "space", Detail: "full"}}}
	base := "http://" + serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken}))
	if a := ask(t, "GET", base+"/healthz", "", nil); a.status != 200 || a.body != `{"checks":[{"name":"store","ok":true,"detail":""}]}`+"\n" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := ask(t, "GET", base+"/readyz", "", nil); a.status != 503 || !strings.Contains(a.body, `{"name":"space","ok":false,"detail":"full"}`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestNothingThere(t *testing.T) {
	for _, addr := range []string{"unix:" + filepath.Join(t.TempDir(), "none"), "127.0.0.1:1"} {
		c, err := admin.NewNodeClient(admin.Target{Addr: addr})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(t.Context()); !errors.Is(err, admin.ErrNotRunning) {
			t.Errorf("%s: %v", addr, err)
		}
		c.Close()
	}
	if _, err := admin.NewNodeClient(admin.Target{Addr: "nonsense"}); err == nil {
		t.Error("nonsense is an address")
	}
}
