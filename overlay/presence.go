package overlay

import "github.com/obelisk-network/obelisk/identity"

// MaxPresencePillars is how many pillars a Presence names.
const MaxPresencePillars = 4

// Presence is a device's answer to one who asked where it is, signed by the
// device for exactly that asker and moment (identity.TagPresence). It is never
// stored and never shown to anybody else.
type Presence struct {
	Device identity.DeviceID
	Asker  identity.DeviceID
	// Pillars are those at which a circuit to the device can be had, best first:
	// 1 to MaxPresencePillars.
	Pillars   []identity.PillarID
	Time      uint64 // the device's clock, Unix ms
	Signature []byte
}
