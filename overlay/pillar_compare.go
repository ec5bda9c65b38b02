package overlay

import (
	"sync/atomic"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// compareSeconds is how often a pillar looks at what the others told.
const compareSeconds = 2

// catchUp is whether a pillar has got what the others had when it started.
type catchUp struct {
	began  uint64       // when it started, Unix ms
	waits  atomic.Bool  // not yet
	equals atomic.Int32 // looks in a row at which nothing was missing
}

// catchUpLooks is at how many looks in a row nothing may be missing: what a
// pillar has is told a moment after it is met.
const catchUpLooks = 2

// begin is told what time it is (Unix ms) and whether others are known at all.
func (c *catchUp) begin(now uint64, others bool) {
	c.began = now
	c.waits.Store(others)
}

// compared takes the own statement. Who holds what most of the others hold has
// caught up, whatever somebody tells of logs that is not to be had, or not taken.
func (c *catchUp) compared(st *Statement) {
	if st.Agreement == AgreeEqual && st.Compared >= c.began {
		c.waits.Store(false)
	}
}

// look takes what is known of the others.
func (c *catchUp) look(pillars []PillarStatus) {
	if !c.waits.Load() {
		return
	}
	connected, missing := 0, uint64(0)
	for i := range pillars {
		if pillars[i].Connected {
			connected++
			missing += pillars[i].MissingHere
		}
	}
	if connected == 0 || missing > 0 {
		c.equals.Store(0)
		return
	}
	if c.equals.Add(1) >= catchUpLooks {
		c.waits.Store(false)
	}
}

// othersKnown reports whether the roster has another pillar in force.
func (p *Pillar) othersKnown() bool {
	now := p.now()
	for _, e := range p.roster.Entries() {
		if e.Pillar != p.id && p.roster.Admitted(e.Pillar, now) {
			return true
		}
	}
	return false
}

// compare looks at what the others told.
func (p *Pillar) compare() {
	pillars := p.mesh.Pillars()
	now := p.now()
	p.convergence.Add(now, p.mesh.Summaries())
	p.convergence.Look(now, pillars)
	p.caughtUp.look(pillars)
	statements := p.Statements()
	diverged := 0
	for i := range statements {
		if statements[i].Agreement == AgreeDiverged {
			diverged++
		}
		if statements[i].Pillar == p.id {
			p.caughtUp.compared(&statements[i])
		}
	}
	if before := p.diverging.Swap(int64(diverged)); before == 0 && diverged > 0 {
		p.log.Error("pillars diverge: their summaries are unequal three times in a row", "pillars", diverged)
	} else if before > 0 && diverged == 0 {
		p.log.Info("pillars do not diverge any more")
	}
	p.metrics.diverged.Set(float64(diverged))
}

// Converged reports whether this pillar and those of pillars, the Mesh's, that
// are alive and not full hold the same, see Convergence.
func (p *Pillar) Converged(pillars []PillarStatus) bool {
	return p.convergence.Converged(p.id, p.Statements(), pillars)
}

// Statements returns the newest summary of every pillar and how it compares.
func (p *Pillar) Statements() []Statement {
	now := p.now()
	return p.convergence.Statements(now, p.roster.Living(now), func(id identity.PillarID) bool {
		return id == p.id || p.convergence.Alive(id)
	})
}

// tellEvery is how often a node is told summaries; what it asks meanwhile is
// not answered.
const tellEvery = time.Second

// tellSummaries answers a Summary without any, which asks for them.
func (s *pillarSession) tellSummaries(m *SummaryMsg) *Error {
	if len(m.Summaries) > 0 {
		return Refuse(CodeInvalid, "a node makes no summaries")
	}
	if now := time.Now(); now.Sub(s.summarised) >= tellEvery {
		s.summarised = now
		s.send(&SummaryMsg{Summaries: s.p.Summaries()})
	} else {
		s.p.metrics.unanswered.Inc()
	}
	return nil
}

// Summaries returns what others may compare: the newest summaries of every
// pillar, several of each, newest first.
func (p *Pillar) Summaries() []Summary { return p.convergence.List(maxSummaries) }
