package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// get asks a handler from loopback.
func get(t testing.TB, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "http://localhost"+path, nil)
	r.RemoteAddr = "127.0.0.1:1234"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// The charts show the last hour and no more.
func TestWatchCharts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _, _ := dashPillar(t)
		reg := prometheus.NewRegistry()
		taken := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "obelisk_overlay_submissions_total"}, []string{"result"})
		backlog := prometheus.NewGauge(prometheus.GaugeOpts{Name: "obelisk_gossip_follow_lag_entries"})
		pushed := prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_overlay_pushes_total"})
		paged := prometheus.NewCounter(prometheus.CounterOpts{Name: "obelisk_overlay_paged_total"})
		reg.MustRegister(taken, backlog, pushed, paged)
		w := admin.NewWatch(p, reg)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		h := admin.NewPillarHandler(p, reg, admin.Config{Token: testToken, Watch: w})

		if body := get(t, h, "/").Body.String(); !strings.Contains(body, "The first sample comes") {
			t.Error("before the first sample nothing says so")
		}
		synctest.Wait() // the first look at the counters
		taken.WithLabelValues("stored").Add(500)
		taken.WithLabelValues("quota").Add(9000) // is not taken
		pushed.Add(30)                           // what is delivered is both
		paged.Add(270)
		backlog.Set(1234)
		time.Sleep(11 * time.Second)
		body := get(t, h, "/").Body.String()
		if !strings.Contains(body, `Taken from nodes over the last hour: now 50, at most 50 records/s`) ||
			!strings.Contains(body, `Delivered over the last hour: now 30, at most 30 records/s`) || !strings.Contains(body, `Backlog over the last hour: now 1,234,`) {
			t.Errorf("the charts: %s", body[strings.Index(body, `id="charts"`):])
		}
		time.Sleep(59 * time.Minute)
		if body := get(t, h, "/").Body.String(); !strings.Contains(body, "now 0, at most 50 records/s") {
			t.Error("a peak of an hour ago is forgotten too early")
		}
		time.Sleep(2 * time.Minute)
		if body := get(t, h, "/").Body.String(); !strings.Contains(body, "now 0, at most 0 records/s") {
			t.Error("a peak stays for more than an hour")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// event is one of a stream.
type sseEvent struct {
	kind string
	data map[string]any
}

// readEvents reads n events of a stream, and fails if others come.
func readEvents(t *testing.T, r *bufio.Reader, n int) (events []sseEvent) {
	t.Helper()
	var e sseEvent
	for len(events) < n {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(events), n, err)
		}
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); key {
		case "event":
			e.kind = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				t.Fatal(err)
			}
			events, e = append(events, e), sseEvent{}
		}
	}
	return events
}

// A stream begins with what is, and goes on with what changes. The pillar is
// looked at only while somebody reads.
func TestWatchEvents(t *testing.T) {
	p, _, bad, home := dashPillar(t)
	seen := &countingPillar{fakePillar: p}
	w := admin.NewWatch(seen, nil)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(seen, nil, admin.Config{Token: testToken, Watch: w}))
	if n := seen.looks(); n != 0 {
		t.Errorf("%d looks while nobody reads", n)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("%d, type %q", resp.StatusCode, got)
	}
	r := bufio.NewReader(resp.Body)
	kinds := map[string]int{}
	for _, e := range readEvents(t, r, 6) {
		kinds[e.kind]++
	}
	if kinds["member"] != 2 || kinds["sync"] != 1 || kinds["node"] != 1 || kinds["log"] != 1 || kinds["drain"] != 1 {
		t.Errorf("the beginning: %v", kinds)
	}
	seen.change(func() {
		p.pillars[1].State, p.pillars[1].Connected = overlay.PillarAlive, true
		p.status.Draining = true
	})
	for _, e := range readEvents(t, r, 2) {
		switch e.kind {
		case "member":
			if e.data["id"] != home.String() || e.data["state"] != "alive" || e.data["connected"] != true {
				t.Errorf("member: %v", e.data)
			}
		case "drain":
			if e.data["draining"] != true {
				t.Errorf("drain: %v", e.data)
			}
		default:
			t.Errorf("%s: %v", e.kind, e.data)
		}
	}
	seen.change(func() { p.sync.Logs[0].Seq = 41 })
	if e := readEvents(t, r, 1)[0]; e.kind != "log" || e.data["pillar"] != bad.String() || e.data["seq"] != 41.0 {
		t.Errorf("log: %v", e)
	}
	if a := ask(t, "GET", "http://"+serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{}))+"/v1/events", "", nil); a.code != "not_found" {
		t.Errorf("events of who tells none: %d %q", a.status, a.code)
	}
}

// At most 64 streams are open at once, and one that ends makes room.
func TestWatchStreams(t *testing.T) {
	p, _, _, _ := dashPillar(t)
	w := admin.NewWatch(&countingPillar{fakePillar: p}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	addr := serve(t, "127.0.0.1:0", admin.NewPillarHandler(p, nil, admin.Config{Token: testToken, Watch: w}))
	open := func() *http.Response {
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(httptest.NewRequest("GET", "http://"+addr+"/v1/events", nil))
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	var streams []*http.Response
	defer func() {
		for _, s := range streams {
			s.Body.Close()
		}
	}()
	for i := range 64 {
		s := open()
		streams = append(streams, s)
		if s.StatusCode != http.StatusOK {
			t.Fatalf("stream %d: %d", i, s.StatusCode)
		}
	}
	if s := open(); s.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the 65th stream: %d, want 503", s.StatusCode)
	} else {
		s.Body.Close()
	}
	streams[0].Body.Close()
	for streams[0].StatusCode = 0; streams[0].StatusCode != http.StatusOK; { // the server notices
		streams[0].Body.Close()
		streams[0] = open()
	}
}

// countingPillar is a fakePillar that changes while it is asked.
type countingPillar struct {
	*fakePillar
	mu    sync.Mutex
	asked int // guarded by mu
}

func (p *countingPillar) Status() admin.PillarStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	return p.fakePillar.Status()
}

func (p *countingPillar) Sync() overlay.SyncStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.fakePillar.Sync()
	s.Logs = slices.Clone(s.Logs)
	return s
}

func (p *countingPillar) Pillars() []admin.PillarEntry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.fakePillar.Pillars())
}

func (p *countingPillar) looks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *countingPillar) change(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}
