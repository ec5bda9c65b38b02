package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
)

// kind is one kind of key file, as text of the key's ID.
type kind struct {
	load   func(path string) (id string, err error)
	create func(path string) (id string, created bool, err error)
}

var kinds = map[string]kind{
	"account": {
		func(path string) (string, error) { return idOf(identity.LoadAccountKey(path)) },
		func(path string) (string, bool, error) {
			return idOfNew(identity.LoadOrCreateAccountKey(path, identity.KeyEd25519, 0))
		},
	},
	"rsa account": {
		func(path string) (string, error) { return idOf(identity.LoadAccountKey(path)) },
		func(path string) (string, bool, error) {
			return idOfNew(identity.LoadOrCreateAccountKey(path, identity.KeyRSA, 2048))
		},
	},
	"device": {
		func(path string) (string, error) { return idOf(identity.LoadDeviceKey(path)) },
		func(path string) (string, bool, error) { return idOfNew(identity.LoadOrCreateDeviceKey(path)) },
	},
	"pillar": {
		func(path string) (string, error) { return idOf(identity.LoadPillarKey(path)) },
		func(path string) (string, bool, error) { return idOfNew(identity.LoadOrCreatePillarKey(path)) },
	},
	"network": {
		func(path string) (string, error) { return idOf(identity.LoadNetworkKey(path)) },
		func(path string) (string, bool, error) { return idOfNew(identity.LoadOrCreateNetworkKey(path)) },
	},
}

type hasID interface{ Public() identity.PublicKey }

func idOf[K interface {
	comparable
	hasID
}](k K, err error) (string, error) {
	id, _, err := idOfNew(k, false, err)
	return id, err
}

func idOfNew[K interface {
	comparable
	hasID
}](k K, created bool, err error) (string, bool, error) {
	var none K
	if k == none {
		return "", created, err
	}
	return k.Public().ID().String(), created, err
}

func TestKeyFiles(t *testing.T) {
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			path := filepath.Join(dir, "some.key")
			if id, err := k.load(path); !errors.Is(err, fs.ErrNotExist) || id != "" {
				t.Errorf("missing file: %v", err)
			}
			id, created, err := k.create(path)
			if err != nil || !created || id == "" {
				t.Fatalf("create: %v, created %v", err, created)
			}
			written, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if again, created, err := k.create(path); err != nil || created || again != id {
				t.Errorf("second time: %v, created %v, %s then %s", err, created, id, again)
			}
			if loaded, err := k.load(path); err != nil || loaded != id {
				t.Errorf("load: %v, %s then %s", err, id, loaded)
			}
			if runtime.GOOS != "windows" {
				for p, want := range map[string]fs.FileMode{path: 0o600, dir: 0o700, filepath.Dir(dir): 0o700} {
					if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
						t.Errorf("%s: mode %v, want %v (%v)", p, info.Mode().Perm(), want, err)
					}
				}
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v (%v)", entries, err)
			}
			for other, o := range kinds {
				if other == name || strings.HasSuffix(other, "account") && strings.HasSuffix(name, "account") {
					continue
				}
				if _, err := o.load(path); !errors.Is(err, identity.ErrWrongKind) || !strings.Contains(err.Error(), path) {
					t.Errorf("loaded as %s: %v", other, err)
				}
				if _, _, err := o.create(path); !errors.Is(err, identity.ErrWrongKind) {
					t.Errorf("made as %s: %v", other, err)
				}
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, written) {
				t.Error("the file changed")
			}
		})
	}
}

func TestKeyFileTooOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes on Windows")
	}
	path := filepath.Join(t.TempDir(), "device.key")
	id, _, err := identity.LoadOrCreateDeviceKey(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o644, 0o601, 0o610, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.LoadDeviceKey(path); !errors.Is(err, identity.ErrTooOpen) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%v: %v", mode, err)
		}
		if _, created, err := identity.LoadOrCreateDeviceKey(path); !errors.Is(err, identity.ErrTooOpen) || created {
			t.Errorf("%v: made: %v", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if k, err := identity.LoadDeviceKey(path); err != nil || k.ID() != id.ID() {
			t.Errorf("%v: %v", mode, err)
		}
	}
}

