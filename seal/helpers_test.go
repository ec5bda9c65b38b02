package seal_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

const (
	second = uint64(1000)
	hour   = 3600 * second
	day    = 24 * hour
	start  = uint64(1_800_000_000_000)
)

var network = sha256.Sum256([]byte("network"))

// peerID returns something that looks like the raw peer ID of an Ed25519 key.
func peerID(format string, args ...any) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, format, args...))
	return append([]byte("\x00\x24\x08\x01\x12\x20"), sum[:]...)
}

// party is a device with its keyring.
type party struct {
	account, device []byte
	ring            *seal.Keyring
	dir             string
	key             seal.PublicKey
}

func newParty(t testing.TB, account, device string, now uint64) *party {
	t.Helper()
	dir := t.TempDir()
	p := &party{account: peerID("account %s", account), device: peerID("device %s/%s", account, device), dir: dir}
	p.ring = openRing(t, dir)
	p.key = rotate(t, p.ring, now)
	return p
}

func (p *party) as() seal.Device {
	return seal.Device{Account: p.account, Device: p.device, Key: p.key}
}

func (p *party) sender() seal.Sender { return seal.Sender{Account: p.account, Device: p.device} }

func devicesOf(parties ...*party) (list []seal.Device) {
	for _, p := range parties {
		list = append(list, p.as())
	}
	return list
}

func accountsOf(parties ...*party) (to [][]byte) {
	for _, p := range parties {
		to = append(to, p.account)
	}
	slices.SortFunc(to, bytes.Compare)
	return slices.CompactFunc(to, bytes.Equal)
}

func openRing(t testing.TB, dir string) *seal.Keyring {
	t.Helper()
	if err := chmodPrivate(dir); err != nil {
		t.Fatal(err)
	}
	ring, err := seal.OpenKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func rotate(t testing.TB, ring *seal.Keyring, now uint64) seal.PublicKey {
	t.Helper()
	key, err := ring.Rotate(now)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEpoch(t testing.TB, from *party, now uint64, to ...*party) *seal.Epoch {
	t.Helper()
	e, err := seal.NewEpoch(network, from.sender(), accountsOf(to...), devicesOf(to...), now, 31*day)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (p *party) open(t testing.TB, e *seal.Epoch) *seal.Opened {
	t.Helper()
	o, err := seal.OpenEpoch(network, e.Binding(), e.Bin(), p.device, p.ring)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// message is a sealed message as a record has it.
type message struct {
	binding seal.Binding
	payload []byte
	off     int
}

func (m message) bin() []byte { return m.payload[m.off:] }

// prefix is a payload like a record's, up to the header of its last bin. What
// stands in it is overlay's business; here it says what the binding says.
func prefix(b seal.Binding, bodyLen int) []byte {
	p := canon.AppendArray(nil, 9)
	p = canon.AppendUint(p, 1)
	p = canon.AppendUint(p, 4)
	p = canon.AppendBin(p, b.Account)
	p = canon.AppendBin(p, b.Device)
	p = canon.AppendArray(p, len(b.To))
	for _, a := range b.To {
		p = canon.AppendBin(p, a)
	}
	p = canon.AppendArray(p, 0)
	p = canon.AppendUint(p, b.Created)
	p = canon.AppendUint(p, b.Expires)
	return canon.AppendBinLen(p, seal.SealedLen(bodyLen))
}

func sealMessage(t testing.TB, e *seal.Epoch, b seal.Binding, body []byte) message {
	t.Helper()
	p := prefix(b, len(body))
	payload, err := e.Seal(p, body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(payload), len(p)+seal.SealedLen(len(body)); got != want {
		t.Fatalf("payload of %d bytes, SealedLen promised %d", got, want)
	}
	return message{b, payload, len(p)}
}

// chmodPrivate gives a directory that testing made the mode that a keyring
// wants.
func chmodPrivate(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return nil // OpenKeyring makes it
	}
	return os.Chmod(dir, 0o700)
}
