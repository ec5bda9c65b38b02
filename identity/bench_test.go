package identity_test

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"

	"github.com/hdevalence/ed25519consensus"

	"github.com/obelisk-network/obelisk/identity"
)

// benchChecks returns n sound checks of 700-byte messages by as many keys as
// keys says, in turn.
func benchChecks(n, keys int) []identity.Check {
	devices := make([]*identity.DeviceKey, keys)
	for i := range devices {
		devices[i] = identity.NewDeviceKey()
	}
	network := identity.NewNetworkKey().ID()
	checks := make([]identity.Check, n)
	for i := range checks {
		d := devices[i%keys]
		message := make([]byte, 700)
		message[0], message[1] = byte(i), byte(i>>8)
		checks[i] = identity.Check{
			Key: d.Public(), Tag: identity.TagRecord, Network: network, Message: message,
			Signature: d.Sign(identity.TagRecord, network, message),
		}
	}
	return checks
}

// BenchmarkBatch shows the cost per signature by batch size and number of keys,
// with one bad signature in it, and that of the library's own batch.
func BenchmarkBatch(b *testing.B) {
	perSignature := func(b *testing.B, n int) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sig")
	}
	run := func(b *testing.B, checks []identity.Check, bad int) {
		ok := make([]bool, len(checks))
		var v identity.BatchVerifier
		b.ReportAllocs()
		for b.Loop() {
			v.Verify(checks, ok)
			for i := range ok {
				if ok[i] == (i < bad) {
					b.Fatal("wrong verdict")
				}
			}
		}
		perSignature(b, len(checks))
	}
	for _, n := range []int{1, 2, 4, 8, 64, 256} {
		for _, keys := range slices.Compact([]int{1, max(1, n/8), n}) {
			b.Run(fmt.Sprintf("n=%d/keys=%d", n, keys), func(b *testing.B) { run(b, benchChecks(n, keys), 0) })
		}
		b.Run(fmt.Sprintf("n=%d/library", n), func(b *testing.B) {
			checks := benchChecks(n, n)
			keys := make([]ed25519.PublicKey, n)
			for i := range checks {
				keys[i] = checks[i].Key.ID().Ed25519Key()
			}
			var signed []byte
			b.ReportAllocs()
			for b.Loop() {
				batch := ed25519consensus.NewPreallocatedBatchVerifier(n)
				for i := range checks {
					c := &checks[i]
					signed = append(append(append(signed[:0], c.Tag[:]...), c.Network[:]...), c.Message...)
					batch.Add(keys[i], signed, c.Signature)
				}
				if !batch.Verify() {
					b.Fatal("wrong verdict")
				}
			}
			perSignature(b, n)
		})
	}
	for _, bad := range []int{1, 4, 64} {
		b.Run(fmt.Sprintf("n=64/keys=64/bad=%d", bad), func(b *testing.B) {
			checks := benchChecks(64, 64)
			for i := range bad {
				checks[i].Signature[40] ^= 1
			}
			run(b, checks, bad)
		})
	}
}

func BenchmarkCheckEd25519(b *testing.B) {
	pub := identity.NewDeviceKey().ID().Ed25519Key()
	b.ReportAllocs()
	for b.Loop() {
		if err := identity.CheckEd25519(pub); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseCertificate(b *testing.B) {
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	if err != nil {
		b.Fatal(err)
	}
	c, err := account.Certify(identity.NewNetworkKey().ID(), identity.NewDeviceKey().ID(), 1, 1, 2)
	if err != nil {
		b.Fatal(err)
	}
	wire := c.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := identity.ParseCertificate(account.ID(), wire); err != nil {
			b.Fatal(err)
		}
	}
}
