package seal

import (
	"cmp"
	"crypto/hpke"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// clockSkew is how far ahead of now the newest key may have been made before
// that counts as a clock that was wrong: the 30 s within which the design
// calls a clock confirmed.
const clockSkew = 30_000 // ms

// Keyring is a device's private sealing keys: one file each in a directory
// outside the database, so that no backup, snapshot or compaction of that
// keeps a key that was erased. One process at a time may use a directory; one
// Keyring may be used by many goroutines.
//
// Looking a key up does not depend on the clock: a key opens what was sealed
// to it until Erase removes it, and no other call removes one. Which key is
// current depends on the order in which they were made, not on their times. So
// a clock that goes back neither erases a key nor makes an older one current
// again.
type Keyring struct {
	dir string

	mu   sync.Mutex
	keys map[KeyID]*privateKey // guarded by mu; equal to the files in dir
}

// OpenKeyring opens the keyring in dir, which is made if it is not there. It
// removes what an interrupted Rotate or Erase left behind. An error names the
// file or directory that is wrong and wraps ErrDamaged or ErrTooOpen where it
// is one of these; a keyring is never opened in part.
func OpenKeyring(dir string) (*Keyring, error) {
	if err := makeKeyDir(dir); err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	keys, err := loadKeys(dir)
	if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	r := &Keyring{dir: dir, keys: make(map[KeyID]*privateKey, len(keys))}
	for _, k := range keys {
		r.keys[k.public.ID] = k
	}
	return r, nil
}

// Current returns the newest key, the one to publish, and whether Rotate is
// due: it was made RotateEvery ago or longer, expired, was made by a clock
// ahead of now, or does not exist. If it expired or does not exist the key is
// the zero value.
func (r *Keyring) Current(now uint64) (PublicKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.newest()
	if k == nil || k.public.Until <= now {
		return PublicKey{}, true
	}
	due := now >= k.created && now-k.created >= millis(RotateEvery) ||
		k.created > now && k.created-now > clockSkew
	return k.public, due
}

// Rotate makes a new key, current from now on, with until = now + KeyLife. It
// returns when the private key is durable, so a published key can always be
// opened. A key made under a clock that is ahead is kept longer by as much:
// call it with a confirmed clock.
func (r *Keyring) Rotate(now uint64) (PublicKey, error) {
	if now > 1<<62 {
		return PublicKey{}, fmt.Errorf("rotate sealing key: %w: time %d", ErrArgument, now)
	}
	private, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return PublicKey{}, fmt.Errorf("rotate sealing key: %w", err)
	}
	seed, err := private.Bytes()
	if err != nil {
		return PublicKey{}, fmt.Errorf("rotate sealing key: %w", err)
	}
	k := &privateKey{
		public:  newPublicKey(SchemeXWing, private.PublicKey().Bytes(), now+millis(KeyLife)),
		created: now,
		private: seed,
	}

	// The file is written under the lock: two rotations must not get the same
	// generation, and nobody may see a key that is not durable.
	r.mu.Lock()
	defer r.mu.Unlock()
	k.generation = 1
	if last := r.newest(); last != nil {
		k.generation = last.generation + 1
	}
	if err := storeKey(r.dir, k); err != nil {
		return PublicKey{}, fmt.Errorf("rotate sealing key: %w", err)
	}
	r.keys[k.public.ID] = k
	return k.public, nil
}

// Erase erases every private key with until ≤ now, from disk and from memory,
// and returns how many. It cannot be undone, and only the caller knows whether
// the clock is right: it must call Erase with a confirmed clock only. A key
// whose file could not be removed stays; the next Erase tries again.
//
// Memory that the standard library used while it worked with a key is left to
// the garbage collector, and a disk that does not write in place may keep the
// old bytes until it reuses them.
func (r *Keyring) Erase(now uint64) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, k := range r.keys {
		if k.public.Until > now {
			continue
		}
		if e := eraseKey(r.dir, id); e != nil {
			err = errors.Join(err, fmt.Errorf("erase sealing key %s: %w", id, e))
			continue
		}
		clear(k.private)
		delete(r.keys, id)
		n++
	}
	return n, err
}

// Len returns how many private keys there are.
func (r *Keyring) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.keys)
}

// private returns the key's public half and a copy of its private half, which
// the caller clears.
func (r *Keyring) private(id KeyID) (PublicKey, []byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.keys[id]
	if !ok {
		return PublicKey{}, nil, false
	}
	return k.public, slices.Clone(k.private), true
}

// newest returns the key made last, nil if there is none. r.mu is held. Two of
// one generation can only come from files copied together by hand; the ID then
// decides, so that every start decides alike.
func (r *Keyring) newest() (newest *privateKey) {
	for _, k := range r.keys {
		if newest == nil || cmp.Or(
			cmp.Compare(k.generation, newest.generation),
			slices.Compare(k.public.ID[:], newest.public.ID[:])) > 0 {
			newest = k
		}
	}
	return newest
}
