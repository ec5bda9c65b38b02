package overlay

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

const (
	// askSummaries is how long after an answer a pillar is asked for summaries
	// again: they change every ten seconds.
	askSummaries   = 2 * time.Second
	summariesIn    = 10 * time.Second // the longest an answer takes
	summaryAheadMS = 60_000           // that a summary's time may lie ahead of ours
)

// nodeConvergence compares what the pillars say they hold. The node believes no
// pillar's word about another: every summary is signed by its pillar, and the
// roster says who is one.
type nodeConvergence struct {
	asking sync.Mutex // held while pillars are asked: one question to each at a time
	told   Convergence
}

// Convergence asks the active and the standby pillar for the newest summaries of
// all pillars and compares them. What one of them withholds the other may tell.
// The error is CodeNoNetwork, CodeUnreachable, or ctx's.
func (n *Node) Convergence(ctx context.Context) ([]Statement, error) {
	roster := n.pillars()
	if roster == nil {
		return nil, Refuse(CodeNoNetwork, "this node belongs to no network yet")
	}
	c := &n.converges
	c.asking.Lock()
	defer c.asking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, summariesIn)
	defer cancel()
	sessions := []*nodeSession{n.sessions.activeSession(), n.sessions.standbySession()}
	errs := make([]error, len(sessions))
	asked := 0
	var work sync.WaitGroup
	for i, s := range sessions {
		if s == nil {
			continue
		}
		asked++
		work.Go(func() { errs[i] = s.askSummaries(ctx) })
	}
	work.Wait()
	var failed error
	for i, s := range sessions {
		if s != nil && errs[i] != nil {
			failed, asked = errs[i], asked-1
		}
	}
	if asked == 0 {
		if failed == nil {
			return nil, Refuse(CodeUnreachable, "no pillar is connected")
		}
		return nil, fmt.Errorf("ask for summaries: %w", failed)
	}
	now := n.now()
	return c.told.Statements(now, roster.Living(now), func(p identity.PillarID) bool { return roster.Admitted(p, now) }), nil
}

// askSummaries asks for summaries, unless that was just done, and takes the
// answer.
func (s *nodeSession) askSummaries(ctx context.Context) error {
	if last := s.summariesAt; !last.IsZero() && time.Since(last) < askSummaries {
		return nil
	}
	select { // what came when nobody waited any more
	case <-s.summaries:
	default:
	}
	if !s.send(&SummaryMsg{}) {
		return s.err
	}
	select {
	case list := <-s.summaries:
		s.summariesAt = time.Now()
		s.n.takeSummaries(list)
		return nil
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeSummaries verifies what a pillar told. At most summariesKept of each
// admitted pillar are looked at, whatever it sends.
func (n *Node) takeSummaries(list []Summary) {
	roster, network, now := n.pillars(), n.network(), n.now()
	seen := map[identity.PillarID]int{}
	good := make([]Summary, 0, len(list))
	for i := range list {
		s := &list[i]
		if seen[s.Pillar]++; seen[s.Pillar] > summariesKept || s.At > now+summaryAheadMS || !roster.Admitted(s.Pillar, now) {
			continue
		}
		if n.converges.told.has(s) {
			continue
		}
		if !s.Verify(network) {
			n.metrics.dropped.WithLabelValues("invalid").Inc()
			continue
		}
		good = append(good, *s)
	}
	n.converges.told.Add(now, good)
}

// has reports whether exactly this summary is kept already.
func (c *Convergence) has(s *Summary) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.kept[s.Pillar] {
		if k := &c.kept[s.Pillar][i]; bytes.Equal(k.Sig, s.Sig) && bytes.Equal(k.appendSigned(nil), s.appendSigned(nil)) {
			return true
		}
	}
	return false
}
