package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A database is not opened without writing: what its log holds is written into
// tables first, and a new log and manifest are begun. On a disk that somebody else
// filled to the last byte it would not open, and nothing that expires could give
// room back. So each keeps some room to itself in a file, which is given up when
// opening fails for want of it, and made again at an opening that finds plenty.
//
// It is as large as all memtables together, which is all that a log may hold, and a
// little more for what is begun. It is reserved, not written: where the file system
// cannot do that (only on Linux can it), there is none.
const (
	ballastName  = "ballast"
	ballastExtra = 4 << 20
	// ballastPlenty is how much of what is free a ballast may be, as a divisor.
	ballastPlenty = 8
)

func ballastSize(memory int64) int64 { return memory/2 + ballastExtra }

// makeBallast reserves room in dir if there is plenty, unless that is done already.
func makeBallast(fs vfs.FS, dir string, memory int64) error {
	name := fs.PathJoin(dir, ballastName)
	size := ballastSize(memory)
	if _, err := fs.Stat(name); err == nil {
		return nil
	}
	usage, err := fs.GetDiskUsage(dir)
	if err != nil || usage.AvailBytes/ballastPlenty < uint64(size) {
		return nil // unknown, or no room for it
	}
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("reserve room: %w", err)
	}
	err = errors.Join(f.Preallocate(0, size), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("reserve room: %w", errors.Join(err, fs.Remove(name)))
	}
	return nil
}

// dropBallast gives up the room reserved in dir, if opening failed for want of it
// and there is any.
func dropBallast(fs vfs.FS, dir string, err error) bool {
	return vfs.IsNoSpaceError(err) && fs.Remove(fs.PathJoin(dir, ballastName)) == nil
}
