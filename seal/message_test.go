package seal_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"sync"
	"testing"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

func TestSealAndOpen(t *testing.T) {
	alice, bob, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "carol", "1", start)
	e := newEpoch(t, alice, start, bob, carol)
	forBob, forCarol := bob.open(t, e), carol.open(t, e)
	if forBob.ID() != e.ID() || forBob.Expires() != e.Expires() {
		t.Error("the opened epoch has another ID or expiry")
	}
	for _, n := range []int{0, 1, 80, 81, 512, 5000, 64 << 10, seal.MaxBody} {
		body := make([]byte, n)
		rand.Read(body)
		m := sealMessage(t, e, e.Binding(), body)
		if overhead := len(m.bin()) - seal.PaddedLen(n); overhead > 62 {
			t.Errorf("body of %d: %d bytes beside the padding", n, overhead)
		}
		if n >= 16 && bytes.Contains(m.payload, body[:16]) {
			t.Errorf("body of %d is readable", n)
		}
		if id, err := seal.MessageEpoch(m.bin()); err != nil || id != e.ID() {
			t.Errorf("MessageEpoch: %v, %v", id, err)
		}
		for _, o := range []*seal.Opened{forBob, forCarol} {
			got, err := o.Open(m.binding, m.payload, m.off)
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("body of %d: opened %d bytes, %v", n, len(got), err)
			}
		}
	}
	if n := seal.SealedLen(64 << 10); n >= 66<<10 {
		t.Errorf("a body of 64 KiB takes %d bytes", n)
	}
}

func TestSealRefuses(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start, bob)
	tooLarge := make([]byte, seal.MaxBody+1)
	if _, err := e.Seal(prefix(e.Binding(), len(tooLarge)), tooLarge); !errors.Is(err, seal.ErrTooLarge) {
		t.Errorf("a body too large: %v", err)
	}
	for _, dst := range [][]byte{nil, []byte("x"), prefix(e.Binding(), 512), canon.AppendBinLen(nil, seal.SealedLen(1)-1)} {
		if _, err := e.Seal(dst, []byte("x")); !errors.Is(err, seal.ErrArgument) {
			t.Errorf("a payload with a wrong last header: %v", err)
		}
	}
	o := bob.open(t, e)
	m := sealMessage(t, e, e.Binding(), []byte("x"))
	e.Erase()
	o.Erase()
	if e.Secret() != [32]byte{} || o.Secret() != [32]byte{} {
		t.Error("a secret is left after Erase")
	}
	if _, err := e.Seal(prefix(e.Binding(), 1), []byte("x")); !errors.Is(err, seal.ErrErased) {
		t.Errorf("sealing with an erased epoch: %v", err)
	}
	if _, err := o.Open(m.binding, m.payload, m.off); !errors.Is(err, seal.ErrErased) {
		t.Errorf("opening with an erased epoch: %v", err)
	}
}

