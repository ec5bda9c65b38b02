package gossip_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// liar is an admitted pillar whose every word is the test's.
type liar struct {
	w    *world
	key  *identity.PillarKey
	host *memnet.Host
	// claims is the vector it tells; serve writes what it answers a Follow.
	claims overlay.Vector
	serve  func(s overlay.Stream, req *overlay.Follow)
	asked  chan *overlay.Follow
}

func (w *world) liar() *liar {
	l := &liar{w: w, key: identity.NewPillarKey(), asked: make(chan *overlay.Follow, 1024)}
	l.host = w.net.Host(peer.ID(l.key.ID()), "")
	w.t.Cleanup(func() { l.host.Shutdown() })
	return l
}

// start has the liar keep a session with p.
func (l *liar) start(p *pillar) {
	l.host.Handle(overlay.ProtoPillar, func(s overlay.Stream) { s.Reset() })
	l.host.Handle(overlay.ProtoFollow, func(s overlay.Stream) {
		defer s.Close()
		msg, err := overlay.NewFrameReader(s).Next()
		if err != nil {
			return
		}
		l.asked <- msg.(*overlay.Follow)
		l.serve(s, msg.(*overlay.Follow))
	})
	synctest.Wait() // p runs
	if err := l.host.Connect(l.w.t.Context(), p.id(), p.host.Addrs()); err != nil {
		l.w.t.Fatal(err)
	}
	s, err := l.greet(p, replicatest.PillarRecord(l.w.t, l.w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, l.w.key.ID(), overlay.RolePillar)
	if err != nil {
		l.w.t.Fatal(err)
	}
	say(s, &overlay.VectorMsg{Full: true, Positions: l.claims})
	go func() {
		frames := overlay.NewFrameReader(s)
		frames.Accept()
		for {
			if _, err := frames.Next(); err != nil {
				return
			}
		}
	}()
}

// greet opens a session with p by this Hello and returns what p answered.
func (l *liar) greet(p *pillar, credential []byte, network identity.NetworkID, role overlay.Role) (overlay.Stream, error) {
	s, err := l.host.Open(l.w.t.Context(), p.id(), overlay.ProtoPillar)
	if err != nil {
		return nil, err
	}
	say(s, &overlay.Hello{Role: role, Formats: 1, Network: network, Time: uint64(time.Now().UnixMilli()), Credential: credential})
	msg, err := one(s)
	if err != nil {
		return nil, err
	}
	if busy, ok := msg.(*overlay.Busy); ok {
		return nil, busy.Err
	}
	if _, ok := msg.(*overlay.Hello); !ok {
		return nil, errors.New("no Hello")
	}
	return s, nil
}

// one reads one message and nothing of what comes behind it, which a FrameReader
// reads ahead.
func one(s overlay.Stream) (overlay.Message, error) {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(s, frame); err != nil {
		return nil, err
	}
	frame = append(frame, make([]byte, min(binary.BigEndian.Uint32(frame), 1<<20))...)
	if _, err := io.ReadFull(s, frame[4:]); err != nil {
		return nil, err
	}
	return overlay.NewFrameReader(bytes.NewReader(frame)).Next()
}

func say(s overlay.Stream, msgs ...overlay.Message) {
	for _, m := range msgs {
		if _, err := s.Write(overlay.AppendFrame(nil, m)); err != nil {
			return
		}
	}
}

// Each case is a provider that breaks one rule. It is faulted, nothing of what
// it sent wrong is stored, and the log comes from an honest holder.
func TestBadProviders(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason string
		serve  func(l *replicatest.Log, other *replicatest.Log, s overlay.Stream, req *overlay.Follow)
	}{
		{"broken chain", "chain", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			b := l.Batch(1, 10)
			b.Entries = append([]overlay.BatchEntry{}, b.Entries...)
			b.Entries[3], b.Entries[4] = b.Entries[4], b.Entries[3]
			say(s, b)
		}},
		{"an entry of its own", "chain", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			b := l.Batch(1, 10)
			b.Entries = append([]overlay.BatchEntry{}, b.Entries...)
			b.Entries[9] = other.Entries[0]
			say(s, b)
		}},
		{"unsigned head", "head", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			b := l.Batch(1, 10)
			b.Head.Sig[5] ^= 1
			say(s, b)
		}},
		{"no head", "head", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			b := l.Batch(1, 10)
			b.Head = nil
			say(s, b)
		}},
		{"its own head", "head", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			b := l.Batch(1, 10)
			b.Head = other.Head(10)
			say(s, b)
		}},
		{"a head behind its entries", "head", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			b := l.Batch(1, 10)
			b.Head = l.Head(9)
			say(s, b)
		}},
		{"another log", "log", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, other.Batch(1, 10))
		}},
		{"a gap", "order", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, l.Batch(1, 4), l.Batch(6, 10))
		}},
		{"an empty batch", "order", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, &overlay.Batch{Log: l.ID, From: 1, Head: l.Head(10)})
		}},
		{"the same again", "order", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, l.Batch(1, 4), l.Batch(1, 4))
		}},
		{"something else", "frame", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			say(s, &overlay.Get{N: 1})
		}},
		{"garbage", "frame", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			s.Write([]byte{0, 0, 0, 3, 0xdf, 0xff, 0xff})
		}},
		{"a frame without end", "frame", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			s.Write([]byte{0xff, 0xff, 0xff, 0xff})
		}},
		{"entries gone, by its own word", "gone", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			e := l.Gone(1, 10)
			e.Expires = uint64(time.Now().Add(-2 * time.Hour).UnixMilli())
			say(s, &overlay.Batch{Log: l.ID, From: 1, Entries: []overlay.BatchEntry{e}, Head: l.Head(10)})
		}},
		{"entries gone, by a base put into a signed head", "head", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			first := l.Batch(1, 3)
			first.Head = l.Head(10)
			e := l.Gone(4, 10)
			e.Expires = uint64(time.Now().Add(-2 * time.Hour).UnixMilli())
			head := *first.Head
			head.BaseSeq, head.BaseHash = 10, head.Hash
			say(s, first, &overlay.Batch{Log: l.ID, From: 4, Entries: []overlay.BatchEntry{e}, Head: &head})
		}},
		{"silence", "silent", func(l, other *replicatest.Log, s overlay.Stream, req *overlay.Follow) {
			one := make([]byte, 1)
			s.Read(one)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				writer := identity.NewPillarKey() // its pillar is gone
				log, other := replicatest.NewLog(w.key.ID(), writer), (*replicatest.Log)(nil)
				log.Add(t, w.author.Messages(t, 10)...)
				l := w.liar()
				other = replicatest.NewLog(w.key.ID(), l.key)
				other.Add(t, w.author.Messages(t, 10)...)
				l.claims = overlay.Vector{log.Position()}
				l.serve = func(s overlay.Stream, req *overlay.Follow) { c.serve(log, other, s, req) }

				a := w.pillar().start()
				a.roster.Add(uint64(time.Now().UnixMilli()), true,
					replicatest.PillarRecord(t, w.key, writer, time.Now(), time.Hour).Raw)
				l.start(a)
				until(t, 10*time.Second, "a fault", func() bool { return a.count("follow_faults_total", c.reason) == 1 })
				if v := a.disk.Vector(); len(v) > 0 && v[0].Seq > 4 {
					t.Fatalf("entries to %d of a bad provider were stored", v[0].Seq)
				}
				honest := w.pillar()
				if _, err := honest.disk.Apply(t.Context(), log.Run(1, 10)); err != nil {
					t.Fatal(err)
				}
				honest.start(a)
				until(t, 10*time.Second, "the log from an honest holder", func() bool {
					v := a.disk.Vector()
					return len(v) == 1 && v[0] == log.Position()
				})
				for _, st := range a.mesh.Pillars() {
					if st.ID == honest.key.ID() && st.State != overlay.PillarAlive {
						t.Errorf("the honest one is %s", st.State)
					}
				}
			})
		})
	}
}

