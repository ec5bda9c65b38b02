package gossip_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Each case is a provider of a log it tells 3,000 entries of, of which all are
// expired but the last, that breaks a rule on streams of unknown beginning or in
// ranges. Nothing of what it sent wrong is stored, it is refused for a while when
// it goes on, and the log comes from an honest holder.
func TestBadHolders(t *testing.T) {
	alive := func() uint64 { return uint64(time.Now().Add(time.Hour).UnixMilli()) }
	for _, c := range []struct {
		name   string
		reason string
		serve  func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow)
	}{
		{"no opening", "order", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, l.Batch(2901, 3000))
		}},
		{"an opening elsewhere", "order", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, &overlay.Batch{Log: l.ID, From: 2900, Head: l.Head(2950)})
		}},
		{"a head far beyond what is there", "head", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			h := l.Head(3000)
			h.Seq = 1 << 60
			h.Sign(l.Network, l.Key)
			say(s, &overlay.Batch{Log: l.ID, From: h.Seq + 1, Head: h})
		}},
		{"a head that never dies", "head", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			h := l.Head(3000)
			h.Dies += 40 * overlay.DayMillis
			h.Sign(l.Network, l.Key)
			say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: h})
		}},
		{"entries gone that live", "gone", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			if req.To == 0 {
				say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: l.Head(3000)})
				s.Read(make([]byte, 1))
				return
			}
			e := l.Gone(req.From, 3000)
			e.Expires = alive()
			say(s, &overlay.Batch{Log: l.ID, From: req.From, Entries: []overlay.BatchEntry{e}, Head: l.Head(3000)})
		}},
		{"more gone than there are", "order", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			e := overlay.BatchEntry{Why: overlay.WhyGone, Count: 1 << 61, Expires: 1}
			say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: l.Head(3000)},
				&overlay.Batch{Log: l.ID, From: 3001, Entries: []overlay.BatchEntry{e, e, e}, Head: l.Head(3000)})
		}},
		{"batches without end", "head", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			if req.To == 0 {
				say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: l.Head(3000)})
				s.Read(make([]byte, 1))
				return
			}
			e := l.Entries[0]
			for from := req.From; from < 1<<20; from += 100 {
				b := &overlay.Batch{Log: l.ID, From: from, Head: l.Head(3000)}
				b.Head.Seq = 1 << 40
				b.Head.Sign(l.Network, l.Key)
				for range 100 {
					b.Entries = append(b.Entries, e)
				}
				if say(s, b); from > 200_000 {
					return
				}
			}
		}},
		{"a stall in the middle of a range", "silent", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			if req.To == 0 {
				say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: l.Head(3000)})
			} else {
				b := l.Batch(req.From, req.From+9)
				b.Head = l.Head(3000)
				say(s, b)
			}
			s.Read(make([]byte, 1))
		}},
		{"an end in the middle of a range", "head", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			if req.To == 0 {
				say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: l.Head(3000)})
				s.Read(make([]byte, 1))
				return
			}
			b := l.Batch(req.From, req.From+9)
			b.Head = l.Head(3000)
			say(s, b)
			s.CloseWrite()
			s.Read(make([]byte, 1))
		}},
		{"records that it cannot deliver", "claim", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			if req.To == 0 {
				say(s, &overlay.Batch{Log: l.ID, From: 3001, Head: l.Head(3000)})
				s.Read(make([]byte, 1))
				return
			}
			s.CloseWrite()
			s.Read(make([]byte, 1))
		}},
		{"a proof that proves nothing", "fork", func(l *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, &overlay.Forked{Other: l.Head(3000), Before: overlay.Hash{7}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				l := w.liar()
				log := replicatest.NewLog(w.key.ID(), l.key)
				past := uint64(time.Now().Add(-time.Hour).UnixMilli())
				for i := range 2999 {
					log.AddEntry(overlay.BatchEntry{Expires: past, ID: overlay.RecordID{byte(i), byte(i >> 8)}, Why: overlay.WhyExpired})
				}
				log.Add(t, w.author.Message(t, 10, 24*time.Hour))
				l.claims = overlay.Vector{log.Position()}
				l.serve = func(s overlay.Stream, req *overlay.Follow) { c.serve(log, s, req) }
				a := w.pillar().start()
				l.start(a)
				until(t, time.Minute, "an offence", func() bool { return a.count("offences_total", c.reason) > 0 })
				if held := a.held(log.ID).Seq; held > 0 {
					t.Fatalf("entries to %d of a bad provider were stored", held)
				}
				if c.reason != "silent" && c.reason != "claim" { // these may be bad luck
					until(t, 10*time.Minute, "refused", func() bool { return a.count("pillars_refused_total") > 0 })
				}
				w.pillar().hold(log, 1, 3000).start(a)
				until(t, time.Minute, "the log from an honest holder", func() bool { return a.held(log.ID).Position == log.Position() })
			})
		})
	}
}

