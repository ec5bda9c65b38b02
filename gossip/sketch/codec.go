package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Lengths of an encoded cell in bytes.
const (
	MinCellLen = 8 + 4 + 1
	MaxCellLen = 8 + 4 + binary.MaxVarintLen32
)

// ErrCells is wrapped by errors about encoded cells.
var ErrCells = errors.New("bad cells")

// expected is how many of n symbols cell i holds on average.
func expected(i int, n uint32) int64 { return 2 * int64(n) / int64(i+2) }

// AppendCells appends cells of a set of about n symbols, the first of which is
// cell from. Each is
//
//	sum    8 bytes, big-endian
//	check  4 bytes, big-endian
//	count  less ⌊2n/(i+2)⌋ for cell i, as a zigzag LEB128 varint: 1 or 2 bytes
//	       where n is the set's size
func AppendCells(b []byte, cells []Cell, from int, n uint32) []byte {
	for i, c := range cells {
		b = binary.BigEndian.AppendUint64(b, c.Sum)
		b = binary.BigEndian.AppendUint32(b, c.Check)
		b = binary.AppendVarint(b, int64(c.Count)-expected(from+i, n))
	}
	return b
}

// ReadCells reads what AppendCells appended: all of b, at most limit cells. It
// refuses counts that do not fit and varints that are longer than they must be,
// so every list of cells has one encoding.
func ReadCells(b []byte, from, limit int, n uint32) ([]Cell, error) {
	if from < 0 || from > MaxCells {
		return nil, fmt.Errorf("%w: from cell %d", ErrCells, from)
	}
	limit = min(limit, MaxCells-from)
	if len(b) > limit*MaxCellLen {
		return nil, fmt.Errorf("%w: %d bytes for at most %d", ErrCells, len(b), limit)
	}
	cells := make([]Cell, 0, min(limit, len(b)/MinCellLen))
	for len(b) > 0 {
		switch {
		case len(cells) == limit:
			return nil, fmt.Errorf("%w: more than %d", ErrCells, limit)
		case len(b) < MinCellLen:
			return nil, fmt.Errorf("%w: cut", ErrCells)
		}
		off, k := binary.Varint(b[12:])
		if k <= 0 || k > 1 && b[12+k-1] == 0 {
			return nil, fmt.Errorf("%w: count", ErrCells)
		}
		exp := expected(from+len(cells), n)
		if off < math.MinInt32-exp || off > math.MaxInt32-exp {
			return nil, fmt.Errorf("%w: count", ErrCells)
		}
		cells = append(cells, Cell{
			Sum:   binary.BigEndian.Uint64(b),
			Check: binary.BigEndian.Uint32(b[8:]),
			Count: int32(off + exp),
		})
		b = b[12+k:]
	}
	return cells, nil
}
