package overlay_test

import (
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// A testNetwork has fresh keys of everything and signs records with them.
type testNetwork struct {
	t   testing.TB
	key *identity.NetworkKey
	id  identity.NetworkID
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newTestNetwork(t testing.TB) *testNetwork {
	key := identity.NewNetworkKey()
	return &testNetwork{t: t, key: key, id: key.ID()}
}

func millis(t time.Time) uint64 { return uint64(t.UnixMilli()) }

var testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// pillarRecord signs a pillar record; change may alter what it says.
func (n *testNetwork) pillarRecord(key *identity.PillarKey, created uint64, change func(*overlay.PillarInfo, *overlay.Draft)) *overlay.Record {
	n.t.Helper()
	addr := multiaddr.StringCast("/ip4/203.0.113.9/tcp/4001")
	info := &overlay.PillarInfo{Name: "p", Addrs: []multiaddr.Multiaddr{addr},
		Admission: n.key.Admit(key.ID(), created, created+20*overlay.DayMillis)}
	d := &overlay.Draft{Kind: overlay.KindPillar, Author: string(key.ID()), Created: created, Expires: created + 10*overlay.DayMillis}
	if change != nil {
		change(info, d)
	}
	d.Bin = info.Append(nil)
	rec, err := d.Sign(n.id, key)
	return must(n.t, rec, err)
}

func (n *testNetwork) revocation(p identity.PillarID, serial, created uint64) *overlay.Record {
	n.t.Helper()
	info := overlay.RevocationInfo{Pillar: p, Serial: serial}
	d := overlay.Draft{Kind: overlay.KindRevocation, Author: n.id.Author(), Created: created,
		Expires: created + 30*overlay.DayMillis, Bin: info.Append(nil)}
	rec, err := d.Sign(n.id, n.key)
	return must(n.t, rec, err)
}
