package overlay_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// inspectSamples are the messages with which operators ask.
func inspectSamples(ids []overlay.RecordID, dot overlay.Dot, pillar identity.PillarID, refusal *overlay.Error) map[string]overlay.Message {
	first, second := identity.PillarID(edID(seedKey("device"))), pillar
	if first > second {
		first, second = second, first
	}
	account := identity.AccountID(edID(seedKey("account")))
	return map[string]overlay.Message{
		"stubs asked for": &overlay.Stubs{N: 5, Shorts: []uint64{1, 1 << 63}},
		"stubs": &overlay.Stubs{N: 5, Answer: true, Next: 2, Stubs: []overlay.Stub{
			{ID: ids[0], Kind: overlay.KindMessage, Created: vectorCreated, Expires: vectorCreated + 1000, Dot: dot},
			{ID: ids[1], Kind: overlay.KindReceipt, Created: vectorCreated, Expires: vectorCreated + 2000}}},
		"trace": &overlay.TraceMsg{N: 6, Sought: []overlay.Sought{{ID: ids[0], Expires: vectorCreated, Dot: dot, Recipients: true}, {ID: ids[1]}}},
		"traced": &overlay.TracedMsg{N: 6, Traces: []overlay.Trace{
			{Has: true, Kind: overlay.KindMessage, Created: vectorCreated, Expires: vectorCreated + 1000, Size: 700,
				Received: time.UnixMilli(int64(vectorCreated) + 5).UTC(), Via: overlay.ViaFollow, Dots: []overlay.Dot{dot}, Recipients: []overlay.RecipientTrace{
					{Account: account, More: true, Receipts: []overlay.ReceiptSeen{{ID: ids[1], Created: vectorCreated + 3, Received: time.UnixMilli(int64(vectorCreated) + 9).UTC()}},
						Devices: []overlay.DeviceDelivery{{Device: identity.DeviceID(account), State: overlay.DeliverySaved}, {Device: identity.DeviceID(account), State: overlay.DeliveryStandby}}},
					{Account: account}}},
			{Why: overlay.AbsentVoid, Detail: "the bytes are no valid record"}}},
		"compare": &overlay.Compare{N: 7, With: []byte(pillar), Repair: true, After: ids[1]},
		"compared": &overlay.Compared{N: 7, Fetched: 1, Sent: 2, Diff: overlay.Diff{Settled: vectorCreated, Front: vectorCreated + 20_000, More: true, Bytes: 900, RoundTrips: 3,
			Took: 40 * time.Millisecond, OnlyHere: []overlay.Difference{{ID: ids[0], Kind: overlay.KindMessage, Created: vectorCreated, Expires: vectorCreated + 1000, Why: overlay.AbsentDeleted, Detail: "entry 3"}},
			OnlyThere: []overlay.Difference{{ID: ids[1], Kind: overlay.KindEpoch, Created: vectorCreated, Expires: vectorCreated + 1000, Why: overlay.AbsentNever}}}},
		"compared, refused": &overlay.Compared{N: 7, Err: refusal},
		"links":             &overlay.LinksMsg{N: 8},
		"linked": &overlay.LinkedMsg{N: 8, Links: []overlay.PillarLink{
			{With: first, Path: overlay.PathDirect, Transport: overlay.LinkQUIC, RTT: 1250 * time.Microsecond, Age: 90 * time.Second},
			{With: second, Path: overlay.PathRelayed, Through: first, Transport: overlay.LinkTCP, RTT: time.Minute, Age: 400 * 24 * time.Hour}}},
		"linked to nobody": &overlay.LinkedMsg{N: 8},
	}
}

// TestLinkedBounds: what no honest pillar says of its connections is no message,
// and what is too long for one is cut.
func TestLinkedBounds(t *testing.T) {
	low, high := edID(seedKey("device")), edID(seedKey("other"))
	if bytes.Compare(low, high) > 0 {
		low, high = high, low
	}
	link := func(id []byte, rest ...any) any { return append([]any{id}, rest...) }
	fine := link(low, uint64(1), []byte{}, uint64(1), uint64(2), uint64(3))
	var many []any
	for range overlay.MaxPillarLinks + 1 {
		many = append(many, fine)
	}
	for name, c := range map[string]struct {
		links []any
		good  bool
	}{
		"one":                    {[]any{fine}, true},
		"two":                    {[]any{fine, link(high, uint64(2), low, uint64(9), uint64(0), uint64(0))}, true},
		"relayed by who knows":   {[]any{link(high, uint64(2), []byte{}, uint64(0), uint64(0), uint64(0))}, true},
		"one twice":              {[]any{fine, fine}, false},
		"out of order":           {[]any{link(high, uint64(1), []byte{}, uint64(1), uint64(2), uint64(3)), fine}, false},
		"no path":                {[]any{link(low, uint64(0), []byte{}, uint64(1), uint64(2), uint64(3))}, false},
		"a third path":           {[]any{link(low, uint64(3), []byte{}, uint64(1), uint64(2), uint64(3))}, false},
		"direct through another": {[]any{link(low, uint64(1), high, uint64(1), uint64(2), uint64(3))}, false},
		"no pillar":              {[]any{link([]byte("pillar"), uint64(1), []byte{}, uint64(1), uint64(2), uint64(3))}, false},
		"through no pillar":      {[]any{link(low, uint64(2), []byte("pillar"), uint64(1), uint64(2), uint64(3))}, false},
		"over a minute":          {[]any{link(low, uint64(1), []byte{}, uint64(1), uint64(60_000_001), uint64(3))}, false},
		"older than everything":  {[]any{link(low, uint64(1), []byte{}, uint64(1), uint64(2), uint64(1<<40+1))}, false},
		"five fields":            {[]any{link(low, uint64(1), []byte{}, uint64(1), uint64(2))}, false},
		"too many":               {many, false},
	} {
		_, err := overlay.DecodeMessage(encode([]any{uint64(overlay.TypeLinked), uint64(1), c.links}))
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := &overlay.LinkedMsg{Links: []overlay.PillarLink{{With: identity.PillarID(low), Path: overlay.PathDirect, Through: identity.PillarID(high), RTT: time.Hour, Age: -1}}}
	m, err := overlay.DecodeMessage(overlay.EncodeMessage(long))
	if err != nil {
		t.Fatal(err)
	}
	if l := m.(*overlay.LinkedMsg).Links[0]; l.RTT != time.Minute || l.Through != "" || l.Age != 0 {
		t.Errorf("%+v", l)
	}
}
