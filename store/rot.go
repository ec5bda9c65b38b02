package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
)

// rot is what is known to be damaged of a database: tables of which Pebble found a
// block that is not what it wrote. It finds that when it reads the block, for
// whoever asked or to compact it, again and again, so each table is named in the
// log once.
type rot struct {
	log *slog.Logger

	mu     sync.Mutex
	tables map[string]struct{} // guarded by mu; paths of those that are to be mended
	named  map[string]struct{} // guarded by mu; paths of those in the log
	mends  map[string]int      // guarded by mu; how often each was tried
	beyond map[string]error    // guarded by mu; those of tables that cannot be mended
	said   time.Time           // guarded by mu; when failed background work was in the log
}

// maxMends bounds how often a table is mended in one run: a disk that does not give
// back what was just written is no use.
const maxMends = 3

// failedEvery is the least time between two lines about failed background work,
// which Pebble tries again at once where a table is damaged.
const failedEvery = time.Minute

func newRot(log *slog.Logger) *rot {
	return &rot{log: log, tables: map[string]struct{}{}, named: map[string]struct{}{}, mends: map[string]int{}, beyond: map[string]error{}}
}

// found is Pebble's word that a table is damaged.
func (r *rot) found(info pebble.DataCorruptionInfo) {
	r.mu.Lock()
	_, known := r.named[info.Path]
	r.tables[info.Path], r.named[info.Path] = struct{}{}, struct{}{}
	r.mu.Unlock()
	if !known {
		r.log.Error("the disk gave back other bytes than the store wrote", "path", info.Path, "err", cause(info.Details))
	}
}

// cause is the error without the notes that Pebble adds, a line each.
func cause(err error) string {
	text, _, _ := bytes.Cut([]byte(err.Error()), []byte("\n"))
	return string(text)
}

// failed is Pebble's word that a flush or a compaction failed.
func (r *rot) failed(err error) {
	r.mu.Lock()
	quiet := time.Since(r.said) < failedEvery
	if !quiet {
		r.said = time.Now()
	}
	r.mu.Unlock()
	if !quiet {
		r.log.Error("background work of the store failed", "err", cause(err))
	}
}

// waiting returns the tables that are to be mended.
func (r *rot) waiting() (paths []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for path := range r.tables {
		if _, hopeless := r.beyond[path]; !hopeless {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// mended notes what came of mending a table.
func (r *rot) mended(path string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mends[path]++; err == nil && r.mends[path] > maxMends {
		err = errors.New("it was mended before, and is damaged again")
	}
	if err != nil {
		r.beyond[path] = fmt.Errorf("%s: %s", filepath.Base(path), cause(err))
		return
	}
	delete(r.tables, path)
	delete(r.named, path)
}

// state returns how many tables are to be mended, and why others cannot be.
func (r *rot) state() (waiting int, beyond error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.beyond {
		beyond = errors.Join(beyond, err)
	}
	if beyond != nil {
		beyond = fmt.Errorf("%w: %w: %s", overlay.ErrStoreDamaged, beyond, advice)
	}
	return len(r.tables) - len(r.beyond), beyond
}

// advice is what to do about a store of a pillar that cannot be mended.
const advice = "move its directory away and start again: what other pillars hold comes back by itself, what only this one holds is lost with it"

// damaged marks an error that comes from a damaged table as
// overlay.ErrStoreDamaged.
func damaged(err error) error {
	if err == nil || !pebble.IsCorruptionError(err) || errors.Is(err, overlay.ErrStoreDamaged) {
		return err
	}
	return fmt.Errorf("%w: %s", overlay.ErrStoreDamaged, cause(err))
}
