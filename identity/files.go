package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
)

// A key file is PEM with a header that repeats the key's ID, so that a flipped
// bit is found, around the private key in PKCS#8:
//
//	-----BEGIN OBELISK ACCOUNT KEY-----
//	ID: 12D3KooW…
//
//	MC4CAQAwBQYDK2VwBCIEI…
//	-----END OBELISK ACCOUNT KEY-----
//
// Nothing else may be in it. It has mode 0600, is written in one piece, and is
// never replaced: a key that is gone is an identity that is gone.

const (
	keyFileMode  = 0o600
	keyFileIDKey = "ID"
	// maxKeyFile bounds a key file in bytes; one of RSA 8192 has about 6,600.
	maxKeyFile = 16 << 10
)

// storedKey is a private key that has files.
type storedKey interface {
	idText() string
	private() any // as x509.MarshalPKCS8PrivateKey takes it
}

// keyKind says how the files of one kind of key are read.
type keyKind[K storedKey] struct {
	pemType string
	noun    string
	wrap    func(private any) (K, error) // ErrWrongKind for an algorithm the kind does not have
}

var (
	accountKind = keyKind[*AccountKey]{"OBELISK ACCOUNT KEY", "account key", accountKey}
	deviceKind  = keyKind[*DeviceKey]{"OBELISK DEVICE KEY", "device key", func(private any) (*DeviceKey, error) {
		k, err := ed25519Key(private)
		return &DeviceKey{k}, err
	}}
	pillarKind = keyKind[*PillarKey]{"OBELISK PILLAR KEY", "pillar key", func(private any) (*PillarKey, error) {
		k, err := ed25519Key(private)
		return &PillarKey{k}, err
	}}
	networkKind = keyKind[*NetworkKey]{"OBELISK NETWORK KEY", "network key", func(private any) (*NetworkKey, error) {
		k, err := ed25519Key(private)
		return &NetworkKey{k}, err
	}}
)

// LoadAccountKey reads a key file. The error wraps fs.ErrNotExist if there is
// none, ErrTooOpen, ErrDamaged or ErrWrongKind if it must not be used, and says
// what to do. So it is with all Load functions.
func LoadAccountKey(path string) (*AccountKey, error) { return accountKind.load(path) }

// LoadOrCreateAccountKey reads the key file at path or, if there is none, makes
// a key of the given type (see NewAccountKey) and stores it there first. A file
// that is there and cannot be used is an error, never replaced. Of several
// callers at once one creates the key and all return it.
func LoadOrCreateAccountKey(path string, t KeyType, rsaBits int) (key *AccountKey, created bool, err error) {
	return accountKind.loadOrCreate(path, func() (*AccountKey, error) { return NewAccountKey(t, rsaBits) })
}

// LoadDeviceKey reads a key file, see LoadAccountKey.
func LoadDeviceKey(path string) (*DeviceKey, error) { return deviceKind.load(path) }

// LoadOrCreateDeviceKey reads or makes a key file, see LoadOrCreateAccountKey.
func LoadOrCreateDeviceKey(path string) (key *DeviceKey, created bool, err error) {
	return deviceKind.loadOrCreate(path, func() (*DeviceKey, error) { return NewDeviceKey(), nil })
}

// LoadPillarKey reads a key file, see LoadAccountKey.
func LoadPillarKey(path string) (*PillarKey, error) { return pillarKind.load(path) }

// LoadOrCreatePillarKey reads or makes a key file, see LoadOrCreateAccountKey.
func LoadOrCreatePillarKey(path string) (key *PillarKey, created bool, err error) {
	return pillarKind.loadOrCreate(path, func() (*PillarKey, error) { return NewPillarKey(), nil })
}

// LoadNetworkKey reads a key file, see LoadAccountKey.
func LoadNetworkKey(path string) (*NetworkKey, error) { return networkKind.load(path) }

