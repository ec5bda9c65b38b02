package gossip

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of what operators ask.
const (
	traceWait     = 2 * time.Second // for all pillars to say where a record is
	compareTime   = 3 * time.Minute // for a comparison that another pillar makes
	compareBurst  = 10              // comparisons that one pillar asks for at once,
	compareRate   = 1               // and a second in the long run
	compareLater  = time.Second     // when to come again
	comparesAsked = 2               // of other pillars' made here at once
	repairRounds  = 8               // rounds of one repair

	// DiffPage is how many differences one answer lists at most.
	DiffPage = 1000
)

// faultCompare: comparisons asked for too often.
const faultCompare = "compare"

// trace says where records are here, and what only replication knows of why
// they are not.
func (m *Mesh) trace(sought []overlay.Sought) ([]overlay.Trace, error) {
	traces, err := m.cfg.Records.Trace(sought)
	if err != nil {
		return nil, err
	}
	for i := range traces {
		t := &traces[i]
		if dot := sought[i].Dot; !t.Has && dot != (overlay.Dot{}) && m.logs.isDead(dot.Log) &&
			(t.Why == overlay.AbsentNever || t.Why == overlay.AbsentComing || t.Why == overlay.AbsentDeleted) {
			t.Why, t.Detail = overlay.AbsentDeadLog, fmt.Sprintf("its pillar signed two histories of log %s", dot.Log)
		}
	}
	return traces, nil
}

// traceAt asks the pillar of s, a message at a time. r, if there is one, counts
// the bytes.
func (m *Mesh) traceAt(ctx context.Context, s *session, sought []overlay.Sought, r *round) (traces []overlay.Trace, err error) {
	for len(sought) > 0 {
		some := sought[:min(len(sought), overlay.MaxStubs)]
		var question overlay.Message
		reply, err := s.ask(ctx, func(n uint64) overlay.Message {
			question = &overlay.TraceMsg{N: n, Sought: some}
			return question
		})
		if err != nil {
			return nil, err
		}
		msg, ok := reply.(*overlay.TracedMsg)
		if !ok || len(msg.Traces) != len(some) {
			return nil, fmt.Errorf("%w: the answer to Trace", overlay.ErrFrame)
		}
		if r != nil {
			r.BytesSent += uint64(overlay.FrameLen(question))
			r.BytesReceived += uint64(overlay.FrameLen(reply))
			r.RoundTrips++
		}
		for i := range msg.Traces {
			msg.Traces[i].Pillar, msg.Traces[i].Answered = s.id, true
		}
		traces = append(traces, msg.Traces...)
		sought = sought[len(some):]
	}
	return traces, nil
}

// Trace asks this pillar and every pillar of the roster for a record, and
// returns within two seconds: this pillar's answer first, then the others' in
// the order of their IDs. Who did not answer by then says nothing.
func (m *Mesh) Trace(ctx context.Context, id overlay.RecordID) ([]overlay.Trace, error) {
	ctx, cancel := context.WithTimeout(ctx, traceWait)
	defer cancel()
	sought := overlay.Sought{ID: id, Recipients: true}
	mine, err := m.trace([]overlay.Sought{sought})
	if err != nil {
		return nil, err
	}
	traces := mine
	place := map[identity.PillarID]int{m.self: 0}
	for _, p := range m.Pillars() {
		if p.State != overlay.PillarLeft {
			place[p.ID] = len(traces)
			traces = append(traces, overlay.Trace{Pillar: p.ID, Why: overlay.AbsentUnknown})
		}
	}
	m.askAll(ctx, sought, traces, place)
	// Who has it knows a place of it; with that the others can say more of why
	// they do not.
	if known, ok := placeIn(traces); ok {
		sought = known
		sought.ID, sought.Recipients = id, true
		if !traces[0].Has {
			if mine, err = m.trace([]overlay.Sought{sought}); err != nil {
				return nil, err
			}
			traces[0] = mine[0]
		}
		m.askAll(ctx, sought, traces, place)
	}
	withoutStrangers(traces)
	return traces, nil
}

