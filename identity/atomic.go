package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// WriteFileAtomic makes path hold data, replacing what is there: after a crash
// at any point it holds all of the old or all of the new, and once it returned,
// the new. The directory is made with mode 0700 if need be. On Windows, modes have
// no effect; files take their rights from the directory.
func WriteFileAtomic(path string, data []byte, mode fs.FileMode) error {
	return writeAtomic(path, data, mode, os.Rename)
}

// CreateFileAtomic is WriteFileAtomic for files that are never replaced: if
// path exists already, whatever it is, it is left alone and the error wraps
// ErrExists.
func CreateFileAtomic(path string, data []byte, mode fs.FileMode) error {
	return writeAtomic(path, data, mode, func(temp, path string) error {
		return publish(temp, path, os.Link)
	})
}

// writeAtomic writes data to a new file beside path, makes it durable, and has
// move bring it to path. The new file's name is random, so one that an earlier
// crash left behind is not in the way.
func writeAtomic(path string, data []byte, mode fs.FileMode, move func(temp, path string) error) (err error) {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // no longer there after a rename
	_, err = f.Write(data)
	if err == nil && runtime.GOOS != "windows" {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := move(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// publish gives the file temp the name path unless that exists. A hard link does
// it in one step. Where the file system has none, the name is claimed with an
// empty file first; a crash between the two steps leaves that, and it is refused
// as damaged rather than taken for a missing key.
func publish(temp, path string, link func(temp, path string) error) error {
	err := link(temp, path)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		var claim *os.File
		if claim, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			if err := claim.Close(); err != nil {
				return err
			}
			return os.Rename(temp, path)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	return err
}

// makeDir makes dir with mode 0700 and its entry in its parent durable. One that
// exists keeps its mode.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in dir durable where the system can.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced; NTFS journals names
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil // some network and FUSE file systems
	}
	return err
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(path string, limit int) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, limit)
}

// openRegular opens a regular file; anything else, a pipe above all, could block.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return os.Open(path)
}

func readLimited(f *os.File, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	return data, nil
}
