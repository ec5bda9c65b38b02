package linktest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

var linkCases = []Case{
	{"echo", testEcho},
	{"half close", testHalfClose},
	{"close delivers what was written", testCloseDelivers},
	{"reset fails the other side", testReset},
	{"deadlines", testDeadlines},
	{"back-pressure", testBackPressure},
	{"large transfer", testLarge},
	{"many streams at once", testConcurrent},
	{"handlers run side by side", testHandlersParallel},
	{"unknown protocol", testUnknownProtocol},
	{"handler taken away", testHandleNil},
	{"wrong peer", testWrongPeer},
	{"unreachable", testUnreachable},
	{"why not", testWhyNot},
	{"cancelled", testCancelled},
	{"connect from both sides", testSimultaneous},
	{"open dials known addresses", testOpenDials},
	{"close drops the peer", testClosePeer},
	{"shutdown", testShutdown},
}

func testEcho(t *testing.T, newHost NewHost) {
	from := make(chan string, 1)
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		from <- s.Peer().String()
		echo(s)
	}))
	s := open(t, a, b.Self())
	if s.Peer() != b.Self() {
		t.Errorf("opened to %s, Peer says %s", b.Self(), s.Peer())
	}
	if s.Remote() == nil {
		t.Error("no remote address")
	}
	msg := []byte("from a to b and back")
	if _, err := s.Write(msg); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, msg) {
		t.Fatalf("echo %q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if p := next(t, from, "the handler's stream"); p != a.Self().String() {
		t.Errorf("handler saw %s, want %s", p, a.Self())
	}
}

func testHalfClose(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		defer s.Close()
		got, err := io.ReadAll(s) // returns only at our end of file
		if err != nil {
			_ = s.Reset()
			return
		}
		fmt.Fprintf(s, "%d bytes", len(got))
	}))
	s := open(t, a, b.Self())
	defer s.Close()
	if _, err := s.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("write after CloseWrite succeeded")
	}
	got, err := io.ReadAll(s)
	if err != nil || string(got) != "1000 bytes" {
		t.Fatalf("%q, %v", got, err)
	}
}

func testCloseDelivers(t *testing.T, newHost NewHost) {
	read := make(chan error, 1)
	const size = 100_000
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		defer s.Close()
		got, err := io.ReadAll(s)
		if err == nil && len(got) != size {
			err = fmt.Errorf("%d bytes, want %d", len(got), size)
		}
		read <- err
	}))
	s := open(t, a, b.Self())
	if _, err := s.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next(t, read, "the bytes"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("write after Close succeeded")
	}
}

func testReset(t *testing.T, newHost NewHost) {
	ready, failed := make(chan struct{}), make(chan error, 1)
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		defer s.Reset()
		one := make([]byte, 1)
		if _, err := io.ReadFull(s, one); err != nil {
			failed <- nil
			return
		}
		close(ready)
		_, err := s.Read(one)
		failed <- err
	}))
	s := open(t, a, b.Self())
	if _, err := s.Write([]byte("1")); err != nil {
		t.Fatal(err)
	}
	next(t, ready, "the first byte")
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := next(t, failed, "the failing read"); err == nil || err == io.EOF {
		t.Errorf("read after the peer's reset: %v", err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read after our reset: %v", err)
	}
	if _, err := s.Write([]byte("1")); err == nil {
		t.Error("write after our reset succeeded")
	}
}

func testDeadlines(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, handle(echo))
	s := open(t, a, b.Self())
	defer s.Reset()
	if _, err := s.Write([]byte("1")); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := io.ReadFull(s, one); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []time.Duration{-time.Second, 50 * time.Millisecond} {
		if err := s.SetReadDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		_, err := s.Read(one)
		wantErr(t, fmt.Sprintf("read with a deadline in %v", wait), err, os.ErrDeadlineExceeded)
	}
	if err := s.SetReadDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("2")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, one); err != nil || one[0] != '2' {
		t.Fatalf("after a deadline had passed: %q, %v", one, err)
	}
	// A deadline set during a Read ends it.
	failed := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		failed <- err
	}()
	if err := s.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "read under way", next(t, failed, "the deadline"), os.ErrDeadlineExceeded)
}

func testBackPressure(t *testing.T, newHost NewHost) {
	release := make(chan struct{})
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		<-release
		drain(s)
	}))
	s := open(t, a, b.Self())
	defer s.Reset()
	if err := s.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	const enough = 64 << 20
	var written int
	var err error
	for chunk := make([]byte, 64<<10); written < enough && err == nil; {
		var n int
		n, err = s.Write(chunk)
		written += n
	}
	close(release)
	wantErr(t, fmt.Sprintf("%d bytes that nobody read", written), err, os.ErrDeadlineExceeded)
}

