//go:build !unix

package testnet

import (
	"errors"
	"os"
	"os/exec"
)

var errNoSignals = errors.New("processes cannot be paused on this system")

func detach(*exec.Cmd) {}

// signalStop has no graceful form here.
func signalStop(p *os.Process) error { return p.Kill() }

func signalPause(*os.Process) error  { return errNoSignals }
func signalResume(*os.Process) error { return errNoSignals }
