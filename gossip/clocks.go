package gossip

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

const (
	// clockKept is how long what a pillar said of its clock counts.
	clockKept = time.Hour
	// clockOff is how far clocks may be apart.
	clockOff = 30 * time.Second
	// clockStep is by how much our clock steps before others are told.
	clockStep = time.Second
	// clocksApart is how far two clocks are apart if one takes for expired for an
	// hour what lives by the other.
	clocksApart = 30 * time.Minute
)

// clocks is what other pillars' clocks said in their Hellos, those included that
// were refused: a pillar whose clock is wrong finds everybody's admission out of
// date, and must be able to find out why.
type clocks struct {
	now func() time.Time

	mu sync.Mutex
	of map[identity.PillarID]clockReading // guarded by mu; of pillars in the roster
}

// clockReading is a moment by three clocks.
type clockReading struct {
	theirs, ours uint64    // Unix ms
	at           time.Time // monotonic: elapsed time since it is right whatever our clock does
}

func newClocks(now func() time.Time) *clocks {
	return &clocks{now: now, of: make(map[identity.PillarID]clockReading)}
}

func (c *clocks) millis() uint64 { return uint64(max(0, c.now().UnixMilli())) }

// heard notes what p says the time is.
func (c *clocks) heard(p identity.PillarID, theirs uint64) {
	r := clockReading{theirs, c.millis(), time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[p] = r
}

// skew is p's clock minus ours as ours is now; false if it is not known.
func (c *clocks) skew(p identity.PillarID) (time.Duration, bool) {
	c.mu.Lock()
	r, ok := c.of[p]
	c.mu.Unlock()
	if !ok || time.Since(r.at) > clockKept {
		return 0, false
	}
	return time.Duration(int64(r.theirs-c.millis()))*time.Millisecond + time.Since(r.at), true
}

// agree reports whether most of the clocks that are known are near ours.
func (c *clocks) agree() bool {
	c.mu.Lock()
	known := slices.Collect(maps.Keys(c.of))
	c.mu.Unlock()
	near, far := 0, 0
	for _, p := range known {
		if skew, ok := c.skew(p); !ok {
			continue
		} else if skew.Abs() <= clockOff {
			near++
		} else {
			far++
		}
	}
	return near >= far
}

// stepped is how much our clock moved since then otherwise than time did.
func (r *clockReading) stepped(ours uint64) time.Duration {
	return time.Duration(int64(ours-r.ours))*time.Millisecond - time.Since(r.at)
}
