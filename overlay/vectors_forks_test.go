package overlay_test

import (
	"crypto/ed25519"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// goneVector is a Batch, without the frame's length, whose first entry stands
// for the first two of the log, and the hash of its chain.
type goneVector struct {
	Batch hexBytes `json:"batch"`
	Hash  hexBytes `json:"hash"`
}

// forkVector is a Forked, without the frame's length.
type forkVector struct {
	Name  string   `json:"name"`
	Raw   hexBytes `json:"raw"`
	Valid bool     `json:"valid"` // it proves that the log was forked
}

func checkGone(t *testing.T, network identity.NetworkID, v *goneVector) {
	msg, err := overlay.DecodeMessage(v.Batch)
	if err != nil {
		t.Fatal(err)
	}
	batch := msg.(*overlay.Batch)
	h, seq := overlay.ChainStart(batch.Log), batch.From-1
	for i := range batch.Entries {
		e := &batch.Entries[i]
		if e.Raw != nil {
			rec, err := overlay.ParseRecord(network, e.Raw)
			if err != nil {
				t.Fatal(err)
			}
			e.ID, e.Expires = rec.ID, rec.Expires
		}
		h, seq = overlay.ChainEntry(h, e), seq+e.Len()
	}
	if h != overlay.Hash(v.Hash) || h != batch.Head.Hash || seq != batch.Head.Seq {
		t.Errorf("the chain over gone entries ends in %s at entry %d, want %x", h, seq, v.Hash)
	}
}

func checkForks(t *testing.T, network identity.NetworkID, vectors []forkVector) {
	for _, v := range vectors {
		msg, err := overlay.DecodeMessage(v.Raw)
		if err != nil {
			t.Errorf("fork %s: %v", v.Name, err)
			continue
		}
		if proves := msg.(*overlay.Forked).Proves(network); proves != v.Valid {
			t.Errorf("fork %s: it proves something is %v, want %v", v.Name, proves, v.Valid)
		}
	}
}

// headOf is a head of a log of the other pillar.
func (w *vectorWriter) headOf(key ed25519.PrivateKey, nonce []byte, seq uint64, h []byte) []byte {
	start := hashOf("obk1 log chain", w.logID(nonce))
	return w.signed(key, "obk1 head", edID(w.other), nonce, seq, h, uint64(0), start, vectorCreated+30*vectorDay)
}

func (w *vectorWriter) gone(l *logVector) goneVector {
	raw := w.sign(w.device, w.payload(with(w.message(), func(r *rawRecord) { r.bin = []byte{} })))
	b := append([]byte{0x95, 12}, encode([]byte(l.ID))...)
	b = append(append(b, encode(uint64(1))...), 0x92)
	b = append(b, encode([]any{uint64(2), max(l.Entries[0].Expires, l.Entries[1].Expires), []byte(l.Entries[1].Hash)})...)
	b = append(b, raw...)
	b = append(b, encode([]byte(w.headOf(w.other, l.Nonce, 3, l.Entries[2].Hash)))...)
	return goneVector{b, l.Entries[2].Hash}
}

func (w *vectorWriter) forks(l *logVector) []forkVector {
	type link struct {
		expires uint64
		id      []byte
	}
	forked := func(head, other, before []byte, links ...link) []byte {
		list := []any{}
		for _, x := range links {
			list = append(list, []any{x.expires, x.id})
		}
		return encode([]any{uint64(24), head, other, before, list})
	}
	// The other history has other second and third entries.
	second, third := link{vectorCreated + vectorDay, counting(1, 32)}, link{vectorCreated + 2*vectorDay, counting(2, 32)}
	h1 := []byte(l.Entries[0].Hash)
	h2 := hashOf("obk1 log chain", h1, u64(second.expires), second.id)
	h3 := hashOf("obk1 log chain", h2, u64(third.expires), third.id)
	at2, other2, other3 := w.headOf(w.other, l.Nonce, 2, l.Entries[1].Hash), w.headOf(w.other, l.Nonce, 2, h2), w.headOf(w.other, l.Nonce, 3, h3)
	return []forkVector{
		{"heads at different entries", forked(at2, other3, h2, third), true},
		{"heads at one entry", forked(at2, other2, h2), true},
		{"heads on one chain", forked(w.headOf(w.other, l.Nonce, 1, h1), other2, h1, second), false},
		{"the same head twice", forked(at2, at2, l.Entries[1].Hash), false},
		{"links that lead elsewhere", forked(at2, other3, h2, second), false},
		{"a link too few", forked(at2, other3, h3), false},
		{"the later head first", forked(other3, at2, h2), false},
		{"a head of another log", forked(w.headOf(w.other, counting(9, 16), 2, l.Entries[1].Hash), other3, h2, third), false},
		{"a head signed by another", forked(at2, w.headOf(w.account, l.Nonce, 3, h3), h2, third), false},
		{"without the first head: an answer, no proof", forked([]byte{}, other3, h2, third), false},
	}
}
