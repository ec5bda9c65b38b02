package gossip_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// auditor is an admitted pillar that says in rounds what the test likes.
type auditor struct {
	liar
	stream overlay.Stream
	short  overlay.ShortKey            // the network's, as p told it
	held   []overlay.RecordID          // what p holds
	answer func(q overlay.Message) any // overlay.Message, a list of them, or nil
	heard  chan overlay.Message        // answers to its own questions
}

// auditor opens a session with p.
func (w *world) auditor(p *pillar, answer func(l *auditor, q overlay.Message) any) *auditor {
	w.t.Helper()
	l := &auditor{liar: liar{w: w, key: identity.NewPillarKey()}, heard: make(chan overlay.Message, 64)}
	l.answer = func(q overlay.Message) any { return answer(l, q) }
	l.host = w.net.Host(peer.ID(l.key.ID()), "")
	w.t.Cleanup(func() { l.host.Shutdown() })
	l.host.Handle(overlay.ProtoPillar, func(s overlay.Stream) { s.Reset() })
	l.host.Handle(overlay.ProtoFollow, func(s overlay.Stream) { s.Reset() })
	synctest.Wait() // p runs
	if err := l.host.Connect(w.t.Context(), p.id(), p.host.Addrs()); err != nil {
		w.t.Fatal(err)
	}
	s, err := l.host.Open(w.t.Context(), p.id(), overlay.ProtoPillar)
	if err != nil {
		w.t.Fatal(err)
	}
	rec := replicatest.PillarRecord(w.t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...)
	say(s, &overlay.Hello{Role: overlay.RolePillar, Formats: 1, Network: w.key.ID(), Time: uint64(time.Now().UnixMilli()), Credential: rec.Raw})
	l.stream = s
	greeted := make(chan struct{})
	go l.read(greeted)
	<-greeted
	say(s, &overlay.VectorMsg{Full: true})
	synctest.Wait()
	return l
}

func (l *auditor) read(greeted chan struct{}) {
	frames := overlay.NewFrameReader(l.stream)
	frames.Accept()
	for {
		msg, err := frames.Next()
		if err != nil {
			return
		}
		question := false
		switch m := msg.(type) {
		case *overlay.Hello:
			copy(l.short[:], m.ShortKey)
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
			continue
		case *overlay.Got, *overlay.LinkedMsg, *overlay.TracedMsg:
		case *overlay.LinksMsg:
			question = true
		case *overlay.Root:
			question = !m.Answer
		case *overlay.Cells:
			question = !m.Answer
		case *overlay.Buckets:
			question = !m.Answer
		case *overlay.IDs:
			question = !m.Answer
		default:
			continue
		}
		if !question {
			l.heard <- msg
			continue
		}
		switch reply := l.answer(msg).(type) {
		case overlay.Message:
			say(l.stream, reply)
		case []overlay.Message:
			say(l.stream, reply...)
		}
	}
}

// ask asks p and returns its answer, nil if none comes in a second.
func (l *auditor) ask(q overlay.Message) overlay.Message {
	say(l.stream, q)
	select {
	case a := <-l.heard:
		return a
	case <-time.After(time.Second):
		return nil
	}
}

// cellsOf answers a Root or Cells with cells of a set.
func cellsOf(n uint64, key sketch.Key, from, count int, shorts ...uint64) *overlay.Cells {
	s := sketch.New(key, from+count)
	s.Add(shorts...)
	return &overlay.Cells{N: n, Answer: true, Runs: []overlay.CellRun{{From: uint64(from), Count: uint64(len(shorts)),
		Cells: sketch.AppendCells(nil, s.Cells(from, from+count), from, uint32(len(shorts)))}}}
}

