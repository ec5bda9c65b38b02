package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// Front shows a running process's pages to one browser of this user: a server
// on a loopback port of its own, which asks the process with the token, so that
// the browser needs none, and lets in only who has the one-time code.
//
//	browser ── cookie ──► Front on 127.0.0.1 ── token or socket ──► node or pillar
type Front struct {
	session *session
	ln      net.Listener
	client  *client
	log     *slog.Logger
}

// OpenFront listens on a free loopback port for the pages of t. Serve must
// follow, or Close.
func OpenFront(t Target, log *slog.Logger) (*Front, error) {
	c, err := newClient(t)
	if err != nil {
		return nil, err
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("obelisk_%d", ln.Addr().(*net.TCPAddr).Port)
	return &Front{session: newSession(name, time.Now), ln: ln, client: c, log: log}, nil
}

// URL is what the browser opens, once and within two minutes. It is a secret
// until then.
func (f *Front) URL() string {
	f.session.mu.Lock()
	defer f.session.mu.Unlock()
	return (&url.URL{Scheme: "http", Host: f.ln.Addr().String(), Path: openPath,
		RawQuery: url.Values{"code": {f.session.code}}.Encode()}).String()
}

// Serve answers the browser until ctx ends.
func (f *Front) Serve(ctx context.Context) error {
	defer f.client.close()
	return Serve(ctx, f.ln, f.handler(), f.log)
}

// Close gives up a Front that does not serve.
func (f *Front) Close() error {
	f.client.close()
	return f.ln.Close()
}

// handler lets the browser in and passes on what it asks.
func (f *Front) handler() http.Handler {
	base, err := url.Parse(f.client.base)
	if err != nil {
		panic("admin: a client's address is no URL: " + err.Error()) // newClient made it
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(base)
			r.Out.Host = base.Host
			// What the browser says of itself was checked here, and is about this
			// server; the process would take it for another site's.
			for _, name := range []string{"Cookie", "Origin", "Referer", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Authorization"} {
				r.Out.Header.Del(name)
			}
			if f.client.target.Token != "" {
				r.Out.Header.Set("Authorization", "Bearer "+f.client.target.Token)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			for _, name := range guardHeaders { // set here already
				resp.Header.Del(name)
			}
			return nil
		},
		Transport: f.client.http.Transport,
		ErrorLog:  slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			refuse(w, CodeBadGateway, "the process does not answer: %v", cause(err))
		},
	}
	pass := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		allow(w, streamTime) // the process has limits of its own, and ends streams itself
		proxy.ServeHTTP(w, r)
	})
	return newGuard(Config{Logger: f.log, session: f.session}, false, pass)
}

// streamTime is how long the pages' stream of events may go on before the
// browser has to ask anew.
const streamTime = time.Hour
