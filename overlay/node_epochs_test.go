package overlay_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/seal"
)

// TestManyEpochs: of more sets of recipients than are kept, those that give way are
// forgotten with their epochs, and these erased.
func TestManyEpochs(t *testing.T) {
	t.Parallel()
	ring, err := seal.OpenKeyring(filepath.Join(t.TempDir(), "sealing"))
	now := millis(time.Now())
	key, err := must(t, ring, err).Rotate(now)
	must(t, key, err)
	sender, to := identity.NewDeviceKey().ID(), identity.NewDeviceKey().ID()
	const n, every = 4096 + 100, 16
	sets, live, erased, stale := overlay.ManyEpochs(n, every, func() *seal.Epoch {
		e, err := seal.NewEpoch(identity.NetworkID{1}, seal.Sender{Account: []byte(sender), Device: []byte(sender)}, [][]byte{[]byte(to)},
			[]seal.Device{{Account: []byte(to), Device: []byte(to), Key: key}}, now, overlay.DayMillis)
		return must(t, e, err)
	})
	if sets > 4096 || live+erased != (n+every-1)/every || erased == 0 || live == 0 || stale > 0 {
		t.Errorf("%d sets of %d are kept, with %d epochs; %d were erased; %d stale", sets, n, live, erased, stale)
	}
}