// Each case breaks one rule in its answers. The round fails or tells no lie, it
// is counted, nothing is lost, and rounds with honest pillars go on.
func TestBadAnswers(t *testing.T) {
	unequal := func(q *overlay.Root) *overlay.Root {
		return &overlay.Root{N: q.N, Answer: true, Settled: q.Settled, Front: q.Front, Key: q.Key, Tally: overlay.Tally{Count: 7}}
	}
	garbage := func(l *auditor, q *overlay.IDs) *overlay.IDs {
		return &overlay.IDs{N: q.N, Answer: true, Next: uint64(len(q.Shorts)), Shorts: q.Shorts, Records: [][]byte{l.w.old(1)[0].Raw}}
	}
	for _, c := range []struct {
		name   string
		reason string // "" if it may be bad luck
		rounds int
		answer func(l *auditor, q overlay.Message) any
	}{
		{"no answer", "", 1, func(l *auditor, q overlay.Message) any { return nil }},
		{"an answer to another round", "round", 1, func(l *auditor, q overlay.Message) any {
			r := unequal(q.(*overlay.Root))
			r.N += 100
			return r
		}},
		{"another kind of answer", "round", 1, func(l *auditor, q overlay.Message) any {
			return &overlay.IDs{N: q.(*overlay.Root).N, Answer: true}
		}},
		{"a Root of later instants", "round", 1, func(l *auditor, q overlay.Message) any {
			r := unequal(q.(*overlay.Root))
			r.Settled++
			return r
		}},
		{"a Root of the first instants", "", 1, func(l *auditor, q overlay.Message) any {
			r := unequal(q.(*overlay.Root))
			r.Settled = 0
			return r
		}},
		{"cells of random bytes", "cells", 1, func(l *auditor, q overlay.Message) any {
			n := q.(*overlay.Root).N
			return &overlay.Cells{N: n, Answer: true, Runs: []overlay.CellRun{{Cells: []byte("not cells, whatever they look like")}}}
		}},
		{"no cells", "cells", 1, func(l *auditor, q overlay.Message) any {
			return &overlay.Cells{N: q.(*overlay.Root).N, Answer: true, Runs: []overlay.CellRun{{Cells: []byte{}}}}
		}},
		{"no runs", "", 1, func(l *auditor, q overlay.Message) any {
			return &overlay.Cells{N: q.(*overlay.Root).N, Answer: true}
		}},
		{"cells from elsewhere", "round", 1, func(l *auditor, q overlay.Message) any {
			return cellsOf(q.(*overlay.Root).N, sketch.Key{}, 5, 24)
		}},
		{"a cell at a time, for ever", "cells", 1, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return unequal(q)
			case *overlay.Cells:
				return cellsOf(q.N, sketch.Key{1}, int(q.Runs[0].From), 1, 1, 2, 3, 4, 5, 6, 7, 8, 9)
			}
			return nil
		}},
		{"cells under another key, for ever", "", 1, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return cellsOf(q.N, sketch.Key{1}, 0, 24, 1, 2, 3)
			case *overlay.Cells:
				return cellsOf(q.N, sketch.Key{1}, int(q.Runs[0].From), int(q.Runs[0].Count), 1, 2, 3)
			}
			return nil
		}},
		{"records that it has not, and does not say so", "undelivered", 1, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 3000, append(l.all(), 11, 12, 13)...)
			case *overlay.IDs:
				return &overlay.IDs{N: q.N, Answer: true, Next: uint64(len(q.Shorts))}
			}
			return nil
		}},
		{"records that it can never give", "undelivered", 6, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 3000, append(l.all(), 11, 12, 13)...)
			case *overlay.IDs:
				return &overlay.IDs{N: q.N, Answer: true, Next: uint64(len(q.Shorts)), Shorts: q.Shorts}
			}
			return nil
		}},
		{"never the end of what was asked for", "undelivered", 1, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 3000, append(l.all(), 11, 12, 13)...)
			case *overlay.IDs:
				return &overlay.IDs{N: q.N, Answer: true}
			}
			return nil
		}},
		{"records nobody asked for", "garbage", 1, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 3000, append(l.all(), 11)...)
			case *overlay.IDs:
				return garbage(l, q)
			}
			return nil
		}},
		{"cells that lack what we lack too", "cells", 1, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				made := cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 3000, l.all()...)
				s := sketch.New(sketch.Key(l.short.CellKey()), 3000)
				s.Add(l.all()...)
				s.Remove(99) // as if we had 99
				made.Runs[0].Cells = sketch.AppendCells(nil, s.Cells(0, 3000), 0, uint32(made.Runs[0].Count))
				return made
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				common := w.old(40)
				a, b := w.quiet().keep(common), w.quiet().keep(common, w.old(3))
				w.pair(a, b)
				l := w.auditor(a, c.answer)
				for _, r := range common {
					l.held = append(l.held, r.ID)
				}
				time.Sleep(15 * time.Second)
				for range c.rounds {
					r, err := a.mesh.Round(w.t.Context(), l.key.ID())
					w.t.Logf("%s, %v", r.Result, err)
					if err == nil && (r.Result == overlay.RoundEqual || r.Result == overlay.RoundRepaired) {
						w.t.Errorf("the round ended as %s", r.Result)
					}
					time.Sleep(time.Second)
				}
				got := a.count("offences_total", c.reason)
				if all := a.count("offences_total"); c.reason == "" && all > 0 || c.reason != "" && (got == 0 || got != all) {
					w.t.Errorf("%v offences, %v of them for %q", all, got, c.reason)
				}
				if a.disk.Count() != 40 {
					w.t.Errorf("%d records held", a.disk.Count())
				}
				w.round(a, b, overlay.RoundRepaired)
			})
		})
	}
}

