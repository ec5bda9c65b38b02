package sketch_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/gossip/sketch"
)

// random is a reproducible source of distinct symbols.
type random struct{ *rand.Rand }

func newRandom(seed uint64) random { return random{rand.New(rand.NewPCG(seed, 1))} }

func (r random) key() (k sketch.Key) {
	for i := range k {
		k[i] = byte(r.Uint32())
	}
	return k
}

func (r random) symbols(n int) []uint64 {
	set := make(map[uint64]struct{}, n)
	for len(set) < n {
		set[r.Uint64()] = struct{}{}
	}
	return slices.Sorted(maps.Keys(set))
}

func sketchOf(key sketch.Key, cells int, symbols ...[]uint64) *sketch.Sketch {
	s := sketch.New(key, cells)
	for _, part := range symbols {
		s.Add(part...)
	}
	return s
}

// decode feeds the difference of two sketches step cells at a time, up to all.
func decode(key sketch.Key, mine, theirs *sketch.Sketch, step int) (*sketch.Decoder, error) {
	d := sketch.NewDecoder(key, mine.Len())
	for !d.Done() && d.Len() < mine.Len() {
		at := d.Len()
		if err := d.Feed(sketch.Diff(mine.Cells(at, at+step), theirs.Cells(at, at+step))); err != nil {
			return d, err
		}
	}
	return d, nil
}

func checkSymbols(t testing.TB, d *sketch.Decoder, first, second []uint64) {
	t.Helper()
	a, b := d.Symbols()
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, slices.Sorted(slices.Values(first))) || !slices.Equal(b, slices.Sorted(slices.Values(second))) {
		t.Fatalf("decoded %d and %d symbols, not the %d and %d that differ", len(a), len(b), len(first), len(second))
	}
}

// TestDecodeEveryDifference decodes differences of every size that matters,
// split between the sides in every way.
func TestDecodeEveryDifference(t *testing.T) {
	r := newRandom(1)
	sizes := []int{}
	for d := range 257 {
		sizes = append(sizes, d)
	}
	for range 20 {
		sizes = append(sizes, 257+r.IntN(9743))
	}
	sizes = append(sizes, 9_999, 10_000)
	common := r.symbols(200)
	for _, n := range sizes {
		differ := r.symbols(n)
		r.Shuffle(n, func(i, j int) { differ[i], differ[j] = differ[j], differ[i] })
		for _, cut := range slices.Compact([]int{0, n / 2, n}) {
			key := r.key()
			cells := 2*n + 64
			mine := sketchOf(key, cells, common, differ[:cut])
			theirs := sketchOf(key, cells, common, differ[cut:])
			d, err := decode(key, mine, theirs, 16+n/50)
			if err != nil || !d.Done() {
				t.Fatalf("%d differences, %d of them on the first side: done %v after %d cells, %v", n, cut, d.Done(), d.Len(), err)
			}
			checkSymbols(t, d, differ[:cut], differ[cut:])
		}
	}
}

// TestDecodeProperty lets rapid choose sizes, sides and steps.
func TestDecodeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRandom(rapid.Uint64().Draw(t, "seed"))
		n := rapid.OneOf(rapid.IntRange(0, 20), rapid.IntRange(0, 10_000)).Draw(t, "differences")
		cut := rapid.IntRange(0, n).Draw(t, "on the first side")
		step := rapid.IntRange(1+n/100, 1+n).Draw(t, "step")
		key, common, differ := r.key(), r.symbols(rapid.IntRange(0, 500).Draw(t, "common")), r.symbols(n)
		r.Shuffle(n, func(i, j int) { differ[i], differ[j] = differ[j], differ[i] })
		d, err := decode(key, sketchOf(key, 2*n+64, common, differ[:cut]), sketchOf(key, 2*n+64, common, differ[cut:]), step)
		if err != nil || !d.Done() {
			t.Fatalf("done %v, %v", d.Done(), err)
		}
		if a, b := d.Symbols(); len(a) != cut || len(b) != n-cut {
			t.Fatalf("%d and %d decoded", len(a), len(b))
		}
	})
}

