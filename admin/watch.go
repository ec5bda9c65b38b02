package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Watch looks at a pillar as time goes by, for the pages' charts and for
// GET /v1/events: every ten seconds at its counters, and every second at what it
// says of itself, as long as somebody reads events.
//
//	counters ── 10 s ──► an hour of samples ──► charts
//	status, members, logs ── 1 s, while somebody reads ──► what changed ──► streams
//	connections of others ── 5 s, while somebody reads ──► pages and streams
//
// One Run serves any number of streams. Safe for concurrent use.
type Watch struct {
	p        Pillar
	gatherer prometheus.Gatherer
	wake     chan struct{} // somebody began to read, or wants links

	mu      sync.Mutex
	samples []sample                  // guarded by mu; oldest first, at most samplesKept
	streams map[*watchStream]struct{} // guarded by mu; at most maxStreams
	links   *linkSight                // guarded by mu; nil before the first round
	wanted  bool                      // guarded by mu; a page wants links

	totals counted   // Run's: the counters at the last sample
	at     time.Time // Run's: and when that was
	seen   *sight    // Run's: what streams know; nil while nobody reads
}

const (
	sampleEvery = 10 * time.Second
	samplesKept = 360 // an hour
	lookEvery   = time.Second
	// streamQueue is how many looks may wait for one reader; one that is further
	// behind is cut off and comes back to the state as it is then.
	streamQueue = 16
	// maxLogEvents bounds the log events of one look; what is left out is told
	// by later ones. The first look of a stream tells all.
	maxLogEvents = 64
)

// sample is what a pillar did in ten seconds, per second, and held at their end.
type sample struct {
	at                            time.Time
	stored, delivered, replicated float64
	backlog, nodes                float64
}

// counted are the sums of metrics that samples are made from.
type counted struct{ stored, delivered, replicated, backlog, sessions float64 }

// NewWatch returns a Watch of p, whose metrics gatherer has. Run must follow.
func NewWatch(p Pillar, gatherer prometheus.Gatherer) *Watch {
	return &Watch{p: p, gatherer: gatherer, wake: make(chan struct{}, 1), streams: map[*watchStream]struct{}{}}
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	samples, looks := time.NewTicker(sampleEvery), time.NewTicker(lookEvery)
	defer samples.Stop()
	defer looks.Stop()
	looks.Stop()
	links := newLinkAsker(w.p)
	defer links.work.Wait()
	w.sample()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-samples.C:
			w.sample()
		case <-w.wake:
			reading := w.look()
			if reading {
				looks.Reset(lookEvery)
			}
			if w.takeWanted() || reading {
				links.ask(ctx)
			}
		case <-looks.C:
			if !w.look() {
				looks.Stop()
				break
			}
			links.ask(ctx)
		case m := <-links.heard:
			links.asking = false
			w.noteLinks(m)
			w.look()
		}
	}
}

// sample adds a sample.
func (w *Watch) sample() {
	now := time.Now()
	totals := w.count()
	if !w.at.IsZero() {
		rate := func(before, after float64) float64 { return max(0, after-before) / now.Sub(w.at).Seconds() }
		s := sample{at: now, stored: rate(w.totals.stored, totals.stored), delivered: rate(w.totals.delivered, totals.delivered),
			replicated: rate(w.totals.replicated, totals.replicated), backlog: totals.backlog, nodes: totals.sessions}
		w.mu.Lock()
		if len(w.samples) == samplesKept {
			w.samples = slices.Delete(w.samples, 0, 1)
		}
		w.samples = append(w.samples, s)
		w.mu.Unlock()
	}
	w.totals, w.at = totals, now
}

// count reads the metrics. Those that are not there count nothing.
func (w *Watch) count() (c counted) {
	if w.gatherer == nil {
		return c
	}
	families, _ := w.gatherer.Gather() // what could be gathered comes beside an error
	for _, f := range families {
		switch f.GetName() {
		case "obelisk_overlay_submissions_total":
			c.stored += sumOf(f, "stored")
		case "obelisk_overlay_pushes_total", "obelisk_overlay_paged_total":
			c.delivered += sumOf(f, "")
		case "obelisk_gossip_entries_new_total":
			c.replicated += sumOf(f, "")
		case "obelisk_gossip_follow_lag_entries", "obelisk_overlay_lacks":
			c.backlog += sumOf(f, "")
		case "obelisk_overlay_sessions":
			c.sessions += sumOf(f, "")
		}
	}
	return c
}

