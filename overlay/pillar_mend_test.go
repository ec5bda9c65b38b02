package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// rot turns a bit over in the block of keys that lies at a part of the largest table
// of a closed store, after everything was compacted.
func rot(t *testing.T, dir string, part float64) {
	t.Helper()
	o := &pebble.Options{Logger: quiet{}, FormatMajorVersion: pebble.FormatValueSeparation}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range o.Levels {
		o.Levels[i].BlockSize = 1 << 10
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Compact(t.Context(), []byte{0}, []byte{0xff}, false); err != nil {
		t.Fatal(err)
	}
	levels, err := db.SSTables()
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	tables := slices.Concat(levels...)
	largest := slices.MaxFunc(tables, func(a, b pebble.SSTableInfo) int { return int(a.Size) - int(b.Size) })
	path := filepath.Join(dir, fmt.Sprintf("%06d.sst", uint64(largest.FileNum)))
	file, err := vfs.Default.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		t.Fatal(err)
	}
	ro := pebble.Options{}
	ro.EnsureDefaults()
	r, err := sstable.NewReader(context.Background(), readable, ro.MakeReaderOptions())
	if err != nil {
		t.Fatal(err)
	}
	layout, err := r.Layout()
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[layout.Data[int(part*float64(len(layout.Data)-1))].Offset+11] ^= 4
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMend: wherever a block of the store cannot be read, the pillar starts, mends it
// by itself, knows of what is missing and takes it from others, and loses nothing else.
func TestMend(t *testing.T) {
	places := 12
	if testing.Short() {
		places = 4
	}
	for i := range places {
		part := float64(i) / float64(places-1)
		t.Run(fmt.Sprintf("at %.2f", part), func(t *testing.T) {
			r := newScrubRig(t)
			defer r.end()
			r.stop()
			if err := r.disk.Close(); err != nil {
				t.Fatal(err)
			}
			rot(t, r.dir, part)
			r.openDisk()
			r.start(r.mesh, identity.NewPillarKey(), r.withDisk)
			if st := r.disk.Stats(); st.Unread != 0 || st.Damaged != nil || st.Failed != nil {
				t.Fatalf("%+v", st)
			}
			never := func(id overlay.RecordID) bool { // the rig never had it
				return slices.ContainsFunc(r.log.entries[60:70], func(e overlay.BatchEntry) bool { return e.ID == id })
			}
			lost := 0
			for id, ok := range r.held() {
				if !ok && !never(id) {
					lost++
				}
			}
			t.Logf("%d of 90 records lost", lost)
			if lost > 20 {
				t.Errorf("%d of 90 records are lost with a block of 1 KB", lost)
			}
			r.bring()
			for id, ok := range r.held() {
				if ok == never(id) {
					t.Fatalf("record %s: held %v after all was brought", id, ok)
				}
			}
			if st := r.log.held(); st.Seq != 60 || len(st.Lacks) != 0 {
				t.Fatalf("the log is at %d and lacks %d", st.Seq, len(st.Lacks))
			}
		})
	}
}

// rotten is a store in which commits meet damage until it is mended.
type rotten struct {
	*store.Memory
	bad   atomic.Bool
	mends atomic.Int64
	err   error // what cannot be mended
}

func (r *rotten) Commit(c *overlay.Commit) (overlay.Committed, error) {
	if r.bad.Load() && len(c.Records) > 0 {
		return overlay.Committed{}, fmt.Errorf("commit: %w: a block", overlay.ErrStoreDamaged)
	}
	return r.Memory.Commit(c)
}

func (r *rotten) Mend() (int, error) {
	r.mends.Add(1)
	r.bad.Store(false)
	return 1, r.err
}

func (r *rotten) Stats() overlay.StoreStats {
	st := r.Memory.Stats()
	if r.bad.Load() {
		st.Unread = 1
	} else if r.mends.Load() > 0 {
		st.Damaged = r.err
	}
	return st
}

// TestCommitMeetsDamage: a submission is told to try again, the pillar goes on, and
// what it says of itself is what an operator has to do, if that is anything.
func TestCommitMeetsDamage(t *testing.T) {
	disk := &rotten{Memory: store.NewMemory(), err: errors.New("a table is beyond it: do something")}
	mesh := newFakeMesh()
	rig := newPillarRig(t, mesh, func(c *overlay.PillarConfig) { c.Store = disk })
	alice, bob := rig.device(nil), rig.device(nil)
	c := alice.session()
	if a := c.one(c.message(bob.id())); a.Err != nil {
		t.Fatal(a.Err)
	}
	before := rig.pillar.Status()
	disk.bad.Store(true)
	raw := c.message(bob.id())
	if a := c.one(raw); overlay.CodeOf(a.Err) != overlay.CodeBusy {
		t.Fatalf("%+v, want busy", a)
	}
	until(t, "the store to be mended", func() bool { return disk.mends.Load() == 1 })
	until(t, "the scrub to have gone through all of it again", rig.pillar.Scrubbed)
	if a := c.one(raw); a.Err != nil {
		t.Fatal(a.Err)
	}
	after := rig.pillar.Status()
	if after.Failed != nil || after.Log.Log != before.Log.Log || after.Log.Seq != before.Log.Seq+1 {
		t.Errorf("the log is at %v, was at %v; failed: %v", after.Log, before.Log, after.Failed)
	}
	if before.Damaged != nil || after.Damaged == nil {
		t.Errorf("damaged: %v, then %v", before.Damaged, after.Damaged)
	}
	mesh.mu.Lock()
	defer mesh.mu.Unlock()
	if !slices.ContainsFunc(mesh.events, func(e *overlay.CommitEvent) bool { return e.Lost }) {
		t.Error("replication was not told that records may be gone")
	}
}
