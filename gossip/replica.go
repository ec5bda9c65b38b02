package gossip

import (
	"context"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Replica is what replication asks of a pillar: overlay.Pillar is one.
// Everything a Replica returns is durable. Safe for concurrent use.
type Replica interface {
	// Logs returns the state of every log held, the own one included.
	Logs() []overlay.LogState
	// Apply takes a run of somebody else's log. The caller has checked that the
	// chain over it, from run.Before on, leads to the head in run.State, which it
	// verified too. A run that begins in the prefix or an island, or just behind
	// it, continues that; any other begins an island. What is held already is
	// passed over, and what meets is joined. The Replica judges every record
	// itself, keeps invalid ones as void, notes unexpired entries without a body
	// as lacks, commits all of it together with whatever else waits, and returns
	// the log's state once that is durable. It blocks while the pillar is busy.
	//
	// Errors leave everything as it was: overlay.ErrIslands if it would be one
	// island, overlay.ErrLacks if it would be one lack too many,
	// overlay.ErrConflict if the run and what is held cannot be on one chain.
	Apply(ctx context.Context, run overlay.LogRun) (overlay.LogState, error)
	// Read returns entries of a log from sequence from on, at most about max
	// bytes of them but at least one, without gaps, and none past the end of the
	// prefix or island that holds from; none if nothing holds it. Entries whose
	// record is gone come without a body. If from lies inside a run of gone
	// entries, the first entry is that run's part from from on.
	Read(log overlay.LogID, from uint64, max int) ([]overlay.BatchEntry, error)
	// Links returns the entries from..to of a log without bodies; an error if
	// not all of them are held one by one.
	Links(log overlay.LogID, from, to uint64) ([]overlay.LogEntry, error)
	// Drop forgets logs, entries and all, and returns when that is durable. Their
	// records stay. A log that is written here is closed: what is submitted next
	// begins another one. A log that was dropped may be applied again.
	Drop(ctx context.Context, logs ...overlay.LogID) error
	// Take stores records that came by no log: the audit's, or a bundle's. It
	// judges them itself, passes over what is held, invalid, expired, a roster
	// record or not a record at all, and fills in the lacks of entries that they
	// are the records of. taken[i] says that raws[i] is held durably now, or
	// was. It blocks like Apply.
	Take(ctx context.Context, via overlay.Via, raws [][]byte) (taken []bool, err error)
	// Acked tells which parts of the own log are durable at other pillars:
	// ascending, disjoint, everything that is somewhere. It must not block.
	Acked(log overlay.LogID, durable []overlay.Durable)
}

// Records looks up single records; overlay.Pillar does that too.
type Records interface {
	// Trace says of at most overlay.MaxStubs records whether they are held, and
	// how they came, or why they are not.
	Trace(sought []overlay.Sought) ([]overlay.Trace, error)
	// Get returns the bytes of those of ids that are held, in order, at most
	// about max bytes of them but at least one, and the index in ids to go on
	// from. Roster records are among what it finds.
	Get(ids []overlay.RecordID, max int) (records [][]byte, next int, err error)
	// Has reports which of ids are held durably.
	Has(ids []overlay.RecordID) ([]bool, error)
	// Each calls fn for every record held that expires at or after from
	// (Unix ms), in no particular order, until fn returns false.
	Each(from uint64, fn func(id overlay.RecordID, created, expires uint64) bool) error
	// Near calls fn for the records of an expiry day whose ID begins with prefix,
	// ascending, until fn returns false. It reads the disk, their bytes
	// included; r and those are valid until fn returns.
	Near(day overlay.Day, prefix []byte, fn func(r overlay.StoredRecord) bool) error
}

// Devices asks the devices that are connected to a pillar; overlay.Pillar does.
type Devices interface {
	// LocateHere passes on the question of a node of another pillar, from, that
	// passed it on. It does not wait. answer is called, from any goroutine, with
	// what the devices say; it does not block.
	LocateHere(from identity.PillarID, q *overlay.Locate, answer func(overlay.Presence))
}

// Notes keeps replication's own small values on the pillar's disk;
// overlay.Pillar does. Keys start with "gossip/".
type Notes interface {
	// LoadNote returns a copy of a value, nil if there is none.
	LoadNote(key string) ([]byte, error)
	// SaveNote returns when the value is durable; nil data deletes it.
	SaveNote(ctx context.Context, key string, data []byte) error
	// SaveNotes saves what notes returns, all or nothing. It is called in the order
	// of commits, as overlay.LogRun.Notes is, so that of what both write the newer
	// stays; not at all if the Replica is ending. It must not block.
	SaveNotes(ctx context.Context, notes func() ([]overlay.Value, error)) error
}
