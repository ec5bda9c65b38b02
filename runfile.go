package obelisk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// RunInfo is run.json: what runs in a data directory and where to ask it.
type RunInfo struct {
	Role     string    `json:"role"`
	ID       string    `json:"id"`      // the process's peer ID: a pillar's, or a node's device's
	Account  string    `json:"account"` // a node's; else ""
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Network  string    `json:"network"` // "" until pinned
	Listen   []string  `json:"listen"`  // multiaddrs with /p2p
	JoinLink string    `json:"join_link"`
	Admin    string    `json:"admin"` // HOST:PORT or https://HOST:PORT; "" if off
	API      string    `json:"api"`   // unix:PATH or HOST:PORT; "" if off
	Started  time.Time `json:"started"`
}

// ReadRun returns what runs in dir. The error wraps ErrNotRunning if nothing
// does: a run.json that a killed process left behind does not count.
func ReadRun(dir string) (RunInfo, error) {
	var info RunInfo
	b, err := os.ReadFile(filepath.Join(dir, fileRun))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !isHeld(dir) {
		return info, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if err == nil {
		err = json.Unmarshal(b, &info)
	}
	if err != nil {
		return info, fmt.Errorf("%s: %w", filepath.Join(dir, fileRun), err)
	}
	return info, nil
}

func (d *dataDir) writeRun(info *RunInfo) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // links have & in them
	e.SetIndent("", "  ")
	err := e.Encode(info)
	if err == nil {
		err = identity.WriteFileAtomic(d.file(fileRun), b.Bytes(), 0o600)
	}
	if err == nil && info.JoinLink != "" {
		err = identity.WriteFileAtomic(d.file(fileLink), []byte(info.JoinLink+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write run.json: %w", err)
	}
	return nil
}

// refreshEvery is how often run.json is compared with what is known.
const refreshEvery = 2 * time.Second

// keepRun writes run.json again when what others must know to join changed: a
// node learns network and join link while it runs, a home pillar is reached
// through others, which change. written is what stands there.
func (d *dataDir) keepRun(ctx context.Context, written *RunInfo, current func() *RunInfo) error {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := current()
		if now.JoinLink == written.JoinLink && now.Network == written.Network && now.ID == written.ID {
			continue
		}
		if err := d.writeRun(now); err != nil {
			return err
		}
		written = now
	}
}

func (d *dataDir) removeRun() error {
	if err := os.Remove(d.file(fileRun)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
