package overlay_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestPillarPages: a large mailbox comes in local order, in several pages, each
// only after the one before is saved.
func TestPillarPages(t *testing.T) {
	reg := prometheus.NewRegistry()
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Registerer = reg })
	alice, bob := rig.device(nil).session(), rig.device(nil).session()
	var sent [][]byte
	for range 60 {
		raw := alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, bytes.Repeat([]byte{1}, 20<<10), func(d *overlay.Draft) {
			d.Bin[0] = byte(len(sent))
		})
		sent = append(sent, raw)
		if l := alice.one(raw); l.Err != nil {
			t.Fatal(l.Err)
		}
	}
	bob.send(&overlay.Resume{Box: overlay.BoxMail})
	var got [][]byte
	for pages := 1; ; pages++ {
		p := expect[*overlay.Page](bob)
		got = append(got, p.Records...)
		if p.Last {
			if pages < 4 {
				t.Fatalf("%d pages", pages)
			}
			bob.send(&overlay.Saved{Box: overlay.BoxMail, To: p.To})
			break
		}
		// Saved for less does not bring the next one: the answer to a question
		// asked after it comes first.
		bob.send(&overlay.Saved{Box: overlay.BoxMail, To: p.To - 1}, &overlay.Find{N: 9, OnlyHeld: true})
		expect[*overlay.Found](bob)
		bob.send(&overlay.Saved{Box: overlay.BoxMail, To: p.To})
	}
	sameRecords(t, "mailbox", got, sent)
	cursor := expect[*overlay.CursorMsg](bob).Cursor

	// A cursor that covers a part brings exactly the rest.
	cursor[0].Seq -= 10
	got, _ = bob.resume(overlay.BoxMail, cursor, false)
	sameRecords(t, "the rest", got, sent[50:])
	// One of another pillar covers nothing here.
	strange := overlay.Vector{{Log: overlay.LogID{1}, Seq: 1000}}
	got, _ = bob.resume(overlay.BoxMail, strange, false)
	sameRecords(t, "all", got, sent)
	// All of it counts as delivered by pages.
	if n := counter(t, reg, "obelisk_overlay_paged_total"); n != 60+10+60 {
		t.Errorf("%v records counted, want 130", n)
	}
}

// TestPillarLiveWithoutGap: while others submit, a device resumes and goes
// live: it gets every record once, in local order.
func TestPillarLiveWithoutGap(t *testing.T) {
	rig := newPillarRig(t, nil)
	bob := rig.device(nil).session()
	const senders, each = 4, 300
	var wg sync.WaitGroup
	dots := make([]map[uint64]overlay.RecordID, senders)
	for i := range senders {
		alice := rig.device(nil).session()
		dots[i] = map[uint64]overlay.RecordID{}
		wg.Go(func() {
			for n := 0; n < each; n += 10 {
				var raws [][]byte
				for range 10 {
					raws = append(raws, alice.message(bob.id()))
				}
				first := alice.submit(1, raws...)
				for k, l := range alice.results(10) {
					if l.Err != nil {
						t.Error(l.Err)
					}
					dots[i][l.Dot.Seq] = idOf(t, rig.id, raws[k-first])
				}
			}
		})
	}
	got, _ := bob.resume(overlay.BoxMail, nil, true)
	got = append(got, bob.pushes(senders*each-len(got))...)
	wg.Wait()
	// The own log's order is the local order, for all came by it.
	var want []overlay.RecordID
	var seqs []uint64
	for _, m := range dots {
		for seq := range m {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		for _, m := range dots {
			if id, ok := m[seq]; ok {
				want = append(want, id)
			}
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if idOf(t, rig.id, got[i]) != want[i] {
			t.Fatalf("record %d is out of order", i)
		}
	}
}

// TestPillarSlowReceiver: a device that saves nothing is pushed a window; the
// rest it gets from the store once it saves again. Nobody waits for it.
func TestPillarSlowReceiver(t *testing.T) {
	reg := prometheus.NewRegistry()
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Registerer = reg })
	alice, bob := rig.device(nil).session(), rig.device(nil).session()
	bob.resume(overlay.BoxMail, nil, true)
	const all = 6000
	var sent [][]byte
	for len(sent) < all {
		var raws [][]byte
		for range 500 {
			raws = append(raws, alice.message(bob.id()))
		}
		alice.submit(1, raws...)
		alice.results(500)
		sent = append(sent, raws...)
	}
	// Pushed so far is a window; after it, an answer to a question.
	bob.send(&overlay.Find{N: 1, OnlyHeld: true})
	var got [][]byte
	var to uint64
	for done := false; !done; {
		m, err := bob.read()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *overlay.Push:
			got = append(got, m.Records...)
			to = m.To
		case *overlay.Found:
			// Results and questions are not ordered with pushes: read what is left.
			done = len(got) > 0
			if !done {
				bob.send(&overlay.Find{N: 1, OnlyHeld: true})
			}
		}
	}
	bob.send(&overlay.Saved{Box: overlay.BoxMail, To: to})
	if len(got) >= all {
		t.Fatalf("all %d pushed without a Saved", len(got))
	}
	got = append(got, bob.pushes(all-len(got))...)
	sameRecords(t, "pushed", got, sent)
	// And it is live again.
	raw := alice.message(bob.id())
	alice.submit(1, raw)
	sameRecords(t, "live", bob.pushes(1), [][]byte{raw})
	// Each counts once, as pushed or as read from the store.
	pushed, paged := counter(t, reg, "obelisk_overlay_pushes_total"), counter(t, reg, "obelisk_overlay_paged_total")
	if pushed+paged != all+1 || pushed == 0 || paged == 0 {
		t.Errorf("%v pushed and %v read from the store; want %d together", pushed, paged, all+1)
	}
}