// A copied ciphertext in a record of somebody else's would make every program
// that answers a decryption oracle.
func TestCopiedCiphertextIsRefused(t *testing.T) {
	alice, bob, carol := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start), newParty(t, "carol", "1", start)
	eve := newParty(t, "eve", "1", start)
	e := newEpoch(t, alice, start, bob, carol)
	o := bob.open(t, e)
	original := sealMessage(t, e, e.Binding(), []byte("the launch code is 0000"))

	others := map[string]func(b *seal.Binding){
		"another author":            func(b *seal.Binding) { b.Account = eve.account },
		"another device":            func(b *seal.Binding) { b.Device = eve.device },
		"author and device":         func(b *seal.Binding) { b.Account, b.Device = eve.account, eve.device },
		"fewer recipients":          func(b *seal.Binding) { b.To = accountsOf(bob) },
		"more recipients":           func(b *seal.Binding) { b.To = accountsOf(bob, carol, eve) },
		"another recipient":         func(b *seal.Binding) { b.To = accountsOf(bob, eve) },
		"recipients in other order": func(b *seal.Binding) { b.To = [][]byte{b.To[1], b.To[0]} },
		"no recipients":             func(b *seal.Binding) { b.To = nil },
	}
	for name, change := range others {
		t.Run(name, func(t *testing.T) {
			b := e.Binding()
			change(&b)
			// The record of the thief: his fields, the copied bin.
			p := prefix(b, 23)
			stolen := append(p[:len(p):len(p)], original.bin()...)
			if _, err := o.Open(b, stolen, len(p)); !errors.Is(err, seal.ErrBinding) {
				t.Errorf("as its own record: %v", err)
			}
			// Even a receiver who believed the epoch's fields of it.
			if _, err := o.Open(e.Binding(), stolen, len(p)); !errors.Is(err, seal.ErrNotAuthentic) {
				t.Errorf("with the epoch's binding: %v", err)
			}
			if _, err := o.Open(b, original.payload, original.off); !errors.Is(err, seal.ErrBinding) {
				t.Errorf("the original under that binding: %v", err)
			}
		})
	}

	t.Run("an epoch of the thief", func(t *testing.T) {
		// Eve cannot open the secret. Copying the epoch's bin gives an ID that is not
		// hers, a new ID gives an HPKE info to which nothing was sealed.
		mine := e.Binding()
		mine.Account, mine.Device = eve.account, eve.device
		if _, err := seal.OpenEpoch(network, mine, e.Bin(), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Errorf("copied bin: %v", err)
		}
		record, err := seal.ParseEpoch(e.Bin())
		if err != nil {
			t.Fatal(err)
		}
		record.ID = seal.MakeEpochID(eve.device, record.Commitment)
		if _, err := seal.OpenEpoch(network, mine, record.Append(nil), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Errorf("with her ID: %v", err)
		}
	})
	t.Run("an epoch of the thief under the same ID", func(t *testing.T) {
		// Sound in itself, with a secret of her own, but for the ID: it must not take
		// the place of Alice's.
		secret := [32]byte{1}
		sealed, err := seal.SealSecret(network, e.ID(), eve.device, bob.device, bob.key, bob.key.ID, secret[:])
		if err != nil {
			t.Fatal(err)
		}
		record := seal.EpochRecord{ID: e.ID(), Commitment: seal.Commit(network, &secret), Entries: []seal.Entry{{Device: bob.device, Key: bob.key.ID, Sealed: sealed}}}
		b := e.Binding()
		b.Account, b.Device = eve.account, eve.device
		if _, err := seal.OpenEpoch(network, b, record.Append(nil), bob.device, bob.ring); !errors.Is(err, seal.ErrInvalidEpoch) {
			t.Error(err)
		}
	})
	t.Run("an insider's epoch with the same secret", func(t *testing.T) {
		// Carol knows the secret and seals it to Bob as her own. The ID is another
		// and with it every key, so Alice's ciphertext still does not open.
		secret := e.Secret()
		commitment := seal.Commit(network, &secret)
		id := seal.MakeEpochID(carol.device, commitment)
		sealed, err := seal.SealSecret(network, id, carol.device, bob.device, bob.key, bob.key.ID, secret[:])
		if err != nil {
			t.Fatal(err)
		}
		record := seal.EpochRecord{ID: id, Commitment: commitment, Entries: []seal.Entry{{Device: bob.device, Key: bob.key.ID, Sealed: sealed}}}
		b := e.Binding()
		b.Account, b.Device = carol.account, carol.device
		hers, err := seal.OpenEpoch(network, b, record.Append(nil), bob.device, bob.ring)
		if err != nil {
			t.Fatal(err)
		}
		p := prefix(b, 23)
		if _, err := hers.Open(b, append(p[:len(p):len(p)], original.bin()...), len(p)); !errors.Is(err, seal.ErrBinding) {
			t.Errorf("copied bin: %v", err)
		}
		bin := bytes.Clone(original.bin())
		copy(bin[3:], id[:]) // let it name her epoch
		if _, err := hers.Open(b, append(p[:len(p):len(p)], bin...), len(p)); !errors.Is(err, seal.ErrNotAuthentic) {
			t.Errorf("renamed bin: %v", err)
		}
		// The whole of Alice's payload, the ID alone changed.
		renamed := append(bytes.Clone(original.payload[:original.off]), bin...)
		if _, err := hers.Open(b, renamed, original.off); !errors.Is(err, seal.ErrNotAuthentic) {
			t.Errorf("renamed payload: %v", err)
		}
	})
}

func TestEveryByteIsAuthenticated(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start, bob)
	o := bob.open(t, e)
	m := sealMessage(t, e, e.Binding(), []byte("hello"))
	for i := range m.payload {
		for bit := range 8 {
			bad := bytes.Clone(m.payload)
			bad[i] ^= 1 << bit
			if body, err := o.Open(m.binding, bad, m.off); err == nil {
				t.Fatalf("bit %d of byte %d of the payload does not matter: %q", bit, i, body)
			} else if i < m.off && !errors.Is(err, seal.ErrNotAuthentic) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	for _, bad := range [][]byte{m.payload[1:], m.payload[:len(m.payload)-1], append(bytes.Clone(m.payload), 0)} {
		if _, err := o.Open(m.binding, bad, m.off); err == nil {
			t.Error("a payload that is longer or shorter opens")
		}
	}
	for _, off := range []int{-1, m.off - 1, m.off + 1, len(m.payload), len(m.payload) + 1} {
		if _, err := o.Open(m.binding, m.payload, off); err == nil {
			t.Errorf("opens at offset %d", off)
		}
	}
}

func TestMessageMustNotOutliveItsEpoch(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start+day, bob)
	o := bob.open(t, e)
	b := e.Binding()
	b.Expires++
	m := sealMessage(t, e, b, []byte("x"))
	if _, err := o.Open(m.binding, m.payload, m.off); !errors.Is(err, seal.ErrOutlives) {
		t.Errorf("a message 1 ms longer than its epoch: %v", err)
	}
	b.Expires = seal.MessageExpiry(b.Created+40*day, e.Expires())
	m = sealMessage(t, e, b, []byte("x"))
	if _, err := o.Open(m.binding, m.payload, m.off); err != nil {
		t.Errorf("a message as long as its epoch: %v", err)
	}
	if got := seal.MessageExpiry(start+hour, e.Expires()); got != start+hour {
		t.Errorf("a short life became %d", got)
	}
}

