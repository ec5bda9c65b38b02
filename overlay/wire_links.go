package overlay

import (
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages between pillars with which operators see who is connected to whom.

// Bounds of one Linked.
const (
	MaxPillarLinks = 1024        // connections
	maxLinkRTT     = time.Minute // round-trip time; longer ones are told as this
	maxLinkAge     = 1 << 40     // ms
)

// LinksMsg asks a pillar which pillars it is connected to: [30, n].
type LinksMsg struct{ N uint64 }

// Type implements Message.
func (*LinksMsg) Type() MessageType { return TypeLinks }

func (m *LinksMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeLinks))
	return canon.AppendUint(b, m.N)
}

func (m *LinksMsg) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	m.N = r.Uint()
}

// LinkedMsg answers a LinksMsg: [31, n, list of [pillar bin, path 1 direct | 2
// relayed, through bin, transport, rtt in µs, age in ms]], ascending by pillar.
// through is empty in a direct one, and where the relay is not known; rtt is 0
// where it is not known.
type LinkedMsg struct {
	N     uint64
	Links []PillarLink // at most MaxPillarLinks, strictly ascending by With
}

// Type implements Message.
func (*LinkedMsg) Type() MessageType { return TypeLinked }

const (
	wireDirect  = 1
	wireRelayed = 2
)

func (m *LinkedMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeLinked))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendArray(b, len(m.Links))
	for i := range m.Links {
		l := &m.Links[i]
		path, through := uint64(wireDirect), identity.PillarID("")
		if l.Path == PathRelayed {
			path, through = wireRelayed, l.Through
		}
		b = canon.AppendArray(b, 6)
		b = canon.AppendBin(b, l.With)
		b = canon.AppendUint(b, path)
		b = canon.AppendBin(b, through)
		b = canon.AppendUint(b, uint64(l.Transport))
		b = canon.AppendUint(b, uint64(min(max(0, l.RTT), maxLinkRTT).Microseconds()))
		b = canon.AppendUint(b, min(uint64(max(0, l.Age).Milliseconds()), maxLinkAge))
	}
	return b
}

func (m *LinkedMsg) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.N = r.Uint()
	for range r.ArrayMax(MaxPillarLinks) {
		l := readLink(r)
		if k := len(m.Links); k > 0 && l.With <= m.Links[k-1].With && r.Err() == nil {
			r.Fail(fmt.Errorf("%w: links are not in order", canon.ErrType))
		}
		if r.Err() != nil {
			return
		}
		m.Links = append(m.Links, l)
	}
}

func readLink(r *canon.Reader) (l PillarLink) {
	r.Array(6)
	l.With, l.Path = readPillar(r), PathDirect
	path := r.UintMax(wireRelayed)
	if b := r.Bin(identity.Ed25519IDLen); len(b) > 0 {
		p, err := identity.PillarFromBytes(b)
		if err == nil && path != wireRelayed {
			err = fmt.Errorf("%w: a direct link through another", canon.ErrType)
		}
		if err != nil {
			r.Fail(err)
		}
		l.Through = p
	}
	if path == wireRelayed {
		l.Path = PathRelayed
	} else if path != wireDirect {
		r.Fail(fmt.Errorf("%w: path %d", canon.ErrType, path))
	}
	l.Transport = Transport(r.UintMax(255))
	l.RTT = time.Duration(r.UintMax(uint64(maxLinkRTT.Microseconds()))) * time.Microsecond
	l.Age = time.Duration(r.UintMax(maxLinkAge)) * time.Millisecond
	return l
}
