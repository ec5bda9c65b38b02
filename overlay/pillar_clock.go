package overlay

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// How a pillar judges its own clock. With three clocks or more, its own
// included, the median decides. With fewer there is no majority: then the clock
// is trusted for submissions, and for deleting only while it is not more than
// an hour ahead of the last time saved on disk plus the time since. A pillar
// that was off longer is trusted again after a day of running: until then its
// operator or a peer can notice.
//
// A clock that steps while the pillar runs is in doubt from that moment until it
// is judged again: what others' clocks said is measured against it anew.

const (
	clockLastKey   = "clock/last"
	clockAheadMax  = uint64(time.Hour / time.Millisecond)
	clockSettled   = 24 * time.Hour
	clocksMajority = 3
)

type pillarClock struct {
	started time.Time // monotonic

	mu        sync.Mutex
	judged    clockReading  // guarded by mu; when it was judged last
	steady    time.Time     // guarded by mu; monotonic; the clock has not stepped since
	last      uint64        // guarded by mu; the time saved on disk when the pillar started, Unix ms
	off       time.Duration // guarded by mu; median of all clocks minus ours
	wrong     bool          // guarded by mu; a majority says so
	confirmed bool          // guarded by mu; right enough for deleting
}

// clockReading is one moment by the clock and by time that passes evenly.
type clockReading struct {
	clock     uint64    // Unix ms
	monotonic time.Time // a duration since it is right whatever the clock does
}

// steppedBy is how much more the clock has moved since r than time has passed.
func (r clockReading) steppedBy(now uint64) time.Duration {
	return time.Duration(int64(now-r.clock))*time.Millisecond - time.Since(r.monotonic)
}

func (c *pillarClock) load(view View, now uint64) error {
	c.started = time.Now()
	c.steady, c.judged = c.started, clockReading{now, c.started}
	c.last = now
	err := view.Values(clockLastKey, func(_ string, data []byte) bool {
		if len(data) == 8 {
			c.last = binary.BigEndian.Uint64(data)
		}
		return false
	})
	c.judge(now, nil)
	return err
}

// checkClock judges the clock by what the mesh says of the others'.
func (p *Pillar) checkClock() {
	var skews []time.Duration
	for _, s := range p.mesh.Pillars() {
		if s.ClockKnown {
			skews = append(skews, s.ClockSkew)
		}
	}
	c := &p.clock
	c.mu.Lock()
	before := c.wrong
	c.mu.Unlock()
	c.judge(p.now(), skews)
	c.mu.Lock()
	wrong, off := c.wrong, c.off
	c.mu.Unlock()
	switch {
	case wrong && !before:
		p.log.Error("the clock is wrong: submissions are refused", "off", off, "clocks", len(skews)+1)
	case before && !wrong:
		p.log.Info("the clock is right again", "off", off)
	}
}

// judge takes the others' clocks minus ours.
func (c *pillarClock) judge(now uint64, skews []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stepped(now) {
		c.steady = time.Now()
	}
	c.judged = clockReading{now, time.Now()}
	clocks := append([]time.Duration{0}, skews...)
	slices.Sort(clocks)
	c.off = clocks[len(clocks)/2]
	if len(clocks)%2 == 0 {
		c.off = (clocks[len(clocks)/2-1] + c.off) / 2
	}
	if len(clocks) >= clocksMajority {
		c.wrong = c.off.Abs() > maxClockOff
		c.confirmed = !c.wrong
		return
	}
	c.wrong = false
	c.confirmed = time.Since(c.steady) >= clockSettled || now <= c.expected()+clockAheadMax
}

// expected is what time it is by the last one saved. c.mu is held.
func (c *pillarClock) expected() uint64 {
	return c.last + uint64(time.Since(c.started)/time.Millisecond)
}

// stepped reports whether the clock moved otherwise than time since it was
// judged. c.mu is held.
func (c *pillarClock) stepped(now uint64) bool { return c.judged.steppedBy(now).Abs() > maxClockOff }

// trusted reports whether submissions are taken at now.
func (c *pillarClock) trusted(now uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.wrong && !c.stepped(now)
}

// mayDelete reports whether now is right enough for deleting.
func (c *pillarClock) mayDelete(now uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.confirmed && !c.stepped(now)
}

// skew is the median of all clocks minus ours.
func (c *pillarClock) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.off
}

// values returns the time to be saved.
func (c *pillarClock) values(now uint64) []Value {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.confirmed || c.stepped(now) {
		now = c.expected()
	}
	return []Value{{Key: clockLastKey, Data: binary.BigEndian.AppendUint64(nil, now)}}
}
