package identity

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"

	"github.com/hdevalence/ed25519consensus"
)

// What is signed is always
//
//	tag(16) || network(32) || message
//
// so a signature holds for one use in one network only.
const signedPrefix = len(Tag{}) + len(NetworkID{})

// appendSigned appends what is signed for message.
func appendSigned(b []byte, tag Tag, network NetworkID, message []byte) []byte {
	b = append(b, tag[:]...)
	b = append(b, network[:]...)
	return append(b, message...)
}

// Check is a signature to be verified: that Key signed Message for the use Tag
// in Network.
type Check struct {
	Key       PublicKey
	Tag       Tag
	Network   NetworkID
	Message   []byte
	Signature []byte
}

// Verify reports whether c holds: Ed25519 by the rules of ZIP-215
// (https://zips.z.cash/zip-0215), RSA by PKCS#1 v1.5 with SHA-256. It gives the
// same answer as a BatchVerifier, on every machine.
//
// The standard library's Ed25519 check must not be used for anything Obelisk
// verifies: it refuses some signatures that batches accept, and what is valid
// at one pillar only keeps the network from ever agreeing.
func Verify(c *Check) bool {
	if len(c.Signature) != c.Key.SignatureLen() || c.Key.IsZero() {
		return false
	}
	switch c.Key.Type() {
	case KeyEd25519:
		signed := appendSigned(make([]byte, 0, signedPrefix+len(c.Message)), c.Tag, c.Network, c.Message)
		return ed25519consensus.Verify(c.Key.k.ed[:], signed, c.Signature)
	case KeyRSA:
		return verifyRSA(c)
	default:
		return false
	}
}

func verifyRSA(c *Check) bool {
	h := sha256.New()
	h.Write(c.Tag[:])
	h.Write(c.Network[:])
	h.Write(c.Message)
	var sum [32]byte
	h.Sum(sum[:0])
	return rsa.VerifyPKCS1v15(c.Key.k.rsa, crypto.SHA256, sum[:], c.Signature) == nil
}
