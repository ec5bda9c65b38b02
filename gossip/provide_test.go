package gossip_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// One commit larger than a frame comes in several batches under one head.
func TestLargeCommit(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		a.submit(1)
		until(w.t, 2*time.Second, "following", func() bool { return converged(a, b) })
		raws := make([][]byte, 50)
		for i := range raws {
			raws[i] = w.author.Message(w.t, 120<<10, time.Hour)
		}
		a.disk.Submit(raws...) // more than the tail keeps, too
		a.submit(1)
		until(w.t, 2*time.Second, "converged", func() bool { return converged(a, b) && b.disk.Count() == 52 })
		c := w.pillar().start(b)
		until(w.t, 10*time.Second, "history", func() bool { return converged(b, c) })
	})
}

// Over its budget a provider names one of its followers, each as often as the
// others, and serves again when there is room. Ranges of history are bounded for
// each pillar.
func TestFollowerBudget(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		a.config = func(c *gossip.Config) { c.MaxFollowers = 2 }
		a.start()
		end := a.submit(1)
		synctest.Wait()
		var liars []*liar
		for range 5 {
			l := w.liar()
			l.serve = func(overlay.Stream, *overlay.Follow) {}
			l.start(a)
			liars = append(liars, l)
		}
		var open []overlay.Stream
		ask := func(l *liar, to uint64) overlay.Message {
			s, err := l.host.Open(w.t.Context(), a.id(), overlay.ProtoFollow)
			if err != nil {
				w.t.Fatal(err)
			}
			open = append(open, s)
			say(s, &overlay.Follow{Log: end.Log, From: 1, Before: overlay.ChainStart(end.Log), To: to})
			frames := overlay.NewFrameReader(s)
			frames.Accept()
			msg, err := frames.Next()
			if err != nil {
				w.t.Fatal(err)
			}
			return msg
		}
		for _, l := range liars[:2] {
			if _, ok := ask(l, 0).(*overlay.Batch); !ok {
				w.t.Fatal("not served within the budget")
			}
		}
		named := map[identity.PillarID]int{}
		for _, l := range []*liar{liars[2], liars[3], liars[4], liars[2]} {
			elsewhere, ok := ask(l, 0).(*overlay.Elsewhere)
			if !ok {
				w.t.Fatal("one more than the budget is served")
			}
			named[elsewhere.Peer]++
		}
		if named[liars[0].key.ID()] != 2 || named[liars[1].key.ID()] != 2 {
			w.t.Errorf("named %v, want each follower twice", named)
		}
		if _, ok := ask(liars[0], 0).(*overlay.Batch); !ok {
			w.t.Error("a follower that asks again is not served anew")
		}
		if _, err := open[0].Read(make([]byte, 1)); err == nil {
			w.t.Error("its stream of before goes on")
		}
		open[len(open)-1].Reset()
		synctest.Wait()
		if _, ok := ask(liars[2], 0).(*overlay.Batch); !ok {
			w.t.Fatal("there is room again, but it is not used")
		}
		for range gossip.MaxRangesOf {
			if _, ok := ask(liars[3], 1).(*overlay.Batch); !ok {
				w.t.Fatal("a range is not served")
			}
		}
		if busy, ok := ask(liars[3], 1).(*overlay.Busy); !ok || busy.Err.Code != overlay.CodeBusy || busy.Err.Retry == 0 {
			w.t.Error("one pillar takes more ranges than its share")
		}
	})
}

// Acks beyond what was sent, or of another log, end the stream and count for
// nothing.
func TestFalseAcks(t *testing.T) {
	for _, c := range []struct {
		name string
		ack  func(end overlay.Position) overlay.Message
	}{
		{"beyond", func(end overlay.Position) overlay.Message { return &overlay.Ack{Log: end.Log, Seq: end.Seq + 1} }},
		{"another log", func(end overlay.Position) overlay.Message { return &overlay.Ack{Log: overlay.LogID{7}, Seq: 1} }},
		{"no ack", func(end overlay.Position) overlay.Message { return &overlay.Get{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				a := w.pillar().start()
				end := a.submit(2)
				synctest.Wait()
				l := w.liar()
				l.serve = func(overlay.Stream, *overlay.Follow) {}
				l.start(a)
				s, err := l.host.Open(t.Context(), a.id(), overlay.ProtoFollow)
				if err != nil {
					t.Fatal(err)
				}
				say(s, &overlay.Follow{Log: end.Log, From: 1, Before: overlay.ChainStart(end.Log)})
				frames := overlay.NewFrameReader(s)
				frames.Accept()
				if _, err := frames.Next(); err != nil {
					t.Fatal(err)
				}
				say(s, c.ack(end))
				if _, err := frames.Next(); err == nil {
					t.Error("the stream goes on")
				}
				if d := a.disk.Durable(end.Log); len(d) != 0 {
					t.Errorf("durable %v", d)
				}
			})
		})
	}
}

