package sketch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/gossip/sketch"
)

func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint32().Draw(t, "n")
		from := rapid.IntRange(0, sketch.MaxCells-20).Draw(t, "from")
		cells := make([]sketch.Cell, rapid.IntRange(0, 20).Draw(t, "cells"))
		for i := range cells {
			cells[i] = sketch.Cell{Sum: rapid.Uint64().Draw(t, "sum"), Check: rapid.Uint32().Draw(t, "check"), Count: rapid.Int32().Draw(t, "count")}
		}
		b := sketch.AppendCells(nil, cells, from, n)
		if len(b) < len(cells)*sketch.MinCellLen || len(b) > len(cells)*sketch.MaxCellLen {
			t.Fatalf("%d bytes for %d cells", len(b), len(cells))
		}
		got, err := sketch.ReadCells(b, from, len(cells), n)
		if err != nil || !slices.Equal(got, cells) {
			t.Fatalf("%v, %v; want %v", got, err, cells)
		}
		if len(cells) == 0 {
			return
		}
		if _, err := sketch.ReadCells(b, from, len(cells)-1, n); !errors.Is(err, sketch.ErrCells) {
			t.Fatalf("more cells than allowed: %v", err)
		}
		cut := rapid.IntRange(1, sketch.MinCellLen-1).Draw(t, "cut")
		if got, err := sketch.ReadCells(b[:len(b)-cut], from, len(cells), n); err == nil {
			t.Fatalf("cut by %d bytes: %v", cut, got)
		}
	})
}

// TestCellLen is what makes cells cheap: about 13 bytes at any size of the set.
func TestCellLen(t *testing.T) {
	r := newRandom(14)
	s := sketchOf(r.key(), 1024, r.symbols(100_000))
	size := len(sketch.AppendCells(nil, s.Cells(0, 1024), 0, 100_000))
	t.Logf("%.2f bytes a cell", float64(size)/1024)
	if size > 1024*27/2 {
		t.Errorf("%d bytes for 1024 cells", size)
	}
}

func TestCodecRefuses(t *testing.T) {
	count := func(c ...byte) []byte { return append(make([]byte, 12), c...) }
	for name, b := range map[string][]byte{
		"a longer varint than needed": count(0x80, 0x00),
		"a varint without an end":     count(0xff, 0xff, 0xff, 0xff, 0xff),
		"an overflowing varint":       count(bytes.Repeat([]byte{0xff}, 11)...),
		"a count above 32 bits":       binary.AppendVarint(make([]byte, 12), math.MaxInt32+1),
		"a count below 32 bits":       binary.AppendVarint(make([]byte, 12), math.MinInt32-1),
		"no count":                    make([]byte, 12),
		"half a cell":                 append(count(0), 1, 2, 3),
	} {
		if cells, err := sketch.ReadCells(b, 0, 10, 0); !errors.Is(err, sketch.ErrCells) {
			t.Errorf("%s: %v, %v", name, cells, err)
		}
	}
	for _, from := range []int{-1, sketch.MaxCells, sketch.MaxCells + 1} {
		if _, err := sketch.ReadCells(count(0), from, 1, 0); !errors.Is(err, sketch.ErrCells) {
			t.Errorf("from cell %d: %v", from, err)
		}
	}
}

func FuzzReadCells(f *testing.F) {
	r := newRandom(15)
	f.Add(sketch.AppendCells(nil, sketchOf(r.key(), 30, r.symbols(100)).Cells(0, 30), 0, 100), uint32(0), uint32(100))
	f.Add(bytes.Repeat([]byte{0xff}, 17), uint32(7), uint32(math.MaxUint32))
	f.Fuzz(func(t *testing.T, b []byte, from, n uint32) {
		cells, err := sketch.ReadCells(b, int(from), 1000, n)
		if err != nil {
			return
		}
		if again := sketch.AppendCells(nil, cells, int(from), n); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes to %x", b, again)
		}
	})
}
