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

// old is a device whose certificate covers the last twenty days.
func (rig *pillarRig) old() *testDevice {
	d := rig.device(nil)
	d.certify(rig.id, 1, time.Now().Add(-20*24*time.Hour), time.Now().Add(200*24*time.Hour))
	return d
}

// aged gives a record an age and a life.
func aged(age, life time.Duration) func(*overlay.Draft) {
	return func(d *overlay.Draft) {
		d.Created -= uint64(age.Milliseconds())
		d.Expires = d.Created + uint64(life.Milliseconds())
	}
}

// mail signs a message to several.
func (d *testDevice) mail(age, life time.Duration, to ...identity.AccountID) []byte {
	slices.Sort(to)
	return d.sign(overlay.KindMessage, to, []byte("sealed"), aged(age, life))
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
		alice, bob, carol, dave := rig.old(), rig.old(), rig.old(), rig.old()
		if e := rig.pillar.Status().Expiring; e != (overlay.Expiring{}) {
			t.Errorf("before the first look: %+v", e)
		}
		const h, life = time.Hour, 72 * time.Hour
		then := func(when string, messages, accounts int) {
			t.Helper()
			time.Sleep(4 * time.Minute) // virtual; the pillar looks every two
			rig.wantExpiring(when, messages, accounts)
		}
		rig.take(bob.receipt(alice.id(), -60*h), // of something else
			alice.mail(47*h, life, bob.id()),
			alice.mail(50*h, 96*h, dave.id()),
			alice.mail(10*h, 30*h, dave.id()),
			dave.mail(5*h, 10*h+14*time.Minute, dave.id()))
		time.Sleep(time.Minute) // so that no look is just going on
		then("what ends later than in a day, or has not lived half of its life", 0, 0)
		then("a day before, and half of its life is over", 1, 1)
		// Alice's copy to herself is answered by nobody; carol's, to nobody else, is.
		rig.take(alice.mail(50*h, life, bob.id()), alice.mail(50*h, life, alice.id(), bob.id(), carol.id()), carol.mail(50*h, life, carol.id()))
		then("unanswered", 4, 3)
		rig.take(carol.receipt(alice.id(), 0), bob.receipt(carol.id(), 0))
		then("one of two has answered, the other somebody else", 4, 3)
		rig.take(carol.receipt(carol.id(), 0))
		then("she answered herself", 3, 2)
		rig.take(bob.receipt(alice.id(), -49*h))
		then("he has answered, too", 1, 1)
		rig.take(alice.mail(49*h-3*time.Minute, life, bob.id()), alice.mail(71*h+57*time.Minute, life, carol.id()))
		then("written after the answer", 2, 2)
		rig.take(dave.receipt(dave.id(), 0))
		then("and answered", 1, 1)
	})
}

// TestExpiringReceiptIsOver: a receipt that has expired before its message was one
// all the same.
func TestExpiringReceiptIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		alice, bob := rig.old(), rig.old()
		rig.take(alice.mail(60*time.Hour, 72*time.Hour, bob.id()),
			bob.sign(overlay.KindReceipt, []identity.AccountID{alice.id()}, []byte("sealed"), aged(59*time.Hour, 59*time.Hour+time.Minute)))
		time.Sleep(5 * time.Minute) // virtual
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
		alice := rig.old()
		var raws [][]byte
		var people []*testDevice
		for i := range messages {
			if i%4 == 0 {
				people = append(people, rig.old())
			}
			raws = append(raws, alice.mail(20*time.Hour, 36*time.Hour, people[len(people)-1].id()))
		}
		raws = append(raws, people[0].receipt(alice.id(), 0))
		rig.take(raws...)
		time.Sleep(3 * time.Minute) // virtual
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
		rig.take(people[0].receipt(alice.id(), -time.Hour), people[1].receipt(alice.id(), -time.Hour), people[2].mail(20*time.Hour, 36*time.Hour, alice.id()))
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
		m, err := alice.Send(t.Context(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, Type: overlay.BodyText, Body: []byte("dinner at eight"), TTL: 2 * time.Hour})
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
		wait(50 * time.Minute)
		rig.wantExpiring("half of its life is not over", 0, 0)
		sent := wait(20 * time.Minute)
		rig.wantExpiring("half of its life is over", 1, 1)
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
