package overlay

import (
	"bytes"
	"fmt"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Kind says what a record is for. Pillars verify, store, forward and expire
// kinds they do not know.
type Kind uint64

// The kinds of format 1.
const (
	KindAccount    Kind = 1 // an account's devices
	KindDevice     Kind = 2 // a device's sealing keys and claimed name
	KindEpoch      Kind = 3 // a sealing secret for a set of devices
	KindMessage    Kind = 4
	KindReceipt    Kind = 5
	KindPillar     Kind = 6 // a pillar's addresses and admission
	KindRevocation Kind = 7 // an admission taken back
)

var kindNames = [...]string{"", "account", "device", "epoch", "message", "receipt", "pillar", "revocation"}

func (k Kind) String() string {
	if k >= 1 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint64(k))
}

// Format is the newest record format this version writes.
const Format = 1

// Limits of every record. They are part of validity: the same at every pillar
// and version.
const (
	// MaxRecord is the size of a whole record in bytes: a body of the protocol
	// maximum, padded and sealed, to as many accounts as can be.
	MaxRecord = 384 << 10
	// MaxTo is how many accounts a record can be addressed to.
	MaxTo = 256
	// MaxBody is the protocol's largest plaintext in bytes; pillars admit less
	// (DefaultMaxBody).
	MaxBody = 256 << 10
	// MaxSignature is the size of the largest RSA signature in bytes.
	MaxSignature = 1024
	// MaxLife is how long a record can live, in milliseconds; MaxKeyLife is
	// the same for account, device and epoch records and for unknown kinds.
	MaxLife    = 30 * DayMillis
	MaxKeyLife = 32 * DayMillis
	// MaxTime is the latest time of a record, Unix ms: the end of the year 9999.
	// RFC 3339, and so JSON, goes no further, and days fit their 32 bits.
	MaxTime = 253_402_300_799_999
)

// DefaultMaxBody is the largest plaintext that pillars take, in bytes.
const DefaultMaxBody = 64 << 10

// Sequence counts a sender device's messages to one account.
type Sequence struct {
	// Seq is max(last + 1, now in µs), so a restored disk does not repeat one.
	Seq uint64
	// Prev is the Seq of the newest earlier message of this device to that
	// account which is neither rejected nor expired; 0 if there is none.
	Prev uint64
}

// Record is a parsed record. Its byte slices share Raw's memory and nothing of
// it may be modified. That it parsed says nothing about its signature: see
// Verifier.
type Record struct {
	ID        RecordID
	Format    uint64
	Kind      Kind
	Author    string // raw peer ID of the account, the pillar or the network key
	Signer    []byte // certificate, marshalled RSA key, or empty
	To        []identity.AccountID
	Sequences []Sequence
	Created   uint64 // Unix milliseconds
	Expires   uint64 // Unix milliseconds
	Bin       []byte // the kind's own
	Raw       []byte // [payload, signature]

	payload   []byte
	signature []byte
}

// Account is the author as an account.
func (r *Record) Account() identity.AccountID { return identity.AccountID(r.Author) }

// Pillar is the author as a pillar.
func (r *Record) Pillar() identity.PillarID { return identity.PillarID(r.Author) }

// Payload is what was signed.
func (r *Record) Payload() []byte { return r.payload }

// BinOffset is where Bin begins in Payload.
func (r *Record) BinOffset() int { return len(r.payload) - len(r.Bin) }

// Day is the record's expiry day.
func (r *Record) Day() Day { return DayOf(r.Expires) }

// Ref names the record for a lookup.
func (r *Record) Ref() Ref { return Ref{ID: r.ID, Day: r.Day()} }

// Certified reports whether the record is signed by a device under a
// certificate; otherwise the author's own key signed it.
func (r *Record) Certified() bool { return isCertificate(r.Signer) }

// IsTo reports whether the record is addressed to a.
func (r *Record) IsTo(a identity.AccountID) bool {
	for _, t := range r.To {
		if t == a {
			return true
		}
	}
	return false
}

// isCertificate tells a certificate (an array of six) from a marshalled public
// key (protobuf, whose first byte is 0x08).
func isCertificate(signer []byte) bool { return len(signer) > 0 && signer[0] == 0x96 }

