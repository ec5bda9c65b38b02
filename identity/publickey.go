package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"filippo.io/edwards25519"
)

// KeyType is the algorithm of an account key, as flags and files spell it.
type KeyType string

// The algorithms of account keys. All other keys are Ed25519.
const (
	KeyEd25519 KeyType = "ed25519"
	KeyRSA     KeyType = "rsa"
)

// Bounds of RSA keys in bits. The exponent is always 65537.
const (
	MinRSABits  = 2048
	MaxRSABits  = 8192
	rsaExponent = 65537
)

// MaxPublicKey is the length in bytes of the longest marshalled public key, that
// of RSA 8192.
const MaxPublicKey = 1067

// A marshalled public key is libp2p's protobuf {1: type, 2: data}, written
// without alternatives: 0x08, the type, 0x12, the length of data as a minimal
// varint, data. Data is the raw key for Ed25519 (type 1) and PKIX DER for RSA
// (type 0).
const (
	ed25519KeyPrefix = "\x08\x01\x12\x20"
	rsaKeyPrefix     = "\x08\x00\x12"
)

// PublicKey is a checked public key: Ed25519, canonical and not of small order,
// or RSA within the bounds. The zero value is no key and verifies nothing. It is
// one pointer to what never changes: cheap to copy, and worth keeping, since
// making one costs a tenth of a signature check. Compare keys by ID, not with ==.
type PublicKey struct{ k *publicKey }

type publicKey struct {
	typ        KeyType
	id         AccountID
	marshalled []byte

	ed    [32]byte           // if typ is KeyEd25519
	point edwards25519.Point // ed, decoded
	rsa   *rsa.PublicKey     // if typ is KeyRSA
}

// Ed25519Public returns the key with the 32-byte encoding pub. Errors wrap
// ErrBadKey.
func Ed25519Public(pub []byte) (PublicKey, error) {
	point, err := decodeEd25519(pub)
	if err != nil {
		return PublicKey{}, err
	}
	return ed25519Public(pub, point), nil
}

// ed25519Public returns the key with the encoding pub of point, unchecked.
func ed25519Public(pub []byte, point *edwards25519.Point) PublicKey {
	k := &publicKey{
		typ:        KeyEd25519,
		id:         AccountID(ed25519Prefix + string(pub)),
		marshalled: append([]byte(ed25519KeyPrefix), pub...),
		ed:         [32]byte(pub),
	}
	k.point.Set(point)
	return PublicKey{k}
}

// ParsePublicKey reads a key in the marshalled form of libp2p, which must be
// the one that Marshal returns for it. Errors wrap ErrBadKey.
func ParsePublicKey(marshalled []byte) (PublicKey, error) {
	switch {
	case len(marshalled) > MaxPublicKey:
		return PublicKey{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrBadKey, len(marshalled), MaxPublicKey)
	case bytes.HasPrefix(marshalled, []byte(ed25519KeyPrefix)):
		return Ed25519Public(marshalled[len(ed25519KeyPrefix):])
	case bytes.HasPrefix(marshalled, []byte(rsaKeyPrefix)):
		return parseRSA(marshalled)
	default:
		return PublicKey{}, fmt.Errorf("%w: neither Ed25519 nor RSA in libp2p's form", ErrBadKey)
	}
}

func parseRSA(marshalled []byte) (PublicKey, error) {
	data := marshalled[len(rsaKeyPrefix):]
	n, size := binary.Uvarint(data)
	if size <= 0 || n != uint64(len(data)-size) {
		return PublicKey{}, fmt.Errorf("%w: RSA key with a wrong length", ErrBadKey)
	}
	parsed, err := x509.ParsePKIXPublicKey(data[size:])
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: RSA key: %v", ErrBadKey, err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w: labelled RSA and is a %T", ErrBadKey, parsed)
	}
	public, err := rsaPublic(key)
	if err != nil {
		return PublicKey{}, err
	}
	if !bytes.Equal(public.k.marshalled, marshalled) {
		return PublicKey{}, fmt.Errorf("%w: RSA key not in its canonical form", ErrBadKey)
	}
	return public, nil
}

