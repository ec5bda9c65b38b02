package overlay

import (
	"fmt"
	"unicode/utf8"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

// What stands in the bins of the kinds. A bin that does not decode makes no
// record invalid: whoever uses it ignores and counts it.

// Bounds of what bins hold.
const (
	MaxDevices        = 40  // living devices of an account
	MaxRemovedDevices = 256 // removed ones that are remembered
	MaxName           = 64  // bytes of a claimed name
	MaxAddrs          = 8   // addresses of a pillar
	MaxAddrLen        = 256 // bytes of a multiaddr
)

// DeviceSerial is a device and the serial of its certificate.
type DeviceSerial struct {
	Device identity.DeviceID
	Serial uint64
}

// AccountInfo is the bin of an account record: [counter, devices, removed],
// the two lists of [device bin, serial].
type AccountInfo struct {
	// Counter is max(last + 1, now in ms): of an account's records the highest
	// counts, and nobody goes back behind one it has seen.
	Counter uint64
	Devices []DeviceSerial
	Removed []DeviceSerial
}

// Append appends the bin's content.
func (a *AccountInfo) Append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, a.Counter)
	b = appendSerials(b, a.Devices)
	return appendSerials(b, a.Removed)
}

// ParseAccountInfo reads the bin of an account record.
func ParseAccountInfo(bin []byte) (*AccountInfo, error) {
	r := canon.NewReader(bin)
	r.Array(3)
	a := &AccountInfo{Counter: r.Uint()}
	a.Devices = readSerials(r, MaxDevices)
	a.Removed = readSerials(r, MaxRemovedDevices)
	return a, binError("account", r.End())
}

// Has reports whether the device with this certificate serial is listed and
// not removed.
func (a *AccountInfo) Has(d identity.DeviceID, serial uint64) bool {
	for _, x := range a.Removed {
		if x.Device == d && x.Serial >= serial {
			return false
		}
	}
	for _, x := range a.Devices {
		if x.Device == d && x.Serial == serial {
			return true
		}
	}
	return false
}

// IsRemoved reports whether the account removed the device's certificate.
func (a *AccountInfo) IsRemoved(d identity.DeviceID, serial uint64) bool {
	for _, x := range a.Removed {
		if x.Device == d && x.Serial >= serial {
			return true
		}
	}
	return false
}

func appendSerials(b []byte, list []DeviceSerial) []byte {
	b = canon.AppendArray(b, len(list))
	for _, d := range list {
		b = canon.AppendArray(b, 2)
		b = canon.AppendBin(b, d.Device)
		b = canon.AppendUint(b, d.Serial)
	}
	return b
}

func readSerials(r *canon.Reader, limit int) []DeviceSerial {
	n := r.ArrayMax(limit)
	if r.Err() != nil {
		return nil
	}
	list := make([]DeviceSerial, n)
	for i := range list {
		r.Array(2)
		list[i] = DeviceSerial{readDevice(r), r.Uint()}
	}
	return list
}

func readDevice(r *canon.Reader) identity.DeviceID {
	b := r.Bin(identity.Ed25519IDLen)
	if r.Err() != nil {
		return ""
	}
	d, err := identity.DeviceFromBytes(b)
	if err != nil {
		r.Fail(err)
	}
	return d
}

func readPillar(r *canon.Reader) identity.PillarID {
	b := r.Bin(identity.Ed25519IDLen)
	if r.Err() != nil {
		return ""
	}
	p, err := identity.PillarFromBytes(b)
	if err != nil {
		r.Fail(err)
	}
	return p
}

func readAccount(r *canon.Reader) identity.AccountID {
	b := r.Bin(identity.Ed25519IDLen)
	if r.Err() != nil {
		return ""
	}
	a, err := identity.AccountFromBytes(b)
	if err != nil {
		r.Fail(err)
	}
	return a
}

// DeviceInfo is the bin of a device record: [name bin, list of sealing keys].
// Names are claims: not unique, not checked by anybody.
type DeviceInfo struct {
	Name string
	Keys []seal.PublicKey // newest first; 1 today
}

// maxDeviceKeys bounds the keys of a device record: one a scheme.
const maxDeviceKeys = 4

// Append appends the bin's content.
func (d *DeviceInfo) Append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendBin(b, d.Name)
	b = canon.AppendArray(b, len(d.Keys))
	for _, k := range d.Keys {
		b = seal.AppendPublicKey(b, k)
	}
	return b
}

// ParseDeviceInfo reads the bin of a device record.
func ParseDeviceInfo(bin []byte) (*DeviceInfo, error) {
	r := canon.NewReader(bin)
	r.Array(2)
	d := &DeviceInfo{Name: readName(r)}
	n := r.ArrayMax(maxDeviceKeys)
	for range n {
		k := seal.ReadPublicKey(r)
		if r.Err() != nil {
			break
		}
		d.Keys = append(d.Keys, k)
	}
	return d, binError("device", r.End())
}

// CheckName says whether a claimed name can be used: at most MaxName bytes of
// valid UTF-8.
func CheckName(name string) error {
	if len(name) > MaxName {
		return Refuse(CodeBadRequest, "the name has %d bytes, at most %d are allowed", len(name), MaxName)
	}
	if !utf8.ValidString(name) {
		return Refuse(CodeBadRequest, "the name is not valid UTF-8")
	}
	return nil
}

func readName(r *canon.Reader) string {
	name := string(r.Bin(MaxName))
	if r.Err() == nil && !utf8.ValidString(name) {
		r.Fail(fmt.Errorf("%w: a name that is not UTF-8", canon.ErrType))
	}
	return name
}

