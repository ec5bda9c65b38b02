package overlay_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// receipt signs a receipt to an author, written that much later than now.
func (d *testDevice) receipt(to identity.AccountID, later time.Duration) []byte {
	return d.sign(overlay.KindReceipt, []identity.AccountID{to}, []byte("sealed"), func(r *overlay.Draft) {
		r.Created += uint64(later.Milliseconds())
		r.Expires = r.Created + 3*overlay.DayMillis
	})
}

// traceOf asks a pillar for a record and its recipients.
func (rig *pillarRig) traceOf(id overlay.RecordID) overlay.Trace {
	rig.t.Helper()
	traces, err := rig.pillar.Trace([]overlay.Sought{{ID: id, Recipients: true}, {ID: id, Recipients: true}})
	if err != nil || len(traces) != 2 {
		rig.t.Fatalf("%d traces, %v", len(traces), err)
	}
	if traces[1].Recipients != nil {
		rig.t.Error("recipients of the second record of one question")
	}
	return traces[0]
}

// take has the rig's pillar hold records that came by no log.
func (rig *pillarRig) take(raws ...[]byte) {
	rig.t.Helper()
	taken, err := rig.pillar.Take(rig.t.Context(), overlay.ViaAudit, raws)
	if err != nil || slices.Contains(taken, false) {
		rig.t.Fatalf("taken %v, %v", taken, err)
	}
}

// TestTraceRecipients: of a message a pillar says, for each account whose answer
// the author waits for, which receipts may speak of it, and only those.
func TestTraceRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		alice, bob, carol, dave := rig.device(nil), rig.device(nil), rig.device(nil), rig.device(nil)
		to := []identity.AccountID{alice.id(), bob.id(), carol.id()}
		slices.Sort(to)
		message := alice.sign(overlay.KindMessage, to, []byte("sealed"), func(r *overlay.Draft) { r.Expires = r.Created + 2*overlay.DayMillis })
		id := idOf(t, rig.id, message)
		early := bob.receipt(alice.id(), -10*time.Minute)
		rig.take(message, early, bob.receipt(carol.id(), time.Second), dave.receipt(alice.id(), time.Second), alice.receipt(alice.id(), time.Second))
		recipient := func(a identity.AccountID) overlay.RecipientTrace {
			t.Helper()
			list := rig.traceOf(id).Recipients
			if len(list) != 2 || list[0].Account >= list[1].Account {
				t.Fatalf("recipients %+v, want bob and carol", list)
			}
			i := slices.IndexFunc(list, func(r overlay.RecipientTrace) bool { return r.Account == a })
			return list[max(0, i)]
		}
		for _, a := range []identity.AccountID{bob.id(), carol.id()} {
			if r := recipient(a); r.Account != a || len(r.Receipts) != 0 || r.More || len(r.Devices) != 0 {
				t.Errorf("before anybody answered: %+v", r)
			}
		}
		// As clocks may be off, one that seems a minute older may be its answer.
		skewed := bob.receipt(alice.id(), -time.Minute)
		want := []overlay.RecordID{idOf(t, rig.id, skewed)}
		rig.take(skewed)
		var later [][]byte
		for i := range 3 {
			later = append(later, bob.receipt(alice.id(), time.Duration(i+1)*time.Second))
			want = append(want, idOf(t, rig.id, later[i]))
		}
		time.Sleep(5 * time.Second) // virtual
		slices.Reverse(later)       // in another order than they were written
		rig.take(later...)
		got := recipient(bob.id())
		var ids []overlay.RecordID
		for _, x := range got.Receipts {
			ids = append(ids, x.ID)
			if x.Received.IsZero() {
				t.Errorf("%+v came at no time", x)
			}
		}
		if !slices.Equal(ids, want) || got.More {
			t.Errorf("%+v, want %v and no more", got, want)
		}
		rig.take(bob.receipt(alice.id(), 4*time.Second))
		if got := recipient(bob.id()); len(got.Receipts) != overlay.MaxReceiptsTold || got.Receipts[0].ID != want[0] || !got.More {
			t.Errorf("of five: %+v", got)
		}
		if r := recipient(carol.id()); len(r.Receipts) != 0 || r.More {
			t.Errorf("carol: %+v", r)
		}
		if tr := rig.traceOf(idOf(t, rig.id, early)); !tr.Has || tr.Recipients != nil {
			t.Errorf("a receipt's trace: %+v", tr)
		}
	})
}

// TestTraceToSelf: a message to nobody but its author's account is answered by
// that account.
func TestTraceToSelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		alice := rig.device(nil)
		message := alice.message(alice.id())
		rig.take(message, alice.receipt(alice.id(), time.Second))
		list := rig.traceOf(idOf(t, rig.id, message)).Recipients
		if len(list) != 1 || list[0].Account != alice.id() || len(list[0].Receipts) != 1 {
			t.Errorf("%+v", list)
		}
	})
}

// TestTraceDevices: what a connected device has said of the message is told.
func TestTraceDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		alice, bob := rig.device(nil).session(), rig.device(nil)
		state := func(raw []byte) overlay.DeliveryState {
			t.Helper()
			synctest.Wait()
			list := rig.traceOf(idOf(t, rig.id, raw)).Recipients
			if len(list) != 1 || len(list[0].Devices) > 1 {
				t.Fatalf("%+v", list)
			}
			if len(list[0].Devices) == 0 {
				return ""
			}
			d := list[0].Devices[0]
			if d.Device != bob.key.ID() {
				t.Errorf("device %s, want bob's", d.Device)
			}
			return d.State
		}
		check := func(when string, raw []byte, want overlay.DeliveryState) {
			t.Helper()
			if got := state(raw); got != want {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}
		old := alice.message(bob.id())
		if l := alice.one(old); l.Err != nil {
			t.Fatal(l.Err)
		}
		check("bob is away", old, "")
		c := bob.session()
		check("bob is connected and asked for nothing", old, overlay.DeliveryStandby)
		c.send(&overlay.Resume{Box: overlay.BoxMail, Live: true})
		page := expect[*overlay.Page](c)
		check("a page is sent", old, overlay.DeliveryPushed)
		during := alice.message(bob.id())
		alice.one(during)
		check("sent while the page is not saved", during, overlay.DeliveryWaiting)
		c.send(&overlay.Saved{Box: overlay.BoxMail, To: page.To})
		expect[*overlay.CursorMsg](c)
		check("the page is saved", old, overlay.DeliverySaved)
		push := expect[*overlay.Push](c)
		check("pushed after the page", during, overlay.DeliveryPushed)
		c.send(&overlay.Saved{Box: overlay.BoxMail, To: push.To})
		check("saved", during, overlay.DeliverySaved)
		first, second := alice.message(bob.id()), alice.message(bob.id())
		alice.one(first)
		live := expect[*overlay.Push](c)
		alice.one(second)
		last := expect[*overlay.Push](c)
		check("pushed as it came", first, overlay.DeliveryPushed)
		c.send(&overlay.Saved{Box: overlay.BoxMail, To: live.To})
		check("the first of two is saved", first, overlay.DeliverySaved)
		check("the second is not", second, overlay.DeliveryPushed)
		c.send(&overlay.Saved{Box: overlay.BoxMail, To: last.To})
		check("both are", second, overlay.DeliverySaved)
	})
}