func testLarge(t *testing.T, newHost NewHost) {
	const size = 8 << 20
	sum := make(chan [32]byte, 1)
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		defer s.Close()
		h := sha256.New()
		_, _ = io.Copy(h, s)
		sum <- [32]byte(h.Sum(nil))
	}))
	s := open(t, a, b.Self())
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i >> 7 * i)
	}
	for rest := data; len(rest) > 0; {
		n, err := s.Write(rest[:min(len(rest), 100_001)])
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if next(t, sum, "the bytes") != sha256.Sum256(data) {
		t.Fatal("bytes changed on the way")
	}
}

func testConcurrent(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, handle(echo))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			s, err := a.Open(within(t), b.Self(), proto)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			defer s.Close()
			limit(t, s)
			msg := bytes.Repeat([]byte{byte(i)}, 1+i*500)
			if _, err := s.Write(msg); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			_ = s.CloseWrite()
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func testHandlersParallel(t *testing.T, newHost NewHost) {
	var mu sync.Mutex
	both, n := make(chan struct{}), 0
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		mu.Lock()
		if n++; n == 2 {
			close(both)
		}
		mu.Unlock()
		<-both // returns only while two handlers run
		echo(s)
	}))
	for range 2 {
		s := open(t, a, b.Self())
		defer s.Close()
		if _, err := s.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	next(t, both, "the second handler")
}

func testUnknownProtocol(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, handle(echo))
	refused(t, a, b)
	// The connection is as good as before.
	s := open(t, a, b.Self())
	_ = s.Close()
}

// refused checks that b does not answer the protocol unknown.
func refused(t *testing.T, a, b Host) {
	t.Helper()
	s, err := a.Open(within(t), b.Self(), unknown)
	if err != nil {
		wantErr(t, "open of an unknown protocol", err, overlay.ErrProtocol)
		return
	}
	defer s.Reset()
	limit(t, s)
	_, _ = s.Write([]byte("anybody?"))
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read on an unknown protocol: %v", err)
	}
}

func testHandleNil(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, func(b Host) {
		b.Handle(unknown, echo)
		b.Handle(unknown, nil)
	})
	refused(t, a, b)
}

func testWrongPeer(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 3)
	a, b, c := hs[0], hs[1], hs[2]
	err := a.Connect(within(t), c.Self(), b.Addrs())
	wantErr(t, "b's address for c", err, overlay.ErrWrongPeer)
	named := multiaddr.Join(b.Addrs()[0], multiaddr.StringCast("/p2p/"+b.Self().String()))
	err = a.Connect(within(t), c.Self(), []multiaddr.Multiaddr{named})
	wantErr(t, "an address that names b for c", err, overlay.ErrWrongPeer)
	if _, ok := a.Info(c.Self()); ok {
		t.Error("c is connected")
	}
	if err := a.Connect(within(t), b.Self(), []multiaddr.Multiaddr{named}); err != nil {
		t.Errorf("b at its own address with its own /p2p: %v", err)
	}
	if err := a.Connect(within(t), c.Self(), c.Addrs()); err != nil {
		t.Errorf("c at its own address: %v", err)
	}
}

func testUnreachable(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	a, b := hs[0], hs[1]
	id, addrs := b.Self(), b.Addrs()
	wantErr(t, "connect without an address", a.Connect(within(t), id, nil), overlay.ErrUnreachable)
	_, err := a.Open(within(t), id, proto)
	wantErr(t, "open without an address", err, overlay.ErrUnreachable)
	wantErr(t, "connect to oneself", a.Connect(within(t), a.Self(), a.Addrs()), overlay.ErrUnreachable)
	if err := b.Shutdown(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // not only the first time
		// UDP has nothing like a refused connection: that dial ends with ctx.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := a.Connect(ctx, id, addrs)
		cancel()
		wantErr(t, "connect to a closed host", err, overlay.ErrUnreachable)
	}
	if err := a.Close(id); err != nil {
		t.Errorf("close of a peer that is not connected: %v", err)
	}
}

