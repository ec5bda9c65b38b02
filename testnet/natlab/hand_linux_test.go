package natlab

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// TestWhyNotBehindGateways: nodes behind gateways that let out too little say why
// their pillar is not reached, by transport, asked as one would by hand.
func TestWhyNotBehindGateways(t *testing.T) {
	needLab(t)
	if testing.Short() {
		t.Skip("starts real processes; not with -short")
	}
	binary := build(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	l, err := Open(ctx, Topology{Pillars: 1, Path: near, Speech: SpeakPorts, Gateways: []Gateway{
		{NAT: Cone, Egress: NoUDP, Behind: []string{"no-udp"}},
		{NAT: Cone, Egress: WebOnly, Behind: []string{"web-only"}},
	}}, binary, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Furnish(ctx, ""); err != nil {
		t.Fatal(err)
	}
	ask, err := l.Asker(binary)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, ask, "nobody", "pillars").CombinedOutput(); err == nil || !strings.Contains(string(out), "there are: pillar-1 no-udp-1 web-only-1") {
		t.Errorf("%v: %s", err, out)
	}
	pillar := func(name string) admin.NodePillarEntry {
		t.Helper()
		var list []admin.NodePillarEntry
		out, err := exec.CommandContext(ctx, ask, name, "pillars", "--json").Output()
		if err == nil {
			err = json.Unmarshal(out, &list)
		}
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return list[0]
	}
	var shut admin.NodePillarEntry
	if err := testnet.Until(ctx, func() string {
		if shut = pillar("web-only-1"); shut.Error == "" {
			return "why web-only-1 is not connected"
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	if shut.Error != "timed out over UDP and TCP" || shut.ErrorCode != overlay.CodeUnreachable {
		t.Errorf("%q (%s)", shut.Error, shut.ErrorCode)
	}
	said := map[string]overlay.Fault{}
	for _, a := range shut.Attempts {
		said[a.Addr] = a.Fault
	}
	at := pillarAddr(0)
	if said[fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", at)] != overlay.FaultTimeout || said[fmt.Sprintf("/ip4/%s/tcp/4001", at)] != overlay.FaultTimeout || len(said) != 2 {
		t.Errorf("%v", said)
	}
	if open := pillar("no-udp-1"); !open.Active || open.Error != "" {
		t.Errorf("without UDP: active %t, %q", open.Active, open.Error)
	}
}
