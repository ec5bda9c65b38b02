// Package seal encrypts what accounts write to each other, from device to
// device, and keeps the keys for that. It takes and returns bytes: what a
// record is, who signed it, who may read it and whether the clock is right,
// its callers know. It uses the standard library's cryptography only.
//
// A sending device:
//
//	epoch, err := seal.NewEpoch(network, sender, to, devices, now, lifetime)
//	// publish a record with epoch.Binding() and epoch.Bin(), then for each message
//	payload := … // up to and with canon.AppendBinLen(payload, seal.SealedLen(len(body)))
//	payload, err = epoch.Seal(payload, body)
//	// before each: policy.Check(epoch, now, devices) == seal.Keep
//
// A receiving device:
//
//	ring, err := seal.OpenKeyring(dir) // publishes Current, calls Rotate and Erase
//	opened, err := seal.OpenEpoch(network, bindingOfEpochRecord, bin, self, ring)
//	body, err := opened.Open(bindingOfMessage, payload, offsetOfBin)
//
// # Notation
//
// a || b is concatenation. Values in brackets are lists in the canonical
// msgpack of package canon: list headers, integers and byte strings ("bin",
// with a number if its length is fixed) in their shortest form, nothing after
// the last value. uint64 in a hash is 8 bytes big-endian. A tag is ASCII padded
// with NUL to 16 bytes. SHA-256(…)[:n] is the first n bytes. Times are Unix
// milliseconds. network is the network's 32-byte public key; device IDs are the
// 38-byte raw peer IDs of Ed25519 keys, account IDs raw peer IDs of 38 or 34
// bytes. All parts of everything hashed, and of every info, have fixed lengths.
//
// # Sealing keys
//
// The scheme says how something is sealed to a key. There is one:
//
//	scheme 1: HPKE (RFC 9180), mode base,
//	          KEM 0x647a MLKEM768-X25519 (X-Wing), KDF 1 HKDF-SHA256, AEAD 2 AES-256-GCM;
//	          public key 1,216 bytes, private key the 32-byte seed, enc 1,120 bytes
//
//	key ID = SHA-256("obk1 seal key id" || scheme as uint64 || public key)[:8]
//	as published in a device record = [scheme, public key bin, until]
//
// A device makes a key every 24 h, publishes the newest with until = created +
// 32 days, and erases the private key at until, never while its clock is
// unconfirmed. A key is usable until `until`; when the message goes to several
// accounts (`to` has more than one), only while at least 48 h are left. A device
// whose key is not usable, of an unknown scheme, or not a key at all (a point
// of small order, coefficients out of range) is left out. An account without
// any other device cannot be sealed to, unless it is the sender's own and stands
// in `to` beside others.
//
// # Epochs
//
// A sender device draws a random 32-byte secret for one `to` and one set of at
// most 40 devices, and keeps it in memory only.
//
//	commitment = SHA-256("obk1 seal commit" || network || secret)
//	epoch ID   = SHA-256("obk1 seal epoch" || sender device || commitment)[:20]
//
//	bin of the epoch record = [epoch ID bin20, commitment bin32, entries]
//	entries = list of 1 to 40 [device bin38, key ID bin8, sealed bin], device strictly ascending
//	sealed  = HPKE enc || ciphertext of the secret, with empty AAD, 1,168 bytes in scheme 1, and
//	info    = "obk1 seal hpke" || network || epoch ID || sender device || device || key ID
//
// The bin has at most 49,152 bytes, sealed of unknown schemes at most 4,096.
// The record is signed by the sender device and carries the whole `to`; it
// expires no later than the `until` of any key it is sealed to, and no later
// than 32 days after it was made.
//
// A receiver refuses the epoch unless the epoch ID is the one computed from the
// record's signing device and the commitment, the record expires no later than
// the key it is sealed to, sealed opens to 32 bytes, and the commitment is the
// one computed from these (compared in constant time). So all recipients of an
// epoch have one secret, or see that they have not. The network is in the
// commitment, and through the ID in everything below, so nothing of one network
// means anything in another; the sender is in the ID, so a recipient who passes
// the secret on as its own makes another epoch with other keys. Author and `to`
// are not in the info: the signing device stands for them, since only it could
// sign a second epoch record with the same ID.
//
// An epoch is sealed with for at most 24 h, not after a restart, not after the
// clock went back behind its making, not after a device was removed, and not
// after one was added, except that the additions of one account end an epoch
// at most once an hour.
//
// # Messages
//
//	bin of the message = [epoch ID bin20, salt bin16, ciphertext bin]
//
// The bin is the last value of the record's payload, so the ciphertext is its
// last bytes. salt is random for every message.
//
//	key (32 bytes) || nonce (12) = HKDF-SHA256(ikm = secret, salt = salt,
//	                                          info = "obk1 seal msg" || epoch ID, L = 44)
//	ciphertext = AES-256-GCM(key, nonce, padded body, AD), tag of 16 bytes at its end
//	AD = every byte of the payload before the ciphertext: all fields, the header
//	     of the bin, epoch ID, salt, and the header of the ciphertext
//
// No counter, clock or file takes part in the nonce: a restart, a restored
// backup and a cloned machine make no key-nonce pair twice. AES-GCM does not
// commit to its key, but the salt is in clear and the epoch ID commits to the
// secret, so a ciphertext has one key.
//
// Padding: body || 0x80 || 0x00…, to C + 17 bytes, where C is the smallest of
//
//	64, 128, 192, 256, and for every power of two p from 256 to 131,072:
//	p + p/4, p + p/2, p + 3p/4, 2p
//
// with C + 16 ≥ length of the body, which is at most 262,160 bytes (256 KiB and
// 16 for what frames it). A receiver takes nothing else: not a length that is no
// C + 17, not a body that has a smaller C. 60 bytes beside the padded body,
// fewer for the smallest.
//
// A receiver opens a message only if its record's author, signing device and
// `to` are the epoch record's, it names the epoch's ID, and it expires no later
// than the epoch record.
//
// # What this gives, and what not
//
// Whoever steals a device opens what was sealed to it in the last 32 days, and
// nothing that is sealed after its next rotation and one epoch. Bodies stay
// secret from who records them now and has a quantum computer later; signatures
// are Ed25519 or RSA and do not resist one. Everybody sees who writes to whom,
// from and to which devices, when, and the size class. A sender can still seal
// rubbish to one of its recipients; that one knows it cannot read. The ID's 160
// bits mean that a sender who spends 2^80 work on it can find two secrets with
// one epoch ID and tell its own recipients different things; for everybody else
// it is 2^160.
//
// Erasing is what the operating system makes of it. Secrets are zeroed where
// this package holds them, not in memory the standard library used on the way.
//
// # Test vectors
//
// testdata/messages.json has every step of the symmetric part with a fixed
// salt, testdata/epochs.json epoch records sealed to a fixed private key that
// must or must not open, testdata/padding.json the first and last body length
// of every size class with its padded length.
package seal
