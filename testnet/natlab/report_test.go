package natlab

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	good := Run{Direct: true, DirectMS: 700, FirstMS: 80, MostMS: 90, SlowestMS: 100, NextMS: 500, Sent: 20}
	for name, tt := range map[string]struct {
		must   Must
		change func(*Run)
		want   string // in a failure; "": none
	}{
		"all is well":        {Must{Direct: true, FirstIn: time.Second, MostIn: time.Second, NextIn: time.Second}, func(*Run) {}, ""},
		"lost":               {Must{}, func(r *Run) { r.Lost = 1 }, "1 of 20 messages lost"},
		"twice":              {Must{}, func(r *Run) { r.Twice = 2 }, "2 of 20 messages delivered twice"},
		"not direct":         {Must{Direct: true}, func(r *Run) { r.Direct = false }, "did not become direct"},
		"need not be direct": {Must{}, func(r *Run) { r.Direct = false }, ""},
		"first too late":     {Must{FirstIn: time.Second}, func(r *Run) { r.FirstMS = 1001 }, "the first message took 1001 ms"},
		"others too late":    {Must{MostIn: 89 * time.Millisecond}, func(*Run) {}, "one message in twenty took 90 ms"},
		"one may be slow":    {Must{MostIn: time.Second}, func(r *Run) { r.SlowestMS = 5000 }, ""},
		"next too late":      {Must{NextIn: 499 * time.Millisecond}, func(r *Run) { r.NextHow = "x" }, "the next message after the disturbance, x, took 500 ms"},
		"failed before":      {Must{}, func(r *Run) { r.fail("no lab") }, "no lab"},
	} {
		t.Run(name, func(t *testing.T) {
			run := good
			tt.change(&run)
			run.judge(tt.must)
			r := Result{Runs: []Run{good, run}}
			r.judge(tt.must)
			if ok := tt.want == ""; r.OK() != ok || (len(run.Failures) == 0) != ok {
				t.Fatalf("failures %q of the run and %q of all, want none: %t", run.Failures, r.Failures, ok)
			}
			if tt.want != "" && !strings.Contains(strings.Join(run.Failures, "; "), tt.want) {
				t.Errorf("failures %q, want %q", run.Failures, tt.want)
			}
		})
	}
}

func TestMedianToDirect(t *testing.T) {
	t.Parallel()
	must := Must{Direct: true, DirectIn: 2 * time.Second}
	runs := func(times ...float64) Result {
		var r Result
		for _, took := range times {
			r.Runs = append(r.Runs, Run{Direct: true, DirectMS: took})
		}
		r.judge(must)
		return r
	}
	if r := runs(700, 900, 9000); !r.OK() {
		t.Errorf("one slow run of three: %q", r.Failures)
	}
	if r := runs(700, 2100, 2200); r.OK() {
		t.Error("two slow runs of three pass")
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	bad := Result{Scenario: "b", Says: "bad", Runs: []Run{{Sent: 3, Lost: 1, Failures: []string{"1 of 3 messages lost"}}}}
	bad.judge(Must{})
	results := []Result{{Scenario: "a", Says: "good", Must: "x", Runs: []Run{
		{Sent: 3, Direct: true, DirectMS: 3, FirstMS: 1}, {Sent: 3, Direct: true, DirectMS: 1, FirstMS: 2},
		{Sent: 3, FirstMS: 3, ByPillar: 3},
	}}, bad}
	var b strings.Builder
	if err := WriteTable(&b, results); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	columns := strings.Count(lines[0], "|")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.Count(l, "|") != columns }); i >= 0 {
		t.Errorf("line %d has other columns than the head: %s", i, lines[i])
	}
	for i, want := range []string{2: "| a: good | 3/3 | 2/3 | 1/3/3 | 1/2/3 | – |", 3: "**1 of 1 runs failed** |"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("%s\nwant in it: %s", lines[i], want)
		}
	}
}

// The table is what it says it is.
func TestScenarios(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	for _, s := range Scenarios {
		if names[s.Name] {
			t.Errorf("two scenarios %s", s.Name)
		}
		names[s.Name] = true
		for _, place := range []string{s.From, s.To, s.Home} {
			if place != "" && s.Topology.behind(place) < 0 {
				t.Errorf("%s: nobody is at %s", s.Name, place)
			}
		}
		if s.Runs < 10 {
			t.Errorf("%s: %d runs", s.Name, s.Runs)
		}
		if s.Disturb != None && s.Must.NextIn == 0 {
			t.Errorf("%s: a disturbance after which everything goes", s.Name)
		}
	}
}