// LoadOrCreateNetworkKey reads or makes a key file, see LoadOrCreateAccountKey.
func LoadOrCreateNetworkKey(path string) (key *NetworkKey, created bool, err error) {
	return networkKind.loadOrCreate(path, func() (*NetworkKey, error) { return NewNetworkKey(), nil })
}

// MarshalFile returns the content of the account's key file: the private key in
// clear, for a backup that encrypts it.
func (k *AccountKey) MarshalFile() []byte { return accountKind.marshal(k) }

// ParseAccountKey reads what MarshalFile returned. Errors wrap ErrDamaged or
// ErrWrongKind.
func ParseAccountKey(data []byte) (*AccountKey, error) { return accountKind.parse(data) }

// Create stores k in a new key file. If path exists, the error wraps ErrExists.
func (k *AccountKey) Create(path string) error { return accountKind.create(path, k) }

func (kind keyKind[K]) loadOrCreate(path string, newKey func() (K, error)) (K, bool, error) {
	k, err := kind.load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	if k, err = newKey(); err != nil {
		return k, false, err
	}
	err = kind.create(path, k)
	if errors.Is(err, ErrExists) { // somebody else was faster
		k, err = kind.load(path)
		return k, false, err
	}
	if err != nil {
		var none K
		return none, false, err
	}
	return k, true, nil
}

func (kind keyKind[K]) create(path string, k K) error {
	if err := CreateFileAtomic(path, kind.marshal(k), keyFileMode); err != nil {
		return fmt.Errorf("create %s: %w", kind.noun, err)
	}
	return nil
}

func (kind keyKind[K]) load(path string) (K, error) {
	var none K
	f, err := openRegular(path)
	if err != nil {
		return none, fmt.Errorf("load %s: %w", kind.noun, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return none, fmt.Errorf("load %s: %w", kind.noun, err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return none, fmt.Errorf("load %s %s: %w (mode %04o): run `chmod 600 %s`, and think about who could read it until now",
			kind.noun, path, ErrTooOpen, mode, path)
	}
	if info.Size() > maxKeyFile {
		return none, fmt.Errorf("load %s %s: %w", kind.noun, path, damaged("it has %d bytes, no key needs more than %d", info.Size(), maxKeyFile))
	}
	data, err := readLimited(f, maxKeyFile)
	if err != nil {
		return none, fmt.Errorf("load %s: %w", kind.noun, err)
	}
	k, err := kind.parse(data)
	if err != nil {
		return none, fmt.Errorf("load %s %s: %w", kind.noun, path, err)
	}
	return k, nil
}

func (kind keyKind[K]) marshal(k K) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(k.private())
	if err != nil {
		panic(fmt.Sprintf("identity: marshal %s: %v", kind.noun, err)) // of unknown algorithms only
	}
	return pem.EncodeToMemory(&pem.Block{
		Type:    kind.pemType,
		Headers: map[string]string{keyFileIDKey: k.idText()},
		Bytes:   der,
	})
}

func (kind keyKind[K]) parse(data []byte) (K, error) {
	var none K
	if len(data) == 0 {
		return none, damaged("it is empty")
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")) // a backup may have been through a text editor
	block, _ := pem.Decode(data)
	if block == nil {
		return none, damaged("it is truncated or no key file at all")
	}
	if block.Type != kind.pemType {
		return none, fmt.Errorf("%w: it holds %q and %q is needed; check which file belongs where", ErrWrongKind, block.Type, kind.pemType)
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return none, damaged("the key in it cannot be read") // the cause could quote key material
	}
	k, err := kind.wrap(private)
	if err != nil {
		return none, damaged("the key in it is not acceptable: %v", err)
	}
	if id := block.Headers[keyFileIDKey]; id != k.idText() {
		return none, damaged("it says %q and holds the key of %q", id, k.idText())
	}
	// What is left are additions: text around the block, other headers, bytes
	// that base64 or DER ignore.
	if !bytes.Equal(kind.marshal(k), data) {
		return none, damaged("something was added to it or changed in it")
	}
	return k, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s; restore it from your backup; a new key would be a new identity", ErrDamaged, fmt.Sprintf(format, args...))
}
