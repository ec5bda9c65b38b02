package gossip

import (
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
)

// Rules of scoring. Points halve every offenceHalf; who reaches offenceLimit is
// not spoken to for refuseMin, doubled each time up to refuseMax. Times of
// refusal are forgotten after refuseForget of good conduct.
const (
	offenceLimit = 70.0
	offenceHalf  = 5 * time.Minute
	refuseMin    = time.Minute
	refuseMax    = time.Hour
	refuseForget = 6 * time.Hour
	maxScores    = 4096

	// stallPause is how long one stall of a pillar lasts: all its streams fall
	// silent at once, and that counts as maxStalls offences at most.
	stallPause = 10 * time.Second
	maxStalls  = 2
	// emptyPause is how long answers that a log is not held, which is told, count as
	// one: logs are dropped many at a time, and that is told a moment later.
	emptyPause = 10 * time.Second
)

// weights of offences by reason. What may be bad luck counts less than what an
// honest pillar never does.
var weights = map[string]float64{
	faultSilent: 10,
	faultClaim:  10,
	faultEmpty:  10,
	faultFrame:  20,
	faultLog:    20,
	faultOrder:  20,
	faultHead:   20,
	faultChain:  20,
	faultGone:   20,
	faultVector: 20,
	faultFork:   40,
	faultMember: 10,

	faultLocate:   5,
	faultPresence: 10,

	faultRound:       20,
	faultCells:       20,
	faultGarbage:     20,
	faultUndelivered: 10,
	faultRounds:      10,
	faultDeep:        10,
	faultCompare:     10,
	faultLinks:       10,
}

// scores counts what pillars did wrong, and refuses those that repeat it.
type scores struct {
	m *Mesh

	mu sync.Mutex
	of map[peer.ID]*score // guarded by mu
}

type score struct {
	points  float64
	at      time.Time // of points
	empty   time.Time // when faultEmpty counted last
	stalled time.Time // when the stall began that counts now
	stalls  int       // silences counted since then
	until   time.Time // refused before
	times   int       // how often it was refused
	noticed bool      // its first offence since it was last good is logged
}

func newScores(m *Mesh) *scores { return &scores{m: m, of: map[peer.ID]*score{}} }

// offend counts an offence. Who reaches the limit loses its session and its
// connections.
func (t *scores) offend(p peer.ID, reason string) {
	t.m.met.offences.WithLabelValues(reason).Inc()
	now := time.Now()
	t.mu.Lock()
	s := t.of[p]
	if s == nil {
		if len(t.of) >= maxScores {
			t.prune(now)
		}
		s = &score{at: now}
		t.of[p] = s
	}
	s.fade(now)
	if reason == faultSilent {
		if now.Sub(s.stalled) >= stallPause {
			s.stalled, s.stalls = now, 0
		}
		s.stalls++
	}
	switch {
	case reason == faultSilent && s.stalls > maxStalls:
	case reason == faultEmpty && now.Sub(s.empty) < emptyPause:
	default:
		s.points += weights[reason]
		if reason == faultEmpty {
			s.empty = now
		}
	}
	first := !s.noticed
	s.noticed = true
	var refused time.Duration
	if s.points >= offenceLimit && now.After(s.until) && !t.m.cfg.tolerant {
		refused = min(refuseMax, refuseMin<<min(s.times, 10))
		s.times++
		s.until = now.Add(refused)
		s.points = 0
	}
	t.mu.Unlock()
	switch {
	case refused > 0:
		t.m.met.banned.Inc()
		t.m.log.Warn("pillar refused for a while: it breaks the rules again and again",
			"pillar", identity.PillarID(p), "reason", reason, "for", refused)
		if old := t.m.sessions.get(p); old != nil {
			old.close()
		}
		t.m.cfg.Links.Close(p)
	case first:
		t.m.log.Warn("pillar breaks the rules", "pillar", identity.PillarID(p), "reason", reason)
	}
}

// fade brings points up to now.
func (s *score) fade(now time.Time) {
	s.points *= math.Exp2(-float64(now.Sub(s.at)) / float64(offenceHalf))
	s.at = now
	if s.points < 1 {
		s.noticed = false
	}
	if s.times > 0 && now.Sub(s.until) > refuseForget {
		s.times = 0
	}
}

// refused returns until when a pillar is refused; zero if it is not.
func (t *scores) refused(p peer.ID) (left time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.of[p]; s != nil {
		left = max(0, time.Until(s.until))
	}
	return left
}

// prune forgets those that have been good. t.mu is held.
func (t *scores) prune(now time.Time) {
	for p, s := range t.of {
		if s.fade(now); s.points < 1 && s.times == 0 {
			delete(t.of, p)
		}
	}
	for p, s := range t.of {
		if len(t.of) < maxScores {
			return
		}
		if now.After(s.until) {
			delete(t.of, p)
		}
	}
}
