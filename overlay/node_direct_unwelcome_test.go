package overlay_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// remove has the account remove the device.
func (d *rawDevice) remove() {
	d.r.t.Helper()
	now := millis(time.Now())
	info := overlay.AccountInfo{Counter: now, Removed: []overlay.DeviceSerial{{Device: d.key.ID(), Serial: 1}}}
	draft := overlay.Draft{Kind: overlay.KindAccount, Author: string(d.account.ID()), Created: now, Expires: now + overlay.DayMillis, Bin: info.Append(nil)}
	rec, err := draft.Sign(d.r.id, d.account)
	d.r.take(nil, must(d.r.t, rec, err).Raw)
	time.Sleep(2 * time.Minute) // the directory is read
}

// TestDirectRemovedMeanwhile: an open stream is no way around a removal.
func TestDirectRemovedMeanwhile(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		d := r.rawContact(r.node(newNodeHome(t, r.net))).greet()
		d.send(&overlay.Deliver{First: 1, Records: [][]byte{d.record(nil)}})
		d.lines(1)
		d.remove()
		d.send(&overlay.Deliver{First: 2, Records: [][]byte{d.record(nil)}})
		if m, err := d.read(); err == nil {
			t.Fatalf("a removed device is answered %+v", m)
		}
	})
}

// TestDirectBlockedMeanwhile: a contact that is blocked, or removed, loses its
// connection, by which it would see when the user is there, and gets no new one.
func TestDirectBlockedMeanwhile(t *testing.T) {
	for name, block := range map[string]func(n *testNode, who string) error{
		"blocked": func(n *testNode, who string) error { return n.BlockContact(who, true) },
		"removed": func(n *testNode, who string) error { return n.RemoveContact(who) },
	} {
		t.Run(name, func(t *testing.T) {
			directBubble(t, 1, func(t *testing.T, r *directRig) {
				bob := r.node(newNodeHome(t, r.net))
				d := r.rawContact(bob).greet()
				if err := block(bob, d.account.ID().String()); err != nil {
					t.Fatal(err)
				}
				d.ended(time.Second)
				if _, ok := d.host.Info(bob.host.Self()); ok {
					t.Error("still connected")
				}
				if err := d.host.DialThrough(t.Context(), peerID(bob), r.addrs()); err == nil {
					t.Error("let in again")
				}
			})
		})
	}
}

// TestDirectCrowdOfOneAccount: an account cannot make up devices until nobody
// else finds room.
func TestDirectCrowdOfOneAccount(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		bob := r.node(newNodeHome(t, r.net))
		first := r.rawContact(bob)
		refused := 0
		for range 130 {
			d := *first
			d.key = identity.NewDeviceKey()
			d.certify(1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			d.host = r.net.Host(peer.ID(d.key.ID()), "-")
			defer d.host.Shutdown()
			bob.host.Admit(d.host.Self(), time.Now().Add(time.Hour))
			d.greet()
			d.stream.SetReadDeadline(time.Now().Add(time.Second))
			m, err := d.frames.Next()
			if b, ok := m.(*overlay.Busy); ok && b.Err != nil && b.Err.Code == overlay.CodeBusy {
				refused++
			} else if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%T, %v", m, err)
			}
		}
		other := r.rawContact(bob).greet()
		other.send(&overlay.Deliver{First: 1, Records: [][]byte{other.record(nil)}})
		other.lines(1)
		if refused < 100 {
			t.Errorf("%d devices of the account were refused", refused)
		}
	})
}
