package seal

import (
	"crypto/hkdf"
	"crypto/sha256"
)

// EpochFromSecret returns an epoch with a given secret and no record, for test
// vectors and crafted epochs.
func EpochFromSecret(network [32]byte, b Binding, secret [SecretLen]byte) *Epoch {
	id := epochID(b.Device, commit(network, &secret))
	return &Epoch{id: id, binding: b, info: messageInfo(id), secret: secret}
}

// Clone returns what a copied virtual machine would have: the same secret.
func (e *Epoch) Clone() *Epoch {
	return &Epoch{id: e.id, binding: e.binding, bin: e.bin, sealed: e.sealed, info: e.info, secret: e.secret}
}

func (e *Epoch) Secret() [SecretLen]byte  { return e.secret }
func (o *Opened) Secret() [SecretLen]byte { return o.secret }

// SealWithSalt is Seal with a salt that is not random.
func (e *Epoch) SealWithSalt(dst, body []byte, salt [16]byte) ([]byte, error) {
	return e.sealWith(dst, body, &salt)
}

// KeyNonce returns key || nonce of a message bin.
func KeyNonce(secret [SecretLen]byte, bin []byte) ([]byte, error) {
	m, err := parseMessage(bin)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, secret[:], m.salt, messageInfo(m.epoch), keyLen+nonceLen)
}

// SealSecret makes the sealed part of one entry of an epoch record.
func SealSecret(network [32]byte, id EpochID, sender, recipient []byte, key PublicKey, bound KeyID, secret []byte) ([]byte, error) {
	return hpkeSeal(key, hpkeInfo(network, id, sender, recipient, bound), secret)
}

// AddKey stores a key with a given seed in the ring, as current.
func (r *Keyring) AddKey(seed []byte, created uint64) (PublicKey, error) {
	k, err := hpkePrivate(SchemeXWing, seed)
	if err != nil {
		return PublicKey{}, err
	}
	key := &privateKey{
		public:     newPublicKey(SchemeXWing, k.PublicKey().Bytes(), created+millis(KeyLife)),
		generation: uint64(len(r.keys) + 1), created: created, private: seed,
	}
	if err := storeKey(r.dir, key); err != nil {
		return PublicKey{}, err
	}
	r.keys[key.public.ID] = key
	return key.public, nil
}

var (
	Commit       = commit
	MakeEpochID  = epochID
	MakeKeyID    = keyID
	PaddedLen    = paddedLen
	IsPaddedLen  = isPaddedLen
	AppendPadded = appendPadded
	Unpad        = unpad
)
