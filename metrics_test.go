package obelisk_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk"
)

// A documented is a metric as docs/metrics.md or a registry describes it.
type documented struct{ kind, labels string }

// TestMetricsDocumented: docs/metrics.md names the metrics that a pillar and a
// node have, with their types and labels, and no others.
func TestMetricsDocumented(t *testing.T) {
	n := newNetwork(t)
	forPillar, forNode := prometheus.NewRegistry(), prometheus.NewRegistry()
	dir := t.TempDir()
	p := openPillar(t, obelisk.PillarConfig{Dir: dir + "/pillar", NetworkKey: n.key, Registry: forPillar,
		Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Memory: 16 << 20, StoreLimit: 1 << 30})
	node, err := obelisk.OpenNode(n.ctx, obelisk.NodeConfig{Dir: dir + "/node", Join: []string{p.JoinLink()}, Registry: forNode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	n.until("the node is connected", func() bool { return node.Status().Pillar != "" })

	code := described(t, forPillar)
	maps.Copy(code, described(t, forNode))
	page := documentedMetrics(t)
	for name, c := range code {
		switch d, ok := page[name]; {
		case !ok:
			t.Errorf("%s (%s, labels %q) is not on the page", name, c.kind, c.labels)
		case d.labels != c.labels:
			t.Errorf("%s has the labels %q on the page, and %q", name, d.labels, c.labels)
		case c.kind != "" && d.kind != c.kind:
			t.Errorf("%s is a %s on the page, and a %s", name, d.kind, c.kind)
		}
	}
	for name := range page {
		if _, ok := code[name]; !ok {
			t.Errorf("%s is on the page, and no pillar or node has it", name)
		}
	}
}

var (
	descText  = regexp.MustCompile(`fqName: "(obelisk_[a-z_]+)".*variableLabels: \{([^}]*)\}`)
	metricRow = regexp.MustCompile("(?m)^\\| `(obelisk_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|")
)

// described returns what a registry has, also the vectors of which nothing was
// counted yet, whose kind is then not known ("").
func described(t *testing.T, reg *prometheus.Registry) map[string]documented {
	t.Helper()
	out := make(map[string]documented)
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		reg.Describe(descs)
	}()
	for d := range descs {
		if m := descText.FindStringSubmatch(d.String()); m != nil {
			out[m[1]] = documented{labels: sortedLabels(m[2], ",")}
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if d, ok := out[f.GetName()]; ok {
			d.kind = strings.ToLower(f.GetType().String())
			out[f.GetName()] = d
		}
	}
	if len(out) == 0 {
		t.Fatal("a registry describes nothing")
	}
	return out
}

// documentedMetrics returns the rows of docs/metrics.md.
func documentedMetrics(t *testing.T) map[string]documented {
	t.Helper()
	page, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]documented)
	for _, m := range metricRow.FindAllStringSubmatch(string(page), -1) {
		if _, twice := out[m[1]]; twice {
			t.Errorf("%s is on the page twice", m[1])
		}
		out[m[1]] = documented{m[2], sortedLabels(strings.ReplaceAll(m[3], "`", ""), " ")}
	}
	return out
}

func sortedLabels(list, separator string) string {
	labels := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(separator+" ,", r) })
	slices.Sort(labels)
	return strings.Join(labels, " ")
}
