package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Verdict is what came of holding what netcheck says against what is so.
type Verdict struct {
	Statements int      `json:"statements"` // that were made
	Unknown    int      `json:"unknown"`    // how many of them say that something is not known
	Lies       []string `json:"lies"`       // what was said, and what is so
}

// state notes a statement.
func (v *Verdict) state(ok bool, format string, args ...any) {
	v.Statements++
	if !ok {
		v.Lies = append(v.Lies, fmt.Sprintf(format, args...))
	}
}

// word notes a statement that is one word, of which unknown is always true. What
// cannot be found out has no other true words.
func (v *Verdict) word(what, said, unknown string, so ...string) {
	if said == unknown {
		v.Statements++
		v.Unknown++
		return
	}
	v.state(slices.Contains(so, said), "%s: %q was said, %q is so, or %q", what, said, so, unknown)
}

// String is how many statements were true, of how many, and how many of those said
// that something is not known.
func (v Verdict) String() string {
	return fmt.Sprintf("%d/%d (%d)", v.Statements-len(v.Lies), v.Statements, v.Unknown)
}

func (v *Verdict) add(o Verdict) {
	v.Statements += o.Statements
	v.Unknown += o.Unknown
	v.Lies = append(v.Lies, o.Lies...)
}

// truth is what is so for one of two that talked: what the topology is, and what
// the run ended with.
type truth struct {
	gateway Gateway
	speech  Speech
	outside netip.Addr    // the gateway's address now
	apart   time.Duration // between two public addresses and back, at least
	pillars []pillarTruth // of the network
	contact contactTruth

	// A hole can have been punched: with somebody behind another gateway, to which
	// packets went and from which they came.
	mayHavePunched bool
	begun, over    time.Time // of the run, until netcheck had answered
}

// pillarTruth is a pillar as it is.
type pillarTruth struct {
	id    string
	alive bool
	home  bool
	addrs []string // where it listens; nil at home, where nobody can call
	used  bool     // the node works with it, before netcheck and after
}

// contactTruth is the other of the two.
type contactTruth struct {
	name, account, device string
	sameLAN               bool
	// How the newest message of each direction came, before netcheck was asked and
	// after.
	paths [2][]overlay.Path
}

// lets reports whether the gateway lets out what goes to an address of this lab.
func (g Gateway) lets(addr string) bool {
	parts := strings.Split(addr, "/") // "", ip4, IP, udp or tcp, port, …
	switch g.Egress {
	case NoUDP:
		return parts[3] == "tcp"
	case WebOnly:
		return parts[3] == "tcp" && parts[4] == "443"
	default:
		return true
	}
}

// punchable reports whether the gateway takes a port that others can be told. Then
// two such gateways have holes punched.
func (g Gateway) punchable() bool { return g.NAT == Cone && g.Egress != WebOnly }

// speaksUDP reports whether the NAT can be asked how it treats UDP.
func (t *truth) speaksUDP() bool { return t.speech != SpeakTCP && t.gateway.Egress == Everything }

// hold judges every statement of a netcheck. reachability is what the node's
// status says.
func (t *truth) hold(c *overlay.Netcheck, reachability string) Verdict {
	var v Verdict
	t.holdNAT(&v, c, reachability)
	t.holdPublic(&v, c)
	t.holdPillars(&v, c)
	t.holdContacts(&v, c)
	t.holdWarnings(&v, c)
	took := asDuration(c.TookMS)
	v.state(!c.At.Before(t.begun) && !c.At.Add(took).After(t.over) && took > 0, "it began at %v and took %v: it was asked between %v and %v", c.At, took, t.begun, t.over)
	return v
}

