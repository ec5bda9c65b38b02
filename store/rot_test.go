package store_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/storetest"
	"github.com/obelisk-network/obelisk/store"
)

// tables returns the tables of a closed store, the largest first, settled at the
// bottom of the database if compact.
func tables(t *testing.T, dir string, compact bool) (paths []string) {
	t.Helper()
	o := &pebble.Options{Logger: quiet{}, DisableAutomaticCompactions: true}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range o.Levels {
		o.Levels[i].BlockSize = 8 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if compact {
		if err := db.Compact(t.Context(), []byte{0}, []byte{0xff}, false); err != nil {
			t.Fatal(err)
		}
	}
	levels, err := db.SSTables()
	if err != nil {
		t.Fatal(err)
	}
	var size uint64
	for _, infos := range levels {
		for _, x := range infos {
			path := filepath.Join(dir, fmt.Sprintf("%06d.sst", uint64(x.FileNum)))
			if x.Size > size {
				paths, size = append([]string{path}, paths...), x.Size
			} else {
				paths = append(paths, path)
			}
		}
	}
	if err := db.Close(); err != nil || len(paths) == 0 {
		t.Fatalf("%d tables, %v", len(paths), err)
	}
	return paths
}

// layout says where the parts of a table lie.
func layout(t *testing.T, path string) *sstable.Layout {
	t.Helper()
	f, err := vfs.Default.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		t.Fatal(err)
	}
	o := pebble.Options{}
	o.EnsureDefaults()
	r, err := sstable.NewReader(context.Background(), readable, o.MakeReaderOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l, err := r.Layout()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// flip changes a bit of a file.
func flip(t *testing.T, path string, at uint64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x10
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRot: whatever bit of a table turns over, the store opens or can be mended,
// loses what lay in that block and nothing beside it, says so, never gives back
// other bytes than were stored, and goes on.
func TestRot(t *testing.T) {
	const n, size = 2000, 200
	var as []overlay.Arrival
	var refs []overlay.Ref
	for i := range n {
		boxes := []overlay.BoxID{storetest.Box(i % 5)}
		if i%4 == 0 {
			boxes = nil
		}
		as = append(as, storetest.Arrival(i, i%2, size, boxes...))
		refs = append(refs, overlay.Ref{ID: as[i].ID, Day: overlay.DayOf(as[i].Expires)})
	}
	block := func(part float64) func(*sstable.Layout) []uint64 {
		return func(l *sstable.Layout) []uint64 {
			return []uint64{l.Data[int(part*float64(len(l.Data)-1))].Offset + 50}
		}
	}
	for _, c := range []struct {
		name  string
		where func(l *sstable.Layout) []uint64
		lost  int // at most, of n records
	}{
		{"the first block", block(0), 100},
		{"a block", block(0.3), 100},
		{"another block", block(0.6), 100},
		{"the last block", block(1), 200},
		{"many blocks", func(l *sstable.Layout) (at []uint64) {
			for i := 3; i < len(l.Data); i += 7 {
				at = append(at, l.Data[i].Offset+9)
			}
			return at
		}, n / 2},
		{"blocks in a row", func(l *sstable.Layout) []uint64 {
			return []uint64{l.Data[20].Offset, l.Data[21].Offset + 8, l.Data[22].Offset + 80, l.Data[24].Offset + 1}
		}, 400},
		{"the filter", func(l *sstable.Layout) []uint64 { return []uint64{l.Filter[0].Handle.Offset + 7} }, 0},
		{"the index", func(l *sstable.Layout) []uint64 { return []uint64{l.Index[0].Offset + 7} }, n},
		{"the properties", func(l *sstable.Layout) []uint64 { return []uint64{l.Properties.Offset + 7} }, n},
		{"the footer", func(l *sstable.Layout) []uint64 { return []uint64{l.Footer.Offset + 7} }, n},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var said bytes.Buffer
			open := func() *store.Pebble {
				t.Helper()
				p, err := store.OpenPebble(store.PebbleConfig{Dir: dir, Memory: small, Logger: slog.New(slog.NewTextHandler(&said, nil))})
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			p := open()
			for i := 0; i < n; i += 500 {
				if _, err := p.Commit(&overlay.Commit{Records: as[i : i+500], Values: []overlay.Value{{Key: "a", Data: []byte("b")}}}); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			path := tables(t, dir, true)[0]
			for _, at := range c.where(layout(t, path)) {
				flip(t, path, at)
			}
			p = open()
			defer func() { p.Close() }()
			read := func() (whole int, err error) {
				v := p.View()
				defer v.Close()
				err = v.Get(refs, func(i int, r overlay.StoredRecord) bool {
					if !bytes.Equal(r.Raw, as[i].Raw) {
						t.Errorf("record %d has other bytes", i)
					}
					whole++
					return true
				})
				for i := range 5 {
					err = errors.Join(err, v.Box(storetest.Box(i), 0, 1<<62, 0, true, func(r overlay.BoxEntry) bool { return true }))
				}
				return whole, err
			}
			whole, err := read()
			if err != nil {
				if !errors.Is(err, overlay.ErrStoreDamaged) || p.Stats().Unread != 1 {
					t.Fatalf("%v; %+v", err, p.Stats())
				}
				if gone, err := p.Mend(); err != nil || (gone > 0) != (c.lost > 0) {
					t.Fatalf("%d gaps, %v", gone, err)
				}
				if whole, err = read(); err != nil {
					t.Fatal(err)
				}
			}
			if st := p.Stats(); st.Unread != 0 || st.Damaged != nil || st.Failed != nil {
				t.Errorf("%+v", st)
			}
			if !strings.Contains(said.String(), filepath.Base(path)) {
				t.Error("the log does not name the file")
			}
			if whole < n-c.lost || whole == n && c.lost > 0 && c.lost < n {
				t.Errorf("%d of %d records are whole, want %d at least", whole, n, n-c.lost)
			}
			t.Logf("%d of %d records are whole", whole, n)
			if _, err := p.Commit(&overlay.Commit{Records: as}); err != nil {
				t.Fatal(err)
			}
			if whole, err := read(); err != nil || whole != n {
				t.Errorf("%d records after all were stored again, %v", whole, err)
			}
			if st := p.Stats(); st.Records != n {
				t.Errorf("%d records are counted, want %d", st.Records, n)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			tables(t, dir, true) // nothing that a compaction could not get past is left
			p = open()
			if whole, err := read(); err != nil || whole != n || p.Stats().Records != n {
				t.Errorf("%d records after a compaction, %d counted, %v", whole, p.Stats().Records, err)
			}
		})
	}
}

// TestRotWhileItRuns: a table of level 0, which reaches from one end of the store to
// the other, is damaged while it is read and compacted. Nothing is lost but what was in
// it, commits go on.
func TestRotWhileItRuns(t *testing.T) {
	for _, c := range []struct {
		name  string
		where func(l *sstable.Layout) uint64
		whole int // records of the table at least
	}{
		{"a block", func(l *sstable.Layout) uint64 { return l.Data[len(l.Data)/2].Offset + 5 }, 150},
		{"the index", func(l *sstable.Layout) uint64 { return l.Index[0].Offset + 7 }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put := func(from, to int) {
				t.Helper()
				p := openPebble(t, dir, nil) // what the log holds becomes a table of level 0
				for i := from; i < to; i++ {
					as := []overlay.Arrival{storetest.Arrival(i, i%3, 500, storetest.Box(i%3)), storetest.Arrival(1000+i, i%3, 500)}
					if _, err := p.Commit(&overlay.Commit{Records: as}); err != nil {
						t.Fatal(err)
					}
				}
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
			}
			put(0, 100)
			tables(t, dir, true)
			old := tables(t, dir, false)
			put(100, 200)
			var path string
			for _, x := range tables(t, dir, false) {
				if !slices.Contains(old, x) {
					path = x
				}
			}
			put(200, 210)
			flip(t, path, c.where(layout(t, path)))
			p := openPebble(t, dir, nil)
			defer func() { p.Close() }()
			whole := func(from, to int) (n int) {
				t.Helper()
				v := p.View()
				defer v.Close()
				var refs []overlay.Ref
				for i := from; i < to; i++ {
					for _, k := range []int{i, 1000 + i} {
						refs = append(refs, overlay.Ref{ID: storetest.Arrival(k, i%3, 500).ID, Day: storetest.FirstDay + overlay.Day(i%3)})
					}
				}
				if err := v.Get(refs, func(int, overlay.StoredRecord) bool { n++; return true }); err != nil {
					t.Fatal(err)
				}
				return n
			}
			for i := 210; p.Stats().Unread == 0 && i < 2000; i++ { // until a compaction meets it, if opening did not
				if _, err := p.Commit(&overlay.Commit{Records: []overlay.Arrival{storetest.Arrival(10000+i, i%3, 5000, storetest.Box(4))}}); err != nil {
					t.Fatal(err)
				}
			}
			before := p.View()
			defer before.Close()
			if waiting := p.Stats().Unread; waiting > 0 {
				if gone, err := p.Mend(); gone == 0 || err != nil {
					t.Fatal(gone, err)
				}
				if _, err := before.Has(make([]overlay.Ref, 1)); !errors.Is(err, overlay.ErrStoreDamaged) {
					t.Errorf("a view from before: %v", err)
				}
			}
			if a, b := whole(0, 100), whole(200, 210); a != 200 || b != 20 {
				t.Errorf("%d of 200 and %d of 20 records elsewhere are whole", a, b)
			}
			if n := whole(100, 200); n < c.whole || n == 200 {
				t.Errorf("%d of 200 records of the table are whole", n)
			}
			if _, err := p.Commit(&overlay.Commit{Records: []overlay.Arrival{storetest.Arrival(9000, 0, 500, storetest.Box(1))}}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// rotSeed picks the bytes of TestRotAnywhere.
var rotSeed = flag.Uint64("rot.seed", 1, "which bytes TestRotAnywhere turns over")

// TestRotAnywhere: whatever byte of whatever file turns over, the store opens, after
// the second attempt at the latest, or says what to do, and never gives back other
// bytes than were stored.
func TestRotAnywhere(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	dir := t.TempDir()
	p := openPebble(t, dir, nil)
	var as []overlay.Arrival
	var refs []overlay.Ref
	for i := range 1200 {
		as = append(as, storetest.Arrival(i, i%2, 100, storetest.Box(i%5)))
		refs = append(refs, overlay.Ref{ID: as[i].ID, Day: overlay.DayOf(as[i].Expires)})
	}
	for i := 0; i < len(as); i += 300 {
		log := overlay.LogID{byte(i)}
		entries := []overlay.LogAppend{{Log: log, From: 1, Entries: []overlay.LogEntry{{ID: as[i].ID, Expires: as[i].Expires}}}}
		if _, err := p.Commit(&overlay.Commit{Records: as[i : i+300], Logs: entries, Values: []overlay.Value{{Key: "k", Data: make([]byte, 9000)}}}); err != nil {
			t.Fatal(err)
		}
		if i == 600 {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			tables(t, dir, true)
			p = openPebble(t, dir, nil)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(*rotSeed, 0))
	lost := 0
	for range rounds {
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(copied, "*[0-9]*"))
		if err != nil {
			t.Fatal(err)
		}
		files = slices.DeleteFunc(files, func(name string) bool {
			st, err := os.Stat(name)
			return err != nil || st.Size() == 0
		})
		name := files[rnd.IntN(len(files))]
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		at := uint64(rnd.Int64N(st.Size()))
		flip(t, name, at)
		what := fmt.Sprintf("%s, byte %d of %d", filepath.Base(name), at, st.Size())
		for range 2 {
			p, err := store.OpenPebble(store.PebbleConfig{Dir: copied, Memory: small})
			if err != nil {
				t.Logf("%s: %v", what, err)
				lost++
				break
			}
			v := p.View()
			whole := 0
			err = v.Get(refs, func(i int, r overlay.StoredRecord) bool {
				if !bytes.Equal(r.Raw, as[i].Raw) {
					t.Errorf("%s: record %d has other bytes", what, i)
				}
				whole++
				return true
			})
			for i := range 5 {
				err = errors.Join(err, v.Box(storetest.Box(i), 0, 1<<62, 0, true, func(overlay.BoxEntry) bool { return true }))
			}
			for i := 0; i < len(as); i += 300 {
				err = errors.Join(err, v.Log(overlay.LogID{byte(i)}, 1, func(uint64, overlay.LogEntry) bool { return true }))
			}
			v.Close()
			if err != nil && !errors.Is(err, overlay.ErrStoreDamaged) {
				t.Errorf("%s: %v", what, err)
			}
			if err != nil {
				if _, err := p.Mend(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				v := p.View()
				if err := v.Get(refs, func(int, overlay.StoredRecord) bool { return true }); err != nil {
					t.Errorf("%s: mended, and %v", what, err)
				}
				v.Close()
			}
			if _, err := p.Commit(&overlay.Commit{Records: as}); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if cerr := p.Close(); cerr != nil {
				t.Errorf("%s: %v", what, cerr)
			}
		}
	}
	t.Logf("%d of %d did not open", lost, rounds)
}

// badSector is a file system in which a part of one file cannot be read.
type badSector struct {
	vfs.FS
	path     string
	from, to int64
}

func (b *badSector) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := b.FS.Open(name, opts...)
	if err != nil || name != b.path {
		return f, err
	}
	return badSectorFile{f, b}, nil
}

// Rename implements vfs.FS: the file is written elsewhere then.
func (b *badSector) Rename(from, to string) error {
	if to == b.path {
		b.from, b.to = 0, 0
	}
	return b.FS.Rename(from, to)
}

type badSectorFile struct {
	vfs.File
	b *badSector
}

func (f badSectorFile) ReadAt(p []byte, off int64) (int, error) {
	if off < f.b.to && f.b.from < off+int64(len(p)) {
		return 0, &os.PathError{Op: "read", Path: f.b.path, Err: syscall.EIO}
	}
	return f.File.ReadAt(p, off)
}

// TestBadSector: a sector that the disk cannot read is as one with other bytes.
func TestBadSector(t *testing.T) {
	const n = 500
	dir := t.TempDir()
	var as []overlay.Arrival
	var refs []overlay.Ref
	for i := range n {
		as = append(as, storetest.Arrival(i, 0, 400, storetest.Box(i%3)))
		refs = append(refs, overlay.Ref{ID: as[i].ID, Day: overlay.DayOf(as[i].Expires)})
	}
	p := openPebble(t, dir, nil)
	if _, err := p.Commit(&overlay.Commit{Records: as}); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	path := tables(t, dir, true)[0]
	l := layout(t, path)
	at := int64(l.Data[len(l.Data)/3].Offset) + 100
	p = openPebble(t, dir, &badSector{FS: vfs.Default, path: path, from: at, to: at + 512})
	defer p.Close()
	read := func() (whole int, err error) {
		v := p.View()
		defer v.Close()
		err = v.Get(refs, func(int, overlay.StoredRecord) bool { whole++; return true })
		return whole, err
	}
	if _, err := read(); !errors.Is(err, overlay.ErrStoreDamaged) {
		t.Fatalf("read: %v", err)
	}
	if gone, err := p.Mend(); gone != 1 || err != nil {
		t.Fatal(gone, err)
	}
	if whole, err := read(); err != nil || whole == n || whole < n-60 {
		t.Errorf("%d of %d records, %v", whole, n, err)
	}
}
