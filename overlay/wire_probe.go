package overlay

import (
	"fmt"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages of finding out how a NAT maps and filters: one Probe and one Probed on
// a stream of ProtoProbe.

// ProbeWhat is what a Probe asks for.
type ProbeWhat uint64

// What a Probe asks for. Where something is to be reached, that is the UDP
// address of the very connection that the question came over, and nothing else:
// nobody has a pillar knock at third parties.
const (
	ProbeSeen  ProbeWhat = 0 // at which address do you see me
	ProbeReach ProbeWhat = 1 // reach me there from another port
	ProbeOther ProbeWhat = 2 // have another pillar reach me there
	// ProbeFor is ProbeOther between admitted pillars: reach Addr, at which the
	// asker sees somebody who asked for it.
	ProbeFor ProbeWhat = 3
)

// MaxExcept is how many pillars a Probe excepts at most.
const MaxExcept = 8

// Probe asks: [70, what, address bin, except [pillar bin …]]. The address is a
// binary multiaddr, and empty unless what is ProbeFor. Except is empty unless
// what is ProbeOther: pillars that had better not be the other, because the asker
// has called them and its NAT may let them in for that.
type Probe struct {
	What   ProbeWhat
	Addr   multiaddr.Multiaddr
	Except []identity.PillarID
}

// ProbeOutcome is what came of reaching somebody.
type ProbeOutcome uint64

// Outcomes of a Probe.
const (
	ProbeUntried   ProbeOutcome = 0 // not asked for, or refused: Err says why
	ProbeReached   ProbeOutcome = 1 // something came back
	ProbeUnreached ProbeOutcome = 2 // nothing did
)

// Probed answers: [71, what, address bin, outcome 0|1|2, by bin, error]. The
// address is where the answering pillar sees the asker, empty in the answer to
// ProbeFor. By is the other pillar that tried, empty if none did.
type Probed struct {
	What    ProbeWhat
	Addr    multiaddr.Multiaddr
	Outcome ProbeOutcome
	By      identity.PillarID
	Err     *Error
}

// Type implements Message.
func (*Probe) Type() MessageType { return TypeProbe }

func (m *Probe) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeProbe))
	b = canon.AppendUint(b, uint64(m.What))
	b = canon.AppendBin(b, m.Addr.Bytes())
	b = canon.AppendArray(b, len(m.Except))
	for _, p := range m.Except {
		b = canon.AppendBin(b, p)
	}
	return b
}

func (m *Probe) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.What = ProbeWhat(r.UintMax(uint64(ProbeFor)))
	m.Addr = readProbeAddr(r)
	for range r.ArrayMax(MaxExcept) {
		if m.Except = append(m.Except, readPillar(r)); r.Err() != nil {
			return
		}
	}
	if r.Err() == nil && len(m.Except) > 0 && m.What != ProbeOther {
		r.Fail(fmt.Errorf("%w: pillars excepted where none is asked", canon.ErrType))
	}
	if r.Err() == nil && (m.What == ProbeFor) != (m.Addr != nil) {
		r.Fail(fmt.Errorf("%w: an address where none belongs, or none where one does", canon.ErrType))
	}
}

// Type implements Message.
func (*Probed) Type() MessageType { return TypeProbed }

func (m *Probed) append(b []byte) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendUint(b, uint64(TypeProbed))
	b = canon.AppendUint(b, uint64(m.What))
	b = canon.AppendBin(b, m.Addr.Bytes())
	b = canon.AppendUint(b, uint64(m.Outcome))
	b = canon.AppendBin(b, m.By)
	return appendError(b, m.Err)
}

func (m *Probed) read(r *canon.Reader, n int) {
	fields(r, n, 5)
	m.What = ProbeWhat(r.UintMax(uint64(ProbeFor)))
	m.Addr = readProbeAddr(r)
	m.Outcome = ProbeOutcome(r.UintMax(uint64(ProbeUnreached)))
	m.By = readMaybePillar(r)
	m.Err = readError(r)
}

// readProbeAddr takes a binary multiaddr, nil if it is empty.
func readProbeAddr(r *canon.Reader) multiaddr.Multiaddr {
	b := r.Bin(MaxAddrLen)
	if r.Err() != nil || len(b) == 0 {
		return nil
	}
	a, err := multiaddr.NewMultiaddrBytes(b)
	if err != nil {
		r.Fail(fmt.Errorf("address: %w", err))
	}
	return a
}

// readMaybePillar takes a pillar's ID, "" if it is empty.
func readMaybePillar(r *canon.Reader) identity.PillarID {
	b := r.Bin(identity.Ed25519IDLen)
	if r.Err() != nil || len(b) == 0 {
		return ""
	}
	p, err := identity.PillarFromBytes(b)
	if err != nil {
		r.Fail(err)
	}
	return p
}
