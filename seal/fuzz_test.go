package seal_test

import (
	"bytes"
	"testing"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

// What parses has one encoding, and nothing panics.
func FuzzParseEpoch(f *testing.F) {
	alice, bob := newParty(f, "alice", "1", start), newParty(f, "bob", "1", start)
	e := newEpoch(f, alice, start, bob)
	f.Add(e.Bin())
	for _, b := range badEpochs(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := seal.ParseEpoch(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Append(nil), b) {
			t.Error("two encodings of one epoch")
		}
		if o, err := seal.OpenEpoch(network, e.Binding(), b, bob.device, bob.ring); err == nil && o.Secret() != e.Secret() {
			t.Error("opened something else")
		}
	})
}

// Nothing but the sealed payload opens.
func FuzzOpen(f *testing.F) {
	alice, bob := newParty(f, "alice", "1", start), newParty(f, "bob", "1", start)
	e := newEpoch(f, alice, start, bob)
	o := bob.open(f, e)
	m := sealMessage(f, e, e.Binding(), []byte("hello"))
	f.Add(m.payload, m.off)
	f.Add(m.payload, 0)
	f.Add([]byte{}, -1)
	for _, b := range badMessages() {
		f.Add(b, 0)
		f.Add(append(bytes.Clone(m.payload[:m.off]), b...), m.off)
	}
	f.Fuzz(func(t *testing.T, payload []byte, off int) {
		body, err := o.Open(e.Binding(), payload, off)
		if err == nil && (!bytes.Equal(payload, m.payload) || off != m.off || string(body) != "hello") {
			t.Errorf("opened %q", body)
		}
		if off >= 0 && off <= len(payload) {
			_, _ = seal.MessageEpoch(payload[off:])
		}
	})
}

func FuzzReadPublicKey(f *testing.F) {
	f.Add(seal.AppendPublicKey(nil, newParty(f, "bob", "1", start).key))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := canon.NewReader(b)
		k := seal.ReadPublicKey(r)
		if r.End() == nil && !bytes.Equal(seal.AppendPublicKey(nil, k), b) {
			t.Error("two encodings of one key")
		}
	})
}

// Padding comes back as it was, and only one padding of a body is taken.
func FuzzUnpad(f *testing.F) {
	f.Add([]byte("hello"))
	f.Add(bytes.Repeat([]byte{0}, 81))
	f.Add(bytes.Repeat([]byte{0x80}, 145))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > seal.MaxBody {
			return
		}
		if n, ok := seal.Unpad(seal.AppendPadded(nil, b)); !ok || n != len(b) {
			t.Errorf("%d bytes came back as %d, %v", len(b), n, ok)
		}
		if seal.IsPaddedLen(len(b)) {
			if n, ok := seal.Unpad(b); ok && !bytes.Equal(seal.AppendPadded(nil, b[:n]), b) {
				t.Error("two paddings of one body")
			}
		}
	})
}
