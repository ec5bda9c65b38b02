package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// A message's bin, the last value of its payload:
//
//	[epoch ID bin20, salt bin16, ciphertext bin]
//
//	key (32) || nonce (12) = HKDF-SHA256(secret, salt, tag || epoch ID)
//	ciphertext = AES-256-GCM(key, nonce, padded body, AD = the payload before it)
//
// The salt is random for every message and the nonce has no other source: no
// counter, no clock and nothing on disk takes part, so no restart, backup or
// copy of a machine can make one key-nonce pair twice. Under one secret, 2^48
// messages have a chance of 2^-33 to share a salt.
const (
	saltLen  = 16
	keyLen   = 32
	nonceLen = 12
	gcmTag   = 16

	// messageHeader is what stands before the ciphertext's header.
	messageHeader = 1 + 2 + len(EpochID{}) + 2 + saltLen
)

// SealedLen returns the size in bytes of the message bin for a body of n
// bytes, known before it is sealed because the header of the bin, with this
// length, is authenticated too.
func SealedLen(n int) int {
	return messageHeader + canon.BinLen(paddedLen(n)+gcmTag)
}

// Seal seals body and returns dst with the message bin appended. dst must be
// the record's payload from its first byte to the header of its last bin, made
// with canon.AppendBinLen(…, SealedLen(len(body))); all of it is authenticated.
// The caller sees to it that the payload says what Binding says and expires no
// later than Expires. The result shares dst's memory if that has room.
//
// Errors: ErrTooLarge, ErrErased, ErrArgument.
func (e *Epoch) Seal(dst, body []byte) ([]byte, error) {
	var salt [saltLen]byte
	rand.Read(salt[:]) // never fails
	return e.sealWith(dst, body, &salt)
}

func (e *Epoch) sealWith(dst, body []byte, salt *[saltLen]byte) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("seal: %w: %d bytes, at most %d are allowed", ErrTooLarge, len(body), MaxBody)
	}
	var header [5]byte
	if !bytes.HasSuffix(dst, canon.AppendBinLen(header[:0], SealedLen(len(body)))) {
		return nil, fmt.Errorf("seal: %w: the payload does not end in the header of a bin of %d bytes", ErrArgument, SealedLen(len(body)))
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.erased {
		return nil, fmt.Errorf("seal: %w", ErrErased)
	}
	aead, nonce, err := messageKey(&e.secret, salt[:], e.info)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	padded := paddedLen(len(body))
	dst = slices.Grow(dst, SealedLen(len(body)))
	dst = canon.AppendArray(dst, 3)
	dst = canon.AppendBin(dst, e.id[:])
	dst = canon.AppendBin(dst, salt[:])
	dst = canon.AppendBinLen(dst, padded+gcmTag)
	ad := dst
	dst = appendPadded(dst, body)
	return aead.Seal(ad, nonce, dst[len(ad):], ad), nil // in place
}

// MessageEpoch returns the epoch that a message's bin names, so that it can be
// looked for. It checks the layout of the bin and opens nothing.
func MessageEpoch(bin []byte) (EpochID, error) {
	m, err := parseMessage(bin)
	return m.epoch, err
}

// sealedMessage is a message's bin in its parts, which share its memory.
type sealedMessage struct {
	epoch      EpochID
	salt       []byte
	ciphertext []byte
}

func parseMessage(bin []byte) (m sealedMessage, err error) {
	r := canon.MakeReader(bin)
	r.Array(3)
	copy(m.epoch[:], r.BinExact(len(m.epoch)))
	m.salt = r.BinExact(saltLen)
	m.ciphertext = r.Bin(paddedLen(MaxBody) + gcmTag)
	if err := r.End(); err != nil {
		return sealedMessage{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !isPaddedLen(len(m.ciphertext) - gcmTag) {
		return sealedMessage{}, fmt.Errorf("%w: a ciphertext of %d bytes", ErrMalformed, len(m.ciphertext))
	}
	return m, nil
}

// open returns the body of a message whose payload, up to the ciphertext, is
// ad.
func (m *sealedMessage) open(secret *[SecretLen]byte, info string, ad []byte) ([]byte, error) {
	aead, nonce, err := messageKey(secret, m.salt, info)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nonce, m.ciphertext, ad)
	if err != nil {
		return nil, ErrNotAuthentic
	}
	n, ok := unpad(plain)
	if !ok {
		return nil, fmt.Errorf("%w: wrong padding", ErrMalformed)
	}
	return plain[:n:n], nil
}

// messageInfo is the HKDF info of an epoch's messages.
func messageInfo(id EpochID) string { return tagMessage + string(id[:]) }

// messageKey derives a message's cipher and nonce.
func messageKey(secret *[SecretLen]byte, salt []byte, info string) (cipher.AEAD, []byte, error) {
	km, err := hkdf.Key(sha256.New, secret[:], salt, info, keyLen+nonceLen)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(km[:keyLen])
	clear(km[:keyLen])
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, km[keyLen:], err
}