// TestCellsNeeded holds the measure that the paper gives: 1.35 cells per
// difference at many, 1.72 at worst, and CellsFor against the tail.
func TestCellsNeeded(t *testing.T) {
	r := newRandom(2)
	for _, c := range []struct {
		d, runs int
		most    float64 // cells per difference, on average
	}{{1, 2000, 1.05}, {2, 1000, 1.8}, {5, 1000, 1.8}, {10, 1000, 1.8}, {30, 400, 1.75}, {100, 200, 1.62}, {1000, 15, 1.45}, {10_000, 2, 1.40}} {
		total, short := 0, 0
		for range c.runs {
			key := r.key()
			mine := sketchOf(key, 3*c.d+40, r.symbols(c.d))
			d := sketch.NewDecoder(key, mine.Len())
			for !d.Done() {
				if d.Len() == mine.Len() {
					t.Fatalf("%d differences not decoded with %d cells", c.d, d.Len())
				}
				at, step := d.Len(), max(1, c.d/500)
				if err := d.Feed(mine.Cells(at, at+step)); err != nil {
					t.Fatal(err)
				}
			}
			total += d.Len()
			if d.Len() > sketch.CellsFor(c.d) {
				short++
			}
		}
		per := float64(total) / float64(c.runs) / float64(c.d)
		t.Logf("%5d differences: %.3f cells each; CellsFor gives %d, too few in %d of %d runs", c.d, per, sketch.CellsFor(c.d), short, c.runs)
		if per > c.most || short*50 > c.runs {
			t.Errorf("%d differences: %.3f cells each, more than %.2f; CellsFor too small %d times of %d", c.d, per, c.most, short, c.runs)
		}
	}
}

// TestDuplicates has a symbol twice in one set: that does not decode, whatever
// else differs, and nothing wrong comes out.
func TestDuplicates(t *testing.T) {
	r := newRandom(3)
	for run := range 300 {
		key := r.key()
		symbols := r.symbols(1 + r.IntN(40))
		twice, cut := symbols[0], r.IntN(len(symbols))+1
		a, b := symbols[1:cut], symbols[cut:]
		mine := sketchOf(key, 400, a, []uint64{twice, twice})
		theirs := sketchOf(key, 400, b)
		if run%2 == 1 {
			mine, theirs, a, b = theirs, mine, b, a
		}
		d, err := decode(key, mine, theirs, 7)
		if d.Done() {
			t.Fatalf("run %d: a difference with a symbol twice was decoded", run)
		}
		if err != nil && !errors.Is(err, sketch.ErrForged) {
			t.Fatal(err)
		}
		first, second := d.Symbols()
		for _, s := range first {
			if !slices.Contains(a, s) {
				t.Fatalf("run %d: %x is not of the first set", run, s)
			}
		}
		for _, s := range second {
			if !slices.Contains(b, s) {
				t.Fatalf("run %d: %x is not of the second set", run, s)
			}
		}
	}
	// Once more in one set than in the other is one difference.
	key, symbols := r.key(), r.symbols(5)
	d, err := decode(key, sketchOf(key, 64, symbols, symbols[:1]), sketchOf(key, 64, symbols), 8)
	if err != nil || !d.Done() {
		t.Fatal(d.Done(), err)
	}
	checkSymbols(t, d, symbols[:1], nil)
}

