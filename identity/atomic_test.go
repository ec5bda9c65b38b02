package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
)

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFileAtomic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	path := filepath.Join(dir, "network")
	for _, text := range []string{"first", "", "second"} {
		if err := identity.WriteFileAtomic(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	if info, err := os.Stat(path); runtime.GOOS != "windows" && (err != nil || info.Mode().Perm() != 0o640) {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	// A failed write leaves what was there, and nothing else.
	occupied := filepath.Join(dir, "directory")
	if err := os.MkdirAll(filepath.Join(occupied, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := identity.WriteFileAtomic(occupied, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

// TestCreateFileAtomic runs with hard links and without.
func TestCreateFileAtomic(t *testing.T) {
	for name, create := range map[string]func(path string, data []byte) error{
		"links":    func(path string, data []byte) error { return identity.CreateFileAtomic(path, data, 0o600) },
		"no links": identity.CreateWithoutLinks,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "key")
			if err := create(path, []byte("first")); err != nil {
				t.Fatal(err)
			}
			if err := create(path, []byte("second")); !errors.Is(err, identity.ErrExists) {
				t.Errorf("second: %v", err)
			}
			if got := content(t, path); got != "first" {
				t.Errorf("got %q", got)
			}
			empty := filepath.Join(dir, "empty")
			if err := os.WriteFile(empty, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := create(empty, []byte("x")); !errors.Is(err, identity.ErrExists) {
				t.Errorf("over an empty file: %v", err)
			}
			if err := create(dir, []byte("x")); !errors.Is(err, identity.ErrExists) {
				t.Errorf("over a directory: %v", err)
			}
			dangling := filepath.Join(dir, "dangling")
			if err := os.Symlink(filepath.Join(dir, "nowhere"), dangling); err == nil {
				if err := create(dangling, []byte("x")); !errors.Is(err, identity.ErrExists) {
					t.Errorf("over a link to nowhere: %v", err)
				}
				if _, created, err := identity.LoadOrCreateDeviceKey(dangling); err == nil || created {
					t.Errorf("a key over a link to nowhere: %v", err)
				}
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if filepath.Ext(e.Name()) == ".tmp" {
					t.Errorf("left behind: %s", e.Name())
				}
			}
		})
	}
}

// TestCrashLeftovers: what a crash leaves before, between and after the steps of
// creating a key file.
func TestCrashLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "device.key")
	half := filepath.Join(dir, ".device.key.1234.tmp")
	if err := os.WriteFile(half, []byte("-----BEGIN OBELISK DEV"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Before the file had its name: there is no key, a new one is made.
	k, created, err := identity.LoadOrCreateDeviceKey(path)
	if err != nil || !created {
		t.Fatalf("with half a temporary file: %v", err)
	}
	// After: the temporary name of the same file may still be there.
	if err := os.Link(path, filepath.Join(dir, ".device.key.5678.tmp")); err != nil && runtime.GOOS != "windows" {
		t.Fatal(err)
	}
	again, created, err := identity.LoadOrCreateDeviceKey(path)
	if err != nil || created || again.ID() != k.ID() {
		t.Errorf("with both names: %v, created %v", err, created)
	}
	if got := content(t, half); got != "-----BEGIN OBELISK DEV" {
		t.Error("somebody else's temporary file was touched")
	}
	// Between the two steps where there are no links: an empty file.
	claimed := filepath.Join(dir, "claimed.key")
	if err := os.WriteFile(claimed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, created, err := identity.LoadOrCreateDeviceKey(claimed); !errors.Is(err, identity.ErrDamaged) || created {
		t.Errorf("an empty file: %v", err)
	}
}
