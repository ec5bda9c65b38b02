package identity

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// MaxAdmissionLife is how far ahead an admission's NotAfter may lie.
const MaxAdmissionLife = 30 * 24 * time.Hour

// MaxAdmission is the length in bytes of the longest admission on the wire.
const MaxAdmission = 1 + (2 + Ed25519IDLen) + 2*9 + (2 + 64)

// Admission is a network's word that a pillar belongs to it until NotAfter,
// included, in Unix milliseconds.
type Admission struct {
	Pillar           PillarID
	Serial, NotAfter uint64
	Signature        []byte // by the network key
}

// signed returns the message that the network signs: an array of 3.
func (a *Admission) signed() []byte {
	b := canon.AppendArray(make([]byte, 0, MaxAdmission), 3)
	b = canon.AppendBin(b, a.Pillar)
	b = canon.AppendUint(b, a.Serial)
	return canon.AppendUint(b, a.NotAfter)
}

// Append appends a's wire form, an array of 4:
//
//	pillar     bin, 38 bytes: the raw peer ID
//	serial     uint
//	not after  uint, Unix milliseconds
//	signature  bin, 64 bytes
func (a *Admission) Append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendBin(b, a.Pillar)
	b = canon.AppendUint(b, a.Serial)
	b = canon.AppendUint(b, a.NotAfter)
	return canon.AppendBin(b, a.Signature)
}

// ParseAdmission reads the wire form. It checks the shape and that the pillar's
// key is acceptable; what it says is Valid's to judge. The result keeps nothing
// of b. Errors wrap ErrBadAdmission.
func ParseAdmission(b []byte) (Admission, error) {
	if len(b) > MaxAdmission {
		return Admission{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrBadAdmission, len(b), MaxAdmission)
	}
	r := canon.MakeReader(b)
	r.Array(4)
	id := r.BinExact(Ed25519IDLen)
	a := Admission{Serial: r.Uint(), NotAfter: r.Uint()}
	a.Signature = bytes.Clone(r.BinExact(64))
	if err := r.End(); err != nil {
		return Admission{}, fmt.Errorf("%w: %w", ErrBadAdmission, err)
	}
	var err error
	if a.Pillar, err = PillarFromBytes(id); err != nil {
		return Admission{}, fmt.Errorf("%w: %w", ErrBadAdmission, err)
	}
	return a, nil
}

// Check returns the check of a's signature in network, for a batch. It fails
// if network is no network.
func (a *Admission) Check(network NetworkID) (Check, error) {
	key, err := Ed25519Public(network[:])
	if err != nil {
		return Check{}, fmt.Errorf("network %s: %w", network, err)
	}
	return Check{Key: key, Tag: TagAdmission, Network: network, Message: a.signed(), Signature: a.Signature}, nil
}

// Verify reports whether network signed a, whatever the time.
func (a *Admission) Verify(network NetworkID) bool {
	c, err := a.Check(network)
	return err == nil && Verify(&c)
}

// Valid returns nil if a counts in network at nowMS, in Unix milliseconds, else
// why not: ErrSignature, ErrExpired, or ErrTooLongLived if NotAfter lies more than
// MaxAdmissionLife ahead. Whether it was revoked is for the roster to say.
func (a *Admission) Valid(network NetworkID, nowMS uint64) error {
	life := uint64(MaxAdmissionLife.Milliseconds())
	switch {
	case !a.Verify(network):
		return fmt.Errorf("admission of %s: %w: not by network %s", a.Pillar, ErrSignature, network)
	case nowMS > a.NotAfter:
		return fmt.Errorf("admission of %s: %w at %s", a.Pillar, ErrExpired, timeText(a.NotAfter))
	case a.NotAfter-nowMS > life:
		return fmt.Errorf("admission of %s: %w: until %s, at most %d days ahead are allowed",
			a.Pillar, ErrTooLongLived, timeText(a.NotAfter), MaxAdmissionLife/(24*time.Hour))
	}
	return nil
}

func timeText(ms uint64) string {
	return time.UnixMilli(int64(min(ms, 1<<53))).UTC().Format(time.RFC3339)
}

// admissionFilePrefix opens an admission in a file, for whoever finds one.
const admissionFilePrefix = "obelisk-admission:"

// maxAdmissionFile bounds the file with room for space around the line.
const maxAdmissionFile = 1024

// MarshalFile returns the form for a file or a terminal: one line of text,
// "obelisk-admission:" and the wire form in base64url. It holds no secret.
func (a *Admission) MarshalFile() []byte {
	return []byte(admissionFilePrefix + base64.RawURLEncoding.EncodeToString(a.Append(nil)) + "\n")
}

// ReadAdmission reads a file that MarshalFile made; space around the line and
// line breaks in it, as terminals insert them, do not matter. It does not check the signature, see Valid.
func ReadAdmission(path string) (Admission, error) {
	text, err := readSmall(path, maxAdmissionFile)
	if err != nil {
		return Admission{}, fmt.Errorf("read admission: %w", err)
	}
	encoded, ok := bytes.CutPrefix(bytes.TrimSpace(text), []byte(admissionFilePrefix))
	if !ok {
		return Admission{}, fmt.Errorf("read admission %s: %w: it does not start with %q; make it with `obelisk network admit`",
			path, ErrBadAdmission, admissionFilePrefix)
	}
	wire, err := base64.RawURLEncoding.Strict().DecodeString(string(encoded))
	if err != nil {
		return Admission{}, fmt.Errorf("read admission %s: %w: %w; copy the whole line again", path, ErrBadAdmission, err)
	}
	a, err := ParseAdmission(wire)
	if err != nil {
		return Admission{}, fmt.Errorf("read admission %s: %w", path, err)
	}
	return a, nil
}
