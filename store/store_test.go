package store_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/storetest"
	"github.com/obelisk-network/obelisk/store"
)

// small is a budget that makes Pebble flush and compact within a test.
const small = 2 << 20

func TestMain(m *testing.M) {
	// A few runs of the model each time; -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

func openPebble(t testing.TB, dir string, fs vfs.FS) *store.Pebble {
	t.Helper()
	p, err := store.OpenPebble(store.PebbleConfig{Dir: dir, FS: fs, Memory: small})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func openTable(t testing.TB, dir string, fs vfs.FS) *store.PebbleTable {
	t.Helper()
	p, err := store.OpenTable(store.TableConfig{Dir: dir, FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPebble(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	storetest.Store(t, func(t *testing.T) overlay.Store { return openPebble(t, t.TempDir(), nil) })
	storetest.Persistence(t, func(t *testing.T) func() overlay.Store {
		dir := t.TempDir()
		return func() overlay.Store { return openPebble(t, dir, nil) }
	})
}

func TestMemory(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	storetest.Store(t, func(*testing.T) overlay.Store { return store.NewMemory() })
}

func TestPebbleTable(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	storetest.Table(t, func(t *testing.T) overlay.Table { return openTable(t, t.TempDir(), nil) })
	storetest.TablePersistence(t, func(t *testing.T) func() overlay.Table {
		dir := t.TempDir()
		return func() overlay.Table { return openTable(t, dir, nil) }
	})
}

func TestMemoryTable(t *testing.T) {
	storetest.Table(t, func(*testing.T) overlay.Table { return store.NewMemoryTable() })
}

// TestDropFreesSpace: dropped days leave the disk soon, without anybody's doing
// and whatever was read meanwhile.
func TestDropFreesSpace(t *testing.T) {
	p := openPebble(t, t.TempDir(), nil)
	defer p.Close()
	for k := range 20 {
		c := &overlay.Commit{}
		for i := range 100 {
			c.Records = append(c.Records, storetest.Arrival(k*100+i, k%2, 4<<10, storetest.Box(i%3)))
		}
		if _, err := p.Commit(c); err != nil {
			t.Fatal(err)
		}
		if err := p.View().Close(); err != nil {
			t.Fatal(err)
		}
	}
	// 8 MB of bodies; what stays are logs that wait to be used again.
	const much = 4 << 20
	until(t, "the records to be on the disk", func() bool { return p.Stats().Bytes > much })
	if err := p.Drop(storetest.FirstDay + 2); err != nil {
		t.Fatal(err)
	}
	until(t, "the records to leave the disk", func() bool { return p.Stats().Bytes < much })
}

// until waits for something that happens in the background.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
