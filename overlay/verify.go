package overlay

import (
	"crypto/sha256"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Verifier checks the signatures of one network's records. It remembers
// certificates that were right, so a device's certificate costs one signature
// check, not one per record. It is safe for concurrent use.
type Verifier struct {
	network identity.NetworkID
	pool    sync.Pool // of *verifyScratch

	mu sync.Mutex
	// recent and older are two generations of accepted certificates by the hash
	// of (author, certificate); when recent is full it becomes older. Only
	// verified ones enter: nothing negative is ever cached. Guarded by mu.
	recent, older map[[32]byte]*knownCertificate
}

// certificatesKept bounds each generation of the certificate cache.
const certificatesKept = 8192

// errUnsigned is the only error of Verify that another signature over the same
// payload, which has the same ID, could mend.
var errUnsigned error = invalid(ErrSignature, "the signature does not match the record")

type knownCertificate struct {
	cert *identity.Certificate
	key  identity.PublicKey // the device's
}

type verifyScratch struct {
	batch  identity.BatchVerifier
	checks []identity.Check
	ok     []bool
	index  []int
	certs  []*knownCertificate
}

// NewVerifier returns a Verifier of network's records.
func NewVerifier(network identity.NetworkID) *Verifier {
	v := &Verifier{network: network, recent: map[[32]byte]*knownCertificate{}}
	v.pool.New = func() any { return new(verifyScratch) }
	return v
}

// Network is whose records it checks.
func (v *Verifier) Network() identity.NetworkID { return v.network }

// Parse reads one record and checks all but its signatures.
func (v *Verifier) Parse(raw []byte) (*Record, error) { return ParseRecord(v.network, raw) }

// Mendable reports whether the payload of bytes that are no record would be one
// with another signature beside it.
func (v *Verifier) Mendable(raw []byte) bool {
	r := canon.MakeReader(raw)
	r.Array(2)
	payload := r.Bin(MaxRecord)
	if r.Err() != nil {
		return false
	}
	other := canon.AppendArray(make([]byte, 0, len(payload)+128), 2)
	other = canon.AppendBin(other, payload)
	other = canon.AppendBin(other, make([]byte, 64))
	_, err := v.Parse(other)
	return err == nil
}

// Verify checks the signatures of parsed records, together because that costs
// half: errs[i] becomes nil if recs[i] is valid, else an *Invalid. Entries of
// recs that are nil are passed over. One bad signature does not touch its
// neighbours. len(errs) must be len(recs).
func (v *Verifier) Verify(recs []*Record, errs []error) {
	s := v.pool.Get().(*verifyScratch)
	defer v.pool.Put(s)
	v.verifyCertificates(s, recs, errs)
	s.checks, s.index = s.checks[:0], s.index[:0]
	for i, r := range recs {
		if r == nil || errs[i] != nil {
			continue
		}
		key, err := v.keyOf(r, s.certs[i])
		if err != nil {
			errs[i] = err
			continue
		}
		s.checks = append(s.checks, identity.Check{Key: key, Tag: identity.TagRecord,
			Network: v.network, Message: r.payload, Signature: r.signature})
		s.index = append(s.index, i)
	}
	s.run()
	for j, i := range s.index {
		if !s.ok[j] {
			errs[i] = errUnsigned
		}
	}
	clear(s.certs)
	clear(s.checks)
}

// VerifyOne is Verify for a single record.
func (v *Verifier) VerifyOne(r *Record) error {
	errs := [1]error{}
	v.Verify([]*Record{r}, errs[:])
	return errs[0]
}

// Certificate returns the verified certificate under which r was signed. Only
// for records that Verify found valid; nil if its author's own key signed it.
func (v *Verifier) Certificate(r *Record) *identity.Certificate {
	if !r.Certified() {
		return nil
	}
	cert, err := identity.ParseCertificate(r.Account(), r.Signer)
	if err != nil {
		return nil
	}
	return cert
}

// Device returns the device that signed r, without checking anything; "" if
// r is not certified.
func (r *Record) Device() identity.DeviceID {
	if !r.Certified() {
		return ""
	}
	cert, err := identity.ParseCertificate(r.Account(), r.Signer)
	if err != nil {
		return ""
	}
	return cert.Device
}

// verifyCertificates fills s.certs for the certified records and sets errs for
// those whose certificate is wrong.
func (v *Verifier) verifyCertificates(s *verifyScratch, recs []*Record, errs []error) {
	s.certs = append(s.certs[:0], make([]*knownCertificate, len(recs))...)
	s.checks, s.index = s.checks[:0], s.index[:0]
	var fresh map[[32]byte]int // certificate hash to index of the record that carries it first
	for i, r := range recs {
		errs[i] = nil
		if r == nil || !r.Certified() {
			continue
		}
		id := certificateHash(r.Author, r.Signer)
		if known := v.lookup(id); known != nil {
			s.certs[i] = known
			continue
		}
		if j, again := fresh[id]; again {
			s.certs[i], errs[i] = s.certs[j], errs[j]
			continue
		}
		known, check, err := v.parseCertificate(r.Account(), r.Signer)
		if fresh == nil {
			fresh = make(map[[32]byte]int)
		}
		fresh[id] = i
		if err != nil {
			errs[i] = err
			continue
		}
		s.certs[i] = known
		s.checks = append(s.checks, check)
		s.index = append(s.index, i)
	}
	if len(s.checks) == 0 {
		return
	}
	s.run()
	bad := map[*knownCertificate]bool{}
	for j, i := range s.index {
		if s.ok[j] {
			v.remember(certificateHash(recs[i].Author, recs[i].Signer), s.certs[i])
		} else {
			bad[s.certs[i]] = true
		}
	}
	for i := range recs {
		if s.certs[i] != nil && bad[s.certs[i]] {
			errs[i] = invalid(ErrCertificate, "not signed by the account for this network")
		}
	}
}

// CheckCertificate verifies that account signed the certificate raw for this
// network. Times are not looked at. One that was right before costs no signature
// check.
func (v *Verifier) CheckCertificate(account identity.AccountID, raw []byte) (*identity.Certificate, error) {
	id := certificateHash(string(account), raw)
	if known := v.lookup(id); known != nil {
		return known.cert, nil
	}
	known, check, err := v.parseCertificate(account, raw)
	if err != nil {
		return nil, err
	}
	if !identity.Verify(&check) {
		return nil, invalid(ErrCertificate, "not signed by the account for this network")
	}
	v.remember(id, known)
	return known.cert, nil
}

func (v *Verifier) parseCertificate(account identity.AccountID, raw []byte) (*knownCertificate, identity.Check, error) {
	cert, err := identity.ParseCertificate(account, raw)
	if err != nil {
		return nil, identity.Check{}, invalid(ErrCertificate, "%v", err)
	}
	check, err := cert.Check(v.network)
	if err != nil {
		return nil, identity.Check{}, invalid(ErrCertificate, "%v", err)
	}
	key, err := identity.Ed25519Public(cert.Device.Ed25519Key())
	if err != nil {
		return nil, identity.Check{}, invalid(ErrCertificate, "device key: %v", err)
	}
	return &knownCertificate{cert: cert, key: key}, check, nil
}

// keyOf returns the key that must have signed r.
func (v *Verifier) keyOf(r *Record, known *knownCertificate) (identity.PublicKey, error) {
	if known != nil {
		if !known.cert.Covers(r.Created) {
			return identity.PublicKey{}, invalid(ErrCertificate, "it does not cover the time of the record")
		}
		return known.key, nil
	}
	if pub := r.Account().Ed25519Key(); pub != nil {
		if len(r.Signer) != 0 {
			return identity.PublicKey{}, invalid(ErrShape, "a signer key that the author's ID holds already")
		}
		key, err := identity.Ed25519Public(pub)
		if err != nil {
			return key, invalid(ErrSignature, "%v", err)
		}
		return key, nil
	}
	key, err := identity.ParsePublicKey(r.Signer)
	if err != nil {
		return key, invalid(ErrSignature, "author's key: %v", err)
	}
	if !key.IsRSA() || key.ID() != r.Account() {
		return key, invalid(ErrSignature, "the signer's key is not the author's")
	}
	return key, nil
}

func (s *verifyScratch) run() {
	if cap(s.ok) < len(s.checks) {
		s.ok = make([]bool, len(s.checks))
	}
	s.ok = s.ok[:len(s.checks)]
	s.batch.Verify(s.checks, s.ok)
}

// certificateHash names (author, certificate). The author's ID delimits
// itself: its first bytes say its length.
func certificateHash(author string, certificate []byte) [32]byte {
	var buf [identity.Ed25519IDLen + identity.MaxCertificate]byte
	return sha256.Sum256(append(append(buf[:0], author...), certificate...))
}

func (v *Verifier) lookup(id [32]byte) *knownCertificate {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.recent[id]; c != nil {
		return c
	}
	c := v.older[id]
	if c != nil {
		v.keep(id, c)
	}
	return c
}

func (v *Verifier) remember(id [32]byte, c *knownCertificate) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(id, c)
}

// keep stores c in the newest generation. v.mu is held.
func (v *Verifier) keep(id [32]byte, c *knownCertificate) {
	if len(v.recent) >= certificatesKept {
		v.older, v.recent = v.recent, make(map[[32]byte]*knownCertificate, certificatesKept)
	}
	v.recent[id] = c
}