// rsaPublic checks key and returns it as a PublicKey.
func rsaPublic(key *rsa.PublicKey) (PublicKey, error) {
	switch bits := key.N.BitLen(); {
	case bits < MinRSABits || bits > MaxRSABits:
		return PublicKey{}, fmt.Errorf("%w: RSA of %d bits, %d to %d are allowed", ErrBadKey, bits, MinRSABits, MaxRSABits)
	case key.E != rsaExponent:
		return PublicKey{}, fmt.Errorf("%w: RSA with exponent %d, only %d is allowed", ErrBadKey, key.E, rsaExponent)
	case key.N.Bit(0) == 0:
		return PublicKey{}, fmt.Errorf("%w: RSA with an even modulus", ErrBadKey)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: RSA key: %v", ErrBadKey, err)
	}
	marshalled := append([]byte(nil), rsaKeyPrefix...)
	marshalled = binary.AppendUvarint(marshalled, uint64(len(der)))
	marshalled = append(marshalled, der...)
	sum := sha256.Sum256(marshalled)
	return PublicKey{&publicKey{
		typ:        KeyRSA,
		id:         AccountID("\x12\x20" + string(sum[:])), // multihash: SHA-256, 32 bytes
		marshalled: marshalled,
		rsa:        key,
	}}, nil
}

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k.k == nil }

// Type returns the algorithm, "" for no key.
func (k PublicKey) Type() KeyType {
	if k.k == nil {
		return ""
	}
	return k.k.typ
}

// IsRSA reports whether k is an RSA key.
func (k PublicKey) IsRSA() bool { return k.Type() == KeyRSA }

// ID returns the raw peer ID of the key, "" for no key.
func (k PublicKey) ID() AccountID {
	if k.k == nil {
		return ""
	}
	return k.k.id
}

// Marshal returns the key in the marshalled form of libp2p, whose first byte is
// 0x08; nil for no key. The caller owns the result.
func (k PublicKey) Marshal() []byte {
	if k.k == nil {
		return nil
	}
	return bytes.Clone(k.k.marshalled)
}

// SignatureLen returns the length in bytes of the key's signatures, 0 for no key.
func (k PublicKey) SignatureLen() int {
	switch k.Type() {
	case KeyEd25519:
		return ed25519.SignatureSize
	case KeyRSA:
		return k.k.rsa.Size()
	default:
		return 0
	}
}

// CheckEd25519 reports whether pub may be a key: 32 bytes, the canonical
// encoding of a point of the curve that is not of small order. A small-order key
// has signatures that fit any message; a point with two encodings would be
// two identities with one key. Errors wrap ErrBadKey.
func CheckEd25519(pub []byte) error {
	_, err := decodeEd25519(pub)
	return err
}

func decodeEd25519(pub []byte) (*edwards25519.Point, error) {
	if len(pub) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: Ed25519 key of %d bytes, %d expected", ErrBadKey, len(pub), ed25519.PublicKeySize)
	}
	point, err := new(edwards25519.Point).SetBytes(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: not a point of Ed25519's curve", ErrBadKey)
	}
	// A point has a second encoding if its y is under 19 (y + p fits in 255
	// bits) or its x is 0 (the sign bit is free). The latter is y = ±1 and of small
	// order.
	if !belowPrime(pub) {
		return nil, fmt.Errorf("%w: Ed25519 key not in its canonical encoding", ErrBadKey)
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, fmt.Errorf("%w: Ed25519 key of small order", ErrBadKey)
	}
	return point, nil
}

// belowPrime reports whether y, the low 255 bits of a little-endian encoding, is
// less than p = 2^255 - 19, which is ed ff … ff 7f.
func belowPrime(encoding []byte) bool {
	if encoding[31]&0x7f != 0x7f {
		return true
	}
	for _, b := range encoding[1:31] {
		if b != 0xff {
			return true
		}
	}
	return encoding[0] < 0xed
}
