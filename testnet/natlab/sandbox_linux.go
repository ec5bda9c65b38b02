package natlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sandbox is the network namespaces of one lab, all of whose names begin with
// the same prefix. A lab that dies without cleaning up leaves a lock that
// nobody holds; whoever makes the next sandbox removes what belonged to it.
type sandbox struct {
	prefix string
	dir    string   // for whatever the lab writes; removed with the sandbox
	lock   *os.File // locked while the lab lives; holds dir
	names  []string // full names of the namespaces
}

const (
	namePrefix = "obnat-"
	lockDir    = "/run/obelisk-natlab"
	netnsDir   = "/run/netns" // where ip keeps namespaces
	dirPrefix  = "natlab-"    // of the lab's directory
)

// Missing says what the lab needs and this machine lacks; "" if nothing.
func Missing() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, command := range []string{"ip", "iptables-restore", "conntrack"} {
		if _, err := exec.LookPath(command); err != nil {
			return "needs the command " + command + " (Debian: iproute2, iptables, conntrack)"
		}
	}
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return "needs " + tunDevice + ": " + err.Error()
	}
	f.Close()
	name := namePrefix + "probe-" + strconv.Itoa(os.Getpid())
	if err := command(context.Background(), "", "ip", "netns", "add", name); err != nil {
		return "needs the right to make network namespaces: " + err.Error()
	}
	if err := command(context.Background(), "", "ip", "netns", "delete", name); err != nil {
		return "needs the right to remove network namespaces: " + err.Error()
	}
	return ""
}

// newSandbox makes an empty sandbox, after removing those of labs that died.
func newSandbox(ctx context.Context) (*sandbox, error) {
	if err := os.MkdirAll(lockDir, 0o755); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	// One lab at a time looks for dead ones or begins to live.
	all, err := lockFile(lockDir, os.O_RDONLY, unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	defer all.Close()
	if err := sweep(ctx); err != nil {
		return nil, fmt.Errorf("sandbox: remove what a lab that died left: %w", err)
	}
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	id := strings.TrimPrefix(filepath.Base(dir), dirPrefix)
	s := &sandbox{prefix: namePrefix + id + "-", dir: dir}
	s.lock, err = lockFile(filepath.Join(lockDir, id), os.O_RDWR|os.O_CREATE|os.O_EXCL, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = s.lock.WriteString(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sandbox: %w", err), s.remove(ctx))
	}
	return s, nil
}

// lockFile opens a file and locks it for as long as it stays open. No command
// that this process starts keeps it open.
func lockFile(path string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// sweep removes the sandboxes whose locks nobody holds.
func sweep(ctx context.Context) error {
	locks, err := os.ReadDir(lockDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range locks {
		path := filepath.Join(lockDir, entry.Name())
		f, err := lockFile(path, os.O_RDWR, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // its lab lives
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s := &sandbox{prefix: namePrefix + entry.Name() + "-", lock: f}
		if dir, err := os.ReadFile(path); err == nil && filepath.Base(string(dir)) == dirPrefix+entry.Name() {
			s.dir = string(dir)
		}
		left, err := filepath.Glob(filepath.Join(netnsDir, s.prefix+"*"))
		errs = append(errs, err)
		for _, path := range left {
			s.names = append(s.names, filepath.Base(path))
		}
		errs = append(errs, s.remove(ctx))
	}
	return errors.Join(errs...)
}

// remove ends whatever runs in the sandbox and removes it.
func (s *sandbox) remove(ctx context.Context) error {
	var errs []error
	for _, name := range s.names {
		out, err := exec.CommandContext(ctx, "ip", "netns", "pids", name).Output()
		if err != nil {
			errs = append(errs, fmt.Errorf("processes of %s: %w", name, err))
		}
		for pid := range strings.FieldsSeq(string(out)) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = unix.Kill(n, unix.SIGKILL) // gone by itself, else
			}
		}
		errs = append(errs, command(ctx, "", "ip", "netns", "delete", name))
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	err := errors.Join(errs...)
	if s.lock == nil {
		return err
	}
	if err == nil { // else whoever comes next tries again
		err = os.Remove(s.lock.Name())
	}
	return errors.Join(err, s.lock.Close())
}

// name is a namespace's name for ip.
func (s *sandbox) name(place string) string { return s.prefix + place }

// add makes a namespace in which nothing but loopback works.
func (s *sandbox) add(ctx context.Context, place string) error {
	name := s.name(place)
	if err := command(ctx, "", "ip", "netns", "add", name); err != nil {
		return err
	}
	s.names = append(s.names, name)
	return s.ip(ctx, place, "link", "set", "lo", "up")
}

// ip runs ip in a namespace.
func (s *sandbox) ip(ctx context.Context, place string, args ...string) error {
	return command(ctx, "", "ip", append([]string{"-n", s.name(place)}, args...)...)
}

// batch runs several commands of ip in a namespace.
func (s *sandbox) batch(ctx context.Context, place string, lines ...string) error {
	if err := command(ctx, strings.Join(lines, "\n"), "ip", "-n", s.name(place), "-batch", "-"); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(lines, "; "), err)
	}
	return nil
}

// exec is what to put before a command to run it in a namespace.
func (s *sandbox) exec(place string) []string { return []string{"ip", "netns", "exec", s.name(place)} }

// errNoSetting: this kernel has no such setting.
var errNoSetting = fs.ErrNotExist

// set writes one of the kernel's settings below net, as sysctl does.
func (s *sandbox) set(place, setting, value string) error {
	return s.inside(place, func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", setting), []byte(value), 0o644)
	})
}

// dial connects from inside a namespace, to an IP address.
func (s *sandbox) dial(place string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = s.inside(place, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// inside calls fn on a thread that is in the namespace. What fn opens stays
// there and can be used anywhere.
func (s *sandbox) inside(place string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			runtime.LockOSThread()
			outside, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer outside.Close()
			there, err := os.Open(filepath.Join(netnsDir, s.name(place)))
			if err != nil {
				return err
			}
			defer there.Close()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", s.name(place), err)
			}
			err = fn()
			if back := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET); back != nil {
				return errors.Join(err, fmt.Errorf("leave %s: %w", s.name(place), back)) // locked: the thread ends with its goroutine
			}
			runtime.UnlockOSThread()
			return err
		}()
	}()
	return <-done
}

// command runs a command to its end, with stdin, and returns an error with what
// it complained of.
func command(ctx context.Context, stdin, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
