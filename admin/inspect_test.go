package admin_test

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func TestDiffAndRepair(t *testing.T) {
	one, two := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	const ms = 1_790_000_000_000
	at := time.UnixMilli(ms).UTC()
	low, high := overlay.RecordID{1}, overlay.RecordID{9}
	p := &fakePillar{
		diff: overlay.Diff{Here: one, There: two, Settled: ms, More: true, Bytes: 900, RoundTrips: 3, Took: 2 * time.Millisecond,
			OnlyHere:  []overlay.Difference{{ID: high, Kind: overlay.KindMessage, Created: ms, Expires: ms + 1000, Why: overlay.AbsentDeleted, Detail: "entry 3"}},
			OnlyThere: []overlay.Difference{{ID: low, Kind: overlay.KindReceipt, Created: ms, Expires: ms + 1000, Why: overlay.AbsentNever}}},
		repaired: overlay.Repaired{Fetched: 1, Sent: 2, Bytes: 3, Took: time.Second},
	}
	c, addr := pillarClient(t, p, "secret")
	d, err := c.Diff(t.Context(), one, two, low.String())
	want := admin.DiffAnswer{Of: one, Peer: two, SettledUntil: at, Bytes: 900, RoundTrips: 3, TookMS: 2, Next: high.String(),
		OnlyHere:  []admin.DiffEntry{{ID: high, Kind: "message", Created: at, Expires: at.Add(time.Second), Why: overlay.AbsentDeleted, Detail: "entry 3"}},
		OnlyThere: []admin.DiffEntry{{ID: low, Kind: "receipt", Created: at, Expires: at.Add(time.Second), Why: overlay.AbsentNever}}}
	if err != nil || !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, %v\nwant\n%+v", d, err, want)
	}
	p.diff = overlay.Diff{Here: one, There: two, Equal: true}
	if d, err := c.Diff(t.Context(), "", two, ""); err != nil || !d.Equal || d.Next != "" || d.OnlyHere == nil || d.OnlyThere == nil {
		t.Errorf("equal: %+v, %v", d, err)
	}
	if r, err := c.Repair(t.Context(), "", two); err != nil || r != (admin.RepairAnswer{Fetched: 1, Sent: 2, Bytes: 3, TookMS: 1000}) {
		t.Errorf("repair: %+v, %v", r, err)
	}
	asked := []string{"diff " + one.String() + " " + two.String() + " 0100 true", "diff  " + two.String() + " 0000 true", "repair  " + two.String() + " true"}
	if !slices.Equal(p.steered, asked) {
		t.Errorf("asked %q, want %q", p.steered, asked)
	}
	for path, code := range map[string]string{
		"/v1/sync/diff":        "bad_request",
		"/v1/sync/diff?peer=x": "bad_request",
		"/v1/sync/diff?peer=" + two.String() + "&of=x":       "bad_request",
		"/v1/sync/diff?peer=" + two.String() + "&after=0123": "bad_request",
	} {
		if a := ask(t, "GET", "http://"+addr+path, "", nil); a.code != code || a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %q, want 400 %q", path, a.status, a.code, code)
		}
	}
	if a := ask(t, "POST", "http://"+addr+"/v1/sync/repair?peer="+two.String(), "", nil); a.status != http.StatusUnauthorized {
		t.Errorf("repair without a token: %d, want 401", a.status)
	}
	p.controlErr = overlay.Refuse(overlay.CodeUnreachable, "pillar %s is not connected", two)
	if _, err := c.Diff(t.Context(), "", two, ""); overlay.CodeOf(err) != overlay.CodeUnreachable {
		t.Errorf("a peer that is not there: %v", err)
	}
}

