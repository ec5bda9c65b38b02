package natlab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Run is what one run of a scenario showed. Times that do not apply are 0.
type Run struct {
	Number    int      `json:"number"`
	Direct    bool     `json:"direct"`     // the newest messages came directly, in both directions, before anything else happened
	DirectMS  float64  `json:"direct_ms"`  // from the first send to the arrival of the first direct message
	FirstMS   float64  `json:"first_ms"`   // how long the first message took
	MostMS    float64  `json:"most_ms"`    // in what time 19 of 20 of the others arrived
	SlowestMS float64  `json:"slowest_ms"` // how long the slowest of them took
	NextMS    float64  `json:"next_ms"`    // how long the slower of the first messages after the disturbance took
	NextHow   string   `json:"next_how"`   // which one that was, and how it came
	Sent      int      `json:"sent"`
	Lost      int      `json:"lost"`
	Twice     int      `json:"twice"`
	ByDirect  int      `json:"by_direct"`  // messages that came directly
	ByCircuit int      `json:"by_circuit"` // … over a circuit through a pillar
	ByPillar  int      `json:"by_pillar"`  // … from a pillar's store
	Between   uint64   `json:"between"`    // packets the two gateways sent each other
	Netcheck  Verdict  `json:"netcheck"`   // of both, asked when everything else had been measured
	TookS     float64  `json:"took_s"`     // without that
	Failures  []string `json:"failures"`   // what should have been otherwise
}

func (r *Run) fail(format string, args ...any) {
	r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
}

// judge adds what does not hold of a run by itself.
func (r *Run) judge(must Must) {
	if r.Lost > 0 {
		r.fail("%d of %d messages lost", r.Lost, r.Sent)
	}
	if r.Twice > 0 {
		r.fail("%d of %d messages delivered twice", r.Twice, r.Sent)
	}
	if must.Direct && !r.Direct {
		r.fail("it did not become direct")
	}
	for _, limit := range []struct {
		what string
		took float64
		most time.Duration
	}{
		{"the first message", r.FirstMS, must.FirstIn},
		{"one message in twenty", r.MostMS, must.MostIn},
		{"the next message after the disturbance, " + r.NextHow + ",", r.NextMS, must.NextIn},
	} {
		if limit.most > 0 && limit.took > ms(limit.most) {
			r.fail("%s took %.0f ms, more than %v", limit.what, limit.took, limit.most)
		}
	}
}

// Result is what all runs of a scenario showed.
type Result struct {
	Scenario string   `json:"scenario"`
	Says     string   `json:"says"`
	Must     string   `json:"must"`
	Runs     []Run    `json:"runs"`
	Failures []string `json:"failures"` // of the scenario as a whole, and how many runs failed
}

// OK reports whether everything held.
func (r Result) OK() bool { return len(r.Failures) == 0 }

// judge sums up.
func (r *Result) judge(must Must) {
	r.Must = must.String()
	failed := 0
	for _, run := range r.Runs {
		if len(run.Failures) > 0 {
			failed++
		}
	}
	if failed > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("%d of %d runs failed", failed, len(r.Runs)))
	}
	if must.DirectIn > 0 && r.count(func(run Run) bool { return run.Direct }) > 0 {
		if took := r.median(func(run Run) float64 { return run.DirectMS }); took > ms(must.DirectIn) {
			r.Failures = append(r.Failures, fmt.Sprintf("direct after %.0f ms at the median, more than %v", took, must.DirectIn))
		}
	}
}

// String says in words what must hold.
func (m Must) String() string {
	parts := []string{"nothing lost, nothing twice"}
	if m.Direct {
		parts = append(parts, "direct")
	}
	for _, limit := range []struct {
		what string
		most time.Duration
	}{
		{"median to direct under", m.DirectIn},
		{"first message under", m.FirstIn},
		{"19 of 20 others under", m.MostIn},
		{"next message under", m.NextIn},
	} {
		if limit.most > 0 {
			parts = append(parts, fmt.Sprintf("%s %v", limit.what, limit.most))
		}
	}
	return strings.Join(parts, ", ")
}

func (r Result) count(ok func(Run) bool) int {
	n := 0
	for _, run := range r.Runs {
		if ok(run) {
			n++
		}
	}
	return n
}

// sorted are the values that are not 0, ascending.
func (r Result) sorted(of func(Run) float64) []float64 {
	var list []float64
	for _, run := range r.Runs {
		if v := of(run); v > 0 {
			list = append(list, v)
		}
	}
	slices.Sort(list)
	return list
}

func (r Result) median(of func(Run) float64) float64 {
	list := r.sorted(of)
	if len(list) == 0 {
		return 0
	}
	return list[len(list)/2]
}

// spread is min/median/max, or a dash.
func (r Result) spread(of func(Run) float64) string {
	list := r.sorted(of)
	if len(list) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f/%.0f/%.0f", list[0], list[len(list)/2], list[len(list)-1])
}

// WriteTable writes results as a Markdown table. Times are min/median/max in ms.
func WriteTable(w io.Writer, results []Result) error {
	b := new(strings.Builder)
	b.WriteString("| scenario | delivered | direct | to direct | first message | 19 of 20 others | slowest | after disturbance | came direct/circuit/pillar | netcheck true (unknown) | must | |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		whole := r.count(func(run Run) bool { return run.Sent > 0 && run.Lost == 0 && run.Twice == 0 })
		direct := r.count(func(run Run) bool { return run.Direct })
		var by [3]int
		var check Verdict
		for _, run := range r.Runs {
			check.add(run.Netcheck)
			by[0], by[1], by[2] = by[0]+run.ByDirect, by[1]+run.ByCircuit, by[2]+run.ByPillar
		}
		verdict := "holds"
		if !r.OK() {
			verdict = "**" + strings.Join(r.Failures, "; ") + "**"
		}
		fmt.Fprintf(b, "| %s: %s | %d/%d | %d/%d | %s | %s | %s | %s | %s | %d/%d/%d | %s | %s | %s |\n",
			r.Scenario, r.Says, whole, len(r.Runs), direct, len(r.Runs),
			r.spread(func(run Run) float64 { return run.DirectMS }),
			r.spread(func(run Run) float64 { return run.FirstMS }),
			r.spread(func(run Run) float64 { return run.MostMS }),
			r.spread(func(run Run) float64 { return run.SlowestMS }),
			r.spread(func(run Run) float64 { return run.NextMS }),
			by[0], by[1], by[2], check, r.Must, verdict)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func ms(d time.Duration) float64          { return float64(d.Microseconds()) / 1000 }
func asDuration(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
