package admin_test

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/admin"
)

// front serves a Front of target until the test ends.
func front(t *testing.T, target admin.Target) *admin.Front {
	t.Helper()
	f, err := admin.OpenFront(target, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

// TestFront: the code lets one browser in, once; its cookie is what the
// process's token is elsewhere; nobody else gets anything.
func TestFront(t *testing.T) {
	p := &fakePillar{}
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken}))
	f := front(t, admin.Target{Addr: addr, Token: testToken})
	link := f.URL()
	base := link[:strings.Index(link, "/open")]

	if a := ask(t, "GET", base+"/v1/status", "", nil); a.status != http.StatusUnauthorized {
		t.Errorf("without a cookie: %d, want 401", a.status)
	}
	if a := ask(t, "GET", base+"/open?code="+strings.Repeat("0", 64), "", nil); a.status != http.StatusForbidden {
		t.Errorf("with another code: %d, want 403", a.status)
	}
	if a := ask(t, "GET", link, "", map[string]string{"Host": "evil.example"}); a.status != http.StatusMisdirectedRequest {
		t.Errorf("under another name: %d, want 421", a.status)
	}
	a := ask(t, "GET", link, "", nil)
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/" {
		t.Fatalf("with the code: %d to %q, want 303 to /", a.status, a.header.Get("Location"))
	}
	set := a.header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(set, want) {
			t.Errorf("Set-Cookie %q lacks %s", set, want)
		}
	}
	if a := ask(t, "GET", link, "", nil); a.status != http.StatusForbidden {
		t.Errorf("the code a second time: %d, want 403", a.status)
	}
	cookie, _, _ := strings.Cut(set, ";")
	page := ask(t, "GET", base+"/", "", map[string]string{"Cookie": cookie})
	if n := len(page.header.Values("Content-Security-Policy")); page.status != http.StatusOK || n != 1 {
		t.Errorf("the page with the cookie: %d with %d policies, want 200 with one", page.status, n)
	}
	if a := ask(t, "GET", base+"/v1/status", "", map[string]string{"Cookie": cookie}); a.status != http.StatusOK {
		t.Errorf("a read with the cookie: %d, want 200", a.status)
	}
	if a := ask(t, "POST", base+"/v1/sync/pause", "", map[string]string{"Cookie": cookie}); a.status != http.StatusOK || !slices.Contains(p.steered, "pause true") {
		t.Errorf("a change with the cookie: %d, want 200", a.status)
	}
	for name, header := range map[string]map[string]string{
		"another site":   {"Cookie": cookie, "Sec-Fetch-Site": "cross-site"},
		"another origin": {"Cookie": cookie, "Origin": "http://evil.example"},
	} {
		if a := ask(t, "POST", base+"/v1/sync/resume", "", header); a.status != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, a.status)
		}
	}
	if a := ask(t, "GET", base+"/v1/status", "", map[string]string{"Cookie": cookie + "0"}); a.status != http.StatusUnauthorized {
		t.Errorf("with another cookie: %d, want 401", a.status)
	}
	if a := ask(t, "GET", base+"/v1/status", "", map[string]string{"Authorization": "Bearer " + testToken}); a.status != http.StatusUnauthorized {
		t.Errorf("the process's token is none here: %d, want 401", a.status)
	}
}

// TestFrontStreams: events of a process behind a Unix socket come through one
// by one.
func TestFrontStreams(t *testing.T) {
	n := newFakeNode(t)
	addr := serve(t, "unix:"+t.TempDir()+"/api.sock", admin.NewNodeHandler(n, admin.Config{Token: testToken}))
	f := front(t, admin.Target{Addr: addr})
	link, err := url.Parse(f.URL())
	if err != nil {
		t.Fatal(err)
	}
	a := ask(t, "GET", link.String(), "", nil)
	cookie, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+link.Host+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", cookie)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "event: ") {
			return
		}
	}
	t.Fatalf("no event came through: %v", lines.Err())
}

// TestFrontAlone: the process went away.
func TestFrontAlone(t *testing.T) {
	f := front(t, admin.Target{Addr: "127.0.0.1:1", Token: testToken})
	link := f.URL()
	a := ask(t, "GET", link, "", nil)
	cookie, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	a = ask(t, "GET", link[:strings.Index(link, "/open")]+"/v1/status", "", map[string]string{"Cookie": cookie})
	if a.status != http.StatusBadGateway || a.code != string(admin.CodeBadGateway) {
		t.Errorf("status %d, code %q; want 502 bad_gateway", a.status, a.code)
	}
}
