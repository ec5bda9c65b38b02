package overlay

import (
	"errors"
	"time"
)

// Errors of a Store.
var (
	// ErrStoreFailed: the disk refused a write; the store serves reads only
	// until the process is restarted. Every later Commit, Drop and Apply returns
	// it, wrapped together with the cause.
	ErrStoreFailed = errors.New("the store failed and is read-only until a restart")
	// ErrStoreDamaged: what was to be read is there and cannot be read, because the
	// disk gives back other bytes than were written. See Store.Mend.
	ErrStoreDamaged = errors.New("the store is damaged")
	// ErrStoreClosed: used after Close.
	ErrStoreClosed = errors.New("the store is closed")
)

// Day is an expiry day: full days from the Unix epoch to a record's expiry, in
// UTC. Records are kept by it so that expiry drops whole ranges.
type Day uint32

// DayMillis is the length of a Day in milliseconds.
const DayMillis = 24 * 60 * 60 * 1000

// DayOf returns the day of an expiry in Unix milliseconds.
func DayOf(expires uint64) Day { return Day(expires / DayMillis) }

// Ref names a record for a lookup. A caller that knows the expiry day saves
// the search through all of them.
type Ref struct {
	ID  RecordID
	Day Day // 0: unknown
}

// Via says how a record came to this pillar.
type Via uint8

// How a record came.
const (
	ViaSubmit Via = iota + 1
	ViaFollow
	ViaAudit
	ViaBundle
)

// String returns the word of contract.md.
func (v Via) String() string {
	switch v {
	case ViaSubmit:
		return "submit"
	case ViaFollow:
		return "follow"
	case ViaAudit:
		return "audit"
	case ViaBundle:
		return "bundle"
	default:
		return "unknown"
	}
}

// MaxDots is how many places in logs are kept for one record.
const MaxDots = 16

// StoredRecord is a record as a Store keeps it.
type StoredRecord struct {
	ID       RecordID
	Local    uint64    // local commit sequence, from 1, ascending; good only at this pillar
	Created  uint64    // Unix ms, from the record
	Expires  uint64    // Unix ms, from the record
	Received time.Time // millisecond precision
	Via      Via
	Dots     []Dot  // first one first; at most MaxDots; empty if it came by no log
	Raw      []byte // the record's bytes as received; valid until the callback returns
}

// Arrival is a record to be stored: new, or known and now seen at one more
// place in a log.
type Arrival struct {
	ID      RecordID
	Created uint64  // Unix milliseconds
	Expires uint64  // Unix milliseconds
	Raw     []byte  // [payload, signature], not kept after Commit returns; nil: only the dot of a known record
	Boxes   []BoxID // where to file it
	Dot     Dot     // zero if it came by no log
	Via     Via
}

// Why says why a log entry has no body.
type Why uint8

// Reasons for a bodiless entry.
const (
	WhyNone    Why = iota // it has one
	WhyExpired            // its life was over
	WhyTrimmed            // its holder trimmed it
	WhyVoid               // its bytes are no valid record
	// WhyGone stands for a run of entries that are all expired and whose own
	// entries are not kept. It is stored at the last of them; ID is the chain's
	// hash there, Expires the latest expiry among them. The entry before it in
	// the log, or the log's start, is where the run begins.
	WhyGone
)

// LogEntry is one place of a log.
type LogEntry struct {
	Expires uint64 // Unix milliseconds
	ID      RecordID
	Why     Why
}

// LogAppend is a run of entries to write to one log.
type LogAppend struct {
	Log     LogID
	From    uint64 // sequence of Entries[0]
	Entries []LogEntry
}

// LogCut is entries From..To of a log, to be removed.
type LogCut struct {
	Log      LogID
	From, To uint64
}

// Place is an entry of a box, by its key.
type Place struct {
	Day   Day
	Box   BoxID
	Local uint64
}

// Forgotten is a record to be removed, with the boxes it is filed in as far as
// they are known. The one that its bytes are in is always known to the Store.
type Forgotten struct {
	ID  RecordID
	Day Day
	// Local is the record's local commit sequence, 0 if there is none and only
	// what is left of it is to go. A record that has another one was stored since
	// somebody looked: it stays.
	Local uint64
	Boxes []BoxID
}