// all are the short IDs of what the audited pillar holds.
func (l *auditor) all() (shorts []uint64) {
	for _, id := range l.held {
		_, s := l.short.Terms(id)
		shorts = append(shorts, s)
	}
	return shorts
}

// Each case asks what may not be asked. It is counted and costs the asked one
// no more than an answer.
func TestBadQuestions(t *testing.T) {
	root := func(l *auditor, n uint64) *overlay.Root {
		name := l.short.Name()
		now := uint64(time.Now().UnixMilli()) / overlay.AuditGrid
		return &overlay.Root{N: n, Settled: now - 1, Front: now + 1, Key: [8]byte(name[:])}
	}
	for _, c := range []struct {
		name   string
		reason string
		ask    func(t testing.TB, l *auditor)
	}{
		{"cells of no round", "round", func(t testing.TB, l *auditor) {
			if l.ask(&overlay.Cells{N: 3, Runs: []overlay.CellRun{{Count: 10}}}) != nil {
				t.Error("answered")
			}
		}},
		{"rounds without end", "rounds", func(t testing.TB, l *auditor) {
			answers := 0
			for n := range uint64(30) {
				if l.ask(root(l, n+1)) != nil {
					answers++
				}
			}
			if answers >= 30 {
				t.Error("all answered")
			}
		}},
		{"many questions at once", "rounds", func(t testing.TB, l *auditor) {
			for n := range uint64(200) {
				say(l.stream, root(l, n+1))
			}
			time.Sleep(time.Second)
		}},
		{"deep rounds without end", "deep", func(t testing.TB, l *auditor) {
			for n := range uint64(3) {
				q := root(l, n+1)
				l.ask(q)
				a, _ := l.ask(&overlay.Buckets{N: n + 1, Settled: q.Settled, Front: q.Front, Seed: [16]byte{1}}).(*overlay.Buckets)
				if a == nil || (a.Seed == [16]byte{}) != (n > 0) {
					t.Errorf("%d: %+v", n, a)
				}
				time.Sleep(time.Second)
			}
		}},
		{"a deep round of other instants", "round", func(t testing.TB, l *auditor) {
			q := root(l, 1)
			l.ask(q)
			if l.ask(&overlay.Buckets{N: 1, Settled: q.Settled - 1, Front: q.Front, Seed: [16]byte{1}}) != nil {
				t.Error("answered")
			}
		}},
		{"the list of a part that does not differ", "round", func(t testing.TB, l *auditor) {
			l.ask(root(l, 1))
			if l.ask(&overlay.IDs{N: 1, Parts: []uint64{0}}) != nil {
				t.Error("answered")
			}
		}},
		{"cells past the last", "", func(t testing.TB, l *auditor) {
			l.ask(root(l, 1))
			a, ok := l.ask(&overlay.Cells{N: 1, Runs: []overlay.CellRun{{From: 16_000, Count: 5000}, {Part: 9, Count: 10}}}).(*overlay.Cells)
			if !ok || len(a.Runs) != 0 {
				t.Errorf("%+v", a)
			}
		}},
		{"a record that is none", "garbage", func(t testing.TB, l *auditor) {
			l.ask(root(l, 1))
			raw := l.w.old(1)[0].Raw
			raw[len(raw)-1] ^= 1
			if _, ok := l.ask(&overlay.IDs{N: 1, Records: [][]byte{raw}}).(*overlay.IDs); !ok {
				t.Error("not answered")
			}
		}},
		{"records that nobody has", "", func(t testing.TB, l *auditor) {
			l.ask(root(l, 1))
			a, ok := l.ask(&overlay.IDs{N: 1, Shorts: []uint64{1, 2, 3}}).(*overlay.IDs)
			if !ok || len(a.Shorts) != 3 || a.Next != 3 || len(a.Records) != 0 {
				t.Errorf("%+v", a)
			}
		}},
		{"a sample of everything", "", func(t testing.TB, l *auditor) {
			q := root(l, 1)
			q.Spot = &overlay.Spot{Day: overlay.DayOf(uint64(time.Now().Add(23 * time.Hour).UnixMilli()))}
			if l.ask(q) == nil {
				t.Error("not answered")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				a := w.quiet().keep(w.old(40)).start()
				a.disk.Trusting = false
				l := w.auditor(a, func(*auditor, overlay.Message) any { return nil })
				c.ask(w.t, l)
				synctest.Wait()
				got := a.count("offences_total", c.reason)
				if all := a.count("offences_total"); c.reason == "" && all > 0 || c.reason != "" && (got == 0 || got != all) {
					w.t.Errorf("%v offences, %v of them for %q", all, got, c.reason)
				}
				if a.disk.Count() != 40 {
					w.t.Errorf("%d records held", a.disk.Count())
				}
			})
		})
	}
}