// sumOf adds up the metrics of a family whose only label has a value; "": all.
func sumOf(f *dto.MetricFamily, label string) (sum float64) {
	for _, m := range f.GetMetric() {
		if label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// history returns the samples, oldest first.
func (w *Watch) history() []sample {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.samples)
}

// Data of the events. A stream begins with one of every kind for everything
// there is; then come those that changed.

// MemberEvent: a pillar came, went, or is reached in another way.
type MemberEvent struct {
	ID        identity.PillarID   `json:"id"`
	Name      string              `json:"name"`
	State     overlay.PillarState `json:"state"`
	Connected bool                `json:"connected"`
	Path      overlay.Path        `json:"path"`
	Standing  overlay.Standing    `json:"standing"`
}

// SyncEvent: replication went on.
type SyncEvent struct {
	Converged bool          `json:"converged"`
	Diverged  int           `json:"diverged"`
	Records   uint64        `json:"records"`
	Missing   uint64        `json:"missing"`
	Backlog   uint64        `json:"backlog"`
	Rounds    uint64        `json:"rounds"`
	PausedBy  overlay.Pause `json:"paused_by"`
}

// NodesEvent (event "node"): nodes came or went.
type NodesEvent struct {
	Connected int `json:"connected"`
}

// LogEvent: more of a log is held.
type LogEvent struct {
	Log    overlay.LogID     `json:"log"`
	Pillar identity.PillarID `json:"pillar"`
	Seq    uint64            `json:"seq"`
}

// DrainEvent: draining began or ended.
type DrainEvent struct {
	Draining bool `json:"draining"`
}

// sight is what events tell of, at one time.
type sight struct {
	members map[identity.PillarID]MemberEvent
	sync    SyncEvent
	nodes   NodesEvent
	logs    map[overlay.LogID]LogEvent
	drain   DrainEvent
	links   LinksEvent // zero until pillars were asked
}

func (w *Watch) sight() *sight {
	st, sy := w.p.Status(), w.p.Sync()
	s := &sight{members: map[identity.PillarID]MemberEvent{}, logs: map[overlay.LogID]LogEvent{},
		sync: SyncEvent{Converged: st.Converged, Diverged: st.Diverged, Records: st.Records, Missing: sy.Missing,
			Backlog: sy.Backlog, PausedBy: sy.Paused},
		nodes: NodesEvent{st.NodesConnected}, drain: DrainEvent{st.Draining}}
	w.mu.Lock()
	if w.links != nil {
		s.links = w.links.event
	}
	w.mu.Unlock()
	for i := range sy.Peers {
		s.sync.Rounds += sy.Peers[i].Totals.Rounds
	}
	for _, p := range w.p.Pillars() {
		s.members[p.ID] = MemberEvent{p.ID, p.Name, p.State, p.Connected, p.Path, p.Standing}
	}
	for i := range sy.Logs {
		l := &sy.Logs[i]
		told, _ := l.Told()
		s.logs[l.Log] = LogEvent{l.Log, l.Pillar, told.Seq}
	}
	return s
}

// since writes the events that lead from before, nil for nothing, to s. Log
// events that are too many are taken back in s, so that they come next time.
func (s *sight) since(before *sight) string {
	var events strings.Builder
	add := func(kind string, data any) {
		if b, err := json.Marshal(data); err == nil { // nothing here has a type that fails
			fmt.Fprintf(&events, "event: %s\ndata: %s\n\n", kind, b)
		}
	}
	fresh := before == nil
	if fresh {
		before = &sight{}
	}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		if m := s.members[id]; m != before.members[id] {
			add("member", m)
		}
	}
	if fresh || s.sync != before.sync {
		add("sync", s.sync)
	}
	if fresh || s.nodes != before.nodes {
		add("node", s.nodes)
	}
	told := 0
	for id, l := range s.logs {
		if l == before.logs[id] {
			continue
		}
		if told++; told > maxLogEvents && !fresh {
			if old, ok := before.logs[id]; ok {
				s.logs[id] = old
			} else {
				delete(s.logs, id)
			}
			continue
		}
		add("log", l)
	}
	if fresh || s.drain != before.drain {
		add("drain", s.drain)
	}
	if s.links != before.links {
		add("links", s.links)
	}
	return events.String()
}

// look tells all streams what changed since the last look, and says whether
// there are any.
func (w *Watch) look() bool {
	w.mu.Lock()
	reading, fresh := len(w.streams) > 0, false
	for s := range w.streams {
		fresh = fresh || !s.begun
	}
	w.mu.Unlock()
	if !reading {
		w.seen = nil
		return false
	}
	now := w.sight()
	changed, whole := "", ""
	if fresh {
		whole = now.since(nil)
	}
	if w.seen != nil {
		changed = now.since(w.seen)
	}
	w.seen = now
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.streams {
		switch {
		case s.begun:
			w.tell(s, changed)
		case fresh: // one that came meanwhile has Run look again
			s.begun = true
			w.tell(s, whole)
		}
	}
	return true
}

// watchStream is one reader of events.
type watchStream struct {
	events chan string
	begun  bool // it was told everything; guarded by Watch.mu
}

// tell queues events for s, or cuts it off. w.mu is held.
func (w *Watch) tell(s *watchStream, events string) {
	if events == "" {
		return
	}
	select {
	case s.events <- events:
	default:
		delete(w.streams, s)
		close(s.events)
	}
}

func (w *Watch) join() (*watchStream, error) {
	w.mu.Lock()
	if len(w.streams) >= maxStreams {
		w.mu.Unlock()
		return nil, overlay.Refuse(overlay.CodeBusy, "%d streams of events are open already", maxStreams)
	}
	s := &watchStream{events: make(chan string, streamQueue)}
	w.streams[s] = struct{}{}
	w.mu.Unlock()
	w.rouse()
	return s, nil
}

// rouse has Run look soon.
func (w *Watch) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Watch) part(s *watchStream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.streams, s)
}

// stream is GET /v1/events of a pillar.
func (w *Watch) stream(rw http.ResponseWriter, r *http.Request) error {
	if w == nil {
		return overlay.Refuse(overlay.CodeNotFound, "this pillar tells no events")
	}
	s, err := w.join()
	if err != nil {
		return err
	}
	defer w.part(s)
	write, err := beginEvents(rw)
	if err != nil {
		return nil // it went away
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for err == nil {
		select {
		case <-r.Context().Done():
			return nil
		case <-beat.C:
			err = write(": \n\n")
		case e, ok := <-s.events:
			if !ok {
				return nil // too slow: it comes back
			}
			err = write(e)
		}
	}
	return nil
}
