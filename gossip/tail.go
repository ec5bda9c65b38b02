package gossip

import (
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of what is kept in memory for live followers. Who is further behind
// reads from the store.
const (
	tailBytes   = 4 << 20  // of one log
	tailsBytes  = 64 << 20 // of all logs together
	tailKeep    = 30 * time.Second
	headEvery   = 1024    // entries in which one head is kept for serving history
	headBytes   = 1 << 20 // and bytes
	entryMemory = 128     // counted for an entry beside its body
	frameRoom   = 1 << 10 // taken in a frame by what surrounds the entries
)

// segment is one commit's run of a log.
type segment struct {
	from    uint64
	entries []overlay.BatchEntry
	lead    *lead
	bytes   int
	at      time.Time
}

func (s *segment) last() uint64 { return s.from + uint64(len(s.entries)) - 1 }

// tail is the newest entries of a log, without gaps.
type tail struct {
	segments []*segment
	bytes    int
}

// push appends s and drops the oldest beyond limit bytes. It returns how many
// bytes the tail grew by.
func (t *tail) push(s *segment, limit int) int {
	before := t.bytes
	if n := len(t.segments); n > 0 && t.segments[n-1].last()+1 != s.from {
		t.segments, t.bytes = nil, 0
	}
	t.segments = append(t.segments, s)
	t.bytes += s.bytes
	for len(t.segments) > 1 && t.bytes > limit {
		t.drop()
	}
	return t.bytes - before
}

func (t *tail) drop() {
	t.bytes -= t.segments[0].bytes
	t.segments[0] = nil
	t.segments = t.segments[1:]
	if len(t.segments) == 0 {
		t.segments = nil
	}
}

// expire drops what is older than before, and returns how many bytes that was.
func (t *tail) expire(before time.Time) int {
	was := t.bytes
	for len(t.segments) > 0 && t.segments[0].at.Before(before) {
		t.drop()
	}
	return was - t.bytes
}

// run collects what follows from on, as much as fits one Batch: at most
// MaxBatch entries, about FrameTarget bytes, at least one entry. It is nil if
// from lies before the tail or after its end.
func (t *tail) run(from uint64) (entries []overlay.BatchEntry, end *lead) {
	if len(t.segments) == 0 || from < t.segments[0].from || from > t.segments[len(t.segments)-1].last() {
		return nil, nil
	}
	i := len(t.segments) - 1
	for t.segments[i].from > from {
		i--
	}
	size := 0
	for ; i < len(t.segments); i++ {
		s := t.segments[i]
		part := s.entries[from-s.from:]
		n, bytes := fit(part, overlay.MaxBatch-len(entries), overlay.FrameTarget-size)
		if n == 0 {
			break
		}
		end = s.lead
		if entries == nil {
			entries = part[:n:n]
		} else {
			entries = append(entries, part[:n]...)
		}
		from, size = from+uint64(n), size+bytes
		if n < len(part) {
			break
		}
	}
	return entries, end
}

// fit returns how many of entries go into a batch with room for that many
// entries and bytes; one goes in if there is any room at all.
func fit(entries []overlay.BatchEntry, room, bytes int) (n, size int) {
	for n < len(entries) && n < room && size < bytes {
		size += entrySize(&entries[n])
		n++
	}
	return n, size
}

// entrySize is about what an entry takes in a Batch.
func entrySize(e *overlay.BatchEntry) int {
	if e.Raw != nil {
		return len(e.Raw)
	}
	return 56 + len(e.Void)
}
