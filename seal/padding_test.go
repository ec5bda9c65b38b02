package seal_test

import (
	"bytes"
	"testing"

	"github.com/obelisk-network/obelisk/seal"
)

func TestPaddedSizes(t *testing.T) {
	for _, c := range []struct{ body, padded int }{
		{0, 81}, {1, 81}, {80, 81}, {81, 145}, {144, 145}, {145, 209}, {272, 273}, {273, 337},
		{512, 529}, {528, 529}, {529, 657}, {1024, 1041}, {4096, 4113}, {4113, 5137},
		{64 << 10, 64<<10 + 17}, {64<<10 + 16, 64<<10 + 17}, {64<<10 + 17, 80<<10 + 17},
		{seal.MaxBody, seal.MaxBody + 1},
	} {
		if got := seal.PaddedLen(c.body); got != c.padded {
			t.Errorf("a body of %d pads to %d, want %d", c.body, got, c.padded)
		}
	}
	last, sizes := 0, map[int]bool{}
	for n := 0; n <= seal.MaxBody; n++ {
		p := seal.PaddedLen(n)
		sizes[p] = true
		if p <= n || p < last {
			t.Fatalf("a body of %d pads to %d, one of %d to %d", n, p, n-1, last)
		}
		if n > 256 && (p-n)*4 > n {
			t.Fatalf("a body of %d pads to %d: more than a quarter is waste", n, p)
		}
		last = p
	}
	if len(sizes) > 48 {
		t.Errorf("%d sizes tell too much", len(sizes))
	}
	for n := -1; n <= seal.MaxBody+70000; n++ {
		if seal.IsPaddedLen(n) != sizes[n] {
			t.Fatalf("IsPaddedLen(%d) is %v", n, !sizes[n])
		}
	}
}

func TestUnpadIsStrict(t *testing.T) {
	for n := 0; n < 700; n++ {
		body := bytes.Repeat([]byte{0x80}, n) // a body that looks like padding
		padded := seal.AppendPadded(nil, body)
		if got, ok := seal.Unpad(padded); !ok || got != n {
			t.Fatalf("a body of %d came back as %d, %v", n, got, ok)
		}
		body = make([]byte, n) // and another
		padded = seal.AppendPadded(nil, body)
		if got, ok := seal.Unpad(padded); !ok || got != n {
			t.Fatalf("a body of %d zeros came back as %d, %v", n, got, ok)
		}
		// No other byte in place of any byte of the padding.
		for i := n; i < len(padded); i++ {
			for _, x := range []byte{0x01, 0x7f, 0x81, 0xff} {
				bad := bytes.Clone(padded)
				bad[i] = x
				if _, ok := seal.Unpad(bad); ok {
					t.Fatalf("body of %d: byte %d of the padding may be %#x", n, i-n, x)
				}
			}
		}
		// No body that belongs into a smaller class, and no marker at all.
		if short := seal.AppendPadded(nil, body); len(short) > 81 {
			clear(short)
			if _, ok := seal.Unpad(short); ok {
				t.Fatal("padding without marker")
			}
			for m := range n { // a body of m bytes in the class of n
				short[m] = 0x80
				if got, ok := seal.Unpad(short); ok != (seal.PaddedLen(m) == len(short)) || ok && got != m {
					t.Fatalf("a body of %d bytes in %d: %d, %v", m, len(short), got, ok)
				}
				short[m] = 0
			}
		}
	}
}
