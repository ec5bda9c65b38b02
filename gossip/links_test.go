package gossip_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// linked returns what p finds out of the connection between two pillars, nil if
// nobody names one.
func linked(t testing.TB, p *pillar, a, b identity.PillarID) *overlay.LinkEdge {
	t.Helper()
	m, err := p.mesh.Links(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	edges := m.Edges()
	i := slices.IndexFunc(edges, func(e overlay.LinkEdge) bool { return e.A == min(a, b) && e.B == max(a, b) })
	if i < 0 {
		return nil
	}
	return &edges[i]
}

// report is what a pillar said in a round.
func report(m *overlay.LinkMap, p identity.PillarID) overlay.LinkReport {
	i := slices.IndexFunc(m.Reports, func(r overlay.LinkReport) bool { return r.Pillar == p })
	if i < 0 {
		return overlay.LinkReport{}
	}
	return m.Reports[i]
}

// TestLinks: a pillar finds out how two others are connected, and when they are
// not any more; who is gone is said to be silent.
func TestLinks(t *testing.T) {
	inBubble(t, func(w *world) {
		t := w.t
		a, b, c := w.quiet(), w.quiet(), w.quiet()
		w.pair(a, b)
		c.start(a)
		until(t, 30*time.Second, "sessions", func() bool { return meshed(a, b, c) })
		m, err := a.mesh.Links(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Reports) != 3 || m.Reports[0].Pillar != a.key.ID() || len(m.Edges()) != 3 || m.Took > 2*time.Second {
			t.Fatalf("%+v", m)
		}
		for _, r := range m.Reports {
			if !r.Answered || len(r.Links) != 2 {
				t.Errorf("%+v", r)
			}
		}
		for _, e := range m.Edges() {
			if e.Word != overlay.LinkBoth || e.Path != overlay.PathDirect || e.RTT != 60*time.Millisecond || e.Age == 0 {
				t.Errorf("%+v", e)
			}
		}

		w.net.Cut(b.id(), c.id())
		until(t, 2*time.Minute, "the loss of a connection between others", func() bool { return linked(t, a, b.key.ID(), c.key.ID()) == nil })
		gone := c.key.ID()
		c.stop()
		until(t, 30*time.Second, "the loss of a pillar", func() bool { return linked(t, a, a.key.ID(), gone) == nil })
		m, err = a.mesh.Links(t.Context())
		if err != nil || len(m.Reports) != 3 || report(m, gone).Answered || len(m.Edges()) != 1 {
			t.Errorf("%+v, %v", m, err)
		}
	}, memnet.WithLatency(30*time.Millisecond))
}

// TestLinksOfLiars: what a pillar says is shown as its word, and no more of it
// than fits what is known.
func TestLinksOfLiars(t *testing.T) {
	inBubble(t, func(w *world) {
		t := w.t
		a, b := w.quiet(), w.quiet()
		w.pair(a, b)
		stranger := identity.NewPillarKey().ID()
		mute := w.auditor(a, func(*auditor, overlay.Message) any { return nil })
		honest := func(l *auditor, with ...identity.PillarID) *overlay.LinkedMsg {
			slices.Sort(with)
			m := &overlay.LinkedMsg{}
			for _, p := range with {
				m.Links = append(m.Links, overlay.PillarLink{With: p, Path: overlay.PathRelayed, Through: stranger, RTT: time.Millisecond})
			}
			return m
		}
		var self atomic.Bool
		liar := w.auditor(a, func(l *auditor, q overlay.Message) any {
			ask, ok := q.(*overlay.LinksMsg)
			if !ok {
				return nil
			}
			m := honest(l, a.key.ID(), b.key.ID(), mute.key.ID(), stranger)
			if self.Load() {
				m = honest(l, l.key.ID())
			}
			m.N = ask.N
			return m
		})
		m, err := a.mesh.Links(t.Context())
		if err != nil || m.Took < 1900*time.Millisecond || m.Took > 2100*time.Millisecond {
			t.Fatalf("a round with a mute pillar took %s, %v", m.Took, err)
		}
		if report(m, mute.key.ID()).Answered {
			t.Error("who said nothing is said to have answered")
		}
		edges := map[identity.PillarID]overlay.LinkEdge{} // of the liar
		for _, e := range m.Edges() {
			switch liar.key.ID() {
			case e.A:
				edges[e.B] = e
			case e.B:
				edges[e.A] = e
			}
		}
		if _, shown := edges[stranger]; shown || len(edges) != 3 {
			t.Errorf("the liar's connections: %+v", edges)
		}
		for p, want := range map[identity.PillarID]overlay.LinkWord{a.key.ID(): overlay.LinkBoth, b.key.ID(): overlay.LinkDenied, mute.key.ID(): overlay.LinkOne} {
			if e := edges[p]; e.Word != want || e.Path != overlay.PathRelayed || e.Through != "" {
				t.Errorf("%+v, want %s", e, want)
			}
		}
		if n := a.count("offences_total", "links"); n != 0 {
			t.Errorf("%v offences for connections that others deny", n)
		}

		self.Store(true)
		time.Sleep(5 * time.Second)
		if m, err = a.mesh.Links(t.Context()); err != nil || report(m, liar.key.ID()).Answered || a.count("offences_total", "links") != 1 {
			t.Errorf("connected to itself: %+v, %v, %v offences", m, err, a.count("offences_total", "links"))
		}
	})
}

// TestLinksAskedOnce: whoever asks while a round runs, or soon after, shares it,
// and it does not end with who asked first.
func TestLinksAskedOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		t := w.t
		a := w.quiet().start()
		var asked atomic.Int64
		w.auditor(a, func(_ *auditor, q overlay.Message) any {
			if _, ok := q.(*overlay.LinksMsg); ok {
				asked.Add(1)
			}
			return nil
		})
		var all sync.WaitGroup
		var maps sync.Map
		for range 20 {
			all.Go(func() {
				m, err := a.mesh.Links(t.Context())
				if err != nil {
					t.Error(err)
				}
				maps.Store(m, true)
			})
		}
		all.Wait()
		m, _ := a.mesh.Links(t.Context())
		maps.Store(m, true)
		different := 0
		maps.Range(func(any, any) bool { different++; return true })
		if asked.Load() != 1 || different != 1 {
			t.Errorf("%d questions, %d maps", asked.Load(), different)
		}
		time.Sleep(4 * time.Second)
		if again, err := a.mesh.Links(t.Context()); err != nil || again == m || asked.Load() != 2 {
			t.Errorf("seconds later: %d questions, %v", asked.Load(), err)
		}
		a.stop()
		time.Sleep(4 * time.Second)
		if _, err := a.mesh.Links(t.Context()); err == nil {
			t.Error("a round after the end")
		}
	})
}

// TestLinksAskedTooOften: who asks again and again is answered as often as an
// honest pillar asks, and is at fault.
func TestLinksAskedTooOften(t *testing.T) {
	inBubble(t, func(w *world) {
		t := w.t
		a := w.quiet().start()
		l := w.auditor(a, func(*auditor, overlay.Message) any { return nil })
		for n := range uint64(12) {
			say(l.stream, &overlay.LinksMsg{N: n})
		}
		time.Sleep(time.Second)
		if len(l.heard) != 8 || a.count("offences_total", "links") != 4 {
			t.Errorf("%d answers, %v offences", len(l.heard), a.count("offences_total", "links"))
		}
		first := (<-l.heard).(*overlay.LinkedMsg)
		if len(first.Links) != 1 || first.Links[0].With != l.key.ID() {
			t.Errorf("%+v", first)
		}
	})
}