// withoutStrangers drops recipients that others name and the record has not, if
// the first pillar, which is this one, has it and knows.
func withoutStrangers(traces []overlay.Trace) {
	mine := traces[0].Recipients
	if !traces[0].Has || len(mine) == 0 {
		return
	}
	for i := range traces[1:] {
		t := &traces[1+i]
		t.Recipients = slices.DeleteFunc(t.Recipients, func(r overlay.RecipientTrace) bool {
			return !slices.ContainsFunc(mine, func(x overlay.RecipientTrace) bool { return x.Account == r.Account })
		})
	}
}

// placeIn finds a place of the record in what some pillar said, if others lack
// it.
func placeIn(traces []overlay.Trace) (known overlay.Sought, ok bool) {
	lacking := false
	for i := range traces {
		t := &traces[i]
		lacking = lacking || t.Answered && !t.Has
		if t.Has && len(t.Dots) > 0 && !ok {
			known, ok = overlay.Sought{Expires: t.Expires, Dot: t.Dots[0]}, true
		}
	}
	return known, ok && lacking
}

// askAll asks the pillars that have not said that they have the record, all at
// once, and fills in what they say before ctx ends.
func (m *Mesh) askAll(ctx context.Context, sought overlay.Sought, traces []overlay.Trace, place map[identity.PillarID]int) {
	var work sync.WaitGroup
	for _, s := range m.sessions.all() {
		i, ok := place[s.id]
		if !ok || traces[i].Has {
			continue
		}
		work.Go(func() {
			if got, err := m.traceAt(ctx, s, []overlay.Sought{sought}, nil); err == nil {
				traces[i] = got[0] // nobody else writes to i
			}
		})
	}
	work.Wait()
}

// Diff lists what two pillars hold differently, without moving a record: this
// one and with, or of and with, which must both be in reach of each other. after
// is the last ID of the page before, zero for the first.
func (m *Mesh) Diff(ctx context.Context, of, with identity.PillarID, after overlay.RecordID) (overlay.Diff, error) {
	if of == with {
		return overlay.Diff{}, overlay.Refuse(overlay.CodeBadRequest, "a pillar does not differ from itself")
	}
	if of == m.self || of == "" {
		s, err := m.sessionWith(with)
		if err != nil {
			return overlay.Diff{}, err
		}
		return m.diff(ctx, s, after, DiffPage)
	}
	if with == m.self {
		d, err := m.Diff(ctx, with, of, after)
		d.Here, d.There, d.OnlyHere, d.OnlyThere = d.There, d.Here, d.OnlyThere, d.OnlyHere
		return d, err
	}
	msg, err := m.askCompare(ctx, of, &overlay.Compare{With: []byte(with), After: after})
	if err != nil {
		return overlay.Diff{}, err
	}
	msg.Diff.Here, msg.Diff.There = of, with
	return msg.Diff, nil
}

// Repair does rounds of the audit between two pillars, this one and with or of
// and with, until they find nothing more to repair. What is still on its way is
// left to the logs.
func (m *Mesh) Repair(ctx context.Context, of, with identity.PillarID) (overlay.Repaired, error) {
	if of == with {
		return overlay.Repaired{}, overlay.Refuse(overlay.CodeBadRequest, "a pillar does not differ from itself")
	}
	if with == m.self {
		of, with = with, of
	}
	if of == m.self || of == "" {
		s, err := m.sessionWith(with)
		if err != nil {
			return overlay.Repaired{}, err
		}
		return m.repair(ctx, s)
	}
	begun := time.Now()
	msg, err := m.askCompare(ctx, of, &overlay.Compare{With: []byte(with), Repair: true})
	if err != nil {
		return overlay.Repaired{}, err
	}
	return overlay.Repaired{Fetched: int(msg.Fetched), Sent: int(msg.Sent), Bytes: msg.Diff.Bytes, Took: time.Since(begun)}, nil
}

