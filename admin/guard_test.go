package admin_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testToken = "0123456789abcdef0123456789abcdef"

// serve runs a handler on addr until the test ends and returns where.
func serve(t *testing.T, addr string, h http.Handler) string {
	t.Helper()
	ln, err := admin.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- admin.Serve(ctx, ln, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return admin.ListenAddr(ln)
}

type answer struct {
	status int
	header http.Header
	body   string
	code   string // of an error
}

// ask makes one request on a connection of its own.
func ask(t *testing.T, method, url, body string, header map[string]string) answer {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if h := header["Host"]; h != "" {
		req.Host = h
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(b)}
	var e struct {
		Error struct{ Code, Message string }
	}
	if resp.StatusCode >= 400 && json.Unmarshal(b, &e) == nil && strings.Contains(a.body, `"error"`) {
		a.code = e.Error.Code
		if e.Error.Message == "" {
			t.Errorf("%s %s: an error without a message: %s", method, url, b)
		}
	}
	return a
}

// Who may ask what, on TCP over loopback.
func TestWhoMayAsk(t *testing.T) {
	pillar := "http://" + serve(t, "127.0.0.1:0", admin.NewPillarHandler(&fakePillar{}, nil, admin.Config{Token: testToken, Hosts: []string{"pillar.example"}}))
	node := "http://" + serve(t, "127.0.0.1:0", admin.NewNodeHandler(newFakeNode(t), admin.Config{Token: testToken}))
	port := pillar[strings.LastIndexByte(pillar, ':'):]
	bearer := "Bearer " + testToken
	tests := []struct {
		name   string
		method string
		url    string
		header map[string]string
		status int
		code   string
	}{
		{"reading a pillar", "GET", pillar + "/v1/status", nil, 200, ""},
		{"its page", "GET", pillar + "/", nil, 200, ""},
		{"HEAD reads", "HEAD", pillar + "/v1/status", nil, 200, ""},
		{"changing a pillar without a token", "POST", pillar + "/v1/pillars", nil, 401, "unauthorized"},
		{"with a wrong token", "POST", pillar + "/v1/pillars", map[string]string{"Authorization": bearer + "0"}, 401, "unauthorized"},
		{"with an empty token", "POST", pillar + "/v1/pillars", map[string]string{"Authorization": "Bearer "}, 401, "unauthorized"},
		{"with the token in the wrong scheme", "POST", pillar + "/v1/pillars", map[string]string{"Authorization": "Basic " + testToken}, 401, "unauthorized"},
		{"with the token", "POST", pillar + "/v1/pillars", map[string]string{"Authorization": bearer}, 200, ""},
		{"reading a node without a token", "GET", node + "/v1/status", nil, 401, "unauthorized"},
		{"reading a node with one", "GET", node + "/v1/status", map[string]string{"Authorization": bearer}, 200, ""},
		{"a node's page without one", "GET", node + "/", nil, 401, "unauthorized"},

		{"a name rebound to loopback", "GET", pillar + "/v1/status", map[string]string{"Host": "evil.example"}, 421, "misdirected"},
		{"even with the token", "POST", pillar + "/v1/pillars", map[string]string{"Host": "evil.example", "Authorization": bearer}, 421, "misdirected"},
		{"a name that ends like ours", "GET", pillar + "/v1/status", map[string]string{"Host": "localhost.evil.example"}, 421, "misdirected"},
		{"another address", "GET", pillar + "/v1/status", map[string]string{"Host": "192.0.2.1" + port}, 421, "misdirected"},
		{"localhost", "GET", pillar + "/v1/status", map[string]string{"Host": "localhost" + port}, 200, ""},
		{"IPv6 loopback", "GET", pillar + "/v1/status", map[string]string{"Host": "[::1]" + port}, 200, ""},
		{"a configured name", "GET", pillar + "/v1/status", map[string]string{"Host": "Pillar.Example"}, 200, ""},

		{"another site reads", "GET", pillar + "/v1/status", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, "forbidden"},
		{"a sibling site reads", "GET", pillar + "/v1/status", map[string]string{"Sec-Fetch-Site": "same-site"}, 403, "forbidden"},
		{"another origin reads", "GET", pillar + "/v1/status", map[string]string{"Origin": "https://evil.example"}, 403, "forbidden"},
		{"another port of this machine reads", "GET", pillar + "/v1/status", map[string]string{"Origin": "http://127.0.0.1:1"}, 403, "forbidden"},
		{"another site changes", "POST", pillar + "/v1/pillars", map[string]string{"Sec-Fetch-Site": "cross-site", "Authorization": bearer}, 403, "forbidden"},
		{"another origin changes", "POST", pillar + "/v1/pillars", map[string]string{"Origin": "https://evil.example", "Authorization": bearer}, 403, "forbidden"},
		{"the page itself", "POST", pillar + "/v1/pillars", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": pillar, "Authorization": bearer}, 200, ""},
		{"a link to the page", "GET", pillar + "/", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200, ""},
		{"a link to a read", "GET", pillar + "/v1/status", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 403, "forbidden"},
	}
	for _, tt := range tests {
		body := ""
		if tt.method == "POST" {
			body = `{"addr":"x"}`
		}
		a := ask(t, tt.method, tt.url, body, tt.header)
		if a.status != tt.status || a.code != tt.code {
			t.Errorf("%s: %d %q, want %d %q", tt.name, a.status, a.code, tt.status, tt.code)
		}
		if a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: may be sniffed", tt.name)
		}
	}
}

// A Unix socket is protected by its mode alone.
func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{
		filepath.Join(dir, "api.sock"),
		filepath.Join(dir, strings.Repeat("deep-", 30), "api.sock"), // longer than a socket's name may be
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ln, err := admin.Listen("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			ended <- admin.Serve(ctx, ln, admin.NewNodeHandler(newFakeNode(t), admin.Config{Token: testToken}), slog.New(slog.DiscardHandler))
		}()
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v %v", info, err)
		}
		if got := admin.ListenAddr(ln); got != "unix:"+path {
			t.Errorf("listens on %s", got)
		}
		if _, err := admin.Listen("unix:" + path); err == nil {
			t.Error("a second server took over a socket in use")
		}
		c, err := admin.NewNodeClient(admin.Target{Addr: "unix:" + path})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(ctx); err != nil {
			t.Errorf("status: %v", err)
		}
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) > 1 {
			t.Errorf("left behind: %v", entries)
		}
	}
}

