package overlay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
)

// Registration says which accounts may register at a pillar.
type Registration string

// Registration policies.
const (
	RegistrationOpen   Registration = "open"
	RegistrationClosed Registration = "closed" // only accounts that were allowed
)

// PillarConfig is what a Pillar is made of. Fields without a default are
// required.
type PillarConfig struct {
	Network identity.NetworkID
	Key     *identity.PillarKey
	Store   Store
	Links   Links
	Peers   Peers

	// Admit returns an admission in force at now (Unix ms): signed here by the
	// network key, or read from the operator's file. It is asked at the start
	// and before the last one ends.
	Admit func(now uint64) (identity.Admission, error)
	// Addrs returns the addresses others are told, without /p2p. It is asked
	// every few seconds, and by Readdress. Of a home pillar nil means that it is
	// not known yet: then those of its last record are told.
	Addrs func() []multiaddr.Multiaddr
	// Home says that the pillar is behind a NAT and reached through others.
	Home bool
	Name string
	// Rejoin lets a pillar that left for good be one again.
	Rejoin bool

	// Concern is the default write concern. Default 2.
	Concern int
	// MaxBody is the largest plaintext admitted, in bytes. Default DefaultMaxBody.
	MaxBody int
	// Registration policy. Default open.
	Registration Registration
	// MaxSessions is how many node sessions are served at once; further ones
	// are sent elsewhere. Default 8192.
	MaxSessions int
	// Disk returns the free and total bytes of the store's disk. Default: no
	// limit.
	Disk func() (free, total uint64, err error)
	// StoreLimit is the largest store in bytes; 0: 90 % of the disk.
	StoreLimit uint64
	// Quotas bound who fills it. Default: see there.
	Quotas Quotas

	// Now is the clock. Default time.Now.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Validate fills in defaults and says what is missing or contradictory.
func (c *PillarConfig) Validate() error {
	switch {
	case c.Network.IsZero():
		return errors.New("pillar: no network")
	case c.Key == nil, c.Store == nil, c.Links == nil, c.Peers == nil, c.Admit == nil, c.Addrs == nil:
		return errors.New("pillar: key, store, links, peers, admit and addrs are required")
	case c.MaxBody > MaxBody:
		return errors.New("pillar: the largest body is over the protocol's maximum")
	}
	if c.Concern <= 0 {
		c.Concern = 2
	}
	if c.MaxBody <= 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Registration == "" {
		c.Registration = RegistrationOpen
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 8192
	}
	if c.Disk == nil {
		c.Disk = func() (uint64, uint64, error) { return 1 << 62, 1 << 62, nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// A Pillar accepts, verifies, stores and serves records: the server half of the
// domain. It answers nodes' sessions (ProtoNode) by itself; replication with
// other pillars is its Mesh's, which it tells of every commit and which uses it
// as its Replica, Records and Notes. All exported methods are safe for
// concurrent use.
//
//	pillar, err := overlay.NewPillar(cfg)
//	mesh, err := gossip.New(gossip.Config{Replica: pillar, …})
//	err = pillar.Run(ctx, mesh)
//
// The files, in the order of a submission's way:
//
//	pillar_session.go    a node's stream: Hello, Register, reading, writing
//	pillar_share.go      an account's part of the queues
//	pillar_submit.go     chunks of submissions, verified by all cores
//	pillar_admission.go  what is refused although it is valid
//	pillar_quota.go      what a submission costs, and who pays (pillar_quotadisk.go: on disk)
//	pillar_commit.go     the group commit and what follows from it
//	pillar_mailbox.go    mailboxes: pages, pushes, cursors
//	pillar_copies.go     watermarks: on how many pillars
//	pillar_locate.go     where devices are: questions passed on, answers back
//
// and beside it pillar_replica.go (what replication asks), pillar_find.go
// (lookups and the mailbox check), pillar_record.go (its own roster record:
// renewed, revoked, left), pillar_apply.go (runs of others' logs),
// pillar_clock.go and pillar_expiry.go (time), scrub.go (what the disk lost),
// pillar_mend.go (what the disk damaged), pillar_receipts.go and
// pillar_expiring.go (what receipts show without being read),
// pillar_logbytes.go (what the logs of others keep here), pillar_compare.go
// (whether all hold the same), pillar_nodes.go (the directory for operators),
// pillar_metrics.go.
type Pillar struct {
	cfg      PillarConfig
	id       identity.PillarID
	log      *slog.Logger
	verifier *Verifier
	roster   *Roster
	metrics  *pillarMetrics
	run      uint64 // names this run to nodes
	mesh     Mesh   // set before started is closed
	others   Locator

	submits chan submitJob // sessions to gather
	work    chan *chunk    // gather to the verify workers
	commits chan commitJob // everybody to the committer
	mends   chan struct{}  // of capacity 1: the store is to be mended
	scrubs  chan struct{}  // of capacity 1: the scrub is to begin anew
	chunks  sync.Pool      // of *chunk
	queued  atomic.Int64   // bytes of submissions on their way, see maxQueued

	running  atomic.Bool
	started  chan struct{} // closed when Run has begun
	ending   chan struct{} // closed when Run ends: nothing new is begun
	quit     chan struct{} // closed when nobody sends to commits but Apply and its like
	ended    chan struct{} // closed when the committer is done
	streams  sync.WaitGroup
	draining atomic.Bool
	failed   atomic.Pointer[error] // why the store takes nothing any more
	forgets  atomic.Uint64         // commits that forget records, begun and ended: odd during one
	out      atomic.Pointer[Error] // why this is no pillar any more; nil while it is one

	own       pillarSelf
	accounts  accountCache
	allowed   allowList
	disk      diskState
	quotas    quotas
	shares    queueShares
	logBytes  logBytes
	newLogs   newLogs
	clock     pillarClock
	copies    copiesState
	questions questions
	mailboxes mailboxCounter
	refused   refusals
	expiring  atomic.Pointer[Expiring] // nil before the first look

	convergence Convergence
	diverging   atomic.Int64 // pillars that diverged at the last look
	caughtUp    catchUp
	scrubbed    atomic.Bool   // a pass of the scrub is over: vectors may become cursors
	mended      atomic.Uint64 // how often something was cut out of the store in this run

	// mu guards what a commit publishes and who is told of it. It is taken
	// before any session's own lock, and never held across I/O.
	mu       sync.Mutex
	local    uint64              // newest published local commit sequence
	logs     map[LogID]*LogState // replaced, never changed
	grown    map[LogID]uint64    // when they were appended to in this run, Unix ms
	drops    uint64              // how often logs were dropped in this run
	ownLog   LogID               // of this run; zero before its first entry
	closed   bool                // no further streams
	open     map[*pillarSession]struct{}
	perPeer  map[peer.ID]int
	live     map[identity.AccountID][]*pillarSession  // registered sessions
	devices  map[identity.DeviceID]int                // how many of them a device has
	owners   map[identity.DeviceID]identity.AccountID // whose those devices are
	watching map[identity.AccountID]map[*pillarSession]struct{}
	nudges   map[*pillarSession]struct{}     // standby sessions whose node is to be nudged again
	lastSeen map[identity.DeviceID]time.Time // devices that were here in this run, bounded
	dropped  Day                             // records of earlier days are gone
	// strayLacks are lacks that were found of no entry; the first scrub's.
	strayLacks []Value
	// rosterNews are records the roster took and that are neither saved nor
	// pushed yet; rosterWake tells.
	rosterNews []*Record
	rosterWake chan struct{}
}

// NewPillar loads what the store knows (logs, roster, policy), makes the
// pillar's own record and starts listening for sessions, which wait for Run.
func NewPillar(cfg PillarConfig) (*Pillar, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Pillar{
		cfg:        cfg,
		id:         cfg.Key.ID(),
		log:        cfg.Logger.With("component", "pillar"),
		verifier:   NewVerifier(cfg.Network),
		others:     NoMesh{},
		metrics:    newPillarMetrics(cfg.Registerer),
		run:        randomUint64(),
		submits:    make(chan submitJob, submitQueue),
		work:       make(chan *chunk, runtime.GOMAXPROCS(0)),
		commits:    make(chan commitJob, commitQueue),
		mends:      make(chan struct{}, 1),
		scrubs:     make(chan struct{}, 1),
		started:    make(chan struct{}),
		ending:     make(chan struct{}),
		quit:       make(chan struct{}),
		ended:      make(chan struct{}),
		logs:       map[LogID]*LogState{},
		grown:      map[LogID]uint64{},
		open:       map[*pillarSession]struct{}{},
		perPeer:    map[peer.ID]int{},
		live:       map[identity.AccountID][]*pillarSession{},
		devices:    map[identity.DeviceID]int{},
		owners:     map[identity.DeviceID]identity.AccountID{},
		watching:   map[identity.AccountID]map[*pillarSession]struct{}{},
		nudges:     map[*pillarSession]struct{}{},
		lastSeen:   map[identity.DeviceID]time.Time{},
		rosterWake: make(chan struct{}, 1),
	}
	p.roster = NewRoster(p.verifier)
	p.copies.init()
	p.questions.init()
	if err := p.load(); err != nil {
		return nil, fmt.Errorf("pillar: load: %w", err)
	}
	p.roster.Watch(p.rosterChanged)
	if err := p.checkLeft(); err != nil {
		return nil, err
	}
	if err := p.renewRecord(true); err != nil {
		return nil, fmt.Errorf("pillar: %w", err)
	}
	p.checkDisk()
	cfg.Links.Handle(ProtoNode, p.serve)
	return p, nil
}

// load reads the store's values.
func (p *Pillar) load() error {
	view := p.cfg.Store.View()
	defer view.Close()
	err := view.Values(logStatePrefix, func(key string, data []byte) bool {
		state, err := DecodeLogState(data)
		if err != nil || key != state.Key() {
			// Its entries are of no use without it, and go with the first scrub.
			p.log.Error("state of a log lost", "err", err)
			return true
		}
		p.logs[state.Log] = &state
		return true
	})
	if err = errors.Join(err, p.loadLacks(view)); err != nil {
		return err
	}
	p.local = view.LastLocal()
	return errors.Join(p.loadRoster(view), p.allowed.load(view), p.clock.load(view, p.now()), p.mailboxes.load(view), p.logBytes.load(view),
		p.newLogs.load(view, p.now()), p.quotas.load(view, p.now()))
}

// loadLacks adds the lacks to the states that were loaded. Those of no entry
// that is held are left to the scrub.
func (p *Pillar) loadLacks(view View) error {
	return view.Values(lackPrefix, func(key string, data []byte) bool {
		log, lack, err := decodeLack(key, data)
		if s := p.logs[log]; err == nil && s != nil && s.Holds(lack.Seq) && len(s.Lacks) < MaxLacks {
			s.Lacks = append(s.Lacks, lack)
		} else {
			p.strayLacks = append(p.strayLacks, Value{Key: key})
		}
		return true
	})
}

// Run serves until ctx ends, then ends all sessions, commits what was accepted
// for committing and returns. It owns every goroutine of the pillar. A Pillar
// runs once.
func (p *Pillar) Run(ctx context.Context, mesh Mesh) error {
	if !p.running.CompareAndSwap(false, true) {
		return errors.New("pillar: Run called twice")
	}
	p.mesh = mesh
	var workers, committer, others sync.WaitGroup
	committer.Go(p.commitLoop)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(p.verifyLoop)
	}
	workers.Go(p.gather)
	others.Go(func() { p.watermarkLoop(ctx) })
	others.Go(func() { p.askLoop(ctx) })
	others.Go(func() { p.questionLoop(ctx) })
	others.Go(func() { p.tickLoop(ctx) })
	others.Go(func() { p.scrubLoop(ctx) })
	others.Go(func() { p.mendLoop(ctx) })
	others.Go(func() { p.lookLoop(ctx) })
	p.caughtUp.begin(p.now(), p.othersKnown())
	close(p.started)

	<-ctx.Done()
	p.cfg.Links.Handle(ProtoNode, nil)
	p.endSessions()
	p.streams.Wait()
	close(p.ending)
	others.Wait()
	close(p.submits) // all senders were sessions
	workers.Wait()
	p.saveLast()
	close(p.quit)
	committer.Wait()
	close(p.ended)
	return nil
}

// tickLoop does what is due now and then.
func (p *Pillar) tickLoop(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-p.rosterWake:
			p.rosterNewsOut(ctx)
			p.checkStanding()
			continue
		case <-tick.C:
		}
		p.checkDisk()
		p.checkStanding()
		p.nudgeLate()
		if n%compareSeconds == 0 {
			p.compare()
		}
		if n%cursorSeconds == 0 {
			p.handOverCursors()
			p.checkClock()
			p.lapse(ctx)
		}
		if n%10 == 0 {
			if err := p.renewRecord(false); err != nil {
				p.log.Warn("own pillar record not renewed", "err", err)
			}
		}
		if n%60 == 0 {
			p.saveNow(ctx)
		}
		if n%600 == 60 {
			p.expire(ctx)
		}
	}
}

// saveNow writes the small values that change slowly.
func (p *Pillar) saveNow(ctx context.Context) {
	values := append(p.clock.values(p.now()), p.mailboxes.values()...)
	values = append(values, p.logBytes.values()...)
	debts, unsaved := p.quotaValues()
	values = append(values, debts...)
	if values = append(values, p.rosterLocals()...); len(values) == 0 {
		return
	}
	if err := p.commitValues(ctx, values); err != nil {
		if unsaved(); ctx.Err() == nil {
			p.log.Warn("values not saved", "err", err)
		}
	}
}

// saveLast is saveNow for the end of Run, when only the committer still runs.
func (p *Pillar) saveLast() {
	values := append(p.clock.values(p.now()), p.mailboxes.values()...)
	debts, _ := p.quotaValues()
	values = append(values, debts...)
	if values = append(values, p.logBytes.values()...); p.failure() == nil {
		p.commits <- commitJob{values: values, done: make(chan error, 1)}
	}
}

// Roster is who is a pillar. Whoever learns of pillars adds them here.
func (p *Pillar) Roster() *Roster { return p.roster }

// Verifier checks records of the pillar's network.
func (p *Pillar) Verifier() *Verifier { return p.verifier }

// Drain makes the pillar refuse submissions and new sessions and tells its
// nodes to move on to others; reading goes on. Drain(false) ends that.
func (p *Pillar) Drain(on bool) {
	if p.draining.Swap(on) == on || !on {
		return
	}
	p.tellAll(&Busy{Err: errDraining})
}

// Status describes the pillar as it is now.
func (p *Pillar) Status() PillarSelfStatus {
	stats := p.cfg.Store.Stats()
	st := PillarSelfStatus{
		ID:         p.id,
		Network:    p.cfg.Network,
		Records:    stats.Records,
		Mailboxes:  p.mailboxes.count(),
		StoreBytes: stats.Bytes,
		ClockSkew:  p.clock.skew(),
		ClockText:  p.clock.textNow(),
		Standing:   p.roster.Standing(p.id, p.now()),
		Draining:   p.draining.Load(),
		Full:       p.disk.full.Load(),
		Failed:     p.failure(),
		Damaged:    stats.Damaged,
		CatchingUp: p.caughtUp.waits.Load(),
		Diverged:   int(p.diverging.Load()),
	}
	if e := p.expiring.Load(); e != nil {
		st.Expiring = *e
	}
	if st.Failed == nil {
		st.Failed = stats.Failed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if own := p.logs[p.ownLog]; own != nil {
		st.Log, _ = own.Told()
	}
	for _, sessions := range p.live {
		st.NodesConnected += len(sessions)
	}
	return st
}

// Full reports whether the disk is so full that nothing is taken, from other
// pillars either.
func (p *Pillar) Full() bool { return p.disk.full.Load() }

// failure returns why the store takes nothing any more, nil while it does.
func (p *Pillar) failure() error {
	if err := p.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// now is the clock in Unix ms.
func (p *Pillar) now() uint64 { return uint64(max(0, p.cfg.Now().UnixMilli())) }

func randomUint64() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return binary.BigEndian.Uint64(b[:]) >> 1
}

// PillarSelfStatus is what a pillar says of itself, in the shape of
// GET /v1/status less what the process adds.
type PillarSelfStatus struct {
	ID             identity.PillarID
	Network        identity.NetworkID
	Log            Position // its own log of this run; zero before its first entry
	Records        uint64
	Mailboxes      uint64 // accounts with a mailbox that was filed into
	StoreBytes     uint64
	NodesConnected int
	ClockSkew      time.Duration
	ClockText      string // what is wrong with the clock, in words; "" if nothing is
	Standing       Standing
	Draining       bool
	Full           bool
	Failed         error // the store failed: reads only
	Damaged        error // what of the store cannot be read, and what to do about it
	// CatchingUp: what other pillars had when this run began is still coming, or
	// none of those known was reached yet.
	CatchingUp bool
	Diverged   int // pillars whose summaries are unequal three times in a row
	Expiring   Expiring
}

// NodeEntry is an account in a pillar's or node's directory, in the shape of
// GET /v1/nodes.
type NodeEntry struct {
	Account identity.AccountID `json:"account"`
	Name    string             `json:"name"`
	Devices []DeviceEntry      `json:"devices"`
}

// DeviceEntry is a device of a NodeEntry.
type DeviceEntry struct {
	Device   identity.DeviceID   `json:"device"`
	Online   bool                `json:"online"`
	Pillars  []identity.PillarID `json:"pillars"`
	LastSeen time.Time           `json:"last_seen"`
}

// Runner is long-lived work: Run blocks until ctx ends or it fails, and leaves
// no goroutine behind.
type Runner interface {
	Run(ctx context.Context) error
}
