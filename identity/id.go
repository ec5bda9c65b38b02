package identity

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// AccountID names an account: the raw bytes of the libp2p peer ID of its key.
// It is 38 bytes for Ed25519 (the ID embeds the key) and 34 for RSA (the ID is
// the key's SHA-256). Its text form is the usual base58 peer ID.
type AccountID string

// DeviceID names a device: the raw peer ID of its Ed25519 key, 38 bytes, which
// is also its libp2p host's.
type DeviceID string

// PillarID names a pillar: the raw peer ID of its Ed25519 key, 38 bytes.
type PillarID string

// NetworkID is the network's Ed25519 public key. Its text form is lower-case
// hex.
type NetworkID [32]byte

// Lengths of raw peer IDs in bytes.
const (
	Ed25519IDLen = 38
	RSAIDLen     = 34
)

// ErrBadID is wrapped by every error about an identity that is none.
var ErrBadID = errors.New("not a valid ID")

// ParseAccount reads an account ID from text.
func ParseAccount(s string) (AccountID, error) {
	p, err := peer.Decode(s)
	if err != nil {
		return "", fmt.Errorf("account %q: %w: %v", s, ErrBadID, err)
	}
	return AccountFromBytes([]byte(p))
}

// AccountFromBytes checks that b is the raw peer ID of an Ed25519 or RSA key
// in its one canonical form, and that an Ed25519 key is not of small order and
// canonically encoded.
func AccountFromBytes(b []byte) (AccountID, error) {
	if len(b) == RSAIDLen && b[0] == 0x12 && b[1] == 0x20 {
		return AccountID(b), nil
	}
	if _, err := ed25519FromID(b); err != nil {
		return "", fmt.Errorf("account: %w", err)
	}
	return AccountID(b), nil
}

// HasAccountForm reports whether b has the length and the prefix of an
// account's raw peer ID. It does not look at the key: where an ID only names a
// recipient the form is enough, and looking costs as much as half a signature
// check. Whoever signs is checked by AccountFromBytes.
func HasAccountForm(b string) bool {
	switch len(b) {
	case Ed25519IDLen:
		return b[:len(ed25519Prefix)] == ed25519Prefix
	case RSAIDLen:
		return b[0] == 0x12 && b[1] == 0x20
	default:
		return false
	}
}

// ParseDevice reads a device ID from text.
func ParseDevice(s string) (DeviceID, error) {
	p, err := peer.Decode(s)
	if err != nil {
		return "", fmt.Errorf("device %q: %w: %v", s, ErrBadID, err)
	}
	return DeviceFromBytes([]byte(p))
}

// DeviceFromBytes checks that b is the raw peer ID of a usable Ed25519 key.
func DeviceFromBytes(b []byte) (DeviceID, error) {
	if _, err := ed25519FromID(b); err != nil {
		return "", fmt.Errorf("device: %w", err)
	}
	return DeviceID(b), nil
}

// ParsePillar reads a pillar ID from text.
func ParsePillar(s string) (PillarID, error) {
	p, err := peer.Decode(s)
	if err != nil {
		return "", fmt.Errorf("pillar %q: %w: %v", s, ErrBadID, err)
	}
	return PillarFromBytes([]byte(p))
}

// PillarFromBytes checks that b is the raw peer ID of a usable Ed25519 key.
func PillarFromBytes(b []byte) (PillarID, error) {
	if _, err := ed25519FromID(b); err != nil {
		return "", fmt.Errorf("pillar: %w", err)
	}
	return PillarID(b), nil
}

// ParseNetwork reads a network ID from hex.
func ParseNetwork(s string) (NetworkID, error) {
	var n NetworkID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(n) {
		return n, fmt.Errorf("network %q: %w: want 64 hex digits", s, ErrBadID)
	}
	copy(n[:], b)
	if err := CheckEd25519(n[:]); err != nil {
		return NetworkID{}, fmt.Errorf("network %q: %w: %w", s, ErrBadID, err)
	}
	return n, nil
}

func (a AccountID) String() string { return peer.ID(a).String() }
func (d DeviceID) String() string  { return peer.ID(d).String() }
func (p PillarID) String() string  { return peer.ID(p).String() }
func (n NetworkID) String() string { return hex.EncodeToString(n[:]) }

// IsZero reports whether n is no network: not pinned yet.
func (n NetworkID) IsZero() bool { return n == NetworkID{} }

// Author returns the raw peer ID of the network key, the author of revocations.
func (n NetworkID) Author() string { return string(idFromEd25519(n[:])) }

// MarshalText, UnmarshalText: the text forms above, for JSON and logs.

func (a AccountID) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
func (d DeviceID) MarshalText() ([]byte, error)  { return []byte(d.String()), nil }
func (p PillarID) MarshalText() ([]byte, error)  { return []byte(p.String()), nil }
func (n NetworkID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func (a *AccountID) UnmarshalText(b []byte) (err error) { *a, err = ParseAccount(string(b)); return }
func (d *DeviceID) UnmarshalText(b []byte) (err error)  { *d, err = ParseDevice(string(b)); return }
func (p *PillarID) UnmarshalText(b []byte) (err error)  { *p, err = ParsePillar(string(b)); return }
func (n *NetworkID) UnmarshalText(b []byte) (err error) { *n, err = ParseNetwork(string(b)); return }

// Ed25519Key returns the 32-byte public key inside an account ID, nil if the
// account's key is RSA.
func (a AccountID) Ed25519Key() []byte { return embeddedKey(string(a)) }

// Ed25519Key returns the 32-byte public key inside the ID.
func (d DeviceID) Ed25519Key() []byte { return embeddedKey(string(d)) }

// Ed25519Key returns the 32-byte public key inside the ID.
func (p PillarID) Ed25519Key() []byte { return embeddedKey(string(p)) }

// ed25519Prefix opens the raw peer ID of every Ed25519 key: identity
// multihash, 36 bytes, then the protobuf {type Ed25519, data of 32 bytes}.
const ed25519Prefix = "\x00\x24\x08\x01\x12\x20"

func idFromEd25519(pub []byte) []byte { return append([]byte(ed25519Prefix), pub...) }

// DeviceFromKey returns the device ID of a 32-byte Ed25519 public key.
func DeviceFromKey(pub []byte) (DeviceID, error) { return DeviceFromBytes(idFromEd25519(pub)) }

func embeddedKey(id string) []byte {
	if len(id) != Ed25519IDLen || id[:len(ed25519Prefix)] != ed25519Prefix {
		return nil
	}
	return []byte(id[len(ed25519Prefix):])
}

func ed25519FromID(b []byte) ([]byte, error) {
	pub := embeddedKey(string(b))
	if pub == nil {
		return nil, fmt.Errorf("%w: %d bytes that are no peer ID of an Ed25519 key", ErrBadID, len(b))
	}
	if err := CheckEd25519(pub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadID, err)
	}
	return pub, nil
}

// PeerKey returns the libp2p public key inside an Ed25519 ID.
func (p PillarID) PeerKey() (crypto.PubKey, error) {
	return crypto.UnmarshalEd25519PublicKey(p.Ed25519Key())
}
