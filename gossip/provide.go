package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of serving.
const (
	// maxFollowers is how many live followers a pillar serves; over it a Follow
	// is answered with Busy.
	maxFollowers = 64
	// maxFollowersOf is how many of them one pillar may be, so that no single one
	// takes what is for the others.
	maxFollowersOf = maxFollowers / 2

	openTimeout   = 10 * time.Second // for the first message of a stream
	writeTimeout  = time.Minute      // for one frame; a follower that takes longer is dropped
	sessionWait   = 5 * time.Second  // for the session that must stand behind a stream
	followerRetry = 5 * time.Second  // told to who is refused
)

// follower is a stream on which a log is served.
type follower struct {
	peer peer.ID
	wake chan struct{} // capacity 1
	// over is closed when the session ends that stands behind the stream: its
	// pillar may be admitted no more.
	over <-chan struct{}

	sent atomic.Uint64 // highest sequence written
}

func (f *follower) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// budget counts the live followers.
type budget struct {
	mu  sync.Mutex
	all int             // guarded by mu
	of  map[peer.ID]int // guarded by mu; those of each pillar
}

// take counts one more of p unless that is too many.
func (b *budget) take(p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= maxFollowers || b.of[p] >= maxFollowersOf {
		return false
	}
	b.all++
	b.of[p]++
	return true
}

// give undoes take.
func (b *budget) give(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.of[p]--; b.of[p] == 0 {
		delete(b.of, p)
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
		m.met.faults.WithLabelValues(faultFrame).Inc()
		s.Reset()
		return
	}
	with := m.awaitSession(ctx, s.Peer())
	if refusal := m.admitFollow(with, req); refusal != nil {
		refuse(s, refusal)
		return
	}
	m.met.followers.Inc()
	defer func() {
		m.followers.give(s.Peer())
		m.met.followers.Dec()
	}()
	s.SetReadDeadline(time.Time{})
	f := &follower{peer: s.Peer(), wake: make(chan struct{}, 1), over: with.done}
	var acks sync.WaitGroup
	acks.Go(func() {
		defer cancel()
		m.readAcks(frames, f, req.Log)
	})
	defer acks.Wait()
	switch err = m.serve(ctx, s, f, req); {
	case err == nil: // a bounded follow: its last acks are still to come
		s.CloseWrite()
		s.SetReadDeadline(time.Now().Add(writeTimeout))
		acks.Wait()
		s.Reset()
	case errors.Is(err, errNoHead):
		refuse(s, overlay.Refuse(overlay.CodeNotFound, "log %s: %v", req.Log, err))
	default:
		if ctx.Err() == nil {
			m.log.Debug("follower lost", "peer", s.Peer(), "log", req.Log, "err", err)
		}
		s.Reset()
	}
}

// admitFollow says why a Follow of the pillar behind a session is refused; nil if
// it may be served, and then it is counted in m.followers.
func (m *Mesh) admitFollow(with *session, req *overlay.Follow) *overlay.Error {
	if with == nil {
		return overlay.Refuse(overlay.CodeNotAdmitted, "no session with you")
	}
	if refusal := m.checkFollow(req); refusal != nil {
		return refusal
	}
	if !m.followers.take(with.peer) {
		busy := overlay.Refuse(overlay.CodeBusy, "%d followers are served already, or %d of yours", maxFollowers, maxFollowersOf)
		busy.Retry = followerRetry
		return busy
	}
	return nil
}

// checkFollow says why a Follow cannot be served; nil if it can.
func (m *Mesh) checkFollow(req *overlay.Follow) *overlay.Error {
	state, ok := m.logs.state(req.Log)
	switch {
	case !ok:
		return overlay.Refuse(overlay.CodeNotFound, "log %s is not held", req.Log)
	case req.From == 0 || req.To != 0 && req.To < req.From:
		return overlay.Refuse(overlay.CodeBadRequest, "entries %d to %d", req.From, req.To)
	case req.From-1 > state.Seq:
		return overlay.Refuse(overlay.CodeNotFound, "log %s is held to %d", req.Log, state.Seq)
	case req.From == 1 && req.Before != overlay.ChainStart(req.Log),
		req.From-1 == state.Seq && req.Before != state.Hash:
		return overlay.Refuse(overlay.CodeInvalid, "log %s has another hash before entry %d", req.Log, req.From)
	}
	return nil
}

// refuse answers a stream with Busy and ends it gracefully.
func refuse(s overlay.Stream, err *overlay.Error) {
	s.SetWriteDeadline(time.Now().Add(openTimeout))
	if _, e := s.Write(overlay.AppendFrame(nil, &overlay.Busy{Err: err})); e != nil {
		s.Reset() // or who reads from it waits for ever
		return
	}
	s.Close()
}

// serve writes the log from req.From on until ctx ends, or to req.To.
func (m *Mesh) serve(ctx context.Context, s overlay.Stream, f *follower, req *overlay.Follow) error {
	defer m.logs.listen(req.Log, f)()
	for next := req.From; req.To == 0 || next <= req.To; {
		entries, end, held := m.logs.live(req.Log, next)
		if !held {
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
		if entries == nil {
			var err error
			if entries, end, err = m.history(req.Log, next); err != nil {
				return err
			}
		}
		if req.To != 0 && next+uint64(len(entries))-1 > req.To {
			entries = entries[:req.To-next+1]
		}
		frame, err := m.logs.frame(req.Log, next, entries, end)
		if err != nil {
			return err
		}
		next += uint64(len(entries))
		f.sent.Store(next - 1)
		s.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.Write(frame); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		m.met.batchesSent.Inc()
		m.met.entriesSent.Add(float64(len(entries)))
	}
	return nil
}

// history reads a run from the store, cut so that it leads to a signed head.
func (m *Mesh) history(log overlay.LogID, from uint64) ([]overlay.BatchEntry, *lead, error) {
	entries, err := m.cfg.Replica.Read(log, from, overlay.FrameTarget)
	if err != nil {
		return nil, nil, fmt.Errorf("read log: %w", err)
	}
	if len(entries) == 0 {
		return nil, nil, fmt.Errorf("read log: entry %d is not there", from)
	}
	n, _ := fit(entries, overlay.MaxBatch, 2*overlay.FrameTarget)
	n, end := m.logs.link(log, from, from+uint64(n)-1)
	if n == 0 {
		return nil, nil, errNoHead
	}
	return entries[:n], end, nil
}

// readAcks takes a follower's acks until its stream ends.
func (m *Mesh) readAcks(frames *overlay.FrameReader, f *follower, log overlay.LogID) {
	id := identity.PillarID(f.peer)
	var last uint64
	for {
		msg, err := frames.Next()
		if err != nil {
			return
		}
		ack, ok := msg.(*overlay.Ack)
		if !ok || ack.Log != log || ack.Seq > f.sent.Load() {
			m.met.faults.WithLabelValues(faultFrame).Inc()
			return
		}
		if ack.Seq > last {
			last = ack.Seq
			m.acks.set(id, log, ack.Seq)
		}
	}
}