// Value is a small opaque value; nil data deletes the key. Keys are at most 64
// bytes, values at most 64 KiB; the first bytes of a key name its owner,
// e.g. "head/".
type Value struct {
	Key  string
	Data []byte
}

// Commit is what one group commit writes, all or nothing.
type Commit struct {
	Time    time.Time // becomes StoredRecord.Received
	Records []Arrival // no ID twice
	Logs    []LogAppend
	DropLog []LogID  // logs whose entries are all removed, before Logs are written
	CutLog  []LogCut // removed before Logs are written
	Values  []Value  // in order: of two with one key the later counts

	// What a scrub repairs, before Records are stored.

	// Forget removes records, or what is left of them; one that is in Records as
	// well is new.
	Forget []Forgotten
	// Unfile removes box entries, and with one the bytes that are in it.
	Unfile []Place
}

// Committed is what a Store says of a Commit.
type Committed struct {
	// Local[i] is the local commit sequence of Records[i]: a fresh one, higher
	// than all before it, if New[i], else the one it got when it first came.
	Local []uint64
	// New[i]: Records[i] was not stored before. If false, only its Dot was
	// added: bytes, boxes, Received and Via stay what they were.
	New []bool
	// Again has the indexes of Records that are New only because the bytes were
	// missing of what was stored.
	Again []int
	// Forgotten[i]: there was a record of Forget[i] and it is removed.
	Forgotten []bool
}

// Store keeps a pillar's records, logs and small values. It is safe for
// concurrent use; commits are made one after the other. The real one is
// store.Pebble, its twin in memory store.Memory; both pass storetest.
//
// A Store knows nothing of signatures, clocks or policy: what it is given is
// verified, and what is hidden because its life is over is its caller's doing.
type Store interface {
	// Commit writes c atomically and returns when it is durable: one batch,
	// one fsync. It keeps nothing of c. After ErrStoreFailed c may or may not be
	// there after a restart, no view shows it, and the store takes no more
	// commits. Any other error is the caller's (a record twice, a value too
	// large) or a failed read: nothing was written and the store goes on. What
	// cannot be read because it is damaged is an ErrStoreDamaged, here and in Views.
	Commit(c *Commit) (Committed, error)
	// View returns a consistent snapshot of everything committed so far, and
	// only of what is durable; it waits for no running commit. It must be
	// closed; many may be open, none for longer than one request.
	View() View
	// Drop removes every record, box entry and dot whose expiry day is before
	// day, as a range: the cost does not depend on how many there are.
	// Log entries stay; Commit.DropLog removes them. A record that was dropped
	// and is committed again is new.
	Drop(before Day) error
	// Mend cuts out of the store what cannot be read, because the disk gives back
	// other bytes than were written, so that all else can: records, box entries, log
	// entries and values are missing then, or are what they were before, as if somebody
	// had deleted them by hand. It returns at how many places something is missing, and
	// what it could not mend and what to do, see StoreStats.Damaged. It is one of the
	// commits. Views that are open end, and reads fail with ErrStoreDamaged meanwhile.
	Mend() (gone int, err error)
	// Stats returns sizes and counts, cheaply enough for every request.
	Stats() StoreStats
	// Close waits for running commits and reads and releases the files; it must
	// not be called from a callback. A second Close does nothing. After it,
	// everything returns ErrStoreClosed, views still open included.
	Close() error
}

