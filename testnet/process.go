package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	obelisk "github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
)

// Roles as the binary spells them.
const (
	RolePillar = "pillar"
	RoleNode   = "node"
)

// Entry is a process as testnet.json lists it.
type Entry struct {
	Role    string   `json:"role"`
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	Account string   `json:"account"` // a node's; else ""
	PID     int      `json:"pid"`     // of its last run
	Data    string   `json:"data"`
	Listen  []string `json:"listen"` // multiaddrs with /p2p
	Admin   string   `json:"admin"`
	API     string   `json:"api"`
}

// Process is one pillar or node of a Network: a data directory and how to run
// the binary on it, whether it runs now or not. Its methods are not safe for
// concurrent use, except Alive and the questions in ask.go.
type Process struct {
	Entry  // written with net.mu held
	net    *Network
	place  Place         // set before its first start
	args   []string      // of its last start
	exited chan struct{} // closed when the child is gone; nil if it is no child
	exit   error         // valid once exited is closed
	paused bool

	mu     sync.Mutex
	node   *admin.NodeClient   // guarded by mu; made when first asked
	pillar *admin.PillarClient // guarded by mu
}

// readyPoll is how often a starting process is looked at: it says that it is
// ready by writing run.json, and a file tells nobody.
const readyPoll = 20 * time.Millisecond

// run starts the binary with args and returns when it is ready, or why it is
// not with the end of its log.
func (p *Process) run(ctx context.Context, args []string) error {
	log, err := os.OpenFile(p.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	line := append(slices.Concat(p.place.Exec, []string{p.net.binary}), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+p.net.Dir)
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	go func() {
		p.exit = cmd.Wait()
		close(exited)
	}()
	p.exited = exited
	p.net.mu.Lock()
	p.args, p.paused, p.PID = args, false, cmd.Process.Pid
	p.net.mu.Unlock()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		if info, err := obelisk.ReadRun(p.Data); err == nil && info.PID == p.PID {
			p.net.mu.Lock()
			p.ID, p.Account, p.Listen, p.Admin, p.API = info.ID, info.Account, info.Listen, info.Admin, info.API
			p.net.mu.Unlock()
			p.forget()
			return nil
		}
		select {
		case <-tick.C:
		case <-exited:
			return fmt.Errorf("start %s: it ended before it was ready (%w)\n%s", p.Name, exitReason(p.exit), p.LogTail())
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-exited
			return fmt.Errorf("start %s: not ready: %w\n%s", p.Name, ctx.Err(), p.LogTail())
		}
	}
}

func exitReason(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// LogFile is where the process writes its log.
func (p *Process) LogFile() string { return filepath.Join(p.net.Dir, p.Name+".log") }

// LogTail returns the last lines of the log.
func (p *Process) LogTail() string {
	b, err := os.ReadFile(p.LogFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	lines = lines[max(0, len(lines)-5):]
	return "  " + strings.Join(lines, "\n  ")
}

// Alive reports whether the process of the last run is still there: whether
// it, and nobody else, holds the data directory. A pid alone would say little,
// since systems use them again.
func (p *Process) Alive() bool {
	info, err := obelisk.ReadRun(p.Data)
	return err == nil && info.PID == p.PID
}

// Kill ends the process as a power failure would (kill -9) and waits until it
// is gone.
func (p *Process) Kill(ctx context.Context) error {
	return p.end(ctx, (*os.Process).Kill)
}

// Stop asks the process to end and waits until it has; when ctx ends first it
// is killed, which is an error.
func (p *Process) Stop(ctx context.Context) error {
	if p.paused {
		if err := p.Resume(); err != nil {
			return err
		}
	}
	err := p.end(ctx, signalStop)
	if err != nil && ctx.Err() != nil {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(err, p.Kill(killCtx))
	}
	return err
}

func (p *Process) end(ctx context.Context, signal func(*os.Process) error) error {
	if !p.running() {
		return nil
	}
	proc, err := os.FindProcess(p.PID)
	if err == nil {
		err = signal(proc)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.Name, err)
	}
	if err := p.gone(ctx); err != nil {
		return fmt.Errorf("end %s (pid %d): %w", p.Name, p.PID, err)
	}
	p.forget()
	return nil
}

// running is Alive, and for a child also true before it is ready.
func (p *Process) running() bool {
	if p.exited == nil {
		return p.Alive()
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// gone waits until the process has ended.
func (p *Process) gone(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for p.running() {
		select {
		case <-p.exited: // nil, so never, if it is no child
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Pause stops the process where it is, as a machine that hangs, until Resume.
func (p *Process) Pause() error { return p.pause(true, signalPause) }

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.pause(false, signalResume) }

func (p *Process) pause(paused bool, signal func(*os.Process) error) error {
	if !p.running() {
		return fmt.Errorf("%s does not run", p.Name)
	}
	proc, err := os.FindProcess(p.PID)
	if err == nil {
		err = signal(proc)
	}
	if err != nil {
		return fmt.Errorf("pause or resume %s: %w", p.Name, err)
	}
	p.paused = paused
	return nil
}

// Paused reports whether Pause was called last.
func (p *Process) Paused() bool { return p.paused }

// Restart starts a process that has ended, on the same data directory and
// ports, and returns when it is ready.
func (p *Process) Restart(ctx context.Context) error {
	if p.running() {
		return fmt.Errorf("%s runs already", p.Name)
	}
	if err := p.run(ctx, p.args); err != nil {
		return err
	}
	return p.net.save()
}

// forget drops clients of an earlier run.
func (p *Process) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node != nil {
		p.node.Close()
	}
	if p.pillar != nil {
		p.pillar.Close()
	}
	p.node, p.pillar = nil, nil
}
