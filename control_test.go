package obelisk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// readiness returns the checks of /readyz that fail.
func readiness(p *obelisk.Pillar) (failing []string) {
	_, ready := p.Checks()
	for _, c := range ready {
		if !c.OK {
			failing = append(failing, c.Name)
		}
	}
	return failing
}

// TestPillarLeavesNetwork: what only it had is elsewhere, its node goes on, the
// others count without it, and its process ends without an error.
func TestPillarLeavesNetwork(t *testing.T) {
	n := newNetwork(t)
	one := n.addPillar()
	if err := one.Leave(n.ctx); overlay.CodeOf(err) != admin.CodeConflict {
		t.Fatalf("the only pillar: %v", err)
	}
	two, three := n.addPillar(), n.addPillar()
	alice := n.addNode(one, "alice")
	bob := n.addNode(two, "bob")
	n.until("everybody is there", func() bool {
		return one.Status().PillarsAlive == 3 && two.Status().PillarsAlive == 3 && three.Status().PillarsAlive == 3 &&
			alice.Status().Standby != "" && bob.Status().Standby != ""
	})
	var texts []string
	for i := range 20 {
		texts = append(texts, fmt.Sprint("before ", i))
		n.send(alice, bob, texts[i], obelisk.Stored)
	}
	if err := one.Leave(n.ctx); err != nil {
		t.Fatal(err)
	}
	<-one.Done()
	if err := one.Err(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	n.until("the others know", func() bool {
		for _, p := range []*obelisk.Pillar{two, three} {
			left := false
			for _, o := range p.Pillars() {
				left = left || o.ID == one.ID() && o.State == overlay.PillarLeft && o.Standing == overlay.StandingLeft
			}
			if !left || p.Status().PillarsAlive != 2 {
				return false
			}
		}
		return alice.Status().PillarsKnown == 2
	})
	// Two pillars are left, so two copies are all there can be.
	texts = append(texts, "after")
	n.send(alice, bob, "after", obelisk.Delivered)
	n.receive(bob, texts...)
	n.until("they hold the same", func() bool {
		return two.Status().Records == three.Status().Records && two.Status().Converged && three.Status().Converged
	})
}

// TestRevokedPillar: through the library, and what an operator sees of it.
func TestRevokedPillar(t *testing.T) {
	n := newNetwork(t)
	one := n.addPillar()
	dir := t.TempDir()
	two := n.openPillar(dir)
	n.until("both are there", func() bool {
		return one.Status().PillarsAlive == 2 && len(readiness(one)) == 0 && len(readiness(two)) == 0
	})
	key, err := identity.LoadNetworkKey(n.key)
	if err != nil {
		t.Fatal(err)
	}
	other := identity.NewNetworkKey()
	if text, err := obelisk.SignRevocation(other, two.ID(), 0); err != nil {
		t.Fatal(err)
	} else if _, err := one.Revoke(n.ctx, text); overlay.CodeOf(err) != overlay.CodeNotAdmitted {
		t.Errorf("by another network's key: %v", err)
	}
	text, err := obelisk.SignRevocation(key, two.ID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := one.Revoke(n.ctx, text); err != nil || r.Pillar != two.ID() {
		t.Fatalf("%+v, %v", r, err)
	}
	n.until("both know", func() bool {
		return two.Status().Standing == overlay.StandingRevoked && one.Status().PillarsAlive == 1
	})
	if failing := strings.Join(readiness(two), " "); !strings.Contains(failing, "admitted") {
		t.Errorf("the revoked pillar is not ready because of %q", failing)
	}
	if failing := readiness(one); len(failing) != 0 {
		t.Errorf("the other one is not ready: %q: who is revoked is not missed", failing)
	}
	// It holds the network key, and does not use it to come back.
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := obelisk.PillarConfig{Dir: filepath.Join(dir, "pillar"), NetworkKey: n.key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Memory: 16 << 20, StoreLimit: 1 << 30}
	if p, err := obelisk.OpenPillar(n.ctx, cfg); overlay.CodeOf(err) != overlay.CodeNotAdmitted {
		t.Errorf("it starts again: %v", err)
		p.Close()
	}
	a := key.Admit(two.ID(), uint64(time.Now().UnixMilli()), uint64(time.Now().Add(time.Hour).UnixMilli()))
	if err := os.WriteFile(filepath.Join(cfg.Dir, "admission"), a.MarshalFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	openPillar(t, cfg)
	n.until("admitted again it is one", func() bool { return one.Status().PillarsAlive == 2 })
}

// A pillar that leaves relies on one that is there and lacks nothing.
func TestHeir(t *testing.T) {
	at := func(id string, s overlay.PillarState, connected bool, missing uint64) overlay.PillarStatus {
		return overlay.PillarStatus{ID: obelisk.PillarID(id), State: s, Connected: connected, MissingThere: missing}
	}
	nobody := []overlay.PillarStatus{
		at("behind", overlay.PillarAlive, true, 1), at("full", overlay.PillarFull, true, 0),
		at("gone", overlay.PillarLeft, true, 0), at("dead", overlay.PillarDead, false, 0), at("lost", overlay.PillarAlive, false, 0),
	}
	if id, ok := obelisk.HeirOf(nobody); ok {
		t.Errorf("%q is relied on", string(id))
	}
	if id, ok := obelisk.HeirOf(append(nobody, at("equal", overlay.PillarAlive, true, 0))); !ok || id != "equal" {
		t.Errorf("%q, %v", string(id), ok)
	}
}

// TestReadyAlone: a pillar that knows others and reaches none is not ready; one
// that never knew any is.
func TestReadyAlone(t *testing.T) {
	n := newNetwork(t)
	one := n.addPillar()
	if failing := readiness(one); len(failing) != 0 {
		t.Errorf("the only pillar is not ready: %q", failing)
	}
	two := n.addPillar()
	n.until("both are ready", func() bool {
		return one.Status().PillarsAlive == 2 && len(readiness(one)) == 0 && len(readiness(two)) == 0
	})
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	n.until("it is alone", func() bool { return strings.Join(readiness(one), " ") == "peers" })
}

// TestAuditRounds: rounds with whom an operator names, and pausing them.
func TestAuditRounds(t *testing.T) {
	n := newNetwork(t)
	one, two := n.addPillar(), n.addPillar()
	n.addNode(one, "alice")
	n.until("both are there", func() bool { return one.Status().PillarsAlive == 2 && two.Status().PillarsAlive == 2 })
	if _, err := one.Round(n.ctx, identity.NewPillarKey().ID()); overlay.CodeOf(err) != overlay.CodeNotFound {
		t.Errorf("with a stranger: %v", err)
	}
	one.PauseRounds(true)
	two.PauseRounds(true)
	n.until("a round finds nothing", func() bool {
		r, err := one.Round(n.ctx, two.ID())
		return err == nil && r.Result == overlay.RoundEqual
	})
	s := one.Sync()
	if s.Paused != overlay.PausedByOperator || len(s.Peers) != 1 || s.Peers[0].Pillar != two.ID() || s.Peers[0].Last == nil || s.Peers[0].Totals.Equal == 0 {
		t.Errorf("%+v", s)
	}
	one.PauseRounds(false)
	if one.Sync().Paused != "" {
		t.Error("still paused")
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	n.until("it is not connected", func() bool {
		_, err := one.Round(n.ctx, two.ID())
		return overlay.CodeOf(err) == overlay.CodeUnreachable
	})
}
