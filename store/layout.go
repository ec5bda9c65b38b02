package store

import (
	"encoding/binary"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Keys and values of a pillar's store, format 1. Integers are big-endian, so
// that keys sort by them.
//
// Pebble checks every block that it reads from disk, so a value that is not what
// was written comes from a hand or from broken memory. One that does not have its
// shape counts as missing: reads pass over it, and it goes with what the scrub
// removes, or with its day. What the bytes of records are nobody checks here.
//
//	'e' day4 'b' box16 local8 -> id32 created8 expires8 form1 dot24 rest
//	                                                    a record's place in a box
//	'e' day4 'd'              -> count8 last8            the day: records, newest local sequence
//	'e' day4 'o' id32         -> raw                     bytes of a record that is in no box
//	'e' day4 'r' id32         -> local8 received8 created8 expires8 via1 form1 home16 n1 n*dot24
//	                                                    a record but for its bytes
//	'l' log16 seq8            -> expires8 id32 why1
//	'v' key                   -> data
//	"zformat"                 -> version4 kind
//	"zlocal"                  -> local8                  newest local sequence ever given out
//
// A dot24 is log16 seq8, all zero for none. home is the box that has the
// record's bytes, if form says so. In a box entry, rest is the record's bytes
// (formHere) or the box16 where they are (formElsewhere).
//
// Why so:
//   - Everything that expires begins with its expiry day, so dropping days is
//     one range deletion over one range of keys, and whole files go at once. A
//     box is then spread over at most 34 days, which Box merges; it skips days
//     with nothing newer than the reader's position without looking.
//   - A record's bytes lie in its first box, in the order in which the box is
//     read: a mailbox page is a sequential read (1.7 M messages a second from
//     memory, 1.3 M from a cold disk), where a fetch by ID for every entry is a
//     random one (11 k from a cold disk). Records in several boxes have their
//     bytes once and pay the fetch in the others.
//   - What is left under 'r' is small, so the index that duplicate checks and
//     scans for anti-entropy go through mostly fits in memory; and a further
//     dot rewrites a few dozen bytes, in place of a key of its own that every
//     read would have to look for.
const (
	spaceExpiring = 'e'
	spaceLog      = 'l'
	spaceValue    = 'v'

	kindBox    = 'b'
	kindDay    = 'd'
	kindBody   = 'o'
	kindRecord = 'r'

	formAlone     = 0 // the bytes are under kindBody
	formHere      = 1 // the bytes are in this box entry, or in the box called home
	formElsewhere = 2 // the bytes are in another box

	dayLen    = 1 + 4 // space, day
	recordLen = dayLen + 1 + 32
	boxLen    = dayLen + 1 + 16 + 8
	logLen    = 1 + 16 + 8
	dotLen    = 16 + 8

	headLen  = 8 + 8 + 8 + 8 + 1 + 1 + 16 + 1 // before the dots
	placeLen = 32 + 8 + 8 + 1 + dotLen        // before the rest
)

var keyLocal = []byte("zlocal")

// appendDay appends the beginning of all keys of a day.
func appendDay(b []byte, day overlay.Day) []byte {
	return binary.BigEndian.AppendUint32(append(b, spaceExpiring), uint32(day))
}

// afterDay appends the key that follows all keys of a day.
func afterDay(b []byte, day overlay.Day) []byte {
	if day == ^overlay.Day(0) {
		return append(b, spaceExpiring+1)
	}
	return appendDay(b, day+1)
}

func dayKey(b []byte, day overlay.Day) []byte {
	return append(appendDay(b, day), kindDay)
}

func recordKey(b []byte, day overlay.Day, id *overlay.RecordID) []byte {
	return append(append(appendDay(b, day), kindRecord), id[:]...)
}

func bodyKey(b []byte, day overlay.Day, id *overlay.RecordID) []byte {
	return append(append(appendDay(b, day), kindBody), id[:]...)
}

func boxKey(b []byte, day overlay.Day, box *overlay.BoxID, local uint64) []byte {
	b = append(append(appendDay(b, day), kindBox), box[:]...)
	return binary.BigEndian.AppendUint64(b, local)
}

func logKey(b []byte, log *overlay.LogID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append(b, spaceLog), log[:]...), seq)
}

func valueKey(b []byte, key string) []byte {
	return append(append(b, spaceValue), key...)
}

// successor returns the smallest key that is greater than every key with this
// prefix; nil if there is none.
func successor(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			s := append([]byte(nil), prefix[:i+1]...)
			s[i]++
			return s
		}
	}
	return nil
}

