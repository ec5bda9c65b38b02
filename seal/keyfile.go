package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// A private key's file is named <key ID in hex>.key and holds
//
//	[tag bin16, scheme, generation, created, until, private bin] || SHA-256 of all before
//
// canonically encoded (package canon). It is written under a name beginning
// with tempPrefix, synced, renamed, and the directory synced; it is erased by
// a rename to such a name, zeros over its bytes, a sync and a removal. So a
// file with that prefix is half of one of the two, and removing it is right
// after either.
const (
	keySuffix  = ".key"
	tempPrefix = ".tmp-"
	maxKeyFile = 512 // bytes, far more than one has
)

// privateKey is a sealing key of our own.
type privateKey struct {
	public     PublicKey // with ID and until
	generation uint64    // 1 for the first, one more for each later one
	created    uint64    // Unix milliseconds, by the clock of that moment
	private    []byte
}

func (k *privateKey) encode() []byte {
	b := canon.AppendArray(nil, 6)
	b = canon.AppendBin(b, tagKeyFile)
	b = canon.AppendUint(b, k.public.Scheme)
	b = canon.AppendUint(b, k.generation)
	b = canon.AppendUint(b, k.created)
	b = canon.AppendUint(b, k.public.Until)
	b = canon.AppendBin(b, k.private)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func decodePrivateKey(b []byte) (*privateKey, error) {
	if len(b) < sha256.Size || len(b) > maxKeyFile {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrDamaged, len(b))
	}
	content, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(content); subtle.ConstantTimeCompare(got[:], sum) != 1 {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrDamaged)
	}
	r := canon.NewReader(content)
	r.Array(6)
	tag := r.BinExact(tagLen)
	scheme, generation, created, until := r.Uint(), r.Uint(), r.Uint(), r.Uint()
	private := bytes.Clone(r.Bin(maxKeyFile))
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if string(tag) != tagKeyFile {
		return nil, fmt.Errorf("%w: it is another kind of file", ErrDamaged)
	}
	k, err := hpkePrivate(scheme, private)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	public := newPublicKey(scheme, k.PublicKey().Bytes(), until)
	return &privateKey{public: public, generation: generation, created: created, private: private}, nil
}

// makeKeyDir makes dir with rights for its owner alone, or checks that it has
// no others.
func makeKeyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := checkPrivate(dir, info, "700"); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// loadKeys reads all key files of dir and removes unfinished ones.
func loadKeys(dir string) ([]*privateKey, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var keys []*privateKey
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix):
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		case strings.HasSuffix(e.Name(), keySuffix):
			k, err := loadKey(path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func loadKey(path string) (*privateKey, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is no regular file", ErrDamaged)
	}
	if err := checkPrivate(path, info, "600"); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	defer clear(b)
	k, err := decodePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%w; restore it or move it away: what was sealed to it cannot be opened without it", err)
	}
	if name := k.public.ID.String() + keySuffix; name != filepath.Base(path) {
		return nil, fmt.Errorf("%w: it holds the key that belongs into %s", ErrDamaged, name)
	}
	return k, nil
}

// storeKey writes k's file and returns when it is durable.
func storeKey(dir string, k *privateKey) (err error) {
	temp := filepath.Join(dir, tempPrefix+randomName())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, k.public.ID.String()+keySuffix)
	defer func() {
		if err != nil { // best effort: the caller has no key, so there should be no file
			os.Remove(temp)
			os.Remove(name)
		}
	}()
	b := k.encode()
	defer clear(b)
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return err
	}
	return syncDir(dir)
}

// eraseKey removes the key's file and returns when its removal is durable. It
// can be repeated after an error, whatever was done by then. The zeros written
// over the file reach the old bytes only where the disk and the file system
// write in place; where they cannot be written, removing it is what is left.
func eraseKey(dir string, id KeyID) error {
	temp := filepath.Join(dir, tempPrefix+id.String())
	if err := os.Rename(filepath.Join(dir, id.String()+keySuffix), temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = overwrite(temp)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(make([]byte, min(info.Size(), maxKeyFile))); err != nil {
		return err
	}
	return f.Sync()
}

// checkPrivate refuses a file or directory on which others than its owner have
// rights. Windows has no such bits.
func checkPrivate(path string, info fs.FileInfo, want string) error {
	if runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s has mode %04o; run: chmod %s %s", ErrTooOpen, path, info.Mode().Perm(), want, path)
}

// syncDir makes renames in dir durable. Windows cannot sync a directory and
// journals renames by itself.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func randomName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
