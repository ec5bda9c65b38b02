//go:build unix

package testnet

import (
	"os"
	"os/exec"
	"syscall"
)

// detach gives the process a group of its own, so that an interrupt at the
// terminal reaches only the program that started it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func signalStop(p *os.Process) error   { return p.Signal(syscall.SIGTERM) }
func signalPause(p *os.Process) error  { return p.Signal(syscall.SIGSTOP) }
func signalResume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
