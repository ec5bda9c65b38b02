package canon_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// TestAgreesWithMsgpack holds the encoding against another library's compact
// form.
func TestAgreesWithMsgpack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "n")
		p := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "p")
		k := rapid.IntRange(0, 40).Draw(t, "k")
		var buf bytes.Buffer
		e := msgpack.NewEncoder(&buf)
		e.UseCompactInts(true)
		list := make([]uint64, k)
		if err := errors.Join(e.EncodeUint(n), e.EncodeBytes(nonNil(p)), e.Encode(list)); err != nil {
			t.Fatal(err)
		}
		b := canon.AppendBin(canon.AppendUint(nil, n), p)
		b = canon.AppendArray(b, k)
		b = append(b, make([]byte, k)...)
		if !bytes.Equal(b, buf.Bytes()) {
			t.Fatalf("got %x, msgpack says %x", b, buf.Bytes())
		}
		r := canon.NewReader(b)
		if got := r.Uint(); got != n {
			t.Fatalf("read %d, want %d", got, n)
		}
		if got := r.Bin(300); !bytes.Equal(got, p) {
			t.Fatalf("read %x, want %x", got, p)
		}
		if got := r.ArrayMax(40); got != k {
			t.Fatalf("read a list of %d, want %d", got, k)
		}
		for range k {
			r.Uint()
		}
		if err := r.End(); err != nil {
			t.Fatal(err)
		}
	})
}

func nonNil(p []byte) []byte {
	if p == nil {
		return []byte{}
	}
	return p
}

func TestEdges(t *testing.T) {
	for _, n := range []uint64{0, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64} {
		b := canon.AppendUint(nil, n)
		if len(b) != canon.UintLen(n) {
			t.Errorf("%d takes %d bytes, UintLen says %d", n, len(b), canon.UintLen(n))
		}
		r := canon.NewReader(b)
		if got := r.Uint(); got != n || r.End() != nil {
			t.Errorf("%d read as %d: %v", n, got, r.Err())
		}
	}
	for _, n := range []int{0, 255, 256, 65535, 65536} {
		b := canon.AppendBin(nil, make([]byte, n))
		if len(b) != canon.BinLen(n) {
			t.Errorf("a bin of %d takes %d bytes, BinLen says %d", n, len(b), canon.BinLen(n))
		}
		r := canon.NewReader(b)
		if got := r.Bin(n); len(got) != n || r.End() != nil {
			t.Errorf("a bin of %d read as %d: %v", n, len(got), r.Err())
		}
	}
	for _, n := range []int{0, 15, 16, 65535, 65536} {
		b := append(canon.AppendArray(nil, n), make([]byte, n)...)
		r := canon.NewReader(b)
		if got := r.ArrayMax(n); got != n || r.Err() != nil {
			t.Errorf("a list of %d read as %d: %v", n, got, r.Err())
		}
	}
}

func TestRefusals(t *testing.T) {
	cases := []struct {
		name string
		in   []byte
		read func(r *canon.Reader)
		want error
	}{
		{"nothing", nil, func(r *canon.Reader) { r.Uint() }, canon.ErrTruncated},
		{"uint cut", []byte{0xcd, 1}, func(r *canon.Reader) { r.Uint() }, canon.ErrTruncated},
		{"uint8 of 127", []byte{0xcc, 127}, func(r *canon.Reader) { r.Uint() }, canon.ErrNotMinimal},
		{"uint16 of 255", []byte{0xcd, 0, 255}, func(r *canon.Reader) { r.Uint() }, canon.ErrNotMinimal},
		{"uint32 of 65535", []byte{0xce, 0, 0, 255, 255}, func(r *canon.Reader) { r.Uint() }, canon.ErrNotMinimal},
		{"uint64 of 2^32-1", []byte{0xcf, 0, 0, 0, 0, 255, 255, 255, 255}, func(r *canon.Reader) { r.Uint() }, canon.ErrNotMinimal},
		{"negative", []byte{0xff}, func(r *canon.Reader) { r.Uint() }, canon.ErrType},
		{"int8", []byte{0xd0, 1}, func(r *canon.Reader) { r.Uint() }, canon.ErrType},
		{"nil", []byte{0xc0}, func(r *canon.Reader) { r.Uint() }, canon.ErrType},
		{"over the bound", []byte{9}, func(r *canon.Reader) { r.UintMax(8) }, canon.ErrTooLong},
		{"bin cut", []byte{0xc4, 2, 1}, func(r *canon.Reader) { r.Bin(9) }, canon.ErrTruncated},
		{"bin over the bound", []byte{0xc6, 255, 255, 255, 255}, func(r *canon.Reader) { r.Bin(9) }, canon.ErrTooLong},
		{"bin16 of 1", []byte{0xc5, 0, 1, 7}, func(r *canon.Reader) { r.Bin(9) }, canon.ErrNotMinimal},
		{"bin32 of 1", []byte{0xc6, 0, 0, 0, 1, 7}, func(r *canon.Reader) { r.Bin(9) }, canon.ErrNotMinimal},
		{"text as bin", []byte{0xa1, 'x'}, func(r *canon.Reader) { r.Bin(9) }, canon.ErrType},
		{"bin of another length", []byte{0xc4, 1, 7}, func(r *canon.Reader) { r.BinExact(2) }, canon.ErrTruncated},
		{"list over the bound", []byte{0xdd, 255, 255, 255, 255}, func(r *canon.Reader) { r.ArrayMax(9) }, canon.ErrTooLong},
		{"list longer than the input", []byte{0x93, 1}, func(r *canon.Reader) { r.ArrayMax(9) }, canon.ErrTruncated},
		{"array16 of 1", []byte{0xdc, 0, 1, 7}, func(r *canon.Reader) { r.ArrayMax(9) }, canon.ErrNotMinimal},
		{"array32 of 16", append([]byte{0xdd, 0, 0, 0, 16}, make([]byte, 16)...), func(r *canon.Reader) { r.ArrayMax(99) }, canon.ErrNotMinimal},
		{"map as list", []byte{0x80}, func(r *canon.Reader) { r.ArrayMax(9) }, canon.ErrType},
		{"list of another length", []byte{0x91, 1}, func(r *canon.Reader) { r.Array(2) }, canon.ErrType},
		{"trailing", []byte{1, 2}, func(r *canon.Reader) { r.Uint() }, canon.ErrTrailing},
	}
	for _, c := range cases {
		r := canon.NewReader(c.in)
		c.read(r)
		if err := r.End(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// TestErrorSticks: after the first error nothing is read any more.
func TestErrorSticks(t *testing.T) {
	r := canon.NewReader([]byte{0xc0, 1, 2})
	r.Uint()
	first := r.Err()
	if r.Uint() != 0 || r.Bin(1) != nil || r.ArrayMax(1) != 0 || r.Since(0) != nil || r.End() != first {
		t.Error("a Reader went on after an error")
	}
}