func appendDot(b []byte, d *overlay.Dot) []byte {
	return binary.BigEndian.AppendUint64(append(b, d.Log[:]...), d.Seq)
}

func parseDot(b []byte) overlay.Dot {
	return overlay.Dot{Log: overlay.LogID(b[:16]), Seq: binary.BigEndian.Uint64(b[16:dotLen])}
}

// head is the value of a record key.
type head struct {
	local    uint64
	received uint64 // Unix milliseconds, like the next two
	created  uint64
	expires  uint64
	via      overlay.Via
	form     byte // formAlone or formHere
	home     overlay.BoxID
	dots     []overlay.Dot
}

func (h *head) size() int { return headLen + len(h.dots)*dotLen }

func (h *head) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, h.local)
	b = binary.BigEndian.AppendUint64(b, h.received)
	b = binary.BigEndian.AppendUint64(b, h.created)
	b = binary.BigEndian.AppendUint64(b, h.expires)
	b = append(b, byte(h.via), h.form)
	b = append(b, h.home[:]...)
	b = append(b, byte(len(h.dots)))
	for i := range h.dots {
		b = appendDot(b, &h.dots[i])
	}
	return b
}

// parse reads a value, reusing the memory of h.dots. It reports false if the
// value is damaged.
func (h *head) parse(v []byte) bool {
	if len(v) < headLen || len(v) != headLen+int(v[headLen-1])*dotLen {
		return false
	}
	h.local = binary.BigEndian.Uint64(v)
	h.received = binary.BigEndian.Uint64(v[8:])
	h.created = binary.BigEndian.Uint64(v[16:])
	h.expires = binary.BigEndian.Uint64(v[24:])
	h.via = overlay.Via(v[32])
	h.form = v[33]
	h.home = overlay.BoxID(v[34:50])
	h.dots = h.dots[:0]
	for v = v[headLen:]; len(v) > 0; v = v[dotLen:] {
		h.dots = append(h.dots, parseDot(v))
	}
	return true
}

// record returns what h says of the record id, without bytes. Its dots share
// h's memory.
func (h *head) record(id overlay.RecordID) overlay.StoredRecord {
	return overlay.StoredRecord{
		ID: id, Local: h.local, Created: h.created, Expires: h.expires, Via: h.via, Dots: h.dots,
		Received: time.UnixMilli(int64(h.received)).UTC(),
	}
}

// appendPlace appends a box entry of a.
func appendPlace(b []byte, a *overlay.Arrival, form byte, rest []byte) []byte {
	b = append(b, a.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, a.Created)
	b = binary.BigEndian.AppendUint64(b, a.Expires)
	b = appendDot(append(b, form), &a.Dot)
	return append(b, rest...)
}

// parsePlace reads a box entry; rest is the record's bytes or where they are. It
// reports false if the value is damaged.
func parsePlace(v []byte, r *overlay.BoxEntry) (form byte, rest []byte, ok bool) {
	if len(v) < placeLen {
		return 0, nil, false
	}
	r.ID = overlay.RecordID(v[:32])
	r.Created = binary.BigEndian.Uint64(v[32:])
	r.Expires = binary.BigEndian.Uint64(v[40:])
	r.Dot = parseDot(v[49:placeLen])
	form, rest = v[48], v[placeLen:]
	return form, rest, form == formHere || form == formElsewhere && len(rest) == len(overlay.BoxID{})
}

const entryLen = 8 + 32 + 1

func appendEntry(b []byte, e *overlay.LogEntry) []byte {
	b = binary.BigEndian.AppendUint64(b, e.Expires)
	return append(append(b, e.ID[:]...), byte(e.Why))
}

// parseEntry reads a log entry. It reports false if the value is damaged.
func parseEntry(v []byte) (overlay.LogEntry, bool) {
	if len(v) != entryLen {
		return overlay.LogEntry{}, false
	}
	return overlay.LogEntry{
		Expires: binary.BigEndian.Uint64(v),
		ID:      overlay.RecordID(v[8:40]),
		Why:     overlay.Why(v[40]),
	}, true
}

// dayInfo is what is known of one expiry day.
type dayInfo struct {
	day   overlay.Day
	count uint64 // records
	last  uint64 // newest local sequence among them
}

func (d *dayInfo) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, d.count), d.last)
}

// summary is what is kept in memory about a state of the store. It is never
// changed once published.
type summary struct {
	local   uint64    // newest local sequence
	records uint64    // sum over days
	days    []dayInfo // ascending, those that have records
}
