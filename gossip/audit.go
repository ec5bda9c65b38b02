package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of audit rounds.
const (
	roundTimeout = 2 * time.Minute  // for a whole round
	deepEvery    = 45 * time.Second // least time between deep rounds that are begun with one pillar
	deepAllowed  = 30 * time.Second // and that one pillar may begin here
	wholeEvery   = 5 * time.Minute  // the same for those over whole IDs, which read the disk
	wholeAllowed = 4 * time.Minute
	roundsBurst  = 10 // rounds a pillar may begin here at once,
	roundsRate   = 1  // and so many a second in the long run
	maxHosted    = 16 // rounds whose sketch is kept for the other side
	owedRounds   = 5  // rounds in a row in which a pillar does not give what it claims
)

// Offences of the audit.
const (
	faultRound       = "round"       // an answer that does not belong to the question, a question to no round
	faultCells       = "cells"       // cells of no two sets, or without end
	faultGarbage     = "garbage"     // a record that was not asked for, or is none
	faultUndelivered = "undelivered" // records claimed and not given
	faultRounds      = "rounds"      // rounds too often
	faultDeep        = "deep"        // deep rounds too often
)

var (
	// errUnsaid: an answer that is not one to the question.
	errUnsaid = errors.New("the answer does not belong to the question")
	// errNoRounds: the other side does no rounds now.
	errNoRounds = errors.New("the other side does no rounds now")
)

// audit compares what is held with the other pillars, one after the other, and
// repairs what differs: the net beneath the logs.
//
// A round is a dialogue over the session: its questions are in audit.go and
// repair.go, the answers in audit_answer.go, and audit_deep.go has both for what
// the kept sketch cannot tell.
type audit struct {
	m      *Mesh
	hosted chan struct{} // a value for each sketch kept for another side
	begun  chan struct{} // capacity 1: the deep round that was begun here
	joined chan struct{} // capacity 1: the deep round of another pillar

	mu     sync.Mutex
	paused bool                    // guarded by mu
	peers  map[peer.ID]*auditTrack // guarded by mu
}

// auditTrack is what is known of the rounds with one pillar, beyond sessions.
// Its fields are guarded by audit.mu.
type auditTrack struct {
	last   *overlay.Round
	totals overlay.RoundTotals
	owed   int           // rounds in a row with claims that were not met
	doubt  *overlay.Spot // a sample that differed and is looked at again

	deepBegun, deepHosted   time.Time
	wholeBegun, wholeHosted time.Time
	puzzled                 bool           // a deep round found nothing where sums differ
	rounds                  overlay.Tokens // of those it may begin
}

func newAudit(m *Mesh) *audit {
	return &audit{m: m, hosted: make(chan struct{}, maxHosted), begun: make(chan struct{}, 1), joined: make(chan struct{}, 1),
		peers: map[peer.ID]*auditTrack{}}
}

// track returns what is known of p. a.mu is held.
func (a *audit) track(p peer.ID) *auditTrack {
	t := a.peers[p]
	if t == nil {
		t = new(auditTrack)
		a.peers[p] = t
	}
	return t
}

// run begins a round with a random pillar every AuditEvery until ctx ends.
func (a *audit) run(ctx context.Context) {
	for {
		every := a.m.cfg.AuditEvery
		pause := time.NewTimer(every*4/5 + rand.N(every*2/5+1))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		all := a.m.sessions.all()
		if len(all) == 0 || a.isPaused() || !a.m.confirmed() {
			continue
		}
		r, err := a.round(ctx, all[rand.IntN(len(all))])
		if err != nil && ctx.Err() == nil {
			a.m.log.Debug("audit round failed", "pillar", r.Pillar, "err", err)
		}
	}
}

func (a *audit) isPaused() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.paused
}

// PauseRounds stops audit rounds from being begun here, or lets them go on.
// Those that others begin are answered all the same.
func (m *Mesh) PauseRounds(on bool) {
	m.audit.mu.Lock()
	defer m.audit.mu.Unlock()
	m.audit.paused = on
}

