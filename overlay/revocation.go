package overlay

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/obelisk-network/obelisk/identity"
)

// revocationPrefix opens a revocation in a file or on a command line.
const revocationPrefix = "obelisk-revocation:"

// Revoke signs that admissions of p up to serial, included, count no more: the
// revocation record, made at now (Unix ms). Admissions are numbered by the time
// of their making in ms, so now as the serial covers all there are so far, and
// an admission made later counts again.
func Revoke(key *identity.NetworkKey, p identity.PillarID, serial, now uint64) (*Record, error) {
	info := RevocationInfo{Pillar: p, Serial: serial}
	d := Draft{Kind: KindRevocation, Author: key.ID().Author(), Created: now, Expires: now + MaxLife, Bin: info.Append(nil)}
	return d.Sign(key.ID(), key)
}

// RevocationText is the form of a revocation for a file or a terminal: one line,
// "obelisk-revocation:" and the record in base64url. It holds no secret.
func RevocationText(r *Record) string {
	return revocationPrefix + base64.RawURLEncoding.EncodeToString(r.Raw)
}

// IsRevocationText reports whether s looks like what RevocationText returns.
func IsRevocationText(s string) bool {
	return strings.HasPrefix(strings.TrimSpace(s), revocationPrefix)
}

// ParseRevocation reads what RevocationText returned and verifies that network
// signed it.
func ParseRevocation(network identity.NetworkID, s string) (*Record, *RevocationInfo, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(s), revocationPrefix)
	if !ok || len(encoded) > 1024 {
		return nil, nil, Refuse(CodeBadRequest, "this is no revocation: it starts with %q, make it with `obelisk network revoke`", revocationPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, nil, Refuse(CodeBadRequest, "this revocation is damaged: copy the whole line again")
	}
	rec, err := ParseRecord(network, raw)
	if err == nil && rec.Kind != KindRevocation {
		return nil, nil, Refuse(CodeBadRequest, "a %s record is no revocation", rec.Kind)
	}
	if err == nil {
		err = NewVerifier(network).VerifyOne(rec)
	}
	switch {
	case errors.Is(err, ErrSignature):
		return nil, nil, Refuse(CodeNotAdmitted, "this revocation is not by the key of network %s", network)
	case err != nil:
		return nil, nil, Refuse(CodeBadRequest, "%v", err)
	}
	info, err := ParseRevocationInfo(rec.Bin)
	if err != nil {
		return nil, nil, Refuse(CodeBadRequest, "%v", err)
	}
	return rec, info, nil
}
