package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says who may ask a handler. Token is required on TCP.
type Config struct {
	// Token is the bearer token; see LoadOrCreateToken.
	Token string
	// Hosts are further names under which the server is asked, without port.
	Hosts []string
	// Logger gets what went wrong inside. Default: discarded.
	Logger *slog.Logger

	// Actions gets what is changed. Default: it is written down nowhere.
	Actions *ActionLog
	// Watch, of a pillar, draws its pages' charts and tells of its events.
	// Default: neither.
	Watch *Watch

	session *session // a browser that is let in beside whoever has the token
}

const (
	// maxRequest bounds a request's body: the largest message in base64 and
	// room to spare.
	maxRequest = 1 << 20
	// maxAtOnce bounds the requests served at once; more are answered "busy".
	maxAtOnce = 128
	// requestTime bounds reading a request and writing its answer. Handlers
	// that wait on purpose extend it.
	requestTime = 30 * time.Second
)

// contentPolicy is what a page may do: load this server's style sheet, script
// and nothing else, send forms here, and be in no other page's frame. Markup
// that slipped in would have no script, no style and nowhere to send to.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// guard stands before every handler of a server.
type guard struct {
	cfg       Config
	openReads bool // reads over loopback need no token
	slots     chan struct{}
	sites     *http.CrossOriginProtection
	next      http.Handler
}

func newGuard(cfg Config, openReads bool, next http.Handler) *guard {
	return &guard{cfg: cfg, openReads: openReads, slots: make(chan struct{}, maxAtOnce),
		sites: http.NewCrossOriginProtection(), next: next}
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	allow(w, requestTime)
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Referrer-Policy", "same-origin") // with none, a form's Origin would be null
	right := bySocket
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil || local.Network() != "unix" {
		if !g.isOurHost(r.Host, local) {
			refuse(w, CodeMisdirected, "this server is not called %q", r.Host)
			return
		}
		if g.isCrossSite(r) {
			refuse(w, CodeForbidden, "requests from other sites are refused")
			return
		}
		if s := g.cfg.session; s != nil && r.URL.Path == openPath && r.Method == http.MethodGet {
			s.open(w, r)
			return
		}
		if right = g.right(r); right == byNone {
			h.Set("WWW-Authenticate", `Bearer realm="obelisk"`)
			refuse(w, CodeUnauthorized, "this needs Authorization: Bearer with the token from the data directory")
			return
		}
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		h.Set("Retry-After", "1")
		refuse(w, "busy", "%d requests are being served already", maxAtOnce)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	g.written(w, r.WithContext(context.WithValue(r.Context(), rightKey{}, right)), right)
}

// guardHeaders are what a guard sets on every answer.
var guardHeaders = []string{"X-Content-Type-Options", "X-Frame-Options", "Content-Security-Policy", "Referrer-Policy"}

type rightKey struct{}

// mayChange reports whether a request that the guard let in came by a right to
// change something, whatever it asks for.
func mayChange(r *http.Request) bool {
	switch right, _ := r.Context().Value(rightKey{}).(string); right {
	case byToken, byPage, bySocket:
		return true
	default:
		return false
	}
}

// allow gives a request that much time from now.
func allow(w http.ResponseWriter, d time.Duration) {
	c := http.NewResponseController(w)
	deadline := time.Now().Add(d)
	_ = c.SetReadDeadline(deadline)  // not every ResponseWriter has deadlines:
	_ = c.SetWriteDeadline(deadline) // recorders in tests have none
}

// isOurHost reports whether a Host header names this server.
func (g *guard) isOurHost(host string, local net.Addr) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	for _, h := range g.cfg.Hosts {
		if strings.EqualFold(name, h) {
			return true
		}
	}
	dialled := addrIP(local)
	onLoopback := dialled == nil || dialled.IsLoopback()
	if strings.EqualFold(name, "localhost") {
		return onLoopback
	}
	ip := net.ParseIP(name)
	if ip == nil {
		return false
	}
	return ip.IsLoopback() && onLoopback || dialled != nil && ip.Equal(dialled)
}

func addrIP(a net.Addr) net.IP {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP
	}
	return nil
}

// isCrossSite reports whether a browser made r for a page of another origin.
// CrossOriginProtection lets reads pass because a page cannot see the answer;
// here they are refused as well, all but following a link to the page itself.
func (g *guard) isCrossSite(r *http.Request) bool {
	if g.sites.Check(r) != nil {
		return true
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		isLink := r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
		if !isLink {
			return true
		}
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		return err != nil || !strings.EqualFold(u.Host, r.Host)
	}
	return false
}

// right applies the token rules for TCP, the strongest right first.
func (g *guard) right(r *http.Request) string {
	if s := g.cfg.session; s != nil && s.has(r) {
		return byPage
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if g.cfg.Token != "" && strings.EqualFold(scheme, "Bearer") && equalTokens(strings.TrimSpace(token), g.cfg.Token) {
		return byToken
	}
	if g.openReads && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		ip := net.ParseIP(host)
		if err == nil && ip != nil && ip.IsLoopback() {
			return byRead
		}
	}
	return byNone
}