// ParseRecord reads a record and checks everything that makes it valid except
// its signatures: size, canonical shape, life. The record keeps raw. Errors
// are *Invalid.
//
// The layout, every value canonical (package canon):
//
//	record  = [payload bin, signature bin]
//	payload = [format, kind, author bin, signer bin, to, sequences, created, expires, bin]
//	to      = list of account bin, strictly ascending bytewise
//	sequences = list of [seq, prev], as many as to in messages, else empty
func ParseRecord(network identity.NetworkID, raw []byte) (*Record, error) {
	if len(raw) > MaxRecord {
		return nil, invalid(ErrSize, "%d bytes, at most %d are allowed", len(raw), MaxRecord)
	}
	outer := canon.MakeReader(raw)
	outer.Array(2)
	rec := &Record{Raw: raw}
	rec.payload = outer.Bin(MaxRecord)
	rec.signature = outer.Bin(MaxSignature)
	if err := outer.End(); err != nil {
		return nil, invalid(ErrShape, "%v", err)
	}
	if err := rec.parsePayload(network); err != nil {
		return nil, err
	}
	rec.ID = RecordID(identity.Hash(identity.TagRecordID, network[:], rec.payload))
	return rec, nil
}

func (r *Record) parsePayload(network identity.NetworkID) error {
	p := canon.MakeReader(r.payload)
	p.Array(9)
	r.Format = p.Uint()
	r.Kind = Kind(p.Uint())
	r.Author = string(p.Bin(identity.Ed25519IDLen))
	r.Signer = p.Bin(identity.MaxCertificate)
	if n := p.ArrayMax(MaxTo); n > 0 && p.Err() == nil {
		r.To = make([]identity.AccountID, n)
		for i := range r.To {
			r.To[i] = identity.AccountID(p.Bin(identity.Ed25519IDLen))
		}
	}
	if n := p.ArrayMax(MaxTo); n > 0 && p.Err() == nil {
		r.Sequences = make([]Sequence, n)
		for i := range r.Sequences {
			p.Array(2)
			r.Sequences[i] = Sequence{Seq: p.Uint(), Prev: p.Uint()}
		}
	}
	r.Created = p.Uint()
	r.Expires = p.Uint()
	r.Bin = p.Bin(MaxRecord)
	if err := p.End(); err != nil {
		return invalid(ErrShape, "%v", err)
	}
	return r.checkFields(network)
}

// checkFields holds the rules that canonical shape alone does not give.
func (r *Record) checkFields(network identity.NetworkID) error {
	if r.Format == 0 || r.Kind == 0 {
		return invalid(ErrShape, "format and kind start at 1")
	}
	// The form is enough here: the author's key is looked at when a signature
	// is checked, a recipient's never.
	if !identity.HasAccountForm(r.Author) {
		return invalid(ErrShape, "the author is no peer ID")
	}
	for i, a := range r.To {
		if !identity.HasAccountForm(string(a)) {
			return invalid(ErrShape, "recipient %d is no peer ID", i)
		}
		if i > 0 && r.To[i-1] >= a {
			return invalid(ErrShape, "recipients not strictly ascending")
		}
	}
	if n := len(r.Sequences); n != 0 && n != len(r.To) {
		return invalid(ErrShape, "%d sequences for %d recipients", n, len(r.To))
	}
	for _, s := range r.Sequences {
		if s.Seq == 0 || s.Prev >= s.Seq {
			return invalid(ErrShape, "sequence %d after %d", s.Seq, s.Prev)
		}
	}
	if err := r.checkKind(network); err != nil {
		return err
	}
	return r.checkLife()
}