// testWhyNot: what came of each address is there to be read.
func testWhyNot(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 3)
	a, b, c := hs[0], hs[1], hs[2]
	why := func(what string, err error) *overlay.DialError {
		t.Helper()
		var de *overlay.DialError
		if !errors.As(err, &de) {
			t.Fatalf("%s: %v is no DialError", what, err)
		}
		return de
	}
	all := func(what string, addrs []multiaddr.Multiaddr, de *overlay.DialError, want overlay.Fault) {
		t.Helper()
		if len(de.Attempts) != len(addrs) {
			t.Errorf("%s: %d attempts at %d addresses: %v", what, len(de.Attempts), len(addrs), de)
		}
		for _, x := range de.Attempts {
			if !slices.ContainsFunc(addrs, x.Addr.Equal) || x.Fault != want || x.Detail == "" {
				t.Errorf("%s: %s: %s (%q), want %s", what, x.Addr, x.Fault, x.Detail, want)
			}
		}
	}
	err := a.Connect(within(t), b.Self(), nil)
	wantErr(t, "connect without an address", err, overlay.ErrNoAddress)
	if de := why("connect without an address", err); len(de.Attempts) != 0 {
		t.Errorf("connect without an address: %v", de)
	}
	all("b's address for c", b.Addrs(), why("b's address for c", a.Connect(within(t), c.Self(), b.Addrs())), overlay.FaultWrongPeer)
	id, addrs := b.Self(), b.Addrs()
	if err := b.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(addrs, func(a multiaddr.Multiaddr) bool { return overlay.TransportOf(a) == overlay.TransportQUIC }) {
		return // UDP has nothing like a refused connection
	}
	all("a closed host", addrs, why("a closed host", a.Connect(within(t), id, addrs)), overlay.FaultRefused)
}

func testCancelled(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := hs[0].Connect(ctx, hs[1].Self(), hs[1].Addrs())
	wantErr(t, "cancelled connect", err, overlay.ErrUnreachable)
	wantErr(t, "cancelled connect", err, context.Canceled)
}

func testSimultaneous(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	for _, h := range hs {
		h.Handle(proto, echo)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		a, b := hs[i%2], hs[1-i%2]
		wg.Go(func() {
			if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
				t.Errorf("connect: %v", err)
			}
		})
	}
	wg.Wait()
	for i, h := range hs {
		await(t, h, hs[1-i].Self(), overlay.PeerConnected)
		if n := len(h.Connected()); n != 1 {
			t.Errorf("%d peers connected, want 1", n)
		}
	}
	s := open(t, hs[0], hs[1].Self())
	_ = s.Close()
}

func testOpenDials(t *testing.T, newHost NewHost) {
	a, b := pair(t, newHost, handle(echo))
	events := watch(t, a, b.Self())
	next(t, events, "the peer connected now")
	if err := a.Close(b.Self()); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events, "the loss"); e != overlay.PeerLost {
		t.Fatalf("event %v", e)
	}
	s := open(t, a, b.Self())
	_ = s.Close()
	if e := next(t, events, "the new connection"); e != overlay.PeerConnected {
		t.Fatalf("event %v", e)
	}
}

func testClosePeer(t *testing.T, newHost NewHost) {
	ready, failed := make(chan struct{}), make(chan error, 1)
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		defer s.Reset()
		one := make([]byte, 1)
		_, _ = io.ReadFull(s, one)
		close(ready)
		_, err := s.Read(one)
		failed <- err
	}))
	there := watch(t, b, a.Self())
	next(t, there, "the peer connected now")
	s := open(t, a, b.Self())
	if _, err := s.Write([]byte("1")); err != nil {
		t.Fatal(err)
	}
	next(t, ready, "the stream")
	if err := a.Close(b.Self()); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Info(b.Self()); ok {
		t.Error("still connected")
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("our read: %v", err)
	}
	if err := next(t, failed, "the other side's read"); err == nil || err == io.EOF {
		t.Errorf("the other side's read: %v", err)
	}
	if e := next(t, there, "the loss"); e != overlay.PeerLost {
		t.Errorf("the other side's event %v", e)
	}
}

func testShutdown(t *testing.T, newHost NewHost) {
	returned := make(chan struct{})
	a, b := pair(t, newHost, handle(func(s overlay.Stream) {
		defer close(returned)
		drain(s)
	}))
	events := watch(t, a, b.Self())
	next(t, events, "the peer connected now")
	s := open(t, a, b.Self())
	if _, err := s.Write([]byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := b.Shutdown(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-returned:
	default:
		// The stream may not have reached the handler before the end.
		b.Handle(proto, nil)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read: %v", err)
	}
	if e := next(t, events, "the loss"); e != overlay.PeerLost {
		t.Errorf("event %v", e)
	}
	// What is closed refuses, and does not crash.
	wantErr(t, "connect", b.Connect(within(t), a.Self(), a.Addrs()), overlay.ErrUnreachable)
	_, err := b.Open(within(t), a.Self(), proto)
	wantErr(t, "open", err, overlay.ErrUnreachable)
	if err := b.Send(a.Self(), 1, nil); err != nil {
		t.Errorf("send: %v", err)
	}
	if err := b.Close(a.Self()); err != nil {
		t.Errorf("close: %v", err)
	}
	if n := len(b.Connected()); n != 0 {
		t.Errorf("%d peers", n)
	}
	if err := b.Shutdown(); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
}
