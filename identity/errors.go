package identity

import "errors"

// Errors a caller branches on. ErrBadID is in id.go.
var (
	// ErrBadKey: a public key that is malformed, of a kind or size that is not
	// allowed, not in its one canonical form, or of small order.
	ErrBadKey = errors.New("not an acceptable key")
	// ErrBadCertificate: a certificate that is malformed, out of its bounds or
	// of another account.
	ErrBadCertificate = errors.New("not a valid certificate")
	// ErrBadAdmission: an admission that is malformed.
	ErrBadAdmission = errors.New("not a valid admission")
	// ErrSignature: a signature that its claimed signer did not make, for this
	// network and this use.
	ErrSignature = errors.New("wrong signature")
	// ErrExpired: a time limit has passed.
	ErrExpired = errors.New("expired")
	// ErrTooLongLived: a time limit lies further ahead than is allowed.
	ErrTooLongLived = errors.New("lives too long")

	// ErrExists: a file that may not be replaced is already there.
	ErrExists = errors.New("already exists and is never overwritten")
	// ErrTooOpen: others than the owner have rights on a key file.
	ErrTooOpen = errors.New("key file is accessible to others")
	// ErrDamaged: a key file does not hold what was written into it.
	ErrDamaged = errors.New("key file is damaged")
	// ErrWrongKind: a sound key file that holds another kind of key.
	ErrWrongKind = errors.New("wrong kind of key")
)
