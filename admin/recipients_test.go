package admin_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestOutcomes: what pillars say of one recipient is put together: a receipt that
// one of them has not got yet counts, and none counts twice.
func TestOutcomes(t *testing.T) {
	one, two := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	bob, carol := newAccount(t), newAccount(t)
	device := identity.NewDeviceKey().ID()
	at := time.UnixMilli(1_790_000_000_000).UTC()
	receipt := func(n byte, after time.Duration) admin.ReceiptEntry {
		return admin.ReceiptEntry{ID: overlay.RecordID{n}, Created: at.Add(after), ReceivedAt: at.Add(after)}
	}
	list := []admin.TraceEntry{
		{Pillar: one, Has: true, Recipients: []admin.RecipientEntry{
			{Account: bob, Receipts: []admin.ReceiptEntry{receipt(2, 2*time.Second)}},
			{Account: carol, Devices: []admin.DeliveryEntry{{Device: device, State: overlay.DeliveryStandby}}}}},
		{Pillar: two, Has: true, Recipients: []admin.RecipientEntry{
			{Account: bob, Receipts: []admin.ReceiptEntry{receipt(1, time.Second), receipt(2, 2*time.Second)}},
			{Account: carol, Devices: []admin.DeliveryEntry{{Device: device, State: overlay.DeliveryPushed}}}}},
		{Pillar: identity.NewPillarKey().ID()},
	}
	got := admin.Outcomes(list)
	if len(got) != 2 || got[0].Account != bob || got[1].Account != carol {
		t.Fatalf("%+v", got)
	}
	if r := got[0].Receipts; len(r) != 2 || r[0].ID[0] != 1 || r[1].ID[0] != 2 {
		t.Errorf("bob: %+v", got[0])
	}
	if d := got[1].Devices; len(d) != 2 || d[0].Pillar != one || d[1].Pillar != two {
		t.Errorf("carol: %+v", got[1])
	}
	many := admin.Outcome{Receipts: got[0].Receipts, More: true}
	single := admin.Outcome{Receipts: got[0].Receipts[:1]}
	for _, c := range []struct{ got, want string }{
		{got[0].Text(), "2 receipts to the author since, the first written 2026-09-21 14:13:21: they may speak of this message"},
		{got[1].Text(), "no receipt to the author since it was written: not confirmed"},
		{many.Text(), "2 or more receipts to the author since, the first written 2026-09-21 14:13:21: they may speak of this message"},
		{single.Text(), "1 receipt to the author since, written 2026-09-21 14:13:21: it may speak of this message"},
		{(&admin.Outcome{More: true}).Text(), "no receipt to the author among those looked at, and there are more"},
		{got[1].Devices[0].Text(), "is connected and gets its mail at another pillar"},
		{got[1].Devices[1].Text(), "was sent it and has not said that it is saved"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	if got := admin.Outcomes(list[2:]); got != nil {
		t.Errorf("of nobody who has it: %+v", got)
	}
}
