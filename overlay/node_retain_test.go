package overlay_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestNodeRetention: messages that are over go from disk when they are old, or too
// many, with all that finds them; what is not over stays, and what was removed is
// not delivered again.
func TestNodeRetention(t *testing.T) {
	const day = 24 * 3_600_000
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		alice, bob := pair(t, c)
		nobody, err := identity.NewAccountKey(identity.KeyEd25519, 0)
		if err != nil {
			t.Fatal(err)
		}
		waiting, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{nobody.ID()}, Type: overlay.BodyText, Body: []byte("waits")})
		if err != nil {
			t.Fatal(err)
		}
		var sent []overlay.OutMessage
		for i := range 12 {
			m, err := alice.Send(context.Background(), overlay.Outgoing{To: []identity.AccountID{bob.id()}, Type: overlay.BodyText,
				Body: fmt.Append(nil, i), ClientID: fmt.Sprint("client-", i)})
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, alice.wait(m.Handle, overlay.StateDelivered))
		}
		for i, m := range sent {
			if i%4 != 0 { // 0, 4 and 8 are not acknowledged
				if err := bob.Ack(*m.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		retain := func(in time.Duration, most int) {
			t.Helper()
			now := millis(time.Now().Add(in))
			for _, n := range []*testNode{alice, bob} {
				if err := n.Retain(now, most); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(what string, out, in []int) {
			t.Helper()
			for i, m := range sent {
				_, err := alice.Sent(m.Handle)
				_, byID := alice.SentByID(*m.ID)
				if kept := bytes.Contains(ints(out), ints([]int{i})); (err == nil) != kept || (byID == nil) != kept || !kept && overlay.CodeOf(err) != overlay.CodeNotFound {
					t.Errorf("%s: sent %d: %v, %v", what, i, err, byID)
				}
				_, err = bob.Received(*m.ID)
				if kept := bytes.Contains(ints(in), ints([]int{i})); (err == nil) != kept || !kept && overlay.CodeOf(err) != overlay.CodeNotFound {
					t.Errorf("%s: received %d: %v", what, i, err)
				}
			}
			if m, err := alice.Sent(waiting.Handle); err != nil || m.State != overlay.StateQueued {
				t.Errorf("%s: what waits is %s, %v", what, m.State, err)
			}
			list, err := bob.Inbox(0, 0, false)
			if st := bob.Status(); err != nil || len(list) != len(in) || st.Inbox.Total != len(in) || st.Inbox.Unacked != 3 {
				t.Errorf("%s: inbox of %d, counted %+v, %v", what, len(list), st.Inbox, err)
			}
		}
		all := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
		retain(29*day*time.Millisecond, 100)
		check("nothing is old or too many", all, all)
		retain(0, 4)
		check("too many", []int{8, 9, 10, 11}, []int{0, 4, 8, 7, 9, 10, 11}) // of nine that are acknowledged, four
		retain(40*day*time.Millisecond, 100)
		check("old", []int{11}, []int{0, 4, 8}) // the newest number is kept
		// After a restart numbers go on, and nothing comes twice.
		order := sent[11].Order
		if err := alice.stop(); err != nil {
			t.Fatal(err)
		}
		if err := bob.stop(); err != nil {
			t.Fatal(err)
		}
		alice, bob = alice.home.start(c.addrs()), bob.home.start(c.addrs())
		next := alice.send(overlay.StateDelivered, "next", bob.id())
		if next.Order <= order {
			t.Errorf("number %d is given out again after %d", next.Order, order)
		}
		raw := func(id overlay.RecordID) []byte {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.records[c.known[id]-1].Raw
		}(*sent[1].ID)
		for _, s := range c.pillars[0].of(bob.id()) {
			s.send(&overlay.Push{To: 1, Records: [][]byte{raw}})
		}
		alice.send(overlay.StateDelivered, "last", bob.id())
		if got := bob.texts(5); len(got) != 5 {
			t.Errorf("the inbox has %q", got)
		}
		if st := bob.Status(); st.Inbox.Total != 5 || st.Inbox.Unacked != 5 {
			t.Errorf("counted %+v", st.Inbox)
		}
	})
}

func ints(list []int) (b []byte) {
	for _, n := range list {
		b = append(b, byte(n))
	}
	return b
}
