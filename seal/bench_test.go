package seal_test

import (
	"fmt"
	"testing"

	"github.com/obelisk-network/obelisk/seal"
)

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{512, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			alice, bob := newParty(b, "alice", "1", start), newParty(b, "bob", "1", start)
			e := newEpoch(b, alice, start, bob)
			p := prefix(e.Binding(), size)
			buf := make([]byte, 0, len(p)+seal.SealedLen(size))
			body := make([]byte, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := e.Seal(append(buf, p...), body); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(seal.SealedLen(size)-size), "overhead-B")
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{512, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			alice, bob := newParty(b, "alice", "1", start), newParty(b, "bob", "1", start)
			e := newEpoch(b, alice, start, bob)
			o := bob.open(b, e)
			m := sealMessage(b, e, e.Binding(), make([]byte, size))
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := o.Open(m.binding, m.payload, m.off); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewEpoch(b *testing.B) {
	for _, n := range []int{1, 40} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			alice, bob := newParty(b, "alice", "1", start), newParty(b, "bob", "1", start)
			var devices []seal.Device
			for i := range n {
				devices = append(devices, seal.Device{Account: bob.account, Device: peerID("device %d", i), Key: bob.key})
			}
			var bin int
			for b.Loop() {
				e, err := seal.NewEpoch(network, alice.sender(), accountsOf(bob), devices, start, day)
				if err != nil {
					b.Fatal(err)
				}
				bin = len(e.Bin())
			}
			b.ReportMetric(float64(bin), "bin-B")
		})
	}
}

func BenchmarkOpenEpoch(b *testing.B) {
	alice, bob := newParty(b, "alice", "1", start), newParty(b, "bob", "1", start)
	e := newEpoch(b, alice, start, bob)
	for b.Loop() {
		bob.open(b, e)
	}
}

// BenchmarkCheck is what every message pays to know that its epoch is right.
func BenchmarkCheck(b *testing.B) {
	alice, bob := newParty(b, "alice", "1", start), newParty(b, "bob", "1", start)
	e := newEpoch(b, alice, start, bob)
	devices := devicesOf(bob)
	var p seal.EpochPolicy
	b.ReportAllocs()
	for b.Loop() {
		if p.Check(e, start, devices) != seal.Keep {
			b.Fatal("ended")
		}
	}
}
