package overlay

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Stream protocols.
const (
	ProtoNode   Protocol = "/obelisk/node/1"   // node to pillar: one session
	ProtoPillar Protocol = "/obelisk/pillar/1" // pillar to pillar: Hello, Vector, Get, Has
	ProtoFollow Protocol = "/obelisk/follow/1" // pillar to pillar: one Follow a stream
	ProtoDirect Protocol = "/obelisk/direct/1" // device to device: Hello, Deliver, Near
	ProtoProbe  Protocol = "/obelisk/probe/1"  // anybody to pillar: one Probe a stream
	ProtoMember Protocol = "/obelisk/member/1" // pillar to pillar: memberlist's push/pull
)

// Role is what a process is.
type Role uint64

// Roles.
const (
	RolePillar Role = 1
	RoleNode   Role = 2
)

func (r Role) String() string {
	switch r {
	case RolePillar:
		return "pillar"
	case RoleNode:
		return "node"
	default:
		return "unknown"
	}
}

// Hello is the first message on a session, in both directions:
// [1, role, formats, network bin, time, account bin, credential bin, short key bin].
type Hello struct {
	Role    Role
	Formats uint64             // newest record format it writes
	Network identity.NetworkID // zero: not pinned yet
	Time    uint64             // its clock, Unix ms
	Account identity.AccountID // a node's; empty for a pillar
	// Credential is a pillar's pillar record, a node's certificate. It must
	// name the peer that the transport proved.
	Credential []byte
	ShortKey   []byte // 32 bytes, only between admitted pillars; else empty
}

// Type implements Message.
func (*Hello) Type() MessageType { return TypeHello }

func (h *Hello) append(b []byte) []byte {
	b = canon.AppendArray(b, 8)
	b = canon.AppendUint(b, uint64(TypeHello))
	b = canon.AppendUint(b, uint64(h.Role))
	b = canon.AppendUint(b, h.Formats)
	if h.Network.IsZero() {
		b = canon.AppendBin(b, "")
	} else {
		b = canon.AppendBin(b, h.Network[:])
	}
	b = canon.AppendUint(b, h.Time)
	b = canon.AppendBin(b, h.Account)
	b = canon.AppendBin(b, h.Credential)
	return canon.AppendBin(b, h.ShortKey)
}

func (h *Hello) read(r *canon.Reader, n int) {
	fields(r, n, 7)
	h.Role = Role(r.Uint())
	h.Formats = r.Uint()
	if net := r.Bin(32); len(net) != 0 {
		if len(net) != 32 {
			r.Fail(canon.ErrTruncated)
		}
		copy(h.Network[:], net)
	}
	h.Time = r.Uint()
	if a := r.Bin(identity.Ed25519IDLen); len(a) != 0 {
		id, err := identity.AccountFromBytes(a)
		if err != nil {
			r.Fail(err)
		}
		h.Account = id
	}
	h.Credential = r.Bin(MaxHelloFrame)
	if h.ShortKey = r.Bin(32); len(h.ShortKey) != 0 && len(h.ShortKey) != 32 {
		r.Fail(canon.ErrTruncated)
	}
}

// CheckPillarHello verifies what a pillar said of itself: that its credential
// is a valid pillar record of the peer the transport proved, in the network it
// names, with an admission in force at now (Unix ms). want is the network that
// must be named; zero takes whichever is named, which only a node that pins
// may do. It returns the record, to be added to a Roster.
func CheckPillarHello(h *Hello, peer identity.PillarID, want identity.NetworkID, now uint64) (*Record, *PillarInfo, error) {
	if h.Role != RolePillar {
		return nil, nil, Refuse(CodeNotAdmitted, "%s is not a pillar", peer)
	}
	if h.Network.IsZero() {
		return nil, nil, Refuse(CodeWrongNetwork, "pillar %s names no network", peer)
	}
	if !want.IsZero() && h.Network != want {
		return nil, nil, Refuse(CodeWrongNetwork, "pillar %s is of network %s, not %s", peer, h.Network, want)
	}
	rec, err := ParseRecord(h.Network, h.Credential)
	if err != nil {
		return nil, nil, Refuse(CodeNotAdmitted, "pillar %s: its credential: %v", peer, err)
	}
	if rec.Kind != KindPillar || rec.Pillar() != peer {
		return nil, nil, Refuse(CodeNotAdmitted, "pillar %s: its credential is somebody else's", peer)
	}
	if err := NewVerifier(h.Network).VerifyOne(rec); err != nil {
		return nil, nil, Refuse(CodeNotAdmitted, "pillar %s: its credential: %v", peer, err)
	}
	info, err := checkPillarRecord(rec, h.Network, now)
	if err != nil {
		return nil, nil, Refuse(CodeNotAdmitted, "pillar %s: %v", peer, err)
	}
	return rec, info, nil
}

// checkCredential verifies that the account a node's Hello names speaks, in that
// network, through the device that the transport proved. Times are the
// caller's to judge.
func checkCredential(h *Hello, p peer.ID, network identity.NetworkID) (*identity.Certificate, *Error) {
	cert, err := identity.ParseCertificate(h.Account, h.Credential)
	if err != nil {
		return nil, Refuse(CodeInvalid, "certificate: %v", err)
	}
	check, err := cert.Check(network)
	switch {
	case err != nil:
		return nil, Refuse(CodeInvalid, "certificate: %v", err)
	case peer.ID(cert.Device) != p:
		return nil, Refuse(CodeInvalid, "certificate: it is for device %s, not for %s", cert.Device, p)
	case !identity.Verify(&check):
		return nil, Refuse(CodeInvalid, "certificate: not signed by account %s for network %s", h.Account, network)
	}
	return cert, nil
}

// checkPillarRecord checks what a pillar record must be beyond validity to
// count: its content, its life, an admission of the same pillar in force.
func checkPillarRecord(rec *Record, network identity.NetworkID, now uint64) (*PillarInfo, error) {
	info, err := ParsePillarInfo(rec.Bin)
	if err != nil {
		return nil, err
	}
	if rec.Expires <= now {
		return nil, Refuse(CodeNotAdmitted, "its pillar record is expired")
	}
	if info.Admission.Pillar != rec.Pillar() {
		return nil, Refuse(CodeNotAdmitted, "its admission is for another pillar")
	}
	if err := info.Admission.Valid(network, now); err != nil {
		return nil, Refuse(CodeNotAdmitted, "%v", err)
	}
	return info, nil
}