// TestPillarCursorWhileLive: every few seconds a live device is handed the
// cursor up to which it has saved everything, and only that.
func TestPillarCursorWhileLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer rig.stop()
		alice, bob := rig.device(nil).session(), rig.device(nil).session()
		bob.resume(overlay.BoxMail, nil, true)
		raws := [][]byte{alice.message(bob.id()), alice.message(bob.id())}
		last := alice.one(raws[0]).Dot
		p := expect[*overlay.Push](bob)
		time.Sleep(12 * time.Second) // virtual
		bob.send(&overlay.Saved{Box: overlay.BoxMail, To: p.To})
		cursor := expect[*overlay.CursorMsg](bob).Cursor
		if !cursor.Covers(last) {
			t.Fatalf("cursor %v does not cover %v", cursor, last)
		}
		last = alice.one(raws[1]).Dot
		if cursor.Covers(last) {
			t.Fatal("the cursor covers what was not pushed")
		}
		bob.pushes(1)
		if cursor = expect[*overlay.CursorMsg](bob).Cursor; !cursor.Covers(last) {
			t.Fatalf("cursor %v does not cover %v", cursor, last)
		}
		rig.stop()
	})
}

// TestPillarExpiredIsHidden: what is expired is nowhere, although its bytes
// are still there.
func TestPillarExpiredIsHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer rig.stop()
		c := rig.device(nil).session()
		short := c.sign(overlay.KindMessage, []identity.AccountID{c.id()}, []byte("x"), func(d *overlay.Draft) {
			d.Expires = d.Created + 60_000
		})
		long := c.message(c.id())
		for _, raw := range [][]byte{short, long} {
			if l := c.one(raw); l.Err != nil {
				t.Fatal(l.Err)
			}
		}
		got, _ := c.resume(overlay.BoxMail, nil, false)
		sameRecords(t, "before", got, [][]byte{short, long})
		time.Sleep(2 * time.Minute) // virtual
		got, _ = c.resume(overlay.BoxMail, nil, false)
		sameRecords(t, "after", got, [][]byte{long})
		ids := []overlay.RecordID{idOf(t, rig.id, short), idOf(t, rig.id, long)}
		c.send(&overlay.Find{N: 1, IDs: ids})
		sameRecords(t, "found", expect[*overlay.Found](c).Records, [][]byte{long})
		records, _, err := rig.pillar.Get(ids, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		sameRecords(t, "got", records, [][]byte{long})
		if n := rig.store.Stats().Records; n < 4 {
			t.Fatalf("%d records stored", n)
		}
		// Days later the bytes are gone.
		time.Sleep(4 * 24 * time.Hour)
		has, err := rig.pillar.Has(ids)
		if err != nil || has[0] || has[1] {
			t.Fatalf("days later: %v %v", has, err)
		}
		rig.stop()
	})
}

