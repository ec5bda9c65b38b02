// Package identity is who is who: the private keys of accounts, devices,
// pillars and networks and their files, the public keys and IDs that follow from
// them, and what they sign: certificates, admissions, and anything else under a
// tag of its own. It is one of the two audit boundaries (seal is the other) and
// imports nothing of Obelisk but the codec.
//
// It is not a directory: it does not know who exists, who was removed or revoked,
// or what time it is. It does not encrypt (seal does), and it decides nothing but
// whether bytes are what they claim to be.
//
//	account, created, err := identity.LoadOrCreateAccountKey("account.key", identity.KeyEd25519, 0)
//	device, _, err := identity.LoadOrCreateDeviceKey("device.key")
//	cert, err := account.Certify(network, device.ID(), serial, notBefore, notAfter)
//	signature := device.Sign(identity.TagRecord, network, payload)
//
// and on the other side, where all of it arrives as bytes:
//
//	cert, err := identity.ParseCertificate(author, wire) // shape, bounds, keys
//	certCheck, err := cert.Check(network)
//	key, err := identity.Ed25519Public(cert.Device.Ed25519Key())
//	checks := []identity.Check{
//		certCheck,
//		{Key: key, Tag: identity.TagRecord, Network: network, Message: payload, Signature: signature},
//	}
//	verifier.Verify(checks, ok) // a BatchVerifier; every verdict is what Verify says
//	good := ok[0] && ok[1] && cert.Covers(created)
//
// # Rules
//
// Ed25519 signatures are judged by ZIP-215, single or in a batch, and by nothing
// else: the standard library, libp2p and batches disagree on crafted signatures,
// and pillars that disagree about one record never converge. Keys of small order
// and in other than their canonical encoding are no keys. RSA is PKCS#1 v1.5 with
// SHA-256, 2048 to 8192 bits, e = 65537, in the one form that libp2p writes.
//
// All randomness comes from crypto/rand. All times are unsigned Unix
// milliseconds. Keys in memory are not wiped: Go may copy them at any time.
package identity
