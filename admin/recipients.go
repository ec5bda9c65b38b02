package admin

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// RecipientEntry is what one pillar sees of what became of a message at one
// recipient. Receipts are sealed to the message's author: no pillar can read of
// which messages one speaks.
type RecipientEntry struct {
	Account identity.AccountID `json:"account"`
	// Receipts are those that the account wrote to the message's author since the
	// message was created, the earliest first: each may speak of it. More says that
	// there may be more than these; without any, and no more, the account has
	// certainly not confirmed the message as far as this pillar knows.
	Receipts []ReceiptEntry `json:"receipts"`
	More     bool           `json:"more"`
	// Devices are the account's that are connected to this pillar.
	Devices []DeliveryEntry `json:"devices"`
}

// ReceiptEntry is a receipt as a pillar sees it.
type ReceiptEntry struct {
	ID         overlay.RecordID `json:"id"`
	Created    time.Time        `json:"created"`
	ReceivedAt time.Time        `json:"received_at"`
}

// DeliveryEntry says how far a pillar is with giving a message to a device that
// is connected to it: saved, pushed, waiting, or standby (the device gets its mail
// at another pillar).
type DeliveryEntry struct {
	Device identity.DeviceID     `json:"device"`
	State  overlay.DeliveryState `json:"state"`
}

func newRecipients(list []overlay.RecipientTrace) []RecipientEntry {
	out := make([]RecipientEntry, len(list))
	for i := range list {
		t := &list[i]
		e := RecipientEntry{Account: t.Account, More: t.More, Receipts: make([]ReceiptEntry, len(t.Receipts)), Devices: make([]DeliveryEntry, len(t.Devices))}
		for j, r := range t.Receipts {
			e.Receipts[j] = ReceiptEntry{ID: r.ID, Created: overlay.PlainTime(r.Created), ReceivedAt: r.Received.UTC()}
		}
		for j, d := range t.Devices {
			e.Devices[j] = DeliveryEntry(d)
		}
		out[i] = e
	}
	return out
}

// Outcome is what all pillars together see of what became of a message at one
// recipient.
type Outcome struct {
	Account  identity.AccountID
	Receipts []ReceiptEntry // the earliest first, none twice
	More     bool           // there may be more
	Devices  []DeliveryAt
}

// DeliveryAt is a device at the pillar that it is connected to.
type DeliveryAt struct {
	DeliveryEntry
	Pillar identity.PillarID
}

// Outcomes puts together what pillars said of a message's recipients; none if no
// pillar that answered has it, or it is no message.
func Outcomes(list []TraceEntry) []Outcome {
	var out []Outcome
	for i := range list {
		for j := range list[i].Recipients {
			e := &list[i].Recipients[j]
			k := slices.IndexFunc(out, func(o Outcome) bool { return o.Account == e.Account })
			if k < 0 {
				k = len(out)
				out = append(out, Outcome{Account: e.Account})
			}
			out[k].add(list[i].Pillar, e)
		}
	}
	return out
}

func (o *Outcome) add(pillar identity.PillarID, e *RecipientEntry) {
	for _, r := range e.Receipts {
		if !slices.ContainsFunc(o.Receipts, func(x ReceiptEntry) bool { return x.ID == r.ID }) {
			o.Receipts = append(o.Receipts, r)
		}
	}
	slices.SortStableFunc(o.Receipts, func(a, b ReceiptEntry) int {
		return cmp.Or(a.Created.Compare(b.Created), slices.Compare(a.ID[:], b.ID[:]))
	})
	o.More = o.More || e.More
	for _, d := range e.Devices {
		o.Devices = append(o.Devices, DeliveryAt{d, pillar})
	}
}

// Text says in words whether the recipient may have confirmed the message.
func (o *Outcome) Text() string {
	switch n := len(o.Receipts); {
	case n == 0 && o.More:
		return "no receipt to the author among those looked at, and there are more"
	case n == 0:
		return "no receipt to the author since it was written: not confirmed"
	case n == 1 && !o.More:
		return fmt.Sprintf("1 receipt to the author since, written %s: it may speak of this message", o.Receipts[0].Created.UTC().Format(time.DateTime))
	default:
		many := fmt.Sprint(n)
		if o.More {
			many += " or more"
		}
		return fmt.Sprintf("%s receipts to the author since, the first written %s: they may speak of this message", many, o.Receipts[0].Created.UTC().Format(time.DateTime))
	}
}

// Text says in words how far the device has the message.
func (d *DeliveryAt) Text() string {
	switch d.State {
	case overlay.DeliverySaved:
		return "has it on its disk"
	case overlay.DeliveryPushed:
		return "was sent it and has not said that it is saved"
	case overlay.DeliveryWaiting:
		return "is to be sent it"
	case overlay.DeliveryStandby:
		return "is connected and gets its mail at another pillar"
	default:
		return string(d.State)
	}
}
