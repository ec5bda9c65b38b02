package admin_test

import (
	"context"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// hostile is a name as somebody would choose it to break a page.
const hostile = `"><script>alert(1)</script><img src=x onerror=a>`

func newPillarID(t testing.TB) identity.PillarID {
	t.Helper()
	return identity.NewPillarKey().ID()
}

// dashPillar is a pillar that knows two others: one differs and has a hostile
// name, one is a home pillar that the first relays for.
func dashPillar(t testing.TB) (p *fakePillar, self, bad, home identity.PillarID) {
	t.Helper()
	self, bad, home = newPillarID(t), newPillarID(t), newPillarID(t)
	seen := time.Now()
	p = &fakePillar{status: admin.PillarStatus{ID: self.String(), Name: "vesta", Network: "net", Version: "1", Records: 12,
		PillarsAlive: 3, Standing: overlay.StandingAdmitted, ClockWarning: hostile,
		Expiring: admin.ExpiringStatus{Messages: 1200, Accounts: 3, AtLeast: true, LookedAt: &seen}}}
	p.pillars = []admin.PillarEntry{
		{ID: bad, Name: hostile, State: overlay.PillarAlive, Connected: true, Path: overlay.PathDirect, RTTMS: 2.5, MissingHere: 7, MissingThere: 3,
			Addrs: []string{"/dns4/" + hostile}, Standing: overlay.StandingAdmitted},
		{ID: home, Name: "juno", Home: true, State: overlay.PillarDead, LastSeen: &seen, Standing: overlay.StandingAdmitted,
			Addrs: []string{"/ip4/192.0.2.1/tcp/1/p2p/" + bad.String() + "/p2p-circuit"}},
	}
	at := uint64(time.Now().Add(-time.Minute).UnixMilli())
	summary := func(id identity.PillarID, count uint64) overlay.Summary {
		return overlay.Summary{Pillar: id, Settled: at, At: at, Count: count, Digest: overlay.Sum{Lo: count}}
	}
	p.statements = []overlay.Statement{
		{Summary: summary(self, 12), Agreement: overlay.AgreeEqual, Compared: at},
		{Summary: summary(bad, 9), Agreement: overlay.AgreeDiverged, Compared: at, Unequal: 3, Since: at - 30_000},
		{Summary: summary(home, 12), Agreement: overlay.AgreeEqual, Compared: at},
	}
	log := overlay.LogID{1}
	p.sync = overlay.SyncStatus{Paused: overlay.PausedByOperator,
		Logs: []overlay.LogState{{Pillar: bad, Position: overlay.Position{Log: log, Seq: 40}}},
		Peers: []overlay.PeerSync{{Pillar: bad, Behind: 7, Gaps: []overlay.LogGap{{Log: log, Here: 7, There: 3}},
			Last: &overlay.Round{Pillar: bad, At: time.Now(), Result: overlay.RoundRepaired, Differences: 3, BytesSent: 900, BytesReceived: 80, RoundTrips: 2}}},
		Unreachable: []overlay.Unreachable{{Pillar: home, Log: overlay.LogID{2}, From: 3, To: 9}},
		Forks:       []overlay.ForkStatus{{Pillar: bad, Log: overlay.LogID{3}, Since: time.Now()}}}
	p.diff = overlay.Diff{Here: self, There: bad, OnlyHere: []overlay.Difference{{ID: overlay.RecordID{9}, Why: overlay.AbsentNever, Detail: hostile}}}
	p.traces = []overlay.Trace{{Pillar: self, Answered: true, Has: true, Recipients: []overlay.RecipientTrace{
		{Account: newAccount(t), Devices: []overlay.DeviceDelivery{{Device: identity.NewDeviceKey().ID(), State: overlay.DeliveryPushed}}}}}, {Pillar: bad, Answered: true, Why: overlay.AbsentVoid, Detail: hostile}, {Pillar: home}}
	return p, self, bad, home
}

// pagesOf are all pages of a pillar, and what each must say.
func pagesOf(self, bad identity.PillarID) map[string][]string {
	record := overlay.RecordID{9}
	return map[string][]string{
		"/": {"1 of 3 pillars holds other records.", "−3", "Divergence.", "Forked log.", "Clock.", "Gone.", "Unreachable records.", "Audit paused.", "Expiring unconfirmed.",
			"At least 1,200 messages end within a day, and 3 recipients have written no receipt to the author since",
			`data-ends="0 1"`, "2.5 ms", "repaired"},
		"/fragments/overview":                              {"1 of 3 pillars"},
		"/pillar/" + self.String():                         {"this one"},
		"/pillar/" + bad.String():                          {"List differences", "Its records differ"},
		"/pillar/" + bad.String() + "?diff=1":              {"never arrived", "/trace/" + record.String()},
		"/trace/" + record.String():                        {"1 of 3 pillars holds it.", "void", "did not answer", "Was it confirmed?", "not confirmed", "was sent it"},
		"/search?q=" + "%3Cscript%3E":                      {"Nothing is called that."},
		"/pillar/nonsense":                                 {"bad_request"},
		"/pillar/" + identity.NewPillarKey().ID().String(): {"not_found"},
	}
}

// outside is anything that a browser would load or follow to elsewhere.
var outside = regexp.MustCompile(`(?i)(src|href|action)\s*=\s*"?(https?:)?//|url\(|@import|<style|\sstyle=|\son[a-z]+\s*=\s*["']|javascript:`)

// Nothing foreign becomes markup, nothing is loaded from elsewhere, and the
// policy says so to the browser.
func TestPages(t *testing.T) {
	p, self, bad, _ := dashPillar(t)
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken}))
	for path, wants := range pagesOf(self, bad) {
		a := ask(t, "GET", "http://"+addr+path, "", nil)
		if got := a.header.Get("Content-Type"); got != "text/html; charset=utf-8" {
			t.Errorf("%s: %d, type %q: %.300s", path, a.status, got, a.body)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s does not say %q", path, want)
			}
		}
		for _, never := range []string{"<script>", "<img", hostile} {
			if strings.Contains(a.body, never) {
				t.Errorf("%s has %s in it", path, never)
			}
		}
		icon := regexp.MustCompile(`<link rel="icon"[^>]*>`) // a data: URL
		if found := outside.FindString(icon.ReplaceAllString(a.body, "")); found != "" {
			t.Errorf("%s has %q in it", path, found)
		}
		policy := a.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, want) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: policy %q, want %s", path, policy, want)
			}
		}
		for _, m := range regexp.MustCompile(`(?:href|src)="(/assets/[^"]+)"`).FindAllStringSubmatch(a.body, -1) {
			if f := ask(t, "GET", "http://"+addr+m[1], "", nil); f.status != http.StatusOK || !strings.Contains(f.header.Get("Cache-Control"), "immutable") {
				t.Errorf("%s: %d, %q", m[1], f.status, f.header.Get("Cache-Control"))
			}
			if f := ask(t, "GET", "http://"+addr+m[1], "", nil); outside.MatchString(f.body) {
				t.Errorf("%s loads something from elsewhere", m[1])
			}
		}
	}
}

