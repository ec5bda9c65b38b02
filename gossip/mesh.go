package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Mesh replicates with the other pillars of a network. It implements
// overlay.Mesh and overlay.Locator. Make it with New, then Run it.
//
// Its goroutines, all started and awaited by Run:
//
//	Run ─┬─ watchPeers                    who connects
//	     ├─ dial ── reach, one a pillar   keeps a session with each; the session it
//	     │                                opened lives in it: reader, writer, requests
//	     ├─ follow ── one a log followed  applier, with a reader; a few more for ranges
//	     ├─ doubts                        compares what others tell with what is held
//	     ├─ keep                          stores heads and the short key, tidies up
//	     ├─ fetch                         gets roster records by ID
//	     ├─ holdings                      counts what is held anew when the short key changes
//	     ├─ summaries                     the own summary, others' summaries
//	     ├─ audit                         rounds with random pillars; those that others
//	     │                                begin are answered beside their sessions
//	     ├─ wants                         gets records that log entries lack
//	     └─ member ─┬─ memberlist's own
//	                └─ refuteLate         refutes what it might not at once
//	handlers of Links: sessions and follows that others open
type Mesh struct {
	cfg  Config
	log  *slog.Logger
	met  *metrics
	self identity.PillarID

	clocks    *clocks
	logs      *logs
	acks      *acks
	sessions  *sessions
	dialer    *dialer
	follows   *follows
	fetcher   *fetcher
	holdings  *holdings
	summaries *summaries
	audit     *audit
	compares  *compares
	wants     *wants
	member    *member
	forks     *forks
	doubts    *doubts
	scores    *scores
	seen      *seen
	links     *linkRounds
	followers *budget
	fresh     atomic.Int64  // live batches being written
	reads     chan struct{} // one value a batch of history being read

	mu      sync.Mutex
	running *running // guarded by mu; nil before and after Run
}

// running is one Run: what its goroutines and handlers have in common.
type running struct {
	ctx     context.Context
	work    sync.WaitGroup
	closing bool // guarded by Mesh.mu: nothing new may start
}

var (
	_ overlay.Mesh    = (*Mesh)(nil)
	_ overlay.Locator = (*Mesh)(nil)
)

// New returns a Mesh and sets its handlers on Links and Packets, so it must
// come before the first Connect. It reads the Replica's logs and all records
// held, which therefore must not change until it returns.
func New(cfg Config) (*Mesh, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Mesh{
		cfg:  cfg,
		log:  cfg.Logger.With("component", "gossip"),
		met:  newMetrics(cfg.Registerer),
		self: cfg.Key.ID(),

		followers: newBudget(cfg.MaxFollowers), reads: make(chan struct{}, historyReads),
	}
	if m.cfg.Peers.Self() != peer.ID(m.self) {
		return nil, fmt.Errorf("gossip: the links are %s's, the key is %s's", m.cfg.Peers.Self(), m.self)
	}
	cfg.Links = newTraffic(cfg.Links, cfg.Registerer)
	m.cfg.Links = cfg.Links
	m.clocks = newClocks(cfg.Now)
	m.logs = newLogs(m.self, m.signHead)
	m.acks = newAcks(cfg.Replica.Acked)
	m.sessions = newSessions(m)
	m.dialer = newDialer(m)
	m.follows = newFollows(m)
	m.fetcher = newFetcher(m)
	m.doubts, m.scores, m.seen = newDoubts(m), newScores(m), newSeen()
	m.audit, m.wants, m.compares = newAudit(m), newWants(m), newCompares(m)
	m.links = newLinkRounds(m)
	var err error
	if m.forks, err = newForks(m); err != nil {
		return nil, err
	}
	if err := m.loadLogs(); err != nil {
		return nil, err
	}
	if m.holdings, err = newHoldings(m); err != nil {
		return nil, err
	}
	m.summaries = newSummaries(m)
	m.member = newMember(m)
	cfg.Roster.Watch(m.rosterChanged)
	cfg.Links.Handle(overlay.ProtoPillar, m.handleSession)
	cfg.Links.Handle(overlay.ProtoFollow, m.handleFollow)
	cfg.Links.Handle(overlay.ProtoMember, m.member.handleStream)
	cfg.Packets.Receive(packetMember, m.member.handlePacket)
	return m, nil
}

