package identity_test

import (
	"sync"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
)

// rsaKey returns one RSA 2048 account key for all tests: they take long to make.
var rsaKey = sync.OnceValue(func() *identity.AccountKey {
	k, err := identity.NewAccountKey(identity.KeyRSA, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func edAccount(t testing.TB) *identity.AccountKey {
	t.Helper()
	k, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signedBy returns a sound check of message.
func signedBy(k interface {
	Public() identity.PublicKey
	Sign(identity.Tag, identity.NetworkID, []byte) []byte
}, tag identity.Tag, network identity.NetworkID, message string) identity.Check {
	return identity.Check{
		Key: k.Public(), Tag: tag, Network: network, Message: []byte(message),
		Signature: k.Sign(tag, network, []byte(message)),
	}
}

// verdict returns what Verify says of c, and fails if a batch says otherwise.
func verdict(t testing.TB, c identity.Check) bool {
	t.Helper()
	single := identity.Verify(&c)
	good := signedBy(identity.NewDeviceKey(), c.Tag, c.Network, "neighbour")
	var v identity.BatchVerifier
	for _, batch := range [][]identity.Check{{c}, {c, c}, {good, c, good, good, good}} {
		ok := make([]bool, len(batch))
		v.Verify(batch, ok)
		for i := range ok {
			want := single
			if string(batch[i].Message) == "neighbour" {
				want = true
			}
			if ok[i] != want {
				t.Fatalf("batch of %d: verdict %d is %v, single checks say %v", len(batch), i, ok[i], want)
			}
		}
	}
	return single
}