// Who may only look sees why the buttons do nothing, and cannot press them by
// hand; who may gets told what became of it.
func TestPageButtons(t *testing.T) {
	p, self, bad, _ := dashPillar(t)
	p.repaired = overlay.Repaired{Fetched: 2, Sent: 1, Bytes: 4000, Took: time.Millisecond}
	p.round = overlay.Round{Result: overlay.RoundEqual}
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken}))
	page := "http://" + addr + "/pillar/" + bad.String()
	token := map[string]string{"Authorization": "Bearer " + testToken}

	if a := ask(t, "GET", page, "", nil); strings.Count(a.body, " disabled ") != 2 || !strings.Contains(a.body, "obelisk open") {
		t.Error("without a right: the buttons are not disabled, or it is not said why")
	}
	if a := ask(t, "POST", page+"/repair", "", nil); a.status != http.StatusUnauthorized {
		t.Errorf("a repair without a token: %d, want 401", a.status)
	}
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		if a := ask(t, "POST", page+"/repair", "", map[string]string{"Authorization": "Bearer " + testToken, name: value}); a.status != http.StatusForbidden {
			t.Errorf("a repair from another site (%s): %d, want 403", name, a.status)
		}
	}
	if a := ask(t, "GET", page+"/repair", "", token); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET of a repair: %d, want 405", a.status)
	}
	if len(p.steered) != 0 {
		t.Fatalf("it was done: %q", p.steered)
	}

	if a := ask(t, "GET", page, "", token); strings.Contains(a.body, " disabled ") {
		t.Error("with the token the buttons are disabled")
	}
	for _, tt := range []struct{ path, steered, says string }{
		{"/repair", "repair  " + bad.String() + " true", "2 records fetched, 1 sent (4.0 KB, 1.0 ms)"},
		{"/repair?of=" + self.String(), "repair  " + bad.String() + " true", "2 records fetched"},
		{"/round", "round " + bad.String() + " true", "equal, 0 differences"},
	} {
		a := ask(t, "POST", page+tt.path, "", token)
		if a.status != http.StatusSeeOther || !strings.HasPrefix(a.header.Get("Location"), "/pillar/"+bad.String()) {
			t.Errorf("%s: %d to %q", tt.path, a.status, a.header.Get("Location"))
		}
		if got := p.steered[len(p.steered)-1]; got != tt.steered {
			t.Errorf("%s did %q, want %q", tt.path, got, tt.steered)
		}
		if a := ask(t, "GET", page, "", token); !strings.Contains(a.body, tt.says) {
			t.Errorf("after %s the page does not say %q", tt.path, tt.says)
		}
	}
	if a := ask(t, "GET", "http://"+addr+"/", "", nil); strings.Contains(a.body, "Resume audits") {
		t.Error("who may only look is offered to resume audits")
	}
	if a := ask(t, "GET", "http://"+addr+"/", "", token); !strings.Contains(a.body, "Resume audits") {
		t.Error("who may is not offered to resume audits")
	}
	if a := ask(t, "POST", "http://"+addr+"/resume", "", token); a.status != http.StatusSeeOther || p.steered[len(p.steered)-1] != "pause false" {
		t.Errorf("resume: %d, did %q", a.status, p.steered[len(p.steered)-1])
	}
	p.controlErr = overlay.Refuse(overlay.CodeUnreachable, "%s", hostile)
	ask(t, "POST", page+"/repair", "", token)
	if a := ask(t, "GET", page, "", token); !strings.Contains(a.body, "note failed") || strings.Contains(a.body, hostile) {
		t.Error("a failed repair is not told, or not escaped")
	}
	if a := ask(t, "POST", "http://"+addr+"/pillar/"+self.String()+"/repair", "", token); a.status != http.StatusBadRequest {
		t.Errorf("a repair with itself: %d, want 400", a.status)
	}
}

