package seal

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"slices"
	"sync"
)

// Opened is an epoch as a recipient has it: with its secret, for the messages
// that its sender sealed in it. It may be used by many goroutines.
type Opened struct {
	id      EpochID
	binding Binding
	info    string

	mu     sync.RWMutex
	erased bool // guarded by mu
	secret [SecretLen]byte
}

// OpenEpoch opens what an epoch record seals to the device self. b is what the
// record, whose signature the caller has verified, says of itself; bin is its
// bin.
//
// Errors, tested with errors.Is: ErrNotForUs, ErrNoKey, or ErrInvalidEpoch,
// which means that the sender made the record wrongly, and of which
// ErrMalformed, ErrCommitment and ErrOutlives are special cases. ErrNoKey is
// the receiver's own doing. All are final for this record.
func OpenEpoch(network [32]byte, b Binding, bin, self []byte, ring *Keyring) (*Opened, error) {
	o, err := openEpoch(network, b, bin, self, ring)
	if err != nil {
		return nil, fmt.Errorf("open epoch: %w", err)
	}
	return o, nil
}

func openEpoch(network [32]byte, b Binding, bin, self []byte, ring *Keyring) (*Opened, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidEpoch, err)
	}
	record, err := ParseEpoch(bin)
	if err != nil {
		return nil, err
	}
	if id := epochID(b.Device, record.Commitment); subtle.ConstantTimeCompare(id[:], record.ID[:]) != 1 {
		return nil, fmt.Errorf("%w: it is not the signing device's", ErrInvalidEpoch)
	}
	i, ok := slices.BinarySearchFunc(record.Entries, self, func(e Entry, id []byte) int { return bytes.Compare(e.Device, id) })
	if !ok {
		return nil, ErrNotForUs
	}
	entry := record.Entries[i]
	key, private, ok := ring.private(entry.Key)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoKey, entry.Key)
	}
	defer clear(private)
	if b.Expires > key.Until {
		return nil, fmt.Errorf("%w: %w: it expires at %d, the key it is sealed to at %d", ErrInvalidEpoch, ErrOutlives, b.Expires, key.Until)
	}
	info := hpkeInfo(network, record.ID, b.Device, self, entry.Key)
	secret, err := hpkeOpen(key.Scheme, private, info, entry.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidEpoch, err)
	}
	defer clear(secret)
	if len(secret) != SecretLen {
		return nil, fmt.Errorf("%w: a secret of %d bytes", ErrInvalidEpoch, len(secret))
	}
	o := &Opened{id: record.ID, binding: b.clone(), info: messageInfo(record.ID)}
	copy(o.secret[:], secret)
	if c := commit(network, &o.secret); subtle.ConstantTimeCompare(c[:], record.Commitment[:]) != 1 {
		o.Erase()
		return nil, fmt.Errorf("%w: %w", ErrInvalidEpoch, ErrCommitment)
	}
	return o, nil
}

// ID returns the epoch's ID.
func (o *Opened) ID() EpochID { return o.id }

// Expires returns when the epoch record expires, in Unix milliseconds. The
// caller calls Erase then.
func (o *Opened) Expires() uint64 { return o.binding.Expires }

// Erase zeroes the secret. From then on Open returns ErrErased.
func (o *Opened) Erase() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.secret[:])
	o.erased = true
}

// Open opens a message. b is what its record, whose signature the caller has
// verified, says of itself; payload is the record's payload and off where its
// last bin's content begins. The result is memory of its own.
//
// It opens only if author, device and recipients are the epoch's: otherwise
// anybody could put somebody else's ciphertext into a record of his own and
// learn from a program that answers what is in it.
//
// Errors: ErrMalformed, ErrBinding, ErrOutlives, ErrNotAuthentic, ErrErased.
func (o *Opened) Open(b Binding, payload []byte, off int) ([]byte, error) {
	body, err := o.open(b, payload, off)
	if err != nil {
		return nil, fmt.Errorf("open message: %w", err)
	}
	return body, nil
}

func (o *Opened) open(b Binding, payload []byte, off int) ([]byte, error) {
	if off < 0 || off > len(payload) {
		return nil, fmt.Errorf("%w: offset %d in %d bytes", ErrArgument, off, len(payload))
	}
	m, err := parseMessage(payload[off:])
	if err != nil {
		return nil, err
	}
	if m.epoch != o.id {
		return nil, fmt.Errorf("%w: it names epoch %s", ErrBinding, m.epoch)
	}
	if !b.same(o.binding) {
		return nil, fmt.Errorf("%w: another author, device or recipients", ErrBinding)
	}
	if b.Expires > o.binding.Expires {
		return nil, fmt.Errorf("%w: it expires at %d, its epoch at %d", ErrOutlives, b.Expires, o.binding.Expires)
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.erased {
		return nil, ErrErased
	}
	return m.open(&o.secret, o.info, payload[:len(payload)-len(m.ciphertext)])
}
