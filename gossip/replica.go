package gossip

import (
	"context"

	"github.com/obelisk-network/obelisk/overlay"
)

// Replica is what replication asks of a pillar: overlay.Pillar is one.
// Everything a Replica returns is durable. Safe for concurrent use.
type Replica interface {
	// Logs returns the state of every log held, the own one included.
	Logs() []overlay.LogState
	// Apply takes a run of somebody else's log that continues the held prefix.
	// The caller has checked that the chain over it ends at or before the head
	// in run.State, which it verified too. The Replica judges every record
	// itself, keeps invalid ones as void, commits all of it together with
	// whatever else waits, and returns the log's state once that is durable.
	// Entries at or below the prefix are passed over; a run that starts above
	// it is an error. It blocks while the pillar is busy; an error leaves the
	// prefix where it was.
	Apply(ctx context.Context, run overlay.LogRun) (overlay.LogState, error)
	// Read returns entries of a log from sequence from on, at most about max
	// bytes of them but at least one, and none past the held prefix. Entries
	// whose record is gone come without a body.
	Read(log overlay.LogID, from uint64, max int) ([]overlay.BatchEntry, error)
	// Acked tells how far the own log is durable at other pillars. It must not
	// block.
	Acked(log overlay.LogID, durable []overlay.Durable)
}

// Records looks up single records; overlay.Pillar does that too.
type Records interface {
	// Get returns the bytes of those of ids that are held, in order, at most
	// about max bytes of them but at least one, and the index in ids to go on
	// from. Roster records are among what it finds.
	Get(ids []overlay.RecordID, max int) (records [][]byte, next int, err error)
	// Has reports which of ids are held durably.
	Has(ids []overlay.RecordID) ([]bool, error)
	// Each calls fn for every record held that expires at or after from
	// (Unix ms), in no particular order, until fn returns false.
	Each(from uint64, fn func(id overlay.RecordID, created, expires uint64) bool) error
}

// Notes keeps replication's own small values on the pillar's disk;
// overlay.Pillar does. Keys start with "gossip/".
type Notes interface {
	// LoadNote returns a copy of a value, nil if there is none.
	LoadNote(key string) ([]byte, error)
	// SaveNote returns when the value is durable; nil data deletes it.
	SaveNote(ctx context.Context, key string, data []byte) error
}
