package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

const (
	unixPrefix = "unix:"
	// maxConns bounds the connections of one server.
	maxConns = 256
	// stopGrace is how long requests in flight get when a server stops.
	stopGrace = time.Second
)

// Listen opens unix:PATH, with mode 0600, or HOST:PORT; port 0 picks a free
// one. A socket file that nobody listens on any more is replaced.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, unixPrefix)
	if !ok {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
		return ln, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	if err := removeStaleSocket(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	// Nobody can connect before the rights are set: the directory that the
	// socket first appears in is its owner's alone.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "s")
	short, release, err := shorten(temp)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	defer release()
	ln, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // it has moved
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return &unixListener{ln, path}, nil
}

// maxSocketPath is the longest path of a socket in bytes that every system
// takes: sun_path has 108 on Linux and 104 on the BSDs, the end included.
const maxSocketPath = 103

// shorten returns a name for a socket's path that a system takes. Where the
// path itself is too long, Linux finds it through an open directory; the name
// is good until release.
func shorten(path string) (short string, release func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if _, err := os.Stat(filepath.Dir(short)); err != nil || len(short) > maxSocketPath {
		dir.Close()
		return "", nil, fmt.Errorf("the path of a socket has at most %d bytes: choose another with --api unix:PATH", maxSocketPath)
	}
	return short, func() { dir.Close() }, nil
}

func dialUnix(ctx context.Context, d *net.Dialer, path string) (net.Conn, error) {
	short, release, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer release()
	return d.DialContext(ctx, "unix", short)
}

// unixListener removes its file when it is closed.
type unixListener struct {
	net.Listener
	path string
}

func (l *unixListener) Close() error {
	err := l.Listener.Close()
	if e := os.Remove(l.path); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// Addr is the path it was asked for.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c, err := dialUnix(ctx, new(net.Dialer), path); err == nil {
		c.Close()
		return fmt.Errorf("another process listens on %s", path)
	}
	return os.Remove(path)
}

// ListenAddr is where ln is asked from this machine, as Target takes it: a
// listener on all addresses is asked on loopback.
func ListenAddr(ln net.Listener) string {
	switch a := ln.Addr().(type) {
	case *net.UnixAddr:
		return unixPrefix + a.String()
	case *net.TCPAddr:
		if a.IP.IsUnspecified() {
			return net.JoinHostPort("localhost", strconv.Itoa(a.Port))
		}
	}
	return ln.Addr().String()
}

// IsLoopback reports whether addr is a Unix socket or a HOST:PORT that only
// this machine reaches.
func IsLoopback(addr string) bool {
	if strings.HasPrefix(addr, unixPrefix) {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Serve answers requests from ln until ctx ends, closes ln, and returns when
// every request has ended; those that do not end within a second are cut off.
// It returns nil after ctx ended.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	requests, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	s := &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(netutil.LimitListener(ln, maxConns)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", ListenAddr(ln), err)
	case <-ctx.Done():
	}
	cutOff() // streams of events end, and whoever waits for a message
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if err := s.Shutdown(grace); err != nil {
		_ = s.Close()
	}
	<-failed
	return nil
}
