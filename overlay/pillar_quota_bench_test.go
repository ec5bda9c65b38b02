package overlay_test

import (
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// BenchmarkQuota is what charging one submission costs.
func BenchmarkQuota(b *testing.B) {
	take := overlay.QuotaTaker(1 << 40)
	from := identity.NewPillarKey().ID()
	to := []identity.AccountID{identity.AccountID(identity.NewPillarKey().ID())}
	b.ReportAllocs()
	for i := range b.N {
		if !take(identity.AccountID(from), "abc", to, 1, uint64(i)) {
			b.Fatal("refused")
		}
	}
}
