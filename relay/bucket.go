package relay

import (
	"time"
)

// A bucket is a token bucket: it holds up to burst tokens, full at first, and
// rate of them come back every second.
type bucket struct {
	tokens float64
	last   time.Time // zero: full
}

// fill brings b up to now.
func (b *bucket) fill(now time.Time, burst, rate float64) {
	if b.last.IsZero() {
		b.tokens = burst
	} else if d := now.Sub(b.last).Seconds(); d > 0 {
		b.tokens = min(burst, b.tokens+d*rate)
	}
	b.last = now
}

// full reports whether b says nothing any more that a new one would not.
func (b *bucket) full(now time.Time, burst, rate float64) bool {
	return b.tokens+now.Sub(b.last).Seconds()*rate >= burst
}

// buckets are one bucket a key, at most most of them: full ones are forgotten,
// and if there are none, who has no bucket yet gets nothing.
type buckets[K comparable] struct {
	burst, rate float64
	most        int
	m           map[K]*bucket
	swept       time.Time
}

// of returns the bucket of k as it is at now; nil if there is no room for one.
func (s *buckets[K]) of(k K, now time.Time) *bucket {
	b := s.m[k]
	if b == nil {
		if len(s.m) >= s.most {
			if now.Sub(s.swept) < time.Second {
				return nil
			}
			s.swept = now
			for o, b := range s.m {
				if b.full(now, s.burst, s.rate) {
					delete(s.m, o)
				}
			}
			if len(s.m) >= s.most {
				return nil
			}
		}
		if s.m == nil {
			s.m = make(map[K]*bucket)
		}
		b = &bucket{}
		s.m[k] = b
	}
	b.fill(now, s.burst, s.rate)
	return b
}

// take takes n tokens of k's bucket; false, and nothing is taken, if there are
// fewer.
func (s *buckets[K]) take(k K, n float64, now time.Time) bool {
	b := s.of(k, now)
	if b == nil || b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}

// giveBack returns tokens that were taken for nothing.
func (s *buckets[K]) giveBack(k K, n float64, now time.Time) {
	if b := s.m[k]; b != nil {
		b.fill(now, s.burst, s.rate)
		b.tokens = min(s.burst, b.tokens+n)
	}
}
