package obelisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Identity is who lives in a data directory, read from its files whether a
// process runs there or not.
type Identity struct {
	Role    Role
	Account AccountID        // node
	KeyType identity.KeyType // node: of the account's key
	Device  DeviceID         // node
	Pillar  PillarID         // pillar
	Network NetworkID        // zero until pinned
}

// ReadIdentity reads who lives in dir. The error wraps ErrNoIdentity if nobody
// does.
func ReadIdentity(dir string) (Identity, error) {
	var id Identity
	network, err := readNetwork(dir)
	if err != nil {
		return id, err
	}
	id.Network = network
	pillar, err := identity.LoadPillarKey(filepath.Join(dir, filePillar))
	if err == nil {
		id.Role, id.Pillar = RolePillar, pillar.ID()
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	account, err := identity.LoadAccountKey(filepath.Join(dir, fileAccount))
	if errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("%s: %w: start one with `obelisk run`, or name another directory with --data", dir, ErrNoIdentity)
	}
	if err != nil {
		return id, err
	}
	device, err := identity.LoadDeviceKey(filepath.Join(dir, fileDevice))
	if err != nil {
		return id, err
	}
	id.Role, id.Account, id.KeyType, id.Device = RoleNode, account.ID(), account.Type(), device.ID()
	return id, nil
}

// NetworkKeyFile is where a pillar keeps the network key if it is not told.
func NetworkKeyFile(dir string) string { return filepath.Join(dir, fileNetKey) }

// TokenFile is where the bearer token of a role is.
func TokenFile(dir string, role Role) string {
	if role == RolePillar {
		return filepath.Join(dir, fileToken)
	}
	return filepath.Join(dir, fileAPIToken)
}

// APISocket is the address of a node's local API if it is not told another.
func APISocket(dir string) string { return "unix:" + filepath.Join(dir, fileAPISocket) }

// LastJoinLink returns the join link of the running or last run, "" if there
// was none.
func LastJoinLink(dir string) string {
	lines, err := readList(filepath.Join(dir, fileLink))
	if err != nil || len(lines) == 0 {
		return ""
	}
	return lines[0]
}

// AllowAccount writes down that an account may register at the pillar that
// lives in dir and does not run now; it counts from the pillar's next start.
func AllowAccount(dir string, a AccountID) error {
	return addLine(dir, fileAllowed, a.String())
}

// RevokeLater writes down a revocation, as SignRevocation returned it, for the
// pillar that lives in dir and does not run now; it takes it at its next start.
func RevokeLater(dir, revocation string) error {
	network, err := readNetwork(dir)
	if err != nil {
		return err
	}
	if _, _, err := overlay.ParseRevocation(network, revocation); err != nil {
		return err
	}
	return addLine(dir, fileRevoked, revocation)
}

// addLine adds a line to a file of a pillar that does not run, unless it is
// there already.
func addLine(dir, file, line string) error {
	d, err := openDataDir(dir, RolePillar)
	if err != nil {
		return err
	}
	defer d.close()
	lines, err := readList(d.file(file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", d.file(file), err)
	}
	if slices.Contains(lines, line) {
		return nil
	}
	var text []byte
	for _, l := range append(lines, line) {
		text = append(append(text, l...), '\n')
	}
	if len(text) > maxListFile {
		return fmt.Errorf("%w: %s is full: start the pillar once", ErrConfig, d.file(file))
	}
	if err := identity.WriteFileAtomic(d.file(file), text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", d.file(file), err)
	}
	return nil
}

// takeRevocations calls take for what RevokeLater wrote down, and forgets it.
func (d *dataDir) takeRevocations(take func(text string) error) error {
	lines, err := readList(d.file(fileRevoked))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, l := range lines {
		if err == nil {
			err = take(l)
		}
	}
	if err != nil {
		return fmt.Errorf("revocations: %s: %w", d.file(fileRevoked), err)
	}
	return os.Remove(d.file(fileRevoked))
}

// takeAllowed calls allow for the accounts that AllowAccount wrote down, and
// forgets them.
func (d *dataDir) takeAllowed(allow func(AccountID) error) error {
	lines, err := readList(d.file(fileAllowed))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("allowed accounts: %w", err)
	}
	for _, l := range lines {
		a, err := identity.ParseAccount(l)
		if err == nil {
			err = allow(a)
		}
		if err != nil {
			return fmt.Errorf("allowed accounts: %s: %w", d.file(fileAllowed), err)
		}
	}
	return os.Remove(d.file(fileAllowed))
}
