package overlay

import (
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// Messages between a node and a pillar. A session is one stream; both sides
// may send at any time after their Hello. N ties an answer to its question;
// nodes count it up.

// BoxKind says which list of records a Resume, Page, Cursor or Saved is about.
type BoxKind uint64

// The lists a node reads.
const (
	BoxMail      BoxKind = 0 // the account's mailbox
	BoxDirectory BoxKind = 1 // all account and device records
)

// Bounds of one message.
const (
	MaxSubmit  = 1024 // records of a Submit
	MaxPage    = 1024 // records of a Page or Push
	MaxFind    = 256  // accounts of a Find
	MaxWatched = 4096 // accounts a session watches
	MaxDays    = 64   // days of a Check
	maxRoster  = 4096 // records of a roster
	rosterPart = 512  // of them in one message; the rest follows in further ones
	maxText    = 1024 // bytes of an error's text
)

// Register publishes the node's account and device records and asks for a
// session: [40, account record, device record]. For an account the device has
// no key of, the account record may be empty if the pillar has one.
type Register struct {
	Account []byte
	Device  []byte
}

// Type implements Message.
func (*Register) Type() MessageType { return TypeRegister }

func (m *Register) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeRegister))
	b = canon.AppendBin(b, m.Account)
	return canon.AppendBin(b, m.Device)
}

func (m *Register) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.Account, m.Device = r.Bin(MaxRecord), r.Bin(MaxRecord)
}

// Registered answers a Register once both records are durable:
// [41, error, roster records, run, end, max body]. With an error the session
// ends.
type Registered struct {
	Err    *Error
	Roster [][]byte
	// Run names this run of the pillar: local positions of another run mean
	// nothing.
	Run uint64
	// Place is the local commit sequence up to which the directory was complete.
	Place uint64
	// MaxBody is the largest plaintext this pillar takes, in bytes.
	MaxBody uint64
}

// Type implements Message.
func (*Registered) Type() MessageType { return TypeRegistered }

func (m *Registered) append(b []byte) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendUint(b, uint64(TypeRegistered))
	b = appendError(b, m.Err)
	b = appendRecords(b, m.Roster)
	b = canon.AppendUint(b, m.Run)
	b = canon.AppendUint(b, m.Place)
	return canon.AppendUint(b, m.MaxBody)
}

func (m *Registered) read(r *canon.Reader, n int) {
	fields(r, n, 5)
	m.Err = readError(r)
	m.Roster = readRecords(r, maxRoster)
	m.Run, m.Place, m.MaxBody = r.Uint(), r.Uint(), r.Uint()
}

// Submit hands over records, numbered First, First+1, …: [42, first, concern,
// records]. Each gets one line of a Result.
type Submit struct {
	First   uint64
	Concern uint64 // copies the node wants to hear of
	Records [][]byte
}

// Type implements Message.
func (*Submit) Type() MessageType { return TypeSubmit }

func (m *Submit) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeSubmit))
	b = canon.AppendUint(b, m.First)
	b = canon.AppendUint(b, m.Concern)
	return appendRecords(b, m.Records)
}

func (m *Submit) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.First, m.Concern, m.Records = r.Uint(), r.Uint(), readRecords(r, MaxSubmit)
}

// ResultLine is the answer to one submitted record.
type ResultLine struct {
	N      uint64
	Err    *Error // refused; nil: durable here
	Dot    Dot    // its place in this pillar's log, or the first it had elsewhere
	Copies uint64 // pillars known to hold it durably, this one included
}

// Result answers submissions, in no particular order: [43, lines], a line
// being [n, error, log bin, seq, copies].
type Result struct {
	Lines []ResultLine
}

// Type implements Message.
func (*Result) Type() MessageType { return TypeResult }

func (m *Result) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeResult))
	b = canon.AppendArray(b, len(m.Lines))
	for i := range m.Lines {
		l := &m.Lines[i]
		b = canon.AppendArray(b, 5)
		b = canon.AppendUint(b, l.N)
		b = appendError(b, l.Err)
		b = canon.AppendBin(b, l.Dot.Log[:])
		b = canon.AppendUint(b, l.Dot.Seq)
		b = canon.AppendUint(b, l.Copies)
	}
	return b
}

