package overlay_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/seal"
)

// set changes what the cluster does.
func (c *fakeCluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// pair starts two nodes that are ready to talk.
func pair(t *testing.T, c *fakeCluster) (alice, bob *testNode) {
	t.Helper()
	alice, bob = newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
	until(t, "two sessions each", func() bool {
		return alice.Status().Pillar != "" && bob.Status().Pillar != "" && (len(c.pillars) == 1 || alice.Status().Standby != "" && bob.Status().Standby != "")
	})
	return alice, bob
}

func TestNodeDuplicates(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		m := alice.send(overlay.StateDelivered, "once", bob.id())
		if err := bob.Ack(*m.ID); err != nil {
			t.Fatal(err)
		}
		// Both pillars push it again, several times, in one page and in many.
		c.mu.Lock()
		raw := c.records[c.known[*m.ID]-1].Raw
		c.mu.Unlock()
		for _, p := range c.pillars {
			for _, s := range p.of(bob.id()) {
				s.send(&overlay.Push{To: 1, Records: [][]byte{raw, raw}})
				s.send(&overlay.Push{To: 1, Records: [][]byte{raw}})
			}
		}
		alice.send(overlay.StateDelivered, "next", bob.id())
		list, err := bob.Inbox(0, 0, false)
		if err != nil || len(list) != 2 || !list[0].Acked || list[1].Acked {
			t.Fatalf("%+v %v", list, err)
		}
	})
}

// TestNodeEpochAfterMessages: the epoch comes only with a mailbox check.
func TestNodeEpochAfterMessages(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		c.serve = func(_ *fakePillar, rec *overlay.Record, how string) bool {
			return rec.Kind != overlay.KindEpoch || how == "check"
		}
		alice, bob := pair(t, c)
		a := alice.send(overlay.StateReplicated, "a", bob.id())
		alice.send(overlay.StateReplicated, "b", bob.id())
		synctest.Wait()
		if list, _ := bob.Inbox(0, 0, false); len(list) != 0 {
			t.Fatal("opened without an epoch")
		}
		if got := bob.texts(2); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("%q", got)
		}
		alice.wait(a.Handle, overlay.StateDelivered)
	})
}

// TestNodeUnreadable: the epoch never comes.
func TestNodeUnreadable(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		c.serve = func(_ *fakePillar, rec *overlay.Record, how string) bool {
			return rec.Kind != overlay.KindEpoch
		}
		alice, bob := pair(t, c)
		m, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, TTL: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		alice.wait(m.Handle, overlay.StateExpired)
		until(t, "a receipt all the same", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return slices.ContainsFunc(c.records, func(r *overlay.Record) bool { return r.Kind == overlay.KindReceipt })
		})
	})
}

func TestNodeGap(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		alice.send(overlay.StateDelivered, "1", bob.id())
		c.set(func() {
			c.serve = func(_ *fakePillar, rec *overlay.Record, _ string) bool { return rec.Kind != overlay.KindMessage }
		})
		lost := alice.send(overlay.StateStored, "2", bob.id())
		c.set(func() { c.serve = nil })
		three := alice.send(overlay.StateDelivered, "3", bob.id())
		four := alice.send(overlay.StateDelivered, "4", bob.id())
		for _, tc := range []struct {
			id  *overlay.RecordID
			gap bool
		}{{three.ID, true}, {four.ID, false}} {
			if m, err := bob.Received(*tc.id); err != nil || m.Gap != tc.gap {
				t.Fatalf("%+v %v", m, err)
			}
		}
		// What was withheld from the pages is brought by the mailbox check.
		alice.wait(lost.Handle, overlay.StateStored)
		time.Sleep(11 * time.Minute) // virtual
		alice.wait(lost.Handle, overlay.StateDelivered)
		if got := bob.texts(4); !slices.Equal(got, []string{"1", "3", "4", "2"}) {
			t.Fatalf("%q", got)
		}
	})
}

// TestNodeWithheldByOne: the active pillar hides a message for good; the
// standby's check brings it.
func TestNodeWithheldByOne(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		liar := bob.Status().Pillar
		c.set(func() {
			c.serve = func(p *fakePillar, rec *overlay.Record, _ string) bool {
				return p.id() != liar || rec.Kind != overlay.KindMessage
			}
		})
		m := alice.send(overlay.StateReplicated, "hidden", bob.id())
		time.Sleep(31 * time.Minute) // virtual: three checks
		alice.wait(m.Handle, overlay.StateDelivered)
	})
}

func TestNodeBlock(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		if err := bob.AddContact("pest", alice.id()); err != nil {
			t.Fatal(err)
		}
		if err := bob.BlockContact("pest", true); err != nil {
			t.Fatal(err)
		}
		m := alice.send(overlay.StateRejected, "buy", bob.id())
		if m.Reason != overlay.CodeBlocked || m.Recipients[0].Reason != "refused" {
			t.Fatalf("%+v", m)
		}
		if list, _ := bob.Inbox(0, 0, false); len(list) != 0 {
			t.Fatal("shown all the same")
		}
		if err := bob.BlockContact(alice.id().String(), false); err != nil {
			t.Fatal(err)
		}
		alice.send(overlay.StateDelivered, "sorry", bob.id())
		if list, _ := bob.Inbox(0, 0, false); len(list) != 1 || list[0].FromContact != "pest" {
			t.Fatalf("%+v", list)
		}
	})
}

