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
	cells []Cell
}

// New returns the Sketch of an empty set: its first n cells, at most MaxCells.
func New(key Key, n int) *Sketch {
	if n < 0 || n > MaxCells {
		panic(fmt.Sprintf("sketch: %d cells", n))
	}
	return &Sketch{hash: newHasher(key), cells: make([]Cell, n)}
}

// Add puts symbols in, which must not be there. Many at once take a third of
// the time each.
func (s *Sketch) Add(symbols ...uint64) { s.apply(symbols, 1) }

// Remove takes symbols out, which must be there.
func (s *Sketch) Remove(symbols ...uint64) { s.apply(symbols, -1) }

// lanes is how many symbols are walked at a time: each step of a walk waits for
// the one before it, so the processor has time for so many.
const lanes = 8

// walk is a symbol on its way through the cells.
type walk struct {
	places
	symbol uint64
	check  uint32
}

// apply walks the symbols; where one is through, the next takes its lane.
func (s *Sketch) apply(symbols []uint64, sign int32) {
	n := int64(s.Len())
	if n == 0 {
		return
	}
	cells := s.cells[:n]
	var walks [lanes]walk
	live := min(lanes, len(symbols))
	for i, v := range symbols[:live] {
		h := s.hash.hash(v)
		walks[i] = walk{newPlaces(h), v, uint32(h)}
	}
	symbols = symbols[live:]
	for live > 0 {
		for i := 0; i < live; i++ {
			w := &walks[i]
			cells[w.at].add(w.symbol, w.check, sign)
			if w.at = after(w.at, w.draw()); w.at < n {
				continue
			}
			if len(symbols) == 0 {
				live--
				*w = walks[live]
				continue // what took its place waits for the next turn
			}
			v := symbols[0]
			symbols = symbols[1:]
			h := s.hash.hash(v)
			*w = walk{newPlaces(h), v, uint32(h)}
		}
	}
}

// Len is how many cells there are.
func (s *Sketch) Len() int { return len(s.cells) }

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
