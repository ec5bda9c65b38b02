package sketch

import "math"

// places walks the cells that a symbol is in, ascending, cell 0 first.
//
// A symbol is in cell i with probability 2/(i+2), independently of the others,
// so from cell i on it is in none up to j with probability
// (i+1)(i+2) / ((j+1)(j+2)). The next cell is the first j at which that falls
// below a u drawn evenly from (0, 1]: the first with (j+1)(j+2) > (i+1)(i+2)/u.
// Only additions, multiplications, divisions and square roots of IEEE-754
// doubles take part, each rounded by itself, so every machine gets the same.
type places struct {
	at    int64
	state uint64 // of SplitMix64 (Steele, Lea, Flood 2014)
}

func newPlaces(seed uint64) places { return places{state: seed} }

// next moves on to the symbol's next cell.
func (p *places) next() { p.at = after(p.at, p.draw()) }

// draw returns 1/u of the next step; it does not wait for at.
func (p *places) draw() float64 {
	p.state += 0x9e3779b97f4a7c15
	z := p.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return 0x1p53 / float64(int64(z>>11)+1)
}

// after returns the cell that comes after cell at if 1/u was drawn.
func after(at int64, v float64) int64 {
	i := float64(at)
	q := float64((i + 1) * (i + 2) * v) // rounded here: not to be fused with what follows
	// (j+1)(j+2) = (j+1.5)² - 0.25, and the first integer past x-1.5 is ⌊x-0.5⌋.
	j := int64(math.Sqrt(q+0.25) - 0.5)
	return max(j, at+1) // rounding must not make it stand still
}
