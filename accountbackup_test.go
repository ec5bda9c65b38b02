package obelisk_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/obelisk-network/obelisk"
)

// TestAccountBackup: what was exported is the same account elsewhere, for whoever
// knows the passphrase, and never in the place of another.
func TestAccountBackup(t *testing.T) {
	dir := t.TempDir()
	n, err := obelisk.OpenNode(t.Context(), obelisk.NodeConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	account, device := n.Account(), n.Device()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	const pass = "correct horse battery"
	if _, err := obelisk.ExportAccount(dir, "short"); !errors.Is(err, obelisk.ErrConfig) {
		t.Errorf("a short passphrase: %v", err)
	}
	if _, err := obelisk.ExportAccount(t.TempDir(), pass); !errors.Is(err, obelisk.ErrNoIdentity) {
		t.Errorf("nobody there: %v", err)
	}
	backup, err := obelisk.ExportAccount(dir, pass)
	if err != nil || !bytes.HasPrefix(backup, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) {
		t.Fatalf("%q, %v", backup, err)
	}
	quick, err := obelisk.ExportAccountQuickly(dir, pass)
	if err != nil {
		t.Fatal(err)
	}

	other := t.TempDir()
	for name, bad := range map[string]struct {
		data []byte
		pass string
	}{
		"wrong passphrase": {quick, pass + "s"},
		"no passphrase":    {quick, ""},
		"cut":              {quick[:len(quick)/2], pass},
		"changed":          {bytes.Replace(quick, []byte("A"), []byte("B"), 1), pass},
		"another file":     {[]byte("hello"), pass},
		"huge":             {bytes.Repeat([]byte{'x'}, 1<<20), pass},
	} {
		if _, err := obelisk.ImportAccount(other, bad.data, bad.pass); !errors.Is(err, obelisk.ErrPassphrase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := obelisk.ImportAccount(other, backup, pass); err != nil || got != account {
		t.Fatalf("%s, %v; want %s", got, err, account)
	}
	if _, err := obelisk.ImportAccount(other, quick, pass); !errors.Is(err, fs.ErrExist) {
		t.Errorf("in the place of an account: %v", err)
	}
	m, err := obelisk.OpenNode(t.Context(), obelisk.NodeConfig{Dir: other})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Account() != account || m.Device() == device {
		t.Errorf("account %s and device %s; want the same account on another device", m.Account(), m.Device())
	}
	if _, err := obelisk.ImportAccount(other, quick, pass); !errors.Is(err, obelisk.ErrLocked) {
		t.Errorf("while it runs: %v", err)
	}
}
