package overlay

import (
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

const (
	// MaxPresencePillars is how many pillars a Presence names.
	MaxPresencePillars = 4
	// MaxPresenceAge is how far the time of a Presence, and of a Locate, may be
	// from the clock of who judges it, either way. Two clocks that are each right
	// enough for their pillars can be that far apart.
	MaxPresenceAge = 2 * maxClockOff
)

// Presence is a device's answer to one who asked where it is, signed by the
// device for exactly that asker and moment (identity.TagPresence). It is never
// stored and never shown to anybody else.
type Presence struct {
	Device identity.DeviceID
	Asker  identity.DeviceID
	// Pillars are those at which a circuit to the device can be had, best first:
	// 1 to MaxPresencePillars, none twice.
	Pillars   []identity.PillarID
	Time      uint64 // the device's clock, Unix ms
	Signature []byte
}

// Sign makes key, which must be the device's, vouch for p.
func (p *Presence) Sign(network identity.NetworkID, key Signer) {
	p.Signature = key.Sign(identity.TagPresence, network, p.signed())
}

// Verify says why p is not the word of the device it names, to asker, of now
// (Unix ms) or at most MaxPresenceAge from it. Whether the device is one of the
// account that was asked for, and the pillars are any, is for the caller to
// find out.
func (p *Presence) Verify(network identity.NetworkID, asker identity.DeviceID, now uint64) error {
	if err := p.check(); err != nil {
		return err
	}
	switch {
	case p.Asker != asker:
		return Refuse(CodeInvalid, "presence: told to %s, not to %s", p.Asker, asker)
	case !fresh(p.Time, now):
		return Refuse(CodeInvalid, "presence: of %s, more than %s away", millisText(p.Time), MaxPresenceAge)
	}
	key, err := identity.Ed25519Public(p.Device.Ed25519Key())
	if err != nil {
		return Refuse(CodeInvalid, "presence: device: %v", err)
	}
	if !identity.Verify(&identity.Check{Key: key, Tag: identity.TagPresence, Network: network, Message: p.signed(), Signature: p.Signature}) {
		return Refuse(CodeInvalid, "presence: not signed by device %s", p.Device)
	}
	return nil
}

// check refuses what no device says.
func (p *Presence) check() error {
	if n := len(p.Pillars); n == 0 || n > MaxPresencePillars {
		return Refuse(CodeInvalid, "presence: %d pillars, want 1 to %d", n, MaxPresencePillars)
	}
	for i, a := range p.Pillars {
		if slices.Contains(p.Pillars[:i], a) {
			return Refuse(CodeInvalid, "presence: pillar %s is named twice", a)
		}
	}
	if p.Device == p.Asker {
		return Refuse(CodeInvalid, "presence: told to itself")
	}
	return nil
}

// fresh reports whether two clocks (Unix ms) are near enough to each other.
func fresh(at, now uint64) bool {
	return max(at, now)-min(at, now) <= uint64(MaxPresenceAge/time.Millisecond)
}

// signed is the message that the device signs: [device, asker, pillars, time].
func (p *Presence) signed() []byte { return p.appendFields(canon.AppendArray(nil, 4)) }

// append appends [device bin, asker bin, pillars, time, signature bin].
func (p *Presence) append(b []byte) []byte {
	return canon.AppendBin(p.appendFields(canon.AppendArray(b, 5)), p.Signature)
}

func (p *Presence) appendFields(b []byte) []byte {
	b = canon.AppendBin(b, p.Device)
	b = canon.AppendBin(b, p.Asker)
	b = canon.AppendArray(b, len(p.Pillars))
	for _, a := range p.Pillars {
		b = canon.AppendBin(b, a)
	}
	return canon.AppendUint(b, p.Time)
}

func readPresence(r *canon.Reader) (p Presence) {
	r.Array(5)
	p.Device, p.Asker = readDevice(r), readDevice(r)
	for range r.ArrayMax(MaxPresencePillars) {
		p.Pillars = append(p.Pillars, readPillar(r))
	}
	p.Time = r.Uint()
	p.Signature = r.BinExact(64)
	if r.Err() == nil {
		if err := p.check(); err != nil {
			r.Fail(err)
		}
	}
	return p
}
