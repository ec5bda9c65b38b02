package overlay_test

import (
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// inspectSamples are the messages with which operators ask.
func inspectSamples(ids []overlay.RecordID, dot overlay.Dot, pillar identity.PillarID, account identity.AccountID, refusal *overlay.Error) map[string]overlay.Message {
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
	}
}
