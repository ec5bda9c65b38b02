package overlay_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/seal"
)

func TestBins(t *testing.T) {
	n := newTestNetwork(t)
	pillar := identity.NewPillarKey().ID()
	device := identity.DeviceID(pillar)
	ring, err := seal.OpenKeyring(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	sealing, err := ring.Rotate(millis(testNow))
	if err != nil {
		t.Fatal(err)
	}

	account := &overlay.AccountInfo{Counter: 9, Devices: []overlay.DeviceSerial{{Device: device, Serial: 4}}, Removed: []overlay.DeviceSerial{}}
	if got, err := overlay.ParseAccountInfo(account.Append(nil)); err != nil || !reflect.DeepEqual(got, account) {
		t.Errorf("account: %+v, %v", got, err)
	}
	dev := &overlay.DeviceInfo{Name: "Ünï", Keys: []seal.PublicKey{sealing}}
	if got, err := overlay.ParseDeviceInfo(dev.Append(nil)); err != nil || !reflect.DeepEqual(got, dev) {
		t.Errorf("device: %+v, %v", got, err)
	}
	p := &overlay.PillarInfo{Home: true, Name: "x", Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/dns4/example.org/udp/4001/quic-v1")},
		Admission: n.key.Admit(pillar, 3, 4)}
	if got, err := overlay.ParsePillarInfo(p.Append(nil)); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("pillar: %+v, %v", got, err)
	}
	rev := &overlay.RevocationInfo{Pillar: pillar, Serial: 3}
	if got, err := overlay.ParseRevocationInfo(rev.Append(nil)); err != nil || !reflect.DeepEqual(got, rev) {
		t.Errorf("revocation: %+v, %v", got, err)
	}
	lines := []overlay.ReceiptLine{{ID: fill[overlay.RecordID](3), Code: overlay.ReceiptRefused}}
	if got, err := overlay.ParseReceipt(overlay.AppendReceipt(nil, lines)); err != nil || !reflect.DeepEqual(got, lines) {
		t.Errorf("receipt: %+v, %v", got, err)
	}
	typ, body, err := overlay.ParseBody(overlay.AppendBody(nil, overlay.BodyText, []byte("hi")))
	if err != nil || typ != overlay.BodyText || string(body) != "hi" {
		t.Errorf("body: %d %q %v", typ, body, err)
	}
}

// TestBadBins cuts and lengthens every bin: an error each time, never more.
func TestBadBins(t *testing.T) {
	n := newTestNetwork(t)
	pillar := identity.NewPillarKey().ID()
	account := overlay.AccountInfo{Counter: 9, Devices: []overlay.DeviceSerial{{Device: identity.DeviceID(pillar), Serial: 4}}}
	dev := overlay.DeviceInfo{Name: "n"}
	p := overlay.PillarInfo{Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/1.2.3.4/tcp/5")}, Admission: n.key.Admit(pillar, 3, 4)}
	rev := overlay.RevocationInfo{Pillar: pillar, Serial: 3}
	cases := map[string]struct {
		bin   []byte
		parse func([]byte) error
	}{
		"account":    {account.Append(nil), func(b []byte) error { _, err := overlay.ParseAccountInfo(b); return err }},
		"device":     {dev.Append(nil), func(b []byte) error { _, err := overlay.ParseDeviceInfo(b); return err }},
		"pillar":     {p.Append(nil), func(b []byte) error { _, err := overlay.ParsePillarInfo(b); return err }},
		"revocation": {rev.Append(nil), func(b []byte) error { _, err := overlay.ParseRevocationInfo(b); return err }},
		"receipt":    {overlay.AppendReceipt(nil, make([]overlay.ReceiptLine, 2)), func(b []byte) error { _, err := overlay.ParseReceipt(b); return err }},
		"body":       {overlay.AppendBody(nil, 0, []byte("x")), func(b []byte) error { _, _, err := overlay.ParseBody(b); return err }},
	}
	for name, c := range cases {
		if err := c.parse(c.bin); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for i := range c.bin {
			if c.parse(c.bin[:i]) == nil {
				t.Errorf("%s cut at %d was read", name, i)
			}
		}
		if c.parse(append(c.bin[:len(c.bin):len(c.bin)], 0)) == nil {
			t.Errorf("%s with a byte too many was read", name)
		}
		if c.parse([]byte{0xdd, 255, 255, 255, 255}) == nil {
			t.Errorf("%s: a list of four billion was read", name)
		}
	}
	bad := overlay.DeviceInfo{Name: "\xff"}
	if _, err := overlay.ParseDeviceInfo(bad.Append(nil)); err == nil {
		t.Error("a name that is not UTF-8 was read")
	}
	if overlay.CheckName(strings.Repeat("x", overlay.MaxName+1)) == nil || overlay.CheckName("\xff") == nil || overlay.CheckName("Zoë") != nil {
		t.Error("CheckName")
	}
}

func TestRemovedDevices(t *testing.T) {
	d := identity.DeviceID(identity.NewPillarKey().ID())
	a := overlay.AccountInfo{Devices: []overlay.DeviceSerial{{Device: d, Serial: 5}}, Removed: []overlay.DeviceSerial{{Device: d, Serial: 4}}}
	if !a.Has(d, 5) || a.Has(d, 4) || a.Has(d, 6) || !a.IsRemoved(d, 4) || !a.IsRemoved(d, 3) || a.IsRemoved(d, 5) {
		t.Error("a device with a later certificate than the removed one counts, and only that")
	}
}
