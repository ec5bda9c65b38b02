package seal_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

func Example() {
	dir, err := os.MkdirTemp("", "seal")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	now := uint64(1_800_000_000_000)

	// Bob's device has a keyring and publishes its newest key.
	ring, err := seal.OpenKeyring(filepath.Join(dir, "sealing"))
	if err != nil {
		panic(err)
	}
	key, err := ring.Rotate(now)
	if err != nil {
		panic(err)
	}
	bob, bobDevice := peerID("bob"), peerID("bob's phone")

	// Alice's device seals to it.
	alice := seal.Sender{Account: peerID("alice"), Device: peerID("alice's laptop")}
	devices := []seal.Device{{Account: bob, Device: bobDevice, Key: key}}
	lifetime := uint64(31 * 24 * 3600 * 1000)
	epoch, err := seal.NewEpoch(network, alice, [][]byte{bob}, devices, now, lifetime)
	if err != nil {
		panic(err)
	}
	body := []byte("meet me at the obelisk")
	fields := []byte("all fields of the payload before the bin")
	payload := canon.AppendBinLen(fields, seal.SealedLen(len(body)))
	off := len(payload)
	if payload, err = epoch.Seal(payload, body); err != nil {
		panic(err)
	}

	// Bob's device opens the epoch, and then every message in it.
	opened, err := seal.OpenEpoch(network, epoch.Binding(), epoch.Bin(), bobDevice, ring)
	if err != nil {
		panic(err)
	}
	message := epoch.Binding()
	message.Expires = seal.MessageExpiry(now+3*24*3600*1000, epoch.Expires())
	plain, err := opened.Open(message, payload, off)
	fmt.Printf("%s %v\n", plain, err)
	// Output: meet me at the obelisk <nil>
}
