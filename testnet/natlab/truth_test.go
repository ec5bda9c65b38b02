package natlab

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func someone(t *testing.T) peer.ID {
	t.Helper()
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// told is what is so for a node behind a cone, with three pillars, one of them
// dead and one at home, and what a netcheck says of it that is true throughout.
func told(t *testing.T) (*truth, *overlay.Netcheck) {
	t.Helper()
	var (
		now             = time.Now()
		rtt             = 41.0
		account, device = someone(t), someone(t)
		living, dead    = someone(t), someone(t)
		home            = someone(t)
		at              = SpeakAll.pillarListen(pillarAddr(0))
		deadAt          = SpeakAll.pillarListen(pillarAddr(1))
	)
	so := &truth{
		gateway: Gateway{NAT: Cone, Egress: Everything}, speech: SpeakAll, outside: movedAddr(0, 1), apart: 40 * time.Millisecond,
		pillars: []pillarTruth{
			{id: living.String(), alive: true, addrs: at, used: true},
			{id: dead.String(), addrs: deadAt},
			{id: home.String(), alive: true, home: true},
		},
		contact: contactTruth{name: "peer", account: account.String(), device: device.String(),
			paths: [2][]overlay.Path{{overlay.PathDirect, overlay.PathDirect}, {overlay.PathDirect, overlay.PathDirect}}},
		mayHavePunched: true, begun: now, over: now.Add(10 * time.Second),
	}
	since := now.Add(time.Second)
	c := &overlay.Netcheck{
		At: now.Add(2 * time.Second), TookMS: 2000,
		Mapping: overlay.NATEndpointIndependent, Filtering: overlay.NATPortDependent, Reachability: "private",
		Pillars: []overlay.NetcheckPillar{
			{ID: identity.PillarID(living), Path: overlay.PathDirect, Reserved: true},
			{ID: identity.PillarID(dead)},
			{ID: identity.PillarID(home), Path: overlay.PathRelayed},
		},
		Contacts: []overlay.NetcheckContact{{Account: identity.AccountID(account), Device: identity.DeviceID(device), Name: "peer",
			Path: overlay.PathDirect, Since: &since, RTTMS: rtt}},
	}
	for i, addrs := range [][]string{at, deadAt} {
		for _, a := range addrs {
			x := overlay.NetcheckTransport{Transport: transportOf(a), Addr: a, OK: i == 0, RTTMS: rtt}
			if !x.OK {
				x.RTTMS, x.Error = 0, "no answer"
			}
			c.Pillars[i].Transports = append(c.Pillars[i].Transports, x)
		}
	}
	for _, x := range []string{"/udp/4001/quic-v1", "/tcp/4001"} {
		a := "/ip4/" + so.outside.String() + x
		c.Public = append(c.Public, overlay.SeenAddr{Transport: transportOf(a), Addr: a, By: identity.PillarID(living)})
	}
	c.Conclude(overlay.NATEndpointIndependent, true)
	return so, c
}

// TestTruth: each lie that a netcheck could tell is found, and nothing else is
// taken for one.
func TestTruth(t *testing.T) {
	t.Parallel()
	blocked := func(c *overlay.Netcheck, lets func(overlay.NetcheckTransport) bool) {
		for i, x := range c.Pillars[0].Transports {
			if !lets(x) {
				c.Pillars[0].Transports[i] = overlay.NetcheckTransport{Transport: x.Transport, Addr: x.Addr, Error: "no answer"}
			}
		}
		c.Mapping, c.Filtering, c.Reachability = overlay.NATUnknown, overlay.NATUnknown, "unknown"
	}
	by := func(paths ...overlay.Path) (p [2][]overlay.Path) {
		return [2][]overlay.Path{paths[:2], paths[2:]}
	}
	const direct, relayed, pillar = overlay.PathDirect, overlay.PathRelayed, overlay.PathPillar
	for name, tt := range map[string]struct {
		change  func(*truth, *overlay.Netcheck)
		lies    string // part of the only one; "" if there is none
		unknown int
	}{
		"all is so":         {change: func(*truth, *overlay.Netcheck) {}},
		"nothing was seen":  {func(_ *truth, c *overlay.Netcheck) { c.Mapping, c.Filtering = overlay.NATUnknown, overlay.NATUnknown }, "", 2},
		"another mapping":   {func(_ *truth, c *overlay.Netcheck) { c.Mapping = overlay.NATPortDependent }, "mapping: ", 0},
		"no NAT":            {func(_ *truth, c *overlay.Netcheck) { c.Mapping = overlay.NATNone }, "mapping: ", 0},
		"another filtering": {func(_ *truth, c *overlay.Netcheck) { c.Filtering = overlay.NATEndpointIndependent }, "filtering: ", 0},
		"cannot be known": {func(so *truth, _ *overlay.Netcheck) { so.speech = SpeakTCP },
			"mapping: ", 0},
		"public":                 {func(_ *truth, c *overlay.Netcheck) { c.Reachability = "public" }, "reachability: ", 0},
		"the old address":        {func(so *truth, _ *overlay.Netcheck) { so.outside = gatewayAddr(0) }, "seen at ", 0},
		"seen by nobody":         {func(_ *truth, c *overlay.Netcheck) { c.Public = nil }, "seen nowhere", 0},
		"seen by a dead pillar":  {func(_ *truth, c *overlay.Netcheck) { c.Public[0].By = c.Pillars[1].ID }, "no living public pillar", 0},
		"over another transport": {func(_ *truth, c *overlay.Netcheck) { c.Public[0].Transport = "ws" }, "over ws", 0},
		"a pillar too few":       {func(_ *truth, c *overlay.Netcheck) { c.Pillars = c.Pillars[:2] }, "2 pillars are named", 0},
		"the dead is connected":  {func(_ *truth, c *overlay.Netcheck) { c.Pillars[1].Path = direct }, "it is dead", 0},
		"a place at the dead":    {func(_ *truth, c *overlay.Netcheck) { c.Pillars[1].Reserved = true }, "keeps a place", 0},
		"the used is not connected": {func(_ *truth, c *overlay.Netcheck) {
			c.Pillars[0].Path, c.Pillars[0].Reserved = overlay.PathNone, false
		},
			"the node works with it", 0},
		"the public by a relay": {func(_ *truth, c *overlay.Netcheck) { c.Pillars[0].Path = relayed }, "it has a public address", 0},
		"home directly":         {func(_ *truth, c *overlay.Netcheck) { c.Pillars[2].Path = direct }, "", 0},
		"the dead answers": {func(_ *truth, c *overlay.Netcheck) {
			x := &c.Pillars[1].Transports[0]
			x.OK, x.Error, x.RTTMS = true, "", 41
		}, "works: true", 0},
		"what is let through fails": {func(_ *truth, c *overlay.Netcheck) {
			x := &c.Pillars[0].Transports[1]
			x.OK, x.Error, x.RTTMS = false, "no answer", 0
		}, "works: false", 0},
		"faster than light":    {func(_ *truth, c *overlay.Netcheck) { c.Pillars[0].Transports[0].RTTMS = 39 }, "RTT 39.0 ms", 0},
		"an address untried":   {func(_ *truth, c *overlay.Netcheck) { c.Pillars[0].Transports = c.Pillars[0].Transports[1:] }, "tried at", 0},
		"works, and cannot":    {func(so *truth, _ *overlay.Netcheck) { so.mayHavePunched, so.contact.sameLAN = false, true }, "hole punching: ", 0},
		"works, and not said":  {func(_ *truth, c *overlay.Netcheck) { c.HolePunching = overlay.PunchingLikely }, "messages go through a hole", 0},
		"status says another":  {func(_ *truth, c *overlay.Netcheck) { c.Reachability = "unknown" }, "status says private", 1},
		"relayed, and is not":  {func(_ *truth, c *overlay.Netcheck) { c.Contacts[0].Path, c.Contacts[0].Why = relayed, "why" }, "contact: \"relayed\"", 0},
		"direct, and is not":   {func(so *truth, _ *overlay.Netcheck) { so.contact.paths = by(relayed, pillar, relayed, relayed) }, "contact: \"direct\"", 0},
		"it became direct":     {func(so *truth, _ *overlay.Netcheck) { so.contact.paths = by(relayed, pillar, direct, direct) }, "", 0},
		"direct without a why": {func(_ *truth, c *overlay.Netcheck) { c.Contacts[0].Why = "why" }, "because: \"why\"", 0},
		"somebody else":        {func(so *truth, _ *overlay.Netcheck) { so.contact.account = "other" }, "there is only", 0},
		"nobody, though met":   {func(_ *truth, c *overlay.Netcheck) { c.Contacts = nil }, "no contact is named", 0},
		"gone, and by pillars": {func(so *truth, c *overlay.Netcheck) {
			so.contact.paths = by(direct, direct, pillar, pillar)
			c.Contacts[0] = overlay.NetcheckContact{Account: c.Contacts[0].Account, Device: c.Contacts[0].Device, Name: "peer", Why: "why"}
		}, "", 0},
		"before the run":      {func(so *truth, _ *overlay.Netcheck) { so.begun = so.begun.Add(3 * time.Second / 2) }, "since ", 0},
		"an unknown warning":  {func(_ *truth, c *overlay.Netcheck) { c.Warnings = []string{"the end is near"} }, "the end is near", 0},
		"a warning of none":   {func(_ *truth, c *overlay.Netcheck) { c.Warnings = []string{"UDP does not get through"} }, "that is not so", 0},
		"one pillar, it says": {func(_ *truth, c *overlay.Netcheck) { c.Warnings = []string{"only one pillar is connected"} }, "that is not so", 0},
		"no UDP, and said": {func(so *truth, c *overlay.Netcheck) {
			so.gateway.Egress = NoUDP
			blocked(c, func(x overlay.NetcheckTransport) bool { return x.Transport != "quic" })
			c.Conclude(overlay.NATEndpointIndependent, true)
		}, "", 3},
		"no UDP, and unsaid": {func(so *truth, c *overlay.Netcheck) {
			so.gateway.Egress = NoUDP
			blocked(c, func(x overlay.NetcheckTransport) bool { return x.Transport != "quic" })
		}, "no warning that says", 3},
		"the web only": {func(so *truth, c *overlay.Netcheck) {
			so.gateway.Egress, so.mayHavePunched = WebOnly, false
			so.contact.paths = by(relayed, relayed, pillar, relayed)
			c.Contacts[0].Path = relayed
			blocked(c, func(x overlay.NetcheckTransport) bool { return x.Transport == "ws" })
			c.Conclude(overlay.NATUnknown, false)
		}, "", 3},
		"symmetric": {func(so *truth, c *overlay.Netcheck) {
			so.gateway.NAT, so.mayHavePunched = Symmetric, false
			so.contact.paths = by(pillar, pillar, pillar, pillar)
			c.Contacts[0].Path, c.Contacts[0].RTTMS = relayed, 0
			c.Mapping = overlay.NATPortDependent
			c.Conclude(overlay.NATPortDependent, false)
		}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			so, c := told(t)
			status := "private"
			tt.change(so, c)
			if c.Reachability != "unknown" || tt.lies == "" || tt.unknown == 3 {
				status = c.Reachability
			}
			v := so.hold(c, status)
			if tt.lies == "" && len(v.Lies) > 0 || tt.lies != "" && !slices.ContainsFunc(v.Lies, func(l string) bool { return strings.Contains(l, tt.lies) }) {
				t.Errorf("lies %q, want %q", v.Lies, tt.lies)
			}
			if v.Unknown != tt.unknown || v.Statements < 20 {
				t.Errorf("%d statements, %d unknown, want %d", v.Statements, v.Unknown, tt.unknown)
			}
		})
	}
}

// TestLets: what gateways let out, as their rules say it.
func TestLets(t *testing.T) {
	t.Parallel()
	for egress, want := range map[Egress][]string{
		Everything: {"quic", "tcp", "ws"}, NoUDP: {"tcp", "ws"}, WebOnly: {"ws"},
	} {
		var got []string
		for _, a := range SpeakAll.pillarListen(netip.MustParseAddr("45.10.1.2")) {
			if (Gateway{Egress: egress}).lets(a) {
				got = append(got, transportOf(a))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: lets out %q, want %q", egress, got, want)
		}
	}
}