// PillarInfo is the bin of a pillar record:
// [left 0|1, home 0|1, name bin, list of multiaddr bin, admission bin].
type PillarInfo struct {
	Left      bool // it left for good
	Home      bool // behind a NAT, reached through others
	Name      string
	Addrs     []multiaddr.Multiaddr // without /p2p at the end; a home pillar's may be circuits
	Admission identity.Admission
}

// Append appends the bin's content.
func (p *PillarInfo) Append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(btoi(p.Left)))
	b = canon.AppendUint(b, uint64(btoi(p.Home)))
	b = canon.AppendBin(b, p.Name)
	b = canon.AppendArray(b, len(p.Addrs))
	for _, a := range p.Addrs {
		b = canon.AppendBin(b, a.Bytes())
	}
	return canon.AppendBin(b, p.Admission.Append(nil))
}

// ParsePillarInfo reads the bin of a pillar record. It does not verify the
// admission: the Roster does.
func ParsePillarInfo(bin []byte) (*PillarInfo, error) {
	r := canon.NewReader(bin)
	r.Array(5)
	p := &PillarInfo{Left: r.UintMax(1) == 1, Home: r.UintMax(1) == 1, Name: readName(r)}
	n := r.ArrayMax(MaxAddrs)
	for range n {
		b := r.Bin(MaxAddrLen)
		if r.Err() != nil {
			break
		}
		a, err := multiaddr.NewMultiaddrBytes(b)
		if err != nil {
			r.Fail(fmt.Errorf("address: %w", err))
			break
		}
		p.Addrs = append(p.Addrs, a)
	}
	if adm := r.Bin(identity.MaxAdmission); r.Err() == nil {
		var err error
		if p.Admission, err = identity.ParseAdmission(adm); err != nil {
			r.Fail(err)
		}
	}
	return p, binError("pillar", r.End())
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// RevocationInfo is the bin of a revocation: [pillar bin, serial]. It beats
// every admission of that pillar with a lower or equal serial.
type RevocationInfo struct {
	Pillar identity.PillarID
	Serial uint64
}

// Append appends the bin's content.
func (v *RevocationInfo) Append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendBin(b, v.Pillar)
	return canon.AppendUint(b, v.Serial)
}

// ParseRevocationInfo reads the bin of a revocation.
func ParseRevocationInfo(bin []byte) (*RevocationInfo, error) {
	r := canon.NewReader(bin)
	r.Array(2)
	v := &RevocationInfo{Pillar: readPillar(r), Serial: r.Uint()}
	return v, binError("revocation", r.End())
}

// ReceiptCode is what a receipt says of a message.
type ReceiptCode uint64

// Receipt codes.
const (
	ReceiptDelivered  ReceiptCode = 1 // a device has it on disk
	ReceiptUnreadable ReceiptCode = 2 // it could not be opened until it expired
	ReceiptRefused    ReceiptCode = 3 // the recipient does not take messages from this author
)

func (c ReceiptCode) String() string {
	switch c {
	case ReceiptDelivered:
		return "delivered"
	case ReceiptUnreadable:
		return "unreadable"
	case ReceiptRefused:
		return "refused"
	default:
		return fmt.Sprintf("code-%d", uint64(c))
	}
}

// ReceiptLine is one message and what became of it.
type ReceiptLine struct {
	ID   RecordID
	Code ReceiptCode
}

// MaxReceiptLines is how many messages one receipt can speak of.
const MaxReceiptLines = 512

// AppendReceipt appends a receipt's plaintext: a list of [record ID bin, code].
func AppendReceipt(b []byte, lines []ReceiptLine) []byte {
	b = canon.AppendArray(b, len(lines))
	for _, l := range lines {
		b = canon.AppendArray(b, 2)
		b = canon.AppendBin(b, l.ID[:])
		b = canon.AppendUint(b, uint64(l.Code))
	}
	return b
}

// ParseReceipt reads a receipt's plaintext.
func ParseReceipt(plain []byte) ([]ReceiptLine, error) {
	r := canon.NewReader(plain)
	n := r.ArrayMax(MaxReceiptLines)
	lines := make([]ReceiptLine, 0, n)
	for range n {
		r.Array(2)
		id := readID(r)
		lines = append(lines, ReceiptLine{id, ReceiptCode(r.Uint())})
	}
	return lines, binError("receipt", r.End())
}

func readID(r *canon.Reader) (id RecordID) {
	copy(id[:], r.BinExact(len(id)))
	return id
}

// BodyType says what a message's plaintext is.
type BodyType uint64

// Body types. Others are kept for later versions and handed to the app as
// bytes.
const (
	BodyBytes BodyType = 0
	BodyText  BodyType = 1 // UTF-8
)

// AppendBody appends a message's plaintext: [type, body bin].
func AppendBody(b []byte, t BodyType, body []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(t))
	return canon.AppendBin(b, body)
}

// BodyOverhead is what AppendBody adds to a body at most, in bytes.
const BodyOverhead = 16

// ParseBody reads a message's plaintext. The body shares plain's memory.
func ParseBody(plain []byte) (BodyType, []byte, error) {
	r := canon.MakeReader(plain)
	r.Array(2)
	t := BodyType(r.Uint())
	body := r.Bin(MaxBody)
	return t, body, binError("message", r.End())
}

func binError(kind string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("content of %s record: %w", kind, err)
}
