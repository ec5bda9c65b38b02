package overlay_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// BenchmarkRefill is what an account that is behind costs each second.
func BenchmarkRefill(b *testing.B) {
	for _, n := range []int{300, 3_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			refill := overlay.Behind(n)
			for b.Loop() {
				if taken := refill(); taken != 256 {
					b.Fatalf("%d taken", taken)
				}
			}
		})
	}
}

// TestDueAgainstModel: whatever happens to messages, what is due to an account is
// what looking at all of them finds, and what is over is not kept.
func TestDueAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		accounts := []identity.AccountID{"a", "b", "c"}
		d, now := overlay.NewDue(), time.Unix(1_800_000_000, 0)
		sent := uint64(0)
		for step := range 4_000 {
			a := accounts[random.IntN(3)]
			name := uint64(0)
			if sent > 0 {
				name = 1 + random.Uint64N(sent)
			}
			switch random.IntN(12) {
			case 0, 1, 2:
				d.Add(random.IntN(2) == 0, false, a)
				sent++
			case 3:
				d.Add(random.IntN(2) == 0, false, accounts...)
				sent++
			case 4:
				d.Add(random.IntN(2) == 0, true, a) // not due if pillars carry it
				sent++
			case 5, 6:
				d.Said(name, a, now)
			case 7:
				d.Received(name, a)
			case 8:
				d.Drop(name)
			case 9:
				now = now.Add(time.Duration(random.IntN(200)) * time.Second)
			default:
				most := 1 + random.IntN(20)
				gotOnly, gotCarried := d.First(a, most, now)
				wantOnly, wantCarried := d.Want(a, most, now)
				if !slices.Equal(gotOnly, wantOnly) || !slices.Equal(gotCarried, wantCarried) {
					t.Fatalf("seed %d, step %d: due to %s are %v and %v, want %v and %v", seed, step, a, gotOnly, gotCarried, wantOnly, wantCarried)
				}
			}
			if kept, due := d.Kept(a); kept > 2*due {
				t.Fatalf("seed %d, step %d: %d are kept for %s, and %d are due", seed, step, kept, a, due)
			}
		}
		all, _ := d.Want("a", int(sent), now.Add(time.Hour))
		if got := d.OnlyTo("a"); !slices.Equal(got, all) {
			t.Errorf("seed %d: only devices get %v, want %v", seed, got, all)
		}
		for name := range sent + 1 {
			d.Drop(name)
		}
		for _, a := range accounts {
			if kept, _ := d.Kept(a); kept > 0 {
				t.Errorf("seed %d: %d are kept for %s when all is over", seed, kept, a)
			}
		}
	}
}