// A provider that makes up a history of entries that are gone, which meets the
// signed head but not what is held, has nobody drop the log.
func TestMadeUpHistoryOfWhatIsGone(t *testing.T) {
	inBubble(t, func(w *world) {
		log := replicatest.NewLog(w.key.ID(), identity.NewPillarKey())
		log.Add(t, w.author.Messages(t, 200)...)
		a := w.pillar().hold(log, 1, 60).hold(log, 101, 150)
		l := w.liar()
		l.claims = overlay.Vector{log.Position()}
		served := make(chan struct{}, 100)
		l.serve = func(s overlay.Stream, req *overlay.Follow) {
			if req.To == 0 {
				s.Read(make([]byte, 1))
				return
			}
			past := uint64(time.Now().Add(-2 * time.Hour).UnixMilli())
			first, second := log.Gone(req.From, 150), log.Gone(151, 200)
			first.ID, first.Expires, second.Expires = overlay.RecordID{7}, past, past
			say(s, &overlay.Batch{Log: log.ID, From: req.From, Entries: []overlay.BatchEntry{first, second}, Head: log.Head(200)})
			s.Read(make([]byte, 1))
			served <- struct{}{}
		}
		a.start()
		l.start(a)
		<-served
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if st := a.held(log.ID); st.Seq < 60 || len(st.Islands) == 0 {
				t.Fatalf("held to %d with %d islands after a lie", st.Seq, len(st.Islands))
			}
		}
	})
}

// A provider that says of somebody else's log that it is gone is not believed
// while that pillar is there: what lives comes from whoever has it.
func TestGoneIsNotBelieved(t *testing.T) {
	inBubble(t, func(w *world) {
		const logs, entries = 4, 1100
		a, l := w.pillar(), w.liar()
		a.every = 24 * time.Hour // nothing but logs brings records
		all := map[overlay.LogID]*replicatest.Log{}
		a.start()
		for range logs {
			end := a.submit(entries)
			all[end.Log] = logOf(w, a, end)
			l.claims = append(l.claims, end)
			a.restart()
		}
		l.claims.Sort()
		var lies atomic.Int32
		l.serve = func(s overlay.Stream, req *overlay.Follow) {
			log := all[req.Log]
			if log == nil || req.To == 0 {
				if log != nil {
					say(s, &overlay.Batch{Log: log.ID, From: entries + 1, Head: log.Head(entries)})
				}
				s.Read(make([]byte, 1))
				return
			}
			lies.Add(1)
			e := log.Gone(req.From, entries)
			e.Expires = uint64(time.Now().Add(-2 * time.Hour).UnixMilli())
			say(s, &overlay.Batch{Log: log.ID, From: req.From, Entries: []overlay.BatchEntry{e}, Head: log.Head(entries)})
			s.CloseWrite()
			s.Read(make([]byte, 1))
		}
		b := w.pillar()
		b.every = 24 * time.Hour
		disk := &stuckDisk{b.disk, make(chan struct{})} // or all of it is there before the liar is
		b.replica = disk
		b.start(a)
		until(t, 10*time.Second, "meshed", func() bool { return meshed(a, b) })
		l.start(b)
		time.Sleep(5 * time.Second)
		close(disk.free)
		until(t, time.Minute, "the records of all logs", func() bool { return b.disk.Count() == logs*entries })
		if lies.Load() == 0 {
			t.Error("nobody lied")
		}
	})
}