func TestRecordAndTrace(t *testing.T) {
	one, two := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	alice, bob := newAccount(t), newAccount(t)
	device := identity.NewDeviceKey().ID()
	const ms = 1_790_000_000_000
	at := time.UnixMilli(ms).UTC()
	expires := at.Add(time.Hour)
	id, dot := overlay.RecordID{7}, overlay.Dot{Log: overlay.LogID{3}, Seq: 5}
	held := overlay.Trace{Pillar: one, Answered: true, Has: true, Kind: overlay.KindMessage, Created: ms, Expires: ms + 3_600_000, Size: 700,
		Received: at, Via: overlay.ViaFollow, Dots: []overlay.Dot{dot}, Recipients: []overlay.RecipientTrace{{Account: bob, More: true,
			Receipts: []overlay.ReceiptSeen{{ID: overlay.RecordID{8}, Created: ms + 1, Received: at}}, Devices: []overlay.DeviceDelivery{{Device: device, State: overlay.DeliverySaved}}}}}
	p := &fakePillar{
		record: overlay.RecordInfo{Trace: held, ID: id, Author: string(alice), To: []identity.AccountID{bob}},
		traces: []overlay.Trace{held, {Pillar: two, Answered: true, Why: overlay.AbsentVoid, Detail: "no valid record"}, {Pillar: two, Why: overlay.AbsentUnknown}},
	}
	c, addr := pillarClient(t, p, "")
	r, err := c.Record(t.Context(), id)
	want := admin.RecordEntry{ID: id, Kind: "message", Author: alice.String(), To: []string{bob.String()}, Created: at, Expires: expires, Size: 700,
		Dots: []admin.DotEntry{{Log: dot.Log, Seq: 5}}, ReceivedAt: &at, Via: "follow"}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("%+v, %v\nwant\n%+v", r, err, want)
	}
	if _, err := c.Record(t.Context(), overlay.RecordID{8}); overlay.CodeOf(err) != overlay.CodeNotFound {
		t.Errorf("one that is not held: %v", err)
	}
	list, err := c.Trace(t.Context(), id)
	traces := []admin.TraceEntry{
		{Pillar: one, Answered: true, Has: true, ReceivedAt: &at, Via: "follow", Dots: []admin.DotEntry{{Log: dot.Log, Seq: 5}}, Expires: &expires,
			Recipients: []admin.RecipientEntry{{Account: bob, More: true, Receipts: []admin.ReceiptEntry{{ID: overlay.RecordID{8}, Created: at.Add(time.Millisecond), ReceivedAt: at}},
				Devices: []admin.DeliveryEntry{{Device: device, State: overlay.DeliverySaved}}}}},
		{Pillar: two, Answered: true, Dots: []admin.DotEntry{}, Why: overlay.AbsentVoid, Detail: "no valid record", Recipients: []admin.RecipientEntry{}},
		{Pillar: two, Dots: []admin.DotEntry{}, Why: overlay.AbsentUnknown, Recipients: []admin.RecipientEntry{}}}
	if err != nil || !reflect.DeepEqual(list, traces) {
		t.Errorf("%+v, %v\nwant\n%+v", list, err, traces)
	}
	for _, bad := range []string{"x", strings.Repeat("g", 64), strings.Repeat("0", 62)} {
		for _, path := range []string{"/v1/records/", "/v1/trace/"} {
			if a := ask(t, "GET", "http://"+addr+path+bad, "", nil); a.status != http.StatusBadRequest || a.code != "bad_request" {
				t.Errorf("%s%s: %d %q, want 400", path, bad, a.status, a.code)
			}
		}
	}
}

// TestTimesPastTheCalendar: what others say of their clocks spoils no answer.
func TestTimesPastTheCalendar(t *testing.T) {
	one := newPillarID(t)
	const never = 1 << 60
	p := &fakePillar{
		traces: []overlay.Trace{{Pillar: one, Answered: true, Has: true, Created: never, Expires: never,
			Recipients: []overlay.RecipientTrace{{Account: newAccount(t), Receipts: []overlay.ReceiptSeen{{Created: never}}}}}},
		statements: []overlay.Statement{{Summary: overlay.Summary{Pillar: one, Settled: never, At: never}, Compared: never, Since: never}},
	}
	c, _ := pillarClient(t, p, "")
	if list, err := c.Trace(t.Context(), overlay.RecordID{1}); err != nil || len(list) != 1 || list[0].Expires.Year() != 9999 {
		t.Errorf("trace: %+v, %v", list, err)
	}
	if list, err := c.Convergence(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("convergence: %+v, %v", list, err)
	}
}