func (t *truth) holdNAT(v *Verdict, c *overlay.Netcheck, reachability string) {
	var mapping, filtering []string
	reachable := []string{"private"}
	if t.speaksUDP() {
		mapping = []string{string(overlay.NATEndpointIndependent)}
		if t.gateway.NAT == Symmetric {
			mapping = []string{string(overlay.NATPortDependent)}
		}
		filtering = []string{string(overlay.NATPortDependent)}
	}
	v.word("mapping", string(c.Mapping), string(overlay.NATUnknown), mapping...)
	v.word("filtering", string(c.Filtering), string(overlay.NATUnknown), filtering...)
	v.word("reachability", c.Reachability, "unknown", reachable...)
	v.state(reachability == c.Reachability, "status says %s, netcheck says %s", reachability, c.Reachability)
	punching := []string{overlay.PunchingUnlikely}
	if t.gateway.punchable() {
		punching = []string{overlay.PunchingLikely}
	}
	if t.mayHavePunched {
		punching = append(punching, overlay.PunchingWorks)
	}
	if t.contact.only(overlay.PathDirect) && !t.contact.sameLAN {
		v.state(c.HolePunching == overlay.PunchingWorks, "hole punching: %q was said (%s), and messages go through a hole", c.HolePunching, c.Why)
	} else {
		v.word("hole punching", c.HolePunching, overlay.PunchingUnknown, punching...)
	}
	v.state(c.Why != "", "hole punching %s: without a reason", c.HolePunching)
}

func (t *truth) holdPublic(v *Verdict, c *overlay.Netcheck) {
	for _, s := range c.Public {
		i := slices.IndexFunc(t.pillars, func(p pillarTruth) bool { return p.id == s.By.String() && p.alive && !p.home })
		v.state(i >= 0, "seen by %s, which is no living public pillar", s.By)
		want := "/ip4/" + t.outside.String() + "/"
		v.state(strings.HasPrefix(s.Addr, want), "seen at %s, and the gateway has %s", s.Addr, t.outside)
		v.state(transportOf(s.Addr) == s.Transport, "seen at %s over %s", s.Addr, s.Transport)
	}
	v.state(len(c.Public) > 0 || !t.anyAlive(), "seen nowhere, and a public pillar lives")
}

func (t *truth) anyAlive() bool {
	return slices.ContainsFunc(t.pillars, func(p pillarTruth) bool { return p.alive && !p.home })
}

func (t *truth) holdPillars(v *Verdict, c *overlay.Netcheck) {
	v.state(len(c.Pillars) == len(t.pillars), "%d pillars are named, and there are %d", len(c.Pillars), len(t.pillars))
	for _, p := range c.Pillars {
		i := slices.IndexFunc(t.pillars, func(o pillarTruth) bool { return o.id == p.ID.String() })
		if i < 0 {
			v.state(false, "pillar %s: there is none", p.ID)
			continue
		}
		t.holdPillar(v, &p, &t.pillars[i])
	}
}

func (t *truth) holdPillar(v *Verdict, said *overlay.NetcheckPillar, so *pillarTruth) {
	connected := said.Path != overlay.PathNone
	switch {
	case !so.alive:
		v.state(!connected, "pillar %s: connected (%s), and it is dead", said.ID, said.Path)
	case so.used && !connected:
		v.state(false, "pillar %s: not connected, and the node works with it", said.ID)
	case so.home:
		v.state(said.Path != overlay.PathDirect || t.mayHavePunched, "pillar %s: connected directly, and nothing passed between the gateways", said.ID)
	default:
		v.state(said.Path != overlay.PathRelayed, "pillar %s: connected by a relay, and it has a public address", said.ID)
	}
	v.state(!said.Reserved || so.alive && !so.home && connected, "pillar %s: keeps a place at its relay; alive %t, at home %t, connected %t", said.ID, so.alive, so.home, connected)
	var tried []string
	for _, x := range said.Transports {
		tried = append(tried, x.Addr)
		if !slices.Contains(so.addrs, x.Addr) {
			continue // told of below
		}
		v.state(transportOf(x.Addr) == x.Transport, "pillar %s: %s is called %s", said.ID, x.Addr, x.Transport)
		works := so.alive && t.gateway.lets(x.Addr)
		v.state(x.OK == works, "pillar %s: %s works: %t (%s), and it is let through to a pillar that answers: %t", said.ID, x.Addr, x.OK, x.Error, works)
		v.state(x.OK == (x.Error == "") && (!x.OK || asDuration(x.RTTMS) >= t.apart),
			"pillar %s: %s works: %t, error %q, RTT %.1f ms, and the way is %v long", said.ID, x.Addr, x.OK, x.Error, x.RTTMS, t.apart)
	}
	slices.Sort(tried)
	want := slices.Sorted(slices.Values(so.addrs))
	v.state(slices.Equal(tried, want), "pillar %s: tried at %q, and it is at %q", said.ID, tried, want)
}

