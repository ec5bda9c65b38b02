package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Target is where a client finds a server and what it shows there.
type Target struct {
	Addr  string // unix:PATH, HOST:PORT, or https://HOST:PORT
	Token string // "" on a Unix socket, and for reads of a pillar over loopback
	// RootCert is a PEM file with the certificate that https must show. Default:
	// what the system trusts.
	RootCert string
	// Dial makes connections to a HOST:PORT that this process does not reach by
	// itself, in another network namespace for one. Default: the usual way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 64 << 20

// client is what both clients are made of. Safe for concurrent use.
type client struct {
	target Target
	base   string
	http   *http.Client
}

func newClient(t Target) (*client, error) {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		DialContext:           dialer.DialContext,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: maxWait + requestTime,
		TLSHandshakeTimeout:   5 * time.Second,
	}
	if t.Dial != nil {
		transport.DialContext = t.Dial
	}
	c := &client{target: t, http: &http.Client{Transport: transport}}
	switch path, isUnix := strings.CutPrefix(t.Addr, unixPrefix); {
	case isUnix:
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialUnix(ctx, dialer, path)
		}
	case strings.HasPrefix(t.Addr, "https://"):
		c.base = strings.TrimSuffix(t.Addr, "/")
		if t.RootCert != "" {
			pem, err := os.ReadFile(t.RootCert)
			if err != nil {
				return nil, fmt.Errorf("certificate to trust: %w", err)
			}
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("certificate to trust: %s holds none", t.RootCert)
			}
			transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		}
	default:
		addr := strings.TrimPrefix(t.Addr, "http://")
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, overlay.Refuse(overlay.CodeBadRequest, "address %q: want unix:PATH, HOST:PORT or https://HOST:PORT", t.Addr)
		}
		c.base = "http://" + addr
	}
	return c, nil
}

// close gives idle connections back.
func (c *client) close() { c.http.CloseIdleConnections() }

// do makes a request and decodes its answer into out, unless that is nil. An
// answer that is an error becomes an *overlay.Error with its code.
func (c *client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	resp, err := c.start(ctx, method, path, query, in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return nil
}

// start makes a request and returns its answer if that is no error.
func (c *client) start(ctx context.Context, method, path string, query url.Values, in any, header http.Header) (*http.Response, error) {
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.target.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.target.Token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotRunning, c.target.Addr, cause(err))
		}
		return nil, fmt.Errorf("%w: %s: the connection broke: %w", ErrNotRunning, c.target.Addr, cause(err))
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(resp)
}

// cause leaves out the URL that net/http writes in front.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func answerError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var e errorBody
	if json.Unmarshal(b, &e) != nil || e.Error.Code == "" {
		return fmt.Errorf("the server answers %s, which is not Obelisk's", resp.Status)
	}
	text := strings.TrimPrefix(e.Error.Message, string(e.Error.Code)+": ")
	return &overlay.Error{Code: e.Error.Code, Text: text}
}
