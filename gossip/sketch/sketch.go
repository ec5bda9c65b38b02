package sketch

import (
	"fmt"
	"slices"
)

// MaxCells bounds everything here that has cells.
const MaxCells = 1 << 24

// Sketch is the first cells of a set that changes. Adding or removing a symbol
// touches about 2 ln(cells) of them.
type Sketch struct {
	hash  hasher
	cells []Cell // and one more, that takes what lies past the last
}

// New returns the Sketch of an empty set: its first n cells, at most MaxCells.
func New(key Key, n int) *Sketch {
	if n < 0 || n > MaxCells {
		panic(fmt.Sprintf("sketch: %d cells", n))
	}
	return &Sketch{hash: newHasher(key), cells: make([]Cell, n+1)}
}

// Add puts symbols in, which must not be there. Many at once take a third of
// the time each.
func (s *Sketch) Add(symbols ...uint64) { s.apply(symbols, 1) }

// Remove takes symbols out, which must be there.
func (s *Sketch) Remove(symbols ...uint64) { s.apply(symbols, -1) }

// apply walks four symbols at a time: each step of a walk waits for the one
// before it, so the processor has time for four.
func (s *Sketch) apply(symbols []uint64, sign int32) {
	n := int64(s.Len())
	cells := s.cells[:n+1]
	for len(symbols) >= 4 {
		v0, v1, v2, v3 := symbols[0], symbols[1], symbols[2], symbols[3]
		h0, h1, h2, h3 := s.hash.hash(v0), s.hash.hash(v1), s.hash.hash(v2), s.hash.hash(v3)
		p0, p1, p2, p3 := newPlaces(h0), newPlaces(h1), newPlaces(h2), newPlaces(h3)
		for min(p0.at, p1.at, p2.at, p3.at) < n {
			cells[min(p0.at, n)].add(v0, uint32(h0), sign)
			cells[min(p1.at, n)].add(v1, uint32(h1), sign)
			cells[min(p2.at, n)].add(v2, uint32(h2), sign)
			cells[min(p3.at, n)].add(v3, uint32(h3), sign)
			p0.next()
			p1.next()
			p2.next()
			p3.next()
		}
		symbols = symbols[4:]
	}
	for _, v := range symbols {
		h := s.hash.hash(v)
		for p := newPlaces(h); p.at < n; p.next() {
			cells[p.at].add(v, uint32(h), sign)
		}
	}
}

// Len is how many cells there are.
func (s *Sketch) Len() int { return len(s.cells) - 1 }

// Cells returns the cells from..to, to excluded, cut to what there are. They
// are the Sketch's own: to be read only, and before it changes.
func (s *Sketch) Cells(from, to int) []Cell {
	to = min(to, s.Len())
	if from < 0 || from >= to {
		return nil
	}
	return s.cells[from:to:to]
}

// Sub takes everything out that is in t, as if by Remove, in one pass. Both
// must have the same key and number of cells.
func (s *Sketch) Sub(t *Sketch) {
	if s.hash != t.hash || len(s.cells) != len(t.cells) {
		panic("sketch: subtracting another kind of sketch")
	}
	for i := range s.cells {
		s.cells[i] = s.cells[i].Sub(t.cells[i])
	}
}

// Clone returns a copy.
func (s *Sketch) Clone() *Sketch {
	return &Sketch{hash: s.hash, cells: slices.Clone(s.cells)}
}
