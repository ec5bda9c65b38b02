package overlay

import (
	"cmp"
	"math"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
)

// What a pillar can say of whether a message was confirmed. A receipt is sealed to
// the author of the messages it speaks of, so no pillar reads which ones; but it
// lies in that author's mailbox, and says who wrote it and when. A recipient who
// wrote none to the author since the message was created has confirmed nothing;
// one who did may have confirmed it, or another message.

// receiptSlackTime is by how much a receipt may seem older than the message it
// speaks of: the message's author and the receipt's may each be off their pillar
// by maxClockOff, and those by as much off the right time, in other directions.
const receiptSlackTime = 4 * maxClockOff

// Bounds of reading an author's mailbox for one trace.
const (
	traceReads = 1 << 18 // entries
	traceBytes = 64 << 20
)

// readBudget bounds what a walk through the store reads.
type readBudget struct{ entries, bytes int }

// spend takes an entry off the budget; false: it was the last.
func (b *readBudget) spend(e *BoxEntry) bool {
	b.entries--
	b.bytes -= len(e.Raw) + placeBytes
	return b.left()
}

func (b *readBudget) left() bool { return b.entries > 0 && b.bytes > 0 }

// placeBytes is about what a box entry takes but for the record's bytes, and
// seekCost as how many entries it counts to find the first.
const (
	placeBytes = 100
	seekCost   = 16
)

// eachReceipt calls fn for the receipts of one expiry day in a box, after a local
// position, in local order, until fn returns false or the budget is used up. It
// returns up to where it read, MaxUint64 at the day's end. It goes through the
// column itself: records in several boxes, which receipts never are, then cost no
// lookup.
func eachReceipt(parts Parts, day Day, box BoxID, after uint64, budget *readBudget, fn func(f *storedFields, e *BoxEntry) bool) (reached uint64, err error) {
	reached = math.MaxUint64
	budget.entries -= seekCost
	err = parts.Places(day, Place{Day: day, Box: box, Local: after}, func(at Place, e BoxEntry) bool {
		if at.Box != box {
			return false
		}
		more := budget.spend(&e)
		if len(e.Raw) > 0 {
			if f, err := readStored(e.Raw, ""); err == nil && f.kind == KindReceipt {
				more = fn(&f, &e) && more
			}
		}
		if !more {
			reached = at.Local
		}
		return more
	})
	return reached, err
}

// mayConfirm reports whether a receipt that was created then may speak of a
// message.
func mayConfirm(receipt, message uint64) bool {
	return receipt+uint64(receiptSlackTime.Milliseconds()) >= message
}

// awaited reports whether an author waits for the receipt of a message's
// recipient: always, but for the copies to its own other devices.
func awaited(author, recipient []byte, recipients int) bool {
	return recipients == 1 || string(author) != string(recipient)
}

// recipientsOf says what is seen of a message's recipients; nil if r is none.
func (p *Pillar) recipientsOf(view View, r *StoredRecord, now uint64) ([]RecipientTrace, error) {
	f, err := readStoredTo(r.Raw, "", make([][]byte, 0, 4))
	if err != nil || f.kind != KindMessage {
		return nil, nil // what cannot be read the scrub finds
	}
	author := identity.AccountID(f.author)
	list := make([]RecipientTrace, 0, len(f.to))
	index := make(map[identity.AccountID]int, len(f.to))
	for _, to := range f.to {
		if a := identity.AccountID(to); awaited(f.author, to, len(f.to)) {
			index[a] = len(list)
			list = append(list, RecipientTrace{Account: a})
		}
	}
	parts := view.Parts()
	days, err := parts.Days()
	if err != nil {
		return nil, err
	}
	days = slices.DeleteFunc(days, func(d Day) bool { return d < DayOf(now) })
	// A receipt outlives the message by a day, unless a device it is sealed to has
	// been away for a month.
	slices.SortFunc(days, func(a, b Day) int {
		return cmp.Or(cmp.Compare(btoi(a < DayOf(r.Expires)), btoi(b < DayOf(r.Expires))), cmp.Compare(a, b))
	})
	budget := readBudget{traceReads, traceBytes}
	for _, day := range days {
		if !budget.left() {
			break
		}
		_, err := eachReceipt(parts, day, Mailbox(author), 0, &budget, func(f *storedFields, e *BoxEntry) bool {
			i, ok := index[identity.AccountID(f.author)]
			if ok && e.Expires > now && mayConfirm(e.Created, r.Created) {
				list[i].add(ReceiptSeen{ID: e.ID, Created: e.Created})
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range list {
		a := &list[i]
		a.More = a.More || !budget.left()
		a.Devices = p.deliveriesTo(a.Account, r)
		if err := receivedAt(view, a.Receipts); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// add keeps the earliest receipts.
func (a *RecipientTrace) add(x ReceiptSeen) {
	i, _ := slices.BinarySearchFunc(a.Receipts, x.Created, func(y ReceiptSeen, created uint64) int { return cmp.Compare(y.Created, created) })
	if a.Receipts = slices.Insert(a.Receipts, i, x); len(a.Receipts) > MaxReceiptsTold {
		a.Receipts, a.More = a.Receipts[:MaxReceiptsTold], true
	}
}

// receivedAt fills in when receipts came.
func receivedAt(view View, list []ReceiptSeen) error {
	refs := make([]Ref, len(list))
	for i := range list {
		refs[i] = Ref{ID: list[i].ID}
	}
	return view.Get(refs, func(i int, r StoredRecord) bool {
		list[i].Received = r.Received.UTC()
		return true
	})
}

// deliveriesTo says how far each connected device of an account is with a record
// of its mailbox.
func (p *Pillar) deliveriesTo(a identity.AccountID, r *StoredRecord) (list []DeviceDelivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.live[a] {
		if len(list) >= MaxDevicesTold {
			break
		}
		s.mu.Lock()
		if !s.dead && !s.closing {
			list = append(list, DeviceDelivery{s.cert.Device, s.mail.stateOf(r)})
		}
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(x, y DeviceDelivery) int { return cmp.Compare(x.Device, y.Device) })
	return list
}

// stateOf says how far the session is with a record of the mailbox.
func (d *delivery) stateOf(r *StoredRecord) DeliveryState {
	saved := func(from, to uint64) DeliveryState {
		switch {
		case r.Local > to:
			return DeliveryWaiting
		case r.Local > from:
			return DeliveryPushed
		default:
			return DeliverySaved
		}
	}
	switch d.mode {
	case deliverNothing:
		return DeliveryStandby
	case deliverPages:
		if slices.ContainsFunc(r.Dots, d.drain.cursor.Covers) {
			return DeliverySaved // so its cursor says
		}
		if d.drain.end < r.Local {
			return DeliveryWaiting
		}
		return saved(d.drain.from, d.drain.page)
	}
	if r.Local > d.pos {
		return DeliveryWaiting
	}
	i, _ := slices.BinarySearchFunc(d.unsaved, r.Local, func(x unsavedPush, local uint64) int { return cmp.Compare(x.local, local) })
	if i == len(d.unsaved) {
		return DeliverySaved
	}
	return saved(d.unsaved[i].after, d.unsaved[i].local)
}
