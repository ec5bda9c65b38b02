package identity

import (
	"bytes"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// MaxCertificateLife is the longest time between a certificate's NotBefore and
// NotAfter.
const MaxCertificateLife = 400 * 24 * time.Hour

// MaxCertificate is the length in bytes of the longest certificate on the wire,
// that of an RSA 8192 account.
const MaxCertificate = 1 + (2 + 32) + 3*9 + (3 + MaxPublicKey) + (3 + MaxRSABits/8)

// Certificate is an account's word that a device writes for it. It holds in one
// network and from NotBefore to NotAfter, both included, in Unix milliseconds.
type Certificate struct {
	Account                     AccountID
	Device                      DeviceID
	Serial, NotBefore, NotAfter uint64
	AccountKey                  []byte // marshalled; RSA accounts only, else nil: the ID holds the key
	Signature                   []byte
}

// Certify signs that device writes for the account in network, from notBefore to
// notAfter: a span of more than zero and at most MaxCertificateLife.
func (k *AccountKey) Certify(network NetworkID, device DeviceID, serial, notBefore, notAfter uint64) (*Certificate, error) {
	c := &Certificate{Account: k.ID(), Device: device, Serial: serial, NotBefore: notBefore, NotAfter: notAfter}
	if k.public.IsRSA() {
		c.AccountKey = k.public.Marshal()
	}
	if _, err := DeviceFromBytes([]byte(device)); err != nil {
		return nil, fmt.Errorf("certify: %w", err)
	}
	if err := c.checkSpan(); err != nil {
		return nil, fmt.Errorf("certify: %w", err)
	}
	c.Signature = k.Sign(TagCertificate, network, c.signed())
	return c, nil
}

// signed returns the message that the account signs: an array of 5.
func (c *Certificate) signed() []byte {
	b := canon.AppendArray(make([]byte, 0, 128), 5)
	b = canon.AppendBin(b, c.Account)
	b = canon.AppendBin(b, c.Device.Ed25519Key())
	b = canon.AppendUint(b, c.Serial)
	b = canon.AppendUint(b, c.NotBefore)
	return canon.AppendUint(b, c.NotAfter)
}

// Append appends c's wire form, an array of 6:
//
//	device key   bin, 32 bytes: the raw Ed25519 key
//	serial       uint
//	not before   uint, Unix milliseconds
//	not after    uint, Unix milliseconds
//	account key  bin: the marshalled key if it is RSA, else empty
//	signature    bin: 64 bytes for Ed25519, as long as the modulus for RSA
//
// The account is not in it: wherever a certificate stands, its account stands
// beside it. The first byte is 0x96 and so never that of a marshalled public key,
// which is 0x08; a field that may hold either is told apart by it.
func (c *Certificate) Append(b []byte) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendBin(b, c.Device.Ed25519Key())
	b = canon.AppendUint(b, c.Serial)
	b = canon.AppendUint(b, c.NotBefore)
	b = canon.AppendUint(b, c.NotAfter)
	b = canon.AppendBin(b, c.AccountKey)
	return canon.AppendBin(b, c.Signature)
}

// ParseCertificate reads the wire form of a certificate of account. It checks
// all but the signature, which is Check's: shape, bounds, span, keys, and that
// an RSA key is the account's. The result keeps nothing of b. Errors wrap
// ErrBadCertificate.
func ParseCertificate(account AccountID, b []byte) (*Certificate, error) {
	if len(b) > MaxCertificate {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrBadCertificate, len(b), MaxCertificate)
	}
	c := &Certificate{Account: account}
	r := canon.MakeReader(b)
	r.Array(6)
	device := r.BinExact(32)
	c.Serial, c.NotBefore, c.NotAfter = r.Uint(), r.Uint(), r.Uint()
	accountKey := r.Bin(MaxPublicKey)
	signature := r.Bin(MaxRSABits / 8)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	var err error
	if c.Device, err = DeviceFromKey(device); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	if len(accountKey) > 0 {
		c.AccountKey = bytes.Clone(accountKey)
	}
	c.Signature = bytes.Clone(signature)
	if err := c.checkSpan(); err != nil {
		return nil, err
	}
	if _, err := c.key(); err != nil {
		return nil, err
	}
	return c, nil
}

// Check returns the check of c's signature in network. It fails, wrapping
// ErrBadCertificate, on what ParseCertificate refuses. Times are no part of it,
// see Covers.
func (c *Certificate) Check(network NetworkID) (Check, error) {
	if err := c.checkSpan(); err != nil {
		return Check{}, err
	}
	key, err := c.key()
	if err != nil {
		return Check{}, err
	}
	return Check{Key: key, Tag: TagCertificate, Network: network, Message: c.signed(), Signature: c.Signature}, nil
}

// Covers reports whether the Unix millisecond ms lies in c's span.
func (c *Certificate) Covers(ms uint64) bool { return c.NotBefore <= ms && ms <= c.NotAfter }

func (c *Certificate) checkSpan() error {
	switch {
	case c.NotBefore >= c.NotAfter:
		return fmt.Errorf("%w: not after is not later than not before", ErrBadCertificate)
	case c.NotAfter-c.NotBefore > uint64(MaxCertificateLife.Milliseconds()):
		return fmt.Errorf("%w: %w: more than %d days", ErrBadCertificate, ErrTooLongLived, MaxCertificateLife/(24*time.Hour))
	}
	return nil
}

// key returns the account's public key: from the ID, or from AccountKey if that
// is the account's.
func (c *Certificate) key() (PublicKey, error) {
	var key PublicKey
	var err error
	if ed := c.Account.Ed25519Key(); ed != nil {
		if len(c.AccountKey) > 0 {
			return PublicKey{}, fmt.Errorf("%w: a key beside an ID that holds it", ErrBadCertificate)
		}
		key, err = Ed25519Public(ed)
	} else {
		key, err = ParsePublicKey(c.AccountKey)
	}
	switch {
	case err != nil:
		return PublicKey{}, fmt.Errorf("%w: account key: %w", ErrBadCertificate, err)
	case key.ID() != c.Account:
		return PublicKey{}, fmt.Errorf("%w: the account key is another account's", ErrBadCertificate)
	case len(c.Signature) != key.SignatureLen():
		return PublicKey{}, fmt.Errorf("%w: signature of %d bytes, %d expected", ErrBadCertificate, len(c.Signature), key.SignatureLen())
	}
	return key, nil
}