// TestNodeForeignReceipt: a stranger says that a message was delivered.
func TestNodeForeignReceipt(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		c.serve = func(_ *fakePillar, rec *overlay.Record, _ string) bool { return rec.Kind != overlay.KindMessage }
		alice, bob := pair(t, c)
		m := alice.send(overlay.StateStored, "x", bob.id())
		mallory := newNodeHome(t, c.net)
		c.receipt(t, mallory, alice, overlay.ReceiptLine{ID: *m.ID, Code: overlay.ReceiptDelivered})
		synctest.Wait()
		if m, _ = alice.Sent(m.Handle); m.State != overlay.StateStored {
			t.Fatalf("a stranger's receipt made it %s", m.State)
		}
		// Bob's own word counts, if it goes to alice alone, as pillars go by.
		bob.stop()
		c.receiptTo(t, bob.home, alice, []*nodeHome{mallory}, overlay.ReceiptLine{ID: *m.ID, Code: overlay.ReceiptDelivered})
		synctest.Wait()
		if m, _ = alice.Sent(m.Handle); m.State != overlay.StateStored {
			t.Fatalf("a receipt to two accounts made it %s", m.State)
		}
		c.receipt(t, bob.home, alice, overlay.ReceiptLine{ID: *m.ID, Code: overlay.ReceiptDelivered})
		alice.wait(m.Handle, overlay.StateDelivered)
	})
}

// receipt publishes a receipt of from's, sealed to the node to.
func (c *fakeCluster) receipt(t *testing.T, from *nodeHome, to *testNode, lines ...overlay.ReceiptLine) {
	t.Helper()
	c.receiptTo(t, from, to, nil, lines...)
}

// receiptTo is receipt with further recipients.
func (c *fakeCluster) receiptTo(t *testing.T, from *nodeHome, to *testNode, also []*nodeHome, lines ...overlay.ReceiptLine) {
	t.Helper()
	now := millis(time.Now())
	key, _ := to.home.sealing.Current(now)
	all, devices := []identity.AccountID{}, []seal.Device{}
	for _, home := range append(also, to.home) {
		all = append(all, home.account.ID())
		devices = append(devices, seal.Device{Account: []byte(home.account.ID()), Device: []byte(home.device.ID()), Key: key})
	}
	slices.Sort(all)
	cert, err := from.account.Certify(c.id, from.device.ID(), 1, now-1, now+overlay.DayMillis)
	wire := must(t, cert, err).Append(nil)
	var raw [][]byte
	for _, a := range all {
		raw = append(raw, []byte(a))
	}
	ep, err := seal.NewEpoch(c.id, seal.Sender{Account: []byte(from.account.ID()), Device: []byte(from.device.ID())}, raw,
		devices, now, overlay.DayMillis)
	must(t, ep, err)
	draft := func(kind overlay.Kind) overlay.Draft {
		return overlay.Draft{Kind: kind, Author: string(from.account.ID()), Signer: wire, To: all,
			Created: ep.Created(), Expires: ep.Expires()}
	}
	d := draft(overlay.KindEpoch)
	d.Bin = ep.Bin()
	rec, err := d.Sign(c.id, from.device)
	c.take(nil, must(t, rec, err).Raw)
	d = draft(overlay.KindReceipt)
	plain := overlay.AppendReceipt(nil, lines)
	payload, err := ep.Seal(d.AppendPrefix(nil, seal.SealedLen(len(plain))), plain)
	rec, err = overlay.SignPayload(c.id, from.device, must(t, payload, err))
	c.take(nil, must(t, rec, err).Raw)
}

func TestNodeGroup(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		carol := newNodeHome(t, c.net).start(c.addrs())
		until(t, "carol", func() bool { return carol.Status().Pillar != "" })
		m := alice.send(overlay.StateDelivered, "all", bob.id(), carol.id(), bob.id())
		if len(m.To) != 2 || len(m.Recipients) != 2 {
			t.Fatalf("%+v", m)
		}
		for _, n := range []*testNode{bob, carol} {
			if got := n.texts(1); len(got) != 1 {
				t.Fatalf("%q", got)
			}
		}
		until(t, "the directory", func() bool { return alice.Status().NodesKnown == 3 })
		list, next, err := alice.Nodes("", 2)
		if err != nil || len(list) != 2 || next == "" {
			t.Fatalf("%v %q %v", list, next, err)
		}
		list, next, err = alice.Nodes(next, 2)
		if err != nil || len(list) != 1 || next != "" || len(list[0].Devices) != 1 {
			t.Fatalf("%v %q %v", list, next, err)
		}
		if ps := alice.Pillars(); len(ps) != 2 || !ps[0].Active || !ps[1].Standby || !ps[0].Connected {
			t.Fatalf("%+v", ps)
		}
	})
}

