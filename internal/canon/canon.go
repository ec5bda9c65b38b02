// Package canon is the one encoding of everything Obelisk signs, stores or
// sends: the subset of msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md)
// in which every value has exactly one encoding. Integers are unsigned and as
// short as they can be, byte strings are bin with the shortest length, lists
// are arrays with the shortest length; text, maps, floats, nil, booleans and
// extensions do not occur.
//
// It is not a general msgpack library: it cannot decode into any, skip a value
// of unknown type or recurse, so no input can make it allocate more than the
// caller's bounds or go deeper than the caller's code.
//
//	b := canon.AppendArray(nil, 2)
//	b = canon.AppendUint(b, 7)
//	b = canon.AppendBin(b, []byte("body"))
//
//	r := canon.NewReader(b)
//	r.Array(2)
//	n, body := r.Uint(), r.Bin(64)
//	if err := r.End(); err != nil { … }
package canon

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Errors of a Reader. Every error it returns wraps one of them.
var (
	// ErrTruncated: the input ends inside a value.
	ErrTruncated = errors.New("truncated")
	// ErrTrailing: bytes follow the last value.
	ErrTrailing = errors.New("trailing bytes")
	// ErrNotMinimal: an integer or a length is longer than it needs to be.
	ErrNotMinimal = errors.New("not minimal")
	// ErrType: another msgpack type stands where one was expected.
	ErrType = errors.New("wrong type")
	// ErrTooLong: a length exceeds the caller's bound.
	ErrTooLong = errors.New("too long")
)

// AppendUint appends v in its shortest form.
func AppendUint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(b, byte(v))
	case v < 1<<8:
		return append(b, msgpcode.Uint8, byte(v))
	case v < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, msgpcode.Uint16), uint16(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, msgpcode.Uint32), uint32(v))
	default:
		return binary.BigEndian.AppendUint64(append(b, msgpcode.Uint64), v)
	}
}

// AppendBinLen appends the header of a byte string of n bytes, which the
// caller appends itself.
func AppendBinLen(b []byte, n int) []byte {
	switch {
	case n < 1<<8:
		return append(b, msgpcode.Bin8, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, msgpcode.Bin16), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(b, msgpcode.Bin32), uint32(n))
	}
}

// AppendBin appends p as a byte string.
func AppendBin[T ~[]byte | ~string](b []byte, p T) []byte {
	return append(AppendBinLen(b, len(p)), p...)
}

// AppendArray appends the header of a list of n values, which the caller
// appends itself.
func AppendArray(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, msgpcode.FixedArrayLow|byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, msgpcode.Array16), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(b, msgpcode.Array32), uint32(n))
	}
}

// UintLen returns how many bytes AppendUint appends for v.
func UintLen(v uint64) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<8:
		return 2
	case v < 1<<16:
		return 3
	case v < 1<<32:
		return 5
	default:
		return 9
	}
}

// BinLen returns how many bytes AppendBin appends for a byte string of n bytes.
func BinLen(n int) int {
	switch {
	case n < 1<<8:
		return 2 + n
	case n < 1<<16:
		return 3 + n
	default:
		return 5 + n
	}
}

// Reader takes values off a byte slice in order. The first error sticks: from
// then on every method returns a zero value, so a decoder checks once, with
// Err or End. What Bin returns shares the input's memory.
type Reader struct {
	b   []byte
	off int
	err error
}

// NewReader returns a Reader of b. It never modifies b.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// MakeReader is NewReader by value, for hot paths that keep it on the stack.
func MakeReader(b []byte) Reader { return Reader{b: b} }

// Err returns the first error, nil while all went well.
func (r *Reader) Err() error { return r.err }

// Offset returns how many bytes have been taken.
func (r *Reader) Offset() int { return r.off }

// Since returns the input from offset start to where the Reader is, nil after
// an error. It shares the input's memory.
func (r *Reader) Since(start int) []byte {
	if r.err != nil {
		return nil
	}
	return r.b[start:r.off:r.off]
}

// Len returns how many bytes are left.
func (r *Reader) Len() int { return len(r.b) - r.off }

// End returns the first error, or ErrTrailing if bytes are left.
func (r *Reader) End() error {
	if r.err == nil && r.off != len(r.b) {
		r.fail(fmt.Errorf("%w: %d after the value", ErrTrailing, len(r.b)-r.off))
	}
	return r.err
}

// Fail makes err the Reader's error unless it has one already. Decoders use it
// for rules of their own, so that one check at the end covers them too.
func (r *Reader) Fail(err error) { r.fail(err) }