// TestPillarCheck: the mailbox check is silent when both sides have the same,
// and names what the device lacks when they do not.
func TestPillarCheck(t *testing.T) {
	rig := newPillarRig(t, nil)
	alice, bob := rig.device(nil).session(), rig.device(nil).session()
	var ids []overlay.RecordID
	var expires []uint64
	for i := range 30 {
		raw := alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte{byte(i)}, func(d *overlay.Draft) {
			d.Created -= 60_000
			d.Expires = d.Created + uint64(1+i%3)*overlay.DayMillis
			expires = append(expires, d.Expires)
		})
		ids = append(ids, idOf(t, rig.id, raw))
		if l := alice.one(raw); l.Err != nil {
			t.Fatal(l.Err)
		}
	}
	alice.one(alice.message(alice.id())) // somebody else's
	now := millis(time.Now())
	ask := func(without int) *overlay.Checked {
		m := &overlay.Check{N: 5, Key: overlay.ShortKey{1, 2, 3}, Before: now - 10_000, Front: now + 10_000}
		tallies := map[overlay.Day]overlay.Tally{}
		for i, id := range ids {
			if i != without {
				day := overlay.DayOf(expires[i])
				tallies[day] = tallies[day].Add(overlay.Tally{Count: 1, Sum: m.Key.Term(id)})
			}
		}
		for day, t := range tallies {
			m.Days = append(m.Days, overlay.DayTally{Day: day, Tally: t})
		}
		bob.send(m)
		return expect[*overlay.Checked](bob)
	}
	if c := ask(-1); c.N != 5 || len(c.Days)+len(c.IDs) != 0 {
		t.Fatalf("equal mailboxes: %+v", c)
	}
	c := ask(4)
	if len(c.Days) != 1 || c.Days[0] != overlay.DayOf(expires[4]) || len(c.IDs) != 10 || !slices.Contains(c.IDs, ids[4]) {
		t.Fatalf("a withheld record: %+v", c)
	}
	bob.send(&overlay.Find{N: 6, IDs: []overlay.RecordID{ids[4]}})
	if f := expect[*overlay.Found](bob); len(f.Records) != 1 || idOf(t, rig.id, f.Records[0]) != ids[4] {
		t.Fatalf("the withheld record: %+v", f)
	}
}

// TestPillarFind: keys are anybody's, mail only its owner's and author's;
// watched accounts are pushed.
func TestPillarFind(t *testing.T) {
	rig := newPillarRig(t, nil)
	alice, bob, eve := rig.device(nil).session(), rig.device(nil).session(), rig.device(nil).session()
	raw := alice.message(bob.id())
	alice.one(raw)
	ids := []overlay.RecordID{idOf(t, rig.id, raw), {1}}
	for _, tt := range []struct {
		name string
		c    *testClient
		n    int
	}{{"author", alice, 1}, {"recipient", bob, 1}, {"somebody else", eve, 0}} {
		tt.c.send(&overlay.Find{N: 1, IDs: ids})
		if f := expect[*overlay.Found](tt.c); len(f.Records) != tt.n || f.More {
			t.Errorf("%s finds %d records", tt.name, len(f.Records))
		}
		tt.c.send(&overlay.Find{N: 2, IDs: ids, OnlyHeld: true})
		if f := expect[*overlay.Found](tt.c); !bytes.Equal(f.Held, []byte{0x80}) {
			t.Errorf("%s: held %x", tt.name, f.Held)
		}
	}

	second := rig.device(bob.account) // a second device, and a newer name
	second.session()
	renamed := bob.sign(overlay.KindDevice, nil, (&overlay.DeviceInfo{Name: "new"}).Append(nil), func(d *overlay.Draft) { d.Created += 5 })
	bob.one(renamed)
	alice.send(&overlay.Find{N: 3, Watch: true, Accounts: []identity.AccountID{bob.id()}})
	f := expect[*overlay.Found](alice)
	kinds := map[overlay.Kind]int{}
	for _, raw := range f.Records {
		rec, err := overlay.ParseRecord(rig.id, raw)
		kinds[must(t, rec, err).Kind]++
	}
	if kinds[overlay.KindAccount] != 1 || kinds[overlay.KindDevice] != 2 || !slices.ContainsFunc(f.Records, func(b []byte) bool { return bytes.Equal(b, renamed) }) {
		t.Fatalf("found %v", kinds)
	}
	removal := bob.accountRecord(9, overlay.DeviceSerial{Device: second.key.ID(), Serial: 1})
	bob.one(removal)
	p := expect[*overlay.Push](alice)
	if p.To != 0 {
		t.Fatalf("pushed with to %d", p.To)
	}
	sameRecords(t, "watched", p.Records, [][]byte{removal})
	alice.send(&overlay.Find{N: 4, Accounts: []identity.AccountID{bob.id()}})
	if f = expect[*overlay.Found](alice); len(f.Records) != 2 {
		t.Fatalf("%d records of the account less a device", len(f.Records))
	}
}
