package overlay_test

import (
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

// tried is a pillar with transports, "quic" one that works and "-quic" one that
// does not.
func tried(path overlay.Path, transports ...string) overlay.NetcheckPillar {
	p := overlay.NetcheckPillar{Path: path, Reserved: path == overlay.PathDirect}
	for _, t := range transports {
		name, fails := strings.CutPrefix(t, "-")
		p.Transports = append(p.Transports, overlay.NetcheckTransport{Transport: name, OK: !fails, Addr: "address"})
	}
	return p
}

func TestConclude(t *testing.T) {
	const (
		unknown = overlay.NATUnknown
		none    = overlay.NATNone
		cone    = overlay.NATEndpointIndependent
		sym     = overlay.NATPortDependent
	)
	direct := overlay.PathDirect
	fine := []overlay.NetcheckPillar{tried(direct, "quic", "tcp", "ws"), tried(direct, "quic")}
	noUDP := []overlay.NetcheckPillar{tried(direct, "-quic", "tcp", "ws"), tried(direct, "-quic")}
	webOnly := []overlay.NetcheckPillar{tried(direct, "-quic", "-tcp", "ws"), tried(direct, "-quic", "ws")}
	for _, tt := range []struct {
		name         string
		mapping, tcp overlay.NATBehaviour
		reach        string
		punched      bool
		pillars      []overlay.NetcheckPillar
		word         string
		warning      string // the only one's part; "" for none
	}{
		{"cone", cone, cone, "private", false, fine, overlay.PunchingLikely, ""},
		{"symmetric", sym, sym, "private", false, fine, overlay.PunchingUnlikely, "symmetric"},
		{"symmetric for UDP alone", sym, cone, "private", false, fine, overlay.PunchingLikely, "symmetric"},
		{"it worked all the same", sym, sym, "private", true, fine, overlay.PunchingWorks, "symmetric"},
		{"no NAT", none, none, "public", false, fine, overlay.PunchingLikely, ""},
		{"a firewall", none, none, "private", false, fine, overlay.PunchingLikely, ""},
		{"no UDP", unknown, cone, "unknown", false, noUDP, overlay.PunchingLikely, "let out UDP"},
		{"no UDP, symmetric", unknown, sym, "unknown", false, noUDP, overlay.PunchingUnlikely, "let out UDP"},
		{"no UDP, too few", unknown, unknown, "unknown", false, noUDP, overlay.PunchingUnknown, "let out UDP"},
		{"only the web", unknown, unknown, "unknown", false, webOnly, overlay.PunchingUnlikely, "web ports"},
		{"one pillar", unknown, unknown, "unknown", false, fine[:1], overlay.PunchingUnknown, ""},
		{"one of two", cone, cone, "private", false, []overlay.NetcheckPillar{fine[0], tried("", "-quic", "-tcp")}, overlay.PunchingLikely, "only one pillar"},
		{"nothing answers", unknown, unknown, "unknown", false, []overlay.NetcheckPillar{tried("", "-quic", "-tcp")}, overlay.PunchingUnknown, "port 443 as WebSocket is needed"},
		{"nothing answers, on web ports neither", unknown, unknown, "unknown", false, []overlay.NetcheckPillar{tried("", "-quic", "-ws")}, overlay.PunchingUnknown, "to the pillars' ports"},
		{"no pillar", unknown, unknown, "unknown", false, nil, overlay.PunchingUnknown, "no pillar is known"},
		{"no relay", cone, cone, "private", false, []overlay.NetcheckPillar{{Path: direct, Transports: fine[1].Transports}}, overlay.PunchingLikely, "holds a place"},
	} {
		c := overlay.Netcheck{Mapping: tt.mapping, Reachability: tt.reach, Pillars: tt.pillars, Contacts: []overlay.NetcheckContact{
			{Path: overlay.PathDirect, Why: "old"}, {Path: overlay.PathRelayed}, {}, {Why: overlay.WhySilent},
		}}
		c.Conclude(tt.tcp, tt.punched)
		if c.HolePunching != tt.word || c.Why == "" {
			t.Errorf("%s: hole punching %s, %q; want %s", tt.name, c.HolePunching, c.Why, tt.word)
		}
		switch {
		case c.Warnings == nil, tt.warning == "" && len(c.Warnings) > 0:
			t.Errorf("%s: warnings %q, want none", tt.name, c.Warnings)
		case tt.warning != "" && (len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], tt.warning)):
			t.Errorf("%s: warnings %q, want one with %q", tt.name, c.Warnings, tt.warning)
		}
		if why := c.Contacts; why[0].Why != "" || why[1].Why == "" || why[2].Why == "" || why[3].Why != overlay.WhySilent {
			t.Errorf("%s: contacts %+v", tt.name, why)
		}
	}
	for kind, is := range map[string][2]overlay.NATBehaviour{
		"port-restricted cone NAT": {cone, sym},
		"full cone NAT":            {cone, cone},
		"restricted cone NAT":      {cone, overlay.NATAddressDependent},
		"cone NAT":                 {cone, unknown},
		"symmetric NAT":            {sym, sym},
		"no NAT":                   {none, cone},
		"no NAT, a firewall that lets in only who was called": {none, sym},
		"unknown": {unknown, unknown},
	} {
		if got := overlay.NATKind(is[0], is[1]); got != kind {
			t.Errorf("%v is called %q, want %q", is, got, kind)
		}
	}
}