func TestGreetings(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		l := w.liar()
		if err := l.host.Connect(w.t.Context(), a.id(), a.host.Addrs()); err != nil {
			w.t.Fatal(err)
		}
		now := time.Now()
		mine := replicatest.PillarRecord(w.t, w.key, l.key, now, time.Hour, l.host.Addrs()...)
		stranger := identity.NewNetworkKey()
		for _, c := range []struct {
			name       string
			credential []byte
			network    identity.NetworkID
			role       overlay.Role
			want       overlay.Code
		}{
			{"another network", mine.Raw, stranger.ID(), overlay.RolePillar, overlay.CodeWrongNetwork},
			{"no network", mine.Raw, identity.NetworkID{}, overlay.RolePillar, overlay.CodeWrongNetwork},
			{"a node", mine.Raw, w.key.ID(), overlay.RoleNode, overlay.CodeNotAdmitted},
			{"somebody else's record", replicatest.PillarRecord(w.t, w.key, b.key, now, time.Hour).Raw, w.key.ID(), overlay.RolePillar, overlay.CodeNotAdmitted},
			{"admitted elsewhere", replicatest.PillarRecord(w.t, stranger, l.key, now, time.Hour).Raw, w.key.ID(), overlay.RolePillar, overlay.CodeNotAdmitted},
			{"admission over", replicatest.PillarRecord(w.t, w.key, l.key, now, -time.Second).Raw, w.key.ID(), overlay.RolePillar, overlay.CodeNotAdmitted},
			{"admitted for too long", replicatest.PillarRecord(w.t, w.key, l.key, now, 31*24*time.Hour).Raw, w.key.ID(), overlay.RolePillar, overlay.CodeNotAdmitted},
			{"no record", []byte{1}, w.key.ID(), overlay.RolePillar, overlay.CodeNotAdmitted},
			{"a message for a record", w.author.Message(w.t, 10, time.Hour), w.key.ID(), overlay.RolePillar, overlay.CodeNotAdmitted},
		} {
			if _, err := l.greet(a, c.credential, c.network, c.role); overlay.CodeOf(err) != c.want {
				w.t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
		if _, err := l.greet(a, mine.Raw, w.key.ID(), overlay.RolePillar); err != nil {
			w.t.Errorf("a good greeting after bad ones: %v", err)
		}
		for _, st := range b.mesh.Pillars() {
			if st.ID == a.key.ID() && st.State != overlay.PillarAlive {
				w.t.Errorf("others' session: %s", st.State)
			}
		}
	})
}

