package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// letters are messages of a given size and life.
type letters struct{}

// at makes a record live for life.
func (letters) at(life time.Duration) func(*overlay.Draft) {
	return func(d *overlay.Draft) {
		d.Created = millis(time.Now())
		d.Expires = d.Created + uint64(life.Milliseconds())
	}
}

// mail signs a message of about size bytes.
func (letters) mail(d *testDevice, to identity.AccountID, size int, life time.Duration) []byte {
	bin := make([]byte, size)
	for i := range 16 {
		bin[i] = byte(d.seq >> (i / 2))
	}
	return d.sign(overlay.KindMessage, []identity.AccountID{to}, bin, letters{}.at(life))
}

func refusedFor(t *testing.T, l overlay.ResultLine, what string) {
	t.Helper()
	if l.Err == nil || l.Err.Code != overlay.CodeQuota || l.Err.Code.Final() {
		t.Fatalf("%s: %+v", what, l)
	}
	if l.Err.Retry <= 0 || l.Err.Retry > 24*time.Hour {
		t.Fatalf("%s: try again in %v", what, l.Err.Retry)
	}
}

// fillUp submits until something is refused and returns how many were taken.
func fillUp(t *testing.T, c *testClient, next func() []byte, most int) int {
	t.Helper()
	for n := range most {
		if l := c.one(next()); l.Err != nil {
			refusedFor(t, l, "over the quota")
			return n
		}
	}
	t.Fatalf("%d were taken, and none refused", most)
	return 0
}

// TestQuotaOfAuthor: what one account keeps on the disk is bounded, a refusal
// says when to come again, what others do is not touched, and time forgives.
func TestQuotaOfAuthor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var post letters
		rig := bareRig(newTestNetwork(t))
		rig.start(nil, identity.NewPillarKey(), func(c *overlay.PillarConfig) {
			c.Quotas = overlay.Quotas{Author: 512 << 10} // for seven days at once: 3.5 MiB days
		})
		defer rig.stop()
		greedy, other := rig.device(nil).session(), rig.device(nil).session()
		to := other.id()
		big := func(c *testClient) []byte { return post.mail(c.testDevice, to, 8<<10, 10*24*time.Hour) }
		// 8 KiB for a life of 10 days lie there for 11 to 12.
		n := fillUp(t, greedy, func() []byte { return big(greedy) }, 100)
		if n < 30 || n > 45 {
			t.Errorf("%d messages of 8 KiB were taken at once", n)
		}
		if l := other.one(big(other)); l.Err != nil {
			t.Errorf("another account: %v", l.Err)
		}
		// A short life costs less, though not nothing: the bytes lie there for a day.
		fillUp(t, greedy, func() []byte { return post.mail(greedy.testDevice, to, 1<<10, time.Second) }, 200)
		raw := big(greedy)
		l := greedy.one(raw)
		refusedFor(t, l, "again")
		time.Sleep(l.Err.Retry) // virtual
		if l := greedy.one(raw); l.Err != nil {
			t.Errorf("when it was told to come again: %v", l.Err)
		}
		// A duplicate of what is stored costs nothing, however much is owed.
		stored := post.mail(other.testDevice, to, 100, time.Hour)
		if l := other.one(stored); l.Err != nil {
			t.Fatal(l.Err)
		}
		fillUp(t, greedy, func() []byte { return big(greedy) }, 100)
		if l := greedy.one(stored); l.Err != nil {
			t.Errorf("a duplicate: %v", l.Err)
		}
	})
}

// TestQuotaOfPair: one account fills nobody's mailbox.
func TestQuotaOfPair(t *testing.T) {
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Quotas = overlay.Quotas{Pair: 16 << 10} })
	var post letters
	greedy, victim, friend := rig.device(nil).session(), rig.device(nil), rig.device(nil)
	fillUp(t, greedy, func() []byte { return post.mail(greedy.testDevice, victim.id(), 8<<10, 10*24*time.Hour) }, 20)
	if l := greedy.one(post.mail(greedy.testDevice, friend.id(), 8<<10, 24*time.Hour)); l.Err != nil {
		t.Errorf("to somebody else: %v", l.Err)
	}
	to := []identity.AccountID{victim.id(), friend.id()}
	if to[0] > to[1] {
		to[0], to[1] = to[1], to[0]
	}
	both := greedy.sign(overlay.KindMessage, to, make([]byte, 8<<10), post.at(10*24*time.Hour))
	refusedFor(t, greedy.one(both), "to both")
}

