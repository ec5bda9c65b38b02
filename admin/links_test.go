package admin_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestLinksAnswer: who is connected to whom, through the client.
func TestLinksAnswer(t *testing.T) {
	a, b, c := newPillarID(t), newPillarID(t), newPillarID(t)
	if a > b {
		a, b = b, a
	}
	at := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	p := &fakePillar{links: &overlay.LinkMap{At: at, Took: 3 * time.Millisecond, Reports: []overlay.LinkReport{
		{Pillar: a, Answered: true, Links: []overlay.PillarLink{{With: b, Path: overlay.PathRelayed, Through: c, Transport: overlay.LinkQUIC, RTT: 1500 * time.Microsecond, Age: time.Minute}}},
		{Pillar: b, Answered: true},
		{Pillar: c},
	}}}
	client, addr := pillarClient(t, p, "")
	got, err := client.Links(t.Context())
	side := admin.LinkSide{Path: overlay.PathRelayed, Through: &c, Transport: "quic", RTTMS: 1.5, Since: at.Add(-time.Minute)}
	want := admin.LinksAnswer{At: at, TookMS: 3,
		Pillars: []admin.LinksPillar{{Pillar: a, Answered: true, Links: 1}, {Pillar: b, Answered: true}, {Pillar: c}},
		Links:   []admin.LinkEntry{{A: a, B: b, Word: overlay.LinkDenied, LinkSide: side, AsA: &side}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v\nwant\n%+v", got, err, want)
	}
	p.links = &overlay.LinkMap{At: at}
	if got, err := client.Links(t.Context()); err != nil || got.Links == nil || got.Pillars == nil {
		t.Errorf("nobody: %+v, %v", got, err)
	}
	p.controlErr = overlay.Refuse(overlay.CodeUnreachable, "it ends")
	if a := ask(t, "GET", "http://"+addr+"/v1/links", "", nil); a.status != http.StatusServiceUnavailable || a.code != string(overlay.CodeUnreachable) {
		t.Errorf("no round: %d %q", a.status, a.code)
	}
}

// askedPillar is a fakePillar that counts how often pillars are asked for their
// connections.
type askedPillar struct {
	*fakePillar
	asked atomic.Int64
	round func() *overlay.LinkMap
}

func (p *askedPillar) Links(context.Context) (*overlay.LinkMap, error) {
	p.asked.Add(1)
	time.Sleep(time.Second) // of the bubble
	return p.round(), nil
}

// TestWatchLinks: pillars are asked while somebody reads events, and once for a
// page; a page does not wait for them.
func TestWatchLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, self, bad, home := dashPillar(t)
		p := &askedPillar{fakePillar: fake}
		p.round = func() *overlay.LinkMap { return linkMap(self, bad, home, overlay.PathDirect) }
		w := admin.NewWatch(p, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		h := admin.NewPillarHandler(p, nil, admin.Config{Token: testToken, Watch: w})
		time.Sleep(time.Minute)
		if n := p.asked.Load(); n != 0 {
			t.Errorf("%d rounds while nobody looks", n)
		}
		shows := func(what string, want bool) {
			t.Helper()
			begun := time.Now()
			if got := strings.Contains(get(t, h, "/").Body.String(), `data-ends="1 2"`); got != want {
				t.Errorf("%s: connections of others are shown: %v", what, got)
			}
			if took := time.Since(begun); took != 0 {
				t.Errorf("%s: the page took %s", what, took)
			}
		}
		shows("at first", false)
		time.Sleep(2 * time.Second)
		shows("seconds later", true)
		for path, wants := range map[string][]string{
			"/": {": direct over QUIC, 4.2 ms", "2 of 3 pairs of pillars are connected; not vesta and juno.", `<td class="direct trip0" title="juno – `,
				`title="vesta and juno are not connected"`, "connected with 2 pillars"},
			"/pillar/" + home.String(): {"direct over QUIC", "4.2 ms"},
		} {
			body := get(t, h, path).Body.String()
			for _, want := range wants {
				if !strings.Contains(body, want) {
					t.Errorf("%s does not say %q", path, want)
				}
			}
			if strings.Contains(body, hostile) || strings.Contains(body, "<script>") || strings.Contains(body, "<img") {
				t.Errorf("%s has a name in it that became markup", path)
			}
		}
		time.Sleep(time.Minute)
		if n := p.asked.Load(); n != 1 {
			t.Errorf("%d rounds for pages of a moment", n)
		}
		shows("a minute later", false)
		time.Sleep(2 * time.Second)

		before := p.asked.Load()
		_, stop := stream(t, h)
		time.Sleep(31 * time.Second)
		if n := p.asked.Load() - before; n < 5 || n > 8 {
			t.Errorf("%d rounds in half a minute of events", n)
		}
		stop()
		time.Sleep(10 * time.Second)
		before = p.asked.Load()
		time.Sleep(time.Minute)
		if n := p.asked.Load() - before; n != 0 {
			t.Errorf("%d rounds after the last reader", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestWatchLinksEvents: a change of how pillars are connected is an event, and a
// round trip is none.
func TestWatchLinksEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, self, bad, home := dashPillar(t)
		p := &askedPillar{fakePillar: fake}
		var path atomic.Value
		path.Store(overlay.PathDirect)
		p.round = func() *overlay.LinkMap {
			m := linkMap(self, bad, home, path.Load().(overlay.Path))
			m.Reports[1].Links[0].RTT += time.Duration(p.asked.Load()) // never the same
			return m
		}
		w := admin.NewWatch(p, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		r, stop := stream(t, admin.NewPillarHandler(p, nil, admin.Config{Token: testToken, Watch: w}))
		events := readEvents(t, r, 7)
		if e := events[6]; e.kind != "links" || e.data["version"] != 1.0 || e.data["links"] != 2.0 || e.data["relayed"] != 0.0 || e.data["denied"] != 0.0 || e.data["silent"] != 0.0 {
			t.Errorf("%+v", events)
		}
		time.Sleep(20 * time.Second)
		asked := p.asked.Load()
		path.Store(overlay.PathRelayed)
		if e := readEvents(t, r, 1)[0]; e.kind != "links" || e.data["version"] != 2.0 || e.data["relayed"] != 1.0 || asked < 4 {
			t.Errorf("%+v after %d rounds", e, asked)
		}
		stop()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// eventWriter is an answer that somebody reads as it is written.
type eventWriter struct {
	*httptest.ResponseRecorder
	to *io.PipeWriter
}

func (w eventWriter) Write(b []byte) (int, error)      { return w.to.Write(b) }
func (w eventWriter) SetWriteDeadline(time.Time) error { return nil }

// stream reads the events of a handler, from loopback, until stop is called.
func stream(t *testing.T, h http.Handler) (events *bufio.Reader, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost/v1/events", nil)
	r.RemoteAddr = "127.0.0.1:1234"
	out, in := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.ServeHTTP(eventWriter{httptest.NewRecorder(), in}, r)
	}()
	// What nobody reads is thrown away, so that the writer never waits.
	lines := make(chan []byte, 4096)
	go func() {
		defer close(lines)
		s := bufio.NewScanner(out)
		for s.Scan() {
			lines <- append(slices.Clone(s.Bytes()), '\n')
		}
	}()
	return bufio.NewReader(lineReader{lines}), func() {
		cancel()
		<-ended
		in.Close()
	}
}

// lineReader reads lines that come by a channel.
type lineReader struct{ lines <-chan []byte }

func (r lineReader) Read(b []byte) (int, error) {
	line, ok := <-r.lines
	if !ok {
		return 0, io.EOF
	}
	return copy(b, line), nil // no line here is longer than a buffer
}

// linkMap is what three pillars say: the first is connected to the second, and
// that to the third.
func linkMap(self, bad, home identity.PillarID, path overlay.Path) *overlay.LinkMap {
	link := func(with identity.PillarID, path overlay.Path) overlay.PillarLink {
		return overlay.PillarLink{With: with, Path: path, Transport: overlay.LinkQUIC, RTT: 4200 * time.Microsecond, Age: time.Minute}
	}
	return &overlay.LinkMap{At: time.Now(), Reports: []overlay.LinkReport{
		{Pillar: self, Answered: true, Links: []overlay.PillarLink{link(bad, overlay.PathDirect)}},
		{Pillar: bad, Answered: true, Links: []overlay.PillarLink{link(home, path), link(self, overlay.PathDirect)}},
		{Pillar: home, Answered: true, Links: []overlay.PillarLink{link(bad, path)}},
	}}
}

// TestPageLinks: whose word a connection stands on is told on the map, in the
// table and in the sentence.
func TestPageLinks(t *testing.T) {
	link := func(with identity.PillarID, path overlay.Path, through identity.PillarID) overlay.PillarLink {
		return overlay.PillarLink{With: with, Path: path, Through: through, Transport: overlay.LinkTCP, RTT: 120 * time.Millisecond}
	}
	for name, tt := range map[string]struct {
		change func(m *overlay.LinkMap, self, bad, home identity.PillarID)
		wants  []string
		never  string
	}{
		"relayed": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) {
			m.Reports[1].Links[0] = link(home, overlay.PathRelayed, self)
		}, []string{`<path class="arc relayed" d="`, ": relayed through vesta over TCP, 120 ms</title>", `class="relayed trip3" title=`, "1 of the connections is relayed."}, "of 1 connection contradict"},
		"denied": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) { m.Reports[2].Links = nil },
			[]string{`<path class="arc direct denied" d="`, "; juno knows of none</title>", `<td class="denied" title="juno knows of no connection`,
				"The two ends of 1 connection contradict each other."}, "juno did not answer"},
		"not heard": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) {
			m.Reports[2] = overlay.LinkReport{Pillar: home}
		}, []string{`<path class="arc direct one" d="`, "; juno did not answer</title>", `<td class="unknown" title="juno did not answer"`, " juno did not answer.<"}, "of 1 connection contradict"},
		"claimed of this one": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) {
			m.Reports[2].Links = []overlay.PillarLink{link(self, overlay.PathDirect, "")}
		}, []string{`<path class="arc direct denied" d="M200 200L`, "says juno; vesta knows of none</title>"}, `d="M0`},
		"a stranger": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) {
			m.Reports[1].Links = append(m.Reports[1].Links, link(newPillarID(t), overlay.PathRelayed, ""))
		}, []string{`data-ends="1 2"`}, `<path class="arc relayed`},
		"all": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) {
			m.Reports[0].Links = append(m.Reports[0].Links, link(home, overlay.PathDirect, ""))
			m.Reports[2].Links = append(m.Reports[2].Links, link(self, overlay.PathDirect, ""))
		}, []string{"Every one of 3 pillars is connected with every other, directly."}, "juno did not answer"},
		"nobody": {func(m *overlay.LinkMap, self, bad, home identity.PillarID) {
			m.Reports = []overlay.LinkReport{{Pillar: self, Answered: true}, {Pillar: bad}, {Pillar: home}}
		}, []string{"No other pillar has answered."}, `data-ends="1 2"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, self, bad, home := dashPillar(t)
			m := linkMap(self, bad, home, overlay.PathDirect)
			tt.change(m, self, bad, home)
			p.links = m
			body := watchedPage(t, p)
			for _, want := range tt.wants {
				if !strings.Contains(body, want) {
					t.Errorf("%s: the page does not say %q", name, want)
				}
			}
			if strings.Contains(body, tt.never) {
				t.Errorf("%s: the page says %q", name, tt.never)
			}
		})
	}
}

// TestPageLinksOfMany: the map has room for 48 others, the table for 24, and the
// page says what is left out.
func TestPageLinksOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, self, _, _ := dashPillar(t)
		p.pillars = nil
		m := &overlay.LinkMap{At: time.Now(), Reports: []overlay.LinkReport{{Pillar: self, Answered: true}}}
		for range 60 {
			id := newPillarID(t)
			r := overlay.LinkReport{Pillar: id, Answered: true}
			for _, before := range m.Reports[1:] {
				r.Links = append(r.Links, overlay.PillarLink{With: before.Pillar, Path: overlay.PathDirect})
			}
			m.Reports = append(m.Reports, r)
			p.pillars = append(p.pillars, admin.PillarEntry{ID: id, State: overlay.PillarAlive, Connected: true, Path: overlay.PathDirect})
		}
		p.links = m
		body := watchedPage(t, p)
		if n := strings.Count(body, "data-ends="); n != 48*47/2+48 {
			t.Errorf("%d connections on the map, want %d", n, 48*47/2+48)
		}
		for _, want := range []string{"12 more are in the tables only.", "37 more pillars are not shown", `class="wheel dense"`} {
			if !strings.Contains(body, want) {
				t.Errorf("the page does not say %q", want)
			}
		}
	})
}

// watchedPage is the overview of p a moment after somebody began to look at it.
func watchedPage(t *testing.T, p admin.Pillar) string {
	t.Helper()
	w := admin.NewWatch(p, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	h := admin.NewPillarHandler(p, nil, admin.Config{Token: testToken, Watch: w})
	get(t, h, "/")
	synctest.Wait()
	body := get(t, h, "/").Body.String()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return body
}
