package obelisk_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// histogramSuffix is what a histogram's series have behind its name.
var (
	metricName      = regexp.MustCompile(`\bobelisk_[a-z_]+`)
	histogramSuffix = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// checkNames holds the metrics in an expression against docs/metrics.md.
func checkNames(t *testing.T, page map[string]documented, file, text string) {
	t.Helper()
	for _, name := range metricName.FindAllString(text, -1) {
		_, known := page[name]
		if base := histogramSuffix.ReplaceAllString(name, ""); base != name {
			known = page[base].kind == "histogram"
		} else if page[name].kind == "histogram" && file != "" {
			// In an expression a histogram's own name selects nothing; in a text it
			// is what to look at.
			known = file == "text"
		}
		if !known {
			t.Errorf("%s: there is no %s in docs/metrics.md", file, name)
		}
	}
}

// TestAlerts: promtool takes the rules, some alerts fire when they should and
// only then, and what they name exists.
func TestAlerts(t *testing.T) {
	page := documentedMetrics(t)
	rules, err := os.ReadFile("deploy/prometheus-rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	checkNames(t, page, "text", string(rules))
	expressions := regexp.MustCompile(`(?m)^ *expr: (.*)$`).FindAllStringSubmatch(string(rules), -1)
	if len(expressions) < 10 {
		t.Errorf("%d alerts", len(expressions))
	}
	for _, x := range expressions {
		checkNames(t, page, "the rules", x[1])
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; it is in Debian's package prometheus")
	}
	for _, args := range [][]string{{"check", "rules", "prometheus-rules.yml"}, {"test", "rules", "prometheus-rules.test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "deploy"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// TestDashboard: Grafana's file is one, each panel asks something, and what it
// asks for exists.
func TestDashboard(t *testing.T) {
	data, err := os.ReadFile("deploy/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID          int
			Title, Type string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion == 0 || len(d.Panels) < 12 {
		t.Errorf("%q, %q, schema %d, %d panels", d.Title, d.UID, d.SchemaVersion, len(d.Panels))
	}
	page := documentedMetrics(t)
	seen := make(map[int]bool)
	for _, p := range d.Panels {
		if seen[p.ID] || p.Title == "" || len(p.Targets) == 0 || p.GridPos.H == 0 || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q: %+v", p.ID, p.Title, p)
		}
		seen[p.ID] = true
		for _, x := range p.Targets {
			if !metricName.MatchString(x.Expr) {
				t.Errorf("panel %q asks for %q", p.Title, x.Expr)
			}
			checkNames(t, page, "panel "+p.Title, x.Expr)
		}
	}
}
