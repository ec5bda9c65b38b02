package identity

import "crypto/sha256"

// Tag separates the uses of hashes and signatures: what is hashed or signed
// for one use always starts with that use's tag, so it can never be taken for
// another's. A tag is ASCII, starts with "obk1" and is padded with NUL to its
// fixed length, so none is a prefix of another.
type Tag [16]byte

// The tags of protocol version 1; seal has more of its own. They are constants
// in all but syntax. A new use gets a new tag; none ever changes its meaning.
var (
	TagRecordID    = newTag("obk1 record id")   // hash: a record's ID
	TagRecord      = newTag("obk1 record")      // signature: a record's payload
	TagCertificate = newTag("obk1 certificate") // signature: account key for a device
	TagAdmission   = newTag("obk1 admission")   // signature: network key for a pillar
	TagHead        = newTag("obk1 head")        // signature: a log's newest position
	TagSummary     = newTag("obk1 summary")     // signature: what a pillar holds
	TagPresence    = newTag("obk1 presence")    // signature: where a device is connected
	TagLocate      = newTag("obk1 locate")      // signature: a device's question where an account is
	TagMember      = newTag("obk1 member")      // signature: a pillar's memberlist meta
	TagLogID       = newTag("obk1 log id")      // hash: a log's ID
	TagLogChain    = newTag("obk1 log chain")   // hash: a log's chain
	TagVector      = newTag("obk1 vector")      // hash: a vector
	TagShortKey    = newTag("obk1 short key")   // hash: terms of digests, and the key's name
)

func newTag(name string) (t Tag) {
	if copy(t[:], name) != len(name) {
		panic("identity: tag " + name + " is too long")
	}
	return t
}

// String returns the tag without its padding.
func (t Tag) String() string {
	n := len(t)
	for n > 0 && t[n-1] == 0 {
		n--
	}
	return string(t[:n])
}

// Hash returns SHA-256 over the tag and the parts, concatenated. Nothing
// stands between the parts: all but one must have a length that the use fixes.
func Hash(tag Tag, parts ...[]byte) [32]byte {
	h := sha256.New()
	h.Write(tag[:])
	for _, p := range parts {
		h.Write(p)
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}
