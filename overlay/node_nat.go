package overlay

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// nodeNAT is the newest that was found out about the way to others.
type nodeNAT struct {
	mu           sync.Mutex
	mapping      NATBehaviour // guarded by mu
	filtering    NATBehaviour // guarded by mu
	reachability string       // guarded by mu; "" before the first
}

// NoteNAT tells the node how its NAT behaves, for its status and metrics.
func (n *Node) NoteNAT(mapping, filtering NATBehaviour, reachability string) {
	n.nat.mu.Lock()
	n.nat.mapping, n.nat.filtering, n.nat.reachability = mapping, filtering, reachability
	n.nat.mu.Unlock()
}

func (x *nodeNAT) reachable() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.reachability == "" {
		return "unknown"
	}
	return x.reachability
}

// The values that a label can have.
var (
	natBehaviours  = []NATBehaviour{NATUnknown, NATNone, NATEndpointIndependent, NATAddressDependent, NATPortDependent}
	reachabilities = []string{"public", "private", "unknown"}
	contactPaths   = []Path{PathDirect, PathRelayed, PathNone}
)

// pathCollector shows the NAT and the paths of contacts as they are when asked.
type pathCollector struct {
	n          *Node
	nat, paths *prometheus.Desc
}

func newPathCollector(n *Node) *pathCollector {
	return &pathCollector{n: n,
		nat:   prometheus.NewDesc("obelisk_node_nat", "1 for how the NAT maps and filters UDP (RFC 4787), and for whether others reach this node uncalled.", []string{"property", "is"}, nil),
		paths: prometheus.NewDesc("obelisk_node_contact_devices", "Devices of contacts by how they are reached: direct, relayed or none.", []string{"path"}, nil),
	}
}

// register takes the place of an earlier node's.
func (c *pathCollector) register(r prometheus.Registerer) {
	if r == nil {
		return
	}
	var exists prometheus.AlreadyRegisteredError
	err := r.Register(c)
	if errors.As(err, &exists) {
		r.Unregister(exists.ExistingCollector)
		err = r.Register(c)
	}
	if err != nil {
		c.n.log.Warn("no metrics of paths", "err", err)
	}
}

// Describe implements prometheus.Collector.
func (c *pathCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.nat
	ch <- c.paths
}

// Collect implements prometheus.Collector.
func (c *pathCollector) Collect(ch chan<- prometheus.Metric) {
	x := &c.n.nat
	x.mu.Lock()
	mapping, filtering := x.mapping, x.filtering
	x.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	one := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	for property, got := range map[string]NATBehaviour{"mapping": mapping, "filtering": filtering} {
		if got == "" {
			got = NATUnknown
		}
		for _, b := range natBehaviours {
			gauge(c.nat, one(b == got), property, string(b))
		}
	}
	reachable := x.reachable()
	for _, r := range reachabilities {
		gauge(c.nat, one(r == reachable), "reachability", r)
	}
	count := make(map[Path]int)
	for _, p := range c.n.ContactPaths() {
		count[p.Path]++
	}
	for _, p := range contactPaths {
		name := string(p)
		if p == PathNone {
			name = "none"
		}
		gauge(c.paths, float64(count[p]), name)
	}
}