// View is a snapshot of a Store. Callbacks return false to stop; slices they
// are given are valid until they return, and are not to be changed. A View is
// used by one goroutine; callbacks may read from it again.
type View interface {
	// Get calls fn for every ref that is stored, in the order of refs; i is its
	// index there.
	Get(refs []Ref, fn func(i int, r StoredRecord) bool) error
	// Has is Get without bytes: has[i] is set if refs[i] is stored.
	Has(refs []Ref) (has []bool, err error)
	// Log calls fn for the entries of log from sequence from on, ascending.
	Log(log LogID, from uint64, fn func(seq uint64, e LogEntry) bool) error
	// Box calls fn for the records of box with a local sequence in (after, to],
	// ascending, over all expiry days from minDay on. Raw is set only if
	// bodies.
	Box(box BoxID, after, to uint64, minDay Day, bodies bool, fn func(r BoxEntry) bool) error
	// Records calls fn for every record with an expiry day from minDay on, by
	// (day, ID), without bytes.
	Records(minDay Day, fn func(day Day, r StoredRecord) bool) error
	// Near calls fn for every record of an expiry day whose ID begins with
	// prefix, ascending by ID, without bytes. It reads nothing else.
	Near(day Day, prefix []byte, fn func(r StoredRecord) bool) error
	// Values calls fn for every value whose key starts with prefix, ascending.
	Values(prefix string, fn func(key string, data []byte) bool) error
	// LastLocal is the newest local commit sequence in the snapshot.
	LastLocal() uint64
	// Parts shows what the snapshot is made of.
	Parts() Parts
	Close() error
}

// Parts is a View for the scrub: the columns of the store one by one, whether
// or not they fit together. Everything else of a View passes over records whose
// bytes are missing, but for Has and Records, which look at no bytes.
type Parts interface {
	// Days returns the expiry days of which anything is stored, ascending.
	Days() ([]Day, error)
	// Heads calls fn for the records of a day whose ID follows after, ascending,
	// without bytes.
	Heads(day Day, after RecordID, fn func(r StoredRecord) bool) error
	// Places calls fn for the box entries of a day that follow after, by (box,
	// local sequence). Raw is nil if the entry has not got the bytes itself.
	Places(day Day, after Place, fn func(p Place, e BoxEntry) bool) error
	// Bodies calls fn for the bytes of records that are in no box, of the IDs of
	// a day that follow after, ascending.
	Bodies(day Day, after RecordID, fn func(id RecordID, raw []byte) bool) error
	// Locals returns the local sequences of records, 0 for one that is not
	// stored; the Days of refs must be known.
	Locals(refs []Ref) ([]uint64, error)
	// Filed reports which box entries there are.
	Filed(places []Place) ([]bool, error)
	// Logs calls fn for every log that has entries.
	Logs(fn func(log LogID) bool) error
}

// BoxEntry is a record's place in a box.
type BoxEntry struct {
	Local   uint64
	ID      RecordID
	Created uint64 // Unix ms; with Expires, so that tallies need no bodies
	Expires uint64 // Unix ms
	Dot     Dot    // the one it came by; zero if it came by no log, even if it was seen in one later
	Raw     []byte // if asked for
}

// StoreStats are a store's sizes.
type StoreStats struct {
	Records   uint64 // stored and not dropped, exactly
	Bytes     uint64 // on disk, as of about a second ago
	LastLocal uint64
	Failed    error // why commits are refused; nil while they are taken
	Unread    int   // files in which damage was found and that Mend was not tried on yet
	Damaged   error // what Mend could not mend, and what to do; nil: nothing
}

// Table is a node's disk: an ordered map of small binary keys and values with
// atomic durable batches. The real one is store.PebbleTable, its twin in memory
// store.MemoryTable; both pass storetest.
type Table interface {
	// Apply writes all of ws, in order, atomically, and returns when they are
	// durable; it keeps nothing of ws. A Write with nil Data deletes. After
	// ErrStoreFailed ws may or may not be there after a restart and the table
	// takes no more writes.
	Apply(ws []Write) error
	// Get returns a copy of the value of key; nil if there is none.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for every key with prefix that is greater than after (nil:
	// from the first), ascending, until fn returns false. The slices are valid
	// until fn returns. It sees one state; fn may call Apply.
	Scan(prefix, after []byte, fn func(key, data []byte) bool) error
	// Close waits for what runs and releases the files. After it, everything
	// returns ErrStoreClosed.
	Close() error
}

// Write is one change of a Table.
type Write struct {
	Key  []byte
	Data []byte // nil: delete; empty is a value
}
