package gossip

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of summaries.
const (
	summaryAhead = 60_000 // ms that a summary's time may lie ahead of ours
	summaryInbox = 64     // received lists waiting to be verified
)

// summaries makes this pillar's summary on the grid, and has the newest
// verified one of everybody.
type summaries struct {
	m     *Mesh
	inbox chan []overlay.Summary

	mu     sync.Mutex
	newest map[identity.PillarID]overlay.Summary // guarded by mu
}

func newSummaries(m *Mesh) *summaries {
	return &summaries{m: m, inbox: make(chan []overlay.Summary, summaryInbox), newest: map[identity.PillarID]overlay.Summary{}}
}

// run makes summaries and takes others' until ctx ends.
func (s *summaries) run(ctx context.Context) {
	grid := time.NewTimer(s.untilGrid())
	defer grid.Stop()
	for {
		select {
		case <-grid.C:
			s.publish()
			grid.Reset(s.untilGrid())
		case list := <-s.inbox:
			s.take(list)
		case <-ctx.Done():
			return
		}
	}
}

// interval is the time between two summaries: longer in large networks.
func (s *summaries) interval() time.Duration {
	return overlay.SummaryInterval(s.m.cfg.Roster.Living(s.m.now()))
}

func (s *summaries) untilGrid() time.Duration {
	every := uint64(s.interval().Milliseconds())
	return time.Duration(every-s.m.now()%every) * time.Millisecond
}

// publish makes this pillar's summary of the last grid instant and hands it to
// memberlist.
func (s *summaries) publish() {
	now := s.m.now()
	vector, _ := s.m.logs.vector(now, 0)
	held := s.m.holdings.state()
	sum := overlay.Summary{
		Pillar: s.m.self, Head: s.m.logs.ownPosition(), Vector: vector.Hash(),
		Settled: held.settled * stepMillis, Front: held.front * stepMillis,
		Count: held.tally.Count, Digest: held.tally.Sum, Key: held.key.Name(), At: now, Full: s.m.full(),
	}
	sum.Sign(s.m.cfg.Network, s.m.cfg.Key)
	s.mu.Lock()
	s.newest[s.m.self] = sum
	s.mu.Unlock()
	s.m.member.broadcast(&sum)
}

// receive queues summaries of others; a full queue drops them, they come again.
func (s *summaries) receive(list []overlay.Summary) {
	select {
	case s.inbox <- list:
	default:
	}
}

// take verifies summaries and keeps and passes on those that are newer.
func (s *summaries) take(list []overlay.Summary) {
	now := s.m.now()
	for i := range list {
		sum := &list[i]
		s.mu.Lock()
		old, have := s.newest[sum.Pillar]
		s.mu.Unlock()
		switch {
		case sum.Pillar == s.m.self, have && old.At >= sum.At:
			continue
		case sum.At > now+summaryAhead, !s.m.cfg.Roster.Admitted(sum.Pillar, now):
			continue
		case !sum.Verify(s.m.cfg.Network):
			s.m.met.forged.WithLabelValues("summary").Inc()
			continue
		}
		s.mu.Lock()
		s.newest[sum.Pillar] = *sum
		s.mu.Unlock()
		s.m.seen.hint(sum.Head, sum.Pillar)
		s.m.member.broadcast(sum)
	}
}

// all returns the newest summaries by pillar.
func (s *summaries) all() map[identity.PillarID]overlay.Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[identity.PillarID]overlay.Summary, len(s.newest))
	for p, sum := range s.newest {
		all[p] = sum
	}
	return all
}

// Summaries implements overlay.Mesh.
func (m *Mesh) Summaries() []overlay.Summary {
	all := m.summaries.all()
	list := make([]overlay.Summary, 0, len(all))
	for _, sum := range all {
		list = append(list, sum)
	}
	slices.SortFunc(list, func(a, b overlay.Summary) int { return bytes.Compare([]byte(a.Pillar), []byte(b.Pillar)) })
	return list
}
