//go:build linux || darwin || freebsd

package obelisk

import "golang.org/x/sys/unix"

// diskSpace returns the free and total bytes of the disk that path is on, as
// its owner can use them.
func diskSpace(path string) (free, total uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	return uint64(max(s.Bavail, 0)) * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), nil
}
