package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/obelisk-network/obelisk/overlay"
)

// engine is a Pebble database with the properties that both Pebble and
// PebbleTable promise:
//
//   - What is read is durable. Pebble shows a batch to readers before it is
//     synced; the engine reads from the snapshot it took after the last
//     successful write instead. That makes opening a view free as well, and a
//     batch that failed never shows.
//   - After the first failed write nothing is written any more and everything
//     can still be read (see guard).
//   - Close waits for what runs and is safe against views still open.
type engine struct {
	kind  string
	db    *pebble.DB
	guard *guard

	mu      sync.Mutex
	current *epoch              // what is read
	open    map[*epoch]struct{} // all epochs with references, current included
	retired []*epoch            // those without, for sweep
	busy    int                 // operations running
	closed  bool
	idle    *sync.Cond // busy fell to 0

	mending atomic.Bool // it is closed to be mended, and another one follows

	usage   atomic.Uint64 // bytes on disk when last measured
	usageAt atomic.Int64  // when that was, Unix nanoseconds; set by sweep

	wake  chan struct{} // there is something to do for sweep
	swept chan struct{} // closed when sweep has ended

	droppedTo atomic.Uint32   // the first day that is not dropped
	dropped   chan struct{}   // there is something to do for reclaim
	reclaimed chan struct{}   // closed when reclaim has ended
	closing   context.Context // ended by close
	hurry     context.CancelFunc
	log       *slog.Logger
}

// epoch is the state after one write, shared by all who read it.
type epoch struct {
	snap    *pebble.Snapshot
	summary summary
	refs    int // guarded by engine.mu
}

// meta keys: 'z' and a name.
var keyFormat = []byte("zformat")

// formatVersion is the version of layout.go. A directory of a higher one is
// refused; of a lower one there is none yet.
const formatVersion = 1

// opening is how a database is opened.
type opening struct {
	dir, kind string // the kind is "pillar" or "node"
	fs        vfs.FS
	memory    int64
	log       *slog.Logger
	rot       *rot
	mend      bool // what is damaged of it is cut out
}

// maxMendsAtOpening bounds how often a database is closed to be mended before it is
// open.
const maxMendsAtOpening = 1 << 10

// engine opens the database, checks that it is of the right kind and version, and has
// load read what is needed of it from the start.
func (o *opening) engine(load func(e *engine) error) (*engine, error) {
	for round := 0; ; round++ {
		e, err := o.start()
		if err != nil {
			return nil, o.failed(err)
		}
		if err = e.checkFormat(); err == nil {
			err = load(e)
		}
		if err == nil {
			return e, nil
		}
		closed := e.close()
		if !o.mend || closed != nil || round == maxMendsAtOpening || !pebble.IsCorruptionError(err) || len(o.rot.waiting()) == 0 {
			return nil, o.failed(errors.Join(err, closed))
		}
		o.mendTables()
	}
}

// failed says what to do about a database that does not open.
func (o *opening) failed(err error) error {
	if err = damaged(err); o.mend && errors.Is(err, overlay.ErrStoreDamaged) {
		return fmt.Errorf("open store %s: %w: %s", o.dir, err, advice)
	}
	return fmt.Errorf("open store %s: %w", o.dir, err)
}

// mendTables mends the tables of the closed database that are known to be damaged. It
// returns at how many places keys are missing now.
func (o *opening) mendTables() (gone int) {
	for _, path := range o.rot.waiting() {
		kept, gaps, err := mendTable(o.fs, o.dir, path, formatMajor.MaxTableFormat(), o.log)
		if errors.Is(err, iofs.ErrNotExist) {
			err = nil // compacted since
		}
		gone += gaps
		if o.rot.mended(path, err); err == nil {
			o.log.Error("what could not be read of a table was cut out of the store: it comes again from others",
				"path", path, "kept", kept, "gaps", gaps)
		} else {
			o.log.Error("a damaged table cannot be mended", "path", path, "err", err)
		}
	}
	return gone
}

