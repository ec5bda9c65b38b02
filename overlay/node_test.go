package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

func TestNodeSendReceive(t *testing.T) {
	rig := newPillarRig(t, nil)
	alice := newNodeHome(t, rig.net).start(rig.addr())
	bob := newNodeHome(t, rig.net).start(rig.addr())
	m := alice.send(overlay.StateDelivered, "hello", bob.id())
	if m.ID == nil || m.Copies != 1 || m.Recipients[0].State != overlay.StateDelivered || m.Recipients[0].At == nil {
		t.Fatalf("%+v", m)
	}
	if got := bob.texts(1); len(got) != 1 || got[0] != "hello" {
		t.Fatalf("%q", got)
	}
	in, err := bob.Received(*m.ID)
	if err != nil || in.From != alice.id() || in.Gap || in.Acked {
		t.Fatalf("%+v %v", in, err)
	}
	if err := bob.Ack(*m.ID, *m.ID); err != nil {
		t.Fatal(err)
	}
	if err := bob.Ack(overlay.RecordID{1}); overlay.CodeOf(err) != overlay.CodeNotFound {
		t.Fatalf("ack of nothing: %v", err)
	}
	if list, err := bob.Inbox(0, 10, true); err != nil || len(list) != 0 {
		t.Fatalf("unacked: %v %v", list, err)
	}
	sent, err := alice.SentByID(*m.ID)
	if err != nil || sent.State != overlay.StateDelivered || sent.Text == nil || *sent.Text != "hello" {
		t.Fatalf("%+v %v", sent, err)
	}
}

// bubble runs a test with a cluster of scripted pillars in virtual time.
func bubble(t *testing.T, pillars int, test func(t *testing.T, c *fakeCluster), opts ...memnet.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFakeCluster(t, pillars, opts...)) })
}