// A stranger's Follow, and one beyond what is held, are refused.
func TestRefusedFollows(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		end := a.submit(3)
		synctest.Wait()
		l := w.liar()
		if err := l.host.Connect(w.t.Context(), a.id(), a.host.Addrs()); err != nil {
			w.t.Fatal(err)
		}
		ask := func(req *overlay.Follow) overlay.Message {
			s, err := l.host.Open(w.t.Context(), a.id(), overlay.ProtoFollow)
			if err != nil {
				w.t.Fatal(err)
			}
			defer s.Close()
			say(s, req)
			frames := overlay.NewFrameReader(s)
			frames.Accept()
			msg, err := frames.Next()
			if err != nil {
				w.t.Fatal(err)
			}
			return msg
		}
		good := &overlay.Follow{Log: end.Log, From: 1, Before: overlay.ChainStart(end.Log)}
		if busy, ok := ask(good).(*overlay.Busy); !ok || busy.Err.Code != overlay.CodeNotAdmitted {
			w.t.Error("a stranger is served")
		}
		l.serve = func(overlay.Stream, *overlay.Follow) {}
		l.start(a)
		for _, c := range []struct {
			name string
			req  overlay.Follow
			want overlay.Code
		}{
			{"a log not held", overlay.Follow{Log: overlay.LogID{1}, From: 1}, overlay.CodeNotFound},
			{"beyond the end", overlay.Follow{Log: end.Log, From: 5, Before: overlay.Hash{1}}, overlay.CodeNotFound},
			{"from zero", overlay.Follow{Log: end.Log, From: 0}, overlay.CodeBadRequest},
			{"backwards", overlay.Follow{Log: end.Log, From: 3, To: 2}, overlay.CodeBadRequest},
			{"another start", overlay.Follow{Log: end.Log, From: 1, Before: overlay.Hash{1}}, overlay.CodeInvalid},
		} {
			if busy, ok := ask(&c.req).(*overlay.Busy); !ok || busy.Err.Code != c.want {
				w.t.Errorf("%s: not refused as %s", c.name, c.want)
			}
		}
		for _, from := range []uint64{3, 4} {
			forked, ok := ask(&overlay.Follow{Log: end.Log, From: from, Before: overlay.Hash{1}}).(*overlay.Forked)
			if !ok || forked.Head != nil || forked.Other.Seq != 3 || !forked.Other.Verify(w.key.ID()) ||
				overlay.ChainAll(forked.Before, forked.Links) != forked.Other.Hash || len(forked.Links) != int(4-from) {
				w.t.Errorf("another history before entry %d is not answered with the own one: %+v", from, forked)
			}
		}
		if batch, ok := ask(good).(*overlay.Batch); !ok || len(batch.Entries) != 3 || !batch.Head.Verify(w.key.ID()) {
			w.t.Error("a good request after bad ones is not served")
		}
	})
}

