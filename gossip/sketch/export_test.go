package sketch

// Hash is the keyed hash of a symbol.
func Hash(key Key, symbol uint64) uint64 { return newHasher(key).hash(symbol) }

// Places returns the cells below n that a symbol is in.
func Places(key Key, symbol uint64, n int) (all []int) {
	for p := newPlaces(Hash(key, symbol)); p.at < int64(n); p.next() {
		all = append(all, int(p.at))
	}
	return all
}
