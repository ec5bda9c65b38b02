package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// Sizes and bounds.
const (
	// SecretLen is the size of an epoch's secret in bytes.
	SecretLen = 32
	// DeviceIDLen is the size of every device's raw peer ID in bytes.
	DeviceIDLen = 38
	// MaxDevices is how many devices one epoch record can be sealed to.
	MaxDevices = 40
	// MaxTo is how many accounts a record can be addressed to.
	MaxTo = 256
	// MaxEpochBin is the size of the largest epoch record's bin in bytes.
	MaxEpochBin = 48 << 10
)

// EpochID names an epoch: the first 20 bytes of
// SHA-256(tag || sender device || commitment).
type EpochID [20]byte

func (id EpochID) String() string { return hex.EncodeToString(id[:]) }

// EpochRecord is the content of an epoch record's bin:
//
//	[epoch ID bin20, commitment bin32, entries]
//	entries = list of [device bin38, key ID bin8, sealed bin], device strictly ascending
//
// sealed is HPKE's enc || ciphertext of the secret, 1,168 bytes in scheme 1;
// which scheme it is, the key ID tells its owner.
type EpochRecord struct {
	ID         EpochID
	Commitment [32]byte
	Entries    []Entry
}

// Entry is the secret of an epoch sealed to one device.
type Entry struct {
	Device []byte // raw peer ID
	Key    KeyID  // of the device's keys, the one it is sealed to
	Sealed []byte
}

// Append appends the bin's content.
func (e *EpochRecord) Append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendBin(b, e.ID[:])
	b = canon.AppendBin(b, e.Commitment[:])
	b = canon.AppendArray(b, len(e.Entries))
	for i := range e.Entries {
		b = canon.AppendArray(b, 3)
		b = canon.AppendBin(b, e.Entries[i].Device)
		b = canon.AppendBin(b, e.Entries[i].Key[:])
		b = canon.AppendBin(b, e.Entries[i].Sealed)
	}
	return b
}

// ParseEpoch reads an epoch record's bin. It checks the layout alone: neither
// that the ID is its sender's nor that anything opens. The entries share bin's
// memory. Errors wrap ErrInvalidEpoch and ErrMalformed.
func ParseEpoch(bin []byte) (*EpochRecord, error) {
	if len(bin) > MaxEpochBin {
		return nil, fmt.Errorf("%w: %w: %d bytes, at most %d are allowed", ErrInvalidEpoch, ErrMalformed, len(bin), MaxEpochBin)
	}
	r := canon.MakeReader(bin)
	e := &EpochRecord{}
	r.Array(3)
	copy(e.ID[:], r.BinExact(len(e.ID)))
	copy(e.Commitment[:], r.BinExact(len(e.Commitment)))
	n := r.ArrayMax(MaxDevices)
	if r.Err() == nil && n == 0 {
		r.Fail(errors.New("no entries"))
	}
	e.Entries = make([]Entry, n)
	for i := range e.Entries {
		entry := &e.Entries[i]
		r.Array(3)
		entry.Device = r.BinExact(DeviceIDLen)
		copy(entry.Key[:], r.BinExact(len(entry.Key)))
		entry.Sealed = r.Bin(maxSealedLen)
		if r.Err() == nil && i > 0 && bytes.Compare(e.Entries[i-1].Device, entry.Device) >= 0 {
			r.Fail(errors.New("devices are not strictly ascending"))
		}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("%w: %w: %w", ErrInvalidEpoch, ErrMalformed, err)
	}
	return e, nil
}

// commit returns the commitment to a secret. The network is in it, so that an
// epoch's ID and through it every key derived from the secret belong to one
// network; the sender is not, because the ID has it already.
func commit(network [32]byte, secret *[SecretLen]byte) [32]byte {
	var b [tagLen + 32 + SecretLen]byte
	defer clear(b[:])
	copy(b[:], tagCommit)
	copy(b[tagLen:], network[:])
	copy(b[tagLen+32:], secret[:])
	return sha256.Sum256(b[:])
}

// epochID returns the ID of sender's epoch with this commitment. sender has
// DeviceIDLen bytes.
func epochID(sender []byte, commitment [32]byte) (id EpochID) {
	var b [tagLen + DeviceIDLen + 32]byte
	copy(b[:], tagEpochID)
	copy(b[tagLen:], sender)
	copy(b[tagLen+DeviceIDLen:], commitment[:])
	sum := sha256.Sum256(b[:])
	copy(id[:], sum[:])
	return id
}

// Binding is what the record around a sealed part says of itself. An epoch and
// the messages in it must agree in author, device and recipients.
type Binding struct {
	Account []byte   // the author's raw peer ID
	Device  []byte   // the signing device's raw peer ID
	To      [][]byte // accounts, raw peer IDs, strictly ascending
	Created uint64   // Unix milliseconds
	Expires uint64   // Unix milliseconds
}

func (b Binding) same(o Binding) bool {
	if !bytes.Equal(b.Account, o.Account) || !bytes.Equal(b.Device, o.Device) || len(b.To) != len(o.To) {
		return false
	}
	for i := range b.To {
		if !bytes.Equal(b.To[i], o.To[i]) {
			return false
		}
	}
	return true
}

func (b Binding) clone() Binding {
	b.Account, b.Device = bytes.Clone(b.Account), bytes.Clone(b.Device)
	to := make([][]byte, len(b.To))
	for i := range to {
		to[i] = bytes.Clone(b.To[i])
	}
	b.To = to
	return b
}

// check refuses what no record has.
func (b Binding) check() error {
	if len(b.Account) == 0 {
		return fmt.Errorf("%w: no author", ErrArgument)
	}
	if len(b.Device) != DeviceIDLen {
		return fmt.Errorf("%w: device ID of %d bytes", ErrArgument, len(b.Device))
	}
	if len(b.To) == 0 || len(b.To) > MaxTo {
		return fmt.Errorf("%w: %d recipients", ErrArgument, len(b.To))
	}
	for i := range b.To {
		if len(b.To[i]) == 0 || i > 0 && bytes.Compare(b.To[i-1], b.To[i]) >= 0 {
			return fmt.Errorf("%w: recipients not strictly ascending", ErrArgument)
		}
	}
	return nil
}
