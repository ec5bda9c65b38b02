//go:build unix

package obelisk

import (
	"os"

	"golang.org/x/sys/unix"
)

// errWouldBlock: somebody else holds the lock.
const errWouldBlock = unix.EWOULDBLOCK

// lockFile locks f until it is closed, without waiting. A shared lock is for
// looking whether anybody has the exclusive one.
func lockFile(f *os.File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err != unix.EINTR {
			return err
		}
	}
}
