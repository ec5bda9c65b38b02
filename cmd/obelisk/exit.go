package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Exit codes.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNotRunning = 3 // or unreachable
	exitRefused    = 4 // policy, quota, signature
	exitNotFound   = 5
	exitTimedOut   = 6
)

// usageError is a command line that cannot be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// codedError is an error that says its exit code itself.
type codedError struct {
	code int
	text string
}

func (e *codedError) Error() string { return e.text }

func coded(code int, format string, args ...any) error {
	return &codedError{code, fmt.Sprintf(format, args...)}
}

func exitCode(err error) int {
	var coded *codedError
	var misuse *usageError
	var refusal *overlay.Error
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &misuse), errors.Is(err, obelisk.ErrConfig):
		return exitUsage
	case errors.Is(err, admin.ErrNotRunning), errors.Is(err, obelisk.ErrNotRunning), errors.Is(err, obelisk.ErrLocked):
		return exitNotRunning
	case errors.Is(err, obelisk.ErrNotAdmitted), errors.Is(err, identity.ErrTooOpen), errors.Is(err, obelisk.ErrPassphrase):
		return exitRefused
	case errors.As(err, &refusal):
		return codeExit(refusal.Code)
	case errors.Is(err, overlay.ErrUnreachable), errors.Is(err, overlay.ErrWrongPeer):
		return exitNotRunning
	case errors.Is(err, obelisk.ErrNoIdentity):
		return exitNotFound
	case errors.Is(err, identity.ErrBadID), errors.Is(err, overlay.ErrBadText):
		return exitUsage
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimedOut
	default:
		return exitFailed
	}
}

func codeExit(c overlay.Code) int {
	switch c {
	case overlay.CodeBadRequest, admin.CodeMethod:
		return exitUsage
	case overlay.CodeUnreachable, overlay.CodeNoNetwork:
		return exitNotRunning
	case overlay.CodeNotFound:
		return exitNotFound
	case admin.CodeTimeout:
		return exitTimedOut
	case admin.CodeInternal, admin.CodeConflict:
		return exitFailed
	default:
		return exitRefused
	}
}

// describe is the one line that tells a person what went wrong and what to do.
func describe(err error) string {
	text := escape(strings.Join(strings.Fields(err.Error()), " "))
	var misuse *usageError
	var refusal *overlay.Error
	var cert *tls.CertificateVerificationError
	switch {
	case text == "":
		return ""
	case errors.Is(err, syscall.EADDRINUSE):
		return text + ": stop who has it, or choose another with --listen, --admin or --api; port 0 picks a free one"
	case errors.As(err, &cert):
		return text + ": name the certificate to trust with --admin-tls-cert, or the name it is for with --admin https://NAME:PORT"
	case errors.Is(err, admin.ErrNotRunning):
		return text + ": start it with `obelisk run`, or say where it is with --data, --api or --admin"
	case errors.As(err, &refusal) && refusal.Code == admin.CodeUnauthorized:
		return text + ": name its data directory with --data or a copy of the token with --token-file"
	case errors.As(err, &misuse) && !strings.Contains(text, "--"):
		return text + ": see obelisk --help"
	default:
		return text
	}
}
