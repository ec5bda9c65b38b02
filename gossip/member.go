package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Settings of memberlist: relaxed probes, for what is starved must not look
// dead; a fast gossip tick; no compression (LZW of signatures is wasted) and no
// encryption of its own (connections are authenticated).
const (
	memberProbe   = 2 * time.Second
	memberTimeout = time.Second
	memberGossip  = 100 * time.Millisecond
	memberFanOut  = 4
	memberQueue   = 1024 // broadcasts waiting
	memberJoins   = 8    // push/pulls that run at once because memberlist lacks somebody
	metaHead      = 32 + 8
	metaLen       = metaHead + 64
	metasKept     = 4096
)

// member runs memberlist, which spreads who is there and the summaries. What it
// says is a hint: roster and sessions overrule it.
type member struct {
	m      *Mesh
	filter *memberFilter
	wake   chan struct{} // capacity 1: somebody to join

	mu        sync.Mutex
	list      *memberlist.Memberlist           // guarded by mu; nil while it does not run
	transport *transport                       // guarded by mu
	queue     *memberlist.TransmitLimitedQueue // guarded by mu
}

// newMember names this run by its start, so that of two runs the later is known.
func newMember(m *Mesh) *member {
	return &member{m: m, filter: newMemberFilter(m, strconv.FormatUint(m.now(), 36)), wake: make(chan struct{}, 1)}
}

func (b *member) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// handlePacket and handleStream take what comes while memberlist runs.
func (b *member) handlePacket(from peer.ID, payload []byte) {
	if t := b.current(); t != nil {
		t.handlePacket(from, payload)
	}
}

func (b *member) handleStream(s overlay.Stream) {
	if t := b.current(); t != nil {
		t.handleStream(s)
		return
	}
	s.Reset()
}

func (b *member) current() *transport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.transport
}

// run has memberlist run until ctx ends.
func (b *member) run(ctx context.Context) {
	if b.m.cfg.noMember {
		return
	}
	for b.m.cfg.Own() == nil { // no meta before there is a record
		select {
		case <-b.wake:
		case <-time.After(b.m.cfg.RejoinEvery):
		case <-ctx.Done():
			return
		}
	}
	list, t, err := b.create()
	if err != nil {
		b.m.log.Error("membership does not run", "err", err)
		return
	}
	defer b.shutdown(list)
	defer context.AfterFunc(ctx, t.hangUp)() // nothing below waits for others then
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { b.refuteLate(ctx, t) })
	told := b.m.cfg.Own().ID
	rejoin := time.NewTimer(0)
	defer rejoin.Stop()
	for {
		select {
		case <-b.wake:
		case <-rejoin.C:
			rejoin.Reset(b.m.cfg.RejoinEvery/2 + rand.N(b.m.cfg.RejoinEvery))
		case <-ctx.Done():
			return
		}
		b.join(ctx, list)
		if own := b.m.cfg.Own(); own != nil && own.ID != told {
			told = own.ID
			list.UpdateNode(1) // it is queued now; when it was sent does not matter, so the wait of 1 ns fails
		}
	}
}

// refuteLate has memberlist refute what it might not when it was accused.
func (b *member) refuteLate(ctx context.Context, t *transport) {
	for {
		select {
		case <-b.filter.owes:
		case <-ctx.Done():
			return
		}
		for {
			accusation, wait := b.filter.takeOwed()
			if accusation != nil {
				t.give(packetOf(b.m.self, accusation))
			}
			if wait == 0 {
				break
			}
			pause := time.NewTimer(wait)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return
			}
		}
	}
}

// create starts memberlist.
func (b *member) create() (*memberlist.Memberlist, *transport, error) {
	t := newTransport(b.m, b.filter)
	c := memberlist.DefaultLANConfig()
	c.Name = b.filter.name
	c.Transport = t
	c.BindPort, c.AdvertisePort = memberPort, memberPort
	c.ProbeInterval, c.ProbeTimeout = memberProbe, memberTimeout
	c.GossipInterval, c.GossipNodes = memberGossip, memberFanOut
	c.EnableCompression = false
	c.RequireNodeNames = true
	c.UDPBufferSize = overlay.MaxPacket - 16 // a checksum comes on top
	c.Delegate = b
	c.LogOutput = nil
	c.Logger = log.New(logWriter{b.m}, "", 0)
	queue := &memberlist.TransmitLimitedQueue{RetransmitMult: c.RetransmitMult,
		NumNodes: func() int { return max(1, b.m.cfg.Roster.Living(b.m.now())) }}
	b.mu.Lock()
	b.transport, b.queue = t, queue
	b.mu.Unlock()
	list, err := memberlist.Create(c)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.transport, b.queue = nil, nil
		return nil, nil, fmt.Errorf("create memberlist: %w", err)
	}
	b.list = list
	return list, t, nil
}

