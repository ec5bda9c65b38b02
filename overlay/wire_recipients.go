package overlay

import (
	"slices"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// deliveryStates are the states of a device in the order of their numbers on the
// wire, from 1.
var deliveryStates = []DeliveryState{DeliverySaved, DeliveryPushed, DeliveryWaiting, DeliveryStandby}

// appendRecipients appends the recipients of a traced message: a list of
// [account bin, list of [receipt id bin, created, received], more 0|1, list of
// [device bin, state]].
func appendRecipients(b []byte, list []RecipientTrace) []byte {
	list = list[:min(len(list), MaxTo)]
	b = canon.AppendArray(b, len(list))
	for i := range list {
		a := &list[i]
		b = canon.AppendArray(b, 4)
		b = canon.AppendBin(b, a.Account)
		receipts := a.Receipts[:min(len(a.Receipts), MaxReceiptsTold)]
		b = canon.AppendArray(b, len(receipts))
		for j := range receipts {
			x := &receipts[j]
			b = canon.AppendArray(b, 3)
			b = canon.AppendBin(b, x.ID[:])
			b = canon.AppendUint(b, x.Created)
			b = canon.AppendUint(b, uint64(max(0, x.Received.UnixMilli())))
		}
		b = canon.AppendUint(b, uint64(btoi(a.More)))
		devices := a.Devices[:min(len(a.Devices), MaxDevicesTold)]
		b = canon.AppendArray(b, len(devices))
		for _, d := range devices {
			b = canon.AppendArray(b, 2)
			b = canon.AppendBin(b, d.Device)
			b = canon.AppendUint(b, uint64(slices.Index(deliveryStates, d.State)+1))
		}
	}
	return b
}

func readRecipients(r *canon.Reader) (list []RecipientTrace) {
	for range r.ArrayMax(MaxTo) {
		r.Array(4)
		a := RecipientTrace{Account: readAccount(r)}
		for range r.ArrayMax(MaxReceiptsTold) {
			r.Array(3)
			x := ReceiptSeen{ID: readID(r), Created: r.Uint()}
			x.Received = PlainTime(r.UintMax(MaxTime))
			if r.Err() != nil {
				return nil
			}
			a.Receipts = append(a.Receipts, x)
		}
		a.More = r.UintMax(1) == 1
		for range r.ArrayMax(MaxDevicesTold) {
			r.Array(2)
			d := DeviceDelivery{Device: readDevice(r), State: readDeliveryState(r)}
			if r.Err() != nil {
				return nil
			}
			a.Devices = append(a.Devices, d)
		}
		if r.Err() != nil {
			return nil
		}
		list = append(list, a)
	}
	return list
}

func readDeliveryState(r *canon.Reader) DeliveryState {
	n := r.UintMax(uint64(len(deliveryStates)))
	if n == 0 {
		r.Fail(canon.ErrType)
		return ""
	}
	return deliveryStates[n-1]
}