func (m *Result) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	k := r.ArrayMax(MaxSubmit)
	if r.Err() != nil {
		return
	}
	m.Lines = make([]ResultLine, k)
	for i := range m.Lines {
		r.Array(5)
		m.Lines[i] = ResultLine{N: r.Uint(), Err: readError(r), Dot: Dot{readLog(r), r.Uint()}, Copies: r.Uint()}
	}
}

// Watermark says that the dots From..To of Log, as far as this session
// submitted them, are durable on Copies pillars: [44, log bin, from, to, copies].
type Watermark struct {
	Log      LogID
	From, To uint64
	Copies   uint64
}

// Type implements Message.
func (*Watermark) Type() MessageType { return TypeWatermark }

func (m *Watermark) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeWatermark))
	b = canon.AppendBin(b, m.Log[:])
	b = canon.AppendUint(b, m.From)
	b = canon.AppendUint(b, m.To)
	return canon.AppendUint(b, m.Copies)
}

func (m *Watermark) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.Log, m.From, m.To, m.Copies = readLog(r), r.Uint(), r.Uint(), r.Uint()
}

// Resume asks for everything in a box that a cursor does not cover, and for
// the mailbox for every record as it is committed from then on: [45, box,
// cursor, live 0|1]. The answer is Pages, the last one marked.
type Resume struct {
	Box    BoxKind
	Cursor Vector
	Live   bool // push what comes after; without it the session is a standby's
}

// Type implements Message.
func (*Resume) Type() MessageType { return TypeResume }

func (m *Resume) append(b []byte) []byte {
	b = canon.AppendArray(b, 4)
	b = canon.AppendUint(b, uint64(TypeResume))
	b = canon.AppendUint(b, uint64(m.Box))
	b = AppendVector(b, m.Cursor)
	return canon.AppendUint(b, uint64(btoi(m.Live)))
}

func (m *Resume) read(r *canon.Reader, n int) {
	fields(r, n, 3)
	m.Box = BoxKind(r.UintMax(uint64(BoxDirectory)))
	m.Cursor = ReadVector(r)
	m.Live = r.UintMax(1) == 1
}

// Page is a part of a box, in local commit order: [46, box, to, last 0|1,
// records]. To is the local position up to which the box is read by it.
type Page struct {
	Box     BoxKind
	To      uint64
	Last    bool
	Records [][]byte
}

// Type implements Message.
func (*Page) Type() MessageType { return TypePage }

func (m *Page) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypePage))
	b = canon.AppendUint(b, uint64(m.Box))
	b = canon.AppendUint(b, m.To)
	b = canon.AppendUint(b, uint64(btoi(m.Last)))
	return appendRecords(b, m.Records)
}

func (m *Page) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.Box = BoxKind(r.UintMax(uint64(BoxDirectory)))
	m.To = r.Uint()
	m.Last = r.UintMax(1) == 1
	m.Records = readRecords(r, MaxPage)
}

// CursorMsg hands over a cursor: everything its vector covers was read and
// saved: [47, box, vector].
type CursorMsg struct {
	Box    BoxKind
	Cursor Vector
}

// Type implements Message.
func (*CursorMsg) Type() MessageType { return TypeCursor }

func (m *CursorMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeCursor))
	b = canon.AppendUint(b, uint64(m.Box))
	return AppendVector(b, m.Cursor)
}

func (m *CursorMsg) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.Box = BoxKind(r.UintMax(uint64(BoxDirectory)))
	m.Cursor = ReadVector(r)
}

// Push delivers records of the mailbox as they are committed: [48, to,
// records]. It is Saved like a page. Records of watched accounts come with to 0
// and are not Saved.
type Push struct {
	To      uint64
	Records [][]byte
}

// Type implements Message.
func (*Push) Type() MessageType { return TypePush }

func (m *Push) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypePush))
	b = canon.AppendUint(b, m.To)
	return appendRecords(b, m.Records)
}

func (m *Push) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.To, m.Records = r.Uint(), readRecords(r, MaxPage)
}

// Saved says that the device has everything up to a local position on disk:
// [49, box, to].
type Saved struct {
	Box BoxKind
	To  uint64
}

// Type implements Message.
func (*Saved) Type() MessageType { return TypeSaved }

