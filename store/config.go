package store

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Memory budgets in bytes.
const (
	defaultMemory      = 256 << 20
	defaultTableMemory = 4 << 20
	minMemory          = 2 << 20
)

// PebbleConfig configures a Pebble.
type PebbleConfig struct {
	// Dir is the directory of the database, made if it does not exist.
	Dir string
	// FS is the file system Dir is in; nil for the disk.
	FS vfs.FS
	// Memory is how many bytes memtables and block cache may take together; 0
	// for 256 MiB, at least 2 MiB. One commit may take more for a moment.
	Memory int64
	// Logger; nil for none.
	Logger *slog.Logger
}

// TableConfig configures a PebbleTable.
type TableConfig struct {
	// Dir is the directory of the database, made if it does not exist.
	Dir string
	// FS is the file system Dir is in; nil for the disk.
	FS vfs.FS
	// Memory is how many bytes memtables and block cache may take together; 0
	// for 4 MiB, at least 2 MiB.
	Memory int64
	// Logger; nil for none.
	Logger *slog.Logger
}

// Validate fills in defaults and reports what is wrong.
func (c *PebbleConfig) Validate() error {
	return validate(c.Dir, &c.FS, &c.Memory, defaultMemory, &c.Logger)
}

// Validate fills in defaults and reports what is wrong.
func (c *TableConfig) Validate() error {
	return validate(c.Dir, &c.FS, &c.Memory, defaultTableMemory, &c.Logger)
}

func validate(dir string, fs *vfs.FS, memory *int64, usual int64, log **slog.Logger) error {
	if dir == "" {
		return errors.New("store: no directory given")
	}
	if *fs == nil {
		*fs = vfs.Default
	}
	if *memory == 0 {
		*memory = usual
	}
	if *memory < minMemory {
		return errors.New("store: the memory budget is below 2 MiB")
	}
	if *log == nil {
		*log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// formatMajor is the version of Pebble's format. What one allows is decided here, not
// by an upgrade of the library: it only ever goes up.
const formatMajor = pebble.FormatValueSeparation

// options are Pebble's options for a memory budget. Half of it is for up to
// four memtables, half for the block cache; a memtable starts at 256 KiB and
// grows, so an idle store takes far less.
func options(memory int64, rot *rot) *pebble.Options {
	memtable := min(max(memory/8, 256<<10), 64<<20)
	o := &pebble.Options{
		FormatMajorVersion:          formatMajor,
		MemTableSize:                uint64(memtable),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               max(2*memtable, 4<<20),
		MaxOpenFiles:                1000,
		// Expiry and dropped logs are range deletions, whose space only comes
		// back with a flush; an idle pillar would never do one.
		FlushDelayDeleteRange: time.Second,
		CompactionConcurrencyRange: func() (int, int) {
			if memory < 64<<20 {
				return 1, 1
			}
			return 1, 2
		},
	}
	// Bodies are sealed, so they do not compress.
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range o.Levels {
		o.Levels[i].BlockSize = 8 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if memory < 64<<20 {
		o.MaxOpenFiles = 128
		o.Experimental.FileCacheShards = 1
	}
	o.EventListener = &pebble.EventListener{
		BackgroundError: rot.failed,
		DataCorruption:  rot.found,
		DiskSlow: func(info pebble.DiskSlowInfo) {
			rot.log.Warn("the disk is slow", "path", info.Path, "took", info.Duration)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			rot.log.Debug("commits wait for the store to catch up", "reason", info.Reason)
		},
	}
	return o
}
