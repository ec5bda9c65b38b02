package overlay

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// Rules of comparing summaries.
const (
	// divergedAfter is how many comparisons in a row must fail before it is a
	// divergence: what was on its way when a summary was made makes one or two of
	// them unequal, whatever it is.
	divergedAfter = 3
	// summariesKept is how many summaries of a pillar are kept to be compared: a
	// divergence needs three, and the newest may be of an instant that the others
	// have not told yet.
	summariesKept = divergedAfter + 1
	// forgetSummaries is how long the summaries of a pillar that makes none are
	// kept, in ms.
	forgetSummaries = DayMillis
	summaryMin      = 10 * time.Second
	summaryPillar   = 100 * time.Millisecond
)

// SummaryInterval is the time between two summaries of a pillar in a network of
// n pillars: max(10 s, n × 100 ms), in whole 10 s.
func SummaryInterval(n int) time.Duration {
	d := max(summaryMin, time.Duration(n)*summaryPillar)
	return (d + summaryMin - 1) / summaryMin * summaryMin
}

// Agreement says whether a pillar's summaries equal those of the others.
type Agreement string

// Agreements.
const (
	AgreeEqual    Agreement = "equal"
	AgreeTraffic  Agreement = "traffic"  // unequal, but not yet three times in a row
	AgreeDiverged Agreement = "diverged" // unequal three times in a row or more
	// AgreeUnknown: nothing to compare with. Nobody else has told one of the same
	// instant and short key lately, or its disk is full.
	AgreeUnknown Agreement = "unknown"
)

// Statement is a pillar's newest summary and how it compares.
type Statement struct {
	Summary
	Agreement Agreement
	Compared  uint64 // W of the newest instant at which it was compared, Unix ms; 0: none
	Unequal   int    // comparisons that failed in a row, up to the newest; as far as they are kept
	Since     uint64 // W of the first of them, Unix ms; 0: none
}

// instant is what two summaries must have in common to be compared.
type instant struct {
	settled, front uint64
	key            Hash
}

// holding is what is compared.
type holding struct {
	count  uint64
	digest Sum
}

func (s *Summary) instant() instant { return instant{s.Settled, s.Front, s.Key} }
func (s *Summary) holding() holding { return holding{s.Count, s.Digest} }

// CompareSummaries compares verified summaries, several of each pillar, at equal
// instants: those that count, and are of disks that are not full. At an instant a pillar agrees if it holds what most of the pillars hold that
// told theirs; if two sets are held by equally many, nobody can say which one is
// right, and nobody agrees. The statements come ascending by pillar.
func CompareSummaries(list []Summary, counts func(*Summary) bool) []Statement {
	told := map[instant]map[holding]int{}
	of := map[identity.PillarID][]*Summary{}
	for i := range list {
		s := &list[i]
		of[s.Pillar] = append(of[s.Pillar], s)
		if s.Full || !counts(s) {
			continue
		}
		if told[s.instant()] == nil {
			told[s.instant()] = map[holding]int{}
		}
		told[s.instant()][s.holding()]++
	}
	statements := make([]Statement, 0, len(of))
	for _, own := range of {
		slices.SortFunc(own, func(a, b *Summary) int {
			return cmp.Or(cmp.Compare(b.Settled, a.Settled), cmp.Compare(b.At, a.At))
		})
		statements = append(statements, state(own, told, counts))
	}
	slices.SortFunc(statements, func(a, b Statement) int { return cmp.Compare(a.Pillar, b.Pillar) })
	return statements
}

// state compares one pillar's summaries, newest first, with what was told.
func state(own []*Summary, told map[instant]map[holding]int, counts func(*Summary) bool) Statement {
	st := Statement{Summary: *own[0], Agreement: AgreeUnknown}
	if own[0].Full {
		return st
	}
	for _, s := range own {
		held := told[s.instant()]
		pillars, most := 0, 0
		for _, n := range held {
			pillars += n
			most = max(most, n)
		}
		if s.Full || pillars < 2 || !counts(s) {
			continue
		}
		if st.Compared == 0 {
			st.Compared = s.Settled
		}
		rivals := 0
		for _, n := range held {
			if n == most {
				rivals++
			}
		}
		if rivals == 1 && held[s.holding()] == most {
			break
		}
		st.Unequal, st.Since = st.Unequal+1, s.Settled
	}
	switch {
	case st.Compared == 0:
	case st.Unequal == 0:
		st.Agreement = AgreeEqual
	case st.Unequal < divergedAfter:
		st.Agreement = AgreeTraffic
	default:
		st.Agreement = AgreeDiverged
	}
	return st
}