func TestNodeStates(t *testing.T) {
	t.Run("one pillar stays stored", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, c *fakeCluster) {
			c.serve = func(*fakePillar, *overlay.Record, string) bool { return false }
			alice, bob := newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
			m := alice.send(overlay.StateStored, "x", bob.id())
			synctest.Wait()
			if m, _ = alice.Sent(m.Handle); m.State != overlay.StateStored || m.Copies != 1 {
				t.Fatalf("%s, %d copies", m.State, m.Copies)
			}
		})
	})
	t.Run("replicated by watermark", func(t *testing.T) {
		bubble(t, 3, func(t *testing.T, c *fakeCluster) {
			c.copies = func() uint64 { return 1 }
			c.serve = func(*fakePillar, *overlay.Record, string) bool { return false }
			alice, bob := newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
			m := alice.send(overlay.StateStored, "x", bob.id())
			if m.State != overlay.StateStored {
				t.Fatalf("%s", m.State)
			}
			active := c.pillar(alice.Status().Pillar)
			active.mu.Lock()
			for s := range active.sessions {
				go s.send(&overlay.Watermark{Log: c.log, From: 1, To: 100, Copies: 2})
			}
			active.mu.Unlock()
			if m = alice.wait(m.Handle, overlay.StateReplicated); m.Copies != 2 {
				t.Fatalf("%d copies", m.Copies)
			}
		})
	})
	t.Run("rejected", func(t *testing.T) {
		bubble(t, 2, func(t *testing.T, c *fakeCluster) {
			c.judge = func(_ *fakePillar, rec *overlay.Record) *overlay.Error {
				if rec.Kind == overlay.KindMessage {
					return overlay.Refuse(overlay.CodeTooLarge, "no")
				}
				return nil
			}
			alice, bob := newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
			m := alice.send(overlay.StateRejected, "x", bob.id())
			if m.Reason != overlay.CodeTooLarge {
				t.Fatal(m.Reason)
			}
			c.mu.Lock()
			c.judge = nil
			c.mu.Unlock()
			m = alice.send(overlay.StateDelivered, "y", bob.id())
			if in, err := bob.Received(*m.ID); err != nil || in.Gap {
				t.Fatalf("a rejected message made a gap: %+v, %v", in, err)
			}
		})
	})
	t.Run("refused for a while", func(t *testing.T) {
		bubble(t, 2, func(t *testing.T, c *fakeCluster) {
			tries := 0
			c.judge = func(_ *fakePillar, rec *overlay.Record) *overlay.Error {
				if rec.Kind == overlay.KindMessage {
					if tries++; tries < 4 {
						return overlay.Refuse(overlay.CodeQuota, "later")
					}
				}
				return nil
			}
			alice, bob := newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
			m := alice.send(overlay.StateQueued, "x", bob.id())
			until(t, "a reason", func() bool { m, _ = alice.Sent(m.Handle); return m.Reason == overlay.CodeQuota })
			alice.wait(m.Handle, overlay.StateDelivered)
		})
	})
	t.Run("expired offline", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, c *fakeCluster) {
			bob := newNodeHome(t, c.net)
			alice := newNodeHome(t, c.net).start(nil)
			m, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{bob.account.ID()}, TTL: time.Minute})
			if err != nil || m.Reason != overlay.CodeNoNetwork || m.ID != nil {
				t.Fatalf("%+v, %v", m, err)
			}
			time.Sleep(2 * time.Minute) // virtual
			if m, _ = alice.Sent(m.Handle); m.State != overlay.StateExpired {
				t.Fatal(m.State)
			}
		})
	})
	t.Run("too many devices", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, c *fakeCluster) {
			var to []identity.AccountID
			for range 2 {
				to = append(to, c.manyDevices(t, 21))
			}
			alice := newNodeHome(t, c.net).start(c.addrs())
			m, err := alice.Send(context.Background(), overlay.Outgoing{To: to})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if m, err = alice.Wait(ctx, m.Handle, overlay.StateRejected); err != nil || m.State != overlay.StateRejected {
				t.Fatalf("%v: %s, %d devices missing", err, m.State, len(m.DevicesMissing))
			}
			if m.Reason != overlay.CodeTooManyDevices {
				t.Fatal(m.Reason)
			}
		})
	})
	t.Run("no sealing key", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, c *fakeCluster) {
			home := newNodeHome(t, c.net)
			alice := newNodeHome(t, c.net).start(c.addrs())
			m := alice.send(overlay.StateQueued, "x", home.account.ID())
			until(t, "the reason", func() bool { m, _ = alice.Sent(m.Handle); return m.Reason == overlay.CodeNoSealingKey })
			home.start(c.addrs())
			alice.wait(m.Handle, overlay.StateDelivered)
		})
	})
	t.Run("wrong clock", func(t *testing.T) {
		bubble(t, 2, func(t *testing.T, c *fakeCluster) {
			for _, p := range c.pillars {
				p.clock = time.Minute
			}
			alice, bob := newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net)
			until(t, "a session", func() bool { return alice.Status().Standby != "" })
			m, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{bob.account.ID()}, TTL: time.Minute})
			if err != nil || m.Reason != overlay.CodeClockWrong {
				t.Fatalf("%+v, %v", m, err)
			}
			time.Sleep(5 * time.Minute) // virtual
			if m, _ = alice.Sent(m.Handle); m.State != overlay.StateQueued {
				t.Fatalf("%s with a clock that is wrong", m.State)
			}
		})
	})
}

// TestNodeOrder: messages to an account whose key is not known yet leave in the
// order they were sent, and none that is sent while the key comes passes them;
// one to somebody else does.
func TestNodeOrder(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		late := newNodeHome(t, c.net)
		alice, bob := pair(t, c)
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint(i))
			alice.send(overlay.StateQueued, want[i], late.account.ID())
		}
		both := alice.send(overlay.StateQueued, "both", bob.id(), late.account.ID())
		alice.send(overlay.StateDelivered, "passes", bob.id())
		node := late.start(c.addrs())
		// The key comes somewhere in this; the first that is sealed at once must not
		// pass those that wait.
		for i, sealed := 20, 0; sealed < 20; i++ {
			want = append(want, fmt.Sprint(i))
			if m := alice.send(overlay.StateQueued, want[i], late.account.ID()); m.ID != nil {
				sealed++
			}
		}
		alice.wait(both.Handle, overlay.StateDelivered)
		want = slices.Insert(want, 20, "both")
		if got := node.texts(len(want)); !slices.Equal(got, want) {
			t.Fatalf("received %q", got)
		}
		if got := bob.texts(2); !slices.Equal(got, []string{"passes", "both"}) {
			t.Fatalf("bob received %q", got)
		}
	})
}

