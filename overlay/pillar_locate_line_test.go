package overlay_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

// TestAskLineTakesTurns: sources take turns, and the accounts of each.
func TestAskLineTakesTurns(t *testing.T) {
	t.Parallel()
	var l overlay.AskLine
	names := make(map[int]string)
	push := func(source, account string) {
		name := len(names) + 1
		names[name] = source + account
		if dropped := l.Push(name, source, account); dropped != 0 {
			t.Fatalf("%s waits in vain", names[dropped])
		}
	}
	for range 5 {
		push("a", "1")
	}
	push("a", "2")
	push("a", "2")
	push("b", "3")
	push("c", "4")
	push("c", "4")
	var got []string
	for name := l.Pop(); name != 0; name = l.Pop() {
		got = append(got, names[name])
	}
	if want := "[a1 b3 c4 a2 c4 a1 a2 a1 a1 a1]"; fmt.Sprint(got) != want {
		t.Errorf("the turns are %v, want %s", got, want)
	}
	if n, sources := l.Waiting(); n != 0 || sources != 0 {
		t.Errorf("%d of %d sources are left", n, sources)
	}
}

// TestAskLineIsBounded: whoever has most waiting gives way, and what one account
// asks comes in its order.
func TestAskLineIsBounded(t *testing.T) {
	t.Parallel()
	var l overlay.AskLine
	of := make(map[int]string)
	name := 0
	push := func(source, account string) (dropped string) {
		name++
		of[name] = source + account
		out := l.Push(name, source, account)
		if n, sources := l.Waiting(); n > overlay.MaxWaitingAsks || sources > n {
			t.Fatalf("%d wait, of %d sources", n, sources)
		}
		return of[out]
	}
	for i := range 4 * overlay.MaxWaitingAsks {
		if dropped := push("crowd", fmt.Sprint(i%16)); (dropped != "") != (i >= overlay.MaxWaitingAsks) {
			t.Fatalf("question %d: %q waits in vain", i, dropped)
		}
	}
	for i := range 16 { // of as many sources; none of them, and none at home in the crowd
		if dropped := push(fmt.Sprint("alone ", i), "x"); len(dropped) < 5 || dropped[:5] != "crowd" {
			t.Errorf("%q waits in vain", dropped)
		}
	}
	if dropped := push("crowd", "modest"); dropped == "crowdmodest" || dropped[:5] != "crowd" {
		t.Errorf("%q waits in vain", dropped)
	}
	found := false
	for range 2 * 17 { // a turn each
		found = of[l.Pop()] == "crowdmodest" || found
	}
	if !found {
		t.Error("the modest one of the crowd had no turn")
	}
	last := make(map[string]int)
	for n := l.Pop(); n != 0; n = l.Pop() {
		if last[of[n]] > n {
			t.Fatalf("%s: question %d comes after %d", of[n], n, last[of[n]])
		}
		last[of[n]] = n
	}
}

// TestAskLineAgainstModel: whatever is pushed and popped, nothing is lost or comes
// twice.
func TestAskLineAgainstModel(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var l overlay.AskLine
	in := make(map[int]bool)
	for name := 1; name < 20_000; name++ {
		if random.IntN(5) < 3 {
			in[name] = true
			if dropped := l.Push(name, fmt.Sprint(random.IntN(20)), fmt.Sprint(random.IntN(5))); dropped != 0 && !in[dropped] {
				t.Fatalf("%d was not waiting", dropped)
			} else {
				delete(in, dropped)
			}
		} else if n := l.Pop(); n != 0 {
			if !in[n] {
				t.Fatalf("%d was not waiting", n)
			}
			delete(in, n)
		}
		if n, _ := l.Waiting(); n != len(in) {
			t.Fatalf("%d wait, want %d", n, len(in))
		}
	}
}
