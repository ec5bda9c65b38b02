package seal

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxEpochRecordLife is how long an epoch record, and so what was sealed in
// the epoch, can live.
const MaxEpochRecordLife = 32 * 24 * time.Hour

// Sender is who seals: an account and one of its devices, raw peer IDs.
type Sender struct{ Account, Device []byte }

// Device is one device to seal to and its key; the zero PublicKey if none is
// known.
type Device struct {
	Account, Device []byte // raw peer IDs
	Key             PublicKey
}

// Epoch is a sender's secret for one list of recipients and one set of their
// devices. The secret is in memory only; a restarted process makes a new
// epoch. Seal and Erase may be called from many goroutines.
type Epoch struct {
	id      EpochID
	binding Binding
	bin     []byte
	sealed  [][]byte // devices, ascending
	missing []Device // ascending by device
	info    string   // HKDF info of its messages

	mu     sync.RWMutex
	erased bool // guarded by mu
	secret [SecretLen]byte
}

// NewEpoch makes a fresh secret and seals it to every device that has a usable
// key; the others are left out, see Missing. to is the whole `to` of the
// epoch's messages; the sender's own account stands in it exactly when the
// message is for it too, and then devices has its other devices, or, if it has
// none, the sending one. A device of an account that is not in to is a mistake
// of the caller. A device in the list twice is sealed to once.
//
// The epoch record must be given Created and Expires as they are: now, and the
// earliest of now + lifetime and the until of every key used. lifetime is in
// milliseconds, at most MaxEpochRecordLife.
//
// Errors: ErrTooManyDevices; ErrNoSealingKey if an account in to, other than
// the sender's own beside others, has no device with a usable key; ErrArgument.
func NewEpoch(network [32]byte, sender Sender, to [][]byte, devices []Device, now, lifetime uint64) (*Epoch, error) {
	e, err := newEpoch(network, sender, to, devices, now, lifetime)
	if err != nil {
		return nil, fmt.Errorf("new epoch: %w", err)
	}
	return e, nil
}

func newEpoch(network [32]byte, sender Sender, to [][]byte, devices []Device, now, lifetime uint64) (*Epoch, error) {
	if lifetime == 0 || lifetime > millis(MaxEpochRecordLife) || now > 1<<62 {
		return nil, fmt.Errorf("%w: life of %d ms from %d", ErrArgument, lifetime, now)
	}
	binding := Binding{sender.Account, sender.Device, to, now, now + lifetime}
	if err := binding.check(); err != nil {
		return nil, err
	}
	unique, err := uniqueDevices(to, devices, now)
	if err != nil {
		return nil, err
	}

	e := &Epoch{binding: binding.clone()}
	rand.Read(e.secret[:]) // never fails
	record := EpochRecord{Commitment: commit(network, &e.secret)}
	e.id = epochID(sender.Device, record.Commitment)
	record.ID = e.id
	e.info = messageInfo(e.id)

	for _, d := range unique {
		if !UsableKey(d.Key, now, len(to) > 1) {
			e.missing = append(e.missing, d)
			continue
		}
		sealed, err := hpkeSeal(d.Key, hpkeInfo(network, e.id, sender.Device, d.Device, d.Key.ID), e.secret[:])
		if err != nil {
			// Only a key that is none can cause this. Its device must not keep
			// the others from being written to.
			e.missing = append(e.missing, d)
			continue
		}
		e.binding.Expires = min(e.binding.Expires, d.Key.Until)
		e.sealed = append(e.sealed, d.Device)
		record.Entries = append(record.Entries, Entry{d.Device, d.Key.ID, sealed})
	}
	if err := e.checkReached(devices); err != nil {
		e.Erase()
		return nil, err
	}
	e.bin = record.Append(nil)
	return e, nil
}

