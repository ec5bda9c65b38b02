// Package sketch finds the differences between two sets of 8-byte symbols with
// communication in proportion to the differences, not to the sets: a rateless
// invertible Bloom lookup table, written from Yang, Gilad, Alizadeh: Practical
// Rateless Set Reconciliation (SIGCOMM 2024).
//
// A set is an endless row of cells. Each of its symbols is in cell 0, and in
// cell i with probability 2/(i+2), decided by a generator that the symbol seeds.
// A cell holds the xor, a check sum and the number of its symbols. Cells of two
// sets subtract; what is left are those of their difference, and from about 1.36
// (many differences) to 1.72 (few) cells per difference all of it can be read.
//
// Both sides keep the first cells of their set as it changes:
//
//	s := sketch.New(key, 16384)
//	s.Add(symbol)
//
// To compare, one sends cells from the front on, as many as the other needs:
//
//	d := sketch.NewDecoder(key, limit)
//	for !d.Done() {
//		theirs, err := sketch.ReadCells(…)
//		…
//		err = d.Feed(sketch.Diff(mine.Cells(at, at+len(theirs)), theirs))
//	}
//	onlyMine, onlyTheirs := d.Symbols()
//
// Symbols must be hashes under a secret, or who chooses what is in the sets can
// choose some that cancel each other. A symbol that is twice in one set is not
// decoded, and nor is what lies in its way: the Decoder goes on asking for cells,
// and its caller gives up at a limit. It never returns what is not there: whatever cells
// it is fed, what it returns are the very symbols that make up these cells.
//
// The package is pure computation: no clock, no randomness, no I/O, and nothing
// in it may be shared by goroutines.
package sketch
