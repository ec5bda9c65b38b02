package sketch

import "math"

// Estimate guesses how many symbols a difference has from its first cells, and
// no fewer than the two sets' sizes differ by. Of d symbols, net more on the
// first side, cell i counts net·ρ with a variance of d·ρ(1-ρ), ρ = 2/(i+2).
// With 24 cells the guess is mostly within a third.
func Estimate(diff []Cell) int {
	if len(diff) == 0 {
		return 0
	}
	net := float64(diff[0].Count) // every symbol is in cell 0
	sum := 0.0
	for i := 1; i < len(diff); i++ {
		rho := 2 / float64(i+2)
		off := float64(diff[i].Count) - net*rho
		sum += off * off / (rho * (1 - rho))
	}
	guess := math.Abs(net)
	if len(diff) > 1 {
		guess = max(guess, sum/float64(len(diff)-1))
	}
	return int(min(guess, math.MaxInt32))
}

// CellsFor returns how many cells mostly suffice for d differences.
func CellsFor(d int) int {
	d = max(d, 0)
	return d + d/2 + 3*int(math.Sqrt(float64(d))) + 6
}

// Next returns up to how many cells to go on when those of diff, the first ones
// of a difference, did not suffice. A guess from few cells can be off by a factor
// of two, and cells that turn out not to be needed cost the most: so the next ones
// are half of what it calls for, after which it is good within a few percent.
func Next(diff []Cell) int {
	want := CellsFor(Estimate(diff))
	if 8*len(diff) < want {
		return want / 2
	}
	return max(want, len(diff)+len(diff)/3+24)
}
