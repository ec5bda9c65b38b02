package overlay

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// RecordID names a record: SHA-256 over (tag, network ID, payload). Its text
// form is lower-case hex.
type RecordID [32]byte

// LogID names a log: the first 16 bytes of SHA-256 over (tag, network ID,
// pillar ID, 16 random bytes). Its text form is lower-case hex.
type LogID [16]byte

// Handle names an outgoing message before it has an ID: 16 random bytes.
type Handle [16]byte

// BoxID names a list of records kept in local commit order, see Boxes.
type BoxID [16]byte

// Hash is a SHA-256 value: a log's chain hash or a vector's hash.
type Hash [32]byte

// ErrBadText is wrapped by errors about IDs that cannot be read from text.
var ErrBadText = errors.New("not a valid ID")

func (id RecordID) String() string { return hex.EncodeToString(id[:]) }
func (id LogID) String() string    { return hex.EncodeToString(id[:]) }
func (h Handle) String() string    { return hex.EncodeToString(h[:]) }
func (h Hash) String() string      { return hex.EncodeToString(h[:]) }

func (id RecordID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }
func (id LogID) MarshalText() ([]byte, error)    { return []byte(id.String()), nil }
func (h Handle) MarshalText() ([]byte, error)    { return []byte(h.String()), nil }
func (h Hash) MarshalText() ([]byte, error)      { return []byte(h.String()), nil }

func (id *RecordID) UnmarshalText(b []byte) error { return parseHex("record ID", id[:], b) }
func (id *LogID) UnmarshalText(b []byte) error    { return parseHex("log ID", id[:], b) }
func (h *Handle) UnmarshalText(b []byte) error    { return parseHex("handle", h[:], b) }
func (h *Hash) UnmarshalText(b []byte) error      { return parseHex("hash", h[:], b) }

// IsZero reports whether id is unset.
func (id RecordID) IsZero() bool { return id == RecordID{} }

// IsZero reports whether id is unset.
func (id LogID) IsZero() bool { return id == LogID{} }

// NewHandle returns a fresh random handle.
func NewHandle() Handle {
	var h Handle
	rand.Read(h[:]) // never fails since Go 1.24
	return h
}

func parseHex(what string, dst, text []byte) error {
	if hex.DecodedLen(len(text)) != len(dst) || len(text)%2 != 0 {
		return fmt.Errorf("%s %q: %w: want %d hex digits", what, text, ErrBadText, hex.EncodedLen(len(dst)))
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return fmt.Errorf("%s %q: %w: %v", what, text, ErrBadText, err)
	}
	return nil
}

// Dot is a place in a log: the entry numbered Seq of Log. Sequences start at 1.
type Dot struct {
	Log LogID
	Seq uint64
}