// uniqueDevices returns the devices strictly ascending and with memory of
// their own; of one that occurs twice, the occurrence whose key is usable, and
// the one with the later until.
func uniqueDevices(to [][]byte, devices []Device, now uint64) ([]Device, error) {
	list := make([]Device, len(devices))
	for i, d := range devices {
		if len(d.Device) != DeviceIDLen {
			return nil, fmt.Errorf("%w: device ID of %d bytes", ErrArgument, len(d.Device))
		}
		if _, ok := slices.BinarySearchFunc(to, d.Account, bytes.Compare); !ok {
			return nil, fmt.Errorf("%w: a device of account %x, which is no recipient", ErrArgument, d.Account)
		}
		d.Account, d.Device = bytes.Clone(d.Account), bytes.Clone(d.Device)
		d.Key.Public = bytes.Clone(d.Key.Public)
		if len(d.Key.Public) > 0 {
			d.Key.ID = keyID(d.Key.Scheme, d.Key.Public) // whatever the caller put there
		}
		list[i] = d
	}
	slices.SortStableFunc(list, func(a, b Device) int {
		return cmp.Or(bytes.Compare(a.Device, b.Device), cmp.Compare(worth(b.Key, now), worth(a.Key, now)))
	})
	list = slices.CompactFunc(list, func(a, b Device) bool { return bytes.Equal(a.Device, b.Device) })
	usable := 0
	for _, d := range list {
		if UsableKey(d.Key, now, len(to) > 1) {
			usable++
		}
	}
	if usable > MaxDevices {
		return nil, fmt.Errorf("%w: %d, at most %d are allowed", ErrTooManyDevices, usable, MaxDevices)
	}
	return list, nil
}

// worth orders the keys of one device: a usable key by its until, others last.
func worth(k PublicKey, now uint64) uint64 {
	if !UsableKey(k, now, false) {
		return 0
	}
	return k.Until
}

// checkReached makes sure that every recipient can read what will be sealed.
// The sender's own account does not have to, beside others: its other devices
// may be off for as long as they like without holding its messages up.
func (e *Epoch) checkReached(devices []Device) error {
	for _, account := range e.binding.To {
		if len(e.binding.To) > 1 && bytes.Equal(account, e.binding.Account) {
			continue
		}
		if !slices.ContainsFunc(devices, func(d Device) bool {
			return bytes.Equal(d.Account, account) && e.Has(d.Device)
		}) {
			return fmt.Errorf("%w: account %x", ErrNoSealingKey, account)
		}
	}
	return nil
}

// ID returns the epoch's ID.
func (e *Epoch) ID() EpochID { return e.id }

// Bin returns the content of the epoch record's bin. Not to be modified.
func (e *Epoch) Bin() []byte { return e.bin }

// Binding returns what the epoch record and its messages must say of
// themselves. Not to be modified.
func (e *Epoch) Binding() Binding { return e.binding }

// Created returns when the epoch was made, in Unix milliseconds.
func (e *Epoch) Created() uint64 { return e.binding.Created }

// Expires returns when the epoch record expires, in Unix milliseconds. No key
// it is sealed to is erased earlier, and no message in it may live longer: see
// MessageExpiry.
func (e *Epoch) Expires() uint64 { return e.binding.Expires }

// Missing returns the devices that were left out because they had no usable
// key. Not to be modified.
func (e *Epoch) Missing() []Device { return e.missing }

// Has reports whether the epoch is sealed to the device.
func (e *Epoch) Has(device []byte) bool {
	_, ok := slices.BinarySearchFunc(e.sealed, device, bytes.Compare)
	return ok
}

// refused reports whether d's key was found to be none when the epoch was made.
func (e *Epoch) refused(d Device) bool {
	i, ok := slices.BinarySearchFunc(e.missing, d.Device, func(m Device, id []byte) int { return bytes.Compare(m.Device, id) })
	return ok && bytes.Equal(e.missing[i].Key.Public, d.Key.Public) && UsableKey(e.missing[i].Key, e.binding.Created, len(e.binding.To) > 1)
}

// Erase zeroes the secret. From then on Seal returns ErrErased.
func (e *Epoch) Erase() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.secret[:])
	e.erased = true
}

// MessageExpiry returns the expiry for a message that should live until want:
// no later than its epoch's. Both are Unix milliseconds.
func MessageExpiry(want, epochExpires uint64) uint64 { return min(want, epochExpires) }