func (r *Reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Uint takes an unsigned integer.
func (r *Reader) Uint() uint64 {
	c, ok := r.code()
	if !ok {
		return 0
	}
	var size int
	switch c {
	case msgpcode.Uint8:
		size = 1
	case msgpcode.Uint16:
		size = 2
	case msgpcode.Uint32:
		size = 4
	case msgpcode.Uint64:
		size = 8
	default:
		if c > msgpcode.PosFixedNumHigh {
			r.fail(fmt.Errorf("%w: %#02x where an unsigned integer belongs, at byte %d", ErrType, c, r.off-1))
			return 0
		}
		return uint64(c)
	}
	v, ok := r.length(size)
	if !ok {
		return 0
	}
	if UintLen(v) != size+1 {
		r.fail(fmt.Errorf("%w: %d in %d bytes", ErrNotMinimal, v, size))
		return 0
	}
	return v
}

// UintMax takes an unsigned integer of at most limit.
func (r *Reader) UintMax(limit uint64) uint64 {
	v := r.Uint()
	if r.err == nil && v > limit {
		r.fail(fmt.Errorf("%w: %d, at most %d is allowed", ErrTooLong, v, limit))
		return 0
	}
	return v
}

// Bin takes a byte string of at most limit bytes. The result shares the
// input's memory and must not be modified.
func (r *Reader) Bin(limit int) []byte {
	c, ok := r.code()
	if !ok {
		return nil
	}
	var size int
	switch c {
	case msgpcode.Bin8:
		size = 1
	case msgpcode.Bin16:
		size = 2
	case msgpcode.Bin32:
		size = 4
	default:
		r.fail(fmt.Errorf("%w: %#02x where a byte string belongs, at byte %d", ErrType, c, r.off-1))
		return nil
	}
	n, ok := r.length(size)
	if !ok {
		return nil
	}
	if n > uint64(limit) {
		r.fail(fmt.Errorf("%w: byte string of %d, at most %d is allowed", ErrTooLong, n, limit))
		return nil
	}
	if BinLen(int(n)) != 1+size+int(n) {
		r.fail(fmt.Errorf("%w: length %d in %d bytes", ErrNotMinimal, n, size))
		return nil
	}
	if uint64(r.Len()) < n {
		r.fail(fmt.Errorf("%w: byte string of %d with %d bytes left", ErrTruncated, n, r.Len()))
		return nil
	}
	p := r.b[r.off : r.off+int(n) : r.off+int(n)]
	r.off += int(n)
	return p
}

// BinExact takes a byte string of exactly n bytes.
func (r *Reader) BinExact(n int) []byte {
	p := r.Bin(n)
	if r.err == nil && len(p) != n {
		r.fail(fmt.Errorf("%w: byte string of %d, %d expected", ErrTruncated, len(p), n))
		return nil
	}
	return p
}

// ArrayMax takes the header of a list of at most limit values and returns its
// length. It also refuses a list longer than the bytes left, each value taking
// at least one, so a caller may allocate what it announces.
func (r *Reader) ArrayMax(limit int) int {
	c, ok := r.code()
	if !ok {
		return 0
	}
	var n uint64
	switch {
	case c&^msgpcode.FixedArrayMask == msgpcode.FixedArrayLow:
		n = uint64(c & msgpcode.FixedArrayMask)
	case c == msgpcode.Array16, c == msgpcode.Array32:
		size := 2
		if c == msgpcode.Array32 {
			size = 4
		}
		if n, ok = r.length(size); !ok {
			return 0
		}
		if n < 16 || size == 4 && n < 1<<16 {
			r.fail(fmt.Errorf("%w: list of %d with a length of %d bytes", ErrNotMinimal, n, size))
			return 0
		}
	default:
		r.fail(fmt.Errorf("%w: %#02x where a list belongs, at byte %d", ErrType, c, r.off-1))
		return 0
	}
	if n > uint64(limit) {
		r.fail(fmt.Errorf("%w: list of %d, at most %d is allowed", ErrTooLong, n, limit))
		return 0
	}
	if n > uint64(r.Len()) {
		r.fail(fmt.Errorf("%w: list of %d with %d bytes left", ErrTruncated, n, r.Len()))
		return 0
	}
	return int(n)
}

// Array takes the header of a list of exactly n values.
func (r *Reader) Array(n int) {
	got := r.ArrayMax(n)
	if r.err == nil && got != n {
		r.fail(fmt.Errorf("%w: list of %d, %d expected", ErrType, got, n))
	}
}

// code takes one byte.
func (r *Reader) code() (byte, bool) {
	if r.err != nil {
		return 0, false
	}
	if r.off >= len(r.b) {
		r.fail(fmt.Errorf("%w: at byte %d", ErrTruncated, r.off))
		return 0, false
	}
	r.off++
	return r.b[r.off-1], true
}

// length takes a big-endian integer of size bytes.
func (r *Reader) length(size int) (uint64, bool) {
	if r.Len() < size {
		r.fail(fmt.Errorf("%w: at byte %d", ErrTruncated, len(r.b)))
		return 0, false
	}
	p := r.b[r.off : r.off+size]
	r.off += size
	switch size {
	case 1:
		return uint64(p[0]), true
	case 2:
		return uint64(binary.BigEndian.Uint16(p)), true
	case 4:
		return uint64(binary.BigEndian.Uint32(p)), true
	default:
		return binary.BigEndian.Uint64(p), true
	}
}
