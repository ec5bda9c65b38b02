package overlay_test

import (
	"testing"

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
