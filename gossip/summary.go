package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of summaries.
const (
	summaryEvery  = 10 * time.Second       // at least, on the grid
	summaryPillar = 100 * time.Millisecond // and for each pillar
	summaryAhead  = 60_000                 // ms that a summary's time may lie ahead of ours
	summaryInbox  = 64                     // received lists waiting to be verified
	rekeyEvery    = 10 * time.Second       // least time between two changes of the short key
	countedFor    = 5 * time.Second        // how long a recount guards against counting twice
	shortKeyNote  = "gossip/shortkey"
)

// summaries keeps the tally of what is held, makes this pillar's summary on the
// grid, and has the newest verified one of everybody.
type summaries struct {
	m     *Mesh
	inbox chan []overlay.Summary
	wake  chan struct{} // capacity 1: a better short key was offered

	mu      sync.Mutex
	tally   *tally                                // guarded by mu
	offered *overlay.ShortKey                     // guarded by mu; to be adopted
	newest  map[identity.PillarID]overlay.Summary // guarded by mu
	// While a recount runs, what is committed waits in pending; records that the
	// recount saw before their commit was told are passed over until guard ends.
	recount bool              // guarded by mu
	pending []*overlay.Record // guarded by mu
	seen    counted           // guarded by mu
	guard   time.Time         // guarded by mu
}

// newSummaries counts everything held.
func newSummaries(m *Mesh) (*summaries, error) {
	s := &summaries{m: m, inbox: make(chan []overlay.Summary, summaryInbox), wake: make(chan struct{}, 1),
		newest: map[identity.PillarID]overlay.Summary{}}
	data, err := m.cfg.Notes.LoadNote(shortKeyNote)
	if err != nil {
		return nil, fmt.Errorf("gossip: load short key: %w", err)
	}
	var key overlay.ShortKey
	if len(data) == len(key) {
		key = overlay.ShortKey(data)
	} else {
		rand.Read(key[:]) // never fails since Go 1.24
	}
	s.tally, _, err = s.count(key)
	return s, err
}

// count makes a tally of everything held.
func (s *summaries) count(key overlay.ShortKey) (*tally, counted, error) {
	t := newTally(key)
	var seen counted
	now := s.m.now()
	err := s.m.cfg.Records.Each(now, func(id overlay.RecordID, created, expires uint64) bool {
		seen = append(seen, t.add(id, created, expires, now).Lo)
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("gossip: count records: %w", err)
	}
	slices.Sort(seen)
	return t, seen, nil
}

// add counts records that became durable. It does not block for long.
func (s *summaries) add(recs []*overlay.Record) {
	if len(recs) == 0 {
		return
	}
	now := s.m.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recount {
		s.pending = append(s.pending, recs...)
		return
	}
	s.addLocked(recs, now)
}

func (s *summaries) addLocked(recs []*overlay.Record, now uint64) {
	if s.seen != nil && time.Now().After(s.guard) {
		s.seen = nil
	}
	for _, r := range recs {
		if r.Kind == overlay.KindPillar || r.Kind == overlay.KindRevocation {
			continue
		}
		if s.seen != nil && s.seen.has(s.tally.key.Term(r.ID)) {
			continue
		}
		s.tally.add(r.ID, r.Created, r.Expires, now)
	}
}

// key returns the short key in use.
func (s *summaries) key() overlay.ShortKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tally.key
}

// offer takes another pillar's short key: the one with the smaller name wins.
func (s *summaries) offer(key overlay.ShortKey) {
	name := key.Name()
	s.mu.Lock()
	best := s.tally.key
	if s.offered != nil {
		best = *s.offered
	}
	won := best.Name()
	better := bytes.Compare(name[:], won[:]) < 0
	if better {
		s.offered = &key
	}
	s.mu.Unlock()
	if better {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// run makes summaries and takes others' until ctx ends.
func (s *summaries) run(ctx context.Context) {
	grid := time.NewTimer(s.untilGrid())
	defer grid.Stop()
	rekey := time.NewTimer(time.Hour)
	rekey.Stop()
	defer rekey.Stop()
	var rekeyed time.Time
	if err := s.saveKey(ctx); err != nil && ctx.Err() == nil {
		s.m.log.Warn("store short key", "err", err)
	}
	for {
		select {
		case <-grid.C:
			s.publish()
			grid.Reset(s.untilGrid())
		case <-s.wake:
			rekey.Reset(max(0, rekeyEvery-time.Since(rekeyed)))
		case <-rekey.C:
			if err := s.adopt(ctx); err != nil && ctx.Err() == nil {
				s.m.log.Warn("change short key", "err", err)
			}
			rekeyed = time.Now()
		case list := <-s.inbox:
			s.take(list)
		case <-ctx.Done():
			return
		}
	}
}

// adopt changes to the offered short key: everything is counted anew.
func (s *summaries) adopt(ctx context.Context) error {
	s.mu.Lock()
	key := s.offered
	s.offered = nil
	if key == nil {
		s.mu.Unlock()
		return nil
	}
	s.recount = true
	s.mu.Unlock()
	t, seen, err := s.count(*key)
	s.mu.Lock()
	s.recount = false
	if err == nil {
		s.tally, s.seen, s.guard = t, seen, time.Now().Add(countedFor)
	}
	s.addLocked(s.pending, s.m.now())
	s.pending = nil
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.saveKey(ctx)
}

func (s *summaries) saveKey(ctx context.Context) error {
	key := s.key()
	if old, err := s.m.cfg.Notes.LoadNote(shortKeyNote); err == nil && bytes.Equal(old, key[:]) {
		return nil
	}
	return s.m.cfg.Notes.SaveNote(ctx, shortKeyNote, key[:])
}

// interval is the time between two summaries: longer in large networks.
func (s *summaries) interval() time.Duration {
	d := max(summaryEvery, time.Duration(s.m.cfg.Roster.Living(s.m.now()))*summaryPillar)
	return (d + summaryEvery - 1) / summaryEvery * summaryEvery
}

func (s *summaries) untilGrid() time.Duration {
	every := uint64(s.interval().Milliseconds())
	return time.Duration(every-s.m.now()%every) * time.Millisecond
}

// publish makes this pillar's summary of the last grid instant and hands it to
// memberlist.
func (s *summaries) publish() {
	now := s.m.now()
	instant := now - now%sliceMillis
	vector, _ := s.m.logs.vector(now, 0)
	sum := overlay.Summary{
		Pillar: s.m.self, Head: s.m.logs.ownPosition(), Vector: vector.Hash(),
		Settled: instant - sliceMillis, Front: instant + sliceMillis, At: now,
	}
	s.mu.Lock()
	s.tally.prune(now)
	t := s.tally.set(sum.Settled, sum.Front)
	sum.Key = s.tally.key.Name()
	s.mu.Unlock()
	sum.Count, sum.Digest = t.Count, t.Sum
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
