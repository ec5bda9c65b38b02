package gossip_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/overlay"
)

// skew moves a pillar's clock from now on.
func (p *pillar) skew() *atomic.Int64 {
	ahead := new(atomic.Int64)
	p.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return ahead
}

// A pillar that boots years ahead and is set right while it runs has lost
// nothing of what it tells and serves.
func TestClockOfTheFuture(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		ahead := a.skew()
		a.start()
		a.submit(1500)
		end := a.submit(10)
		time.Sleep(10 * time.Second)
		ahead.Store(int64(14 * 365 * 24 * time.Hour))
		a.restart()
		time.Sleep(2 * time.Minute)
		ahead.Store(0)
		a.renew()
		b := w.pillar().start(a)
		until(t, time.Minute, "a session", func() bool { return meshed(a, b) })
		until(t, 10*time.Second, "the log", func() bool { return b.held(end.Log).Position == end })
		time.Sleep(time.Minute)
		if n := a.count("entries_received_total"); n != 0 {
			t.Errorf("%v entries received of what was there", n)
		}
	})
}

// A pillar whose clock is hours behind blames nobody for what is gone by theirs,
// and gets it once its clock is right.
func TestClockOfThePast(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		raws := make([][]byte, 50)
		for i := range raws {
			raws[i] = w.author.Message(t, 20, 40*time.Minute)
		}
		a.disk.Submit(raws...)
		end := a.submit(5)
		time.Sleep(3 * time.Hour)
		a.disk.Trim(end.Log, 1, 50)
		b := w.pillar()
		ahead := b.skew()
		ahead.Store(-int64(3 * time.Hour))
		b.start(a)
		until(t, time.Minute, "a session", func() bool { return b.count("sessions") == 1 })
		time.Sleep(10 * time.Minute)
		if n := b.count("offences_total"); n != 0 {
			t.Errorf("%v offences of an honest pillar", n)
		}
		ahead.Store(0)
		until(t, 5*time.Minute, "the log", func() bool { return b.held(end.Log).Position == end })
	})
}

// What a pillar held for dead while its clock was hours ahead it tells of as soon
// as that is right, to those it speaks with already too.
func TestClockThatIsSetRight(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		ahead := a.skew()
		a.start()
		end := a.disk.Submit(w.author.Message(t, 20, 2*time.Hour))
		a.restart()
		ahead.Store(int64(5 * time.Hour))
		b := w.pillar().start(a)
		until(t, time.Minute, "a session", func() bool { return meshed(a, b) })
		time.Sleep(time.Minute)
		if b.held(end.Log).Seq > 0 {
			t.Fatal("a log that died is told")
		}
		ahead.Store(0)
		until(t, 10*time.Second, "the log", func() bool { return b.held(end.Log).Position == end })
	})
}

// A pillar whose clock is in doubt begins no rounds and answers none, which it
// says and which costs nobody anything; once it is right, rounds go on.
func TestClockInDoubt(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b := w.pillar(), w.pillar()
		a.every, b.every = 5*time.Second, 5*time.Second
		var sure atomic.Bool
		b.config = func(c *gossip.Config) { c.Confirmed = sure.Load }
		only := w.old(20)
		w.pair(a.keep(only[:10]), b.keep(only[10:]))
		time.Sleep(10 * time.Minute)
		if r, err := b.mesh.Round(w.t.Context(), a.key.ID()); overlay.CodeOf(err) != overlay.CodeClockWrong {
			t.Errorf("a round while the clock is in doubt: %v, %v", r.Result, err)
		}
		if r := w.round(a, b, overlay.RoundNotNow); r.RoundTrips != 1 {
			t.Errorf("%+v", r)
		}
		if got := b.mesh.SyncStatus().Paused; got != overlay.PausedByClock {
			t.Errorf("paused by %q", got)
		}
		if n := a.count("offences_total") + b.count("offences_total"); n != 0 {
			t.Errorf("%v offences", n)
		}
		if n := a.count("round_records_total") + b.count("round_records_total"); n != 0 {
			t.Errorf("%v records exchanged under a clock in doubt", n)
		}
		sure.Store(true)
		until(t, time.Minute, "all records on both", func() bool {
			one, _ := a.mesh.Tally()
			other, _ := b.mesh.Tally()
			return one == other && one.Count >= 20
		})
		if got := b.mesh.SyncStatus().Paused; got != "" {
			t.Errorf("still paused by %q", got)
		}
	})
}

// A round that is under way when the clock comes into doubt ends there.
func TestClockInDoubtWithinRound(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b := w.quiet().keep(w.old(100)), w.quiet()
		var left atomic.Int64
		left.Store(1 << 40)
		b.config = func(c *gossip.Config) { c.Confirmed = func() bool { return left.Add(-1) >= 0 } }
		w.pair(a, b)
		left.Store(1) // for the Root
		r, err := a.mesh.Round(w.t.Context(), b.key.ID())
		if err != nil || r.Result != overlay.RoundNotNow || r.RoundTrips < 2 || r.Sent != 0 {
			t.Errorf("%v: %+v", err, r)
		}
		if n := a.count("offences_total") + b.count("offences_total"); n != 0 {
			t.Errorf("%v offences", n)
		}
	})
}
