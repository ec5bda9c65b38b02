package seal

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// SchemeXWing is the one scheme so far: HPKE (RFC 9180, base mode) with KEM
// MLKEM768-X25519 (X-Wing, 0x647a), HKDF-SHA256 (1) and AES-256-GCM (2).
const SchemeXWing uint64 = 1

// xwingPublicLen is the size of a public key of scheme 1 in bytes; a private
// key, the seed both halves are derived from, has 32.
const xwingPublicLen = 1216

// Bounds for keys of schemes this version does not know.
const (
	maxPublicLen = 4096
	maxSealedLen = 4096
)

// How long sealing keys live and are used.
const (
	// KeyLife is how long a private key is kept: until = created + KeyLife.
	KeyLife = 32 * 24 * time.Hour
	// RotateEvery is how often a device replaces its key.
	RotateEvery = 24 * time.Hour
	// MinRemaining is what a key must have left to count when a message goes to
	// several accounts: the epoch cannot outlive its shortest key, and nobody
	// should shorten everybody's messages.
	MinRemaining = 48 * time.Hour
)

// KeyID names a sealing key: the first 8 bytes of
// SHA-256(tag || scheme as 8 bytes big-endian || public key).
type KeyID [8]byte

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// PublicKey is a device's public sealing key. The zero value is no key.
type PublicKey struct {
	Scheme uint64
	ID     KeyID
	Public []byte // as the scheme serializes it; not to be modified
	Until  uint64 // Unix milliseconds: the private key is erased then
}

// AppendPublicKey appends k as it stands in a device record:
// [scheme, public bin, until]. The ID is not sent but computed.
func AppendPublicKey(b []byte, k PublicKey) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, k.Scheme)
	b = canon.AppendBin(b, k.Public)
	return canon.AppendUint(b, k.Until)
}

// ReadPublicKey takes what AppendPublicKey appended. A key of a scheme that
// this version does not know is returned too; UsableKey refuses it. Whether a
// key of the right size is one to which something can be sealed is found out
// by NewEpoch. The result does not share the reader's memory.
func ReadPublicKey(r *canon.Reader) PublicKey {
	r.Array(3)
	scheme := r.Uint()
	public := r.Bin(maxPublicLen)
	until := r.Uint()
	switch {
	case r.Err() != nil:
		return PublicKey{}
	case scheme == 0 || len(public) == 0:
		r.Fail(errors.New("sealing key without scheme or key"))
		return PublicKey{}
	case scheme == SchemeXWing && len(public) != xwingPublicLen:
		r.Fail(fmt.Errorf("sealing key of %d bytes, %d expected", len(public), xwingPublicLen))
		return PublicKey{}
	}
	return newPublicKey(scheme, bytes.Clone(public), until)
}

func newPublicKey(scheme uint64, public []byte, until uint64) PublicKey {
	return PublicKey{Scheme: scheme, ID: keyID(scheme, public), Public: public, Until: until}
}

// UsableKey reports whether something can be sealed to k now: this version
// knows its scheme, it has not expired, and, if the message goes to several
// accounts (the sender's own counts when it stands in `to`), it has at least
// MinRemaining left. A device whose key is not usable is missing.
func UsableKey(k PublicKey, now uint64, several bool) bool {
	if k.Scheme != SchemeXWing || len(k.Public) != xwingPublicLen || k.Until <= now {
		return false
	}
	return !several || k.Until-now >= millis(MinRemaining)
}

// ChooseKey returns the first usable key of a device's list, which is in the
// device's order of preference, or the zero value if there is none.
func ChooseKey(keys []PublicKey, now uint64, several bool) PublicKey {
	for _, k := range keys {
		if UsableKey(k, now, several) {
			return k
		}
	}
	return PublicKey{}
}

func keyID(scheme uint64, public []byte) (id KeyID) {
	h := sha256.New()
	h.Write([]byte(tagKeyID))
	h.Write(binary.BigEndian.AppendUint64(nil, scheme))
	h.Write(public)
	copy(id[:], h.Sum(nil))
	return id
}

// hpkeSeal seals plain to k.
func hpkeSeal(k PublicKey, info, plain []byte) ([]byte, error) {
	if k.Scheme != SchemeXWing {
		return nil, fmt.Errorf("sealing scheme %d is not known", k.Scheme)
	}
	public, err := hpke.MLKEM768X25519().NewPublicKey(k.Public)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
}

// hpkeOpen opens what hpkeSeal sealed to the key with this private key.
func hpkeOpen(scheme uint64, private, info, sealed []byte) ([]byte, error) {
	k, err := hpkePrivate(scheme, private)
	if err != nil {
		return nil, err
	}
	return hpke.Open(k, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
}

func hpkePrivate(scheme uint64, private []byte) (hpke.PrivateKey, error) {
	if scheme != SchemeXWing {
		return nil, fmt.Errorf("sealing scheme %d is not known", scheme)
	}
	return hpke.MLKEM768X25519().NewPrivateKey(private)
}

// hpkeInfo is the HPKE info of one entry of one epoch. All parts have fixed
// lengths, so two different lists of parts never give the same bytes.
func hpkeInfo(network [32]byte, epoch EpochID, sender, recipient []byte, key KeyID) []byte {
	b := make([]byte, 0, tagLen+len(network)+len(epoch)+2*DeviceIDLen+len(key))
	b = append(b, tagHPKE...)
	b = append(b, network[:]...)
	b = append(b, epoch[:]...)
	b = append(b, sender...)
	b = append(b, recipient...)
	return append(b, key[:]...)
}

func millis(d time.Duration) uint64 { return uint64(d / time.Millisecond) }
