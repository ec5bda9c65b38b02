package store_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/obelisk-network/obelisk/store"
)

// TestFullDisk fills a file system to the last byte under a store: it opens all the
// same, with all that was acknowledged, thanks to the room that it keeps; without
// that it would not. It mounts a file system in memory, in a process with mounts of
// its own: whoever is killed, nothing stays mounted.
func TestFullDisk(t *testing.T) {
	if os.Getenv(ownMounts) == "" {
		withOwnMounts(t)
		return
	}
	for _, c := range []struct {
		name    string
		ballast bool
	}{{"with ballast", true}, {"without", false}} {
		t.Run(c.name, func(t *testing.T) {
			mount := t.TempDir()
			if err := syscall.Mount("none", mount, "tmpfs", 0, "size=96m"); err != nil {
				t.Skip("a file system cannot be mounted here: ", err)
			}
			t.Cleanup(func() { // else the directory cannot be removed
				if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil { // a store that failed has files open
					t.Error(err)
				}
			})
			dir, ballast := filepath.Join(mount, "db"), filepath.Join(mount, "db", "ballast")
			open := func() (*store.Pebble, error) {
				return store.OpenPebble(store.PebbleConfig{Dir: dir, Memory: small})
			}
			p, err := open()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(ballast); err != nil {
				t.Fatal(err)
			}
			k, err := commitUntil(t, p, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			fill(t, filepath.Join(mount, "filler"))
			k, err = commitUntil(t, p, k, 20_000)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("on a full disk: %v", err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if !c.ballast {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
			}
			fill(t, filepath.Join(mount, "more"))
			p, err = open()
			if !c.ballast {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("opened without room: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(ballast); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the ballast is still there: %v", err)
			}
			if got := mustAudit(t, p, k); got > k+1 {
				t.Fatalf("%d commits acknowledged, %d there", k, got)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			// With room again it is kept again.
			if err := errors.Join(os.Remove(filepath.Join(mount, "filler")), os.Remove(filepath.Join(mount, "more"))); err != nil {
				t.Fatal(err)
			}
			if p, err = open(); err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			var st syscall.Stat_t
			if err := syscall.Stat(ballast, &st); err != nil || st.Blocks*512 < 4<<20 {
				t.Errorf("%d bytes are reserved, %v", st.Blocks*512, err)
			}
		})
	}
}

// ownMounts is set in the process that withOwnMounts starts.
const ownMounts = "STORE_TEST_OWN_MOUNTS"

// withOwnMounts runs the test again in a process with a mount namespace of its own.
// The process ends with this one, and its mounts with it. Where a user may have
// such a namespace, it needs no root.
func withOwnMounts(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if id := os.Geteuid(); id != 0 {
		cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	// The signal comes at the end of the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skip("a process with mounts of its own cannot be started here: ", err)
	}
	err = cmd.Wait()
	t.Logf("%s", &out)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "--- SKIP") {
		t.SkipNow()
	}
}

// fill writes a file until nothing more fits.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err == nil {
			continue
		} else if !vfs.IsNoSpaceError(err) {
			t.Fatal(err)
		}
		size /= 2
	}
}
