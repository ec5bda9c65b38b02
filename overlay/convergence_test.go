package overlay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// said is a summary in short: "a2=5" is pillar a's of instant 2, which holds 5.
// A "!" behind it is a full disk's, a "k" one under another short key.
func said(text string) (list []overlay.Summary) {
	for _, w := range strings.Fields(text) {
		var t, n uint64
		s := overlay.Summary{Pillar: identity.PillarID(w[:1])}
		if _, err := fmt.Sscanf(w[1:], "%d=%d", &t, &n); err != nil {
			panic(err)
		}
		s.Settled, s.Front, s.At = t, t+20, t+10
		s.Count, s.Digest = n, overlay.Sum{Lo: n}
		s.Full = strings.HasSuffix(w, "!")
		if strings.HasSuffix(w, "k") {
			s.Key[0] = 1
		}
		list = append(list, s)
	}
	return list
}

func every(*overlay.Summary) bool { return true }

func TestCompareSummaries(t *testing.T) {
	for _, tt := range []struct{ name, said, want string }{
		{"alone", "a1=5", "a:unknown"},
		{"equal", "a1=5 b1=5 c1=5", "a:equal b:equal c:equal"},
		{"one differs", "a1=5 b1=5 c1=6", "a:equal b:equal c:traffic1"},
		{"twice in a row", "a1=5 b1=5 c1=6 a2=5 b2=5 c2=6", "a:equal b:equal c:traffic2"},
		{"three times in a row", "a1=5 b1=5 c1=6 a2=5 b2=5 c2=6 a3=5 b3=5 c3=6", "a:equal b:equal c:diverged3"},
		{"three times, not in a row", "a1=5 b1=5 c1=6 a2=5 b2=5 c2=5 a3=5 b3=5 c3=6 a4=5 b4=5 c4=6", "a:equal b:equal c:traffic2"},
		{"equal at last", "a1=5 b1=5 c1=6 a2=5 b2=5 c2=6 a3=5 b3=5 c3=6 a4=7 b4=7 c4=7", "a:equal b:equal c:equal"},
		{"two against two", "a1=5 b1=5 c1=6 d1=6", "a:traffic1 b:traffic1 c:traffic1 d:traffic1"},
		{"two of two", "a1=5 b1=6 a2=5 b2=6 a3=5 b3=6", "a:diverged3 b:diverged3"},
		{"other instants are not compared", "a1=5 b2=6", "a:unknown b:unknown"},
		{"the newest common instant counts", "a1=5 b1=5 a2=9", "a:equal b:equal"},
		{"nobody else's instant breaks no row", "a1=5 b1=6 c1=5 b2=6 a3=5 b3=6 c3=5", "a:equal b:traffic2 c:equal"},
		{"another short key is not compared", "a1=5 b1=6k", "a:unknown b:unknown"},
		{"a full disk is behind, not divergent", "a1=5 b1=5 c1=2!", "a:equal b:equal c:unknown"},
		{"and is no rival", "a1=5 b1=2! c1=2!", "a:unknown b:unknown c:unknown"},
	} {
		var got []string
		for _, s := range overlay.CompareSummaries(said(tt.said), every) {
			text := fmt.Sprintf("%s:%s", string(s.Pillar), s.Agreement)
			if s.Unequal > 0 {
				text += fmt.Sprint(s.Unequal)
			}
			got = append(got, text)
		}
		if want := strings.Fields(tt.want); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
	}
}

func anyone(identity.PillarID) bool { return true }

