package linktest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

var peerCases = []Case{
	{"info", testInfo},
	{"watch tells changes in order", testWatch},
	{"watch merges while its function is slow", testWatchMerges},
	{"watch begins with who is connected", testWatchBegins},
	{"probe", testProbe},
	{"probe of a peer that leaves", testProbeLeaving},
}

func testInfo(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 3)
	a, b, c := hs[0], hs[1], hs[2]
	if _, ok := a.Info(b.Self()); ok || len(a.Connected()) != 0 {
		t.Error("connected before anything")
	}
	before := time.Now()
	connect(t, a, b)
	connect(t, a, c)
	info, ok := a.Info(b.Self())
	if !ok || info.Peer != b.Self() || info.Path != overlay.PathDirect || info.Remote == nil {
		t.Errorf("info %+v, %v", info, ok)
	}
	if info.Since.Before(before.Add(-time.Second)) || info.Since.After(time.Now().Add(time.Second)) {
		t.Errorf("connected since %v, want about %v", info.Since, before)
	}
	if _, ok := b.Info(c.Self()); ok {
		t.Error("b knows c")
	}
	all := a.Connected()
	slices.SortFunc(all, func(x, y overlay.PeerInfo) int {
		if x.Peer == b.Self() {
			return -1
		}
		return 1
	})
	if len(all) != 2 || all[0].Peer != b.Self() || all[1].Peer != c.Self() {
		t.Errorf("connected: %+v", all)
	}
}

func testWatch(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	a, b := hs[0], hs[1]
	here, there := watch(t, a, b.Self()), watch(t, b, a.Self())
	for range 3 {
		if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
			t.Fatal(err)
		}
		for _, events := range []<-chan overlay.PeerChange{here, there} {
			if e := next(t, events, "the connection"); e != overlay.PeerConnected {
				t.Fatalf("event %v, want connected", e)
			}
		}
		if err := b.Close(a.Self()); err != nil {
			t.Fatal(err)
		}
		for _, events := range []<-chan overlay.PeerChange{here, there} {
			if e := next(t, events, "the loss"); e != overlay.PeerLost {
				t.Fatalf("event %v, want lost", e)
			}
		}
	}
}

func testWatchMerges(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	a, b := hs[0], hs[1]
	connect(t, a, b)

	// A slow watcher is stuck in its first event while the peer comes and goes.
	ctx, cancel := context.WithCancel(context.Background())
	release, stuck := make(chan struct{}), make(chan struct{})
	events := make(chan overlay.PeerChange, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		first := true
		a.Watch(ctx, func(e overlay.PeerEvent) {
			if first {
				first = false
				close(stuck)
				<-release
				return
			}
			events <- e.What
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	next(t, stuck, "the first event")

	quick := watch(t, a, b.Self())
	next(t, quick, "the peer connected now")
	for range 5 {
		if err := a.Close(b.Self()); err != nil {
			t.Fatal(err)
		}
		if e := next(t, quick, "the loss"); e != overlay.PeerLost {
			t.Fatalf("event %v", e)
		}
		if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
			t.Fatal(err)
		}
		if e := next(t, quick, "the connection"); e != overlay.PeerConnected {
			t.Fatalf("event %v", e)
		}
	}
	close(release)
	for _, want := range []overlay.PeerChange{overlay.PeerLost, overlay.PeerConnected} {
		if e := next(t, events, "a merged event"); e != want {
			t.Fatalf("merged event %v, want %v", e, want)
		}
	}
	if err := a.Close(b.Self()); err != nil {
		t.Fatal(err)
	}
	// Were anything left of the merged changes, it would come before this.
	if e := next(t, events, "the last loss"); e != overlay.PeerLost {
		t.Fatalf("event %v, want lost", e)
	}
}

func testWatchBegins(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 3)
	connect(t, hs[0], hs[1])
	connect(t, hs[0], hs[2])
	for _, h := range hs[1:] {
		await(t, hs[0], h.Self(), overlay.PeerConnected)
	}
}

func testProbe(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	a, b := hs[0], hs[1]
	wantErr(t, "probe of a stranger", a.Probe(within(t), b.Self()), overlay.ErrUnreachable)
	connect(t, a, b)
	for _, x := range [][2]Host{{a, b}, {b, a}, {a, b}} {
		if err := x[0].Probe(within(t), x[1].Self()); err != nil {
			t.Errorf("probe of a living peer: %v", err)
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := a.Probe(within(t), b.Self()); err != nil {
				t.Errorf("one of two probes: %v", err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Probe(ctx, b.Self()); err != nil {
		wantErr(t, "cancelled probe", err, context.Canceled)
	}
}

func testProbeLeaving(t *testing.T, newHost NewHost) {
	hs := hosts(t, newHost, 2)
	a, b := hs[0], hs[1]
	connect(t, a, b)
	events := watch(t, a, b.Self())
	next(t, events, "the peer connected now")
	if err := b.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events, "the loss"); e != overlay.PeerLost {
		t.Fatalf("event %v", e)
	}
	wantErr(t, "probe of a peer that left", a.Probe(within(t), b.Self()), overlay.ErrUnreachable)
	if _, ok := a.Info(b.Self()); ok {
		t.Error("the probe dialled")
	}
}
