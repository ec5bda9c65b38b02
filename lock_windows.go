package obelisk

import (
	"os"

	"golang.org/x/sys/windows"
)

// errWouldBlock: somebody else holds the lock.
const errWouldBlock = windows.ERROR_LOCK_VIOLATION

// lockFile locks f until it is closed, without waiting. A shared lock is for
// looking whether anybody has the exclusive one. It locks one byte far behind
// the end, because Windows would keep others from reading what is locked.
func lockFile(f *os.File, exclusive bool) error {
	var flags uint32 = windows.LOCKFILE_FAIL_IMMEDIATELY
	if exclusive {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1})
}