// A divergence is dated to its beginning, though only the newest summaries are
// kept; what comes late or twice changes nothing.
func TestConvergenceSince(t *testing.T) {
	var c overlay.Convergence
	const step = 10_000
	var last []overlay.Statement
	now := uint64(1_000_000)
	for i := range uint64(9) {
		text := fmt.Sprintf("a%[1]d=5 b%[1]d=5 c%[1]d=%[2]d", now+i*step, 5+min(i, 1))
		c.Add(now+i*step+15_000, said(text))
		c.Add(now+i*step+15_000, said(text))
		c.Add(now+i*step+15_000, said(fmt.Sprintf("c%d=5", now)))
		last = c.Statements(now+i*step+15_000, 3, anyone)
	}
	if st := last[2]; st.Agreement != overlay.AgreeDiverged || st.Since != now+step {
		t.Fatalf("%s since %d, want diverged since %d", st.Agreement, st.Since, now+step)
	}
	if list := c.List(100); len(list) != 12 {
		t.Errorf("%d summaries are kept of three pillars, want four of each", len(list))
	}
	if list := c.List(4); len(list) != 4 || list[0].Settled != now+8*step || list[2].Settled != now+8*step {
		t.Errorf("the newest do not come first: %v", list)
	}
	c.Add(now+9*step, said(fmt.Sprintf("a%[1]d=6 b%[1]d=6 c%[1]d=6", now+9*step)))
	if st := c.Statements(now+9*step, 3, anyone)[2]; st.Agreement != overlay.AgreeEqual || st.Since != 0 {
		t.Errorf("after it healed: %s since %d", st.Agreement, st.Since)
	}
	// A summary of the far future does not take the place of those of today.
	ahead := said(fmt.Sprintf("a%d=6", now+1000*step))
	ahead[0].At = now + 9*step
	c.Add(now+9*step, ahead)
	if st := c.Statements(now+9*step, 3, anyone)[0]; st.Agreement != overlay.AgreeEqual {
		t.Errorf("with a summary of the future it is %s", st.Agreement)
	}
	// What is old proves nothing.
	for _, st := range c.Statements(now+30*step, 3, anyone) {
		if st.Agreement != overlay.AgreeUnknown {
			t.Errorf("%s is %s after three minutes of silence", string(st.Pillar), st.Agreement)
		}
	}
	c.Add(now+3*overlay.DayMillis, nil)
	if len(c.List(100)) != 0 {
		t.Error("summaries of days ago are kept")
	}
}

// Converged asks for the last summaries of who is alive and not full, and for
// gaps only before summaries can tell.
func TestConverged(t *testing.T) {
	const now = 1_000_000
	alive := func(p string, here, there uint64) overlay.PillarStatus {
		return overlay.PillarStatus{ID: identity.PillarID(p), State: overlay.PillarAlive, Connected: true, MissingHere: here, MissingThere: there}
	}
	state := func(p overlay.PillarStatus, s overlay.PillarState) overlay.PillarStatus { p.State = s; return p }
	for _, tt := range []struct {
		name   string
		said   string
		before bool // the others were alive before the summaries were made
		others []overlay.PillarStatus
		want   bool
	}{
		{"alone", "a990000=5", true, nil, true},
		{"equal", "a990000=5 b990000=5", true, []overlay.PillarStatus{alive("b", 0, 0)}, true},
		{"equal, with traffic under way", "a990000=5 b990000=5", true, []overlay.PillarStatus{alive("b", 3, 2)}, true},
		{"unequal", "a990000=5 b990000=6", true, []overlay.PillarStatus{alive("b", 0, 0)}, false},
		{"unequal with who is dead", "a990000=5 b990000=6", true, []overlay.PillarStatus{state(alive("b", 0, 0), overlay.PillarDead)}, true},
		{"unequal with a full one", "a990000=5 b990000=4!", true, []overlay.PillarStatus{state(alive("b", 0, 9), overlay.PillarFull)}, true},
		{"equal before it was away", "a990000=5 b990000=5", false, []overlay.PillarStatus{alive("b", 0, 100)}, false},
		{"and nothing is missing", "a990000=5 b990000=5", false, []overlay.PillarStatus{alive("b", 0, 0)}, true},
		{"no summary yet", "a990000=5", true, []overlay.PillarStatus{alive("b", 1, 0)}, false},
		{"others differ among themselves", "a990000=5 b990000=5 c990000=6", true, []overlay.PillarStatus{alive("b", 0, 0), alive("c", 0, 0)}, false},
	} {
		var c overlay.Convergence
		if tt.before {
			c.Look(now-60_000, tt.others)
		}
		c.Look(now, tt.others)
		c.Add(now, said(tt.said))
		statements := c.Statements(now, 3, func(p identity.PillarID) bool { return p == "a" || c.Alive(p) })
		if got := c.Converged("a", statements, tt.others); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestSummaryInterval(t *testing.T) {
	for n, want := range map[int]string{0: "10s", 100: "10s", 101: "20s", 250: "30s"} {
		if got := overlay.SummaryInterval(n).String(); got != want {
			t.Errorf("%d pillars: %s, want %s", n, got, want)
		}
	}
}