func TestNodeSendRefuses(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		alice := newNodeHome(t, c.net).start(c.addrs())
		for name, tc := range map[string]struct {
			m    overlay.Outgoing
			code overlay.Code
		}{
			"nobody":     {overlay.Outgoing{}, overlay.CodeBadRequest},
			"no account": {overlay.Outgoing{To: []identity.AccountID{"x"}}, overlay.CodeBadRequest},
			"large":      {overlay.Outgoing{To: []identity.AccountID{alice.id()}, Body: make([]byte, overlay.MaxBody+1)}, overlay.CodeTooLarge},
			"long":       {overlay.Outgoing{To: []identity.AccountID{alice.id()}, TTL: 31 * 24 * time.Hour}, overlay.CodeTooLongLived},
			"client ID":  {overlay.Outgoing{To: []identity.AccountID{alice.id()}, ClientID: string(make([]byte, 65))}, overlay.CodeBadRequest},
		} {
			if _, err := alice.Send(context.Background(), tc.m); overlay.CodeOf(err) != tc.code {
				t.Errorf("%s: %v", name, err)
			}
		}
		m := overlay.Outgoing{To: []identity.AccountID{alice.id()}, ClientID: "once"}
		a, _ := alice.Send(context.Background(), m)
		alice.wait(a.Handle, overlay.StateDelivered) // to itself
		b, err := alice.Send(context.Background(), m)
		if err != nil || a.Handle != b.Handle || b.State != overlay.StateDelivered {
			t.Fatalf("%+v %v", b, err)
		}
	})
}

func TestNodeOfflineThenConnected(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		bob := newNodeHome(t, c.net).start(c.addrs())
		home := newNodeHome(t, c.net)
		n, err := overlay.NewNode(home.config(c.net.Host("offline", "-")))
		if err != nil {
			t.Fatal(err)
		}
		m, err := n.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, Type: overlay.BodyText, Body: []byte("early")})
		if err != nil || m.State != overlay.StateQueued || m.Reason != overlay.CodeNoNetwork {
			t.Fatalf("%+v, %v", m, err)
		}
		if n.JoinLink() != "" {
			t.Fatal("a join link before a network is known")
		}
		alice := home.start(nil)
		if err := alice.AddPillar(context.Background(), overlay.Invitation{Pillars: c.pillars[0].addr()}); err != nil {
			t.Fatal(err)
		}
		m = alice.wait(m.Handle, overlay.StateDelivered)
		if home.network != c.id {
			t.Fatal("not pinned")
		}
		// The other pillar came with the roster.
		until(t, "a session with it", func() bool {
			st := alice.Status()
			return st.Pillar != "" && (st.Standby == c.pillars[1].id() || st.Pillar == c.pillars[1].id() && st.Standby != "")
		})
		inv, err := overlay.ParseInvitation(alice.JoinLink())
		if err != nil || inv.Network != c.id || len(inv.Pillars) != 2 {
			t.Fatalf("%+v %v", inv, err)
		}
		list, err := alice.Outbox(0, 10)
		if err != nil || len(list) != 1 || list[0].State != overlay.StateDelivered || *list[0].Text != "early" {
			t.Fatalf("%+v %v", list, err)
		}
	})
}

func TestNodeWrongNetwork(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		home := newNodeHome(t, c.net)
		alice := home.start(c.addrs())
		until(t, "pinned", func() bool { return alice.Status().Pillar != "" })
		other := &fakeCluster{testNetwork: newTestNetwork(t), net: c.net}
		stranger := other.add()
		err := alice.AddPillar(context.Background(), overlay.Invitation{Pillars: stranger.addr()})
		if overlay.CodeOf(err) != overlay.CodeWrongNetwork {
			t.Fatalf("%v", err)
		}
		if err := alice.AddPillar(context.Background(), overlay.Invitation{Network: other.id, Pillars: stranger.addr()}); overlay.CodeOf(err) != overlay.CodeWrongNetwork {
			t.Fatalf("join link: %v", err)
		}
		if err := alice.stop(); err != nil {
			t.Fatal(err)
		}
		home.network = other.id
		if _, err := overlay.NewNode(home.config(alice.host)); overlay.CodeOf(err) != overlay.CodeWrongNetwork {
			t.Fatalf("data of another network: %v", err)
		}
	})
}

