package obelisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// What a data directory holds. Nothing in it may be shared by two processes,
// and a copy of it is a clone of the device.
const (
	fileLock      = "lock"        // held while a process runs; its pid
	fileRun       = "run.json"    // what runs, while it runs
	fileNetwork   = "network"     // the pinned network ID in hex
	filePillars   = "pillars"     // invitations given by hand, one a line
	fileLink      = "link"        // the join link as of the last run
	dirStore      = "store"       // records (pillar), outbox and inbox (node)
	fileAccount   = "account.key" // node
	fileDevice    = "device.key"  // node
	dirSealing    = "sealing"     // node: private sealing keys, one file each
	fileAPIToken  = "api.token"   // node
	fileAPISocket = "api.sock"    // node
	filePillar    = "pillar.key"  // pillar
	fileNetKey    = "network.key" // pillar, if it admits itself
	fileAdmission = "admission"   // pillar, if it was admitted
	fileAllowed   = "allowed"     // pillar: accounts to allow at the next start, one a line
	fileRevoked   = "revocations" // pillar: to be taken at the next start, one a line
	fileToken     = "admin.token" // pillar
	fileActions   = "audit.log"   // pillar: what was changed through the admin port, a JSON object a line
	dirBundles    = "bundles"     // pillar: bundles that were written, or are to be read
)

// maxListFile bounds the small text files above.
const maxListFile = 64 << 10

// DefaultDir is where the binary keeps the data of a role if it is not told:
// $XDG_DATA_HOME/obelisk/<role>, by default below ~/.local/share.
func DefaultDir(role Role) (string, error) {
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" || !filepath.IsAbs(base) { // relative ones are invalid by the XDG specification
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("default data directory: %w: use --data", err)
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "obelisk", role.String()), nil
}

// dataDir is a data directory that this process holds.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir makes the directory if need be and locks it.
func openDataDir(path string, role Role) (*dataDir, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: no data directory", ErrConfig)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := makePrivateDir(path); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if other := otherRole(path, role); other != "" {
		return nil, fmt.Errorf("%w: %s holds a %s: choose another directory with --data", ErrConfig, path, other)
	}
	lock, err := acquire(filepath.Join(path, fileLock))
	if err != nil {
		return nil, err
	}
	return &dataDir{path, lock}, nil
}

// makePrivateDir makes dir with mode 0700. One that is there and open to others
// is closed to them if it is empty or ours, else refused: somebody may have
// named a directory that others need.
func makePrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, fileLock)); err != nil && len(entries) > 0 {
		return fmt.Errorf("%s is open to others (mode %04o) and holds files that are not Obelisk's: choose another, or run `chmod 700 %s`",
			dir, info.Mode().Perm(), dir)
	}
	return os.Chmod(dir, 0o700)
}

// otherRole returns the role that lives in dir if it is another than role.
func otherRole(dir string, role Role) string {
	file, other := filePillar, RolePillar
	if role == RolePillar {
		file, other = fileAccount, RoleNode
	}
	if _, err := os.Lstat(filepath.Join(dir, file)); err == nil {
		return other.String()
	}
	return ""
}

// acquire locks the lock file and writes the pid into it. Somebody who only
// looks whether it is held (isHeld) can be in the way for a moment.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for try := 0; ; try++ {
		err = lockFile(f, true)
		if err == nil {
			break
		}
		if try < 5 && errors.Is(err, errWouldBlock) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		defer f.Close()
		if errors.Is(err, errWouldBlock) {
			return nil, &LockedError{Dir: filepath.Dir(path), PID: lockedBy(path)}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// lockedBy reads the pid of who holds a lock, 0 if it cannot be read.
func lockedBy(path string) int {
	b, err := readList(path)
	if err != nil || len(b) == 0 {
		return 0
	}
	pid, err := strconv.Atoi(b[0])
	if err != nil {
		return 0
	}
	return pid
}

// isHeld reports whether a process holds the data directory dir.
func isHeld(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close() // gives the lock back
	return errors.Is(lockFile(f, false), errWouldBlock)
}

func (d *dataDir) close() error { return d.lock.Close() }

// file returns the path of a file in the directory.
func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// network returns the pinned network, zero if there is none.
func (d *dataDir) network() (identity.NetworkID, error) { return readNetwork(d.path) }

func readNetwork(dir string) (identity.NetworkID, error) {
	lines, err := readList(filepath.Join(dir, fileNetwork))
	if errors.Is(err, fs.ErrNotExist) {
		return identity.NetworkID{}, nil
	}
	if err != nil {
		return identity.NetworkID{}, fmt.Errorf("pinned network: %w", err)
	}
	if len(lines) != 1 {
		return identity.NetworkID{}, fmt.Errorf("pinned network: %s is damaged: restore it, or write the network ID into it",
			filepath.Join(dir, fileNetwork))
	}
	n, err := identity.ParseNetwork(lines[0])
	if err != nil {
		return n, fmt.Errorf("pinned network: %s: %w", filepath.Join(dir, fileNetwork), err)
	}
	return n, nil
}

// pin writes down the network for ever; another one than is pinned already is
// refused.
func (d *dataDir) pin(n identity.NetworkID) error {
	old, err := d.network()
	switch {
	case err != nil:
		return err
	case old == n:
		return nil
	case !old.IsZero():
		return overlay.Refuse(overlay.CodeWrongNetwork, "%s is pinned to network %s, not %s", d.path, old, n)
	}
	return identity.CreateFileAtomic(d.file(fileNetwork), []byte(n.String()+"\n"), 0o600)
}

// remember adds invitations to those of earlier runs and returns all, the new
// ones first.
func (d *dataDir) remember(texts []string) ([]overlay.Invitation, error) {
	old, err := readList(d.file(filePillars))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remembered pillars: %w", err)
	}
	var all []string
	seen := make(map[string]bool)
	for _, t := range append(append([]string(nil), texts...), old...) {
		if t = strings.TrimSpace(t); t != "" && !seen[t] {
			seen[t] = true
			all = append(all, t)
		}
	}
	var invitations []overlay.Invitation
	for _, t := range all {
		inv, err := overlay.ParseInvitation(t)
		if err != nil {
			return nil, err
		}
		invitations = append(invitations, inv)
	}
	if len(all) > len(old) {
		text := strings.Join(all, "\n") + "\n"
		if len(text) > maxListFile {
			return nil, fmt.Errorf("%w: more pillars to start from than fit into %s", ErrConfig, d.file(filePillars))
		}
		if err := identity.WriteFileAtomic(d.file(filePillars), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("remember pillars: %w", err)
		}
	}
	return invitations, nil
}

// readList reads a small file of lines; empty ones and those that begin with #
// are left out.
func readList(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxListFile {
		return nil, fmt.Errorf("%s is no text file of at most %d bytes", path, maxListFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, l := range strings.Split(string(b), "\n") {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// dirSize adds up the sizes of the files in a directory; what disappears
// meanwhile does not count.
func dirSize(dir string) (n uint64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			n += uint64(max(0, info.Size()))
		}
	}
	return n
}
