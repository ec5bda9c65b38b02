package sketch_test

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/gossip/sketch"
)

var update = flag.Bool("update", false, "write the test vectors anew")

// TestHash holds the hash against the vector of SipHash's authors for the key
// 00 01 … 0f and the eight bytes 00 … 07.
func TestHash(t *testing.T) {
	var key sketch.Key
	for i := range key {
		key[i] = byte(i)
	}
	if got, want := sketch.Hash(key, 0x0706050403020100), uint64(0x93f5f5799a932462); got != want {
		t.Errorf("%x, want %x", got, want)
	}
}

// TestPlaces holds the share of symbols in each cell against 2/(i+2), and how
// many cells a symbol is in.
func TestPlaces(t *testing.T) {
	r := newRandom(10)
	key := r.key()
	const symbols, cells = 20_000, 1000
	in := make([]int, cells)
	for range symbols {
		last := -1
		for _, i := range sketch.Places(key, r.Uint64(), cells) {
			if i <= last || last < 0 && i != 0 {
				t.Fatalf("cell %d after %d", i, last)
			}
			in[i]++
			last = i
		}
	}
	for i, n := range in {
		rho := 2 / float64(i+2)
		if off := math.Abs(float64(n) - symbols*rho); off > 6*math.Sqrt(symbols*rho*(1-rho)) {
			t.Errorf("cell %d has %d of %d symbols, %.0f expected", i, n, symbols, symbols*rho)
		}
	}
}

// TestLinear: in any order, with symbols that come and go and sketches that
// are subtracted, a Sketch is the one of the set.
func TestLinear(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRandom(rapid.Uint64().Draw(t, "seed"))
		key := r.key()
		stay, gone := r.symbols(rapid.IntRange(0, 50).Draw(t, "stay")), r.symbols(rapid.IntRange(0, 50).Draw(t, "gone"))
		want := sketch.New(key, 100) // one by one: elsewhere they come many at once
		for _, v := range stay {
			want.Add(v)
		}
		both := append(slices.Clone(gone), stay...)
		r.Shuffle(len(both), func(i, j int) { both[i], both[j] = both[j], both[i] })
		removed := sketchOf(key, 100, both)
		subtracted := removed.Clone()
		for _, v := range gone {
			removed.Remove(v)
		}
		subtracted.Sub(sketchOf(key, 100, gone))
		for _, s := range []*sketch.Sketch{removed, subtracted} {
			if !slices.Equal(s.Cells(0, 100), want.Cells(0, 100)) {
				t.Fatal("not the sketch of what is left")
			}
		}
		if got := sketchOf(key, 30, stay); !slices.Equal(got.Cells(0, 30), want.Cells(0, 30)) {
			t.Fatal("fewer cells are not the same cells")
		}
	})
}

func TestCellsBounds(t *testing.T) {
	s := sketch.New(sketch.Key{}, 10)
	for _, c := range [][3]int{{0, 10, 10}, {4, 6, 2}, {8, 20, 2}, {10, 20, 0}, {-1, 3, 0}, {5, 5, 0}, {6, 5, 0}} {
		if got := len(s.Cells(c[0], c[1])); got != c[2] {
			t.Errorf("cells %d to %d: %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

// vectors is testdata/sketch.json: what a second implementation must get.
type vectors struct {
	Key    string `json:"key"`
	Places []struct {
		Symbol string `json:"symbol"`
		Hash   string `json:"hash"`
		Below  int    `json:"below"`
		Cells  []int  `json:"cells"`
	} `json:"places"`
	Mine    []string `json:"mine"`   // the symbols of a set
	Theirs  []string `json:"theirs"` // and of another
	Cells   []cell   `json:"cells"`  // of mine
	From    int      `json:"from"`   // the first of encoded
	Size    uint32   `json:"size"`   // n of encoded
	Encoded string   `json:"encoded"`
	// Diff are the cells of mine without theirs, as few as decode, and what they
	// decode to.
	Diff       []cell   `json:"diff"`
	OnlyMine   []string `json:"only_mine"`
	OnlyTheirs []string `json:"only_theirs"`
}

type cell struct {
	Sum   string `json:"sum"`
	Check uint32 `json:"check"`
	Count int32  `json:"count"`
}

func TestVectors(t *testing.T) {
	const file = "testdata/sketch.json"
	got, err := json.MarshalIndent(makeVectors(t), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("what is made now differs from %s", file)
	}
}

func makeVectors(t *testing.T) (v vectors) {
	word := func(n uint64) string { return fmt.Sprintf("%016x", n) }
	words := func(list []uint64) []string {
		out := []string{}
		for _, n := range slices.Sorted(slices.Values(list)) {
			out = append(out, word(n))
		}
		return out
	}
	cellsOf := func(list []sketch.Cell) (out []cell) {
		for _, c := range list {
			out = append(out, cell{word(c.Sum), c.Check, c.Count})
		}
		return out
	}
	r := newRandom(11)
	key := r.key()
	v.Key = hex.EncodeToString(key[:])
	for _, s := range append([]uint64{0, 1, math.MaxUint64}, r.symbols(5)...) {
		v.Places = append(v.Places, struct {
			Symbol string `json:"symbol"`
			Hash   string `json:"hash"`
			Below  int    `json:"below"`
			Cells  []int  `json:"cells"`
		}{word(s), word(sketch.Hash(key, s)), sketch.MaxCells, sketch.Places(key, s, sketch.MaxCells)})
	}
	mine, theirs := r.symbols(40), r.symbols(3)
	theirs = append(theirs, mine[4:]...)
	a, b := sketchOf(key, 64, mine), sketchOf(key, 64, theirs)
	v.Mine, v.Theirs, v.Cells = words(mine), words(theirs), cellsOf(a.Cells(0, 24))
	v.From, v.Size = 2, uint32(len(mine))
	v.Encoded = hex.EncodeToString(sketch.AppendCells(nil, a.Cells(2, 24), v.From, v.Size))
	d, err := decode(key, a, b, 1)
	if err != nil || !d.Done() {
		t.Fatal(d.Done(), err)
	}
	checkSymbols(t, d, mine[:4], theirs[:3])
	v.Diff = cellsOf(sketch.Diff(a.Cells(0, d.Len()), b.Cells(0, d.Len())))
	first, second := d.Symbols()
	v.OnlyMine, v.OnlyTheirs = words(first), words(second)
	return v
}

func BenchmarkAdd(b *testing.B) {
	for _, cells := range []int{64, 1024, 16_384} {
		b.Run(fmt.Sprint(cells), func(b *testing.B) {
			s := sketch.New(newRandom(12).key(), cells)
			v := uint64(0)
			for b.Loop() {
				v += 0x9e3779b97f4a7c15
				s.Add(v)
			}
		})
		b.Run(fmt.Sprintf("%d/many", cells), func(b *testing.B) {
			r := newRandom(12)
			s, many := sketch.New(r.key(), cells), r.symbols(1000)
			for b.Loop() {
				s.Add(many...)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/symbol")
		})
	}
}

func BenchmarkSub(b *testing.B) {
	key := newRandom(13).key()
	s, o := sketch.New(key, 16_384), sketch.New(key, 16_384)
	for b.Loop() {
		s.Sub(o)
	}
}
