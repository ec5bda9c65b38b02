package overlay

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How a pillar judges its own clock. It is confirmed, which is to say right
// enough for deleting, if
//
//   - with three clocks or more, its own included, it is within maxClockOff of
//     their median; else it is wrong, and submissions are refused as well;
//   - with fewer there is no majority: if it is within an hour of what time it
//     should be by the last one saved and the time since;
//   - or, since a pillar may have been off for longer, if it has run for a day, the
//     one other clock in reach, if any, agrees, and nodes had something admitted,
//     which tells that their clocks are not far from it: nothing is that is
//     expired, or from the future.
//
// What is saved is the time while it is confirmed, and else what time it should
// be: a wrong clock does not become the measure of the next run. What looks
// expired to a clock that is not confirmed is not hidden either if it is not
// expired by the time it should be.
//
// A clock that steps while the pillar runs is in doubt from that moment until it
// is judged again: what others' clocks said is measured against it anew.

const (
	clockLastKey   = "clock/last"
	clockOffMax    = time.Hour
	clockSettled   = 24 * time.Hour
	clocksMajority = 3
)

type pillarClock struct {
	seen atomic.Bool // since the clock began, or stepped last, something was admitted that fits it

	mu        sync.Mutex
	anchor    time.Time     // guarded by mu; monotonic, when it was last
	judged    clockReading  // guarded by mu; when it was judged last
	steady    time.Time     // guarded by mu; monotonic; the clock has not stepped since
	last      uint64        // guarded by mu; a time that was right at anchor, Unix ms: saved by a run before, or confirmed
	off       time.Duration // guarded by mu; median of all clocks minus ours
	wrong     bool          // guarded by mu; a majority says so
	confirmed bool          // guarded by mu
	text      string        // guarded by mu; what is wrong, "" if nothing is
	said      bool          // guarded by mu; and that it was logged
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
	c.anchor, c.last = time.Now(), now
	c.steady, c.judged = c.anchor, clockReading{now, c.anchor}
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
	c.judge(p.now(), skews)
	c.mu.Lock()
	wrong, off, text, said := c.text != "", c.off, c.text, c.said
	c.said = wrong
	c.mu.Unlock()
	switch {
	case wrong && !said:
		p.log.Error("clock", "problem", text)
	case said && !wrong:
		p.log.Info("the clock is right again", "off", off)
	}
}

// judge takes the others' clocks minus ours.
func (c *pillarClock) judge(now uint64, skews []time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stepped(now) {
		c.steady = time.Now()
		c.seen.Store(false)
	}
	c.judged = clockReading{now, time.Now()}
	clocks := append([]time.Duration{0}, skews...)
	slices.Sort(clocks)
	c.off = clocks[len(clocks)/2]
	if len(clocks)%2 == 0 {
		c.off = (clocks[len(clocks)/2-1] + c.off) / 2
	}
	c.text = ""
	if len(clocks) >= clocksMajority {
		c.wrong = c.off.Abs() > maxClockOff
		if c.confirmed = !c.wrong; c.confirmed {
			c.last, c.anchor = now, time.Now()
		} else {
			c.text = fmt.Sprintf("this pillar's clock says %s and is %s that of the other pillars: submissions are refused and nothing is deleted until it is set right",
				millisText(now), offText(-c.off))
		}
		return
	}
	c.wrong = false
	gap := time.Duration(int64(now)-int64(c.expected())) * time.Millisecond
	agrees := len(skews) == 0 || skews[0].Abs() <= maxClockOff
	settled := time.Since(c.steady) >= clockSettled && c.seen.Load() && agrees
	switch c.confirmed = gap.Abs() <= clockOffMax || settled; {
	case !c.confirmed:
		c.text = fmt.Sprintf("this pillar's clock says %s and is %s what it should be by the time saved last: nothing is deleted until it is set right, or other pillars agree with it, or it has run for a day and taken messages",
			millisText(now), offText(gap))
	case !agrees:
		c.text = fmt.Sprintf("this pillar's clock is %s that of the only other pillar in reach: two clocks are no majority, so one of them is wrong", offText(-skews[0]))
	}
	if settled {
		c.last, c.anchor = now, time.Now()
	}
}

// offText says how far a clock is ahead of or behind something.
func offText(off time.Duration) string {
	if off < 0 {
		return fmt.Sprintf("%s behind", -off.Round(time.Second))
	}
	return fmt.Sprintf("%s ahead of", off.Round(time.Second))
}

// expected is what time it should be. c.mu is held.
func (c *pillarClock) expected() uint64 {
	return c.last + uint64(time.Since(c.anchor)/time.Millisecond)
}

// witness notes that something was admitted that fits the clock.
func (c *pillarClock) witness() {
	if !c.seen.Load() {
		c.seen.Store(true)
	}
}

// stepped reports whether the clock moved otherwise than time since it was
// judged. c.mu is held.
func (c *pillarClock) stepped(now uint64) bool { return c.judged.steppedBy(now).Abs() > maxClockOff }

// inDoubt reports whether the clock stepped since it was judged.
func (c *pillarClock) inDoubt(now uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stepped(now)
}

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

// ClockConfirmed reports whether the pillar's clock is right enough for deleting
// and for audits. It does not block.
func (p *Pillar) ClockConfirmed() bool { return p.clock.mayDelete(p.now()) }

// skew is the median of all clocks minus ours.
func (c *pillarClock) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.off
}

// textNow says in words what is wrong with the clock, "" if nothing is.
func (c *pillarClock) textNow() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text
}

// likely is what time it probably is, if the clock says now: now if that is
// confirmed, else by the others' clocks, or by the time saved last.
func (c *pillarClock) likely(now uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.confirmed && !c.stepped(now):
		return now
	case c.wrong && !c.stepped(now):
		return uint64(max(0, int64(now)+c.off.Milliseconds()))
	default:
		return c.expected()
	}
}

// past is a time that is over, Unix ms: what expired by then is hidden.
func (p *Pillar) past() uint64 {
	now := p.now()
	return min(now, p.clock.likely(now))
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
