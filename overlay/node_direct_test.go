package overlay_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestDirectFirst: a message that a device delivers before any pillar does, over
// the circuit, is there once when the pillar's copy comes; its receipt comes
// directly, too.
func TestDirectFirst(t *testing.T) {
	directBubble(t, 2, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
		befriend(t, alice, bob)
		release := r.withhold(sealedKinds...)
		alice.send(overlay.StateDelivered, "over the circuit", bob.id())
		if m := bob.only("over the circuit"); m.Path != overlay.PathRelayed || m.Gap {
			t.Fatalf("%+v", m)
		}
		if alice.path(bob) != overlay.PathRelayed || bob.path(alice) != overlay.PathRelayed {
			t.Fatalf("paths %q and %q", alice.path(bob), bob.path(alice))
		}
		// With streams there, delivered takes one round trip over the circuit, 80 ms,
		// and the few that receipts are gathered for.
		time.Sleep(time.Second)
		start := time.Now()
		alice.send(overlay.StateDelivered, "again", bob.id())
		if took := time.Since(start); took > 90*time.Millisecond {
			t.Errorf("delivered after %v", took)
		}
		release()
		r.pushAll(bob)
		time.Sleep(time.Second)
		bob.only("over the circuit")
		bob.only("again")
		if n := r.stored(overlay.KindMessage); n != 2 {
			t.Errorf("%d messages at the pillars", n)
		}
	})
}

// TestDirectOnly: what is sent with --direct only is never at a pillar, waits
// with a reason until a device of its recipient is there, over a restart of the
// sender and with another setting then, and ends in a final state.
func TestDirectOnly(t *testing.T) {
	directBubble(t, 2, func(t *testing.T, r *directRig) {
		home, bobHome := newNodeHome(t, r.net), newNodeHome(t, r.net)
		alice, bob := r.node(home, withDirect("only")), r.node(bobHome, withDirect("only"))
		befriend(t, alice, bob)
		if _, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{alice.id()}}); overlay.CodeOf(err) != overlay.CodeBadRequest {
			t.Errorf("to oneself: %v", err)
		}
		m := alice.send(overlay.StateDelivered, "between us", bob.id())
		if m.Copies != 0 || m.Recipients[0].State != overlay.StateDelivered {
			t.Errorf("%+v", m)
		}
		bob.only("between us")

		bob.stop()
		late := alice.post("later", bob.id())
		never, err := alice.Send(context.Background(), overlay.Outgoing{To: late.To, Type: overlay.BodyText, Body: []byte("never"), TTL: time.Minute})
		must(t, never, err)
		time.Sleep(2 * time.Minute)
		if m, _ := alice.Sent(late.Handle); m.State != overlay.StateQueued || m.Reason != overlay.CodeUnreachable {
			t.Errorf("with nobody there: %s %s", m.State, m.Reason)
		}
		if m, _ := alice.Sent(never.Handle); m.State != overlay.StateExpired {
			t.Errorf("after its life: %s %s", m.State, m.Reason)
		}
		alice.stop()
		alice = r.node(home, withDirect("on"))
		bob = r.node(bobHome, withDirect("only"))
		alice.wait(late.Handle, overlay.StateDelivered)
		bob.only("later")
		if n := r.stored(sealedKinds...); n != 0 {
			t.Errorf("%d records reached pillars that no pillar was to get", n)
		}
		if r.stored(overlay.KindAccount, overlay.KindDevice) < 4 {
			t.Error("keys are not at the pillars")
		}
	})
}

// TestDirectOnlyEpochs: an epoch that no pillar gets, in which nothing waits, is off
// the disk with the next start; one in which something does is not.
func TestDirectOnlyEpochs(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		home, bobHome := newNodeHome(t, r.net), newNodeHome(t, r.net)
		alice, bob := r.node(home, withDirect("only")), r.node(bobHome, withDirect("only"))
		befriend(t, alice, bob)
		kept := func() (n int) {
			if err := home.table.Scan([]byte("hio/"), nil, func([]byte, []byte) bool { n++; return true }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		alice.send(overlay.StateDelivered, "one", bob.id())
		alice.stop()
		if n := kept(); n != 1 {
			t.Fatalf("%d epochs are on the disk", n)
		}
		alice = r.node(home, withDirect("only"))
		until(t, "no epoch on the disk", func() bool { return kept() == 0 })
		bob.stop()
		late := alice.post("two", bob.id())
		for range 2 {
			alice.stop()
			alice = r.node(home, withDirect("only"))
			time.Sleep(time.Minute)
			if n := kept(); n != 1 {
				t.Fatalf("%d epochs are on the disk, and a message waits", n)
			}
		}
		bob = r.node(bobHome, withDirect("only"))
		alice.wait(late.Handle, overlay.StateDelivered)
		bob.only("two")
	})
}

