package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// sizeValue is a flag for a number of bytes: 1073741824, 512MiB, 1.5G. The
// units are powers of 1024.
type sizeValue struct{ n *int64 }

func (v sizeValue) Type() string { return "SIZE" }

func (v sizeValue) String() string {
	if v.n == nil || *v.n == 0 {
		return ""
	}
	for i := len(sizeUnits) - 1; i > 0; i-- {
		if unit := int64(1) << (10 * i); *v.n%unit == 0 {
			return fmt.Sprintf("%d%ciB", *v.n/unit, sizeUnits[i])
		}
	}
	return strconv.FormatInt(*v.n, 10)
}

const sizeUnits = "BKMGTP"

func (v sizeValue) Set(s string) error {
	number := strings.TrimRight(strings.ToUpper(strings.TrimSpace(s)), "IB")
	shift := 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte(sizeUnits, number[n-1]); i > 0 {
			shift, number = 10*i, strings.TrimSpace(number[:n-1])
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f*float64(int64(1)<<shift) > 1<<60 {
		return fmt.Errorf("%q is no size: want bytes, or a number with KiB, MiB, GiB or TiB", s)
	}
	*v.n = int64(f * float64(int64(1)<<shift))
	return nil
}

// choiceValue is a flag that takes one of a few words.
type choiceValue struct {
	s       *string
	choices []string
}

func (v choiceValue) Type() string   { return strings.Join(v.choices, "|") }
func (v choiceValue) String() string { return *v.s }

func (v choiceValue) Set(s string) error {
	if !slices.Contains(v.choices, s) {
		return fmt.Errorf("%q: want %s", s, strings.Join(v.choices, ", "))
	}
	*v.s = s
	return nil
}