// TestQuotaOfSource: many accounts at one place are bounded together, those at
// another are not touched.
func TestQuotaOfSource(t *testing.T) {
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Quotas = overlay.Quotas{Source: 64 << 10} })
	var post letters
	from := func(addr string) *testClient {
		d := rig.device(nil)
		host := rig.net.Host(peer.ID(d.key.ID()), addr)
		t.Cleanup(func() { host.Shutdown() })
		c := d.openFrom(host).greet()
		c.register()
		return c
	}
	taken := 0
	for i := range 20 {
		c := from(fmt.Sprintf("/ip4/203.0.113.%d/tcp/1", i+1))
		if l := c.one(post.mail(c.testDevice, c.id(), 8<<10, 10*24*time.Hour)); l.Err != nil {
			refusedFor(t, l, "from a place that is over its quota")
			break
		}
		taken++
	}
	if taken < 3 || taken > 8 {
		t.Errorf("%d of twenty accounts there were served", taken)
	}
	other := from("/ip4/198.51.100.1/tcp/1")
	if l := other.one(post.mail(other.testDevice, other.id(), 8<<10, 10*24*time.Hour)); l.Err != nil {
		t.Errorf("from elsewhere: %v", l.Err)
	}
}

func TestSourceOf(t *testing.T) {
	of := func(a string) string { return overlay.SourceOf(multiaddr.StringCast(a)) }
	relay := "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWQDcb7ks2cqedz11dMd3ys27vqPXFfNBMiSZCGDmncJLu/p2p-circuit"
	for _, same := range [][2]string{
		{"/ip4/203.0.113.7/tcp/1", "/ip4/203.0.113.250/udp/9/quic-v1"},
		{"/ip4/203.0.113.7/tcp/1", relay},
		{"/ip6/2001:db8:1:2::3/tcp/1", "/ip6/2001:db8:1:ffff::9/tcp/2"},
		{"/ip4/203.0.113.7/tcp/1", "/ip6/::ffff:203.0.113.9/tcp/1"},
	} {
		if of(same[0]) != of(same[1]) || of(same[0]) == "" {
			t.Errorf("%s and %s are not one source", same[0], same[1])
		}
	}
	for _, other := range [][2]string{
		{"/ip4/203.0.113.7/tcp/1", "/ip4/203.0.114.7/tcp/1"},
		{"/ip6/2001:db8:1::1/tcp/1", "/ip6/2001:db8:2::1/tcp/1"},
	} {
		if of(other[0]) == of(other[1]) {
			t.Errorf("%s and %s are one source", other[0], other[1])
		}
	}
	for _, nobody := range []string{"/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/dns4/example.org/tcp/1"} {
		if of(nobody) != "" {
			t.Errorf("%s is a source", nobody)
		}
	}
	if overlay.SourceOf(nil) != "" {
		t.Error("no address is a source")
	}
}

// TestQuotaOfRegistrations: registering again and again with new device records
// is not free either.
func TestQuotaOfRegistrations(t *testing.T) {
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) { c.Quotas = overlay.Quotas{Author: 1 << 10} })
	d := rig.device(nil)
	host := rig.net.Host(peer.ID(d.key.ID()), "-")
	t.Cleanup(func() { host.Shutdown() })
	for i := range 50 {
		c := d.openFrom(host).greet()
		c.send(&overlay.Register{Account: c.accountRecord(1), Device: c.deviceRecord(fmt.Sprint("again", i))})
		r := expect[*overlay.Registered](c)
		c.stream.CloseWrite()
		c.ended()
		if r.Err != nil {
			if r.Err.Code != overlay.CodeQuota || r.Err.Retry == 0 {
				t.Fatalf("refused with %v", r.Err)
			}
			return
		}
	}
	t.Fatal("fifty registrations were taken")
}

// TestLongestLifeFalls: as the store fills, long lives are refused for now,
// never for ever; keys and receipts are taken all the same.
func TestLongestLifeFalls(t *testing.T) {
	var free atomic.Uint64
	free.Store(100 << 30)
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) {
		c.Disk = func() (uint64, uint64, error) { return free.Load(), 100 << 30, nil }
	})
	var post letters
	c := rig.device(nil).session()
	mail := func(life time.Duration) overlay.ResultLine { return c.one(post.mail(c.testDevice, c.id(), 100, life)) }
	const day = 24 * time.Hour
	if l := mail(30 * day); l.Err != nil {
		t.Fatalf("with an empty disk: %v", l.Err)
	}
	free.Store(11 << 30) // two reserves are 10 GiB
	until(t, "the pillar sees how full it is", func() bool { return mail(30*day).Err != nil })
	refusedFor(t, mail(30*day), "30 days")
	if l := mail(day); l.Err != nil {
		t.Errorf("one day: %v", l.Err)
	}
	for _, kind := range []overlay.Kind{overlay.KindEpoch, overlay.KindReceipt} {
		raw := c.sign(kind, []identity.AccountID{c.id()}, make([]byte, 100), post.at(30*day))
		if l := c.one(raw); l.Err != nil {
			t.Errorf("%s for 30 days: %v", kind, l.Err)
		}
	}
}

