package obelisk

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/obelisk-network/obelisk/identity"
)

// Errors a caller branches on. Refusals by pillars and by the library itself
// are *Error.
var (
	// ErrLocked: another process, or another Node or Pillar of this one, uses
	// the data directory.
	ErrLocked = errors.New("data directory in use")
	// ErrNotAdmitted: the pillar has neither the network key nor an admission in
	// force.
	ErrNotAdmitted = errors.New("pillar not admitted")
	// ErrNotRunning: no process uses the data directory.
	ErrNotRunning = errors.New("nothing is running there")
	// ErrNoIdentity: the directory holds no keys of a node or pillar.
	ErrNoIdentity = errors.New("no node or pillar lives there")
	// ErrConfig: a configuration that contradicts itself or cannot be read.
	ErrConfig = errors.New("wrong configuration")
	// ErrClosed: used after Close.
	ErrClosed = errors.New("closed")
)

// LockedError is the ErrLocked of one data directory.
type LockedError struct {
	Dir string
	PID int // of the process that holds it; 0: unknown
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is in use by %s: stop that one, or choose another directory with --data", e.Dir, who)
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// NotAdmittedError is the ErrNotAdmitted of one pillar; its text ends in what to
// do.
type NotAdmittedError struct {
	Pillar identity.PillarID
	File   string // where the admission is expected
	Reason string
}

func (e *NotAdmittedError) Error() string {
	return fmt.Sprintf("pillar %s is not admitted (%s): where the network key is, run "+
		"`obelisk network admit %s --network-key FILE --out %s`, bring the file here and start again with --admission %s",
		e.Pillar, e.Reason, e.Pillar, filepath.Base(e.File), e.File)
}

// Is makes errors.Is(err, ErrNotAdmitted) true.
func (e *NotAdmittedError) Is(target error) bool { return target == ErrNotAdmitted }