// TestKeyFileDamage damages a key file in every byte and in other ways. Whatever
// it is, it is told, and the file is neither used nor replaced.
func TestKeyFileDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "account.key")
	if _, _, err := identity.LoadOrCreateAccountKey(path, identity.KeyEd25519, 0); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, created, err := identity.LoadOrCreateAccountKey(path, identity.KeyEd25519, 0)
		if err == nil || created {
			t.Errorf("%s: accepted", what)
			return
		}
		if errors.Is(err, identity.ErrWrongKind) {
			return // a bit flipped in "ACCOUNT"
		}
		text := err.Error()
		if !errors.Is(err, identity.ErrDamaged) || !strings.Contains(text, path) || !strings.Contains(text, "restore it from your backup; a new key would be a new identity") {
			t.Errorf("%s: %v", what, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
			t.Errorf("%s: the file changed", what)
		}
	}
	for i := range sound {
		refused("truncated", sound[:i])
		flipped := bytes.Clone(sound)
		flipped[i] ^= 1 << (i % 7)
		refused("flipped", flipped)
	}
	block, _ := pem.Decode(sound)
	other, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	otherBlock, _ := pem.Decode(other.MarshalFile())
	build := func(change func(b *pem.Block)) []byte {
		b := pem.Block{Type: block.Type, Headers: map[string]string{"ID": block.Headers["ID"]}, Bytes: block.Bytes}
		change(&b)
		return pem.EncodeToMemory(&b)
	}
	refused("another key under this ID", build(func(b *pem.Block) { b.Bytes = otherBlock.Bytes }))
	refused("another ID over this key", build(func(b *pem.Block) { b.Headers = otherBlock.Headers }))
	refused("no ID", build(func(b *pem.Block) { b.Headers = nil }))
	refused("another header", build(func(b *pem.Block) { b.Headers["Comment"] = "mine" }))
	refused("bytes after the key", build(func(b *pem.Block) { b.Bytes = append(bytes.Clone(b.Bytes), 0) }))
	refused("nothing in it", build(func(b *pem.Block) { b.Bytes = nil }))
	refused("P-256", build(func(b *pem.Block) { b.Bytes = ecPKCS8(t) }))
	refused("twice", append(bytes.Clone(sound), sound...))
	refused("text before", append([]byte("my key\n"), sound...))
	refused("text after", append(bytes.Clone(sound), "my key\n"...))
	refused("a line feed more", append(bytes.Clone(sound), '\n'))
	refused("zeros after a power cut", make([]byte, len(sound)))
	refused("far too much", bytes.Repeat([]byte("x"), 1<<20))

	if err := os.WriteFile(path, bytes.ReplaceAll(sound, []byte("\n"), []byte("\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadAccountKey(path); err != nil {
		t.Errorf("Windows line ends: %v", err)
	}
	if _, err := identity.LoadAccountKey(filepath.Dir(path)); err == nil {
		t.Error("a directory accepted")
	}
}

// ecPKCS8 returns a sound key of an algorithm that no kind has.
func ecPKCS8(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestErrorsHoldNoKey: what is wrong with a file is said without quoting it.
func TestErrorsHoldNoKey(t *testing.T) {
	k := edAccount(t)
	data := k.MarshalFile()
	block, _ := pem.Decode(data)
	secret := base64.StdEncoding.EncodeToString(block.Bytes)
	for _, change := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)-10] },
		func(b []byte) []byte { return append(b, 'x') },
		func(b []byte) []byte { return bytes.Replace(b, []byte("ID: "), []byte("ID: x"), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte("ACCOUNT"), []byte("DEVICE"), 2) },
	} {
		_, err := identity.ParseAccountKey(change(bytes.Clone(data)))
		if err == nil || strings.Contains(err.Error(), secret[20:30]) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAccountKeyBackup(t *testing.T) {
	for _, k := range []*identity.AccountKey{edAccount(t), rsaKey()} {
		again, err := identity.ParseAccountKey(k.MarshalFile())
		if err != nil || again.ID() != k.ID() || again.Type() != k.Type() {
			t.Fatalf("%s: %v", k.Type(), err)
		}
		if !verdict(t, signedBy(again, identity.TagRecord, identity.NetworkID{}, "message")) {
			t.Errorf("%s: signs wrongly after a round trip", k.Type())
		}
		path := filepath.Join(t.TempDir(), "account.key")
		if err := again.Create(path); err != nil {
			t.Fatal(err)
		}
		if err := edAccount(t).Create(path); !errors.Is(err, identity.ErrExists) {
			t.Errorf("second create: %v", err)
		}
		if loaded, err := identity.LoadAccountKey(path); err != nil || loaded.ID() != k.ID() {
			t.Errorf("load: %v", err)
		}
	}
}

// TestLoadOrCreateAtOnce: one of many creates, and all have the same key.
func TestLoadOrCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "pillar.key")
	const callers = 16
	ids, made := make([]identity.PillarID, callers), make([]bool, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			k, created, err := identity.LoadOrCreatePillarKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i], made[i] = k.ID(), created
		})
	}
	group.Wait()
	count := 0
	for i := range callers {
		if ids[i] != ids[0] {
			t.Errorf("%s and %s", ids[i], ids[0])
		}
		if made[i] {
			count++
		}
	}
	if count != 1 {
		t.Errorf("created %d times", count)
	}
}

func TestCreateFailure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k, created, err := identity.LoadOrCreateDeviceKey(filepath.Join(file, "device.key"))
	if err == nil || created || k != nil {
		t.Errorf("a key that is on no disk was returned: %v", err)
	}
	if _, created, err := identity.LoadOrCreateAccountKey(filepath.Join(t.TempDir(), "k"), identity.KeyRSA, 1024); err == nil || created {
		t.Error("RSA 1024 made")
	}
}
