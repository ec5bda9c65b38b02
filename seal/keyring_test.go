package seal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/seal"
)

func snapshot(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func restore(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name := range snapshot(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeyringRotatesAndErases(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "sealing")
	ring := openRing(t, dir)
	if key, due := ring.Current(start); !due || key.Scheme != 0 {
		t.Error("an empty keyring has a key")
	}
	first := rotate(t, ring, start)
	if first.Until != start+32*day || first.Scheme != seal.SchemeXWing || len(first.Public) != 1216 {
		t.Errorf("key of %d bytes until %d", len(first.Public), first.Until)
	}
	for _, c := range []struct {
		now uint64
		due bool
	}{{start, false}, {start + day - 1, false}, {start + day, true}, {start - 20*second, false}, {start - hour, true}} {
		if key, due := ring.Current(c.now); due != c.due || key.ID != first.ID {
			t.Errorf("at start%+d s: due %v", (int64(c.now)-int64(start))/1000, due)
		}
	}
	second := rotate(t, ring, start+day)
	if first.ID == second.ID {
		t.Fatal("rotation made the same key")
	}

	ring = openRing(t, dir) // a restart changes nothing
	if key, due := ring.Current(start + day); due || key.ID != second.ID || !bytes.Equal(key.Public, second.Public) || key.Until != second.Until {
		t.Error("another key is current after a restart")
	}
	if n, err := ring.Erase(first.Until - 1); n != 0 || err != nil || ring.Len() != 2 {
		t.Errorf("erased %d before until: %v", n, err)
	}
	if n, err := ring.Erase(first.Until); n != 1 || err != nil || ring.Len() != 1 {
		t.Errorf("erased %d at until: %v", n, err)
	}
	files := snapshot(t, dir)
	if len(files) != 1 || files[second.ID.String()+".key"] == nil {
		t.Errorf("%d files are left", len(files))
	}
	if n, err := ring.Erase(first.Until); n != 0 || err != nil {
		t.Errorf("erased %d a second time: %v", n, err)
	}
	if key, due := ring.Current(second.Until); !due || key.Scheme != 0 {
		t.Error("an expired key is current")
	}
}

func TestKeyringClockGoingBack(t *testing.T) {
	ring := openRing(t, t.TempDir())
	ahead := rotate(t, ring, start+400*day) // a clock that was wrong
	if key, due := ring.Current(start); !due || key.ID != ahead.ID {
		t.Error("a key from the future is not to be replaced")
	}
	now := rotate(t, ring, start)
	if key, due := ring.Current(start); due || key.ID != now.ID {
		t.Error("the newest key is not the one made last")
	}
	old := rotate(t, ring, start-10*day)
	if n, err := ring.Erase(start - 20*day); n != 0 || err != nil {
		t.Errorf("a clock that went back erased %d keys: %v", n, err)
	}
	if n, err := ring.Erase(start + 22*day); n != 1 || err != nil {
		t.Errorf("erased %d: %v", n, err)
	}
	// What is erased does not come back, whatever the clock says.
	for _, at := range []uint64{start - 10*day, start, start + 22*day} {
		if key, _ := ring.Current(at); key.ID == old.ID {
			t.Error("an erased key is current again")
		}
	}
}

func TestKeyringFiles(t *testing.T) {
	dir := t.TempDir()
	ring := openRing(t, dir)
	key := rotate(t, ring, start)
	path := filepath.Join(dir, key.ID.String()+".key")
	good := snapshot(t, dir)

	t.Run("modes", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("no such bits")
		}
		for p, want := range map[string]os.FileMode{path: 0o600, dir: 0o700} {
			info, err := os.Stat(p)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("%s has mode %v, %v", p, info.Mode(), err)
			}
			if err := os.Chmod(p, want|0o040); err != nil {
				t.Fatal(err)
			}
			if _, err := seal.OpenKeyring(dir); !errors.Is(err, seal.ErrTooOpen) || !strings.Contains(err.Error(), "chmod") || !strings.Contains(err.Error(), p) {
				t.Errorf("%s readable by the group: %v", p, err)
			}
			if err := os.Chmod(p, want); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("leftovers", func(t *testing.T) {
		for _, name := range []string{".tmp-0011223344556677", ".tmp-" + key.ID.String()} {
			if err := os.WriteFile(filepath.Join(dir, name), good[key.ID.String()+".key"][:20], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if n := openRing(t, dir).Len(); n != 1 || len(snapshot(t, dir)) != 1 {
			t.Errorf("%d keys, %d files", n, len(snapshot(t, dir)))
		}
	})
	t.Run("damage", func(t *testing.T) {
		content := good[key.ID.String()+".key"]
		bad := [][]byte{nil, content[:len(content)-1], append(bytes.Clone(content), 0), make([]byte, len(content)), make([]byte, 5000)}
		for i := range content {
			b := bytes.Clone(content)
			b[i] ^= 1
			bad = append(bad, b)
		}
		for i, b := range bad {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := seal.OpenKeyring(dir); !errors.Is(err, seal.ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Fatalf("damage %d: %v", i, err)
			}
		}
		restore(t, dir, good)
	})
	t.Run("wrong name", func(t *testing.T) {
		restore(t, dir, map[string][]byte{"0011223344556677.key": good[key.ID.String()+".key"]})
		if _, err := seal.OpenKeyring(dir); !errors.Is(err, seal.ErrDamaged) {
			t.Error(err)
		}
		restore(t, dir, good)
	})
	t.Run("erasing is repeatable", func(t *testing.T) {
		// The half-way state of an erasure that a crash or an error ended.
		ring := openRing(t, dir)
		if err := os.Rename(path, filepath.Join(dir, ".tmp-"+key.ID.String())); err != nil {
			t.Fatal(err)
		}
		if n, err := ring.Erase(key.Until); n != 1 || err != nil || len(snapshot(t, dir)) != 0 {
			t.Errorf("erased %d, %d files left: %v", n, len(snapshot(t, dir)), err)
		}
		restore(t, dir, good)
	})
	t.Run("not a directory", func(t *testing.T) {
		if _, err := seal.OpenKeyring(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
	})
	t.Run("rotation that cannot be written", func(t *testing.T) {
		gone := filepath.Join(t.TempDir(), "gone")
		ring := openRing(t, gone)
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Rotate(start); err == nil || ring.Len() != 0 {
			t.Error("a key that is not on disk was handed out")
		}
	})
}

// An expired key must not be sealed to, and what was sealed to it must not
// open once its private half is erased.
func TestExpiredKey(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start+31*day, bob)
	if e.Expires() != bob.key.Until {
		t.Errorf("an epoch until %d for a key until %d", e.Expires(), bob.key.Until)
	}
	for _, now := range []uint64{bob.key.Until, bob.key.Until + 1, bob.key.Until + day} {
		if seal.UsableKey(bob.key, now, false) {
			t.Error("an expired key is usable")
		}
		if _, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), devicesOf(bob), now, day); !errors.Is(err, seal.ErrNoSealingKey) {
			t.Errorf("sealed to an expired key: %v", err)
		}
	}
	bob.open(t, e)
	if _, err := bob.ring.Erase(bob.key.Until); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before and after a restart
		if _, err := seal.OpenEpoch(network, e.Binding(), e.Bin(), bob.device, bob.ring); !errors.Is(err, seal.ErrNoKey) {
			t.Errorf("opened without the key: %v", err)
		}
		bob.ring = openRing(t, bob.dir)
	}
}

// A keyring that was rolled back does not have the newer keys, makes none of
// them again, and erases what came back.
func TestRolledBackKeyring(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	backup := snapshot(t, bob.dir)
	old := bob.key
	bob.key = rotate(t, bob.ring, start+20*day)
	e := newEpoch(t, alice, start+20*day, bob)
	if _, err := bob.ring.Erase(old.Until); err != nil {
		t.Fatal(err)
	}

	restore(t, bob.dir, backup)
	bob.ring = openRing(t, bob.dir)
	if _, err := seal.OpenEpoch(network, e.Binding(), e.Bin(), bob.device, bob.ring); !errors.Is(err, seal.ErrNoKey) {
		t.Errorf("opened with a rolled-back keyring: %v", err)
	}
	if key, due := bob.ring.Current(start + 20*day); !due || key.ID != old.ID {
		t.Error("a rolled-back keyring does not ask for a rotation")
	}
	again := rotate(t, bob.ring, start+20*day)
	if again.ID == bob.key.ID || again.ID == old.ID {
		t.Error("a key was made twice")
	}
	if n, err := bob.ring.Erase(old.Until); n != 1 || err != nil {
		t.Errorf("erased %d keys that came back: %v", n, err)
	}
	// A sender that is shown the old device record again seals to no expired key.
	if seal.UsableKey(old, old.Until, false) {
		t.Error("a rolled-back key is usable")
	}
	// And an epoch sealed to an old key with a life as for a newer one is invalid.
	backdated := seal.EpochFromSecret(network, e.Binding(), e.Secret())
	restore(t, bob.dir, backup)
	bob.ring = openRing(t, bob.dir)
	secret := e.Secret()
	sealed, err := seal.SealSecret(network, backdated.ID(), alice.device, bob.device, old, old.ID, secret[:])
	if err != nil {
		t.Fatal(err)
	}
	record := seal.EpochRecord{ID: e.ID(), Commitment: seal.Commit(network, &secret), Entries: []seal.Entry{{Device: bob.device, Key: old.ID, Sealed: sealed}}}
	_, err = seal.OpenEpoch(network, e.Binding(), record.Append(nil), bob.device, bob.ring)
	if !errors.Is(err, seal.ErrOutlives) || !errors.Is(err, seal.ErrInvalidEpoch) {
		t.Errorf("an epoch that outlives the key: %v", err)
	}
}

// Nothing of an epoch's secret is on any disk.
func TestSecretsAreNotOnDisk(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	var secrets [][32]byte
	for i := range 5 {
		e := newEpoch(t, alice, start+uint64(i), bob)
		o := bob.open(t, e)
		secrets = append(secrets, e.Secret())
		if o.Secret() != e.Secret() {
			t.Fatal("another secret was opened")
		}
		sealMessage(t, e, e.Binding(), []byte("x"))
		rotate(t, alice.ring, start+uint64(i))
	}
	for _, dir := range []string{alice.dir, bob.dir} {
		for name, b := range snapshot(t, dir) {
			for _, s := range secrets {
				for i := 0; i+8 <= len(s); i++ {
					if bytes.Contains(b, s[i:i+8]) || bytes.Contains(b, []byte(hex.EncodeToString(s[i:i+8]))) {
						t.Errorf("%s holds a part of a secret", name)
					}
				}
			}
		}
	}
}
