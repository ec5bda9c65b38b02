package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Times of serving.
const (
	openTimeout   = 10 * time.Second      // for the first message of a stream
	writeTimeout  = time.Minute           // for one frame; a follower that takes longer is dropped
	sessionWait   = 5 * time.Second       // for the session that must stand behind a stream
	followerRetry = 5 * time.Second       // told to who is refused
	historyYield  = 20 * time.Millisecond // that a batch of history waits at most for what is fresh
)

// follower is a stream on which a log is served.
type follower struct {
	peer peer.ID
	log  overlay.LogID
	live bool
	wake chan struct{} // capacity 1
	// over is closed when the session ends that stands behind the stream: its
	// pillar may be admitted no more.
	over <-chan struct{}
	end  context.CancelFunc

	named int // guarded by budget.mu; how often it was named in Elsewhere

	begins atomic.Uint64 // first entry of the stream
	sent   atomic.Uint64 // highest sequence written
}

func (f *follower) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// handleFollow serves one Follow; it is the handler of ProtoFollow.
func (m *Mesh) handleFollow(s overlay.Stream) {
	ctx, leave, ok := m.enter()
	if !ok {
		s.Reset()
		return
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.Reset() })() // undone first: what ended gracefully is not reset

	s.SetReadDeadline(time.Now().Add(openTimeout))
	frames := overlay.NewFrameReader(s)
	msg, err := frames.Next()
	if err != nil {
		s.Reset()
		return
	}
	req, ok := msg.(*overlay.Follow)
	if !ok {
		m.scores.offend(s.Peer(), faultFrame)
		s.Reset()
		return
	}
	f := &follower{peer: s.Peer(), log: req.Log, live: req.To == 0, wake: make(chan struct{}, 1), end: cancel}
	answer := m.admitFollow(ctx, f, req)
	if answer != nil {
		finish(s, answer)
		return
	}
	m.met.followers.Inc()
	defer func() {
		m.followers.give(f)
		m.met.followers.Dec()
	}()
	s.SetReadDeadline(time.Time{})
	var acks sync.WaitGroup
	acks.Go(func() {
		defer cancel()
		m.readAcks(frames, f)
	})
	defer acks.Wait()
	switch err = m.serve(ctx, s, f, req); {
	case err == nil: // a range: its last acks are still to come
		s.CloseWrite()
		s.SetReadDeadline(time.Now().Add(writeTimeout))
		acks.Wait()
		s.Reset()
	case errors.Is(err, errNoHead):
		finish(s, &overlay.Busy{Err: overlay.Refuse(overlay.CodeUnreachable, "log %s: %v", req.Log, err)})
	default:
		if ctx.Err() == nil {
			m.log.Debug("follower lost", "peer", s.Peer(), "log", req.Log, "err", err)
		}
		s.Reset()
	}
}

// admitFollow returns the answer to a Follow that is not served; nil if it is,
// and then it is counted in m.followers.
func (m *Mesh) admitFollow(ctx context.Context, f *follower, req *overlay.Follow) overlay.Message {
	with := m.awaitSession(ctx, f.peer)
	if with == nil {
		return &overlay.Busy{Err: overlay.Refuse(overlay.CodeNotAdmitted, "no session with you")}
	}
	f.over = with.done
	if answer := m.checkFollow(req); answer != nil {
		return answer
	}
	if ok, elsewhere := m.followers.take(f); elsewhere != "" {
		return &overlay.Elsewhere{Peer: identity.PillarID(elsewhere)}
	} else if !ok {
		busy := overlay.Refuse(overlay.CodeBusy, "too many followers are served already, or too many streams to you")
		busy.Retry = followerRetry
		return &overlay.Busy{Err: busy}
	}
	return nil
}

// checkFollow returns why a Follow cannot be served; nil if it can.
func (m *Mesh) checkFollow(req *overlay.Follow) overlay.Message {
	refuse := func(code overlay.Code, format string, args ...any) overlay.Message {
		return &overlay.Busy{Err: overlay.Refuse(code, format, args...)}
	}
	if proof := m.forks.proof(req.Log); proof != nil {
		return proof
	}
	state, held := m.logs.state(req.Log)
	switch {
	case req.From == 0 || req.To != 0 && req.To < req.From:
		return refuse(overlay.CodeBadRequest, "entries %d to %d", req.From, req.To)
	case req.From == 1 && req.Before != (overlay.Hash{}) && req.Before != overlay.ChainStart(req.Log):
		return refuse(overlay.CodeInvalid, "log %s begins with another hash", req.Log)
	case !held && req.To == 0 && (req.From == 1 || req.From == beginning) && m.follows.following(req.Log):
		return nil // its first entries are on their way here
	case !held:
		return refuse(overlay.CodeNotFound, "log %s is not held", req.Log)
	case req.Before == (overlay.Hash{}):
		return nil
	case req.From == 1:
		return nil
	}
	hash, known := m.hashBefore(req.Log, req.From)
	switch {
	case known && hash != req.Before:
		if other := m.contradict(req.Log, req.From, hash); other != nil {
			return other
		}
		return refuse(overlay.CodeInvalid, "log %s has another hash before entry %d", req.Log, req.From)
	case !known && !state.Holds(req.From-1) && !state.Holds(req.From):
		return refuse(overlay.CodeNotFound, "entry %d of log %s is not held", req.From, req.Log)
	}
	return nil
}

