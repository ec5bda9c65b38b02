package seal

// Every hash and key derivation of this package starts with its use's tag:
// ASCII, padded with NUL to 16 bytes. No tag is ever used for anything else.
const (
	tagKeyID   = "obk1 seal key id"          // hash: a sealing key's ID
	tagCommit  = "obk1 seal commit"          // hash: an epoch's commitment
	tagEpochID = "obk1 seal epoch\x00"       // hash: an epoch's ID
	tagHPKE    = "obk1 seal hpke\x00\x00"    // HPKE info: a secret for a device
	tagMessage = "obk1 seal msg\x00\x00\x00" // HKDF info: a message's key and nonce
	tagKeyFile = "obk1 seal file\x00\x00"    // first bytes of a private key's file
)

const tagLen = 16

// The tags have one length, or this does not compile.
var _ = [1]struct{}{}[len(tagKeyID)^tagLen|len(tagCommit)^tagLen|len(tagEpochID)^tagLen|
	len(tagHPKE)^tagLen|len(tagMessage)^tagLen|len(tagKeyFile)^tagLen]
