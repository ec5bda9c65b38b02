package identity_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

func TestAdmission(t *testing.T) {
	network := identity.NewNetworkKey()
	pillar := identity.NewPillarKey().ID()
	sound := network.Admit(pillar, 4, someDay)
	parsed, err := identity.ParseAdmission(sound.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Pillar != pillar || parsed.Serial != 4 || parsed.NotAfter != someDay || !bytes.Equal(parsed.Append(nil), sound.Append(nil)) {
		t.Errorf("got %+v", parsed)
	}
	if !parsed.Verify(network.ID()) {
		t.Error("a sound admission is refused")
	}
	for name, c := range map[string]struct {
		now     uint64
		network identity.NetworkID
		change  func(a *identity.Admission)
		want    error
	}{
		"at issue":          {now: someDay - 30*day},
		"at the last":       {now: someDay},
		"expired":           {now: someDay + 1, want: identity.ErrExpired},
		"expired long ago":  {now: math.MaxUint64, want: identity.ErrExpired},
		"too long":          {now: someDay - 30*day - 1, want: identity.ErrTooLongLived},
		"clock at zero":     {now: 0, want: identity.ErrTooLongLived},
		"other network":     {now: someDay, network: identity.NewNetworkKey().ID(), want: identity.ErrSignature},
		"no network":        {now: someDay, network: identity.NetworkID{31: 0x80}, want: identity.ErrSignature},
		"other pillar":      {now: someDay, change: func(a *identity.Admission) { a.Pillar = identity.NewPillarKey().ID() }, want: identity.ErrSignature},
		"other serial":      {now: someDay, change: func(a *identity.Admission) { a.Serial++ }, want: identity.ErrSignature},
		"other not after":   {now: someDay, change: func(a *identity.Admission) { a.NotAfter++ }, want: identity.ErrSignature},
		"altered signature": {now: someDay, change: func(a *identity.Admission) { a.Signature[0] ^= 1 }, want: identity.ErrSignature},
		"no signature":      {now: someDay, change: func(a *identity.Admission) { a.Signature = nil }, want: identity.ErrSignature},
	} {
		a := parsed
		a.Signature = bytes.Clone(parsed.Signature)
		if c.change != nil {
			c.change(&a)
		}
		if c.network.IsZero() {
			c.network = network.ID()
		}
		if err := a.Valid(c.network, c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func wireAdmission(pillar []byte, serial, notAfter uint64, signature []byte) []byte {
	b := canon.AppendArray(nil, 4)
	b = canon.AppendBin(b, pillar)
	b = canon.AppendUint(b, serial)
	b = canon.AppendUint(b, notAfter)
	return canon.AppendBin(b, signature)
}

func TestParseAdmissionRefuses(t *testing.T) {
	admission := identity.NewNetworkKey().Admit(identity.NewPillarKey().ID(), 4, someDay)
	sound := admission.Append(nil)
	pillar := []byte(admission.Pillar)
	sig := make([]byte, 64)
	for name, wire := range map[string][]byte{
		"empty":              nil,
		"tail":               append(bytes.Clone(sound), 0),
		"array of 5":         append([]byte{0x95}, sound[1:]...),
		"array announcing":   append([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, sound[1:]...),
		"nested":             bytes.Repeat([]byte{0x91}, 90),
		"huge":               make([]byte, 1<<20),
		"rsa pillar":         wireAdmission([]byte(rsaKey().ID()), 1, 1, sig),
		"no pillar":          wireAdmission(nil, 1, 1, sig),
		"small-order pillar": wireAdmission([]byte("\x00\x24\x08\x01\x12\x20\x01"+string(make([]byte, 31))), 1, 1, sig),
		"signature of 63":    wireAdmission(pillar, 1, 1, sig[:63]),
		"signature of 65":    wireAdmission(pillar, 1, 1, append(sig, 0)),
		"serial in 2 bytes":  bytes.Replace(wireAdmission(pillar, 1, 1, sig), []byte{1, 1, 0xc4}, []byte{0xcc, 1, 1, 0xc4}, 1),
	} {
		if _, err := identity.ParseAdmission(wire); !errors.Is(err, identity.ErrBadAdmission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range sound {
		if _, err := identity.ParseAdmission(sound[:i]); err == nil {
			t.Errorf("the first %d bytes accepted", i)
		}
	}
	if longest := wireAdmission(pillar, math.MaxUint64, math.MaxUint64, sig[:64]); len(longest) != identity.MaxAdmission {
		t.Errorf("longest takes %d bytes, MaxAdmission is %d", len(longest), identity.MaxAdmission)
	} else if _, err := identity.ParseAdmission(longest); err != nil {
		t.Error(err)
	}
}

func TestAdmissionFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admission")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := identity.ReadAdmission(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	sound := identity.NewNetworkKey().Admit(identity.NewPillarKey().ID(), 4, someDay)
	line := string(sound.MarshalFile())
	if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		t.Errorf("not one line: %q", line)
	}
	for _, s := range []string{line, strings.TrimSpace(line), "\r\n  " + line + "\r\n\r\n", line[:40] + "\n" + line[40:]} {
		write(s)
		a, err := identity.ReadAdmission(path)
		if err != nil || !bytes.Equal(a.Append(nil), sound.Append(nil)) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for name, s := range map[string]string{
		"empty":       "",
		"prefix only": "obelisk-admission:",
		"other":       "hello",
		"truncated":   line[:len(line)-3],
		"not base64":  "obelisk-admission:!!!",
		"two":         line + line,
	} {
		write(s)
		if _, err := identity.ReadAdmission(path); !errors.Is(err, identity.ErrBadAdmission) {
			t.Errorf("%s: %v", name, err)
		}
	}
	write(strings.Repeat(" ", 5000) + line)
	if _, err := identity.ReadAdmission(path); err == nil {
		t.Error("an oversized file accepted")
	}
	if _, err := identity.ReadAdmission(t.TempDir()); err == nil {
		t.Error("a directory accepted")
	}
}

func FuzzParseAdmission(f *testing.F) {
	network := identity.NewNetworkKey()
	a := network.Admit(identity.NewPillarKey().ID(), 4, someDay)
	f.Add(a.Append(nil))
	f.Add([]byte{0x94})
	f.Fuzz(func(t *testing.T, wire []byte) {
		a, err := identity.ParseAdmission(wire)
		if err != nil {
			if !errors.Is(err, identity.ErrBadAdmission) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(a.Append(nil), wire) {
			t.Errorf("%x: another wire form after a round trip", wire)
		}
		a.Valid(network.ID(), someDay)
	})
}
