package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// TestNodePillarRestart sends from many goroutines through a real pillar that
// restarts meanwhile, to a node that restarts, too: everything arrives once.
func TestNodePillarRestart(t *testing.T) {
	key := identity.NewPillarKey()
	rig := newPillarRig(t, nil)
	rig.stop()
	rig.start(nil, key)
	aliceHome, bobHome := newNodeHome(t, rig.net), newNodeHome(t, rig.net)
	alice, bob := aliceHome.start(rig.addr()), bobHome.start(rig.addr())
	alice.send(overlay.StateDelivered, "first", bob.id())
	const senders, each = 16, 20
	to := []identity.AccountID{bob.id()}
	var work sync.WaitGroup
	half := make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	want := map[overlay.RecordID]bool{}
	for range senders {
		work.Go(func() {
			for i := range each {
				if i == each/2 {
					once.Do(func() { close(half) })
				}
				m, err := alice.Send(context.Background(), overlay.Outgoing{To: to, Type: overlay.BodyText, Body: []byte(fmt.Sprint(i))})
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				m, err = alice.Wait(ctx, m.Handle, overlay.StateStored)
				cancel()
				if err != nil || m.ID == nil {
					t.Errorf("%+v %v", m, err)
					return
				}
				mu.Lock()
				want[*m.ID] = true
				mu.Unlock()
			}
		})
	}
	<-half
	rig.stop()
	bob.stop()
	rig.start(nil, key)
	bob = bobHome.start(nil)
	// The pillar has a new address: by hand, as with one that moved.
	for _, n := range []*testNode{alice, bob} {
		if err := n.AddPillar(context.Background(), overlay.Invitation{Pillars: rig.addr()}); err != nil {
			t.Fatal(err)
		}
	}
	work.Wait()
	if len(want) != senders*each {
		t.Fatalf("%d stored", len(want))
	}
	bob.texts(senders*each + 1)
	list, err := bob.Inbox(0, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Gap {
			t.Errorf("a gap before message %d", m.Order)
		}
		delete(want, m.ID)
	}
	if len(list) != senders*each+1 || len(want) != 0 {
		t.Fatalf("%d in the inbox, %d are missing", len(list), len(want))
	}
	until(t, "all delivered", func() bool { return alice.Status().Outbox == overlay.OutboxCounts{} })
}

// TestNodeDiskFails: a node whose disk fails says so and ends; nothing that it
// could not write was promised.
func TestNodeDiskFails(t *testing.T) {
	rig := newPillarRig(t, nil)
	home := newNodeHome(t, rig.net)
	table := store.NewMemoryTable()
	home.table = table
	alice := home.start(rig.addr())
	until(t, "a session", func() bool { return alice.Status().Pillar != "" })
	table.Fail(errors.New("worn out"))
	if _, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{alice.id()}}); !errors.Is(err, overlay.ErrStoreFailed) {
		t.Fatalf("send: %v", err)
	}
	until(t, "the end", alice.stopped)
	if err := alice.stop(); !errors.Is(err, overlay.ErrStoreFailed) {
		t.Fatalf("Run: %v", err)
	}
}