// Run connects to the other pillars and replicates until ctx ends. It can be
// called once. All goroutines have ended when it returns.
func (m *Mesh) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &running{ctx: ctx}
	m.mu.Lock()
	if m.running != nil {
		m.mu.Unlock()
		return fmt.Errorf("gossip: run: %w", errStopped)
	}
	m.running = r
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		r.closing = true
		m.mu.Unlock()
		cancel()
		r.work.Wait()
	}()
	for _, run := range []func(context.Context){
		m.watchPeers, m.dialer.run, m.follows.run, m.doubts.run, m.keep, m.fetcher.run, m.holdings.run, m.summaries.run, m.audit.run,
		m.wants.run, m.member.run,
	} {
		r.work.Go(func() { run(ctx) })
	}
	<-ctx.Done()
	return nil
}

// enter counts a goroutine that Run has to wait for; leave must be called at
// its end. ok is false while the Mesh does not run.
func (m *Mesh) enter() (ctx context.Context, leave func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil || m.running.closing {
		return nil, nil, false
	}
	r := m.running
	r.work.Add(1)
	return r.ctx, r.work.Done, true
}

// spawn runs fn in a goroutine that Run waits for.
func (m *Mesh) spawn(fn func(context.Context)) bool {
	ctx, leave, ok := m.enter()
	if !ok {
		return false
	}
	go func() {
		defer leave()
		fn(ctx)
	}()
	return true
}

// now is the clock in Unix milliseconds.
func (m *Mesh) now() uint64 { return uint64(max(0, m.cfg.Now().UnixMilli())) }

// Committed implements overlay.Mesh.
func (m *Mesh) Committed(c *overlay.CommitEvent) {
	now := time.Now()
	for i := range c.Logs {
		lc := &c.Logs[i]
		if lc.Own {
			m.acks.grow(lc.State.Log, lc.State.Seq)
		}
		followed := m.logs.committed(lc, now)
		if lc.Own {
			m.sessions.announce(followed)
		}
	}
	for _, log := range c.Dropped {
		m.logs.forget(log)
	}
	m.seen.forget(c.Dropped)
	m.holdings.committed(c)
	if c.Lost {
		m.holdings.recountAll()
	}
	m.wants.committed(c)
}

// Copies implements overlay.Mesh.
func (m *Mesh) Copies(ctx context.Context, ids []overlay.RecordID) ([]int, error) {
	copies := make([]int, len(ids))
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, s := range m.sessions.all() {
		asked.Go(func() {
			for from := 0; from < len(ids); from += overlay.MaxIDs {
				part := ids[from:min(len(ids), from+overlay.MaxIDs)]
				held, err := s.has(ctx, part)
				if err != nil {
					return
				}
				mu.Lock()
				for i := range part {
					if held.Bit(i) {
						copies[from+i]++
					}
				}
				mu.Unlock()
			}
		})
	}
	asked.Wait() // who does not answer in time counts for nothing, and for no error
	return copies, nil
}

// signHead signs the head of an own log at l.
func (m *Mesh) signHead(l *lead) *overlay.Head {
	h := &overlay.Head{
		Pillar: m.self, Nonce: l.nonce,
		Seq: l.pos.Seq, Hash: l.pos.Hash,
		BaseHash: overlay.ChainStart(l.pos.Log),
		Dies:     l.dies,
	}
	if l.base.Seq > 0 && l.base.Seq <= l.pos.Seq {
		h.BaseSeq, h.BaseHash = l.base.Seq, l.base.Hash
	}
	if h.Position(m.cfg.Network).Log != l.pos.Log {
		return nil // not an own log after all
	}
	h.Sign(m.cfg.Network, m.cfg.Key)
	return h
}

// rosterChanged spreads what is new in the roster.
func (m *Mesh) rosterChanged(added []*overlay.Record) {
	m.dialer.poke()
	for _, rec := range added {
		switch {
		case rec.Kind != overlay.KindPillar:
		case rec.Pillar() == m.self:
			m.dialer.again()
		default:
			m.dialer.shownUp(rec.Pillar()) // maybe at new addresses
		}
	}
	m.sessions.spread(added)
}

// watchPeers wakes who waits for a pillar to show up.
func (m *Mesh) watchPeers(ctx context.Context) {
	m.cfg.Peers.Watch(ctx, func(e overlay.PeerEvent) {
		if e.What == overlay.PeerConnected {
			m.dialer.shownUp(identity.PillarID(e.Peer))
		}
	})
}