func TestForgedSummaries(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(w.t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		l := w.liar()
		l.serve = func(overlay.Stream, *overlay.Follow) {}
		l.start(a)
		s, err := l.greet(a, replicatest.PillarRecord(w.t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
		if err != nil {
			w.t.Fatal(err)
		}
		now := uint64(time.Now().UnixMilli())
		forged := overlay.Summary{Pillar: b.key.ID(), At: now, Count: 7}
		forged.Sign(w.key.ID(), l.key)
		future := overlay.Summary{Pillar: l.key.ID(), At: now + 3_600_000, Count: 7}
		future.Sign(w.key.ID(), l.key)
		good := overlay.Summary{Pillar: l.key.ID(), At: now, Count: 8}
		good.Sign(w.key.ID(), l.key)
		older := overlay.Summary{Pillar: l.key.ID(), At: now - 1, Count: 9}
		older.Sign(w.key.ID(), l.key)
		say(s, &overlay.SummaryMsg{Summaries: []overlay.Summary{forged, future, good, older}})
		until(w.t, 2*time.Second, "the good one", func() bool {
			for _, s := range a.mesh.Summaries() {
				if s.Pillar == l.key.ID() {
					return s.Count == 8
				}
			}
			return false
		})
		for _, s := range a.mesh.Summaries() {
			if s.Pillar == b.key.ID() && s.Count == 7 {
				w.t.Error("a forged summary was taken")
			}
		}
		if n := a.count("forged_total", "summary"); n != 1 {
			w.t.Errorf("%v forged summaries counted, want 1", n)
		}
	})
}

// A pillar that asks much and reads nothing loses its session when the answers
// cannot be written, and only that.
func TestGreedyAsker(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		raw := w.author.Message(t, 200<<10, time.Hour)
		a.disk.Submit(raw)
		rec, err := overlay.ParseRecord(w.key.ID(), raw)
		if err != nil {
			t.Fatal(err)
		}
		l := w.liar()
		synctest.Wait()
		if err := l.host.Connect(w.t.Context(), a.id(), a.host.Addrs()); err != nil {
			t.Fatal(err)
		}
		s, err := l.greet(a, replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
		if err != nil {
			t.Fatal(err)
		}
		s.SetWriteDeadline(time.Now().Add(10 * time.Second))
		for n := range 2000 {
			say(s, &overlay.Get{N: uint64(n), IDs: []overlay.RecordID{rec.ID}})
		}
		until(t, 3*time.Minute, "the end of the session", func() bool {
			return a.mesh.Pillars()[0].State != overlay.PillarAlive
		})
	})
}

// Who claims more of a log than there is does not get its pillar, which has
// nothing to send, taken for silent.
func TestClaimOfMore(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		claim := a.submit(1)
		until(t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		l := w.liar()
		claim.Seq += 1000
		l.claims = overlay.Vector{claim}
		l.serve = func(s overlay.Stream, _ *overlay.Follow) {
			say(s, &overlay.Busy{Err: overlay.Refuse(overlay.CodeBusy, "later")})
		}
		l.start(b)
		for range 20 {
			time.Sleep(5 * time.Second)
			a.submit(1)
			until(t, time.Second, "converged", func() bool { return converged(a, b) })
		}
		if n := b.count("follow_faults_total"); n != 0 {
			t.Errorf("%v faults of an honest provider", n)
		}
	})
}

// Faults are forgotten after a while of good service, or one now and then would
// end in never being asked.
func TestFaultsAreForgotten(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		l := w.liar()
		log := replicatest.NewLog(w.key.ID(), l.key)
		log.Add(t, w.author.Messages(t, 10)...)
		l.claims = overlay.Vector{log.Position()}
		l.serve = func(s overlay.Stream, _ *overlay.Follow) { say(s, &overlay.Get{N: 1}) }
		l.start(a)
		faults := func() float64 { return a.count("follow_faults_total", "frame") }
		until(t, time.Hour, "faults", func() bool { return faults() == 3 })
		l.host.Shutdown()
		time.Sleep(time.Hour)
		l.host = w.net.Host(peer.ID(l.key.ID()), "")
		t.Cleanup(func() { l.host.Shutdown() })
		l.start(a)
		until(t, time.Minute, "the next fault", func() bool { return faults() == 4 })
		until(t, 15*time.Second, "and soon another", func() bool { return faults() == 5 })
	})
}