// finish answers a stream and ends it gracefully.
func finish(s overlay.Stream, answer overlay.Message) {
	s.SetWriteDeadline(time.Now().Add(openTimeout))
	if _, e := s.Write(overlay.AppendFrame(nil, answer)); e != nil {
		s.Reset() // or who reads from it waits for ever
		return
	}
	s.Close()
}

// serve writes the log from req.From on until ctx ends, or to the first signed
// head at or past req.To.
func (m *Mesh) serve(ctx context.Context, s overlay.Stream, f *follower, req *overlay.Follow) error {
	defer m.logs.listen(req.Log, f)()
	next, err := m.begin(ctx, s, f, req)
	if err != nil {
		return err
	}
	f.begins.Store(next)
	f.sent.Store(next - 1)
	linked := true // the last batch ended at its head
	var led *lead  // the head sent last
	for req.To == 0 || next <= req.To || !linked {
		entries, end, held := m.logs.live(req.Log, next)
		if !held {
			if req.To != 0 {
				return nil
			}
			select {
			case <-f.wake:
				continue
			case <-f.over:
				return errSessionLost
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-f.over:
			return errSessionLost
		default:
		}
		if m.logs.isDead(req.Log) {
			return errForked
		}
		if entries == nil || !f.live {
			if entries, end, err = m.history(ctx, f, next); err != nil {
				return err
			}
		}
		if f.live {
			m.fresh.Add(1)
		}
		frame, err := m.logs.frame(req.Log, next, entries, end, end == led)
		if err == nil {
			for i := range entries {
				next += entries[i].Len()
			}
			f.sent.Store(next - 1)
			s.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err = s.Write(frame)
		}
		if f.live {
			m.fresh.Add(-1)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		linked, led = end.pos.Seq == next-1, end
		m.met.batchesSent.Inc()
		m.met.entriesSent.Add(float64(len(entries)))
	}
	return nil
}

// begin returns the first entry of a stream. If the follower knows no hash
// before it, it is told where the stream begins.
func (m *Mesh) begin(ctx context.Context, s overlay.Stream, f *follower, req *overlay.Follow) (uint64, error) {
	if req.Before != (overlay.Hash{}) {
		return req.From, nil
	}
	var at *lead
	for {
		if at = m.logs.open(req.Log, req.From); at != nil || m.logs.holdsAny(req.Log) {
			break
		}
		select { // nothing has come yet
		case <-f.wake:
		case <-f.over:
			return 0, errSessionLost
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if at == nil {
		return 0, errNoHead
	}
	head := at.get(m.signHead)
	if head == nil {
		return 0, errNoHead
	}
	s.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.Write(overlay.AppendFrame(nil, &overlay.Batch{Log: req.Log, From: head.Seq + 1, Head: head})); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return head.Seq + 1, nil
}

// history reads a run from the store, cut so that it leads to a signed head. A
// range waits a moment while what is fresh is being written, and for its turn.
func (m *Mesh) history(ctx context.Context, f *follower, from uint64) ([]overlay.BatchEntry, *lead, error) {
	if !f.live {
		for end := time.Now().Add(historyYield); m.fresh.Load() > 0 && time.Now().Before(end); {
			select {
			case <-time.After(historyYield / 10):
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		select {
		case m.reads <- struct{}{}:
			defer func() { <-m.reads }()
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	// Twice what frames usually hold: half as many heads on the wire.
	entries, err := m.cfg.Replica.Read(f.log, from, 2*overlay.FrameTarget)
	if err != nil {
		return nil, nil, fmt.Errorf("read log: %w", err)
	}
	if len(entries) == 0 {
		return nil, nil, fmt.Errorf("read log: entry %d is not there", from)
	}
	if e := &entries[0]; e.Why == overlay.WhyGone { // under the head that says so, whatever comes behind it
		end := m.logs.cover(f.log, from-1+e.Len(), m.now())
		if end == nil {
			return nil, nil, errNoHead
		}
		return entries[:1], end, nil
	}
	if i := slices.IndexFunc(entries, func(e overlay.BatchEntry) bool { return e.Why == overlay.WhyGone }); i > 0 {
		entries = entries[:i]
	}
	// Its receiver must be able to store it between fresh ones.
	n, _ := fit(entries, historyEntries, 2*overlay.FrameTarget)
	n, end := m.logs.link(f.log, from, entries[:n])
	if n == 0 {
		return nil, nil, errNoHead
	}
	return entries[:n], end, nil
}

// readAcks takes a follower's acks until its stream ends.
func (m *Mesh) readAcks(frames *overlay.FrameReader, f *follower) {
	id := identity.PillarID(f.peer)
	var last uint64
	for {
		msg, err := frames.Next()
		if err != nil {
			return
		}
		ack, ok := msg.(*overlay.Ack)
		if !ok || ack.Log != f.log || ack.Seq > f.sent.Load() {
			m.scores.offend(f.peer, faultFrame)
			return
		}
		if ack.Seq > last {
			last = ack.Seq
			m.acks.add(id, f.log, f.begins.Load(), ack.Seq)
		}
	}
}
