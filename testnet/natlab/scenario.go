package natlab

import "time"

// Scenario is a topology, what happens in it, and what must come of it.
type Scenario struct {
	Name     string
	Says     string // what it shows, in a line
	Topology Topology
	From, To string // the places of the two that talk; with Swap, every second run the other way round
	Swap     bool
	AtOnce   bool // the first message is sent as soon as the sender's API is there
	Home     string
	Disturb  Disturbance
	Runs     int // in the full table
	Must     Must
}

// Disturbance happens in the middle of a conversation.
type Disturbance string

// Disturbances.
const (
	None      Disturbance = ""
	KillRelay Disturbance = "the relaying pillar is killed (-9)"
	MoveOne   Disturbance = "the sender's gateway gets another public address"
)

// Must is what has to hold besides what always has to: that every message
// arrives, and none twice.
type Must struct {
	Direct   bool          // every run ends with messages going directly
	DirectIn time.Duration // at most this from the first send, at the median; 0: whenever
	FirstIn  time.Duration // the first message of every run arrives in this; 0: whenever
	MostIn   time.Duration // and 19 of 20 others: that nothing waits for attempts to punch
	NextIn   time.Duration // so do the first messages, in both directions, sent after the disturbance
}

// The internet at three distances.
var (
	usual = Path{Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond}
	near  = Path{Delay: time.Millisecond, Jitter: 200 * time.Microsecond}
	far   = Path{Delay: 75 * time.Millisecond, Jitter: 40 * time.Millisecond, Loss: 0.03}
)

// facing is two pillars, and alice and bob each behind a gateway.
func facing(path Path, speech Speech, alice, bob NAT, egress Egress) Topology {
	return Topology{Pillars: 2, Path: path, Speech: speech, Gateways: []Gateway{
		{NAT: alice, Egress: egress, Behind: []string{"alice"}},
		{NAT: bob, Egress: egress, Behind: []string{"bob"}},
	}}
}

func withPillars(n int, t Topology) Topology {
	t.Pillars = n
	return t
}

// withHome is a public pillar, which may take no nodes, and alice, bob and a home
// pillar each behind a gateway.
func withHome(closed bool) Topology {
	t := facing(usual, SpeakAll, Cone, Cone, Everything)
	t.Pillars, t.Closed = 1, closed
	t.Gateways = append(t.Gateways, Gateway{NAT: Cone, Egress: Everything, Behind: []string{"home"}})
	return t
}

// Scenarios is the table of the lab.
var Scenarios = []Scenario{
	{
		Name: "cone-quic", Says: "port-restricted cone NATs on both sides, 40 ms RTT, QUIC only",
		Topology: facing(usual, SpeakQUIC, Cone, Cone, Everything),
		From:     "alice", To: "bob", Runs: 20,
		Must: Must{Direct: true, DirectIn: 2 * time.Second},
	},
	{
		Name: "cone-tcp", Says: "the same, TCP only",
		Topology: facing(usual, SpeakTCP, Cone, Cone, Everything),
		From:     "alice", To: "bob", Runs: 20,
		Must: Must{Direct: true, DirectIn: 2 * time.Second},
	},
	{
		Name: "cone-near", Says: "the same at 2 ms RTT, QUIC and TCP, dialled at once",
		Topology: facing(near, SpeakAll, Cone, Cone, Everything),
		From:     "alice", To: "bob", AtOnce: true, Runs: 20,
		Must: Must{Direct: true},
	},
	{
		Name: "cone-far", Says: "the same at 150 to 230 ms RTT with 3 % loss each way",
		Topology: facing(far, SpeakAll, Cone, Cone, Everything),
		From:     "alice", To: "bob", Runs: 15,
		Must: Must{Direct: true},
	},
	{
		Name: "symmetric", Says: "symmetric NATs on both sides, 40 ms RTT",
		Topology: facing(usual, SpeakAll, Symmetric, Symmetric, Everything),
		From:     "alice", To: "bob", Runs: 20,
		Must: Must{FirstIn: time.Second, MostIn: 500 * time.Millisecond},
	},
	{
		Name: "symmetric-cone", Says: "a symmetric NAT against a port-restricted cone, each calling in turn",
		Topology: facing(usual, SpeakAll, Symmetric, Cone, Everything),
		From:     "alice", To: "bob", Swap: true, Runs: 20,
		Must: Must{FirstIn: time.Second, MostIn: 500 * time.Millisecond},
	},
	{
		Name: "udp-blocked", Says: "UDP blocked at both gateways, which are cones for TCP",
		Topology: facing(usual, SpeakAll, Cone, Cone, NoUDP),
		From:     "alice", To: "bob", Runs: 10,
		Must: Must{Direct: true},
	},
	{
		Name: "web-only", Says: "both gateways let out TCP to port 443 and nothing else",
		Topology: facing(usual, SpeakAll, Cone, Cone, WebOnly),
		From:     "alice", To: "bob", Runs: 10,
	},
	{
		Name: "same-nat", Says: "two nodes behind one NAT without hairpin",
		Topology: Topology{Pillars: 2, Path: usual, Speech: SpeakAll, Gateways: []Gateway{
			{NAT: Cone, Egress: Everything, Behind: []string{"alice", "bob"}},
		}},
		From: "alice", To: "bob", Runs: 10,
		Must: Must{Direct: true},
	},
	{
		Name: "home-pillar", Says: "a home pillar behind a NAT is the only one that takes nodes; a public one only relays",
		Topology: withHome(true),
		From:     "alice", To: "bob", Home: "home", Runs: 10,
	},
	{
		Name: "home-beside", Says: "alice is told a home pillar alone, which knows a public one, where bob is",
		Topology: withHome(false),
		From:     "alice", To: "bob", Home: "home", Runs: 10,
		Must: Must{Direct: true},
	},
	{
		Name: "relay-dies", Says: "symmetric NATs, and the relaying pillar is killed (-9) mid-conversation",
		Topology: withPillars(3, facing(usual, SpeakAll, Symmetric, Symmetric, Everything)),
		From:     "alice", To: "bob", Disturb: KillRelay, Runs: 10,
		Must: Must{NextIn: 3 * time.Second},
	},
	{
		Name: "address-changes", Says: "cone NATs, and alice's gateway gets another public address mid-conversation",
		Topology: facing(usual, SpeakAll, Cone, Cone, Everything),
		From:     "alice", To: "bob", Disturb: MoveOne, Runs: 10,
		Must: Must{NextIn: 3 * time.Second},
	},
}