// A pillar that comes back with an older disk no longer counts as a copy of
// what that disk lacks.
func TestOlderDiskCountsLess(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		end := a.submit(3)
		first, err := a.disk.Links(end.Log, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		l := w.liar()
		l.claims = overlay.Vector{end}
		l.start(a)
		until(t, 5*time.Second, "a copy", func() bool { return len(a.disk.Durable(end.Log)) == 1 })
		l.claims = overlay.Vector{{Log: end.Log, Seq: 1, Hash: overlay.ChainAll(overlay.ChainStart(end.Log), first)}}
		l.start(a)
		until(t, 5*time.Second, "a copy of less", func() bool {
			d := a.disk.Durable(end.Log)
			return len(d) == 1 && d[0].To == 1
		})
		l.claims = nil
		l.start(a)
		until(t, 5*time.Second, "no copy", func() bool { return len(a.disk.Durable(end.Log)) == 0 })
	})
}

// An address given by hand is tried for ever, whoever answers there meanwhile.
func TestHandAddressIsKept(t *testing.T) {
	inBubble(t, func(w *world) {
		b := w.pillar()
		b.addr = "/ip4/10.0.0.9/tcp/4001"
		b.start()
		b.stop()
		other := w.net.Host(peer.ID(identity.NewPillarKey().ID()), b.addr)
		a := w.pillar().start(b)
		time.Sleep(30 * time.Minute)
		other.Shutdown()
		b.restart()
		until(t, 5*time.Minute, "a session", func() bool { return meshed(a, b) })
	})
}

// A pillar that hangs does not take away what the others answered.
func TestCopiesWithOneThatHangs(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		raw := w.author.Message(t, 10, time.Hour)
		a.disk.Submit(raw)
		until(t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		l := w.liar() // it reads, and never answers
		l.start(a)
		rec, err := overlay.ParseRecord(w.key.ID(), raw)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		copies, err := a.mesh.Copies(ctx, []overlay.RecordID{rec.ID})
		if err != nil || copies[0] != 1 {
			t.Fatalf("%v copies beside this one, %v; want 1", copies, err)
		}
	})
}

// Who is not admitted any more is sent nothing more, on streams it opened
// before either.
func TestFollowEndsWithAdmission(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		end := a.submit(1)
		l := w.liar()
		synctest.Wait()
		if err := l.host.Connect(w.t.Context(), a.id(), a.host.Addrs()); err != nil {
			t.Fatal(err)
		}
		if _, err := l.greet(a, replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Minute, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar); err != nil {
			t.Fatal(err)
		}
		s, err := l.host.Open(w.t.Context(), a.id(), overlay.ProtoFollow)
		if err != nil {
			t.Fatal(err)
		}
		say(s, &overlay.Follow{Log: end.Log, From: 1, Before: overlay.ChainStart(end.Log)})
		frames := overlay.NewFrameReader(s)
		frames.Accept()
		if _, err := frames.Next(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		a.submit(1)
		s.SetReadDeadline(time.Now().Add(time.Minute))
		if msg, err := frames.Next(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("served %T, %v", msg, err)
		}
	})
}

// A pillar that begins one log after the other is followed in so many only.
func TestTooManyLogs(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		l := w.liar()
		raw := w.author.Message(t, 10, time.Hour)
		begin := func() *replicatest.Log {
			log := replicatest.NewLog(w.key.ID(), l.key)
			log.Add(t, raw)
			return log
		}
		for range gossip.MaxLogsOf - 1 {
			if _, err := a.disk.Apply(t.Context(), begin().Run(1, 1)); err != nil {
				t.Fatal(err)
			}
		}
		last, further := begin(), begin()
		l.claims = overlay.Vector{last.Position()}
		l.serve = func(s overlay.Stream, req *overlay.Follow) {
			for _, log := range []*replicatest.Log{last, further} {
				if log.ID == req.Log {
					say(s, log.Batch(1, 1))
				}
			}
			s.Read(make([]byte, 1))
		}
		a.start()
		l.start(a)
		until(t, 10*time.Second, "the last", func() bool { return len(a.disk.Logs()) == gossip.MaxLogsOf })
		l.claims = overlay.Vector{further.Position()}
		l.start(a)
		time.Sleep(time.Minute)
		if n := len(a.disk.Logs()); n != gossip.MaxLogsOf {
			t.Errorf("%d logs of one pillar are held", n)
		}
	})
}
