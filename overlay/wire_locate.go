package overlay

import (
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages of asking where an account's devices are: from a node to its pillar,
// from that to all other pillars, and from each to the account's devices, which
// decide. The answers go back the same way.

// Locate asks where the devices of an account are: [56, n, target bin, asker
// bin, certificate bin, time, signature bin]. The asker's device signs target,
// itself and time (identity.TagLocate), so nobody on the way can ask in its
// name; n is each hop's own.
type Locate struct {
	N           uint64
	Target      identity.AccountID
	Asker       identity.AccountID
	Certificate []byte // of the asker's device
	Time        uint64 // the asker's clock, Unix ms; never twice the same
	Signature   []byte
}

// Type implements Message.
func (*Locate) Type() MessageType { return TypeLocate }

func (m *Locate) append(b []byte) []byte {
	b = canon.AppendArray(b, 7)
	b = canon.AppendUint(b, uint64(TypeLocate))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendBin(b, m.Target)
	b = canon.AppendBin(b, m.Asker)
	b = canon.AppendBin(b, m.Certificate)
	b = canon.AppendUint(b, m.Time)
	return canon.AppendBin(b, m.Signature)
}

func (m *Locate) read(r *canon.Reader, n int) {
	fields(r, n, 6)
	m.N = r.Uint()
	m.Target, m.Asker = readAccount(r), readAccount(r)
	m.Certificate = r.Bin(identity.MaxCertificate)
	m.Time = r.Uint()
	m.Signature = r.BinExact(64)
}

// signed is the message that the asker's device signs: [target bin, device bin,
// time].
func (m *Locate) signed(device identity.DeviceID) []byte {
	b := canon.AppendArray(nil, 3)
	b = canon.AppendBin(b, m.Target)
	b = canon.AppendBin(b, device)
	return canon.AppendUint(b, m.Time)
}

// Sign makes the question that of the device whose key this is.
func (m *Locate) Sign(network identity.NetworkID, key *identity.DeviceKey) {
	m.Signature = key.Sign(identity.TagLocate, network, m.signed(key.ID()))
}

// Device is who asks, by a certificate whose signature is not checked; "" if it
// is none.
func (m *Locate) Device() identity.DeviceID {
	cert, err := identity.ParseCertificate(m.Asker, m.Certificate)
	if err != nil {
		return ""
	}
	return cert.Device
}

// Verify returns the certificate of the asker's device, or why the question is
// not that device's, or not of now (Unix ms).
func (m *Locate) Verify(v *Verifier, now uint64) (*identity.Certificate, error) {
	if !fresh(m.Time, now) {
		return nil, Refuse(CodeInvalid, "question: of %s, more than %s away", millisText(m.Time), MaxPresenceAge)
	}
	cert, err := v.CheckCertificate(m.Asker, m.Certificate)
	if err != nil {
		return nil, err
	}
	if !cert.Covers(now) {
		return nil, Refuse(CodeInvalid, "question: the asker's certificate is out of date")
	}
	key, err := identity.Ed25519Public(cert.Device.Ed25519Key())
	if err != nil {
		return nil, Refuse(CodeInvalid, "question: device: %v", err)
	}
	if !identity.Verify(&identity.Check{Key: key, Tag: identity.TagLocate, Network: v.Network(), Message: m.signed(cert.Device), Signature: m.Signature}) {
		return nil, Refuse(CodeInvalid, "question: not signed by device %s", cert.Device)
	}
	return cert, nil
}

// Located answers a Locate: [57, n, more 0|1, error, presences], at most
// MaxDevices of them. A device gives one Located with one Presence, or none at
// all. Between pillars there is one for each device that answers, with more 0.
// A node gets them as they come, with more 1, and at the end of the time that
// its pillar waits, always as long, one with more 0.
type Located struct {
	N         uint64
	More      bool
	Err       *Error
	Presences []Presence
}

// Type implements Message.
func (*Located) Type() MessageType { return TypeLocated }

func (m *Located) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeLocated))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.More)))
	b = appendError(b, m.Err)
	b = canon.AppendArray(b, len(m.Presences))
	for i := range m.Presences {
		b = m.Presences[i].append(b)
	}
	return b
}

func (m *Located) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.N, m.More, m.Err = r.Uint(), r.UintMax(1) == 1, readError(r)
	for range r.ArrayMax(MaxDevices) {
		p := readPresence(r)
		if r.Err() != nil {
			return
		}
		m.Presences = append(m.Presences, p)
	}
}
