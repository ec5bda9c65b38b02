package seal

import (
	"crypto/subtle"
	"math/bits"
)

// framing is what every size class has on top of its round size: room for the
// few bytes that frame a body of a round size, so that 512 bytes or 64 KiB do
// not fall into the next class because of them.
const framing = 16

// MaxBody is the largest body that can be sealed, in bytes: the protocol's
// 256 KiB and what frames it.
const MaxBody = 256<<10 + framing

// class returns the round size of the size class for a body of n bytes: the
// smallest of 64, 128, 192, 256, then four a doubling (320, 384, 448, 512,
// 640, …) that with framing is at least n.
func class(n int) int {
	n = max(n-framing, 1)
	step := 64
	if n > 256 {
		step = 1 << (bits.Len(uint(n-1)) - 3)
	}
	return (n + step - 1) / step * step
}

// previous returns the round size before c, -framing-1 if c is the first: a
// body in class c has more than previous(c) + framing bytes.
func previous(c int) int {
	switch {
	case c <= 64:
		return -framing - 1
	case c <= 256:
		return c - 64
	default:
		return c - 1<<(bits.Len(uint(c-1))-3)
	}
}

// paddedLen is how long a body of n bytes is when padded: its class, framing,
// and a byte that is always there because padding is at least 0x80.
func paddedLen(n int) int { return class(n) + framing + 1 }

// isPaddedLen reports whether some body pads to n bytes.
func isPaddedLen(n int) bool {
	c := n - framing - 1
	return c >= 64 && n <= paddedLen(MaxBody) && class(c+framing) == c
}

// appendPadded appends body || 0x80 || 0x00…, paddedLen(len(body)) bytes.
func appendPadded(b, body []byte) []byte {
	zeros := paddedLen(len(body)) - len(body) - 1
	b = append(b, body...)
	b = append(b, 0x80)
	return append(b, make([]byte, zeros)...) // compiled without the allocation
}

// unpad returns the length of the body inside padded, whose length is an
// isPaddedLen. It accepts exactly what appendPadded appends. Which bytes it
// looks at and how often depends on len(padded) alone, never on the content;
// only its verdict does.
func unpad(padded []byte) (int, bool) {
	c := len(padded) - framing - 1
	shortest := previous(c) + framing + 1 // the shortest body of this class
	body, found, bad := 0, 0, 0
	for i := len(padded) - 1; i >= shortest; i-- {
		zero := subtle.ConstantTimeByteEq(padded[i], 0x00)
		mark := subtle.ConstantTimeByteEq(padded[i], 0x80)
		body = subtle.ConstantTimeSelect(mark&^found, i, body)
		bad |= (zero ^ 1) & (mark ^ 1) &^ found // neither, before the mark was met
		found |= mark
	}
	return body, found&^bad == 1
}
