package overlay_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/store"
)

// TestNewPillarRefusals: a pillar that could not work is not made.
func TestNewPillarRefusals(t *testing.T) {
	tn := newTestNetwork(t)
	key, other := identity.NewPillarKey(), identity.NewPillarKey()
	host := memnet.New().Host(peer.ID(key.ID()), "")
	t.Cleanup(func() { host.Shutdown() })
	good := func() overlay.PillarConfig {
		return overlay.PillarConfig{Network: tn.id, Key: key, Store: store.NewMemory(), Links: host, Peers: host,
			Addrs: host.Addrs, Admit: func(now uint64) (identity.Admission, error) {
				return tn.key.Admit(key.ID(), now, now+overlay.DayMillis), nil
			}}
	}
	for _, tt := range []struct {
		name   string
		change func(c *overlay.PillarConfig)
		text   string
	}{
		{"no network", func(c *overlay.PillarConfig) { c.Network = identity.NetworkID{} }, "no network"},
		{"no store", func(c *overlay.PillarConfig) { c.Store = nil }, "required"},
		{"body over the maximum", func(c *overlay.PillarConfig) { c.MaxBody = overlay.MaxBody + 1 }, "largest body"},
		{"no admission", func(c *overlay.PillarConfig) {
			c.Admit = func(uint64) (identity.Admission, error) { return identity.Admission{}, errors.New("no file") }
		}, "no file"},
		{"another pillar's admission", func(c *overlay.PillarConfig) {
			c.Admit = func(now uint64) (identity.Admission, error) {
				return tn.key.Admit(other.ID(), now, now+overlay.DayMillis), nil
			}
		}, "it is for pillar"},
		{"another network's admission", func(c *overlay.PillarConfig) {
			c.Admit = func(now uint64) (identity.Admission, error) {
				return identity.NewNetworkKey().Admit(key.ID(), now, now+overlay.DayMillis), nil
			}
		}, "signature"},
		{"expired admission", func(c *overlay.PillarConfig) {
			c.Admit = func(now uint64) (identity.Admission, error) { return tn.key.Admit(key.ID(), now, now-1), nil }
		}, "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good()
			tt.change(&cfg)
			if _, err := overlay.NewPillar(cfg); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want …%s…", err, tt.text)
			}
		})
	}
	if _, err := overlay.NewPillar(good()); err != nil {
		t.Fatal(err)
	}
}

// TestPillarRenewsItsRecord: at half life, before the admission ends, and when
// its addresses change; always newer than before.
func TestPillarRenewsItsRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var addr atomic.Value
		addr.Store("/ip4/203.0.113.1/tcp/4001")
		tn := newTestNetwork(t)
		key := identity.NewPillarKey()
		asked := 0
		rig := &pillarRig{testNetwork: tn, net: memnet.New(), store: newWatchedStore()}
		rig.start(nil, key, func(c *overlay.PillarConfig) {
			c.Addrs = func() []multiaddr.Multiaddr {
				return []multiaddr.Multiaddr{multiaddr.StringCast(addr.Load().(string))}
			}
			c.Admit = func(now uint64) (identity.Admission, error) {
				life := uint64(20 * overlay.DayMillis)
				if asked++; asked <= 3 {
					life = 4 * 3600_000
				}
				if asked == 2 {
					return identity.Admission{}, errors.New("the file is not there yet")
				}
				return tn.key.Admit(key.ID(), now, now+life), nil
			}
		})
		defer rig.stop()
		newer := func(after time.Duration, want bool) {
			t.Helper()
			before := rig.pillar.Record()
			time.Sleep(after) // virtual
			now := rig.pillar.Record()
			if (now.ID != before.ID) != want || want && now.Created <= before.Created {
				t.Fatalf("after %v: renewed %v, want %v", after, now.ID != before.ID, want)
			}
			if !rig.pillar.Roster().Admitted(now.Pillar(), millis(time.Now())) {
				t.Fatalf("after %v: not admitted", after)
			}
		}
		newer(time.Hour, false)
		newer(61*time.Minute, true) // half of the admission, at the second try
		newer(2*time.Hour, true)    // and of the next one
		newer(24*time.Hour, false)
		newer(3*24*time.Hour, true) // half of the record's own life
		addr.Store("/ip4/203.0.113.2/tcp/4001")
		newer(time.Minute, true)
		rig.stop()
	})
}