// checkKind ties the known kinds to their signer and recipients. It leaves
// unknown kinds free.
func (r *Record) checkKind(network identity.NetworkID) error {
	addressed, certified, sequenced := false, true, false
	switch r.Kind {
	case KindMessage:
		addressed, sequenced = true, true
	case KindEpoch, KindReceipt:
		addressed = true
	case KindDevice:
	case KindAccount, KindPillar, KindRevocation:
		certified = false
	default:
		return nil
	}
	switch {
	case addressed != (len(r.To) > 0):
		return invalid(ErrShape, "%s record with %d recipients", r.Kind, len(r.To))
	case sequenced != (len(r.Sequences) > 0):
		return invalid(ErrShape, "%s record with %d sequences", r.Kind, len(r.Sequences))
	case certified != r.Certified():
		return invalid(ErrCertificate, "%s record signed by the wrong kind of key", r.Kind)
	case r.Kind == KindPillar && len(r.Author) != identity.Ed25519IDLen:
		return invalid(ErrShape, "a pillar's key is Ed25519")
	case r.Kind == KindRevocation && r.Author != network.Author():
		return invalid(ErrSignature, "only the network key revokes")
	}
	return nil
}

func (r *Record) checkLife() error {
	if r.Expires <= r.Created {
		return invalid(ErrLife, "expires %d ms before it is created", r.Created-r.Expires)
	}
	if limit := MaxLifeOf(r.Kind); r.Expires-r.Created > limit {
		err := invalid(ErrLife, "%d ms, at most %d are allowed", r.Expires-r.Created, limit)
		err.Code = CodeTooLongLived
		return err
	}
	if r.Expires > MaxTime {
		return invalid(ErrLife, "expires at %d ms, after the year 9999", r.Expires)
	}
	return nil
}

// MaxLifeOf returns how long a record of kind k can live, in milliseconds.
func MaxLifeOf(k Kind) uint64 {
	switch k {
	case KindMessage, KindReceipt, KindPillar, KindRevocation:
		return MaxLife
	default:
		return MaxKeyLife
	}
}

// NextRecord takes one record, unparsed, off r: records delimit themselves.
// The result shares r's memory.
func NextRecord(r *canon.Reader) []byte {
	start := r.Offset()
	r.Array(2)
	r.Bin(MaxRecord)
	r.Bin(MaxSignature)
	return r.Since(start)
}

// Signer signs what its owner writes. identity's keys are Signers.
type Signer interface {
	Sign(tag identity.Tag, network identity.NetworkID, message []byte) []byte
}

// Draft is a record to be signed. The fields mean what Record's do.
type Draft struct {
	Kind      Kind
	Author    string
	Signer    []byte
	To        []identity.AccountID
	Sequences []Sequence
	Created   uint64
	Expires   uint64
	Bin       []byte
}

// AppendPrefix appends the payload up to and including the header of a bin of
// binLen bytes. What is sealed into the bin is bound to these bytes.
func (d *Draft) AppendPrefix(b []byte, binLen int) []byte {
	b = canon.AppendArray(b, 9)
	b = canon.AppendUint(b, Format)
	b = canon.AppendUint(b, uint64(d.Kind))
	b = canon.AppendBin(b, d.Author)
	b = canon.AppendBin(b, d.Signer)
	b = canon.AppendArray(b, len(d.To))
	for _, a := range d.To {
		b = canon.AppendBin(b, a)
	}
	b = canon.AppendArray(b, len(d.Sequences))
	for _, s := range d.Sequences {
		b = canon.AppendArray(b, 2)
		b = canon.AppendUint(b, s.Seq)
		b = canon.AppendUint(b, s.Prev)
	}
	b = canon.AppendUint(b, d.Created)
	b = canon.AppendUint(b, d.Expires)
	return canon.AppendBinLen(b, binLen)
}

// Sign signs the draft with Bin as it is.
func (d *Draft) Sign(network identity.NetworkID, key Signer) (*Record, error) {
	return SignPayload(network, key, append(d.AppendPrefix(nil, len(d.Bin)), d.Bin...))
}

// SignPayload signs a finished payload. It refuses what ParseRecord would, so
// nobody signs what no pillar takes.
func SignPayload(network identity.NetworkID, key Signer, payload []byte) (*Record, error) {
	sig := key.Sign(identity.TagRecord, network, payload)
	raw := make([]byte, 0, 1+canon.BinLen(len(payload))+canon.BinLen(len(sig)))
	raw = canon.AppendArray(raw, 2)
	raw = canon.AppendBin(raw, payload)
	raw = canon.AppendBin(raw, sig)
	return ParseRecord(network, raw)
}

// Equal reports whether two records are the same bytes.
func (r *Record) Equal(o *Record) bool { return bytes.Equal(r.Raw, o.Raw) }
