package overlay

import "time"

// Tokens bounds how often something is done: burst times at once, and in the
// long run rate times a second. The zero value has all tokens. It is not safe
// for concurrent use.
type Tokens struct {
	used float64
	at   time.Time
}

// Take uses a token and returns 0, or returns how long it is until there is one.
// A clock that goes back adds nothing.
func (t *Tokens) Take(now time.Time, burst, rate float64) (wait time.Duration) {
	t.fade(now, rate)
	if t.used+1 > burst {
		return max(1, time.Duration((t.used+1-burst)/rate*float64(time.Second)))
	}
	t.used++
	return 0
}

// idle reports whether all tokens are there.
func (t *Tokens) idle(now time.Time, rate float64) bool {
	t.fade(now, rate)
	return t.used == 0
}

// fade brings t up to now.
func (t *Tokens) fade(now time.Time, rate float64) {
	if d := now.Sub(t.at); d > 0 {
		t.used = max(0, t.used-d.Seconds()*rate)
		t.at = now
	}
}
