package overlay_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestTrim: entries that expired an hour ago, and of which a signed head says so,
// become a gone run, on disk and for whoever follows: the log's base. The
// beginning of the own log needs no head. The clock must be confirmed.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh()
		rig := newPillarRig(t, mesh)
		defer func() { rig.stop() }()
		alice, bob := rig.device(nil), rig.device(nil)
		log := newHandLog(rig)
		add := func(n int, life uint64) {
			for range n {
				log.add(overlay.BatchEntry{Raw: alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte{1},
					func(d *overlay.Draft) { d.Expires = d.Created + life })})
			}
		}
		const minute, day = 60_000, 4 * 3_600_000 // a short one: each hour here is many scrubs
		add(100, minute)                          // 1..100
		add(1, day)                               // 101
		add(80, 2*minute)                         // 102..181
		add(10, day)                              // 182..191
		add(60, minute)                           // 192..251: too few to be worth it
		add(1, day)                               // 252
		add(90, 90*minute)                        // 253..342, not yet
		add(1, 3*day)                             // 343
		log.apply(1, 343)
		c := alice.session()
		var own overlay.LogID
		for range 70 { // in the own log behind others that live
			own = c.one(alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte{2},
				func(d *overlay.Draft) { d.Expires = d.Created + minute })).Dot.Log
		}
		time.Sleep(2 * time.Hour) // virtual: the scrub comes by in its own time
		if st := log.held(); st.Base.Seq != 0 {
			t.Fatalf("a base of %d that nothing signed says", st.Base.Seq)
		}
		mesh.sign(log.state.Log, 100)
		if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
			t.Fatal(err)
		}
		st := log.held()
		if st.Base != log.marks[100] || st.Position != log.state.Position || len(st.Lacks) != 0 {
			t.Fatalf("base %d, at %d", st.Base.Seq, st.Seq)
		}
		entries, err := rig.pillar.Read(st.Log, 1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		hash, singles, at := overlay.ChainStart(st.Log), 0, uint64(0)
		var gone [][2]uint64
		for i := range entries {
			e := &entries[i]
			if e.Why == overlay.WhyGone {
				gone = append(gone, [2]uint64{at + 1, at + e.Count})
			} else {
				singles++
			}
			at += e.Len()
			hash = overlay.ChainEntry(hash, e)
		}
		if at != 343 || hash != log.marks[343].Hash || singles != 343-100 || !slices.Equal(gone, [][2]uint64{{1, 100}}) {
			t.Fatalf("up to %d: %d single entries, gone %v", at, singles, gone)
		}
		if part, err := rig.pillar.Read(st.Log, 69, 1); err != nil || len(part) != 1 || part[0].Count != 32 || part[0].Expires != log.entries[99].Expires {
			t.Fatalf("inside a run: %+v, %v", part, err)
		}
		if _, err := rig.pillar.Links(st.Log, 95, 101); err == nil {
			t.Fatal("links of entries that are gone")
		}
		if own := readAll(t, rig.pillar, own); len(own) != 72 {
			t.Fatalf("the own log, of which the first entries live, reads as %d entries", len(own))
		}
		// It is written on.
		if l := c.one(alice.message(bob.id())); l.Err != nil || l.Dot != (overlay.Dot{Log: own, Seq: 73}) {
			t.Fatalf("after the trim: %+v", l)
		}
		rig.stop()
		rig.start(mesh, identity.NewPillarKey())
		if again := log.held(); again.Base != st.Base || again.Position != st.Position {
			t.Fatalf("after a restart: base %d, at %d", again.Base.Seq, again.Seq)
		}
		mesh.sign(log.state.Log, 342)
		time.Sleep(4 * time.Hour)
		if st := log.held(); st.Base != log.marks[342] {
			t.Fatalf("all is gone, and the base is %d", st.Base.Seq)
		}
		// Whoever is given a gone run keeps it, and has the same base.
		if st := log.apply(300, 343); st.Base != log.marks[342] {
			t.Fatalf("base %d", st.Base.Seq)
		}
		rig.stop()
	})
}

func readAll(t *testing.T, p *overlay.Pillar, log overlay.LogID) (all []overlay.BatchEntry) {
	t.Helper()
	for at := uint64(1); ; {
		part, err := p.Read(log, at, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(part) == 0 {
			return all
		}
		for i := range part {
			at += part[i].Len()
		}
		all = append(all, part...)
	}
}

// TestTrimOfTheOwnLog: the beginning of the own log is trimmed without a head that
// says so: this pillar signs the base.
func TestTrimOfTheOwnLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, newFakeMesh())
		defer func() { rig.stop() }()
		alice := rig.device(nil)
		host := rig.net.Host(peer.ID(alice.key.ID()), "-")
		alice.openFrom(host).greet().register()
		host.Shutdown()
		rig.stop()
		rig.unscrubbed = true                             // no time passes: the device's records are those that are held
		rig.start(newFakeMesh(), identity.NewPillarKey()) // its log begins behind what registered the device
		c := alice.session()
		var last overlay.Dot
		send := func(n int, life uint64) {
			for range n {
				last = c.one(alice.sign(overlay.KindMessage, []identity.AccountID{alice.id()}, []byte{2},
					func(d *overlay.Draft) { d.Expires = d.Created + life })).Dot
			}
		}
		const minute, day = 60_000, 24 * 3_600_000
		send(80, minute)
		send(1, day)
		send(80, minute)
		time.Sleep(2 * time.Hour)
		if err := overlay.ScrubNow(t.Context(), rig.pillar); err != nil {
			t.Fatal(err)
		}
		own := readAll(t, rig.pillar, last.Log)
		if len(own) != 82 || own[0].Why != overlay.WhyGone || own[0].Count != 80 {
			t.Fatalf("the own log reads as %d entries, the first with %d", len(own), own[0].Count)
		}
		if st := rig.pillar.Logs(); !slices.ContainsFunc(st, func(s overlay.LogState) bool { return s.Log == last.Log && s.Base.Seq == 80 }) {
			t.Fatalf("no base at 80: %+v", st)
		}
	})
}
