package overlay

import (
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// SyncStatus is what a pillar knows of replication, in the shape of GET
// /v1/sync.
type SyncStatus struct {
	Logs    []LogState // what is held of every living log
	Settled Summary    // the newest own summary; zero before the first
	Peers   []PeerSync // every connected pillar
	// Missing is how many log entries connected pillars have and this one lacks;
	// Wanted how many records are asked for by ID.
	Missing uint64
	Wanted  int
	// Backlog is what bounded follows still have to bring of Missing, and how
	// fast it came lately, in entries a second.
	Backlog     uint64
	BacklogRate float64
	Unreachable []Unreachable
	Forks       []ForkStatus
	Paused      Pause // why audit rounds are paused; empty if they are not
}

// Pause says why a pillar does no audit rounds.
type Pause string

// Reasons for a pause.
const (
	PausedByOperator Pause = "operator" // it begins none; it answers those of others
	PausedByClock    Pause = "clock"    // its clock is in doubt: it answers none either
)

// PeerSync is what is known of one connected pillar.
type PeerSync struct {
	Pillar identity.PillarID
	Behind uint64   // entries it has and this one lacks
	Gaps   []LogGap // where they differ, ascending
	Last   *Round   // the last audit round with it, whoever began it; nil before the first
	Totals RoundTotals
}

// LogGap is a log of which two pillars tell different entries.
type LogGap struct {
	Log         LogID
	Here, There uint64 // entries that are missing here, and there
}

// RoundResult says how an audit round ended.
type RoundResult string

// Results of audit rounds.
const (
	RoundEqual     RoundResult = "equal"
	RoundRepaired  RoundResult = "repaired"  // what differed was fetched and sent
	RoundDiffers   RoundResult = "differs"   // something is still different; the next round goes on
	RoundWaits     RoundResult = "waits"     // logs still bring what is missing
	RoundOtherKey  RoundResult = "other_key" // the two do not share a short key yet
	RoundNotNow    RoundResult = "not_now"   // the side that was asked does none now: its clock is in doubt
	RoundFailed    RoundResult = "failed"
	RoundUnsettled RoundResult = "unsettled" // no common instant: a clock is off
)

// Round is one audit round.
type Round struct {
	Pillar      identity.PillarID // with whom
	At          time.Time
	Result      RoundResult
	Differences int // records on one side only
	Fetched     int // records taken
	Sent        int // records given
	// Bytes of our protocol both ways, frames included, records left out; and
	// those of the records.
	BytesSent, BytesReceived uint64
	RecordBytes              uint64
	RoundTrips               int
	Took                     time.Duration
	Err                      string // of a failed one
}

// RoundTotals sums the rounds of one pillar.
type RoundTotals struct {
	Rounds, Equal, Failed    uint64
	Differences              uint64
	Fetched, Sent            uint64
	BytesSent, BytesReceived uint64
}

// Unreachable is a part of a log that no pillar in reach holds.
type Unreachable struct {
	Pillar   identity.PillarID // who wrote it and may still have it
	Log      LogID
	From, To uint64
}

// ForkStatus is a log that its pillar signed two histories of.
type ForkStatus struct {
	Pillar identity.PillarID
	Log    LogID
	Since  time.Time
	Proof  *Forked
}
