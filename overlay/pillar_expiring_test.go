package overlay_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// lives gives a record a life.
func lives(hours int) func(*overlay.Draft) {
	return func(d *overlay.Draft) { d.Expires = d.Created + uint64(hours)*overlay.DayMillis/24 }
}

// mail signs a message to several with a life in hours.
func (d *testDevice) mail(hours int, to ...identity.AccountID) []byte {
	slices.Sort(to)
	return d.sign(overlay.KindMessage, to, []byte("sealed"), lives(hours))
}

// wantExpiring holds what the pillar says against what it should.
func (rig *pillarRig) wantExpiring(when string, messages, accounts int) {
	rig.t.Helper()
	e := rig.pillar.Status().Expiring
	if e.Messages != messages || e.Accounts != accounts || e.AtLeast || e.At.IsZero() {
		rig.t.Errorf("%s: %+v, want %d messages at %d accounts", when, e, messages, accounts)
	}
}

// TestExpiringUnconfirmed: what counts is a message that ends within a day, has
// lived half of its life, and of which a recipient has written nothing to its
// author since.
func TestExpiringUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		alice, bob, carol, dave := rig.device(nil), rig.device(nil), rig.device(nil), rig.device(nil)
		if e := rig.pillar.Status().Expiring; e != (overlay.Expiring{}) {
			t.Errorf("before the first look: %+v", e)
		}
		rig.take(bob.receipt(alice.id(), -10*time.Minute), // of something else
			alice.mail(72, bob.id()),
			alice.mail(72, alice.id(), bob.id(), carol.id()),
			alice.mail(96, dave.id()),
			carol.mail(72, carol.id()))
		time.Sleep(3 * time.Minute) // virtual
		rig.wantExpiring("three days before", 0, 0)
		time.Sleep(46 * time.Hour)
		rig.wantExpiring("a day and two hours before", 0, 0)
		time.Sleep(3 * time.Hour)
		// Carol's copy to herself alone counts: nobody else is to answer it.
		rig.wantExpiring("less than a day before", 3, 2)

		rig.take(carol.receipt(alice.id(), 0), bob.receipt(carol.id(), 0))
		time.Sleep(3 * time.Minute)
		rig.wantExpiring("one of two has answered, the other somebody else", 3, 2)
		rig.take(carol.receipt(carol.id(), 0))
		time.Sleep(3 * time.Minute)
		rig.wantExpiring("she answered herself", 2, 1)
		rig.take(bob.receipt(alice.id(), 0))
		time.Sleep(3 * time.Minute)
		rig.wantExpiring("all have answered", 0, 0)

		rig.take(alice.mail(30, bob.id()))
		time.Sleep(10 * time.Hour)
		rig.wantExpiring("young, and ends within a day", 0, 0)
		time.Sleep(6 * time.Hour)
		rig.wantExpiring("half of its life is over", 1, 1)
		time.Sleep(8 * time.Hour)
		rig.wantExpiring("dave's last day has come", 2, 2)
		time.Sleep(80 * time.Hour)
		rig.wantExpiring("they have expired", 0, 0)
	})
}

// TestExpiringReceiptIsOver: a receipt that has expired before its message, as it
// does if it was sealed to a device that was away for long, was one all the same.
func TestExpiringReceiptIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		alice, bob := rig.device(nil), rig.device(nil)
		rig.take(alice.mail(72, bob.id()), bob.sign(overlay.KindReceipt, []identity.AccountID{alice.id()}, []byte("sealed"), lives(40)))
		time.Sleep(50 * time.Hour) // virtual
		rig.wantExpiring("its receipt is over", 0, 0)
	})
}

