package overlay

import (
	"errors"
	"fmt"
	"time"
)

// Code is a machine-readable reason. Codes travel on the wire and stand in
// JSON; they never change their meaning.
type Code string

// Refusals that keep a message queued: it is tried again, elsewhere too.
const (
	CodeBusy         Code = "busy"
	CodeFull         Code = "full"
	CodeDraining     Code = "draining"
	CodeClockWrong   Code = "clock_wrong"
	CodeUnreachable  Code = "unreachable"
	CodeQuota        Code = "quota"
	CodeNoSealingKey Code = "no_sealing_key" // never on the wire: the sender found it out itself
	CodeNoNetwork    Code = "no_network"     // nor this: no network is pinned yet
)

// Refusals that make a message rejected: no pillar will ever take it.
const (
	CodeInvalid            Code = "invalid"
	CodeTooLarge           Code = "too_large"
	CodeTooLongLived       Code = "too_long_lived"
	CodeRemovedDevice      Code = "removed_device"
	CodeBlocked            Code = "blocked"
	CodeRegistrationClosed Code = "registration_closed"
	CodeTooManyDevices     Code = "too_many_devices" // found out by the sender itself
)

// Other codes, of connections and local calls.
const (
	CodeWrongNetwork Code = "wrong_network"
	CodeNotAdmitted  Code = "not_admitted"
	CodeWrongPeer    Code = "wrong_peer" // never on the wire: somebody else answers at an address
	CodeNotFound     Code = "not_found"
	CodeBadRequest   Code = "bad_request"
)

// Final reports whether the refusal is for ever: sending the same record
// again, here or elsewhere, can only be refused again.
func (c Code) Final() bool {
	switch c {
	case CodeInvalid, CodeTooLarge, CodeTooLongLived, CodeRemovedDevice, CodeBlocked,
		CodeRegistrationClosed, CodeTooManyDevices:
		return true
	default:
		return false
	}
}

// Error is a refusal: what code, and in words for a person. errors.Is compares
// the code alone, so errors.Is(err, &Error{Code: CodeBusy}) works.
type Error struct {
	Code  Code
	Text  string
	Retry time.Duration // when to try again; 0: the caller decides
}

func (e *Error) Error() string {
	if e.Text == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Text
}

// Is reports whether target is an Error of the same code and, if it has a
// text, the same text.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Text == "" || t.Text == e.Text)
}

// Refuse returns an Error.
func Refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the Error in err's chain, CodeInvalid for any
// other error, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInvalid
}

// Reasons why bytes are no valid record; each is wrapped by an Error with code
// invalid, too_large or too_long_lived.
var (
	ErrShape       = errors.New("malformed record")
	ErrSignature   = errors.New("wrong signature")
	ErrCertificate = errors.New("wrong certificate")
	ErrLife        = errors.New("wrong life")
	ErrSize        = errors.New("too large")
)

// Invalid is the error of bytes that are no valid record. It unwraps to one of
// the reasons above.
type Invalid struct {
	Code   Code
	Reason error
	Detail string
}

func (e *Invalid) Error() string {
	if e.Detail == "" {
		return e.Reason.Error()
	}
	return e.Reason.Error() + ": " + e.Detail
}

// Unwrap returns the reason and the refusal it leads to.
func (e *Invalid) Unwrap() []error {
	return []error{e.Reason, &Error{Code: e.Code, Text: e.Error()}}
}

func invalid(reason error, format string, args ...any) *Invalid {
	code := CodeInvalid
	if reason == ErrSize {
		code = CodeTooLarge
	}
	return &Invalid{Code: code, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
