package admin_test

import (
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestNodePages: what others wrote is text, nothing is loaded from elsewhere, and
// a netcheck is said in words.
func TestNodePages(t *testing.T) {
	n := newFakeNode(t)
	n.receive("<script>alert(1)</script>")
	n.netcheck = overlay.Netcheck{Mapping: overlay.NATEndpointIndependent, HolePunching: "likely", Why: "its NAT keeps ports",
		Warnings: []string{"UDP is blocked"},
		Pillars:  []overlay.NetcheckPillar{{Name: "one", Transports: []overlay.NetcheckTransport{{Transport: "quic", Addr: "/ip4/192.0.2.1", Error: "timeout"}}}},
		Contacts: []overlay.NetcheckContact{{Name: "bob", Path: overlay.PathRelayed, Why: "both NATs are symmetric"}},
		Public:   []overlay.SeenAddr{{Transport: "quic", Addr: "/ip4/203.0.113.7/udp/9"}}}
	base := "http://" + serve(t, "127.0.0.1:0", admin.NewNodeHandler(n, admin.Config{Token: testToken}))
	auth := map[string]string{"Authorization": "Bearer " + testToken}
	for path, want := range map[string][]string{
		"/":                 {"&lt;script&gt;alert(1)", "Received last", "give it a join link", `href="/netcheck"`},
		"/netcheck":         {"Direct connections should work", "endpoint independent", "its NAT keeps ports", "UDP is blocked", "timeout", "bob", "both NATs are symmetric", "203.0.113.7"},
		"/assets/style.css": {":focus-visible"},
	} {
		a := ask(t, "GET", base+path, "", auth)
		for _, w := range want {
			if a.status != 200 || !strings.Contains(a.body, w) {
				t.Errorf("%s: %d, without %q", path, a.status, w)
			}
		}
		if strings.Contains(a.body, "<script") || strings.Contains(strings.ReplaceAll(a.body, "http://www.w3.org/2000/svg", ""), "http://") && path != "/assets/style.css" {
			t.Errorf("%s has a script or an address elsewhere", path)
		}
		if a := ask(t, "GET", base+path, "", nil); a.status != 401 {
			t.Errorf("%s without a token: %d", path, a.status)
		}
	}
}