// Round does an audit round with a connected pillar now, also while rounds are
// paused, though not while the clock is in doubt. The error says why there was
// none, or why it failed.
func (m *Mesh) Round(ctx context.Context, with identity.PillarID) (overlay.Round, error) {
	s := m.sessions.get(peer.ID(with))
	if s == nil {
		return overlay.Round{Pillar: with}, overlay.Refuse(overlay.CodeUnreachable, "no session with pillar %s", with)
	}
	return m.audit.round(ctx, s)
}

// auditStatus fills in what audits know.
func (m *Mesh) auditStatus(st *overlay.SyncStatus) {
	st.Wanted = m.wants.count()
	m.audit.mu.Lock()
	defer m.audit.mu.Unlock()
	switch {
	case m.audit.paused:
		st.Paused = overlay.PausedByOperator
	case !m.confirmed():
		st.Paused = overlay.PausedByClock
	}
	for i := range st.Peers {
		if t := m.audit.peers[peer.ID(st.Peers[i].Pillar)]; t != nil {
			st.Peers[i].Totals = t.totals
			if t.last != nil {
				last := *t.last
				st.Peers[i].Last = &last
			}
		}
	}
}

// note keeps a round as the newest with its pillar. before is what was noted of
// the same round already, nil if nothing.
func (a *audit) note(p peer.ID, r, before *overlay.Round) {
	if before == nil {
		before = &overlay.Round{}
	}
	met := a.m.met
	met.roundBytes.WithLabelValues("sent").Add(float64(r.BytesSent - before.BytesSent))
	met.roundBytes.WithLabelValues("received").Add(float64(r.BytesReceived - before.BytesReceived))
	met.differences.Add(float64(r.Differences - before.Differences))
	met.repaired.WithLabelValues("fetched").Add(float64(r.Fetched - before.Fetched))
	met.repaired.WithLabelValues("sent").Add(float64(r.Sent - before.Sent))
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.track(p)
	last := *r
	t.last = &last
	switch {
	case before.Result == "":
		t.totals.Rounds++
	case before.Result == overlay.RoundEqual:
		t.totals.Equal--
	case before.Result == overlay.RoundFailed:
		t.totals.Failed--
	}
	switch r.Result {
	case overlay.RoundEqual:
		t.totals.Equal++
	case overlay.RoundFailed:
		t.totals.Failed++
	}
	t.totals.Differences += uint64(r.Differences - before.Differences)
	t.totals.Fetched += uint64(r.Fetched - before.Fetched)
	t.totals.Sent += uint64(r.Sent - before.Sent)
	t.totals.BytesSent += r.BytesSent - before.BytesSent
	t.totals.BytesReceived += r.BytesReceived - before.BytesReceived
}

// round does a round with s.
func (a *audit) round(ctx context.Context, s *session) (overlay.Round, error) {
	r := &round{m: a.m, s: s}
	if err := r.do(ctx); r.n == 0 {
		return r.Round, err // it was not begun
	}
	err := r.failed
	a.note(s.peer, &r.Round, nil)
	a.m.met.rounds.WithLabelValues(string(r.Result)).Inc()
	a.settle(s.peer, r)
	return r.Round, err
}

// do waits for the turn and does the round. n is 0 if it was not begun.
func (r *round) do(ctx context.Context) error {
	if !r.m.confirmed() {
		r.Pillar = r.s.id
		return overlay.Refuse(overlay.CodeClockWrong, "no audit while the clock is in doubt")
	}
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	r.Pillar, r.At = r.s.id, r.m.cfg.Now()
	select {
	case r.s.audit.turn <- struct{}{}:
		defer func() { <-r.s.audit.turn }()
	case <-r.s.done:
		return errSessionLost
	case <-ctx.Done():
		return ctx.Err()
	}
	r.n, r.begun = r.s.nextNumber(), time.Now()
	err := r.run(ctx)
	r.Took = time.Since(r.begun)
	switch {
	case errors.Is(err, errNoRounds):
		r.Result, err = overlay.RoundNotNow, nil
	case err != nil:
		r.Result, r.Err = overlay.RoundFailed, err.Error()
	}
	r.failed = err
	return err
}