// TestPillarsChanged: whoever keeps reservations is told of every pillar that the
// node begins to work with.
func TestPillarsChanged(t *testing.T) {
	bubble(t, 3, func(t *testing.T, c *fakeCluster) {
		told := make(chan struct{}, 100)
		n := newNodeHome(t, c.net).start(c.addrs(), func(cfg *overlay.NodeConfig) {
			cfg.PillarsChanged = func() { told <- struct{}{} }
		})
		until(t, "a standby", func() bool { return n.Status().Standby != "" })
		if len(told) < 2 {
			t.Errorf("told %d times of an active pillar and a standby", len(told))
		}
		old := n.Status()
		for len(told) > 0 {
			<-told
		}
		lose(c, old.Pillar, "killed")
		until(t, "another standby", func() bool { st := n.Status(); return st.Pillar == old.Standby && st.Standby != "" })
		if len(told) < 2 {
			t.Errorf("told %d times of another active pillar and another standby", len(told))
		}
	})
}

// TestNodeFailover kills and silences the active pillar while messages flow.
func TestNodeFailover(t *testing.T) {
	for _, how := range []string{"killed", "silent", "sent away"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, c *fakeCluster) {
				alice, bob := newNodeHome(t, c.net).start(c.addrs()), newNodeHome(t, c.net).start(c.addrs())
				until(t, "standbys", func() bool { return alice.Status().Standby != "" && bob.Status().Standby != "" })
				alice.send(overlay.StateDelivered, "first", bob.id())
				const n = 200
				want := []string{"first"}
				var handles []overlay.Handle
				for i := range n {
					if i == n/2 {
						lose(c, alice.Status().Pillar, how)
					}
					m := alice.send(overlay.StateQueued, fmt.Sprint(i), bob.id())
					handles = append(handles, m.Handle)
					want = append(want, fmt.Sprint(i))
				}
				for _, h := range handles {
					alice.wait(h, overlay.StateDelivered)
				}
				got := bob.texts(n + 1)
				if !slices.Equal(got, want) {
					t.Fatalf("got %d messages, not those sent in their order: %q", len(got), got)
				}
				st := alice.Status()
				most := int64(1000)
				if how == "silent" { // its host lives: what it owes is waited for
					most = 3000
				}
				if st.Failovers != 1 || st.LastFailoverMS > most {
					t.Fatalf("%d failovers, the last took %d ms", st.Failovers, st.LastFailoverMS)
				}
				if how != "sent away" {
					until(t, "a new standby", func() bool { return alice.Status().Standby != "" })
				}
			})
		})
	}
}

func lose(c *fakeCluster, id, how string) {
	p := c.pillar(id)
	switch how {
	case "killed":
		p.kill()
	case "silent":
		p.setMute(true)
	case "sent away":
		p.mu.Lock()
		defer p.mu.Unlock()
		for s := range p.sessions {
			go s.send(&overlay.Busy{Err: overlay.Refuse(overlay.CodeDraining, "go")})
		}
	}
}

// TestNodeAnyPillar: the one pillar that is up is one the node never spoke to.
// TestNodeAddPillarAnyTime: whoever names a pillar that is being dialled, is
// connected, or of a node that stops, gets an answer.
func TestNodeAddPillarAnyTime(t *testing.T) {
	for range 20 {
		bubble(t, 1, func(t *testing.T, c *fakeCluster) {
			alice := newNodeHome(t, c.net).start(c.addrs())
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // virtual
			defer cancel()
			var asking sync.WaitGroup
			for range 50 {
				asking.Go(func() {
					if err := alice.AddPillar(ctx, overlay.Invitation{Pillars: c.addrs()}); err != nil {
						t.Error(err)
					}
				})
			}
			asking.Wait() // those that came before Run have nothing to wait for
			until(t, "a session", func() bool { return alice.Status().Pillar != "" })
			c.pillars[0].kill()
			until(t, "the loss", func() bool { return alice.Status().Pillar == "" })
			failed := make(chan error)
			go func() { failed <- alice.AddPillar(ctx, overlay.Invitation{Pillars: c.addrs()}) }()
			alice.stop()
			if err := <-failed; err == nil || ctx.Err() != nil {
				t.Errorf("of a node that stops: %v", err)
			}
		})
	}
}

