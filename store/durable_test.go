package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/storetest"
	"github.com/obelisk-network/obelisk/store"
)

// perCommit is how many records step writes.
const perCommit = 3

// step is commit number k of every durability test: records in one box, in
// several and in none, their places in a log, and a value that says k.
func step(k int) *overlay.Commit {
	n := k * perCommit
	own := storetest.Arrival(n, k%5, 200+k%100, storetest.Box(1))
	shared := storetest.Arrival(n+1, k%5, 50, storetest.Box(1), storetest.Box(2))
	none := storetest.Arrival(n+2, k%5, 20)
	c := &overlay.Commit{
		Time: time.UnixMilli(int64(k)), Records: []overlay.Arrival{own, shared, none},
		Logs:   []overlay.LogAppend{{Log: storetest.Log(1), From: uint64(n + 1)}},
		Values: []overlay.Value{{Key: "k", Data: []byte(strconv.Itoa(k))}},
	}
	for _, a := range c.Records {
		c.Logs[0].Entries = append(c.Logs[0].Entries, overlay.LogEntry{Expires: a.Expires, ID: a.ID})
	}
	return c
}

// audit checks that s holds exactly the steps 0 … k-1 for some k, in every
// index, and returns k.
func audit(s overlay.Store) (k int, err error) {
	v := s.View()
	defer v.Close()
	k = int(v.LastLocal()) / perCommit
	if v.LastLocal()%perCommit != 0 {
		return k, fmt.Errorf("half a commit: last local sequence %d", v.LastLocal())
	}
	if got := s.Stats().Records; got != uint64(k*perCommit) {
		return k, fmt.Errorf("%d records counted, want %d", got, k*perCommit)
	}
	var want []overlay.Arrival // by local sequence, from 1
	for i := range k {
		want = append(want, step(i).Records...)
	}
	scanned := 0
	err = v.Records(0, func(overlay.Day, overlay.StoredRecord) bool { scanned++; return true })
	if err != nil || scanned != k*perCommit {
		return k, fmt.Errorf("%d records scanned, want %d (%v)", scanned, k*perCommit, err)
	}
	var wrong error
	n := 0
	err = v.Log(storetest.Log(1), 0, func(seq uint64, e overlay.LogEntry) bool {
		if e.ID != storetest.RecordID(n) || seq != uint64(n+1) {
			wrong = fmt.Errorf("log entry %d at place %d", seq, n)
		}
		n++
		return wrong == nil
	})
	if err = errors.Join(err, wrong); err != nil || n != k*perCommit {
		return k, fmt.Errorf("%d log entries, want %d (%v)", n, k*perCommit, err)
	}
	for i, per := range map[int]int{1: 2, 2: 1} {
		entries := 0
		err = v.Box(storetest.Box(i), 0, math.MaxUint64, 0, true, func(e overlay.BoxEntry) bool {
			a := &want[e.Local-1]
			if e.ID != a.ID || !bytes.Equal(e.Raw, a.Raw) {
				wrong = fmt.Errorf("box %d has something else at %d", i, e.Local)
			}
			entries++
			return wrong == nil
		})
		if err = errors.Join(err, wrong); err != nil || entries != k*per {
			return k, fmt.Errorf("%d entries in box %d, want %d (%v)", entries, i, k*per, err)
		}
	}
	var refs []overlay.Ref
	for i := range want {
		refs = append(refs, overlay.Ref{ID: want[i].ID})
	}
	found := 0
	err = v.Get(refs, func(i int, r overlay.StoredRecord) bool {
		a := &want[i]
		if r.Local != uint64(i+1) || !bytes.Equal(r.Raw, a.Raw) || len(r.Dots) != 1 || r.Dots[0] != a.Dot {
			wrong = fmt.Errorf("record %d: got %+v", i, r)
		}
		found++
		return wrong == nil
	})
	if err = errors.Join(err, wrong); err != nil || found != len(refs) {
		return k, fmt.Errorf("%d records found, want %d (%v)", found, len(refs), err)
	}
	value := ""
	err = v.Values("", func(key string, data []byte) bool { value += key + string(data); return true })
	last := ""
	if k > 0 {
		last = "k" + strconv.Itoa(k-1)
	}
	if err != nil || value != last {
		return k, fmt.Errorf("value %q, want %q (%v)", value, last, err)
	}
	return k, nil
}

// mustAudit fails unless s holds at least the steps before acked.
func mustAudit(t *testing.T, s overlay.Store, acked int) int {
	t.Helper()
	k, err := audit(s)
	if err != nil {
		t.Fatal(err)
	}
	if k < acked {
		t.Fatalf("%d commits were acknowledged, %d are there", acked, k)
	}
	return k
}

const childDir = "STORE_TEST_KILL_DIR"

// TestKillChild is what TestKill runs and kills: it commits for ever and says
// what it has committed.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("runs as a child of TestKill only")
	}
	p := openPebble(t, dir, nil)
	v := p.View()
	k := int(v.LastLocal()) / perCommit
	v.Close()
	for ; ; k++ {
		if _, err := p.Commit(step(k)); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("acked %d\n", k+1)
	}
}