// transportOf names the transport of an address of this lab.
func transportOf(addr string) string {
	switch {
	case strings.Contains(addr, "/quic-v1"):
		return "quic"
	case strings.Contains(addr, "/ws"):
		return "ws"
	default:
		return "tcp"
	}
}

func (t *truth) holdContacts(v *Verdict, c *overlay.Netcheck) {
	if len(c.Contacts) == 0 {
		// Only devices that were met are listed.
		v.state(t.contact.only(overlay.PathPillar), "no contact is named, and messages of one came by %q", t.contact.paths)
		return
	}
	v.state(len(c.Contacts) == 1, "%d devices of contacts are named, and there is one", len(c.Contacts))
	for _, x := range c.Contacts {
		so := &t.contact
		v.state(x.Account.String() == so.account && x.Name == so.name && x.Device.String() == so.device,
			"contact %q, account %s, device %s: there is only %q, account %s, device %s", x.Name, x.Account, x.Device, so.name, so.account, so.device)
		v.state(so.reached(x.Path), "contact: %q was said, and the newest messages came by %q", x.Path, so.paths)
		v.state((x.Why == "") == (x.Path == overlay.PathDirect), "contact: %q, because: %q", x.Path, x.Why)
		v.state(x.Path == overlay.PathNone || x.Since != nil && !x.Since.Before(t.begun.Truncate(time.Millisecond)) && !x.Since.After(t.over),
			"contact: %q since %v, and the run began at %v", x.Path, x.Since, t.begun)
		if x.RTTMS == 0 && x.Path != overlay.PathNone {
			v.word("RTT", "", "")
			continue
		}
		v.state(x.Path == overlay.PathNone && x.RTTMS == 0 || so.sameLAN && x.Path == overlay.PathDirect || asDuration(x.RTTMS) >= t.apart,
			"contact: RTT %.1f ms, and the way is %v long", x.RTTMS, t.apart)
	}
}

// reached reports whether the contact may be reached over p: it was before or is
// after. A pillar can be faster than a circuit, so messages by a pillar alone say
// only that there is nothing direct.
func (c *contactTruth) reached(p overlay.Path) bool {
	return slices.ContainsFunc(c.paths[:], func(newest []overlay.Path) bool {
		switch p {
		case overlay.PathDirect:
			return slices.Contains(newest, p)
		case overlay.PathRelayed:
			return slices.Contains(newest, p) || allOf(newest, overlay.PathPillar)
		default:
			return allOf(newest, overlay.PathPillar)
		}
	})
}

// only reports whether all the newest messages came one way, before and after.
func (c *contactTruth) only(p overlay.Path) bool { return allOf(c.paths[0], p) && allOf(c.paths[1], p) }

func allOf(paths []overlay.Path, p overlay.Path) bool {
	return len(paths) > 0 && !slices.ContainsFunc(paths, func(o overlay.Path) bool { return o != p })
}

func (t *truth) holdWarnings(v *Verdict, c *overlay.Netcheck) {
	connected, reserved := 0, 0
	for _, p := range c.Pillars {
		connected += count(p.Path != overlay.PathNone)
		reserved += count(p.Reserved)
	}
	all := t.speech == SpeakAll
	kinds := []struct {
		text string // in the warning
		so   bool
		due  bool // it must be said
	}{
		{"neither UDP nor TCP", t.gateway.Egress == WebOnly, all && t.gateway.Egress == WebOnly},
		{"UDP does not get through", t.gateway.Egress == NoUDP, all && t.gateway.Egress == NoUDP},
		{"symmetric", t.gateway.NAT == Symmetric, t.gateway.NAT == Symmetric && c.Mapping != overlay.NATUnknown},
		{"only one pillar is connected", connected == 1 && len(t.pillars) > 1, false},
		{"no pillar holds a place", connected > 0 && reserved == 0, false},
	}
	said := make([]bool, len(kinds))
	for _, text := range c.Warnings {
		known := false
		for i, k := range kinds {
			if strings.Contains(text, k.text) {
				known, said[i] = true, true
				v.state(k.so, "warning %q, and that is not so", text)
			}
		}
		if !known { // one that this lab gives no reason for, or a new one
			v.state(false, "warning %q, of which the lab does not know that it is so", text)
		}
	}
	for i, k := range kinds {
		if k.due {
			v.state(said[i], "no warning that says %q, and that is so", k.text)
		}
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
