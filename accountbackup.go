package obelisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/obelisk-network/obelisk/identity"
)

// ErrPassphrase: a backup was made with another passphrase, or is none.
var ErrPassphrase = errors.New("wrong passphrase, or not a backup of an account")

const (
	minPassphrase = 10       // characters of a backup's passphrase
	maxBackup     = 64 << 10 // bytes of a backup
	// What opening a backup costs, as scrypt's log2 N: work is about a second, and
	// maxWork what somebody else's may be.
	work    = 18
	maxWork = 20
)

// ExportAccount returns a backup of the account key in dir, encrypted with a
// passphrase: an armored age file (age-encryption.org/v1). Whoever opens it can
// act as the account and add devices to it. It is a backup, not the way to add a
// device, and nothing else is in it: no messages, no contacts.
func ExportAccount(dir, passphrase string) ([]byte, error) {
	return exportAccount(dir, passphrase, work)
}

func exportAccount(dir, passphrase string, work int) ([]byte, error) {
	if len(passphrase) < minPassphrase {
		return nil, fmt.Errorf("%w: the passphrase has %d characters; at least %d are wanted", ErrConfig, len(passphrase), minPassphrase)
	}
	key, err := identity.LoadAccountKey(filepath.Join(dir, fileAccount))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoIdentity)
	}
	if err != nil {
		return nil, err
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	to.SetWorkFactor(work)
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, to)
	if err == nil {
		_, err = w.Write(key.MarshalFile())
	}
	if err == nil {
		err = errors.Join(w.Close(), text.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return out.Bytes(), nil
}

// ImportAccount puts the account key of a backup into dir, which must hold no
// account yet and no running process. The next OpenNode makes a new device for
// it. The error is ErrPassphrase, ErrLocked, or wraps fs.ErrExist.
func ImportAccount(dir string, backup []byte, passphrase string) (AccountID, error) {
	if len(backup) > maxBackup {
		return "", fmt.Errorf("%w: it has %d bytes", ErrPassphrase, len(backup))
	}
	from, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	from.SetMaxWorkFactor(maxWork)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(backup)), from)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxBackup))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	key, err := identity.ParseAccountKey(plain)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	d, err := openDataDir(dir, RoleNode)
	if err != nil {
		return "", err
	}
	defer d.close()
	if err := key.Create(d.file(fileAccount)); err != nil {
		if errors.Is(err, identity.ErrExists) {
			return "", fmt.Errorf("%s holds an account already: name another directory: %w", dir, fs.ErrExist)
		}
		return "", err
	}
	return key.ID(), nil
}
