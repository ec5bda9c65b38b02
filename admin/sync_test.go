package admin_test

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// pillarClient serves p on loopback and asks it with or without the token.
func pillarClient(t *testing.T, p *fakePillar, token string) (*admin.PillarClient, string) {
	t.Helper()
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: "secret"}))
	c, err := admin.NewPillarClient(admin.Target{Addr: addr, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, addr
}

func TestSyncStatus(t *testing.T) {
	one, two := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	at := time.Date(2026, 11, 27, 4, 0, 0, 0, time.FixedZone("", 3600))
	p := &fakePillar{sync: overlay.SyncStatus{
		Logs: []overlay.LogState{{Pillar: one, Position: overlay.Position{Log: overlay.LogID{1}, Seq: 9, Hash: overlay.Hash{2}},
			Lacks: []overlay.Lack{{Seq: 5, Before: overlay.Hash{4}}}}},
		Settled: overlay.Summary{Settled: 1_764_216_000_000, Count: 12, Digest: overlay.Sum{Hi: 1, Lo: 2}, At: 1},
		Peers: []overlay.PeerSync{{Pillar: two, Behind: 3, Totals: overlay.RoundTotals{Rounds: 2, Equal: 1, Differences: 4},
			Last: &overlay.Round{At: at, Result: overlay.RoundRepaired, Differences: 4, Fetched: 3, Sent: 1,
				BytesSent: 48, BytesReceived: 600, RoundTrips: 2, Took: 1500 * time.Microsecond}}, {Pillar: one}},
		Missing: 3, Wanted: 1, Backlog: 2, BacklogRate: 1.5, Paused: overlay.PausedByClock,
		Unreachable: []overlay.Unreachable{{Pillar: one, Log: overlay.LogID{3}, From: 4, To: 6}},
		Forks:       []overlay.ForkStatus{{Pillar: two, Log: overlay.LogID{5}, Since: at}},
	}}
	c, _ := pillarClient(t, p, "")
	s, err := c.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	until := time.UnixMilli(1_764_216_000_000).UTC()
	want := admin.SyncStatus{
		// What may be promised ends before the entry that lacks its record.
		Vector:  map[string]admin.VectorEntry{overlay.LogID{1}.String(): {Pillar: one, Seq: 4, Hash: overlay.Hash{4}}},
		Settled: admin.SettledEntry{Until: &until, Count: 12, Digest: "00000000000000010000000000000002"},
		Peers: []admin.SyncPeer{{ID: two, VectorBehind: 3, Totals: admin.RoundTotals{Rounds: 2, Equal: 1, Differences: 4},
			LastRound: &admin.RoundEntry{At: at.UTC(), Result: overlay.RoundRepaired, Differences: 4, Fetched: 3, Sent: 1,
				BytesSent: 48, BytesReceived: 600, RoundTrips: 2, TookMS: 1.5}}, {ID: one}},
		Missing: 3, Wanted: 1, Backlog: 2, BacklogRate: 1.5, Paused: true, PausedBy: overlay.PausedByClock,
		Unreachable: []admin.UnreachableEntry{{Pillar: one, Log: overlay.LogID{3}, From: 4, To: 6, Records: 3}},
		Forks:       []admin.ForkEntry{{Pillar: two, Log: overlay.LogID{5}, Since: at.UTC()}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("%+v\nwant\n%+v", s, want)
	}
}

func TestConvergence(t *testing.T) {
	one := identity.NewPillarKey().ID()
	now := uint64(time.Now().UnixMilli())
	statements := []overlay.Statement{
		{Summary: overlay.Summary{Pillar: one, Settled: now - 20_000, Count: 7, Digest: overlay.Sum{Lo: 255}, At: now - 9_000},
			Agreement: overlay.AgreeDiverged, Compared: now - 20_000, Unequal: 3, Since: now - 40_000},
		{Summary: overlay.Summary{Pillar: one, At: now, Full: true}, Agreement: overlay.AgreeUnknown},
		{Summary: overlay.Summary{Pillar: one, At: now}, Agreement: overlay.AgreeEqual, Compared: now},
	}
	c, _ := pillarClient(t, &fakePillar{statements: statements}, "")
	n := newFakeNode(t)
	n.statements = statements
	nc := nodeClient(t, n)
	for name, ask := range map[string]func() ([]admin.ConvergenceEntry, error){
		"pillar": func() ([]admin.ConvergenceEntry, error) { return c.Convergence(t.Context()) },
		"node":   func() ([]admin.ConvergenceEntry, error) { return nc.Convergence(t.Context()) },
	} {
		list, err := ask()
		if err != nil || len(list) != 3 {
			t.Fatalf("%s: %+v, %v", name, list, err)
		}
		e := list[0]
		if e.Equal || e.Agreement != overlay.AgreeDiverged || e.Count != 7 || e.Digest[30:] != "ff" || e.AgeMS < 9_000 || e.AgeMS > 60_000 ||
			e.Since == nil || e.Since.UnixMilli() != int64(now-40_000) || e.SettledUntil.UnixMilli() != int64(now-20_000) {
			t.Errorf("%s: %+v", name, e)
		}
		if list[1].Equal || !list[1].Full || list[1].Compared != nil || list[1].Since != nil || !list[2].Equal {
			t.Errorf("%s: %+v", name, list[1:])
		}
	}
	n.sendErr = overlay.Refuse(overlay.CodeUnreachable, "no pillar is connected")
	if _, err := nc.Convergence(t.Context()); overlay.CodeOf(err) != overlay.CodeUnreachable {
		t.Errorf("a node without pillars: %v", err)
	}
}

func TestControl(t *testing.T) {
	ctx := t.Context()
	id := identity.NewPillarKey().ID()
	p := &fakePillar{revoked: id, round: overlay.Round{Result: overlay.RoundRepaired, Fetched: 2, Sent: 1, Differences: 3,
		BytesSent: 10, BytesReceived: 20, RecordBytes: 300, Took: time.Millisecond}}
	c, addr := pillarClient(t, p, "secret")
	if d, err := c.Drain(ctx, false); err != nil || !d.Draining || d.NodesConnected != 3 {
		t.Errorf("drain: %+v, %v", d, err)
	}
	if d, err := c.Drain(ctx, true); err != nil || d.Draining {
		t.Errorf("drain off: %+v, %v", d, err)
	}
	if r, err := c.Round(ctx, id); err != nil || r != (admin.RoundAnswer{Fetched: 2, Sent: 1, Bytes: 330, TookMS: 1, Result: overlay.RoundRepaired, Differences: 3}) {
		t.Errorf("round: %+v, %v", r, err)
	}
	if err := errors.Join(c.PauseRounds(ctx, true), c.PauseRounds(ctx, false), c.Leave(ctx)); err != nil {
		t.Error(err)
	}
	if r, err := c.Revoke(ctx, "text"); err != nil || r.Pillar != id || r.Serial != 7 {
		t.Errorf("revoke: %+v, %v", r, err)
	}
	want := []string{"drain true", "drain false", "round " + id.String() + " true", "pause true", "pause false", "leave true", "revoke text true"}
	if !slices.Equal(p.steered, want) {
		t.Errorf("%v, want %v", p.steered, want)
	}
	p.round = overlay.Round{Result: overlay.RoundFailed, Err: "it went away"}
	if _, err := c.Round(ctx, id); overlay.CodeOf(err) != overlay.CodeUnreachable {
		t.Errorf("a failed round: %v", err)
	}
	p.controlErr = overlay.Refuse(admin.CodeConflict, "no other pillar")
	if _, err := c.Drain(ctx, false); overlay.CodeOf(err) != admin.CodeConflict {
		t.Errorf("a refusal: %v", err)
	}
	// Nothing of it without the token, over loopback either, or by GET.
	before := len(p.steered)
	for _, path := range []string{"/v1/drain", "/v1/leave", "/v1/revocations", "/v1/sync/round?peer=" + id.String(), "/v1/sync/pause", "/v1/sync/resume"} {
		resp, err := http.Post("http://"+addr+path, "application/json", nil)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("POST %s without a token: %v %v", path, resp.Status, err)
		}
		resp.Body.Close()
		if resp, err = http.Get("http://" + addr + path); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %v %v", path, resp.Status, err)
		}
		resp.Body.Close()
	}
	for _, path := range []string{"/v1/sync/round", "/v1/sync/round?peer=x", "/v1/drain?off=yes"} {
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr+path, nil)
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("POST %s: %v %v", path, resp.Status, err)
		}
		resp.Body.Close()
	}
	if len(p.steered) != before {
		t.Errorf("something was steered: %v", p.steered[before:])
	}
}