// A pillar that stalls for a few seconds, and all streams from it, is not refused
// for the number of them; one that does nothing else is.
func TestOneStallIsNotMany(t *testing.T) {
	inBubble(t, func(w *world) {
		l := w.liar()
		for i := range 20 {
			l.claims = append(l.claims, overlay.Position{Log: overlay.LogID{byte(i + 1)}, Seq: 30})
		}
		l.serve = func(s overlay.Stream, _ *overlay.Follow) { s.Read(make([]byte, 1)) }
		a := w.pillar().start()
		l.start(a)
		until(t, time.Minute, "offences", func() bool { return a.count("offences_total", "silent") >= 20 })
		time.Sleep(time.Second)
		if n := a.count("pillars_refused_total"); n > 0 {
			t.Error("it is refused")
		}
		for i := range 200 {
			l.claims = append(l.claims, overlay.Position{Log: overlay.LogID{100, byte(i)}, Seq: 30})
		}
		l.start(a)
		until(t, time.Minute, "refused for one stall after the other", func() bool { return a.count("pillars_refused_total") > 0 })
	})
}

// stuckDisk is a Replica that takes nothing until it is let.
type stuckDisk struct {
	*replicatest.Memory
	free chan struct{}
}

func (d *stuckDisk) Apply(ctx context.Context, run overlay.LogRun) (overlay.LogState, error) {
	select {
	case <-d.free:
		return d.Memory.Apply(ctx, run)
	case <-ctx.Done():
		return overlay.LogState{}, ctx.Err()
	}
}

// A pillar that sends many logs faster than they are stored fills no memory with
// them, and all of them come.
func TestRunsThatWait(t *testing.T) {
	const limit, logs, entries, size = 1 << 20, 6, 80, 60 << 10
	defer gossip.SetMaxQueuedOf(limit)()
	inBubble(t, func(w *world) {
		l := w.liar()
		raws := make([][]byte, 4)
		for i := range raws {
			raws[i] = w.author.Message(t, size, time.Hour)
		}
		all := map[overlay.LogID]*replicatest.Log{}
		for range logs {
			log := replicatest.NewLog(w.key.ID(), l.key)
			for range entries / len(raws) {
				log.Add(t, raws...)
			}
			all[log.ID] = log
			l.claims = append(l.claims, log.Position())
		}
		l.claims.Sort()
		l.serve = func(s overlay.Stream, req *overlay.Follow) {
			for from := req.From; from <= entries; from += 4 {
				say(s, all[req.Log].Batch(from, from+3))
			}
			s.Read(make([]byte, 1))
		}
		a := w.pillar()
		disk := &stuckDisk{a.disk, make(chan struct{})}
		a.replica = disk
		a.start()
		l.start(a)
		time.Sleep(2 * time.Second)
		if n := int(a.count("entries_received_total")); n*size > limit+logs*5*size {
			t.Errorf("%d MB wait, want %d and a run of each log", n*size>>20, limit>>20)
		}
		close(disk.free)
		until(t, time.Minute, "all logs", func() bool {
			for id := range all {
				if a.held(id).Seq != entries {
					return false
				}
			}
			return true
		})
		if n := a.count("offences_total"); n > 0 {
			t.Errorf("%v offences", n)
		}
	})
}

