//go:build unix

package gossip_test

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used of the processors: unlike the time that
// passes it is the same on a busy machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