// TestNodeSecondDevice: a second device of an account gets what the first gets
// and sends.
func TestNodeSecondDevice(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		home := newNodeHome(t, c.net)
		home.account = alice.home.account
		second := home.start(c.addrs())
		time.Sleep(2 * time.Minute) // virtual: the directory is read once a minute at least
		until(t, "the second device", func() bool {
			list, _, _ := bob.Nodes("", 10)
			return slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == alice.id() && len(e.Devices) == 2 })
		})
		until(t, "the first device knows of it too", func() bool {
			list, _, _ := alice.Nodes("", 10)
			return slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == alice.id() && len(e.Devices) == 2 })
		})
		bob.send(overlay.StateDelivered, "to both", alice.id())
		if a, b := alice.texts(1), second.texts(1); a[0] != "to both" || b[0] != "to both" {
			t.Fatalf("%q %q", a, b)
		}
		m := alice.send(overlay.StateDelivered, "my copy", bob.id())
		if len(m.To) != 2 {
			t.Fatalf("to %v", m.To)
		}
		if got := second.texts(2); got[1] != "my copy" {
			t.Fatalf("%q", got)
		}
		if got := alice.texts(1); len(got) != 1 {
			t.Fatalf("the sender got its own: %q", got)
		}
	})
}

func TestNodeEvents(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		done := errors.New("done")
		var texts []string
		ended := make(chan error, 1)
		go func() {
			ended <- bob.Subscribe(context.Background(), 0, func(e overlay.Event) error {
				if e.Kind == overlay.EventMessage {
					texts = append(texts, *e.Message.Text)
				}
				if len(texts) == 2 {
					return done
				}
				return nil
			})
		}()
		alice.send(overlay.StateDelivered, "1", bob.id())
		alice.send(overlay.StateDelivered, "2", bob.id())
		if err := <-ended; err != done || !slices.Equal(texts, []string{"1", "2"}) {
			t.Fatalf("%v %q", err, texts)
		}
		var states []overlay.State
		var last uint64
		err := alice.Subscribe(context.Background(), 0, func(e overlay.Event) error {
			if e.Seq <= last {
				t.Fatal("events out of order")
			}
			last = e.Seq
			if e.Kind == overlay.EventState {
				states = append(states, e.Sent.State)
			}
			if len(states) > 0 && states[len(states)-1] == overlay.StateDelivered {
				return done
			}
			return nil
		})
		if err != done || !slices.Contains(states, overlay.StateReplicated) {
			t.Fatalf("%v %v", err, states)
		}
		err = alice.Subscribe(context.Background(), 1<<40, func(e overlay.Event) error {
			if e.Kind != overlay.EventResync || e.Seq < last {
				t.Fatalf("%+v", e)
			}
			return done
		})
		if err != done {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := alice.Subscribe(ctx, last, nil); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

func TestNodeContacts(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		home := newNodeHome(t, c.net)
		n, err := overlay.NewNode(home.config(c.net.Host("offline", "-")))
		must(t, n, err)
		other, third := newNodeHome(t, c.net).account.ID(), newNodeHome(t, c.net).account.ID()
		for _, tc := range []struct {
			what string
			err  error
			code overlay.Code
		}{
			{"add", n.AddContact("bob", other), ""},
			{"again", n.AddContact("bob", other), ""},
			{"name in use", n.AddContact("bob", third), overlay.CodeBadRequest},
			{"other name", n.AddContact("rob", other), overlay.CodeBadRequest},
			{"no name", n.AddContact("", third), overlay.CodeBadRequest},
			{"an ID as name", n.AddContact(other.String(), third), overlay.CodeBadRequest},
			{"no account", n.AddContact("x", "y"), overlay.CodeBadRequest},
			{"rename", n.RenameContact("bob", "robert"), ""},
			{"unknown", n.RenameContact("bob", "x"), overlay.CodeNotFound},
			{"verify", n.VerifyContact("robert", true), ""},
			{"block", n.BlockContact(other.String(), true), ""},
			{"remove unknown", n.RemoveContact("nobody"), overlay.CodeNotFound},
		} {
			if overlay.CodeOf(tc.err) != tc.code {
				t.Errorf("%s: %v", tc.what, tc.err)
			}
		}
		n, err = overlay.NewNode(home.config(c.net.Host("again", "-")))
		must(t, n, err)
		if list := n.Contacts(); len(list) != 1 || list[0] != (overlay.Contact{Name: "robert", Account: other, Blocked: true, Verified: true}) {
			t.Fatalf("%+v", list)
		}
		for to, want := range map[string]identity.AccountID{"robert": other, third.String(): third, overlay.ContactLink(third, "eve"): third, "eve": "", "": ""} {
			if got, err := n.Resolve(to); got != want || (want == "") != (overlay.CodeOf(err) == overlay.CodeNotFound) {
				t.Errorf("%q: %v %v", to, got, err)
			}
		}
		if err := n.RemoveContact("robert"); err != nil || len(n.Contacts()) != 0 {
			t.Fatal(err)
		}
	})
}