func (b *member) shutdown(list *memberlist.Memberlist) {
	b.mu.Lock()
	b.list, b.transport, b.queue = nil, nil, nil
	b.mu.Unlock()
	list.Shutdown()
}

// join exchanges states with connected pillars that memberlist lacks, each on
// its own: memberlist never heals a long partition by itself.
func (b *member) join(ctx context.Context, list *memberlist.Memberlist) {
	alive := b.alive()
	slots := make(chan struct{}, memberJoins)
	var work sync.WaitGroup
	defer work.Wait()
	for _, s := range b.m.sessions.all() {
		if alive[s.id] {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		work.Go(func() {
			defer func() { <-slots }()
			addr := net.JoinHostPort(memberAddr(s.id).String(), strconv.Itoa(memberPort))
			if _, err := list.Join([]string{s.id.String() + "/" + addr}); err != nil {
				b.m.log.Debug("membership not exchanged", "pillar", s.id, "err", err)
			}
		})
	}
}

// alive returns the pillars that memberlist holds for alive.
func (b *member) alive() map[identity.PillarID]bool {
	b.mu.Lock()
	list := b.list
	b.mu.Unlock()
	alive := map[identity.PillarID]bool{}
	if list == nil {
		return alive
	}
	for _, n := range list.Members() {
		// n is memberlist's own and changes under its lock; the name never does.
		if p, _, err := b.filter.whose(n.Name); err == nil {
			alive[p] = true
		}
	}
	return alive
}

// broadcast spreads a summary; a newer one of the same pillar replaces it.
func (b *member) broadcast(s *overlay.Summary) {
	b.mu.Lock()
	queue := b.queue
	b.mu.Unlock()
	if queue == nil {
		return
	}
	queue.QueueBroadcast(&summaryBroadcast{name: string(s.Pillar),
		msg: overlay.EncodeMessage(&overlay.SummaryMsg{Summaries: []overlay.Summary{*s}})})
	queue.Prune(memberQueue)
}

// summaryBroadcast is a memberlist.NamedBroadcast.
type summaryBroadcast struct {
	name string
	msg  []byte
}

func (s *summaryBroadcast) Name() string                            { return s.name }
func (s *summaryBroadcast) Message() []byte                         { return s.msg }
func (s *summaryBroadcast) Finished()                               {}
func (s *summaryBroadcast) Invalidates(o memberlist.Broadcast) bool { return false }

// NodeMeta implements memberlist.Delegate: the record ID (32), its created (8
// bytes big-endian) and room for the pillar's signature (64), which the filter
// fills in, for it depends on the incarnation.
func (b *member) NodeMeta(int) []byte {
	own := b.m.cfg.Own()
	if own == nil {
		return nil
	}
	meta := append(make([]byte, 0, metaLen), own.ID[:]...)
	meta = binary.BigEndian.AppendUint64(meta, own.Created)
	return meta[:metaLen]
}

// NotifyMsg implements memberlist.Delegate: a summary.
func (b *member) NotifyMsg(msg []byte) { b.takeSummaries(bytes.Clone(msg)) }

// GetBroadcasts implements memberlist.Delegate.
func (b *member) GetBroadcasts(overhead, limit int) [][]byte {
	b.mu.Lock()
	queue := b.queue
	b.mu.Unlock()
	if queue == nil {
		return nil
	}
	return queue.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate: the newest summaries of all.
func (b *member) LocalState(bool) []byte {
	return overlay.EncodeMessage(&overlay.SummaryMsg{Summaries: b.m.Summaries()})
}

// MergeRemoteState implements memberlist.Delegate.
func (b *member) MergeRemoteState(state []byte, _ bool) {
	b.takeSummaries(bytes.Clone(state)) // at most maxWireUser bytes
}

func (b *member) takeSummaries(state []byte) {
	msg, err := overlay.DecodeMessage(state)
	if sums, ok := msg.(*overlay.SummaryMsg); ok && err == nil {
		b.m.summaries.receive(sums.Summaries)
		return
	}
	b.m.met.forged.WithLabelValues("summary").Inc()
}

// logWriter passes memberlist's log on, as details.
type logWriter struct{ m *Mesh }

var _ io.Writer = logWriter{}

func (w logWriter) Write(line []byte) (int, error) {
	w.m.log.Debug("memberlist", "line", string(bytes.TrimSpace(line)))
	return len(line), nil
}
