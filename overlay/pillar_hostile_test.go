package overlay_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// hungMesh never answers how many copies there are.
type hungMesh struct {
	overlay.NoMesh
	asked chan struct{}
}

func (m *hungMesh) Copies(ctx context.Context, ids []overlay.RecordID) ([]int, error) {
	select {
	case m.asked <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestPillarHungPeer: while the other pillars do not say whether they hold a
// record of another log, what they acked of this one is told all the same.
func TestPillarHungPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := &hungMesh{asked: make(chan struct{}, 1)}
		rig := newPillarRig(t, mesh)
		c := rig.device(nil).session()
		foreign := newForeignLog(rig)
		raw := c.message(c.id())
		if _, err := rig.pillar.Apply(t.Context(), foreign.run(overlay.BatchEntry{Raw: raw})); err != nil {
			t.Fatal(err)
		}
		c.submit(2, raw)
		c.results(1)
		<-mesh.asked
		n := c.submit(2, c.message(c.id()))
		dot := c.results(1)[n].Dot
		rig.pillar.Acked(dot.Log, []overlay.Durable{{From: 1, To: dot.Seq, Copies: 1}})
		c.stream.SetReadDeadline(time.Now().Add(2 * time.Second))
		m, err := c.frames.Next()
		if w, ok := m.(*overlay.Watermark); err != nil || !ok || w.To != dot.Seq || w.Copies != 2 {
			t.Fatalf("%T %+v, %v", m, m, err)
		}
	})
}

// TestPillarRemovedWhileConnected: a device that is removed reads no further.
func TestPillarRemovedWhileConnected(t *testing.T) {
	rig := newPillarRig(t, nil)
	thief := rig.device(nil)
	stolen := thief.session()
	owner := rig.device(thief.account).session()
	other := rig.device(nil).session()
	if l := owner.one(thief.accountRecord(2, overlay.DeviceSerial{Device: thief.key.ID(), Serial: 1})); l.Err != nil {
		t.Fatal(l.Err)
	}
	if b := expect[*overlay.Busy](stolen); b.Err.Code != overlay.CodeRemovedDevice {
		t.Fatalf("told %v", b.Err)
	}
	stolen.ended()
	if l := other.one(other.message(thief.id())); l.Err != nil {
		t.Fatal(l.Err)
	}
	if l := owner.one(owner.message(other.id())); l.Err != nil {
		t.Fatalf("the device that stays: %v", l.Err)
	}
}

// TestPillarManyDeviceRecords: however many device records an account has, its
// further submissions do not read them all, each time its account record
// changes.
func TestPillarManyDeviceRecords(t *testing.T) {
	rig := newPillarRig(t, nil)
	c := rig.device(nil).session()
	const many = 500
	for range many / 100 {
		var raws [][]byte
		for i := range 100 {
			raws = append(raws, c.deviceRecord(time.Now().String()[:25]+string(rune('a'+i%26))+string(rune('a'+i/26))))
		}
		c.submit(1, raws...)
		c.results(100)
	}
	rig.store.visited.Store(0)
	for i := range 20 {
		if l := c.one(c.accountRecord(uint64(10 + i))); l.Err != nil {
			t.Fatal(l.Err)
		}
		if l := c.one(c.message(c.id())); l.Err != nil {
			t.Fatal(l.Err)
		}
	}
	if n := rig.store.visited.Load(); n > 3*many {
		t.Errorf("%d entries were read", n)
	}
}

// TestPillarFindUnread: a session that asks for much and reads nothing keeps no
// snapshot of the store open.
func TestPillarFindUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		c := rig.device(nil).session()
		big := c.sign(overlay.KindMessage, []identity.AccountID{c.id()}, bytes.Repeat([]byte{1}, 60<<10), nil)
		if l := c.one(big); l.Err != nil {
			t.Fatal(l.Err)
		}
		ids := make([]overlay.RecordID, overlay.MaxIDs)
		for i := range ids {
			ids[i] = idOf(t, rig.id, big)
		}
		c.send(&overlay.Find{N: 1, IDs: ids})
		expect[*overlay.Found](c)
		synctest.Wait() // the answer is stuck: nobody can go on
		if n := rig.store.open.Load(); n > 0 {
			t.Errorf("%d views stay open", n)
		}
		c.stream.Reset()
	})
}

// TestPillarUnconfirmedClock: a pillar whose clock may be wrong keeps what looks
// expired to it, for others count on it as a copy.
func TestPillarUnconfirmedClock(t *testing.T) {
	rig := newPillarRig(t, nil)
	key := identity.NewPillarKey()
	raw := rig.device(nil)
	msg := raw.sign(overlay.KindMessage, []identity.AccountID{raw.id()}, []byte("x"), func(d *overlay.Draft) {
		d.Expires = d.Created + 2*60*60*1000
	})
	rig.stop()
	rig.start(nil, key, func(c *overlay.PillarConfig) {
		c.Now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	})
	foreign := newForeignLog(rig)
	if _, err := rig.pillar.Apply(t.Context(), foreign.run(overlay.BatchEntry{Raw: msg})); err != nil {
		t.Fatal(err)
	}
	has, err := rig.pillar.Has([]overlay.RecordID{idOf(t, rig.id, msg)})
	if err != nil || !has[0] {
		t.Fatalf("held: %v, %v", has, err)
	}
}

// TestPillarLogThatBeginsDead: a log whose first entries died long ago is not
// deleted while its history is still coming.
func TestPillarLogThatBeginsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := &pillarRig{testNetwork: newTestNetwork(t), net: memnet.New(), store: newWatchedStore()}
		rig.start(nil, identity.NewPillarKey())
		defer rig.stop()
		log := newForeignLog(rig)
		dead := func(i byte) overlay.BatchEntry {
			return overlay.BatchEntry{Expires: millis(time.Now().Add(-3 * time.Hour)), ID: overlay.RecordID{i}, Why: overlay.WhyExpired}
		}
		for i := range byte(4) {
			if _, err := rig.pillar.Apply(t.Context(), log.run(dead(i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Minute)
		}
		if _, err := rig.pillar.Apply(t.Context(), log.run(overlay.BatchEntry{Raw: rig.device(nil).deviceRecord("d")})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		again := newForeignLog(rig)
		again.state.Nonce[0]++
		again.state.Log = overlay.MakeLogID(rig.id, again.state.Pillar, again.state.Nonce)
		again.state.Hash = overlay.ChainStart(again.state.Log)
		if _, err := rig.pillar.Apply(t.Context(), again.run(dead(9))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour) // nothing comes any more: it goes
		if logs := rig.pillar.Logs(); len(logs) != 1 || logs[0].Log != log.state.Log {
			t.Errorf("%d logs are left", len(logs))
		}
	})
}