// TestDirectOnlyReceipts: a node with --direct only answers what came by a pillar
// by a pillar, and what came directly directly.
func TestDirectOnlyReceipts(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net), withDirect("off")), r.node(newNodeHome(t, r.net), withDirect("only"))
		befriend(t, alice, bob)
		alice.send(overlay.StateDelivered, "by the pillar", bob.id())
		if m := bob.only("by the pillar"); m.Path != overlay.PathPillar {
			t.Errorf("path %s", m.Path)
		}
		if n := r.stored(overlay.KindReceipt); n != 1 {
			t.Errorf("%d receipts at the pillar", n)
		}
		carol := r.node(newNodeHome(t, r.net), withDirect("only"))
		befriend(t, carol, bob)
		carol.send(overlay.StateDelivered, "directly", bob.id())
		if n := r.stored(overlay.KindReceipt); n != 1 {
			t.Errorf("%d receipts at the pillar after a direct one", n)
		}
	})
}

// TestDirectOff: nothing goes directly to or from a node with --direct off.
func TestDirectOff(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net), withDirect("off"))
		befriend(t, alice, bob)
		alice.send(overlay.StateDelivered, "one", bob.id())
		bob.send(overlay.StateDelivered, "two", alice.id())
		for _, m := range append(bob.inbox(), alice.inbox()...) {
			if m.Path != overlay.PathPillar {
				t.Errorf("%q came %s", *m.Text, m.Path)
			}
		}
		if len(bob.ContactPaths()) != 0 || r.searches[alice.id()] != 0 {
			t.Errorf("paths %v, %d searches", bob.ContactPaths(), r.searches[alice.id()])
		}
	})
}

// TestDirectUpgrade: in the middle of a conversation the circuit becomes a direct
// connection, and is closed. Everything arrives once, in order, and the path is
// told.
func TestDirectUpgrade(t *testing.T) {
	directBubble(t, 2, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net), withDirect("only")), r.node(newNodeHome(t, r.net), withDirect("only"))
		befriend(t, alice, bob)
		r.net.SetPunch(peerID(alice), peerID(bob), 700*time.Millisecond)
		var mu sync.Mutex
		var paths []overlay.Path
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go bob.Subscribe(ctx, 0, func(e overlay.Event) error {
			if e.Kind == overlay.EventPath {
				mu.Lock()
				paths = append(paths, e.Path.Path)
				mu.Unlock()
			}
			return nil
		})
		const n = 200
		for i := range n {
			alice.post(fmt.Sprint(i), bob.id())
			time.Sleep(37 * time.Millisecond)
		}
		until(t, "all delivered", func() bool { return alice.Status().Outbox == overlay.OutboxCounts{} })
		list := bob.inbox()
		if len(list) != n {
			t.Fatalf("%d messages", len(list))
		}
		direct := 0
		for i, m := range list {
			if *m.Text != fmt.Sprint(i) || m.Gap {
				t.Fatalf("message %d is %q, gap %v", i, *m.Text, m.Gap)
			}
			if m.Path == overlay.PathDirect {
				direct++
			} else if direct > 0 {
				t.Errorf("message %d came %s after %d direct ones", i, m.Path, direct)
			}
		}
		if direct < n/2 || direct == n {
			t.Errorf("%d of %d came directly", direct, n)
		}
		alice.stop()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if want := []overlay.Path{overlay.PathRelayed, overlay.PathDirect, overlay.PathNone}; !slices.Equal(paths, want) {
			t.Errorf("paths told: %q, want %q", paths, want)
		}
	})
}

// TestDirectUpgradeEarly: the direct connection is there before both have said
// hello over the circuit. What is sent then goes directly, at once.
func TestDirectUpgradeEarly(t *testing.T) {
	for d := 10 * time.Millisecond; d <= 250*time.Millisecond; d += 20 * time.Millisecond {
		t.Run(d.String(), func(t *testing.T) {
			directBubble(t, 2, func(t *testing.T, r *directRig) {
				alice, bob := r.node(newNodeHome(t, r.net), withDirect("only")), r.node(newNodeHome(t, r.net), withDirect("only"))
				befriend(t, alice, bob)
				r.net.SetPunch(peerID(alice), peerID(bob), d)
				for _, text := range []string{"at once", "later"} {
					alice.post(text, bob.id())
					bob.post(text, alice.id())
					time.Sleep(time.Second)
				}
				for _, n := range []*testNode{alice, bob} {
					list := n.inbox()
					if len(list) != 2 || *list[1].Text != "later" || list[1].Path != overlay.PathDirect {
						t.Errorf("inbox %+v, want two messages, the second directly", list)
					}
				}
			})
		})
	}
}

