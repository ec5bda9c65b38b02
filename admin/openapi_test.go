package admin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestOpenAPIDescribesAll: what is served is described, and nothing else.
func TestOpenAPIDescribesAll(t *testing.T) {
	for name, h := range map[string]http.Handler{
		"pillar": admin.NewPillarHandler(&fakePillar{}, prometheus.NewRegistry(), admin.Config{Token: testToken}),
		"node":   admin.NewNodeHandler(newFakeNode(t), admin.Config{Token: testToken}),
	} {
		handled, described := admin.Operations(h)
		slices.Sort(handled)
		slices.Sort(described)
		if !slices.Equal(handled, described) {
			t.Errorf("%s serves\n%s\nand describes\n%s", name, strings.Join(handled, "\n"), strings.Join(described, "\n"))
		}
	}
}

// TestOpenAPIFitsAnswers holds real answers against the published schemas: every
// field is described, and every required one is there, with its type.
func TestOpenAPIFitsAnswers(t *testing.T) {
	one, two := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	now := time.Now()
	p := &fakePillar{
		health: []admin.Check{{Name: "store", OK: true}}, ready: []admin.Check{{Name: "store", OK: true}},
		pillars: []admin.PillarEntry{admin.NewPillarEntry(&overlay.PillarStatus{ID: one, LastSeen: now, Trouble: trouble(now)})},
		sync: overlay.SyncStatus{Logs: []overlay.LogState{{Pillar: one, Position: overlay.Position{Log: overlay.LogID{1}}}},
			Peers: []overlay.PeerSync{{Pillar: one, Last: &overlay.Round{At: now}}}},
		statements: []overlay.Statement{{Summary: overlay.Summary{Pillar: one}}},
		diff:       overlay.Diff{Here: one, There: one, OnlyHere: []overlay.Difference{{}}},
		record:     overlay.RecordInfo{Trace: overlay.Trace{Has: true, Received: now, Dots: []overlay.Dot{{}}}, Author: string(newAccount(t))},
		links: &overlay.LinkMap{At: now, Reports: []overlay.LinkReport{
			{Pillar: one, Answered: true, Links: []overlay.PillarLink{{With: two, Path: overlay.PathRelayed, Through: one}}}, {Pillar: two}}},
		traces: []overlay.Trace{{Pillar: one, Answered: true, Has: true, Received: now, Dots: []overlay.Dot{{}}, Recipients: []overlay.RecipientTrace{{Account: newAccount(t),
			Receipts: []overlay.ReceiptSeen{{Received: now}}, Devices: []overlay.DeviceDelivery{{Device: identity.NewDeviceKey().ID(), State: overlay.DeliverySaved}}}}}},
	}
	base := "http://" + serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, prometheus.NewRegistry(), admin.Config{Token: testToken}))
	auth := map[string]string{"Authorization": "Bearer " + testToken}
	var doc map[string]any
	if err := json.Unmarshal([]byte(ask(t, "GET", base+"/v1/openapi.json", "", nil).body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi %v", doc["openapi"])
	}
	zero := strings.Repeat("0", 64)
	for _, c := range []struct{ method, path, url, body string }{
		{"get", "/healthz", "/healthz", ""},
		{"get", "/v1/status", "/v1/status", ""},
		{"get", "/v1/pillars", "/v1/pillars", ""},
		{"post", "/v1/pillars", "/v1/pillars", `{"addr":"x"}`},
		{"get", "/v1/nodes", "/v1/nodes", ""},
		{"get", "/v1/sync", "/v1/sync", ""},
		{"get", "/v1/sync/diff", "/v1/sync/diff?peer=" + one.String(), ""},
		{"post", "/v1/sync/repair", "/v1/sync/repair?peer=" + one.String(), ""},
		{"post", "/v1/sync/round", "/v1/sync/round?peer=" + one.String(), ""},
		{"post", "/v1/sync/pause", "/v1/sync/pause", ""},
		{"get", "/v1/convergence", "/v1/convergence", ""},
		{"get", "/v1/records/{id}", "/v1/records/" + zero, ""},
		{"get", "/v1/trace/{id}", "/v1/trace/" + zero, ""},
		{"get", "/v1/links", "/v1/links", ""},
		{"post", "/v1/bundles", "/v1/bundles", ""},
		{"post", "/v1/bundles/import", "/v1/bundles/import", `{"name":"x"}`},
		{"post", "/v1/drain", "/v1/drain", ""},
		{"post", "/v1/leave", "/v1/leave", ""},
	} {
		a := ask(t, strings.ToUpper(c.method), base+c.url, c.body, auth)
		if a.status != http.StatusOK {
			t.Errorf("%s %s: %d %s", c.method, c.url, a.status, a.body)
			continue
		}
		var got any
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatal(err)
		}
		if err := fits(doc, at(doc, "paths", c.path, c.method, "responses", "200", "content", "application/json", "schema"), got); err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
		}
	}
	a := ask(t, "GET", base+"/v1/records/x", "", nil)
	var got any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	if err := fits(doc, at(doc, "paths", "/v1/records/{id}", "get", "responses", "default", "content", "application/json", "schema"), got); err != nil {
		t.Errorf("an error: %v", err)
	}
}

// at walks down a document.
func at(doc any, keys ...string) any {
	for _, k := range keys {
		m, _ := doc.(map[string]any)
		doc = m[k]
	}
	return doc
}

// fits checks a value against a schema of the document, strictly: objects have
// no fields beside those described.
func fits(doc map[string]any, schema, value any) error {
	s, ok := schema.(map[string]any)
	if !ok {
		return fmt.Errorf("there is no schema")
	}
	if ref, ok := s["$ref"].(string); ok {
		return fits(doc, at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...), value)
	}
	if any, ok := s["anyOf"].([]any); ok {
		var err error
		for _, one := range any {
			if err = fits(doc, one, value); err == nil {
				return nil
			}
		}
		return err
	}
	switch v := value.(type) {
	case nil:
		if s["type"] != "null" {
			return fmt.Errorf("null, want %v", s["type"])
		}
	case bool:
		if s["type"] != "boolean" {
			return fmt.Errorf("%v, want %v", v, s["type"])
		}
	case float64:
		if s["type"] != "number" && (s["type"] != "integer" || v != float64(int64(v))) {
			return fmt.Errorf("%v, want %v", v, s["type"])
		}
	case string:
		if s["type"] != "string" {
			return fmt.Errorf("%q, want %v", v, s["type"])
		}
	case []any:
		if s["type"] != "array" {
			return fmt.Errorf("a list, want %v", s["type"])
		}
		for i, x := range v {
			if err := fits(doc, s["items"], x); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
	case map[string]any:
		if s["type"] != "object" {
			return fmt.Errorf("an object, want %v", s["type"])
		}
		properties, _ := s["properties"].(map[string]any)
		for k, x := range v {
			p := properties[k]
			if p == nil {
				p = s["additionalProperties"]
			}
			if err := fits(doc, p, x); err != nil {
				return fmt.Errorf(".%s: %w", k, err)
			}
		}
		required, _ := s["required"].([]any)
		for _, k := range required {
			if _, ok := v[k.(string)]; !ok {
				return fmt.Errorf(".%s is missing", k)
			}
		}
	}
	return nil
}
