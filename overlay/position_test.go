package overlay_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

func TestHead(t *testing.T) {
	n, key := newTestNetwork(t), identity.NewPillarKey()
	nonce := fill[[16]byte](1)
	log := overlay.MakeLogID(n.id, key.ID(), nonce)
	entries := []overlay.LogEntry{{Expires: 5, ID: fill[overlay.RecordID](1)}, {Expires: 9, ID: fill[overlay.RecordID](2)}}
	start := overlay.ChainStart(log)
	end := overlay.ChainAll(start, entries)
	if end != overlay.Chain(overlay.Chain(start, 5, entries[0].ID), 9, entries[1].ID) || end == start {
		t.Error("ChainAll is not Chain repeated")
	}
	h := overlay.Head{Pillar: key.ID(), Nonce: nonce, Seq: 2, Hash: end, BaseHash: start, Dies: 9}
	h.Sign(n.id, key)
	r := canon.NewReader(h.Append(nil))
	got := overlay.ReadHead(r)
	if err := r.End(); err != nil || !got.Verify(n.id) || got.Position(n.id) != (overlay.Position{Log: log, Seq: 2, Hash: end}) {
		t.Fatalf("head: %v", err)
	}
	bad := map[string]func(*overlay.Head){
		"seq":            func(h *overlay.Head) { h.Seq++ },
		"hash":           func(h *overlay.Head) { h.Hash[0]++ },
		"dies":           func(h *overlay.Head) { h.Dies++ },
		"base":           func(h *overlay.Head) { h.BaseSeq++ },
		"another pillar": func(h *overlay.Head) { h.Pillar = identity.NewPillarKey().ID() },
		"another log":    func(h *overlay.Head) { h.Nonce[0]++ },
		"no signature":   func(h *overlay.Head) { h.Sig = nil },
		"empty log":      func(h *overlay.Head) { h.Seq, h.BaseSeq = 0, 0; h.Sign(n.id, key) },
		"base past seq":  func(h *overlay.Head) { h.BaseSeq = 3; h.Sign(n.id, key) },
	}
	for name, change := range bad {
		b := got
		change(&b)
		if b.Verify(n.id) {
			t.Errorf("%s changed, still valid", name)
		}
	}
	if other := newTestNetwork(t); got.Verify(other.id) {
		t.Error("valid in another network")
	}
}

func TestVector(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := map[byte]uint64{}
		var v overlay.Vector
		for range rapid.IntRange(0, 20).Draw(t, "n") {
			b := rapid.Byte().Draw(t, "log")
			if _, again := seen[b]; again {
				continue
			}
			seen[b] = rapid.Uint64Range(1, 9).Draw(t, "seq")
			v = append(v, overlay.Position{Log: overlay.LogID{b}, Seq: seen[b]})
		}
		v.Sort()
		r := canon.NewReader(overlay.AppendVector(nil, v))
		got := overlay.ReadVector(r)
		if err := r.End(); err != nil || got.Hash() != v.Hash() {
			t.Fatalf("vector: %v", err)
		}
		for b := range 256 {
			for s := uint64(0); s < 11; s++ {
				want := s >= 1 && s <= seen[byte(b)]
				if got.Covers(overlay.Dot{Log: overlay.LogID{byte(b)}, Seq: s}) != want {
					t.Fatalf("Covers(%d, %d) is not %v", b, s, want)
				}
			}
		}
	})
	out := overlay.Vector{{Log: overlay.LogID{2}}, {Log: overlay.LogID{1}}}
	r := canon.NewReader(overlay.AppendVector(nil, out))
	if overlay.ReadVector(r); r.Err() == nil {
		t.Error("positions out of order were read")
	}
}

func TestSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) overlay.Sum {
			return overlay.Sum{Hi: rapid.Uint64().Draw(t, name), Lo: rapid.Uint64().Draw(t, name)}
		}
		a, b := draw("a"), draw("b")
		if a.Add(b) != b.Add(a) || a.Add(b).Sub(b) != a {
			t.Fatal("sums do not commute or subtract")
		}
		raw := a.Bytes()
		if overlay.SumFromBytes(raw[:]) != a {
			t.Fatal("bytes")
		}
	})
	var k, l overlay.ShortKey
	l[0] = 1
	id := fill[overlay.RecordID](1)
	if k.Term(id) == l.Term(id) || k.Name() == l.Name() {
		t.Error("another key, the same term or name")
	}
}

func TestSummary(t *testing.T) {
	n, key := newTestNetwork(t), identity.NewPillarKey()
	s := overlay.Summary{Pillar: key.ID(), Settled: 10, Front: 30, Count: 5, At: 20}
	s.Sign(n.id, key)
	r := canon.NewReader(s.Append(nil))
	got := overlay.ReadSummary(r)
	if err := r.End(); err != nil || !got.Verify(n.id) {
		t.Fatalf("summary: %v", err)
	}
	for _, change := range []func(*overlay.Summary){
		func(s *overlay.Summary) { s.Count++ },
		func(s *overlay.Summary) { s.Full = true },
		func(s *overlay.Summary) { s.Digest.Lo++ },
		func(s *overlay.Summary) { s.Pillar = identity.NewPillarKey().ID() },
	} {
		b := got
		if change(&b); b.Verify(n.id) {
			t.Error("altered, still valid")
		}
	}
	if got.Verify(identity.NetworkID{}) {
		t.Error("valid in another network")
	}
}