// Vectors that no pillar tells end the session and count.
func TestBadVectors(t *testing.T) {
	end := overlay.Position{Log: overlay.LogID{1}, Seq: 10}
	for _, c := range []struct {
		name string
		msg  *overlay.VectorMsg
	}{
		{"backwards", &overlay.VectorMsg{Positions: overlay.Vector{end}, Islands: []overlay.Span{{Log: end.Log, From: 30, To: 20}}}},
		{"overlapping", &overlay.VectorMsg{Positions: overlay.Vector{end}, Islands: []overlay.Span{{Log: end.Log, From: 20, To: 30}, {Log: end.Log, From: 25, To: 40}}}},
		{"over the prefix", &overlay.VectorMsg{Positions: overlay.Vector{end}, Islands: []overlay.Span{{Log: end.Log, From: 5, To: 20}}}},
		{"from zero", &overlay.VectorMsg{Positions: overlay.Vector{end}, Islands: []overlay.Span{{Log: end.Log, From: 0, To: 20}}}},
		{"beyond all logs", &overlay.VectorMsg{Positions: overlay.Vector{{Log: end.Log, Seq: 1 << 60}}}},
		{"too many islands", &overlay.VectorMsg{Positions: overlay.Vector{end}, Islands: []overlay.Span{{Log: end.Log, From: 20, To: 20}, {Log: end.Log, From: 22, To: 22},
			{Log: end.Log, From: 24, To: 24}, {Log: end.Log, From: 26, To: 26}, {Log: end.Log, From: 28, To: 28}, {Log: end.Log, From: 30, To: 30},
			{Log: end.Log, From: 32, To: 32}, {Log: end.Log, From: 34, To: 34}, {Log: end.Log, From: 36, To: 36}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				a := w.pillar().start()
				l := w.liar()
				synctest.Wait()
				if err := l.host.Connect(t.Context(), a.id(), a.host.Addrs()); err != nil {
					t.Fatal(err)
				}
				hello := func() (overlay.Stream, error) {
					return l.greet(a, replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
				}
				for i := range 4 {
					s, err := hello()
					if err != nil {
						t.Fatal(err)
					}
					say(s, c.msg)
					until(t, time.Second, "an offence", func() bool { return a.count("offences_total", "frame") == float64(i+1) })
					until(t, time.Second, "the end of the session", func() bool { return a.count("sessions") == 0 })
				}
				if err := l.host.Connect(t.Context(), a.id(), a.host.Addrs()); err != nil {
					t.Fatal(err)
				}
				if _, err := hello(); err == nil {
					t.Error("it is spoken to after four of them")
				}
			})
		})
	}
}

// A disk that takes nothing pauses following, says so, and is nobody's fault.
func TestFullPillar(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar()
		var full atomic.Bool
		b.fill(&full)
		b.start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		a.submit(3)
		until(t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		full.Store(true)
		b.disk.Refuse(overlay.Refuse(overlay.CodeFull, "the disk is full"))
		a.submit(3)
		time.Sleep(time.Minute)
		if n := b.count("offences_total") + b.count("follow_faults_total"); n != 0 {
			t.Errorf("%v offences of a provider whose follower is full", n)
		}
		if b.count("follows") != 0 {
			t.Error("a full pillar follows")
		}
		full.Store(false)
		b.disk.Refuse(nil)
		until(t, 10*time.Second, "converged again", func() bool { return converged(a, b) })
	})
}

// The want list's matter, an entry without its record, is no copy and is never
// told, wherever it came from; it counts once the record is there.
func TestLacksAreNotToldOrCounted(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		a.records, a.every = deaf{a.disk}, time.Hour
		a.start()
		end := a.submit(5)
		b := w.pillar()
		b.every = time.Hour
		// b got the log from a third one that had lost the record of entry 3.
		log := logOf(w, a, end)
		b.roster.Add(uint64(time.Now().UnixMilli()), true, a.record.Load().Raw)
		entries := append([]overlay.BatchEntry{}, log.Entries[:5]...)
		lost := entries[2].Raw
		entries[2] = log.Bare(3)
		if _, err := b.disk.Apply(t.Context(), log.RunOf(1, entries...)); err != nil {
			t.Fatal(err)
		}
		b.start(a)
		c := w.pillar()
		c.records, c.every = deaf{c.disk}, time.Hour
		w.net.Cut(b.id(), c.id()) // or c may get the log from b, and lack the same
		c.start(a)
		until(t, 5*time.Second, "copies", func() bool {
			d := a.disk.Durable(end.Log)
			return len(d) == 3 && d[0] == overlay.Durable{From: 1, To: 2, Copies: 2} && d[1] == overlay.Durable{From: 3, To: 3, Copies: 1} &&
				d[2] == overlay.Durable{From: 4, To: 5, Copies: 2}
		})
		until(t, 5*time.Second, "a status of the one that is missing", func() bool { return b.mesh.SyncStatus().Missing == 1 })
		gap := func(p, of *pillar) (gaps []overlay.LogGap) {
			for _, s := range p.mesh.SyncStatus().Peers {
				if peer.ID(s.Pillar) == of.id() {
					gaps = s.Gaps
				}
			}
			return gaps
		}
		until(t, 5*time.Second, "the gap, seen from both sides", func() bool {
			return slices.Equal(gap(b, a), []overlay.LogGap{{Log: end.Log, Here: 1}}) && slices.Equal(gap(a, b), []overlay.LogGap{{Log: end.Log, There: 1}})
		})
		if _, err := b.disk.Take(t.Context(), overlay.ViaAudit, [][]byte{lost}); err != nil {
			t.Fatal(err)
		}
		until(t, 5*time.Second, "copies of all", func() bool {
			d := a.disk.Durable(end.Log)
			return len(d) == 1 && d[0] == overlay.Durable{From: 1, To: 5, Copies: 2}
		})
		until(t, 5*time.Second, "no gap", func() bool { return len(gap(a, b)) == 0 && len(gap(b, a)) == 0 })
	})
}

