package overlay

import (
	"bytes"
	"context"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
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
}

// CommitEvent is what became durable in one group commit.
type CommitEvent struct {
	Time time.Time
	Logs []LogCommit // what was appended, to the own log and to followed ones
	New  []*Record   // records that were not stored before, in local order
}

// LogCommit is a run of a log that became durable.
type LogCommit struct {
	State   LogState // after it
	Own     bool     // the log this pillar writes in this run
	From    uint64   // sequence of Entries[0]
	Entries []BatchEntry
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
	Addrs        []multiaddr.Multiaddr
	State        PillarState
	Connected    bool
	Path         Path
	RTT          time.Duration
	MissingHere  uint64 // log entries it has and this pillar lacks, by vectors
	MissingThere uint64 // and the other way round
	LastSeen     time.Time
	ClockSkew    time.Duration // its clock minus ours, as of its last Hello
}

// LogState is what a pillar keeps of a log beside its entries, under the value
// key "log/" + LogID.
type LogState struct {
	Pillar identity.PillarID // who writes it
	Nonce  [LogNonceLen]byte // with Pillar the LogID's preimage
	Position
	Dies uint64 // latest expiry in the prefix, Unix ms
	Head *Head  // newest signed head known; may be past Seq; nil for an own log that was never served
}

// logStatePrefix begins the value keys of log states.
const logStatePrefix = "log/"

// Key is the value key of the state.
func (s *LogState) Key() string { return logStatePrefix + string(s.Log[:]) }

// Encode returns the state's value:
// [pillar bin, nonce bin, log bin, seq, hash bin, dies, head bin or empty].
func (s *LogState) Encode() []byte {
	b := canon.AppendArray(nil, 7)
	b = canon.AppendBin(b, s.Pillar)
	b = canon.AppendBin(b, s.Nonce[:])
	b = canon.AppendBin(b, s.Log[:])
	b = canon.AppendUint(b, s.Seq)
	b = canon.AppendBin(b, s.Hash[:])
	b = canon.AppendUint(b, s.Dies)
	if s.Head == nil {
		return canon.AppendBin(b, "")
	}
	return canon.AppendBin(b, s.Head.Append(nil))
}

// DecodeLogState reads what Encode wrote.
func DecodeLogState(data []byte) (LogState, error) {
	r := canon.NewReader(bytes.Clone(data))
	var s LogState
	r.Array(7)
	s.Pillar = readPillar(r)
	copy(s.Nonce[:], r.BinExact(LogNonceLen))
	s.Log = readLog(r)
	s.Seq, s.Hash, s.Dies = r.Uint(), readHash(r), r.Uint()
	if head := r.Bin(512); len(head) > 0 {
		hr := canon.NewReader(head)
		h := ReadHead(hr)
		if err := hr.End(); err != nil {
			r.Fail(err)
		}
		s.Head = &h
	}
	return s, r.End()
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

// LogRun is a run of a followed log, for Replica.Apply in gossip.
type LogRun struct {
	// State says whose log it is (Pillar, Nonce, Log) and carries the newest
	// verified Head; its Seq, Hash and Dies are the Replica's to compute.
	State   LogState
	From    uint64 // sequence of Entries[0]
	Entries []BatchEntry
}

// Durable says that Copies pillars beside this one hold a log up to Seq.
type Durable struct {
	Seq    uint64
	Copies int
}