func (m *Saved) append(b []byte) []byte {
	b = canon.AppendArray(b, 3)
	b = canon.AppendUint(b, uint64(TypeSaved))
	b = canon.AppendUint(b, uint64(m.Box))
	return canon.AppendUint(b, m.To)
}

func (m *Saved) read(r *canon.Reader, n int) {
	fields(r, n, 2)
	m.Box, m.To = BoxKind(r.UintMax(uint64(BoxDirectory))), r.Uint()
}

// DayTally is the tally of a mailbox's records that expire on one day.
type DayTally struct {
	Day Day
	Tally
}

// Check is the mailbox check: the device's tally per expiry day over the
// mailbox's records created before Before and expiring at or after Front,
// digested under Key, which the device made for this check: [50, n, key bin,
// before, front, days], a day being [day, count, sum bin]. The answer is a
// Checked.
type Check struct {
	N             uint64
	Key           ShortKey
	Before, Front uint64 // Unix ms
	Days          []DayTally
}

// Type implements Message.
func (*Check) Type() MessageType { return TypeCheck }

func (m *Check) append(b []byte) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendUint(b, uint64(TypeCheck))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendBin(b, m.Key[:])
	b = canon.AppendUint(b, m.Before)
	b = canon.AppendUint(b, m.Front)
	b = canon.AppendArray(b, len(m.Days))
	for _, d := range m.Days {
		sum := d.Sum.Bytes()
		b = canon.AppendArray(b, 3)
		b = canon.AppendUint(b, uint64(d.Day))
		b = canon.AppendUint(b, d.Count)
		b = canon.AppendBin(b, sum[:])
	}
	return b
}

func (m *Check) read(r *canon.Reader, n int) {
	fields(r, n, 5)
	m.N = r.Uint()
	copy(m.Key[:], r.BinExact(len(m.Key)))
	m.Before, m.Front = r.Uint(), r.Uint()
	k := r.ArrayMax(MaxDays)
	for range k {
		r.Array(3)
		d := DayTally{Day: Day(r.UintMax(1<<32 - 1)), Tally: Tally{Count: r.Uint()}}
		if sum := r.BinExact(16); sum != nil {
			d.Sum = SumFromBytes(sum)
		}
		if r.Err() != nil {
			return
		}
		m.Days = append(m.Days, d)
	}
}

// Checked answers a Check: [51, n, more 0|1, days, IDs]: the days whose tallies
// differ and the IDs the pillar has in them, by (day, ID); none of either when
// all are equal. With more set, further Checked of the same n follow.
type Checked struct {
	N    uint64
	More bool
	Days []Day
	IDs  []RecordID
}

// Type implements Message.
func (*Checked) Type() MessageType { return TypeChecked }

func (m *Checked) append(b []byte) []byte {
	b = canon.AppendArray(b, 5)
	b = canon.AppendUint(b, uint64(TypeChecked))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.More)))
	b = canon.AppendArray(b, len(m.Days))
	for _, d := range m.Days {
		b = canon.AppendUint(b, uint64(d))
	}
	return appendIDs(b, m.IDs)
}

func (m *Checked) read(r *canon.Reader, n int) {
	fields(r, n, 4)
	m.N, m.More = r.Uint(), r.UintMax(1) == 1
	k := r.ArrayMax(MaxDays)
	for range k {
		m.Days = append(m.Days, Day(r.UintMax(1<<32-1)))
	}
	m.IDs = readIDs(r)
}

// Find asks for the newest account and device records of accounts, or for
// records by ID: [52, n, watch 0|1, accounts, IDs, only held 0|1]. Records of a
// mailbox are only given to its owner. The answer is Found.
type Find struct {
	N        uint64
	Watch    bool // push these accounts' records when they change; at most MaxWatched a session
	Accounts []identity.AccountID
	IDs      []RecordID
	// OnlyHeld asks which of IDs are held durably instead of for the records.
	OnlyHeld bool
}

// Type implements Message.
func (*Find) Type() MessageType { return TypeFind }

func (m *Find) append(b []byte) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendUint(b, uint64(TypeFind))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.Watch)))
	b = canon.AppendArray(b, len(m.Accounts))
	for _, a := range m.Accounts {
		b = canon.AppendBin(b, a)
	}
	b = appendIDs(b, m.IDs)
	return canon.AppendUint(b, uint64(btoi(m.OnlyHeld)))
}

