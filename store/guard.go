package store

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guard is the file system that Pebble sees. It decides what happens when the
// disk refuses a write: the first failed write, fsync, create or rename marks
// the store as failed, and from then on every operation that would change the
// disk parks its goroutine for good instead of returning.
//
// Parking looks drastic and is the only safe answer, because of what Pebble
// v2.1 does with an error from below (read in its source):
//   - a failed WAL write or fsync: the batch is already visible to readers;
//     Logger.Fatalf is called, which is expected to end the process, and Apply
//     returns nil if it does not (db.go, applyInternal)
//   - a failure to close or create a WAL at rotation: panic with the database
//     mutex unlocked below a deferred unlock, a fatal error of the runtime that
//     cannot be recovered (db.go, rotateWAL)
//   - a failed flush: retried at once, for ever, without a pause (compaction.go,
//     flush)
//   - a failed MANIFEST write: Logger.Fatalf (version_set.go)
//
// None of these paths holds a lock that readers need while it does I/O, so
// parking stops all writing and leaves reading intact. A failed fsync is never
// retried: the kernel may have dropped the pages, and a second one would lie.
// Whoever waits for the write is released through failed. The parked goroutines
// end with the process, which has to be restarted anyway.
//
// While the database is being opened errors pass through, so that opening fails
// with them. Where it does not, because a table is to be written of what the log
// holds and Pebble tries that for ever, the store counts as failed a moment later.
type guard struct {
	vfs.FS

	opened  atomic.Bool   // errors are caught from now on
	stopped atomic.Bool   // fast check for failed
	failed  chan struct{} // closed at the first failure

	mu      sync.Mutex
	cause   error     // the first failure; set before failed is closed
	lock    io.Closer // the directory lock while held
	lockErr error     // why the directory could not be locked
	openErr error     // the first failure while opening; set before ailing is closed
	ailing  chan struct{}
}

func newGuard(fs vfs.FS) *guard {
	return &guard{FS: fs, failed: make(chan struct{}), ailing: make(chan struct{})}
}

// fail marks the store as failed because of err; only the first call counts.
func (g *guard) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cause != nil {
		return
	}
	g.cause = err
	g.stopped.Store(true)
	close(g.failed)
}

// failure returns why the store failed, nil if it has not.
func (g *guard) failure() error {
	if !g.stopped.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cause
}

// park never returns.
func (g *guard) park() { select {} }

// enter is called before an operation that changes the disk.
func (g *guard) enter() {
	if g.stopped.Load() {
		g.park()
	}
}

// leave is called with the outcome of an operation that changes the disk.
func (g *guard) leave(what, name string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s %s: %w", what, g.PathBase(name), err)
	if !g.opened.Load() {
		g.mu.Lock()
		defer g.mu.Unlock()
		// Pebble asks for what may not be there yet.
		if g.openErr == nil && !errors.Is(err, iofs.ErrNotExist) {
			g.openErr = err
			close(g.ailing)
		}
		return err
	}
	g.fail(err)
	g.park()
	return nil
}

// begin ends the opening: from now on errors are caught. It returns the first
// error that there was before, in case Pebble went on in spite of it.
func (g *guard) begin() error {
	g.opened.Store(true)
	g.mu.Lock()
	err := g.openErr
	g.mu.Unlock()
	if err != nil {
		g.fail(err) // nothing is to touch the disk any more
	}
	return err
}

// release gives up the directory lock, once.
func (g *guard) release() error {
	g.mu.Lock()
	l := g.lock
	g.lock = nil
	g.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.Close()
}

// inUse reports whether opening failed because somebody holds the directory.
func (g *guard) inUse() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A lock file that cannot even be created gives a PathError; a lock that
	// somebody holds gives a bare error, which differs between systems.
	var path *iofs.PathError
	return g.lockErr != nil && !errors.As(g.lockErr, &path)
}