// The epoch may come after its messages: they name it and wait.
func TestEpochAfterItsMessages(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start, bob)
	waiting := map[seal.EpochID][]message{}
	for range 3 {
		m := sealMessage(t, e, e.Binding(), []byte("early"))
		id, err := seal.MessageEpoch(m.bin())
		if err != nil {
			t.Fatal(err)
		}
		waiting[id] = append(waiting[id], m)
	}
	// Days pass, the receiver rotates and restarts.
	bob.ring = openRing(t, bob.dir)
	rotate(t, bob.ring, start+3*day)
	o := bob.open(t, e)
	if n := len(waiting[o.ID()]); n != 3 {
		t.Fatalf("%d messages wait for this epoch", n)
	}
	for _, m := range waiting[o.ID()] {
		if body, err := o.Open(m.binding, m.payload, m.off); err != nil || string(body) != "early" {
			t.Errorf("%q, %v", body, err)
		}
	}
}

// No key-nonce pair twice: not in one epoch, not over restarts and restored
// directories, not even with a machine that was cloned with its memory.
func TestNoKeyNoncePairTwice(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	seen := map[string]bool{}
	use := func(e *seal.Epoch) {
		t.Helper()
		for range 500 {
			m := sealMessage(t, e, e.Binding(), []byte("the same message"))
			pair, err := seal.KeyNonce(e.Secret(), m.bin())
			if err != nil {
				t.Fatal(err)
			}
			if seen[string(pair)] {
				t.Fatal("a key-nonce pair occurs twice")
			}
			seen[string(pair)] = true
		}
	}
	e := newEpoch(t, alice, start, bob)
	clone := e.Clone()
	use(e)
	use(clone)
	use(e)
	backup := snapshot(t, alice.dir)
	for range 3 { // the same instant, the same recipients, the restored disk
		restore(t, alice.dir, backup)
		alice.ring = openRing(t, alice.dir)
		again := newEpoch(t, alice, start, bob)
		if again.Secret() == e.Secret() || again.ID() == e.ID() {
			t.Fatal("a restarted sender made the same secret")
		}
		use(again)
	}
	if len(seen) != 6*500 {
		t.Errorf("%d pairs", len(seen))
	}
}

func TestSealConcurrently(t *testing.T) {
	alice, bob := newParty(t, "alice", "1", start), newParty(t, "bob", "1", start)
	e := newEpoch(t, alice, start, bob)
	o := bob.open(t, e)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				payload, err := e.Seal(prefix(e.Binding(), 3), []byte("abc"))
				if errors.Is(err, seal.ErrErased) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := o.Open(e.Binding(), payload, len(payload)-seal.SealedLen(3)); err != nil || string(body) != "abc" {
					t.Errorf("%q, %v", body, err)
				}
			}
		})
	}
	wg.Go(e.Erase)
	wg.Wait()
}

func TestMessageEpochRefuses(t *testing.T) {
	for name, bin := range badMessages() {
		if _, err := seal.MessageEpoch(bin); !errors.Is(err, seal.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// badMessages are bins that have not the layout of a message's.
func badMessages() map[string][]byte {
	make3 := func(id, salt, ciphertext int) []byte {
		b := canon.AppendArray(nil, 3)
		b = canon.AppendBin(b, make([]byte, id))
		b = canon.AppendBin(b, make([]byte, salt))
		return canon.AppendBin(b, make([]byte, ciphertext))
	}
	good := make3(20, 16, 97)
	return map[string][]byte{
		"empty":               nil,
		"truncated":           good[:len(good)-1],
		"trailing":            append(bytes.Clone(good), 0),
		"short ID":            make3(19, 16, 97),
		"long ID":             make3(21, 16, 97),
		"short salt":          make3(20, 15, 97),
		"long salt":           make3(20, 17, 97),
		"empty ciphertext":    make3(20, 16, 0),
		"size of no class":    make3(20, 16, 98),
		"ciphertext too long": make3(20, 16, seal.PaddedLen(seal.MaxBody)+17),
		"two values":          append([]byte{0x92}, good[1:]...),
		"four values":         append(append([]byte{0x94}, good[1:]...), 0),
		"not minimal":         append([]byte{0xdc, 0, 3}, good[1:]...),
		"billions":            {0xdd, 0xff, 0xff, 0xff, 0xff},
		"announces 4 GiB":     append(bytes.Clone(good[:1+22+18]), 0xc6, 0xff, 0xff, 0xff, 0xff),
		"nested":              bytes.Repeat([]byte{0x91}, 10000),
	}
}