// TestSilentAuditor: rounds go on with the others while one never answers, and
// its session carries everything else.
func TestSilentAuditor(t *testing.T) {
	inBubble(t, func(w *world) {
		common := w.old(40)
		a, b := w.quiet().keep(common), w.quiet().keep(common)
		a.every = 5 * time.Second
		w.pair(a, b)
		var asked atomic.Int32
		l := w.auditor(a, func(*auditor, overlay.Message) any { asked.Add(1); return nil })
		time.Sleep(5 * time.Minute)
		totals, silent := a.mesh.Rounds(b.key.ID()).Totals, a.mesh.Rounds(l.key.ID()).Totals
		t.Logf("%+v, %+v", totals, silent)
		if asked.Load() < 5 || totals.Equal < 5 || silent.Failed < 5 {
			w.t.Error("too few rounds with one of them")
		}
		if len(a.mesh.Pillars()) != 2 || a.count("sessions") != 2 {
			w.t.Error("a session ended")
		}
	})
}

// stuck is a pillar too busy to store anything until it is let go on.
type stuck struct {
	*replicatest.Memory
	free chan struct{}
}

func (s stuck) Take(ctx context.Context, via overlay.Via, raws [][]byte) ([]bool, error) {
	select {
	case <-s.free:
		return s.Memory.Take(ctx, via, raws)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestRoundStarvesNothing: while records of a round wait to be stored, lookups
// on the same session are answered; and the round that waited too long is
// answered too, without them.
func TestRoundStarvesNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		common := w.old(3)
		a := w.quiet().keep(common)
		a.replica = stuck{a.disk, make(chan struct{})}
		a.start()
		l := w.auditor(a, func(*auditor, overlay.Message) any { return nil })
		name := l.short.Name()
		now := uint64(time.Now().UnixMilli()) / overlay.AuditGrid
		l.ask(&overlay.Root{N: 1, Settled: now - 1, Front: now + 1, Key: [8]byte(name[:])})
		if a := l.ask(&overlay.IDs{N: 1, Records: [][]byte{w.old(1)[0].Raw}}); a != nil {
			w.t.Fatalf("%+v although nothing can be stored", a)
		}
		if got, ok := l.ask(&overlay.Get{N: 1, IDs: []overlay.RecordID{common[0].ID}}).(*overlay.Got); !ok || len(got.Records) != 1 {
			w.t.Fatalf("%+v", got)
		}
		time.Sleep(20 * time.Second)
		select {
		case m := <-l.heard:
			if _, ok := m.(*overlay.IDs); !ok {
				w.t.Errorf("%+v", m)
			}
		default:
			w.t.Error("the round was never answered")
		}
		if a.disk.Count() != 3 || a.count("offences_total") != 0 {
			w.t.Errorf("%d records, %v offences", a.disk.Count(), a.count("offences_total"))
		}
	})
}

