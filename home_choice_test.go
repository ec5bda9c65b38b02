package obelisk_test

import (
	"slices"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/identity"
)

func TestHomeChoice(t *testing.T) {
	self := identity.NewPillarKey().ID()
	var all []obelisk.PillarID
	for range 5 {
		all = append(all, identity.NewPillarKey().ID())
	}
	now := time.Now()
	grants := map[obelisk.PillarID]bool{}
	for _, p := range all {
		grants[p] = true
	}
	c := obelisk.NewHomeChoice(self)
	held := func(p obelisk.PillarID) bool { return grants[p] && slices.Contains(c.Chosen(), p) }
	pass := func(d time.Duration, connected []obelisk.PillarID) []obelisk.PillarID {
		for end := now.Add(d); now.Before(end); now = now.Add(time.Second) {
			c.Update(now, connected, held)
		}
		return c.Chosen()
	}

	if got := pass(time.Second, all[:1]); !slices.Equal(got, all[:1]) {
		t.Fatalf("one pillar: %v", got)
	}
	first := pass(time.Second, all)
	if len(first) != 3 || first[0] != all[0] {
		t.Fatalf("of five: %v", first)
	}
	if got := pass(time.Hour, all); !slices.Equal(got, first) || !slices.Equal(c.Holding(), first) {
		t.Errorf("chosen %v, later %v, holding %v", first, got, c.Holding())
	}
	o := obelisk.NewHomeChoice(self)
	o.Update(now, all, held)
	again := obelisk.NewHomeChoice(self)
	again.Update(now, []obelisk.PillarID{all[4], all[2], all[0], all[1], all[3]}, held)
	if !slices.Equal(o.Chosen(), again.Chosen()) {
		t.Errorf("another run chooses %v, not %v", again.Chosen(), o.Chosen())
	}

	// One dies: it is replaced, the others stay, and it is not gone back to.
	dead := first[1]
	rest := slices.DeleteFunc(slices.Clone(all), func(p obelisk.PillarID) bool { return p == dead })
	second := pass(2*time.Second, rest)
	if len(second) != 3 || !slices.Contains(second, first[0]) || !slices.Contains(second, first[2]) || slices.Contains(second, dead) {
		t.Fatalf("without %s: %v", dead, second)
	}
	if got := pass(time.Minute, all); !slices.Equal(got, second) {
		t.Errorf("it is back: %v, was %v", got, second)
	}

	// One refuses: it is replaced after a while, and asked last for a while.
	picky := second[0]
	grants[picky] = false
	if got := pass(5*time.Second, all); !slices.Equal(got, second) || len(c.Holding()) != 2 {
		t.Errorf("refused for five seconds: %v, holding %v", got, c.Holding())
	}
	third := pass(15*time.Second, all)
	if len(third) != 3 || slices.Contains(third, picky) || len(c.Holding()) != 3 {
		t.Errorf("refused for long: %v, holding %v", third, c.Holding())
	}
	grants[picky] = true
	two := []obelisk.PillarID{picky, third[0], third[1]}
	if got := pass(2*time.Second, two); !slices.Contains(got, picky) {
		t.Errorf("there is nobody else, and still %v", got)
	}
	// Who is the only one is never given up.
	grants[picky] = false
	if got := pass(time.Hour, []obelisk.PillarID{picky}); !slices.Equal(got, []obelisk.PillarID{picky}) || len(c.Holding()) != 0 {
		t.Errorf("the only one refuses: %v, holding %v", got, c.Holding())
	}
}

func TestHomeNotice(t *testing.T) {
	a, b, c := multiaddr.StringCast("/ip4/1.2.3.4/tcp/1"), multiaddr.StringCast("/ip4/1.2.3.4/tcp/2"), multiaddr.StringCast("/ip4/1.2.3.4/tcp/3")
	list := func(l ...multiaddr.Multiaddr) []multiaddr.Multiaddr { return l }
	start := time.Now()
	n := &obelisk.HomeNotice{}
	now := start
	// told passes d and returns after what time something was told, -1 if nothing
	// was.
	told := func(d time.Duration, addrs []multiaddr.Multiaddr) time.Duration {
		t.Helper()
		at := time.Duration(-1)
		begin := now
		for end := now.Add(d); now.Before(end); now = now.Add(time.Second) {
			if n.Offer(now, addrs) {
				if at >= 0 {
					t.Fatal("told twice")
				}
				at = now.Sub(begin)
			}
		}
		return at
	}
	for _, step := range []struct {
		what  string
		addrs []multiaddr.Multiaddr
		d     time.Duration
		want  time.Duration
	}{
		{"nothing", nil, time.Minute, -1},
		{"the first", list(a), 10 * time.Second, time.Second},
		{"one more", list(a, b), 10 * time.Second, time.Second},
		{"one less, not for long", list(b), 20 * time.Second, -1},
		{"as before", list(a, b), 20 * time.Second, -1},
		{"one less", list(b), time.Minute, 30 * time.Second},
		{"a fourth change is too soon", list(c), 2 * time.Minute, 61 * time.Second},
		{"none at all", nil, 10 * time.Minute, -1},
		{"the same again", list(c), time.Minute, -1},
		{"another order", list(b, c), 10 * time.Second, time.Second},
	} {
		if got := told(step.d, step.addrs); got != step.want {
			t.Errorf("%s: told after %v, want %v", step.what, got, step.want)
		}
	}
	// However wild it goes, there are three changes in three minutes.
	count := 0
	begin := now
	for i := 0; now.Sub(begin) < time.Hour; i++ {
		addrs := list(a, b)
		if i/2%2 == 0 {
			addrs = list(c)
		}
		if n.Offer(now, addrs) {
			count++
		}
		now = now.Add(time.Second)
	}
	if count < 50 || count > 62 {
		t.Errorf("%d changes in an hour", count)
	}
}