// Convergence keeps the newest summaries of every pillar and compares them. The
// zero value is ready. Safe for concurrent use.
type Convergence struct {
	mu    sync.Mutex
	kept  map[identity.PillarID][]Summary // guarded by mu; newest first, at most summariesKept, one an instant
	since map[identity.PillarID]uint64    // guarded by mu; W of the first comparison that failed
	alive map[identity.PillarID]uint64    // guarded by mu; since when a pillar was alive at every look, Unix ms
}

// Add takes summaries, which the caller has verified and whose pillars are
// admitted, in any order and as often as they come. now is in Unix ms.
func (c *Convergence) Add(now uint64, list []Summary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept, c.since = map[identity.PillarID][]Summary{}, map[identity.PillarID]uint64{}
	}
	for i := range list {
		c.add(&list[i])
	}
	for p, own := range c.kept {
		if own[0].At+forgetSummaries < now {
			delete(c.kept, p)
			delete(c.since, p)
		}
	}
}

// add takes one summary. One that speaks of a time after it was made is none, or
// its pillar could keep itself from being compared with it. c.mu is held.
func (c *Convergence) add(s *Summary) {
	if s.Settled > s.At {
		return
	}
	own := c.kept[s.Pillar]
	at := slices.IndexFunc(own, func(o Summary) bool { return o.Settled <= s.Settled })
	switch {
	case at < 0:
		at = len(own)
	case own[at].Settled == s.Settled:
		if own[at].At < s.At {
			own[at] = *s
		}
		return
	}
	if own == nil && len(c.kept) >= maxSummaries {
		return
	}
	own = slices.Insert(own, at, *s)
	c.kept[s.Pillar] = own[:min(len(own), summariesKept)]
}

// Look notes which pillars are alive now (Unix ms), for Converged.
func (c *Convergence) Look(now uint64, pillars []PillarStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	alive := map[identity.PillarID]uint64{}
	for i := range pillars {
		if p := &pillars[i]; p.State == PillarAlive {
			alive[p.ID] = now
			if since, ok := c.alive[p.ID]; ok {
				alive[p.ID] = since
			}
		}
	}
	c.alive = alive
}

// List returns what is kept, the newest of every pillar first, at most limit.
func (c *Convergence) List(limit int) []Summary {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Summary
	for i := range summariesKept {
		start := len(list)
		for _, own := range c.kept {
			if i < len(own) && len(list) < limit {
				list = append(list, own[i])
			}
		}
		slices.SortFunc(list[start:], func(a, b Summary) int { return bytes.Compare([]byte(a.Pillar), []byte(b.Pillar)) })
	}
	return list
}

// Statements compares what was told lately, within three intervals of a network
// of n pillars, as of now (Unix ms). Those of pillars that do not take part are
// listed and not compared.
func (c *Convergence) Statements(now uint64, n int, takesPart func(identity.PillarID) bool) []Statement {
	list := c.List(summariesKept * maxSummaries)
	window := uint64((3*SummaryInterval(n) + summaryMin) / time.Millisecond)
	since := now - min(now, window)
	statements := CompareSummaries(list, func(s *Summary) bool { return s.Settled >= since && takesPart(s.Pillar) })
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range statements {
		st := &statements[i]
		switch since, ok := c.since[st.Pillar]; {
		case st.Agreement == AgreeUnknown: // says nothing
		case st.Unequal == 0:
			delete(c.since, st.Pillar)
		case ok && since < st.Since:
			st.Since = since
		default:
			c.since[st.Pillar] = st.Since
		}
	}
	return statements
}

// Alive reports whether a pillar was alive at the last Look.
func (c *Convergence) Alive(p identity.PillarID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.alive[p]
	return ok
}

// Converged reports whether self and all pillars that are alive and not full
// hold the same: their summaries are equal at the newest instant of the time
// they were alive, or, before there is such an instant, no log entry is missing
// on either side. It needs Look, and the statements of now.
func (c *Convergence) Converged(self identity.PillarID, statements []Statement, pillars []PillarStatus) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := make(map[identity.PillarID]*Statement, len(statements))
	for i := range statements {
		by[statements[i].Pillar] = &statements[i]
	}
	if own := by[self]; own != nil && own.Unequal > 0 {
		return false
	}
	for i := range pillars {
		p := &pillars[i]
		if p.State != PillarAlive {
			continue
		}
		st := by[p.ID]
		since, known := c.alive[p.ID]
		compared := st != nil && st.Agreement != AgreeUnknown && known && st.Compared >= since
		switch {
		case compared:
			if st.Unequal > 0 {
				return false
			}
		case !p.Connected || p.MissingHere > 0 || p.MissingThere > 0:
			return false
		}
	}
	return true
}
