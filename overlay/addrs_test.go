package overlay_test

import (
	"testing"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func TestInvitation(t *testing.T) {
	n := newTestNetwork(t)
	p := identity.NewPillarKey().ID()
	addr := "/ip4/203.0.113.9/udp/4001/quic-v1/p2p/" + p.String()
	a, err := overlay.ParsePillarAddr(addr)
	if err != nil || a.Pillar != p || a.String() != addr {
		t.Fatalf("%v, %v", a, err)
	}
	link := overlay.JoinLink(n.id, a, a)
	inv, err := overlay.ParseInvitation(link)
	if err != nil || inv.Network != n.id || len(inv.Pillars) != 2 || inv.Pillars[1].String() != addr {
		t.Fatalf("%s: %+v, %v", link, inv, err)
	}
	inv, err = overlay.ParseInvitation(" " + addr + "\n")
	if err != nil || !inv.Network.IsZero() || len(inv.Pillars) != 1 {
		t.Fatalf("%+v, %v", inv, err)
	}
	for _, bad := range []string{"", "x", "/ip4/1.2.3.4/tcp/5", "/p2p/" + p.String(), "/ip4/1.2.3.4/tcp/5/p2p/x", "obelisk://join/",
		"obelisk://join/" + n.id.String(), "obelisk://join/00?p=" + addr, "obelisk://join/" + n.id.String() + "?p=x", "https://example.org"} {
		if _, err := overlay.ParseInvitation(bad); overlay.CodeOf(err) != overlay.CodeBadRequest {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestContactLink(t *testing.T) {
	a := identity.AccountID(identity.NewPillarKey().ID())
	got, name, ok, err := overlay.ParseContactLink(overlay.ContactLink(a, "Zoë & co"))
	if err != nil || !ok || got != a || name != "Zoë & co" {
		t.Errorf("%s %q %v %v", got, name, ok, err)
	}
	if _, _, ok, _ := overlay.ParseContactLink(a.String()); ok {
		t.Error("an account ID is no contact link")
	}
	if _, _, ok, err := overlay.ParseContactLink("obelisk://contact/x"); !ok || err == nil {
		t.Error("a contact link without an account was read")
	}
}

func TestErrors(t *testing.T) {
	e := overlay.Refuse(overlay.CodeBusy, "try %d", 1)
	if e.Error() != "busy: try 1" || !e.Is(&overlay.Error{Code: overlay.CodeBusy}) || e.Is(&overlay.Error{Code: overlay.CodeFull}) {
		t.Error(e)
	}
	for code, final := range map[overlay.Code]bool{overlay.CodeBusy: false, overlay.CodeQuota: false, overlay.CodeInvalid: true, overlay.CodeTooLongLived: true} {
		if code.Final() != final {
			t.Errorf("%s.Final() is not %v", code, final)
		}
	}
}

func TestCircuitAddrs(t *testing.T) {
	public, home := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	at := multiaddr.StringCast("/ip4/203.0.113.9/udp/4001/quic-v1")
	relay := overlay.PillarAddr{Pillar: public, Addr: at}
	circuit := overlay.Circuit(relay)
	text := at.String() + "/p2p/" + public.String() + "/p2p-circuit"
	if circuit.String() != text || !overlay.IsCircuit(circuit) || overlay.IsCircuit(at) {
		t.Fatal(circuit)
	}
	if got, ok := overlay.RelayOf(circuit); !ok || got.Pillar != public || !got.Addr.Equal(at) {
		t.Errorf("taken apart: %v, %v", got, ok)
	}
	for _, bad := range []string{at.String(), "/p2p-circuit", "/p2p/" + public.String() + "/p2p-circuit", text + "/ip4/192.168.0.1/tcp/22",
		at.String() + "/p2p-circuit", text + "/p2p/" + home.String() + "/p2p-circuit", at.String() + "/p2p/" + public.String()} {
		if got, ok := overlay.RelayOf(multiaddr.StringCast(bad)); ok {
			t.Errorf("%s leads through %v", bad, got)
		}
	}

	whole := text + "/p2p/" + home.String()
	for _, s := range []string{whole, overlay.JoinLink(newTestNetwork(t).id, overlay.PillarAddr{Pillar: home, Addr: circuit})} {
		inv, err := overlay.ParseInvitation(s)
		if err != nil || len(inv.Pillars) != 1 || inv.Pillars[0].String() != whole || inv.Pillars[0].Pillar != home {
			t.Errorf("%s: %+v, %v", s, inv, err)
		}
	}
	for _, bad := range []string{text, text + "/p2p/" + public.String(), "/p2p/" + public.String() + "/p2p-circuit/p2p/" + home.String(),
		whole + "/p2p-circuit/p2p/" + identity.NewPillarKey().ID().String()} {
		if a, err := overlay.ParsePillarAddr(bad); overlay.CodeOf(err) != overlay.CodeBadRequest {
			t.Errorf("%s: %v, %v", bad, a, err)
		}
	}

	for addr, want := range map[string]struct{ private, near bool }{
		"/ip4/10.0.0.1/tcp/1": {true, true},
		"/ip4/127.0.0.1/tcp/1/p2p/" + public.String() + "/p2p-circuit": {true, false},
		text:                      {false, false},
		"/dns4/example.org/tcp/1": {false, false},
	} {
		a := multiaddr.StringCast(addr)
		if overlay.IsPrivateAddr(a) != want.private || overlay.IsNear(a) != want.near {
			t.Errorf("%s: private %v, near %v", a, overlay.IsPrivateAddr(a), overlay.IsNear(a))
		}
	}
}
