package sketch

import "errors"

var (
	// ErrLimit: more cells than the Decoder was made for.
	ErrLimit = errors.New("more cells than allowed")
	// ErrForged: no difference of two sets has these cells. That a symbol is twice
	// in one of the sets, or that two checks are equal by chance, can look like
	// it too.
	ErrForged = errors.New("these cells are of no two sets")
)

// Decoder reads the symbols of a difference off its cells.
//
// What it does with n cells takes at most n symbols and O(n log n) steps,
// whatever the cells are, and its memory is bounded by the limit.
type Decoder struct {
	hash    hasher
	limit   int
	cells   []peeling
	full    int // cells that are not zero yet
	pure    []int32
	symbols []symbol
	known   map[uint64]struct{}
	err     error
}

// peeling is a cell without the symbols found so far.
type peeling struct {
	Cell
	waits bool // its index is in pure
}

// symbol is a found one, and how far it was taken out of the cells.
type symbol struct {
	value uint64
	check uint32
	sign  int32 // 1: only the minuend has it, -1: only the subtrahend
	places
}

// NewDecoder returns a Decoder that takes at most limit cells.
func NewDecoder(key Key, limit int) *Decoder {
	return &Decoder{hash: newHasher(key), limit: min(limit, MaxCells), known: map[uint64]struct{}{}}
}

// Feed takes the next cells of the difference. Each call costs a step per
// symbol found so far, so they should come by the dozen. After an error there
// is no way on; it is returned by every later Feed too.
func (d *Decoder) Feed(diff []Cell) error {
	if d.err == nil && len(diff) > d.limit-len(d.cells) {
		d.err = ErrLimit
	}
	if d.err != nil {
		return d.err
	}
	from := len(d.cells)
	for _, c := range diff {
		d.cells = append(d.cells, peeling{Cell: c})
		if c != (Cell{}) {
			d.full++
		}
	}
	for i := range d.symbols {
		d.remove(&d.symbols[i])
	}
	for i := from; i < len(d.cells); i++ {
		d.look(i)
	}
	d.err = d.peel()
	return d.err
}

// Done reports whether the cells fed so far are explained by the symbols found.
func (d *Decoder) Done() bool { return d.err == nil && d.full == 0 && len(d.cells) > 0 }

// Failed reports whether there is no way on.
func (d *Decoder) Failed() bool { return d.err != nil }

// Len is how many cells were fed.
func (d *Decoder) Len() int { return len(d.cells) }

// Symbols returns what was found: what only the first set has, and what only
// the second has. Before Done it is a part of the difference, if the cells are
// honest.
func (d *Decoder) Symbols() (first, second []uint64) {
	for i := range d.symbols {
		if s := &d.symbols[i]; s.sign > 0 {
			first = append(first, s.value)
		} else {
			second = append(second, s.value)
		}
	}
	return first, second
}

// peel takes out symbols that are alone in a cell until there is none.
func (d *Decoder) peel() error {
	for len(d.pure) > 0 {
		i := d.pure[len(d.pure)-1]
		d.pure = d.pure[:len(d.pure)-1]
		c := &d.cells[i]
		c.waits = false
		if c.Count != 1 && c.Count != -1 {
			continue // changed since
		}
		h := d.hash.hash(c.Sum)
		if c.Check != uint32(h)*uint32(c.Count) || !inCell(h, int64(i)) {
			continue // several symbols
		}
		// Taking a symbol out empties this cell for good if the cells are honest, so
		// none comes twice and there are no more than cells.
		if _, twice := d.known[c.Sum]; twice || len(d.symbols) == len(d.cells) {
			return ErrForged
		}
		d.known[c.Sum] = struct{}{}
		d.symbols = append(d.symbols, symbol{c.Sum, uint32(h), c.Count, newPlaces(h)})
		d.remove(&d.symbols[len(d.symbols)-1])
	}
	return nil
}

// inCell reports whether the symbol with hash h is in cell i.
func inCell(h uint64, i int64) bool {
	p := newPlaces(h)
	for p.at < i {
		p.next()
	}
	return p.at == i
}

// remove takes s out of the cells from where it stands to the last.
func (d *Decoder) remove(s *symbol) {
	for ; s.at < int64(len(d.cells)); s.next() {
		c := &d.cells[s.at]
		was := c.Cell
		c.add(s.value, s.check, -s.sign)
		switch {
		case c.Cell == Cell{}:
			d.full--
		case was == Cell{}:
			d.full++
		}
		d.look(int(s.at))
	}
}

// look notes a cell that may hold a single symbol.
func (d *Decoder) look(i int) {
	c := &d.cells[i]
	if !c.waits && (c.Count == 1 || c.Count == -1) {
		c.waits = true
		d.pure = append(d.pure, int32(i))
	}
}