// What is gone everywhere is told as gone, and a head's base says so.
func TestGoneRunsAreServed(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		raws := make([][]byte, 50)
		for i := range raws {
			raws[i] = w.author.Message(t, 20, time.Minute)
		}
		a.disk.Submit(raws...)
		end := a.submit(5)
		time.Sleep(3 * time.Hour)
		a.disk.Trim(end.Log, 1, 50)
		a.restart() // what was its own log is one as any other now
		b := w.pillar().start(a)
		until(t, 10*time.Second, "the log", func() bool { return b.held(end.Log).Position == end })
		if n := b.count("entries_received_total"); n != 6 {
			t.Errorf("%v entries received, want a run and 5", n)
		}
		if h := b.held(end.Log).Head; h.BaseSeq != 50 {
			t.Errorf("a head with its base at %d, want 50", h.BaseSeq)
		}
		c := w.pillar().start(b)
		until(t, 10*time.Second, "the log from somebody else", func() bool { return c.held(end.Log).Position == end })
	})
}

// A pillar's log is trimmed while it is away as far as a head says that all has
// expired, and passed on like that. One entry that lives keeps all behind it.
func TestGoneByHeadsThatDied(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		short := func(n int) {
			raws := make([][]byte, n)
			for i := range raws {
				raws[i] = w.author.Message(t, 20, time.Minute)
			}
			a.disk.Submit(raws...)
		}
		for range 12 {
			short(100)
		}
		a.submit(10) // these live
		short(1100)
		end := a.submit(5)
		until(t, 30*time.Second, "the log", func() bool { return b.held(end.Log).Position == end })
		a.stop()
		time.Sleep(3 * time.Hour)
		var over uint64
		until(t, 20*time.Second, "heads on the disk that say so", func() bool {
			over = b.mesh.Over(end.Log, uint64(time.Now().Add(-time.Hour).UnixMilli()))
			return over > 0
		})
		if over < 1024 || over > 1200 {
			t.Fatalf("over up to %d, of 1200 that died before one that lives", over)
		}
		b.disk.Trim(end.Log, 1, over)
		for _, from := range []*pillar{b, w.pillar()} {
			if from != b {
				from.start(b)
				until(t, 30*time.Second, "the log", func() bool { return from.held(end.Log).Position == end })
				if n, most := from.count("entries_received_total"), float64(end.Seq-over+1); n != most {
					t.Errorf("%v entries received, want a run and %v", n, most-1)
				}
				b.stop()
				from.restart()
			}
			if got := from.mesh.Over(end.Log, uint64(time.Now().UnixMilli())); got != over {
				t.Errorf("over up to %d, want %d", got, over)
			}
			c := w.pillar().start(from)
			until(t, 30*time.Second, "the log from somebody else", func() bool { return c.held(end.Log).Position == end })
			if n := c.count("offences_total") + from.count("offences_total"); n != 0 {
				t.Errorf("%v offences", n)
			}
			c.stop()
		}
	})
}

// deaf are records that nobody is given, so that no want is met.
type deaf struct{ *replicatest.Memory }

func (deaf) Get(ids []overlay.RecordID, _ int) ([][]byte, int, error) { return nil, len(ids), nil }

// logOf is the log of a pillar, as if made by hand.
func logOf(w *world, p *pillar, end overlay.Position) *replicatest.Log {
	w.t.Helper()
	l := &replicatest.Log{Network: w.key.ID(), Key: p.key, ID: end.Log, Nonce: p.held(end.Log).Nonce}
	l.Restart()
	entries, err := p.disk.Read(end.Log, 1, 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		l.Add(w.t, e.Raw)
	}
	return l
}