func TestKill(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 0))
	done := 0
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$", "-test.v")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked, left := 0, 50+rng.IntN(300)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if k, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
				if acked, err = strconv.Atoi(k); err != nil {
					t.Fatal(err)
				}
				if left--; left == 0 {
					cmd.Process.Kill()
				}
			}
		}
		cmd.Wait()
		if acked <= done {
			t.Fatalf("round %d: the child acknowledged nothing", round)
		}
		p := openPebble(t, dir, nil)
		done = mustAudit(t, p, acked)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d commits survived 5 kills", done)
}

// powerCuts commits on fs, a wrapper of mem, while the power is cut at random
// moments: it returns how many cuts lost something acknowledged.
func powerCuts(t *testing.T, mem *vfs.MemFS, fs vfs.FS, cuts int) (lost int) {
	p := openPebble(t, "db", fs)
	var acked atomic.Int64
	// Every turn is one commit, so that a slow machine does not make a huge store.
	const most = 20
	turns, moved, stopped := make(chan struct{}, most), make(chan struct{}, most*cuts), make(chan struct{})
	go func() {
		defer close(stopped)
		k := 0
		for range turns {
			if _, err := p.Commit(step(k)); err != nil {
				t.Error(err)
				return
			}
			k++
			acked.Store(int64(k))
			moved <- struct{}{}
		}
	}()
	rng := rand.New(rand.NewPCG(2, 0))
	for range cuts {
		// The power goes somewhere within the turns.
		all := 1 + rng.IntN(most)
		for range all {
			turns <- struct{}{}
		}
		for range rng.IntN(all) {
			select {
			case <-moved:
			case <-stopped:
				t.FailNow()
			}
		}
		before := int(acked.Load())
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		after, err := store.OpenPebble(store.PebbleConfig{Dir: "db", FS: clone, Memory: small})
		if err != nil {
			lost++
			t.Log("does not open: ", err)
			continue
		}
		k, err := audit(after)
		if err != nil || k < before {
			lost++
			t.Logf("acknowledged %d, there %d: %v", before, k, err)
		}
		// And it goes on from there.
		if _, err := after.Commit(step(k)); err != nil {
			t.Fatal(err)
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(turns)
	<-stopped
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return lost
}

func TestPowerCut(t *testing.T) {
	mem := vfs.NewCrashableMem()
	if lost := powerCuts(t, mem, mem, 40); lost > 0 {
		t.Errorf("%d of 40 power cuts lost something acknowledged", lost)
	}
}

// TestPowerCutControl shows that TestPowerCut would see a missing fsync.
func TestPowerCutControl(t *testing.T) {
	mem := vfs.NewCrashableMem()
	if lost := powerCuts(t, mem, lyingFS{mem}, 15); lost == 0 {
		t.Error("no power cut lost anything on a disk that does not sync")
	}
}

// TestTornLog cuts the last write-ahead log at any byte, as kill -9 in the
// middle of a write does, and opens what is left.
func TestTornLog(t *testing.T) {
	const commits = 30
	mem := vfs.NewCrashableMem()
	p := openPebble(t, "db", mem)
	for k := range commits {
		if _, err := p.Commit(step(k)); err != nil {
			t.Fatal(err)
		}
	}
	// As it is on the disk while the store runs.
	whole := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(3, 0))})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	name, size := lastLog(t, whole)
	stride := size/150 | 1
	if testing.Short() {
		stride = size/40 | 1
	}
	last := 0
	for cut := int64(0); cut < size+stride; cut += stride {
		cut := min(cut, size)
		fs := vfs.NewMem()
		if _, err := vfs.Clone(whole, fs, "db", "db"); err != nil {
			t.Fatal(err)
		}
		truncate(t, fs, name, cut)
		p, err := store.OpenPebble(store.PebbleConfig{Dir: "db", FS: fs, Memory: small})
		if err != nil {
			t.Fatalf("cut at %d of %d: %v", cut, size, err)
		}
		k := mustAudit(t, p, last)
		last = k
		if _, err := p.Commit(step(k)); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = openPebble(t, "db", fs)
		mustAudit(t, p, k+1)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last != commits {
		t.Errorf("%d commits in the whole log, want %d", last, commits)
	}
}

// lastLog returns the newest write-ahead log and how much of it is written.
func lastLog(t *testing.T, fs vfs.FS) (name string, size int64) {
	t.Helper()
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".log") && n > name {
			name = n
		}
	}
	name = fs.PathJoin("db", name)
	info, err := fs.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return name, info.Size()
}

func truncate(t *testing.T, fs vfs.FS, name string, size int64) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && size > 0 {
		t.Fatal(err)
	}
	f.Close()
	if f, err = fs.Create(name, vfs.WriteCategoryUnspecified); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