// Entries that come without their bodies are not acked, nor what follows.
func TestBodilessIsNotAcked(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		synctest.Wait()
		l := w.liar()
		log := replicatest.NewLog(w.key.ID(), l.key)
		log.Add(w.t, w.author.Messages(w.t, 3)...)
		log.AddEntry(overlay.BatchEntry{Expires: uint64(time.Now().Add(time.Hour).UnixMilli()), ID: overlay.RecordID{5}, Why: overlay.WhyTrimmed})
		log.Add(w.t, w.author.Messages(w.t, 2)...)
		l.claims = overlay.Vector{log.Position()}
		acked := make(chan uint64, 10)
		l.serve = func(s overlay.Stream, _ *overlay.Follow) {
			say(s, log.Batch(1, 2))
			frames := overlay.NewFrameReader(s)
			for next := uint64(3); ; next++ {
				msg, err := frames.Next()
				if err != nil {
					return
				}
				acked <- msg.(*overlay.Ack).Seq
				if next == 3 {
					say(s, log.Batch(3, 6))
				}
			}
		}
		l.start(a)
		if seq := <-acked; seq != 2 {
			w.t.Errorf("acked %d, want 2", seq)
		}
		until(w.t, 5*time.Second, "all of it", func() bool {
			held := a.disk.Logs()
			return len(held) == 1 && held[0].Position == log.Position()
		})
		synctest.Wait()
		for len(acked) > 0 {
			if seq := <-acked; seq > 3 {
				w.t.Errorf("acked %d although the body of 4 is missing", seq)
			}
		}
	})
}

// A log of a pillar that nobody admitted is not taken, whoever serves it.
func TestStrangersLog(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		synctest.Wait()
		l := w.liar()
		log := replicatest.NewLog(w.key.ID(), identity.NewPillarKey())
		log.Add(w.t, w.author.Messages(w.t, 3)...)
		l.claims = overlay.Vector{log.Position()}
		l.serve = func(s overlay.Stream, _ *overlay.Follow) { say(s, log.Batch(1, 3)) }
		l.start(a)
		<-l.asked
		time.Sleep(time.Minute)
		if n := a.disk.Count(); n != 0 {
			w.t.Errorf("%d records of a stranger's log were stored", n)
		}
	})
}

// A Replica that takes nothing for a while is asked again.
func TestApplyFailsForAWhile(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		b.disk.Refuse(errors.New("the disk is full"))
		a.submit(10)
		time.Sleep(time.Minute)
		if n := a.count("sessions") + b.count("sessions"); n != 2 {
			w.t.Errorf("%v sessions are left, want both sides of one", n)
		}
		b.disk.Refuse(nil)
		until(w.t, 10*time.Second, "converged", func() bool { return converged(a, b) && b.disk.Count() == 10 })
		if n := b.count("follow_faults_total"); n != 0 {
			w.t.Errorf("the provider was faulted %v times for our disk", n)
		}
	})
}

// A head that several batches of a range lead to is sent with the first of them.
func TestHeadsAreSentOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		raws := make([][]byte, 2000)
		for i := range raws {
			raws[i] = w.author.Message(t, 1000, time.Hour)
		}
		var end overlay.Position
		for part := range slices.Chunk(raws, 500) {
			end = a.disk.Submit(part...)
		}
		l := w.liar()
		l.serve = func(overlay.Stream, *overlay.Follow) {}
		l.start(a)
		s, err := l.host.Open(w.t.Context(), a.id(), overlay.ProtoFollow)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		say(s, &overlay.Follow{Log: end.Log, From: 1, Before: overlay.ChainStart(end.Log), To: end.Seq})
		frames := overlay.NewFrameReader(s)
		frames.Accept()
		var head *overlay.Head
		next, batches, heads := uint64(1), 0, 0
		for next <= end.Seq {
			msg, err := frames.Next()
			if err != nil {
				t.Fatal(err)
			}
			b := msg.(*overlay.Batch)
			if batches++; b.Head != nil {
				if heads++; head != nil && b.Head.Equal(head) {
					t.Errorf("the head at %d again", head.Seq)
				}
				head = b.Head
			}
			next += uint64(len(b.Entries))
			if head == nil || head.Seq < next-1 {
				t.Fatalf("entries to %d under no head", next-1)
			}
		}
		if head.Seq != end.Seq || heads >= batches {
			t.Errorf("%d heads in %d batches, the last at %d", heads, batches, head.Seq)
		}
		t.Logf("%d heads in %d batches", heads, batches)
	})
}