func TestNodeAnyPillar(t *testing.T) {
	bubble(t, 4, func(t *testing.T, c *fakeCluster) {
		home := newNodeHome(t, c.net)
		alice := home.start(c.pillars[0].addr())
		until(t, "two sessions", func() bool { return alice.Status().Standby != "" })
		st := alice.Status()
		alice.stop()
		var last *fakePillar
		for _, p := range c.pillars {
			if last == nil && p.id() != st.Pillar && p.id() != st.Standby && p != c.pillars[0] {
				last = p
				continue
			}
			p.kill()
		}
		bob := newNodeHome(t, c.net).start(last.addr())
		alice = home.start(c.pillars[0].addr())
		alice.send(overlay.StateDelivered, "still here", bob.id())
	})
}

func TestNodeRestart(t *testing.T) {
	bubble(t, 2, func(t *testing.T, c *fakeCluster) {
		aliceHome, bobHome := newNodeHome(t, c.net), newNodeHome(t, c.net)
		alice, bob := aliceHome.start(c.addrs()), bobHome.start(c.addrs())
		a := alice.send(overlay.StateDelivered, "a", bob.id())
		b := alice.send(overlay.StateDelivered, "b", bob.id())
		if err := bob.Ack(*a.ID); err != nil {
			t.Fatal(err)
		}
		bob.stop()
		later := alice.send(overlay.StateReplicated, "c", bob.id())
		alice.stop()
		// Nobody is there when d is written.
		n, err := overlay.NewNode(aliceHome.config(c.net.Host("offline", "-")))
		if err != nil {
			t.Fatal(err)
		}
		d, err := n.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, Type: overlay.BodyText, Body: []byte("d")})
		if err != nil || d.ID == nil || d.Reason != overlay.CodeUnreachable {
			t.Fatalf("%+v %v", d, err)
		}
		alice, bob = aliceHome.start(nil), bobHome.start(nil) // the addresses were remembered
		alice.wait(later.Handle, overlay.StateDelivered)
		alice.wait(d.Handle, overlay.StateDelivered)
		list, err := bob.Inbox(0, 0, true)
		if err != nil || len(list) != 3 || list[0].ID != *b.ID || *list[1].Text != "c" || *list[2].Text != "d" {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, m := range list {
			if m.Gap {
				t.Fatalf("a gap before %q", *m.Text)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := c.submits[*a.ID]; n != 1 {
			t.Fatalf("a delivered message was submitted %d times", n)
		}
		if n := c.submits[*d.ID]; n != 1 {
			t.Fatalf("a message from before the start was submitted %d times", n)
		}
	})
}

func TestNodeCloned(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		home := newNodeHome(t, c.net)
		alice := home.start(c.addrs())
		until(t, "a session", func() bool { return alice.Status().Pillar != "" })
		alice.stop()
		old := copyTable(t, home.table)
		// A day later there is a new sealing key, and a new device record.
		c.pillars[0].mu.Lock()
		c.pillars[0].clock = 26 * time.Hour
		c.pillars[0].mu.Unlock()
		later := func(cfg *overlay.NodeConfig) { cfg.Now = func() time.Time { return time.Now().Add(26 * time.Hour) } }
		alice = home.start(nil, later)
		until(t, "two device records", func() bool { return len(c.keys(alice.id())) == 3 })
		alice.stop()
		home.table = old
		alice = home.start(nil, later)
		until(t, "the end", func() bool { return alice.stopped() })
		if err := alice.stop(); !errors.Is(err, overlay.ErrCloned) {
			t.Fatalf("Run: %v", err)
		}
	})
}