// start opens the database.
func (o *opening) start() (*engine, error) {
	if tmp := o.fs.PathJoin(o.dir, mendName); o.mend {
		if _, err := o.fs.Stat(tmp); err == nil {
			_ = o.fs.Remove(tmp) // of a run that ended meanwhile; only its room matters
		}
	}
	db, g, err := o.guarded()
	if err != nil && dropBallast(o.fs, o.dir, err) {
		o.log.Warn("the disk is full: the room kept for that is used to open the store", "dir", o.dir, "bytes", ballastSize(o.memory))
		db, g, err = o.guarded()
	} else if err == nil {
		if err := makeBallast(o.fs, o.dir, o.memory); err != nil {
			o.log.Warn("no room is kept for a full disk", "dir", o.dir, "err", err)
		}
	}
	if err != nil {
		return nil, err
	}
	e := &engine{
		kind: o.kind, db: db, guard: g, open: make(map[*epoch]struct{}),
		wake: make(chan struct{}, 1), swept: make(chan struct{}),
		dropped: make(chan struct{}, 1), reclaimed: make(chan struct{}), log: o.log,
	}
	e.closing, e.hurry = context.WithCancel(context.Background())
	e.idle = sync.NewCond(&e.mu)
	go e.sweep()
	go e.reclaim()
	e.rouse() // measures the disk usage
	e.publish(summary{})
	return e, nil
}

// guarded opens the database behind a guard of its own. If it fails nothing of it
// touches the disk any more.
func (o *opening) guarded() (*pebble.DB, *guard, error) {
	g := newGuard(o.fs)
	opts := options(o.memory, o.rot)
	opts.FS = g
	opts.Logger = logger{o.log, g}
	opts.Cache = pebble.NewCache(o.memory / 2)
	defer opts.Cache.Unref()
	db, err := openWithin(o.dir, opts, g)
	if err != nil {
		if g.inUse() {
			err = fmt.Errorf("%w (%v)", ErrInUse, err)
		}
		return nil, nil, errors.Join(err, g.release())
	}
	if err := g.begin(); err != nil {
		return nil, nil, errors.Join(err, g.release())
	}
	return db, g, nil
}

// openFails is how long an opening that met an error may take to end with it.
const openFails = time.Second

// openWithin is openPebble, which is left to itself, with a guard that lets nothing
// through any more, if it does not end with the first error that it meets.
func openWithin(dir string, o *pebble.Options, g *guard) (*pebble.DB, error) {
	type result struct {
		db  *pebble.DB
		err error
	}
	done := make(chan result, 1)
	go func() {
		db, err := openPebble(dir, o)
		done <- result{db, err}
	}()
	select {
	case r := <-done:
		return r.db, r.err
	case <-g.ailing:
	}
	late := time.NewTimer(openFails)
	defer late.Stop()
	select {
	case r := <-done:
		return r.db, r.err
	case <-late.C:
		return nil, g.begin()
	}
}

// openPebble is pebble.Open, which answers some I/O errors with a panic.
func openPebble(dir string, o *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case runtime.Error:
			panic(r)
		case error:
			err = r
		default:
			panic(r)
		}
	}()
	return pebble.Open(dir, o)
}

// spacesOf are the first bytes of the keys of each kind.
var spacesOf = map[string]string{
	"pillar": string([]byte{spaceExpiring, spaceLog, spaceValue, keyLocal[0]}),
	"node":   string([]byte{spaceTable}),
}

// formatOf is the value of keyFormat.
func formatOf(kind string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, formatVersion), kind...)
}

// checkFormat marks an empty database as ours and refuses one that is not.
func (e *engine) checkFormat() error {
	v, closer, err := e.db.Get(keyFormat)
	switch {
	case err == nil:
		defer closer.Close()
		if len(v) < 4 || string(v[4:]) != e.kind {
			return fmt.Errorf("%w (it is the store of a %q, not of a %s)", ErrForeign, v[min(4, len(v)):], e.kind)
		}
		if got := binary.BigEndian.Uint32(v); got > formatVersion {
			return fmt.Errorf("%w (its format is %d, this version knows up to %d)", ErrNewer, got, formatVersion)
		}
		return nil
	case !errors.Is(err, pebble.ErrNotFound):
		return err
	}
	it, err := e.db.NewIter(nil)
	if err != nil {
		return err
	}
	// Where there are keys and this one is not, it was cut out with others, see mend.go,
	// if they are of the right kind.
	foreign := it.First() && strings.IndexByte(spacesOf[e.kind], it.Key()[0]) < 0
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	if foreign {
		return ErrForeign
	}
	b := e.db.NewBatch()
	if err := b.Set(keyFormat, formatOf(e.kind), nil); err != nil {
		return err
	}
	return e.write(b, summary{})
}