// TestDirectCut cuts everything between two devices at every step of a delivery
// that no pillar helps with: nothing is lost and nothing comes twice.
func TestDirectCut(t *testing.T) {
	for _, cut := range []time.Duration{0, 30, 70, 110, 150, 190, 230, 270, 310, 350, 390, 430} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			directBubble(t, 1, func(t *testing.T, r *directRig) {
				alice, bob := r.node(newNodeHome(t, r.net), withDirect("only")), r.node(newNodeHome(t, r.net), withDirect("only"))
				befriend(t, alice, bob)
				r.net.SetPunch(peerID(alice), peerID(bob), 250*time.Millisecond)
				const n = 40
				go func() {
					for range 3 {
						time.Sleep(cut * time.Millisecond)
						alice.host.Close(peerID(bob))
						time.Sleep(57 * time.Millisecond)
					}
				}()
				for i := range n {
					alice.post(fmt.Sprint(i), bob.id())
					if i%10 == 9 {
						time.Sleep(90 * time.Millisecond)
					}
				}
				for range 20 {
					if alice.Status().Outbox.Queued == 0 {
						break
					}
					time.Sleep(time.Minute) // of back-off
				}
				if left := alice.Status().Outbox; left != (overlay.OutboxCounts{}) {
					t.Fatalf("left: %+v", left)
				}
				list := bob.inbox()
				for i, m := range list {
					if *m.Text != fmt.Sprint(i) || m.Gap {
						t.Errorf("message %d is %q, gap %v", i, *m.Text, m.Gap)
					}
				}
				if len(list) != n {
					t.Errorf("%d of %d messages", len(list), n)
				}
			})
		})
	}
}

// TestDirectPillarDies: the pillar that carries the circuit dies in the middle of
// a conversation.
func TestDirectPillarDies(t *testing.T) {
	directBubble(t, 3, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
		befriend(t, alice, bob)
		alice.send(overlay.StateDelivered, "0", bob.id())
		carrier := r.pillars[0]
		for _, p := range r.pillars {
			if p.id() == alice.Status().Pillar {
				carrier = p
			}
		}
		const n = 60
		for i := 1; i < n; i++ {
			if i == n/2 {
				carrier.kill()
			}
			alice.post(fmt.Sprint(i), bob.id())
			time.Sleep(50 * time.Millisecond)
		}
		until(t, "all delivered", func() bool { return alice.Status().Outbox == overlay.OutboxCounts{} })
		for i, m := range bob.inbox() {
			if *m.Text != fmt.Sprint(i) {
				t.Errorf("message %d is %q", i, *m.Text)
			}
		}
		if got := len(bob.inbox()); got != n {
			t.Errorf("%d messages", got)
		}
		if sent := alice.sentTo(bob); sent < n-5 {
			t.Errorf("%d went directly", sent)
		}
	})
}

// TestDirectTwoDevices: both devices of an account get what is sent directly.
func TestDirectTwoDevices(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		one, two := newNodeHome(t, r.net), newNodeHome(t, r.net)
		two.account = one.account
		b1 := r.node(one, withDirect("only"))
		b2 := r.node(two, withDirect("only"))
		alice := r.node(newNodeHome(t, r.net), withDirect("only"))
		befriend(t, alice, b1)
		if err := b2.AddContact("alice", alice.id()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // both know of each other, everybody of both
		alice.send(overlay.StateDelivered, "first", b1.id())
		time.Sleep(time.Second)
		alice.send(overlay.StateDelivered, "second", b1.id())
		time.Sleep(time.Second)
		for _, b := range []*testNode{b1, b2} {
			b.only("first")
			b.only("second")
		}
		// What one of them sends, the other sees.
		b1.send(overlay.StateDelivered, "mine", alice.id())
		time.Sleep(time.Second)
		b2.only("mine")
		if n := r.stored(sealedKinds...); n != 0 {
			t.Errorf("%d records at the pillars", n)
		}
	})
}