// TestRoundStuckLog: a pillar that tells of entries which it never serves does
// not keep the audit from repairing.
func TestRoundStuckLog(t *testing.T) {
	inBubble(t, func(w *world) {
		common, extra := w.old(40), w.old(1)[0]
		a := w.quiet().keep(common).start()
		l := w.auditor(a, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				_, short := l.short.Terms(extra.ID)
				return cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 100, append(l.all(), short)...)
			case *overlay.IDs:
				return &overlay.IDs{N: q.N, Answer: true, Next: uint64(len(q.Shorts)), Records: [][]byte{extra.Raw}}
			}
			return nil
		})
		for _, r := range common {
			l.held = append(l.held, r.ID)
		}
		log := replicatest.NewLog(w.key.ID(), l.key)
		say(l.stream, &overlay.VectorMsg{Positions: overlay.Vector{{Log: log.ID, Seq: 1000}}})
		time.Sleep(15 * time.Second)
		r, err := a.mesh.Round(w.t.Context(), l.key.ID())
		if err != nil || r.Result != overlay.RoundRepaired || r.Took < 4*time.Second || r.Took > 6*time.Second {
			w.t.Errorf("%+v, %v", r, err)
		}
		if a.disk.Count() != 41 {
			w.t.Errorf("%d records", a.disk.Count())
		}
	})
}

// TestRoundWaitsForLogs: what logs bring the other side is not pushed beside
// them, as long as they do bring it.
func TestRoundWaitsForLogs(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.quiet().start()
		end := a.submit(100)
		got := 0
		l := w.auditor(a, func(l *auditor, q overlay.Message) any {
			switch q := q.(type) {
			case *overlay.Root:
				return cellsOf(q.N, sketch.Key(l.short.CellKey()), 0, 300)
			case *overlay.IDs:
				got += len(q.Records)
				return &overlay.IDs{N: q.N, Answer: true}
			}
			return nil
		})
		time.Sleep(20 * time.Second)
		tell := func(every time.Duration, from uint64) (stop func()) {
			done := make(chan struct{})
			go func() {
				for seq := from; seq < from+50; seq++ {
					select {
					case <-done:
						return
					case <-time.After(every):
						say(l.stream, &overlay.VectorMsg{Positions: overlay.Vector{{Log: end.Log, Seq: seq}}})
					}
				}
			}()
			return func() { close(done); synctest.Wait() }
		}
		stop := tell(time.Second, 1)
		if r, err := a.mesh.Round(w.t.Context(), l.key.ID()); err != nil || r.Result != overlay.RoundWaits || got != 0 {
			w.t.Errorf("while the log comes: %+v, %v; %d records pushed", r, err, got)
		}
		stop()
		say(l.stream, &overlay.VectorMsg{Positions: overlay.Vector{{Log: end.Log, Seq: 20}}})
		if r, err := a.mesh.Round(w.t.Context(), l.key.ID()); err != nil || r.Result != overlay.RoundRepaired || got != 100 {
			w.t.Errorf("when it does not come: %+v, %v; %d records pushed", r, err, got)
		}
	})
}
