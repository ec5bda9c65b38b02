package sketch

import (
	"encoding/binary"
	"math/bits"
)

// Key is the secret that symbols are placed and checked under: who does not
// know it can neither make cells that decode nor symbols that get in each
// other's way.
type Key [16]byte

// Cell is one place of a set's row of cells, or of the difference of two.
type Cell struct {
	Sum   uint64 // xor of its symbols
	Check uint32 // sum modulo 2^32 of their checks; of a difference, theirs subtracted
	Count int32  // how many they are, modulo 2^32; of a difference, theirs subtracted
}

// Sub returns the cell of the difference of two sets: of c's symbols without
// o's, which are counted negative.
func (c Cell) Sub(o Cell) Cell {
	return Cell{c.Sum ^ o.Sum, c.Check - o.Check, c.Count - o.Count}
}

// add puts a symbol in (sign 1) or takes it out (sign -1).
func (c *Cell) add(symbol uint64, check uint32, sign int32) {
	c.Sum ^= symbol
	c.Check += check * uint32(sign)
	c.Count += sign
}

// Diff returns the cells of the difference of two sets, as many as both have.
func Diff(mine, theirs []Cell) []Cell {
	diff := make([]Cell, min(len(mine), len(theirs)))
	for i := range diff {
		diff[i] = mine[i].Sub(theirs[i])
	}
	return diff
}

// hasher is SipHash-2-4 of single 8-byte words (Aumasson, Bernstein: SipHash: a
// fast short-input PRF, 2012).
type hasher struct{ v0, v1, v2, v3 uint64 }

func newHasher(key Key) hasher {
	k0, k1 := binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:])
	return hasher{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
}

// hash returns the hash of the word, little-endian as SipHash reads it. Its
// lower half is the symbol's check, all of it seeds the symbol's places.
func (h hasher) hash(word uint64) uint64 {
	const length = 8 << 56
	h.v3 ^= word
	h.round()
	h.round()
	h.v0 ^= word
	h.v3 ^= length
	h.round()
	h.round()
	h.v0 ^= length
	h.v2 ^= 0xff
	h.round()
	h.round()
	h.round()
	h.round()
	return h.v0 ^ h.v1 ^ h.v2 ^ h.v3
}

func (h *hasher) round() {
	h.v0 += h.v1
	h.v2 += h.v3
	h.v1 = bits.RotateLeft64(h.v1, 13) ^ h.v0
	h.v3 = bits.RotateLeft64(h.v3, 16) ^ h.v2
	h.v0 = bits.RotateLeft64(h.v0, 32)
	h.v2 += h.v1
	h.v0 += h.v3
	h.v1 = bits.RotateLeft64(h.v1, 17) ^ h.v2
	h.v3 = bits.RotateLeft64(h.v3, 21) ^ h.v0
	h.v2 = bits.RotateLeft64(h.v2, 32)
}