// TestExpiringBounds: what is more than a look reads takes further looks, which go
// on where the one before stopped; before the first pass is over it says so.
func TestExpiringBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		const messages = 40
		alice := rig.device(nil)
		var raws [][]byte
		var people []*testDevice
		for i := range messages {
			if i%4 == 0 {
				people = append(people, rig.device(nil))
			}
			raws = append(raws, alice.mail(36, people[len(people)-1].id()))
		}
		raws = append(raws, people[0].receipt(alice.id(), 0))
		rig.take(raws...)
		time.Sleep(20 * time.Hour) // virtual
		rig.wantExpiring("at once", messages-4, len(people)-1)
		for _, by := range []overlay.Look{{Entries: 1, Batch: 5}, {Entries: 3, Batch: 7}, {Entries: 16, Batch: 100},
			{Entries: 1, Batch: 5, Seek: true}, {Entries: 3, Batch: 7, Seek: true}, {Entries: 16, Batch: 100, Seek: true}} {
			looks, err := overlay.LookForExpiring(t.Context(), rig.pillar, by)
			if err != nil || looks < 4 {
				t.Errorf("%+v: %d looks, %v", by, looks, err)
			}
			rig.wantExpiring(fmt.Sprintf("bit by bit, %+v", by), messages-4, len(people)-1)
		}
		e, err := overlay.LookOnce(t.Context(), rig.pillar, overlay.Look{Entries: 100, Batch: 5, Seek: true})
		if err != nil || !e.AtLeast || e.Messages == 0 || e.Messages >= messages-4 {
			t.Errorf("after the first look of many: %+v, %v", e, err)
		}
		// Alice's mailbox is larger than what is read of one: nothing is said of her.
		rig.take(people[0].receipt(alice.id(), -time.Hour), people[1].receipt(alice.id(), -time.Hour), people[2].mail(36, alice.id()))
		if e, err := overlay.LookOnce(t.Context(), rig.pillar, overlay.Look{Mailbox: 2, Seek: true}); err != nil || !e.AtLeast || e.Messages != 0 {
			t.Errorf("a mailbox too large: %+v, %v", e, err)
		}
		synctest.Wait() // the pillar looks, too
		if open := rig.store.open.Load(); open != 0 {
			t.Errorf("%d views are open", open)
		}
	})
}

// TestExpiringWithNodes: a message to an account that is away is a warning when it
// is about to expire; when the account's node is back and has it, it is none.
func TestExpiringWithNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		aliceHome, bobHome := newNodeHome(t, rig.net), newNodeHome(t, rig.net)
		alice, bob := aliceHome.start(rig.addr()), bobHome.start(rig.addr())
		defer func() {
			if err := errors.Join(alice.stop(), bob.stop()); err != nil {
				t.Error(err)
			}
		}()
		alice.send(overlay.StateDelivered, "are you there?", bob.id())
		bob.stop()
		time.Sleep(5 * time.Minute) // virtual; as far as clocks may be off, that receipt is none of what follows
		m, err := alice.Send(t.Context(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, Type: overlay.BodyText, Body: []byte("dinner at eight"), TTL: 40 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		wait := func(d time.Duration) overlay.OutMessage {
			t.Helper()
			time.Sleep(d) // virtual
			m, err := alice.Sent(m.Handle)
			if err != nil || m.ID == nil {
				t.Fatalf("%+v, %v", m, err)
			}
			return m
		}
		wait(15 * time.Hour)
		rig.wantExpiring("a day and an hour before its end", 0, 0)
		sent := wait(10 * time.Hour)
		rig.wantExpiring("15 hours before its end", 1, 1)
		if list := rig.traceOf(*sent.ID).Recipients; len(list) != 1 || list[0].Account != bob.id() || len(list[0].Receipts) > 0 || list[0].More {
			t.Errorf("trace: %+v", list)
		}
		bob = bobHome.start(rig.addr())
		if sent = wait(5 * time.Minute); sent.State != overlay.StateDelivered {
			t.Fatalf("bob is back: %+v", sent)
		}
		rig.wantExpiring("bob has it", 0, 0)
		list := rig.traceOf(*sent.ID).Recipients
		if len(list) != 1 || len(list[0].Receipts) != 1 || list[0].More || len(list[0].Devices) != 1 || list[0].Devices[0].State != overlay.DeliverySaved {
			t.Errorf("trace: %+v", list)
		}
	})
}