func (m *Mesh) repair(ctx context.Context, s *session) (overlay.Repaired, error) {
	begun := time.Now()
	var done overlay.Repaired
	for range repairRounds {
		r, err := m.audit.round(ctx, s)
		done.Fetched += r.Fetched
		done.Sent += r.Sent
		done.Bytes += r.BytesSent + r.BytesReceived + r.RecordBytes
		done.Took = time.Since(begun)
		if err != nil {
			return done, overlay.Refuse(overlay.CodeUnreachable, "the round with %s failed: %v", s.id, err)
		}
		if r.Result == overlay.RoundEqual || r.Fetched+r.Sent == 0 {
			break
		}
	}
	return done, nil
}

func (m *Mesh) sessionWith(p identity.PillarID) (*session, error) {
	if s := m.sessions.get(peer.ID(p)); s != nil {
		return s, nil
	}
	if !m.knows(p) {
		return nil, overlay.Refuse(overlay.CodeNotFound, "no pillar %s is known", p)
	}
	return nil, overlay.Refuse(overlay.CodeUnreachable, "pillar %s is not connected", p)
}

// askCompare has another pillar do it.
func (m *Mesh) askCompare(ctx context.Context, of identity.PillarID, q *overlay.Compare) (*overlay.Compared, error) {
	s, err := m.sessionWith(of)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	reply, err := s.askPatiently(ctx, func(n uint64) overlay.Message {
		q.N = n
		return q
	})
	if err != nil {
		return nil, overlay.Refuse(overlay.CodeUnreachable, "pillar %s did not answer: %v", of, err)
	}
	msg, ok := reply.(*overlay.Compared)
	if !ok {
		return nil, fmt.Errorf("%w: the answer to Compare", overlay.ErrFrame)
	}
	if msg.Err != nil {
		return nil, msg.Err
	}
	return msg, nil
}

// compares are the comparisons that other pillars ask for.
type compares struct {
	m     *Mesh
	slots chan struct{} // a value for each that is made now

	mu     sync.Mutex
	tokens map[peer.ID]*overlay.Tokens // guarded by mu
}

func newCompares(m *Mesh) *compares {
	return &compares{m: m, slots: make(chan struct{}, comparesAsked), tokens: map[peer.ID]*overlay.Tokens{}}
}

// allow takes a comparison off what p may ask for.
func (c *compares) allow(p peer.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tokens[p]
	if t == nil {
		if len(c.tokens) >= maxScores {
			clear(c.tokens)
		}
		t = new(overlay.Tokens)
		c.tokens[p] = t
	}
	return t.Take(time.Now(), compareBurst, compareRate) == 0
}

// serve answers a Compare in a goroutine of its own. It never blocks.
func (c *compares) serve(s *session, q *overlay.Compare) {
	refuse := func(e *overlay.Error) { s.post(&overlay.Compared{N: q.N, Err: e}) }
	if !c.allow(s.peer) {
		c.m.scores.offend(s.peer, faultCompare)
		refuse(&overlay.Error{Code: overlay.CodeBusy, Text: "too many comparisons are asked for", Retry: compareLater})
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		refuse(&overlay.Error{Code: overlay.CodeBusy, Text: "comparisons are made for others", Retry: compareLater})
		return
	}
	ok := c.m.spawn(func(ctx context.Context) {
		defer func() { <-c.slots }()
		reply := c.make(ctx, q)
		select {
		case s.out <- reply:
		case <-s.done:
		case <-ctx.Done():
		}
	})
	if !ok {
		<-c.slots
	}
}

// make compares, or repairs.
func (c *compares) make(ctx context.Context, q *overlay.Compare) *overlay.Compared {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	reply := &overlay.Compared{N: q.N}
	with := identity.PillarID(q.With)
	var err error
	if q.Repair {
		var done overlay.Repaired
		done, err = c.m.Repair(ctx, c.m.self, with)
		reply.Fetched, reply.Sent, reply.Diff.Bytes = uint64(done.Fetched), uint64(done.Sent), done.Bytes
	} else {
		reply.Diff, err = c.m.Diff(ctx, c.m.self, with, q.After)
	}
	if err != nil {
		reply.Err = &overlay.Error{Code: overlay.CodeOf(err), Text: err.Error()}
	}
	return reply
}
