package gossip

import (
	"cmp"
	"math"
	"slices"

	"github.com/obelisk-network/obelisk/overlay"
)

// span is a run of a log's sequences, both ends included.
type span struct{ from, to uint64 }

func (s span) len() uint64 { return s.to - s.from + 1 }

// spans are ascending and apart: between two of them something is missing.
type spans []span

// add returns s with from..to in it. It may change s.
func (s spans) add(from, to uint64) spans {
	if from > to {
		return s
	}
	i := 0
	for i < len(s) && s[i].to < from-1 { // from ≥ 1
		i++
	}
	j := i
	for j < len(s) && s[j].from <= to+1 {
		from, to = min(from, s[j].from), max(to, s[j].to)
		j++
	}
	return slices.Replace(s, i, j, span{from, to})
}

// plus returns a fresh union.
func (s spans) plus(t spans) spans {
	u := slices.Clone(s)
	for _, x := range t {
		u = u.add(x.from, x.to)
	}
	return u
}

// minus returns what of s is not in t.
func (s spans) minus(t spans) (rest spans) {
	for _, x := range s {
		for _, y := range t {
			if y.to < x.from {
				continue
			}
			if y.from > x.to {
				break
			}
			if y.from > x.from {
				rest = append(rest, span{x.from, y.from - 1})
			}
			if x.from = y.to + 1; x.from > x.to || x.from == 0 {
				break
			}
		}
		if x.from != 0 && x.from <= x.to {
			rest = append(rest, x)
		}
	}
	return rest
}

// within returns the part of s that lies in from..to.
func (s spans) within(from, to uint64) (part spans) {
	for _, x := range s {
		if f, t := max(x.from, from), min(x.to, to); f <= t {
			part = append(part, span{f, t})
		}
	}
	return part
}

// count is how many sequences s has, as many as fit.
func (s spans) count() (n uint64) {
	for _, x := range s {
		if l := x.len(); n > math.MaxUint64-l {
			return math.MaxUint64
		} else {
			n += l
		}
	}
	return n
}

// find returns the span that holds seq.
func (s spans) find(seq uint64) (span, bool) {
	i, ok := slices.BinarySearchFunc(s, seq, func(x span, seq uint64) int {
		switch {
		case x.to < seq:
			return -1
		case x.from > seq:
			return 1
		}
		return 0
	})
	if !ok {
		return span{}, false
	}
	return s[i], true
}

// top is the highest sequence; 0 if there is none.
func (s spans) top() uint64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].to
}

// heldSpans is what a state holds for the chain.
func heldSpans(s *overlay.LogState) spans {
	held := make(spans, 0, 1+len(s.Islands))
	if s.Seq > 0 {
		held = append(held, span{1, s.Seq})
	}
	for i := range s.Islands {
		held = held.add(s.Islands[i].After.Seq+1, s.Islands[i].End.Seq)
	}
	return held
}

// told is what a pillar says it holds of a log.
type told struct {
	pos  overlay.Position // its prefix; Seq 0 if it has only runs above it
	runs spans            // the prefix and what lies above it
}

func makeTold(pos overlay.Position, above []overlay.Span) told {
	t := told{pos: pos}
	if pos.Seq > 0 {
		t.runs = spans{{1, pos.Seq}}
	}
	for _, s := range above {
		t.runs = t.runs.add(s.From, s.To)
	}
	return t
}

// markOrder compares a lead's place with a sequence, for searches.
func markOrder(l *lead, seq uint64) int { return cmp.Compare(l.pos.Seq, seq) }