// write makes b durable and then visible, together with s. b is consumed. Only
// one write may run at a time.
func (e *engine) write(b *pebble.Batch, s summary) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.end()
	if err := e.failure(); err != nil {
		return err
	}
	// A goroutine of its own, since a disk that fails keeps it for ever.
	done := make(chan error, 1)
	go func() { done <- b.Commit(pebble.Sync) }()
	select {
	case err := <-done:
		if err != nil {
			e.guard.fail(err)
			return e.failure()
		}
	case <-e.guard.failed:
		return e.failure()
	}
	_ = b.Close() // gives its buffer back; after a commit there is no error
	e.publish(s)
	return nil
}

// failure returns ErrStoreFailed with its cause, or nil.
func (e *engine) failure() error {
	if cause := e.guard.failure(); cause != nil {
		return fmt.Errorf("%w: %w", overlay.ErrStoreFailed, cause)
	}
	return nil
}

// publish makes everything written so far the state that is read.
func (e *engine) publish(s summary) {
	next := &epoch{snap: e.db.NewSnapshot(), summary: s, refs: 1}
	e.mu.Lock()
	last := e.current
	e.current = next
	e.open[next] = struct{}{}
	e.mu.Unlock()
	if last != nil {
		e.unref(last)
	}
}

// ref returns the current epoch with a reference for the caller; nil if closed.
func (e *engine) ref() *epoch {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.current.refs++
	return e.current
}

// unref gives a reference back.
func (e *engine) unref(ep *epoch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, open := e.open[ep]; !open {
		return // closed with the engine
	}
	if ep.refs--; ep.refs > 0 {
		return
	}
	delete(e.open, ep)
	e.retired = append(e.retired, ep)
	e.rouse()
}

// rouse makes sweep look again.
func (e *engine) rouse() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// usageAge is how old the disk usage may be.
const usageAge = time.Second

// diskUsage returns the bytes on disk, as of a while ago.
func (e *engine) diskUsage() uint64 {
	if time.Now().UnixNano()-e.usageAt.Load() > int64(usageAge) {
		e.rouse()
	}
	return e.usage.Load()
}

// measure asks Pebble for the disk usage if what is known is old.
func (e *engine) measure() {
	now := time.Now().UnixNano()
	if now-e.usageAt.Load() > int64(usageAge) {
		e.usage.Store(e.db.Metrics().DiskSpaceUsage())
		e.usageAt.Store(now)
	}
}

// sweep closes the snapshots of retired epochs and measures the disk usage
// until the engine is closed. It is a goroutine of its own because both can
// wait for the MANIFEST to be written: milliseconds that no commit should pay,
// and for ever if the disk fails just then.
func (e *engine) sweep() {
	defer close(e.swept)
	for range e.wake {
		e.mu.Lock()
		retired, closed := e.retired, e.closed && e.busy == 0
		e.retired = nil
		e.mu.Unlock()
		// The newest first: Pebble looks for compactions each time the oldest
		// goes.
		for _, ep := range slices.Backward(retired) {
			_ = ep.snap.Close() // always nil
		}
		if closed {
			return
		}
		e.measure()
	}
}

// gone is the error of whoever uses e after its end.
func (e *engine) gone() error {
	if e.mending.Load() {
		return errMending
	}
	return overlay.ErrStoreClosed
}

// errMending: asked while the store is closed to be mended, or of a view from before.
var errMending = fmt.Errorf("%w: it is being mended, ask again", overlay.ErrStoreDamaged)

// begin announces an operation on the database; end must follow.
func (e *engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.gone()
	}
	e.busy++
	return nil
}

func (e *engine) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy--; e.busy == 0 {
		e.idle.Broadcast()
	}
}

// close ends the use of the database. Operations that run are waited for, those
// that come later get ErrStoreClosed. A second close does nothing.
//
// A failed database cannot be closed, since parts of it are parked: it is left
// behind, unable to touch the disk, its directory free to be opened again.
func (e *engine) close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.hurry()
	for e.busy > 0 {
		e.idle.Wait()
	}
	for ep := range e.open {
		e.retired = append(e.retired, ep)
	}
	clear(e.open)
	e.rouse()
	e.mu.Unlock()
	if e.guard.failure() != nil {
		return e.guard.release()
	}
	done := make(chan error, 1)
	go func() {
		<-e.swept
		<-e.reclaimed
		done <- e.db.Close()
	}()
	select {
	case <-e.guard.failed:
		return e.guard.release()
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close store: %w", err)
		}
		return nil
	}
}