// Unwrap implements vfs.FS.
func (g *guard) Unwrap() vfs.FS { return g.FS }

// Lock implements vfs.FS. The lock can be given up by release even if Pebble
// cannot be closed any more.
func (g *guard) Lock(name string) (io.Closer, error) {
	l, err := g.FS.Lock(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.lockErr = err
		return nil, err
	}
	g.lock = l
	return releaser{g}, nil
}

type releaser struct{ g *guard }

func (r releaser) Close() error { return r.g.release() }

// MkdirAll implements vfs.FS: what a store holds is its owner's business only.
func (g *guard) MkdirAll(dir string, _ os.FileMode) error {
	g.enter()
	return g.leave("make directory", dir, g.FS.MkdirAll(dir, 0o700))
}

// Create implements vfs.FS.
func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	g.enter()
	f, err := g.FS.Create(name, c)
	return g.file("create", name, f, err)
}

// Open implements vfs.FS. A sector that the disk cannot read is as good as one with
// other bytes than were written: the checksum of the block that it is in says so, and
// the table is mended, see mend.go. As an error it would be one of the whole store.
func (g *guard) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := g.FS.Open(name, opts...)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return f, err
	}
	return readFile{f}, nil
}

// readFile is a table that is read.
type readFile struct{ vfs.File }

// ReadAt implements vfs.File.
func (f readFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if errors.Is(err, syscall.EIO) {
		clear(p)
		return len(p), nil
	}
	return n, err
}

// OpenReadWrite implements vfs.FS.
func (g *guard) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	g.enter()
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return g.file("open", name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (g *guard) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	g.enter()
	f, err := g.FS.ReuseForWrite(oldname, newname, c)
	return g.file("reuse", newname, f, err)
}

// OpenDir implements vfs.FS.
func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	return g.file("open directory", name, f, err)
}

// Link implements vfs.FS.
func (g *guard) Link(oldname, newname string) error {
	g.enter()
	return g.leave("link", newname, g.FS.Link(oldname, newname))
}

// Rename implements vfs.FS.
func (g *guard) Rename(oldname, newname string) error {
	g.enter()
	return g.leave("rename", newname, g.FS.Rename(oldname, newname))
}

// Remove implements vfs.FS. A file that cannot be removed is only garbage, so
// an error is no failure of the store; a failed store removes nothing.
func (g *guard) Remove(name string) error {
	g.enter()
	return g.FS.Remove(name)
}

// RemoveAll implements vfs.FS, see Remove.
func (g *guard) RemoveAll(name string) error {
	g.enter()
	return g.FS.RemoveAll(name)
}

func (g *guard) file(what, name string, f vfs.File, err error) (vfs.File, error) {
	if err := g.leave(what, name, err); err != nil {
		return nil, err
	}
	return &guardedFile{File: f, g: g, name: name}, nil
}

// guardedFile is a file open for writing, or a directory.
type guardedFile struct {
	vfs.File
	g    *guard
	name string
}

func (f *guardedFile) Write(p []byte) (int, error) {
	f.g.enter()
	n, err := f.File.Write(p)
	return n, f.g.leave("write", f.name, err)
}

func (f *guardedFile) WriteAt(p []byte, off int64) (int, error) {
	f.g.enter()
	n, err := f.File.WriteAt(p, off)
	return n, f.g.leave("write", f.name, err)
}

func (f *guardedFile) Sync() error {
	f.g.enter()
	return f.g.leave("sync", f.name, f.File.Sync())
}

func (f *guardedFile) SyncData() error {
	f.g.enter()
	return f.g.leave("sync", f.name, f.File.SyncData())
}

func (f *guardedFile) SyncTo(length int64) (bool, error) {
	f.g.enter()
	full, err := f.File.SyncTo(length)
	return full, f.g.leave("sync", f.name, err)
}

func (f *guardedFile) Close() error {
	f.g.enter()
	return f.g.leave("close", f.name, f.File.Close())
}
