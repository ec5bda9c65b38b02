package overlay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// sessionQueue is how many messages to a pillar wait at most; then whoever
// sends waits.
const sessionQueue = 16

// errAgain makes open start over on a new stream: the network was pinned, or
// the account turned out to be unknown.
var errAgain = errors.New("again")

// open connects to p and returns a registered session whose goroutines run.
//
//  1. Hello both ways: p is a pillar of our network, admitted, not revoked; an
//     unpinned node takes the network from it, pins it and says Hello anew.
//  2. Register: our records are durable there, its roster is ours.
//  3. Find ourselves: nobody else writes under our device's name.
//
// The more attempts failed before, the longer it waits once the pillar has said
// Hello: where thousands come back to one, everyone who gives up costs what was
// done for him.
func (m *nodeSessions) open(ctx context.Context, p identity.PillarID, addrs []multiaddr.Multiaddr, fails int, work *sync.WaitGroup) (*nodeSession, error) {
	cctx, connected := context.WithTimeout(ctx, openTimeout)
	err := m.n.cfg.Links.Connect(cctx, peerOf(p), addrs)
	connected()
	if err != nil {
		return nil, err
	}
	octx, cancel := context.WithTimeout(ctx, openTimeout<<min(fails, 2))
	defer cancel()
	first := true
	for range 4 {
		s, err := m.handshake(octx, p, &first)
		if errors.Is(err, errAgain) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("session with %s: %w", p, err)
		}
		s.lastFrame.Store(time.Now().UnixNano())
		work.Go(s.write)
		work.Go(s.read)
		if err := m.findSelf(octx, s); err != nil {
			s.end(err)
			return nil, fmt.Errorf("session with %s: %w", p, err)
		}
		return s, nil
	}
	return nil, fmt.Errorf("session with %s: %w", p, errNoAnswer)
}

// handshake does steps 1 and 2. first says that the account may have a record
// which this device never saw; it is cleared when that is settled.
func (m *nodeSessions) handshake(ctx context.Context, p identity.PillarID, first *bool) (_ *nodeSession, err error) {
	n := m.n
	stream, err := n.cfg.Links.Open(ctx, peerOf(p), ProtoNode)
	if err != nil {
		return nil, err
	}
	var mute atomic.Bool
	late := func() { mute.Store(true); _ = stream.Reset() }
	stop := context.AfterFunc(ctx, late)
	silent := time.AfterFunc(openTimeout, late)
	defer silent.Stop()
	defer func() {
		stop()
		if err != nil {
			_ = stream.Reset()
		}
		if err != nil && mute.Load() && !errors.Is(err, errAgain) { // what a reset looks like says nothing
			err = fmt.Errorf("%w: %w", errNoAnswer, err)
		}
	}()

	want := n.network()
	hello := &Hello{Role: RoleNode, Formats: Format, Network: want, Time: n.now(), Account: n.account()}
	if !want.IsZero() {
		hello.Credential = n.self.certificate()
	}
	asked := time.Now()
	if err := writeFrame(stream, hello); err != nil {
		return nil, err
	}
	frames := NewFrameReader(stream)
	answer, err := nextOf[*Hello](frames)
	if err != nil {
		return nil, err
	}
	silent.Stop()
	now := n.now()
	rtt := time.Since(asked)
	skew := time.Duration(int64(answer.Time)-int64(now))*time.Millisecond + rtt/2
	rec, _, err := CheckPillarHello(answer, p, want, now)
	if err != nil {
		return nil, DoubtClock(err, skew)
	}
	if want.IsZero() {
		if _, err := n.pin(answer.Network); err != nil {
			return nil, err
		}
	}
	local := m.isLocal(p, stream.Remote())
	roster := n.pillars()
	if _, err := roster.Add(now, local, rec.Raw); err != nil {
		return nil, err
	}
	if !roster.Admitted(p, now) {
		return nil, Refuse(CodeNotAdmitted, "pillar %s was revoked or has left", p)
	}
	if want.IsZero() {
		return nil, errAgain
	}
	frames.Accept()

	account, device := n.self.records(*first)
	registering := time.Now()
	if err := writeFrame(stream, &Register{Account: account, Device: device}); err != nil {
		return nil, err
	}
	reg, err := nextOf[*Registered](frames)
	if len(account) == 0 && (err != nil || reg.Err != nil && reg.Err.Code == CodeNotFound) {
		*first = false // it does not know the account: nothing to lose by our record
		return nil, errAgain
	}
	if err != nil {
		return nil, err
	}
	if reg.Err != nil {
		return nil, reg.Err
	}
	m.learn(local, reg.Roster)
	return &nodeSession{n: n, pillar: p, stream: stream, frames: frames,
		out: make(chan Message, sessionQueue), done: make(chan struct{}), summaries: make(chan []Summary, 1),
		skew: skew, rtt: time.Since(registering), local: local, run: reg.Run,
		relayed: IsCircuit(stream.Remote()), since: time.Now(), waiting: map[uint64]*nodeCall{}, inflight: map[uint64]*shipment{}}, nil
}

// isLocal reports whether private addresses that p tells may be dialled.
func (m *nodeSessions) isLocal(p identity.PillarID, remote multiaddr.Multiaddr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.candidate(p).hand || remote != nil && IsNear(remote)
}

// findSelf does step 3.
func (m *nodeSessions) findSelf(ctx context.Context, s *nodeSession) error {
	raws, _, err := s.find(ctx, &Find{Watch: true, Accounts: []identity.AccountID{m.n.account()}})
	if err != nil {
		return err
	}
	recs := m.n.verified(raws)
	if err := m.n.self.compare(recs); err != nil {
		return err
	}
	return m.n.dir.take(recs)
}

// verified parses and verifies records and returns those that are valid.
func (n *Node) verified(raws [][]byte) []*Record {
	v := n.verify()
	if v == nil {
		return nil
	}
	recs := make([]*Record, len(raws))
	errs := make([]error, len(raws))
	for i, raw := range raws {
		recs[i], _ = v.Parse(raw)
	}
	v.Verify(recs, errs)
	good := recs[:0]
	for i, rec := range recs {
		if rec == nil || errs[i] != nil {
			n.metrics.dropped.WithLabelValues("invalid").Inc()
			continue
		}
		good = append(good, rec)
	}
	return good
}

func writeFrame(s Stream, m Message) error {
	_, err := s.Write(AppendFrame(nil, m))
	return err
}

// nextOf reads a message that must be a T; a Busy is its error.
func nextOf[T Message](f *FrameReader) (T, error) {
	var none T
	for {
		m, err := f.Next()
		if err != nil {
			return none, err
		}
		switch m := m.(type) {
		case T:
			return m, nil
		case *Busy:
			if m.Err != nil {
				return none, m.Err
			}
			return none, Refuse(CodeBusy, "the pillar sends us away")
		case *RosterMsg: // pushed to everybody, at any time
		default:
			return none, fmt.Errorf("%w: message type %d is not expected here", ErrFrame, m.Type())
		}
	}
}
