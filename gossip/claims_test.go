package gossip_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Who tells logs and says of all of them that it does not hold them is refused
// after a while, however it says so.
func TestClaimsOfNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		l := w.liar()
		for range 500 {
			l.claims = append(l.claims, overlay.Position{Log: replicatest.NewLog(w.key.ID(), l.key).ID, Seq: 9, Hash: overlay.Hash{1}})
		}
		l.claims.Sort()
		l.asked = make(chan *overlay.Follow, 1<<16)
		l.serve = func(s overlay.Stream, _ *overlay.Follow) {
			say(s, &overlay.Busy{Err: overlay.Refuse(overlay.CodeNotFound, "no such log")})
		}
		l.start(a)
		until(t, 10*time.Minute, "the end of the session", func() bool { return a.mesh.Pillars()[0].State != overlay.PillarAlive })
		if n := a.count("offences_total", "empty"); n < 7 {
			t.Errorf("%v offences", n)
		}
	})
}

// Who sends what memberlist does not is refused after a while.
func TestBadMembersAreRefused(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		l := w.liar()
		l.start(a)
		until(t, 5*time.Second, "a session", func() bool { return a.mesh.Pillars()[0].State == overlay.PillarAlive })
		for range 20 {
			l.host.Send(a.id(), memberPackets, []byte{gossip.WordCompressed, 1, 2, 3})
			time.Sleep(time.Second)
		}
		if st := a.mesh.Pillars()[0]; st.State == overlay.PillarAlive {
			t.Errorf("%v offences, and it is %s", a.count("offences_total", "member"), st.State)
		}
	})
}

// What a revoked pillar holds is no copy.
func TestRevokedPillarIsNoCopy(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		end := a.submit(3)
		until(t, 5*time.Second, "a copy", func() bool { return copies(a, end) == 1 })
		a.revoke(b)
		until(t, time.Minute, "no copy", func() bool { return copies(a, end) == 0 })
	})
}

// A long proof of a fork is told a pillar once, not at each start of a session, and
// to who holds the log all the same.
func TestLongProofs(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		writer := identity.NewPillarKey()
		log := replicatest.NewLog(w.key.ID(), writer)
		log.Add(t, w.author.Messages(t, 10)...)
		other := log.Fork(5)
		for range 6 {
			other.Add(t, w.author.Messages(t, 100)...)
		}
		a.roster.Add(uint64(time.Now().UnixMilli()), true, replicatest.PillarRecord(t, w.key, writer, time.Now(), time.Hour).Raw)
		proof := &overlay.Forked{Head: log.Head(10), Other: other.Head(605), Before: other.Mark(10).Hash}
		for _, e := range other.Entries[10:605] {
			proof.Links = append(proof.Links, overlay.LogEntry{Expires: e.Expires, ID: e.ID})
		}
		if !proof.Proves(w.key.ID()) {
			t.Fatal("no proof")
		}
		heard := func(l *liar, told overlay.Vector) (n int) {
			synctest.Wait()
			if err := l.host.Connect(w.t.Context(), a.id(), a.host.Addrs()); err != nil {
				t.Fatal(err)
			}
			s, err := l.greet(a, replicatest.PillarRecord(t, w.key, l.key, time.Now(), time.Hour, l.host.Addrs()...).Raw, w.key.ID(), overlay.RolePillar)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Reset()
			if told == nil {
				say(s, proof)
			}
			say(s, &overlay.VectorMsg{Full: true, Positions: told})
			frames := overlay.NewFrameReader(s)
			frames.Accept()
			s.SetReadDeadline(time.Now().Add(20 * time.Second))
			for {
				msg, err := frames.Next()
				if err != nil {
					return n
				}
				if f, ok := msg.(*overlay.Forked); ok && len(f.Links) > 0 {
					n++
				}
			}
		}
		heard(w.liar(), nil) // tells it
		if list := a.mesh.SyncStatus().Forks; len(list) != 1 {
			t.Fatalf("%d forks", len(list))
		}
		l := w.liar()
		for i, want := range []int{1, 0, 0} {
			if n := heard(l, overlay.Vector{}); n != want {
				t.Errorf("session %d: told %d times, want %d", i+1, n, want)
			}
		}
		if n := heard(l, overlay.Vector{other.Position()}); n != 1 {
			t.Errorf("told %d times to who holds the log", n)
		}
	})
}