// TestDirectBlocked: a blocked contact's devices are not taken anything from;
// its messages end as they do without.
func TestDirectBlocked(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
		befriend(t, alice, bob)
		if err := bob.BlockContact(alice.id().String(), true); err != nil {
			t.Fatal(err)
		}
		alice.send(overlay.StateRejected, "psst", bob.id())
		if len(bob.inbox()) != 0 || len(bob.ContactPaths()) != 0 {
			t.Errorf("%d messages, paths %v", len(bob.inbox()), bob.ContactPaths())
		}
	})
}

// TestDirectBacklog: direct delivery joins when it can carry all that is on its
// way, and no message overtakes an earlier one.
func TestDirectBacklog(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice := r.node(newNodeHome(t, r.net))
		bobHome := newNodeHome(t, r.net)
		bob := r.node(bobHome)
		befriend(t, alice, bob)
		bob.stop()
		const n = 300 // what the scripted pillars take in one gulp
		for i := range n {
			alice.post(fmt.Sprint(i), bob.id())
		}
		bob = r.node(bobHome)
		for i := n; i < n+100; i++ {
			alice.post(fmt.Sprint(i), bob.id())
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(20 * time.Minute) // of back-off
		before := alice.sentTo(bob)
		for i := n + 100; i < n+110; i++ {
			alice.post(fmt.Sprint(i), bob.id())
			time.Sleep(100 * time.Millisecond)
		}
		until(t, "all delivered", func() bool { return alice.Status().Outbox == overlay.OutboxCounts{} })
		list := bob.inbox()
		seen := map[string]bool{}
		for _, m := range list {
			if m.Gap || seen[*m.Text] {
				t.Errorf("message %q: gap %v, again %v", *m.Text, m.Gap, seen[*m.Text])
			}
			seen[*m.Text] = true
		}
		if len(list) != n+110 {
			t.Errorf("%d messages", len(list))
		}
		if sent := alice.sentTo(bob) - before; sent != 10 {
			t.Errorf("%d of the last 10 went directly", sent)
		}
	})
}

// TestDirectCheck: what came directly takes part in a mailbox check only once a
// pillar has shown it.
func TestDirectCheck(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
		carol := r.node(newNodeHome(t, r.net), withDirect("only"))
		befriend(t, alice, bob)
		befriend(t, carol, bob)
		release := r.withhold(sealedKinds...)
		var mu sync.Mutex
		told := uint64(0)
		r.onFrame(func(_ *fakePillar, s *fakeSession, m overlay.Message) bool {
			if c, ok := m.(*overlay.Check); ok && s.account == bob.id() {
				mu.Lock()
				told = 0
				for _, d := range c.Days {
					told += d.Count
				}
				mu.Unlock()
			}
			return false
		})
		alice.send(overlay.StateDelivered, "a", bob.id())
		carol.send(overlay.StateDelivered, "c", bob.id())
		time.Sleep(11 * time.Minute)
		mu.Lock()
		if told != 0 {
			t.Errorf("a check speaks of %d records that no pillar has shown", told)
		}
		mu.Unlock()
		release()
		r.pushAll(bob)
		time.Sleep(11 * time.Minute)
		mu.Lock()
		if want := uint64(r.storedTo(bob.id())); told != want || want < 2 {
			t.Errorf("a check speaks of %d records, the pillar has %d", told, want)
		}
		mu.Unlock()
	})
}

// TestDirectCheckMarks: a check itself learns that a pillar has what came
// directly, and fetches nothing for it.
func TestDirectCheckMarks(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
		befriend(t, alice, bob)
		release := r.withhold(sealedKinds...)
		alice.send(overlay.StateDelivered, "a", bob.id())
		release() // nothing is pushed again: only the check can tell
		var mu sync.Mutex
		fetched, unequal := 0, []int{}
		r.onFrame(func(_ *fakePillar, s *fakeSession, m overlay.Message) bool {
			mu.Lock()
			defer mu.Unlock()
			switch m := m.(type) {
			case *overlay.Find:
				if s.account == bob.id() && len(m.IDs) > 0 && !m.OnlyHeld {
					fetched++
				}
			case *overlay.Check:
				if s.account == bob.id() {
					unequal = append(unequal, len(m.Days))
				}
			}
			return false
		})
		time.Sleep(25 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if fetched != 0 || len(unequal) < 2 || unequal[0] != 0 || unequal[len(unequal)-1] == 0 {
			t.Errorf("%d fetched; days told in the checks: %v", fetched, unequal)
		}
	})
}
