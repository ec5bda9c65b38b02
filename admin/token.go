package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/obelisk-network/obelisk/identity"
)

const (
	tokenBytes   = 32
	maxTokenFile = 256
)

// LoadOrCreateToken reads the bearer token in the file path or, if there is
// none, makes a random one of 32 bytes in hex and stores it there with mode
// 0600.
func LoadOrCreateToken(path string) (string, error) {
	token, err := LoadToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	var b [tokenBytes]byte
	rand.Read(b[:]) // never fails since Go 1.24
	token = hex.EncodeToString(b[:])
	err = identity.CreateFileAtomic(path, []byte(token+"\n"), 0o600)
	if errors.Is(err, identity.ErrExists) { // somebody else was faster
		return LoadToken(path)
	}
	if err != nil {
		return "", fmt.Errorf("create token: %w", err)
	}
	return token, nil
}

// LoadToken reads a token file; the error wraps fs.ErrNotExist if there is
// none. A file that others can read is refused.
func LoadToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("load token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("load token: %w", err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return "", fmt.Errorf("load token: %s has mode %04o, so others can use it: remove it and a new one is made at the next start", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return "", fmt.Errorf("load token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < 32 {
		return "", fmt.Errorf("load token: %s is too short to be a secret: remove it and a new one is made at the next start", path)
	}
	return token, nil
}

// equalTokens compares in constant time, whatever the lengths.
func equalTokens(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