// What somebody types leads to a record or a pillar.
func TestPageSearch(t *testing.T) {
	p, self, bad, home := dashPillar(t)
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken}))
	record := overlay.RecordID{0xab}.String()
	id := home.String()
	for q, want := range map[string]string{
		record:         "/trace/" + record,
		"+" + record:   "/trace/" + record, // a space
		id:             "/pillar/" + id,
		id[len(id)-8:]: "/pillar/" + id,
		"JUNO":         "/pillar/" + id,
		"vesta":        "/pillar/" + self.String(),
		bad.String():   "/pillar/" + bad.String(),
	} {
		if a := ask(t, "GET", "http://"+addr+"/search?q="+q, "", nil); a.status != http.StatusSeeOther || a.header.Get("Location") != want {
			t.Errorf("%q leads with %d to %q, want %q", q, a.status, a.header.Get("Location"), want)
		}
	}
	p.pillars[0].Name = "juno" // anybody can claim any
	if a := ask(t, "GET", "http://"+addr+"/search?q=juno", "", nil); a.status != http.StatusOK || !strings.Contains(a.body, id) || !strings.Contains(a.body, bad.String()) {
		t.Errorf("a name of two: %d", a.status)
	}
	for _, q := range []string{"", "nobody", "zz"} {
		if a := ask(t, "GET", "http://"+addr+"/search?q="+q, "", nil); a.status != http.StatusNotFound {
			t.Errorf("%q: %d, want 404", q, a.status)
		}
	}
}

