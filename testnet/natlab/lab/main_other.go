//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "natlab: cannot run here: needs Linux: its NATs are network namespaces with iptables")
	os.Exit(3)
}