// TestForged changes cells in transit: no cells decode to symbols that they are
// not made of.
func TestForged(t *testing.T) {
	r := newRandom(4)
	for run := range 500 {
		key := r.key()
		mine := sketchOf(key, 200, r.symbols(r.IntN(60)))
		cells := slices.Clone(mine.Cells(0, 200))
		for range 1 + r.IntN(3) {
			c := &cells[r.IntN(len(cells))]
			switch r.IntN(5) {
			case 0:
				c.Sum ^= 1 << r.IntN(64)
			case 1:
				c.Check++
			case 2:
				c.Count += int32(1 + r.IntN(3))
			case 3: // a cell that looks pure to who does not know the key
				*c = sketch.Cell{Sum: r.Uint64(), Check: r.Uint32(), Count: 1}
			case 4:
				*c = cells[r.IntN(len(cells))]
			}
		}
		if slices.Equal(cells, mine.Cells(0, 200)) {
			continue
		}
		d := sketch.NewDecoder(key, 200)
		err := d.Feed(cells)
		if d.Done() {
			t.Fatalf("run %d: forged cells were decoded", run)
		}
		if err != nil && !errors.Is(err, sketch.ErrForged) {
			t.Fatal(err)
		}
	}
}

// TestForgedWithKey is an insider's attempt: cells that are pure for a symbol
// that is not in that place, and pure everywhere for ever new ones.
func TestForgedWithKey(t *testing.T) {
	r := newRandom(5)
	key := r.key()
	pure := func(v uint64, sign int32) sketch.Cell {
		return sketch.Cell{Sum: v, Check: uint32(sketch.Hash(key, v)) * uint32(sign), Count: sign}
	}
	v := r.Uint64()
	places := sketch.Places(key, v, 1000)
	wrong := make([]sketch.Cell, 1000)
	for i := range wrong {
		if !slices.Contains(places, i) {
			wrong[i] = pure(v, 1)
		}
	}
	d := sketch.NewDecoder(key, 1000)
	if err := d.Feed(wrong); err != nil || d.Done() {
		t.Fatalf("done %v, %v", d.Done(), err)
	}
	if a, b := d.Symbols(); len(a)+len(b) != 0 {
		t.Fatal("a symbol was taken from cells it is not in")
	}

	const n = 600
	ends := make([]sketch.Cell, n)
	for i := range ends {
		for {
			v := r.Uint64()
			if p := sketch.Places(key, v, i+1); p[len(p)-1] == i {
				ends[i] = pure(v, 1-2*int32(i%2))
				break
			}
		}
	}
	d = sketch.NewDecoder(key, n)
	err := d.Feed(ends)
	if d.Done() {
		t.Fatal("cells of no set were decoded")
	}
	a, b := d.Symbols()
	t.Logf("%d cells, each pure for a symbol of its own: %d symbols, %v", n, len(a)+len(b), err)
	if len(a)+len(b) > n {
		t.Fatalf("%d symbols from %d cells", len(a)+len(b), n)
	}
	if err := d.Feed(nil); err == nil && d.Done() {
		t.Fatal("done after all")
	}
}

func TestLimit(t *testing.T) {
	d := sketch.NewDecoder(sketch.Key{}, 10)
	if err := d.Feed(make([]sketch.Cell, 10)); err != nil || !d.Done() {
		t.Fatalf("ten cells of an empty difference: done %v, %v", d.Done(), err)
	}
	if err := d.Feed(make([]sketch.Cell, 1)); !errors.Is(err, sketch.ErrLimit) || d.Done() {
		t.Fatalf("an eleventh: done %v, %v", d.Done(), err)
	}
	if err := d.Feed(nil); !errors.Is(err, sketch.ErrLimit) {
		t.Fatalf("after that: %v", err)
	}
}

// TestEstimate wants the size of a difference guessed within a factor of two,
// nine times of ten, from 24 cells.
func TestEstimate(t *testing.T) {
	r := newRandom(6)
	if n := sketch.Estimate(make([]sketch.Cell, 24)); n != 0 {
		t.Errorf("%d differences in none", n)
	}
	if n := sketch.Estimate(nil); n != 0 {
		t.Errorf("%d differences in no cells", n)
	}
	for _, d := range []int{20, 300, 5000} {
		for _, side := range []int{0, 2, 10} { // parts of ten on the first side
			off := 0
			const runs = 40
			for range runs {
				key, symbols := r.key(), r.symbols(d)
				cut := d * side / 10
				diff := sketch.Diff(sketchOf(key, 24, symbols[:cut]).Cells(0, 24), sketchOf(key, 24, symbols[cut:]).Cells(0, 24))
				got := float64(sketch.Estimate(diff))
				if got < math.Abs(float64(d-2*cut))-1 {
					t.Fatalf("%v differences guessed, the sizes differ by %d", got, d-2*cut)
				}
				if got < float64(d)/2 || got > float64(d)*2 {
					off++
				}
			}
			if off > runs/10 {
				t.Errorf("%d differences, %d tenths on the first side: %d guesses of %d were off by more than a factor of two", d, side, off, runs)
			}
		}
	}
}

