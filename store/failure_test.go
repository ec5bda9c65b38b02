package store_test

import (
	"errors"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/storetest"
	"github.com/obelisk-network/obelisk/store"
)

// within fails if fn does not return: a store that failed must never hang.
func within[T any](t *testing.T, what string, fn func() T) T {
	t.Helper()
	got := make(chan T, 1)
	go func() { got <- fn() }()
	select {
	case v := <-got:
		return v
	case <-time.After(2 * time.Minute):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

// commitUntil commits steps from k on until one fails, at most most of them,
// and returns how many there are then.
func commitUntil(t *testing.T, p *store.Pebble, k, most int) (int, error) {
	t.Helper()
	for range most {
		err := within(t, "commit", func() error { _, err := p.Commit(step(k)); return err })
		if err != nil {
			return k, err
		}
		k++
	}
	return k, nil
}

// mustHaveFailed checks that p refuses to write, still reads what was
// acknowledged and nothing else, and can be closed.
func mustHaveFailed(t *testing.T, p *store.Pebble, acked int) {
	t.Helper()
	for _, err := range []error{
		within(t, "commit", func() error { _, err := p.Commit(step(acked)); return err }),
		within(t, "drop", func() error { return p.Drop(storetest.FirstDay + 1) }),
		p.Stats().Failed,
	} {
		if !errors.Is(err, overlay.ErrStoreFailed) {
			t.Fatalf("after the failure: got %v", err)
		}
	}
	k := within(t, "reading", func() int { return mustAudit(t, p, acked) })
	if k != acked {
		t.Fatalf("%d commits acknowledged, %d visible", acked, k)
	}
	if err := within(t, "close", p.Close); err != nil {
		t.Fatal(err)
	}
}

// mustRecover opens the store on a disk that is well again: all that was
// acknowledged is there, perhaps with the commit that failed.
func mustRecover(t *testing.T, fs vfs.FS, acked int) {
	t.Helper()
	p := openPebble(t, "db", fs)
	k := mustAudit(t, p, acked)
	if k > acked+1 {
		t.Fatalf("%d commits acknowledged, %d there", acked, k)
	}
	if _, err := p.Commit(step(k)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFailingDisk(t *testing.T) {
	for _, c := range []struct {
		name, op, file string
		err            error
	}{
		{"full, log write", "write", ".log", syscall.ENOSPC},
		{"log sync", "sync", ".log", syscall.EIO},
		{"full, next log", "create", ".log", syscall.ENOSPC},
		{"closing the log", "close", ".log", syscall.EIO},
		{"full, flush", "create", ".sst", syscall.ENOSPC},
		{"full, flush write", "write", ".sst", syscall.ENOSPC},
		{"flush sync", "sync", ".sst", syscall.EIO},
		{"manifest write", "write", "MANIFEST", syscall.ENOSPC},
		{"manifest sync", "sync", "MANIFEST", syscall.EIO},
		{"directory sync", "sync", "db", syscall.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := &faultFS{FS: vfs.NewMem()}
			p := openPebble(t, "db", fs)
			k, err := commitUntil(t, p, 0, 20)
			if err != nil {
				t.Fatal(err)
			}
			old := p.View()
			fs.arm(on(c.op, c.file, c.err))
			// Enough for several memtables of 256 KiB.
			k, err = commitUntil(t, p, k, 5000)
			if !errors.Is(err, overlay.ErrStoreFailed) || !errors.Is(err, c.err) {
				t.Fatalf("commit %d: got %v", k, err)
			}
			if old.LastLocal() != 20*perCommit {
				t.Fatalf("older view: %d", old.LastLocal())
			}
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			fs.arm(nil) // the disk is well again: nothing is retried all the same
			mustHaveFailed(t, p, k)
			mustRecover(t, fs, k)
		})
	}
}

// TestFailureAnywhere makes the nth operation of a store's life fail, be it in
// opening, committing, flushing or closing.
func TestFailureAnywhere(t *testing.T) {
	const commits = 350 // some flushes
	life := func(fs *faultFS) (acked int) {
		p, err := store.OpenPebble(store.PebbleConfig{Dir: "db", FS: fs, Memory: small})
		if err != nil {
			return 0
		}
		acked, err = commitUntil(t, p, 0, commits)
		if err != nil {
			mustHaveFailed(t, p, acked)
			return acked
		}
		_ = within(t, "close", p.Close) // may fail
		return acked
	}
	fs := &faultFS{FS: vfs.NewMem()}
	life(fs)
	total := fs.ops
	ns := []int{}
	for n := 1; n < 40; n++ { // opening, one by one
		ns = append(ns, n)
	}
	for n := 40; n < total+20; n += total / 15 {
		ns = append(ns, n)
	}
	if testing.Short() {
		ns = ns[:20]
	}
	for _, n := range ns {
		for _, forGood := range []bool{true, false} { // or once only
			fs := &faultFS{FS: vfs.NewMem()}
			fs.arm(func(i int, op, _ string) error {
				if (i == n || i > n && forGood) && op != "remove" {
					return syscall.ENOSPC
				}
				return nil
			})
			acked := life(fs)
			fs.arm(nil)
			mustRecover(t, fs, acked)
		}
	}
	t.Logf("%d of %d operations failed", len(ns), total)
}

func TestFailingTable(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	s := openTable(t, "db", fs)
	if err := s.Apply([]overlay.Write{{Key: []byte("a"), Data: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	fs.arm(on("sync", ".log", syscall.EIO))
	for range 2 {
		err := within(t, "apply", func() error { return s.Apply([]overlay.Write{{Key: []byte("a"), Data: []byte("2")}}) })
		if !errors.Is(err, overlay.ErrStoreFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("got %v", err)
		}
	}
	if v, err := s.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Fatalf("got %q, %v", v, err)
	}
	if err := within(t, "close", s.Close); err != nil {
		t.Fatal(err)
	}
	fs.arm(nil)
	s = openTable(t, "db", fs)
	if v, err := s.Get([]byte("a")); err != nil || string(v) != "1" && string(v) != "2" {
		t.Fatalf("got %q, %v", v, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMemoryFail: the twins fail when told to.
func TestMemoryFail(t *testing.T) {
	m := store.NewMemory()
	if _, err := m.Commit(step(0)); err != nil {
		t.Fatal(err)
	}
	m.Fail(io.ErrShortWrite)
	_, err := m.Commit(step(1))
	for _, err := range []error{err, m.Drop(storetest.FirstDay + 9), m.Stats().Failed} {
		if !errors.Is(err, overlay.ErrStoreFailed) || !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("got %v", err)
		}
	}
	mustAudit(t, m, 1)
	tab := store.NewMemoryTable()
	tab.Fail(io.ErrShortWrite)
	if err := tab.Apply(nil); !errors.Is(err, overlay.ErrStoreFailed) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	pillar := func(dir string) error {
		p, err := store.OpenPebble(store.PebbleConfig{Dir: dir})
		if err == nil {
			err = p.Close()
		}
		return err
	}
	t.Run("a directory in use", func(t *testing.T) {
		dir := t.TempDir()
		p := openPebble(t, dir, nil)
		if err := pillar(dir); !errors.Is(err, store.ErrInUse) {
			t.Errorf("got %v", err)
		}
		if _, err := p.Commit(step(0)); err != nil { // and the owner is not disturbed
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if err := pillar(dir); err != nil {
			t.Error(err)
		}
	})
	t.Run("a node's table", func(t *testing.T) {
		dir := t.TempDir()
		if err := openTable(t, dir, nil).Close(); err != nil {
			t.Fatal(err)
		}
		if err := pillar(dir); !errors.Is(err, store.ErrForeign) {
			t.Errorf("got %v", err)
		}
	})
	set := func(t *testing.T, key, value string) string {
		dir := t.TempDir()
		db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Set([]byte(key), []byte(value), pebble.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Run("a newer version", func(t *testing.T) {
		if err := pillar(set(t, "zformat", "\x00\x00\x00\x02pillar")); !errors.Is(err, store.ErrNewer) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("somebody else's database", func(t *testing.T) {
		if err := pillar(set(t, "hello", "world")); !errors.Is(err, store.ErrForeign) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no directory, no memory", func(t *testing.T) {
		for _, cfg := range []store.PebbleConfig{{}, {Dir: t.TempDir(), Memory: 1000}, {Dir: "/dev/null/x"}} {
			if _, err := store.OpenPebble(cfg); err == nil {
				t.Errorf("%+v was taken", cfg)
			}
		}
	})
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}
