package overlay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestPillarNudges: a session that asked for it is told of mail, at once and then
// about once a second, until it resumes; of old mail it is not.
func TestPillarNudges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		alice, bob, carol := rig.device(nil).session(), rig.device(nil).session(), rig.device(nil).session()
		bob.send(&overlay.Nudge{}, &overlay.Find{N: 1, IDs: []overlay.RecordID{{1}}, OnlyHeld: true})
		expect[*overlay.Found](bob) // so it has been read

		old := alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte("old"), func(d *overlay.Draft) {
			d.Created -= uint64(2 * time.Minute / time.Millisecond)
			d.Sequences = []overlay.Sequence{{Seq: 1}}
		})
		if l := alice.one(old); l.Err != nil {
			t.Fatal(l.Err)
		}
		bob.send(&overlay.Find{N: 2, IDs: []overlay.RecordID{{1}}, OnlyHeld: true})
		expect[*overlay.Found](bob)

		start := time.Now()
		for range 50 {
			alice.one(alice.message(bob.id()))
		}
		for range 2 { // the second makes up for those left out
			expect[*overlay.Nudge](bob)
		}
		if since := time.Since(start); since < 500*time.Millisecond {
			t.Errorf("two nudges within %v", since)
		}
		carol.resume(overlay.BoxMail, nil, true) // asked for mail, not for nudges
		bob.resume(overlay.BoxMail, nil, true)
		alice.one(alice.message(bob.id()))
		alice.one(alice.message(carol.id()))
		for _, c := range []*testClient{bob, carol} {
			if got := c.pushes(1); len(got) != 1 {
				t.Errorf("%d pushes", len(got))
			}
		}
	})
}

// TestPillarNewerSession: a device that comes again, because its path died, has
// one session: the old one gets nothing any more, and need not time out.
func TestPillarNewerSession(t *testing.T) {
	rig := newPillarRig(t, nil)
	alice, bob := rig.device(nil).session(), rig.device(nil)
	host := rig.net.Host(peer.ID(bob.key.ID()), "-")
	defer host.Shutdown()
	first := bob.openFrom(host).greet()
	first.register()
	first.resume(overlay.BoxMail, nil, true)

	rig.net.Mute(host.Self(), rig.host.Self())
	if err := host.Close(rig.host.Self()); err != nil {
		t.Fatal(err)
	}
	second := bob.openFrom(host).greet()
	second.register()
	second.resume(overlay.BoxMail, nil, true)
	if n := rig.pillar.Status().NodesConnected; n != 2 {
		t.Errorf("%d nodes connected, want 2", n)
	}
	if l := alice.one(alice.message(bob.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
	second.pushes(1)

	third := bob.openFrom(host).greet() // over a connection that lives
	third.register()
	if m, err := second.read(); err != nil {
		t.Errorf("the second session: %v", err)
	} else if b, ok := m.(*overlay.Busy); !ok || b.Err.Code != overlay.CodeBusy {
		t.Errorf("the second session is told %T %+v", m, m)
	}
	second.ended()
	third.resume(overlay.BoxMail, nil, true)
	alice.one(alice.message(bob.id()))
	third.pushes(1)
}
