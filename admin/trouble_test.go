package admin_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// trouble is that of a pillar which was tried in vain at now.
func trouble(now time.Time) overlay.Trouble {
	var t overlay.Trouble
	t.Failed(&overlay.DialError{Attempts: []overlay.DialAttempt{
		{Addr: multiaddr.StringCast("/ip4/203.0.113.7/tcp/4001"), Fault: overlay.FaultRefused, Detail: "refused"},
		{Addr: multiaddr.StringCast("/ip4/203.0.113.7/udp/4001/quic-v1"), Fault: overlay.FaultFailed, Detail: "<script>\x1b[2J"},
	}}, now)
	t.Planned(now.Add(time.Minute))
	return t
}

// TestTroubleShown: why a pillar is not connected comes through the clients as it
// is, and stands on the pages, as text.
func TestTroubleShown(t *testing.T) {
	now := time.Now().UTC().Round(time.Millisecond)
	want := trouble(now)
	one := identity.NewPillarKey().ID()
	check := func(who string, got overlay.Trouble, err error) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", who, got, err, want)
		}
	}
	const says = "connection refused over TCP, fails over UDP: &lt;script&gt;\\x1b[2J"

	n := newFakeNode(t)
	n.pillars = []overlay.NodePillar{{ID: one, Name: "ceres", State: overlay.PillarDead, Trouble: want}, {ID: identity.NewPillarKey().ID(), Active: true}}
	addr := serve(t, "127.0.0.1:0", admin.NewNodeHandler(n, admin.Config{Token: testToken}))
	nc, err := admin.NewNodeClient(admin.Target{Addr: addr, Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	list, err := nc.Pillars(t.Context())
	if len(list) != 2 || list[1].Error != "" || list[1].Attempts == nil {
		t.Fatalf("%+v, %v", list, err)
	}
	check("node", list[0].Trouble, err)
	auth := map[string]string{"Authorization": "Bearer " + testToken}
	var doc map[string]any
	var got any
	for url, into := range map[string]any{"/v1/openapi.json": &doc, "/v1/pillars": &got} {
		if err := json.Unmarshal([]byte(ask(t, "GET", "http://"+addr+url, "", auth).body), into); err != nil {
			t.Fatal(err)
		}
	}
	if err := fits(doc, at(doc, "paths", "/v1/pillars", "get", "responses", "200", "content", "application/json", "schema"), got); err != nil {
		t.Errorf("the node's answer and its description: %v", err)
	}
	page := ask(t, "GET", "http://"+addr+"/", "", auth).body
	if !strings.Contains(page, says) || strings.Count(page, `<tr class="alert">`) != 1 || strings.Contains(page, "<script") || strings.Contains(page, "\x1b") {
		t.Errorf("the node's page: %s", page)
	}

	p := &fakePillar{status: admin.PillarStatus{ID: identity.NewPillarKey().ID().String()},
		pillars: []admin.PillarEntry{admin.NewPillarEntry(&overlay.PillarStatus{ID: one, State: overlay.PillarDead, Trouble: want})}}
	addr = serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, prometheus.NewRegistry(), admin.Config{Token: testToken}))
	pc, err := admin.NewPillarClient(admin.Target{Addr: addr, Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	others, err := pc.Pillars(t.Context())
	if len(others) != 1 {
		t.Fatalf("%+v, %v", others, err)
	}
	check("pillar", others[0].Trouble, err)
	for _, path := range []string{"/", "/pillar/" + one.String()} {
		if a := ask(t, "GET", "http://"+addr+path, "", auth); a.status != http.StatusOK || !strings.Contains(a.body, says) || strings.Contains(a.body, "<script>") {
			t.Errorf("%s: %d, without %q or with a script: %s", path, a.status, says, a.body)
		}
	}
}