// TestNext wants differences of all sizes decoded with few questions and not many
// more cells than they need, however the first guess turns out. Two symbols that
// are in the same cells for long make a small difference need many: one in some
// hundred.
func TestNext(t *testing.T) {
	r := newRandom(8)
	for _, c := range []struct{ d, runs, most int }{{20, 400, 110}, {50, 400, 210}, {300, 200, 700}, {1000, 200, 2000}, {5000, 10, 9000}} {
		many, over, worst, questions := 0, 0, 0, 0
		for range c.runs {
			key, symbols := r.key(), r.symbols(c.d)
			room := 4*c.d + 300
			diff := sketch.Diff(sketchOf(key, room, symbols[:c.d/2]).Cells(0, room), sketchOf(key, room, symbols[c.d/2:]).Cells(0, room))
			d := sketch.NewDecoder(key, room)
			asked := 1
			for next := 24; ; asked++ {
				if next <= d.Len() || next > room {
					t.Fatalf("%d differences: to cell %d after %d", c.d, next, d.Len())
				}
				if err := d.Feed(diff[d.Len():next]); err != nil {
					t.Fatal(err)
				}
				if d.Done() {
					break
				}
				next = sketch.Next(diff[:d.Len()])
			}
			worst, questions = max(worst, d.Len()), max(questions, asked)
			if asked > 3 {
				many++
			}
			if d.Len() > c.most {
				over++
			}
		}
		t.Logf("%5d differences: at most %d cells and %d questions; of %d runs %d with more than three, %d with more than %d cells",
			c.d, worst, questions, c.runs, many, over, c.most)
		if many*10 > c.runs || over*100 > c.runs {
			t.Errorf("%d differences: of %d runs %d with more than three questions, %d with more than %d cells", c.d, c.runs, many, over, c.most)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	key := newRandom(7).key()
	add := func(cells []sketch.Cell) { f.Add(sketch.AppendCells(nil, cells, 0, 0), uint8(3)) }
	add(sketchOf(key, 40, newRandom(8).symbols(20)).Cells(0, 40))
	add(sketch.Diff(sketchOf(key, 12, []uint64{1, 2}).Cells(0, 12), sketchOf(key, 12, []uint64{3, 3}).Cells(0, 12)))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		cells, err := sketch.ReadCells(data, 0, 4096, 0)
		if err != nil {
			return
		}
		d := sketch.NewDecoder(key, 4096)
		for at := 0; at < len(cells); {
			to := min(len(cells), at+1+int(step))
			if d.Feed(cells[at:to]) != nil {
				break
			}
			at = to
		}
		first, second := d.Symbols()
		if len(first)+len(second) > len(cells) {
			t.Fatalf("%d symbols from %d cells", len(first)+len(second), len(cells))
		}
		if !d.Done() {
			return
		}
		again := sketchOf(key, len(cells), first)
		again.Sub(sketchOf(key, len(cells), second))
		if !slices.Equal(again.Cells(0, len(cells)), cells) {
			t.Fatal("what was decoded is not what the cells are made of")
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := newRandom(9)
			key := r.key()
			cells := sketchOf(key, 2*n+64, r.symbols(n)).Cells(0, 2*n+64)
			b.ReportAllocs()
			for b.Loop() {
				d := sketch.NewDecoder(key, len(cells))
				for !d.Done() {
					at := d.Len()
					if err := d.Feed(cells[at : at+24+n/20]); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/difference")
		})
	}
}