// TestPillarDropsWhoDoesNotRead: a session that submits and never reads is
// dropped; its neighbours do not notice.
func TestPillarDropsWhoDoesNotRead(t *testing.T) {
	rig := newPillarRig(t, nil)
	good := rig.device(nil).session()
	bad := rig.device(nil).session()
	junk := make([][]byte, overlay.MaxSubmit)
	for i := range junk {
		junk[i] = []byte{0x92, 0xc4, 1, 0, 0xc4, 0}
	}
	frame := overlay.AppendFrame(nil, &overlay.Submit{First: 1, Records: junk})
	bad.stream.SetWriteDeadline(time.Now().Add(20 * time.Second))
	dropped := false
	for range 1000 {
		if _, err := bad.stream.Write(frame); err != nil {
			dropped = true
			break
		}
		if rig.pillar.Status().NodesConnected == 1 {
			dropped = true
			break
		}
	}
	if !dropped {
		t.Fatal("1,000,000 answers are kept for a session that does not read")
	}
	if l := good.one(good.message(good.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
}

// TestPillarHelloTimeout: a stream that says nothing is closed.
func TestPillarHelloTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer rig.stop()
		c := rig.device(nil).open()
		start := time.Now()
		expect[*overlay.Hello](c)
		c.stream.SetReadDeadline(time.Time{})
		if m, err := c.frames.Next(); err == nil {
			t.Fatalf("got %T", m)
		}
		if d := time.Since(start); d < 5*time.Second || d > 15*time.Second {
			t.Fatalf("closed after %v", d)
		}
		rig.stop()
	})
}

// TestPillarEnds: when Run ends, sessions are told and what was accepted is
// durable.
func TestPillarEnds(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	release := rig.store.hold()
	raw := c.message(c.id())
	c.submit(1, raw)
	<-rig.store.entered
	go func() {
		expect[*overlay.Busy](c)
		release()
	}()
	rig.stop()
	c.ended()
	view := rig.store.View()
	defer view.Close()
	if has, err := view.Has([]overlay.Ref{{ID: idOf(t, rig.id, raw)}}); err != nil || !has[0] {
		t.Fatalf("an accepted record was not committed: %v", err)
	}
	var last uint64
	if err := view.Values("clock/last", func(_ string, data []byte) bool {
		last = binary.BigEndian.Uint64(data)
		return false
	}); err != nil || last == 0 {
		t.Fatalf("clock not saved: %v", err)
	}
	if err := rig.pillar.Run(context.Background(), overlay.NoMesh{}); err == nil {
		t.Fatal("a Pillar ran twice")
	}
	if _, err := rig.pillar.Apply(context.Background(), newForeignLog(rig).run(overlay.BatchEntry{Raw: raw})); err == nil {
		t.Fatal("a run was taken after the end")
	}
}

// TestPillarMetrics: two pillars of one process share a registry, and the
// counters move.
func TestPillarMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	with := func(c *overlay.PillarConfig) { c.Registerer = reg }
	rig := newPillarRig(t, nil, with)
	c := rig.device(nil).session()
	newPillarRig(t, nil, with) // once all goroutines of the first are there
	raw := c.message(c.id())
	c.one(raw)
	c.one(raw)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += "/" + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"obelisk_overlay_submissions_total/stored":    1,
		"obelisk_overlay_submissions_total/duplicate": 1,
		"obelisk_overlay_sessions":                    1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if got["obelisk_overlay_commit_records"] == 0 || got["obelisk_overlay_verify_seconds"] == 0 {
		t.Errorf("no commit or chunk counted: %v", got)
	}
}