// settle judges whether the pillar gives what it claims to have.
func (a *audit) settle(p peer.ID, r *round) {
	a.mu.Lock()
	t := a.track(p)
	switch {
	case r.Result == overlay.RoundEqual, r.Fetched > 0:
		t.owed = 0
	case r.owed > 0:
		t.owed++
	}
	offends := t.owed >= owedRounds
	if offends {
		t.owed = 0
	}
	a.mu.Unlock()
	if offends || r.silent > 0 {
		a.m.scores.offend(p, faultUndelivered)
	}
}

// round is a round that is begun here.
type round struct {
	overlay.Round
	m *Mesh
	s *session
	n uint64

	dry            *dryRound // nothing is moved, what differs is listed; nil for a round that repairs
	failed         error
	begun          time.Time
	key            overlay.ShortKey
	under          overlay.ShortKey // in place of key, what records are named under in a deep round
	settled, front uint64
	sent           overlay.Tally // what our Root said
	count          uint64        // how many records the other side has
	guess          int           // how many differences there may be
	deep           *deepSet      // once the round is deep: what our side has in the parts that differ
	skipPush       bool          // logs bring the other side what it lacks
	skipFetch      bool          // or us
	young          int           // records too fresh to be repaired, or that logs bring
	owed           int           // records that the other side named, and did not give
	silent         int           // and of which it did not say so
}

// ask sends a question and waits for its answer.
func (r *round) ask(ctx context.Context, msg overlay.Message) (overlay.Message, error) {
	r.BytesSent += uint64(overlay.FrameLen(msg))
	r.RoundTrips++
	a, err := r.s.audit.ask(ctx, r.n, msg)
	if err != nil {
		return nil, err
	}
	r.BytesReceived += uint64(a.size)
	if root, ok := a.msg.(*overlay.Root); ok && root.NoRounds() {
		return nil, errNoRounds
	}
	return a.msg, nil
}

// fault ends the round through the other side's fault.
func (r *round) fault(reason, what string) error {
	r.m.scores.offend(r.s.peer, reason)
	return fmt.Errorf("%w: %s", errUnsaid, what)
}

func (r *round) run(ctx context.Context) error {
	st := r.m.holdings.state()
	r.key, r.settled, r.front, r.sent = st.key, st.settled, st.front, st.tally
	doubt := r.m.audit.doubt(r.s.peer)
	spot, err := r.m.takeSpot(&st, doubt)
	if err != nil {
		return err
	}
	reply, err := r.ask(ctx, &overlay.Root{N: r.n, Settled: st.settled, Front: st.front, Tally: st.tally, Key: keyName(st.key), Spot: spot})
	if err != nil {
		return err
	}
	switch msg := reply.(type) {
	case *overlay.Cells:
		return r.reconcile(ctx, msg)
	case *overlay.Root:
		return r.compare(ctx, msg, spot, doubt != nil)
	default:
		return r.fault(faultRound, "neither Root nor Cells")
	}
}

// keyName is how a short key is named in a Root.
func keyName(key overlay.ShortKey) [8]byte {
	name := key.Name()
	return [8]byte(name[:])
}

// compare takes a Root as the answer to ours.
func (r *round) compare(ctx context.Context, msg *overlay.Root, spot *overlay.Spot, doubted bool) error {
	if msg.Key != keyName(r.key) {
		r.Result = overlay.RoundOtherKey
		return nil
	}
	moved := msg.Settled != r.settled || msg.Front != r.front
	if msg.Settled > r.settled || msg.Front < r.front {
		return r.fault(faultRound, "a Root of other instants than both sides'")
	}
	r.settled, r.front, r.count = msg.Settled, msg.Front, msg.Tally.Count
	tally, ok := r.m.holdings.at(r.key, r.settled, r.front)
	if !ok {
		r.Result = r.apartAs()
		return nil
	}
	if tally != msg.Tally && (moved || r.sent != msg.Tally) {
		if moved {
			r.sent = tally
		}
		return r.reconcile(ctx, nil)
	}
	r.Result = overlay.RoundEqual
	return r.compareSpots(ctx, spot, msg.Spot, moved, doubted)
}

// apartAs says why there is no common set.
func (r *round) apartAs() overlay.RoundResult {
	if r.m.holdings.key() != r.key {
		return overlay.RoundOtherKey
	}
	return overlay.RoundUnsettled
}
