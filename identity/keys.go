package identity

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"

	lcrypto "github.com/libp2p/go-libp2p/core/crypto"
)

// AccountKey is an account's private key: it certifies devices and signs the
// account's own records. Safe for concurrent use, like all keys here.
type AccountKey struct {
	public PublicKey
	ed     ed25519.PrivateKey // if the type is KeyEd25519
	rsa    *rsa.PrivateKey    // if the type is KeyRSA
}

// NewAccountKey makes a random account key. rsaBits counts for KeyRSA only and
// lies within MinRSABits and MaxRSABits; large keys take seconds to make.
func NewAccountKey(t KeyType, rsaBits int) (*AccountKey, error) {
	switch t {
	case KeyEd25519:
		return accountKey(newEd25519())
	case KeyRSA:
		if rsaBits < MinRSABits || rsaBits > MaxRSABits {
			return nil, fmt.Errorf("new account key: RSA of %d bits, %d to %d are allowed", rsaBits, MinRSABits, MaxRSABits)
		}
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, fmt.Errorf("new account key: %w", err)
		}
		return accountKey(key)
	default:
		return nil, fmt.Errorf("new account key: unknown type %q, want %q or %q", string(t), KeyEd25519, KeyRSA)
	}
}

// accountKey returns the account key with the given private key.
func accountKey(private any) (*AccountKey, error) {
	switch private := private.(type) {
	case ed25519.PrivateKey:
		public, err := Ed25519Public(private.Public().(ed25519.PublicKey))
		return &AccountKey{public: public, ed: private}, err
	case *rsa.PrivateKey:
		public, err := rsaPublic(&private.PublicKey)
		return &AccountKey{public: public, rsa: private}, err
	default:
		return nil, fmt.Errorf("%w: an account's is Ed25519 or RSA, not %T", ErrWrongKind, private)
	}
}

// ID names the account.
func (k *AccountKey) ID() AccountID { return k.public.ID() }

// Type returns the algorithm.
func (k *AccountKey) Type() KeyType { return k.public.Type() }

// Public returns the public half.
func (k *AccountKey) Public() PublicKey { return k.public }

// Sign signs message for one use in one network, as Check verifies it. RSA
// costs milliseconds. It panics if the machine computes wrongly, which the RSA
// code checks for: a faulty RSA signature would give away the key.
func (k *AccountKey) Sign(tag Tag, network NetworkID, message []byte) []byte {
	signed := appendSigned(make([]byte, 0, signedPrefix+len(message)), tag, network, message)
	if k.rsa == nil {
		return ed25519.Sign(k.ed, signed)
	}
	sum := sha256.Sum256(signed)
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.rsa, crypto.SHA256, sum[:])
	if err != nil {
		panic(fmt.Sprintf("identity: a checked RSA key cannot sign: %v", err))
	}
	return signature
}

func (k *AccountKey) idText() string { return k.ID().String() }

func (k *AccountKey) private() any {
	if k.rsa != nil {
		return k.rsa
	}
	return k.ed
}

// edKey is what device, pillar and network keys have in common.
type edKey struct {
	key    ed25519.PrivateKey
	public PublicKey
}

func newEd25519() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("identity: %v", err)) // rand.Reader never fails since Go 1.24
	}
	return key
}

func newEdKey() edKey {
	k, err := ed25519Key(newEd25519())
	if err != nil {
		panic(fmt.Sprintf("identity: %v", err)) // a generated key has a prime order
	}
	return k
}

// ed25519Key checks that private is Ed25519.
func ed25519Key(private any) (edKey, error) {
	key, ok := private.(ed25519.PrivateKey)
	if !ok {
		return edKey{}, fmt.Errorf("%w: it is Ed25519, not %T", ErrWrongKind, private)
	}
	public, err := Ed25519Public(key.Public().(ed25519.PublicKey))
	return edKey{key, public}, err
}

// Sign signs message for one use in one network, as Check verifies it.
func (k edKey) Sign(tag Tag, network NetworkID, message []byte) []byte {
	return ed25519.Sign(k.key, appendSigned(make([]byte, 0, signedPrefix+len(message)), tag, network, message))
}

// Public returns the public half.
func (k edKey) Public() PublicKey { return k.public }

func (k edKey) private() any { return k.key }

// libp2p returns the key as a libp2p host takes it.
func (k edKey) libp2p() lcrypto.PrivKey {
	key, err := lcrypto.UnmarshalEd25519PrivateKey(append([]byte(nil), k.key...))
	if err != nil {
		panic(fmt.Sprintf("identity: %v", err)) // it fails on a wrong length only
	}
	return key
}

// DeviceKey is a device's private key: it signs what the device writes and is
// its libp2p host's.
type DeviceKey struct{ edKey }

// NewDeviceKey makes a random device key.
func NewDeviceKey() *DeviceKey { return &DeviceKey{newEdKey()} }

// ID names the device.
func (k *DeviceKey) ID() DeviceID { return DeviceID(k.Public().ID()) }

// Private returns the key for the device's libp2p host, nobody else.
func (k *DeviceKey) Private() lcrypto.PrivKey { return k.libp2p() }

func (k *DeviceKey) idText() string { return k.ID().String() }

// PillarKey is a pillar's private key: it signs the pillar's statements and is
// its libp2p host's.
type PillarKey struct{ edKey }

// NewPillarKey makes a random pillar key.
func NewPillarKey() *PillarKey { return &PillarKey{newEdKey()} }

// ID names the pillar.
func (k *PillarKey) ID() PillarID { return PillarID(k.Public().ID()) }

// Private returns the key for the pillar's libp2p host, nobody else.
func (k *PillarKey) Private() lcrypto.PrivKey { return k.libp2p() }

func (k *PillarKey) idText() string { return k.ID().String() }

// NetworkKey is a network's private key: it admits pillars and revokes them.
// Whoever has it can admit pillars of his own; a stolen one means a new network.
type NetworkKey struct{ edKey }

// NewNetworkKey makes a random network key, and with it a network.
func NewNetworkKey() *NetworkKey { return &NetworkKey{newEdKey()} }

// ID names the network: it is the public half.
func (k *NetworkKey) ID() NetworkID { return NetworkID(k.public.k.ed) }

func (k *NetworkKey) idText() string { return k.ID().String() }

// Admit signs that pillar belongs to the network until notAfter, in Unix
// milliseconds and at most MaxAdmissionLife from now, or nobody accepts it. A
// revocation with the same or a higher serial ends it.
func (k *NetworkKey) Admit(pillar PillarID, serial, notAfter uint64) Admission {
	a := Admission{Pillar: pillar, Serial: serial, NotAfter: notAfter}
	a.Signature = k.Sign(TagAdmission, k.ID(), a.signed())
	return a
}