// A socket that a killed process left is replaced; another file is not.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	again, err := admin.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Listen("unix:" + path); err == nil {
		t.Error("a file was replaced by a socket")
	}
}

// Requests are bounded in size and shape; whatever is wrong is answered in JSON.
func TestBadRequests(t *testing.T) {
	base := "http://" + serve(t, "127.0.0.1:0", admin.NewNodeHandler(newFakeNode(t), admin.Config{Token: testToken}))
	tests := []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"no such path", "GET", "/v2/status", "", 404, "not_found"},
		{"no such method", "DELETE", "/v1/status", "", 405, "method_not_allowed"},
		{"no JSON", "POST", "/v1/messages", "hello", 400, "bad_request"},
		{"nothing", "POST", "/v1/messages", "", 400, "bad_request"},
		{"unknown field", "POST", "/v1/messages", `{"to":["x"],"text":"a","colour":"red"}`, 400, "bad_request"},
		{"two objects", "POST", "/v1/messages", `{"to":["x"],"text":"a"}{}`, 400, "bad_request"},
		{"a body too large", "POST", "/v1/messages", `{"text":"` + strings.Repeat("a", 2<<20) + `"}`, 413, "too_large"},
		{"no recipient", "POST", "/v1/messages", `{"text":"a"}`, 400, "bad_request"},
		{"unknown recipient", "POST", "/v1/messages", `{"to":["nobody"],"text":"a"}`, 404, "not_found"},
		{"text and bytes", "POST", "/v1/messages", `{"to":["x"],"text":"a","body_base64":"YQ=="}`, 400, "bad_request"},
		{"neither", "POST", "/v1/messages", `{"to":["x"]}`, 400, "bad_request"},
		{"unknown state", "POST", "/v1/messages", `{"to":["x"],"text":"a","wait":"read"}`, 400, "bad_request"},
		{"too long a life", "POST", "/v1/messages", `{"to":["x"],"text":"a","ttl_s":99999999}`, 400, "bad_request"},
		{"no life", "POST", "/v1/messages", `{"to":["x"],"text":"a","ttl_s":0}`, 400, "bad_request"},
		{"a life that has ended", "POST", "/v1/messages", `{"to":["x"],"text":"a","ttl_s":-1}`, 400, "bad_request"},
		{"no UTF-8", "POST", "/v1/messages", "{\"to\":[\"x\"],\"text\":\"a\xff\"}", 400, "bad_request"},
		{"257 recipients", "POST", "/v1/messages", `{"to":[` + strings.Repeat(`"x",`, 256) + `"x"],"text":"a"}`, 400, "bad_request"},
		{"no direction", "GET", "/v1/messages", "", 400, "bad_request"},
		{"bad limit", "GET", "/v1/messages?direction=in&limit=-1", "", 400, "bad_request"},
		{"bad after", "GET", "/v1/messages?direction=in&after=x", "", 400, "bad_request"},
		{"no such message", "GET", "/v1/messages/00", "", 404, "not_found"},
		{"ack of no ID", "POST", "/v1/messages/xyz/ack", "", 400, "bad_request"},
		{"bad account", "GET", "/v1/nodes?after=xyz", "", 400, "bad_request"},
		{"bad pillar", "POST", "/v1/pillars", `{"addr":"nowhere"}`, 400, "bad_request"},
		{"contact without a name", "POST", "/v1/contacts", `{"account":"` + newAccount(t).String() + `"}`, 400, "bad_request"},
		{"no such contact", "DELETE", "/v1/contacts/bob", "", 404, "not_found"},
	}
	for _, tt := range tests {
		a := ask(t, tt.method, base+tt.path, tt.body, map[string]string{"Authorization": "Bearer " + testToken})
		if a.status != tt.status || a.code != tt.code {
			t.Errorf("%s: %d %q, want %d %q: %.200s", tt.name, a.status, a.code, tt.status, tt.code, a.body)
		}
	}
}

func TestToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	first, err := admin.LoadOrCreateToken(path)
	if err != nil || len(first) != 64 {
		t.Fatalf("%q, %v", first, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if again, err := admin.LoadOrCreateToken(path); err != nil || again != first {
		t.Errorf("%q, %v", again, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.LoadToken(path); err == nil {
		t.Error("a token that others can read is used")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.LoadOrCreateToken(path); err == nil {
		t.Error("an empty token is used")
	}
}

// Streams of events do not hold up the stop of a server.
func TestServeStops(t *testing.T) {
	n := newFakeNode(t)
	ln, err := admin.Listen("unix:" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- admin.Serve(ctx, ln, admin.NewNodeHandler(n, admin.Config{}), slog.New(slog.DiscardHandler))
	}()
	c, err := admin.NewNodeClient(admin.Target{Addr: admin.ListenAddr(ln)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opened := make(chan struct{})
	streamed := make(chan error, 1)
	go func() {
		streamed <- c.Events(context.Background(), "", func(admin.StreamEvent) error { close(opened); return nil })
	}()
	<-opened
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the server does not stop")
	}
	if err := <-streamed; err == nil {
		t.Error("the stream ended without an error")
	}
}
