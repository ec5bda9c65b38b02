package overlay_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/seal"
)

// staleDevice publishes a second device of a node's account, which has been away
// for a month: its sealing key ends a day from now.
func (c *fakeCluster) staleDevice(t *testing.T, n *testNode) {
	t.Helper()
	ring, err := seal.OpenKeyring(filepath.Join(t.TempDir(), "sealing"))
	must(t, ring, err)
	now := millis(time.Now())
	key, err := ring.Rotate(now - 31*overlay.DayMillis)
	must(t, key, err)
	device := identity.NewDeviceKey()
	cert, err := n.home.account.Certify(c.id, device.ID(), 1, now-1, now+40*overlay.DayMillis)
	must(t, cert, err)
	d := overlay.Draft{Kind: overlay.KindDevice, Author: string(n.id()), Signer: cert.Append(nil), Created: now, Expires: now + overlay.DayMillis,
		Bin: (&overlay.DeviceInfo{Keys: []seal.PublicKey{key}}).Append(nil)}
	rec, err := d.Sign(c.id, device)
	raw := must(t, rec, err).Raw
	var info *overlay.AccountInfo
	c.set(func() {
		for _, r := range c.records {
			if r.Kind == overlay.KindAccount && r.Account() == n.id() {
				info, err = overlay.ParseAccountInfo(r.Bin)
			}
		}
	})
	must(t, info, err)
	info.Counter++
	info.Devices = append(info.Devices, overlay.DeviceSerial{Device: device.ID(), Serial: 1})
	d = overlay.Draft{Kind: overlay.KindAccount, Author: string(n.id()), Created: now, Expires: now + overlay.DayMillis, Bin: info.Append(nil)}
	rec, err = d.Sign(c.id, n.home.account)
	c.take(nil, must(t, rec, err).Raw)
	c.take(nil, raw)
}

// TestReceiptOutlivesStaleKey: a device of the author's that has been away for so
// long that its sealing key is about to end does not have the receipt end with it:
// an author who is away for a while would not learn of it, and pillars would take
// the message for unconfirmed.
func TestReceiptOutlivesStaleKey(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		receipts := func(m overlay.OutMessage) (ends []uint64) {
			c.set(func() {
				for _, r := range c.records {
					if r.Kind == overlay.KindReceipt && r.Account() == bob.id() && r.Created >= millis(m.Sent) {
						ends = append(ends, r.Expires)
					}
				}
			})
			slices.Sort(ends)
			return ends
		}
		m := alice.send(overlay.StateDelivered, "from the only device", bob.id())
		time.Sleep(time.Second) // virtual
		if ends := receipts(m); len(ends) != 1 || ends[0] < millis(m.Expires)+overlay.DayMillis {
			t.Fatalf("of a message that ends at %d the receipts end at %d, want one that outlives it by a day", millis(m.Expires), ends)
		}
		c.staleDevice(t, alice)
		time.Sleep(2 * time.Minute) // the directory is read once a minute at least
		until(t, "two devices", func() bool {
			list, _, _ := bob.Nodes("", 10)
			return slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == alice.id() && len(e.Devices) == 2 })
		})
		m = alice.send(overlay.StateDelivered, "from one of two", bob.id())
		time.Sleep(time.Second)
		if ends, end := receipts(m), millis(m.Expires); len(ends) != 2 || ends[0] > end || ends[1] < end+overlay.DayMillis {
			t.Errorf("of a message that ends at %d the receipts end at %d, want one for the other device too, whose key is about to end, and one that outlives it by a day", end, ends)
		}
	})
}
