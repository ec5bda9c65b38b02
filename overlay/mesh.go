package overlay

import (
	"context"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// Mesh is what a pillar asks of replication. The real one is gossip.Mesh; a
// pillar without one (NoMesh) is a network of its own. All methods are safe for
// concurrent use.
type Mesh interface {
	// Committed tells of a group commit after it is durable, in commit order,
	// one call at a time. It must not block: what it cannot keep it reads back
	// from the Replica. Everything in c may be kept and must not be modified.
	Committed(c *CommitEvent)
	// Copies asks every connected pillar which of ids it holds durably and
	// returns for each how many hold it, this pillar not counted.
	Copies(ctx context.Context, ids []RecordID) ([]int, error)
	// Inject connects to a pillar and verifies it; from then on both clusters
	// know each other. It returns when the pillar is in the roster.
	Inject(ctx context.Context, p PillarAddr) error
	// Pillars describes every pillar of the roster but this one.
	Pillars() []PillarStatus
	// Summaries returns the newest verified summary of every pillar, this one
	// included.
	Summaries() []Summary
	// Over is the last entry of a log up to which signed heads that are on the disk,
	// and stay there, say that everything has expired by now (Unix ms); 0 if none
	// does. What others say is on the disk some seconds after it was asked for.
	Over(log LogID, now uint64) uint64
	// Notes returns notes of replication's own to be written in the commit that
	// appends c to the own log; c.State is the log's after it. It is called in the
	// order of commits, see LogRun.Notes, and must not block.
	Notes(c *LogCommit) ([]Value, error)
}

// Locator asks the other pillars where an account's devices are. The real one is
// gossip.Mesh; NoMesh asks nobody. It is safe for concurrent use.
type Locator interface {
	// Locate sends q, with a number of its own, to every connected pillar, as far
	// as each may be asked more at the moment, and does not wait. each is called,
	// from any goroutine, for every Presence that comes until stop is called; it
	// must not block. They are for q's asker, and nothing else of them is checked.
	// A pillar says nothing if no device answers, so there is no end to wait for.
	Locate(q *Locate, each func(Presence)) (stop func())
}

// LocateBurst and LocateRate are how many questions a pillar asks each of the
// others at once, and a second in the long run. Pillar asks no more by itself.
const LocateBurst, LocateRate = 256, 128

// CommitEvent is what became durable in one group commit.
type CommitEvent struct {
	Time time.Time
	Logs []LogCommit // what was appended, to the own log and to followed ones
	New  []*Record   // records that were not stored before, in local order
	// Gone are records that were counted once and turned out not to be there:
	// lost by the disk or deleted by hand. Of one that is in New too, it is the
	// second life.
	Gone    []RecordStub
	Dropped []LogID // logs that are held no more
	// Lost: records may be gone that nobody can name; all are to be counted anew.
	Lost bool
}

// RecordStub is what digests need of a record.
type RecordStub struct {
	ID      RecordID
	Created uint64 // Unix ms
	Expires uint64 // Unix ms
}

// LogCommit is a change of a log that became durable.
type LogCommit struct {
	State LogState // after it
	Own   bool     // the log this pillar writes in this run
	// From is the sequence of Entries[0]. Entries may lie above the prefix: then
	// they are an island, or part of one, or they joined it to the prefix. With
	// none, only what is lacking or gone of the log has changed.
	From    uint64
	Entries []BatchEntry
	// Rewritten: the state is not a continuation. It may hold less than before,
	// because entries or records turned out to be missing.
	Rewritten bool
}

// PillarState is a pillar's state in words of contract.md.
type PillarState string

// States of a pillar.
const (
	PillarAlive   PillarState = "alive"
	PillarSuspect PillarState = "suspect"
	PillarDead    PillarState = "dead"
	PillarLeft    PillarState = "left"
	PillarFull    PillarState = "full"
)

// PillarStatus describes a pillar as seen from here.
type PillarStatus struct {
	ID           identity.PillarID
	Name         string
	Home         bool // behind a NAT, reached through others
	Addrs        []multiaddr.Multiaddr
	State        PillarState
	Connected    bool
	Path         Path
	RTT          time.Duration
	MissingHere  uint64 // log entries it has and this pillar lacks, by vectors
	MissingThere uint64 // and the other way round
	LastSeen     time.Time
	ClockKnown   bool          // it said what time it is, at most an hour ago
	ClockSkew    time.Duration // its clock minus ours as it is now; 0 if not known
	// Trouble is why there is no session with it; none while there is.
	Trouble
}

// NoMesh is the Mesh of a pillar that is alone.
type NoMesh struct{}

// Committed implements Mesh.
func (NoMesh) Committed(*CommitEvent) {}

// Copies implements Mesh: nobody else holds anything.
func (NoMesh) Copies(_ context.Context, ids []RecordID) ([]int, error) {
	return make([]int, len(ids)), nil
}

// Inject implements Mesh.
func (NoMesh) Inject(context.Context, PillarAddr) error {
	return Refuse(CodeUnreachable, "this pillar runs without replication")
}

// Pillars implements Mesh.
func (NoMesh) Pillars() []PillarStatus { return nil }

// Summaries implements Mesh.
func (NoMesh) Summaries() []Summary { return nil }

// Locate implements Locator: nobody else is asked.
func (NoMesh) Locate(*Locate, func(Presence)) (stop func()) { return func() {} }

// Over implements Mesh: no heads are kept.
func (NoMesh) Over(LogID, uint64) uint64 { return 0 }

// Notes implements Mesh: nobody asks for a log's history.
func (NoMesh) Notes(*LogCommit) ([]Value, error) { return nil, nil }

// LogRun is a run of a followed log, for Replica.Apply in gossip.
type LogRun struct {
	// State says whose log it is (Pillar, Nonce, Log) and carries the newest
	// verified Head; the rest of it is the Replica's to compute.
	State  LogState
	From   uint64 // sequence of Entries[0]; a run of gone entries counts from its first
	Before Hash   // h(From-1), which the caller has linked to a signed head
	// Entries are in order and without gaps.
	Entries []BatchEntry
	// Notes returns notes of replication's own, written in the same commit: what is
	// told of the run is of no use to others without them. See gossip.Notes for keys
	// and sizes. The Replica calls it when all runs of the log that it committed
	// before are published, and before it takes the next one; again, if the run has
	// to wait after all. It must not block. nil: none.
	Notes func() ([]Value, error)
}

// Durable says that Copies pillars beside this one hold the entries From..To of
// a log, every record of them included.
type Durable struct {
	From, To uint64
	Copies   int
}