// What the first sentence says.
func TestPageVerdict(t *testing.T) {
	tests := []struct {
		name   string
		change func(p *fakePillar)
		want   string
	}{
		{"alone", func(p *fakePillar) { p.pillars = nil; p.statements = nil }, "One pillar, and no other"},
		{"all the same", func(p *fakePillar) {
			p.status.Converged = true
			p.pillars[1].State = overlay.PillarAlive
			p.statements[1] = p.statements[0]
		}, "All 3 pillars hold the same records."},
		{"one away", func(p *fakePillar) { p.status.Converged = true; p.statements = nil }, "2 of 3 pillars are here"},
		{"traffic", func(p *fakePillar) { p.statements[1].Agreement = overlay.AgreeTraffic }, "1 of 3 pillars differs at the moment."},
		{"one left", func(p *fakePillar) { p.pillars[1].State = overlay.PillarLeft }, "1 of 2 pillars holds other records."},
		{"nothing told yet", func(p *fakePillar) { p.statements = nil }, "not all have been compared"},
		{"single copy", func(p *fakePillar) { p.pillars = nil }, "Single copy."},
		{"alone though others are known", func(p *fakePillar) { p.pillars[0].Connected = false }, "Alone."},
		{"full", func(p *fakePillar) { p.status.Full = true }, "Disk full."},
		{"revoked", func(p *fakePillar) { p.status.Standing = overlay.StandingRevoked }, "Not admitted."},
		{"draining", func(p *fakePillar) { p.status.Draining = true }, "Draining."},
		{"home and nobody relays", func(p *fakePillar) { p.status.Home = true }, "Not reached."},
	}
	for _, tt := range tests {
		p, _, _, _ := dashPillar(t)
		tt.change(p)
		addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken}))
		if a := ask(t, "GET", "http://"+addr+"/", "", nil); !strings.Contains(a.body, tt.want) {
			t.Errorf("%s: the page does not say %q", tt.name, tt.want)
		}
	}
}

// The largest page: 50 pillars, each connected with every other, 200 logs.
func BenchmarkOverview(b *testing.B) {
	p, _, _, _ := dashPillar(b)
	for i := range 48 {
		id := newPillarID(b)
		p.pillars = append(p.pillars, admin.PillarEntry{ID: id, State: overlay.PillarAlive, Connected: true, Path: overlay.PathDirect, RTTMS: 1})
		s := p.statements[0]
		s.Pillar = id
		p.statements = append(p.statements, s)
		p.sync.Peers = append(p.sync.Peers, overlay.PeerSync{Pillar: id, Last: p.sync.Peers[0].Last})
		for j := range 4 {
			p.sync.Logs = append(p.sync.Logs, overlay.LogState{Pillar: id, Position: overlay.Position{Log: overlay.LogID{9, byte(i), byte(j)}, Seq: 7}})
		}
	}
	all := []identity.PillarID{newPillarID(b)}
	p.status.ID = all[0].String()
	for i := range p.pillars {
		all = append(all, p.pillars[i].ID)
	}
	p.links = &overlay.LinkMap{At: time.Now()}
	for _, a := range all {
		r := overlay.LinkReport{Pillar: a, Answered: true}
		for _, with := range all {
			if with != a {
				r.Links = append(r.Links, overlay.PillarLink{With: with, Path: overlay.PathDirect, Transport: overlay.LinkQUIC, RTT: time.Millisecond})
			}
		}
		p.links.Reports = append(p.links.Reports, r)
	}
	w := admin.NewWatch(p, nil)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(b.Context())
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	h := admin.NewPillarHandler(p, nil, admin.Config{Token: testToken, Watch: w})
	for !strings.Contains(get(b, h, "/").Body.String(), `data-ends="1 2"`) {
		runtime.Gosched()
	}
	bytes := 0
	for b.Loop() {
		bytes = len(get(b, h, "/").Body.Bytes())
	}
	b.ReportMetric(float64(bytes), "B/page")
}