func (m *Find) read(r *canon.Reader, n int) {
	fields(r, n, 5)
	m.N, m.Watch = r.Uint(), r.UintMax(1) == 1
	k := r.ArrayMax(MaxFind)
	for range k {
		a := readAccount(r)
		if r.Err() != nil {
			return
		}
		m.Accounts = append(m.Accounts, a)
	}
	m.IDs = readIDs(r)
	m.OnlyHeld = r.UintMax(1) == 1
}

// Found answers a Find: [53, n, more 0|1, error, records, held bin]. With more
// set, further Found of the same n follow.
type Found struct {
	N       uint64
	More    bool
	Err     *Error
	Records [][]byte
	Held    []byte // packed as in Held.Bits
}

// Type implements Message.
func (*Found) Type() MessageType { return TypeFound }

func (m *Found) append(b []byte) []byte {
	b = canon.AppendArray(b, 6)
	b = canon.AppendUint(b, uint64(TypeFound))
	b = canon.AppendUint(b, m.N)
	b = canon.AppendUint(b, uint64(btoi(m.More)))
	b = appendError(b, m.Err)
	b = appendRecords(b, m.Records)
	return canon.AppendBin(b, m.Held)
}

func (m *Found) read(r *canon.Reader, n int) {
	fields(r, n, 5)
	m.N, m.More, m.Err = r.Uint(), r.UintMax(1) == 1, readError(r)
	m.Records = readRecords(r, MaxIDs)
	m.Held = r.Bin(MaxIDs / 8)
}

// RosterMsg pushes pillar records and revocations that are new: [54, records].
type RosterMsg struct {
	Records [][]byte
}

// Type implements Message.
func (*RosterMsg) Type() MessageType { return TypeRoster }

func (m *RosterMsg) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeRoster))
	return appendRecords(b, m.Records)
}

func (m *RosterMsg) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	m.Records = readRecords(r, maxRoster)
}

// Busy says that the session cannot go on as asked: [55, error]. A node moves
// on to another pillar; on a Follow's stream the follower asks somebody else.
type Busy struct {
	Err *Error
}

// Type implements Message.
func (*Busy) Type() MessageType { return TypeBusy }

func (m *Busy) append(b []byte) []byte {
	b = canon.AppendArray(b, 2)
	b = canon.AppendUint(b, uint64(TypeBusy))
	return appendError(b, m.Err)
}

func (m *Busy) read(r *canon.Reader, n int) {
	fields(r, n, 1)
	m.Err = readError(r)
}

// Nudge is what a node says on its standby session to be told of mail, and how
// it is told: [58]. Its active pillar should have pushed what came; if nothing
// did, the node finds out whether that still lives. It ends with a Resume.
type Nudge struct{}

// Type implements Message.
func (*Nudge) Type() MessageType { return TypeNudge }

func (m *Nudge) append(b []byte) []byte {
	b = canon.AppendArray(b, 1)
	return canon.AppendUint(b, uint64(TypeNudge))
}

func (m *Nudge) read(r *canon.Reader, n int) { fields(r, n, 0) }

// appendError appends an error as [code bin, text bin, retry ms]; none as an
// empty list.
func appendError(b []byte, e *Error) []byte {
	if e == nil {
		return canon.AppendArray(b, 0)
	}
	b = canon.AppendArray(b, 3)
	b = canon.AppendBin(b, string(e.Code))
	b = canon.AppendBin(b, e.Text[:min(len(e.Text), maxText)])
	return canon.AppendUint(b, uint64(min(maxRetryMillis, max(0, e.Retry.Milliseconds()))))
}

func readError(r *canon.Reader) *Error {
	switch r.ArrayMax(3) {
	case 0:
		return nil
	case 3:
		return &Error{Code: Code(r.Bin(32)), Text: string(r.Bin(maxText)),
			Retry: time.Duration(r.UintMax(maxRetryMillis)) * time.Millisecond}
	default:
		r.Fail(canon.ErrType)
		return nil
	}
}

// maxRetryMillis bounds how far away a retry can be put: a day.
const maxRetryMillis = DayMillis
