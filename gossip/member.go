package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
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
	memberTell    = 2 * time.Second // for a new meta to be sent; it goes out later all the same
	memberGossip  = 100 * time.Millisecond
	memberFanOut  = 4
	memberState   = 1 << 20 // bytes of others' summaries taken in one push/pull
	memberQueue   = 1024    // broadcasts waiting
	metaLen       = 32 + 8 + 64
	metasKept     = 4096
)

// member runs memberlist, which spreads who is there and the summaries. What it
// says is a hint: roster and sessions overrule it.
type member struct {
	m    *Mesh
	name string
	wake chan struct{} // capacity 1: somebody to join

	mu        sync.Mutex
	list      *memberlist.Memberlist           // guarded by mu; nil while it does not run
	transport *transport                       // guarded by mu
	queue     *memberlist.TransmitLimitedQueue // guarded by mu
	metas     map[[32]byte]bool                // guarded by mu; metas that verified, by hash
	runs      map[identity.PillarID]string     // guarded by mu; newest run seen of a pillar
}

func newMember(m *Mesh) *member {
	return &member{m: m, wake: make(chan struct{}, 1), metas: map[[32]byte]bool{}, runs: map[identity.PillarID]string{}}
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
	if err := b.create(); err != nil {
		b.m.log.Error("membership does not run", "err", err)
		return
	}
	defer b.shutdown()
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
		b.join(ctx)
		if own := b.m.cfg.Own(); own != nil && own.ID != told {
			told = own.ID
			if err := b.list.UpdateNode(memberTell); err != nil {
				b.m.log.Debug("tell members the new record", "err", err)
			}
		}
	}
}

// create starts memberlist.
func (b *member) create() error {
	b.name = b.m.self.String() + "." + strconv.FormatUint(b.m.now(), 36)
	t := newTransport(b.m)
	c := memberlist.DefaultLANConfig()
	c.Name = b.name
	c.Transport = t
	c.BindPort, c.AdvertisePort = memberPort, memberPort
	c.ProbeInterval, c.ProbeTimeout = memberProbe, memberTimeout
	c.GossipInterval, c.GossipNodes = memberGossip, memberFanOut
	c.EnableCompression = false
	c.RequireNodeNames = true
	c.UDPBufferSize = overlay.MaxPacket - 16 // a checksum comes on top
	c.Delegate, c.Alive = b, b
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
		return fmt.Errorf("create memberlist: %w", err)
	}
	b.list = list
	return nil
}

func (b *member) shutdown() {
	b.mu.Lock()
	list := b.list
	b.list, b.transport, b.queue = nil, nil, nil
	b.mu.Unlock()
	list.Shutdown()
}

// join exchanges states with connected pillars that memberlist lacks, each on
// its own: memberlist never heals a long partition by itself.
func (b *member) join(ctx context.Context) {
	alive := b.alive()
	for _, s := range b.m.sessions.all() {
		if ctx.Err() != nil {
			return
		}
		if alive[s.id] {
			continue
		}
		addr := net.JoinHostPort(memberAddr(s.id).String(), strconv.Itoa(memberPort))
		if _, err := b.list.Join([]string{s.id.String() + "/" + addr}); err != nil {
			b.m.log.Debug("membership not exchanged", "pillar", s.id, "err", err)
		}
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
		if p, _, err := memberPillar(n.Name); err == nil {
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
// bytes big-endian) and the pillar's signature (64) over both and the name.
func (b *member) NodeMeta(int) []byte {
	own := b.m.cfg.Own()
	if own == nil {
		return nil
	}
	meta := append(make([]byte, 0, metaLen), own.ID[:]...)
	meta = binary.BigEndian.AppendUint64(meta, own.Created)
	return append(meta, b.m.cfg.Key.Sign(identity.TagMember, b.m.cfg.Network, metaSigned(meta, b.name))...)
}

func metaSigned(meta []byte, name string) []byte {
	return append(bytes.Clone(meta[:40]), name...)
}

// NotifyAlive implements memberlist.AliveDelegate: only admitted pillars that
// sign for themselves are members. It must not block or call memberlist.
func (b *member) NotifyAlive(n *memberlist.Node) error {
	err := b.checkAlive(n)
	if errors.Is(err, errForged) {
		b.m.met.forged.WithLabelValues("member").Inc()
	}
	return err
}

// errForged: a member's statement is not its own.
var errForged = errors.New("forged")

func (b *member) checkAlive(n *memberlist.Node) error {
	p, run, err := memberPillar(n.Name)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errForged, err)
	case len(n.Meta) != metaLen || n.Port != memberPort || !net.IP(n.Addr).Equal(memberAddr(p)):
		return fmt.Errorf("%w: address or meta of %s", errForged, n.Name)
	case !b.verified(p, n):
		return fmt.Errorf("%w: signature of %s", errForged, n.Name)
	}
	record := overlay.RecordID(n.Meta[:32])
	admitted := b.m.cfg.Roster.Admitted(p, b.m.now())
	entry, known := b.m.cfg.Roster.Lookup(p)
	if p != b.m.self && !known || known && entry.Record.ID != record && entry.Record.Created < binary.BigEndian.Uint64(n.Meta[32:]) {
		b.m.fetcher.want(record)
	}
	if p != b.m.self && !admitted {
		return fmt.Errorf("pillar %s is not in the roster", p)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.runs[p]; len(run) < len(old) || len(run) == len(old) && run < old {
		return fmt.Errorf("pillar %s runs anew since", p)
	}
	b.runs[p] = run
	return nil
}

// verified reports whether the meta is signed by p for this name.
func (b *member) verified(p identity.PillarID, n *memberlist.Node) bool {
	hash := identity.Hash(identity.TagMember, []byte(p), n.Meta, []byte(n.Name))
	b.mu.Lock()
	ok := b.metas[hash]
	b.mu.Unlock()
	if ok {
		return true
	}
	key, err := identity.Ed25519Public(p.Ed25519Key())
	if err != nil || !identity.Verify(&identity.Check{Key: key, Tag: identity.TagMember, Network: b.m.cfg.Network,
		Message: metaSigned(n.Meta, n.Name), Signature: n.Meta[40:]}) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.metas) >= metasKept {
		clear(b.metas)
	}
	b.metas[hash] = true
	return true
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
	if len(state) <= memberState {
		b.takeSummaries(bytes.Clone(state))
	}
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
