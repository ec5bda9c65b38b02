package gossip_test

import (
	"sync/atomic"
	"testing"
	"time"
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
