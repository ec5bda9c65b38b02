package seal

import "errors"

// Errors of sealing.
var (
	// ErrTooManyDevices: more than MaxDevices devices with a usable key; one
	// epoch record cannot hold them.
	ErrTooManyDevices = errors.New("too many devices for one epoch")
	// ErrNoSealingKey: a recipient account has no device with a usable key, so
	// nothing can be sealed to it yet.
	ErrNoSealingKey = errors.New("no device of a recipient has a usable sealing key")
	// ErrArgument: the caller passed what no record can hold: a mistake in the
	// program, not in anybody's input.
	ErrArgument = errors.New("wrong argument")
	// ErrErased: the secret was erased.
	ErrErased = errors.New("the epoch's secret is erased")
	// ErrTooLarge: a body of more than MaxBody bytes.
	ErrTooLarge = errors.New("body too large to be sealed")
)

// Errors of opening an epoch.
var (
	// ErrInvalidEpoch is wrapped by every error that means the sender made the
	// record wrongly. It will never open, on any device.
	ErrInvalidEpoch = errors.New("invalid epoch")
	// ErrCommitment: the secret sealed to us is not the one the epoch commits
	// to: its sender tells its recipients different things. Comes with
	// ErrInvalidEpoch.
	ErrCommitment = errors.New("the secret is not the one committed to")
	// ErrNotForUs: the record seals nothing to this device.
	ErrNotForUs = errors.New("not sealed to this device")
	// ErrNoKey: the record is sealed to a key that this device does not have: it
	// was erased, or belongs to a state of the disk that is gone.
	ErrNoKey = errors.New("the private sealing key is gone")
)

// Errors of opening a message.
var (
	// ErrMalformed is wrapped when bytes do not have the layout of a message's
	// or, with ErrInvalidEpoch, an epoch's bin.
	ErrMalformed = errors.New("malformed sealed part")
	// ErrBinding: the record's author, device or recipients are not the epoch's,
	// or it names another epoch. A copied ciphertext ends here.
	ErrBinding = errors.New("the record does not belong to its epoch")
	// ErrOutlives: a message that expires after its epoch, or, with
	// ErrInvalidEpoch, an epoch that expires after the key it is sealed to.
	ErrOutlives = errors.New("outlives what it is sealed with")
	// ErrNotAuthentic: the ciphertext, or a byte of the payload before it, is
	// not what the epoch's sender sealed.
	ErrNotAuthentic = errors.New("not what was sealed")
)

// Errors of the keyring's files. They come with the file's path.
var (
	// ErrDamaged: a key file does not hold what was written into it.
	ErrDamaged = errors.New("sealing key file is damaged")
	// ErrTooOpen: others than the owner have rights on a key file or directory.
	ErrTooOpen = errors.New("sealing keys are accessible to others")
)