// TestOneAccountLeavesRoom: a node that submits without end while nothing is
// committed is not read any more; everybody else still is, and nothing is lost.
func TestOneAccountLeavesRoom(t *testing.T) {
	rig := newPillarRig(t, nil)
	greedy, other := rig.device(nil).session(), rig.device(nil).session()
	var post letters
	release := rig.store.hold()
	const big, frames = 60 << 10, 200 // 12 MB
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range frames {
			frame := overlay.AppendFrame(nil, &overlay.Submit{First: uint64(1 + i), Concern: 1,
				Records: [][]byte{post.mail(greedy.testDevice, other.id(), big, time.Hour)}})
			greedy.stream.SetWriteDeadline(time.Now().Add(patience))
			if _, err := greedy.stream.Write(frame); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	}()
	<-rig.store.entered
	until(t, "the greedy session is held up", func() bool { return rig.pillar.SubmissionsWaiting() > 0 })
	if n := rig.pillar.SubmissionBytes(); n > 6<<20 {
		t.Errorf("%d bytes of one account are queued", n)
	}
	n := other.submit(1, other.message(greedy.id()))
	release()
	if l := other.results(1)[n]; l.Err != nil {
		t.Errorf("the other one: %v", l.Err)
	}
	for i, l := range greedy.results(frames) {
		if l.Err != nil {
			t.Fatalf("submission %d: %v", i, l.Err)
		}
	}
	<-sent
}

// TestHeldSessionEnds: a session that waits for room ends with its peer, and
// with the pillar.
func TestHeldSessionEnds(t *testing.T) {
	rig := newPillarRig(t, nil)
	greedy := rig.device(nil).session()
	var post letters
	release := rig.store.hold()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range 200 {
			frame := overlay.AppendFrame(nil, &overlay.Submit{First: uint64(1 + i), Records: [][]byte{
				post.mail(greedy.testDevice, greedy.id(), 60<<10, time.Hour)}})
			if _, err := greedy.stream.Write(frame); err != nil {
				return
			}
		}
	}()
	until(t, "it is held up", func() bool { return rig.pillar.SubmissionsWaiting() > 0 })
	greedy.stream.Reset()
	<-ended
	release()
	rig.stop()
}

// TestLogShare: the logs of a pillar that fill their share are paused, others go
// on, and they go on themselves when enough of them is gone.
func TestLogShare(t *testing.T) {
	var post letters
	rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) {
		c.Quotas = overlay.Quotas{Log: 20 << 10}
	})
	author := rig.device(nil)
	flood, calm := newForeignLog(rig), newForeignLog(rig)
	entry := func(size int) overlay.BatchEntry {
		return overlay.BatchEntry{Raw: post.mail(author, author.id(), size, time.Hour)}
	}
	apply := func(l *foreignLog, size int) error {
		_, err := rig.pillar.Apply(context.Background(), l.run(entry(size)))
		return err
	}
	for i := range 3 {
		if err := apply(flood, 8<<10); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
	}
	err := apply(flood, 100)
	var refusal *overlay.Error
	if !errors.As(err, &refusal) || refusal.Code != overlay.CodeQuota || refusal.Retry <= 0 {
		t.Fatalf("over its share: %v", err)
	}
	if !rig.pillar.LogsPaused(flood.state.Pillar) || rig.pillar.LogsPaused(calm.state.Pillar) {
		t.Error("it is not told who is paused")
	}
	if err := apply(calm, 8<<10); err != nil {
		t.Errorf("another pillar's log: %v", err)
	}
	// It is remembered over a restart.
	rig.stop()
	rig.start(nil, identity.NewPillarKey(), func(c *overlay.PillarConfig) {
		c.Quotas = overlay.Quotas{Log: 20 << 10}
	})
	if !rig.pillar.LogsPaused(flood.state.Pillar) {
		t.Error("forgotten by a restart")
	}
	must(t, 0, rig.pillar.DropDays(millis(time.Now())+3*overlay.DayMillis))
	if rig.pillar.LogsPaused(flood.state.Pillar) {
		t.Error("still paused when all of it is gone")
	}
}

// TestQuotaMemoryIsFixed: thousands of debtors that owe all they may are kept in
// the same memory, none of them is forgiven by the others coming, and nearly no
// stranger pays for them.
func TestQuotaMemoryIsFixed(t *testing.T) {
	take := overlay.QuotaTaker(16 << 20) // 2 MiB an author
	const week = 7 * overlay.DayMillis
	full := float64(2<<20) * week
	author := func(i int) identity.AccountID { return identity.AccountID(fmt.Sprint("debtor ", i)) }
	const debtors, strangers = 1500, 2000
	for i := range debtors {
		take(author(i), "", nil, full, 1)
	}
	for i := range debtors {
		if take(author(i), "", nil, 1, 1) {
			t.Fatalf("debtor %d was forgiven", i)
		}
	}
	refused := 0
	for i := range strangers {
		if !take(author(debtors+i), "", nil, 1, 1) {
			refused++
		}
	}
	// Both of a stranger's cells are taken with a chance of (1500/16384)².
	if refused > strangers/25 {
		t.Errorf("%d of %d strangers were refused", refused, strangers)
	}
	// A clock that goes back forgives nothing, one that goes on does.
	if take(author(0), "", nil, 1, 0) || !take(author(0), "", nil, 1, 1+week) {
		t.Error("time is not what forgives")
	}
}
