package obelisk_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Who may be a pillar: the one with the key, or one that was admitted.
func TestAdmission(t *testing.T) {
	t.Parallel()
	first := openPillar(t, pillarConfig(t))
	firstAddr := first.Listen()[0]

	cfg := pillarConfig(t)
	cfg.Join = []string{firstAddr}
	_, err := obelisk.OpenPillar(t.Context(), cfg)
	var missing *obelisk.NotAdmittedError
	if !errors.Is(err, obelisk.ErrNotAdmitted) || !errors.As(err, &missing) {
		t.Fatalf("without an admission: %v", err)
	}
	id, err := obelisk.ReadIdentity(cfg.Dir)
	if err != nil || id.Pillar != missing.Pillar || !strings.Contains(missing.Error(), "obelisk network admit "+id.Pillar.String()) {
		t.Errorf("its keys: %+v, %v; %v", id, err, missing)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "network.key")); err == nil {
		t.Error("who joins made a network key")
	}
	// Again without --join: it is remembered, no network is founded.
	bare := cfg
	bare.Join = nil
	if _, err := obelisk.OpenPillar(t.Context(), bare); !errors.Is(err, obelisk.ErrNotAdmitted) {
		t.Errorf("the second start: %v", err)
	}

	key, _, err := identity.LoadOrCreateNetworkKey(filepath.Join(t.TempDir(), "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	admit := func(k *identity.NetworkKey, who obelisk.PillarID, until time.Time) string {
		a := k.Admit(who, uint64(time.Now().UnixMilli()), uint64(until.UnixMilli()))
		path := filepath.Join(t.TempDir(), "admission")
		if err := os.WriteFile(path, a.MarshalFile(), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	soon := time.Now().Add(time.Hour)
	for name, file := range map[string]string{
		"of another network": admit(key, missing.Pillar, soon),
		"of another pillar":  admit(key, first.ID(), soon),
		"nonsense":           cfg.Dir + "/lock",
	} {
		cfg.Admission = file
		if _, err := obelisk.OpenPillar(t.Context(), cfg); !errors.Is(err, obelisk.ErrNotAdmitted) {
			t.Errorf("with an admission %s: %v", name, err)
		}
	}
}

// The network key may stay elsewhere; the second pillar learns which network it
// is from the pillar it joins, and both replicate.
func TestTwoPillars(t *testing.T) {
	t.Parallel()
	firstCfg := pillarConfig(t)
	first := openPillar(t, firstCfg)
	key, err := identity.LoadNetworkKey(obelisk.NetworkKeyFile(firstCfg.Dir))
	if err != nil {
		t.Fatal(err)
	}
	cfg := pillarConfig(t)
	pillarKey, _, err := identity.LoadOrCreatePillarKey(filepath.Join(cfg.Dir, "pillar.key"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a := key.Admit(pillarKey.ID(), uint64(now.UnixMilli()), uint64(now.Add(time.Hour).UnixMilli()))
	cfg.Admission = filepath.Join(t.TempDir(), "admission")
	if err := os.WriteFile(cfg.Admission, a.MarshalFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Join = first.Listen()[:1]
	second := openPillar(t, cfg)
	if second.Network() != first.Network() {
		t.Fatal("another network")
	}
	eventually(t, "both pillars see each other", func() bool {
		return first.Status().PillarsAlive == 2 && second.Status().PillarsAlive == 2
	})
	alice := openNode(t, nodeConfig(t, first.JoinLink()))
	bob := openNode(t, nodeConfig(t, second.JoinLink()))
	send(t, alice, bob, "across")
	eventually(t, "both hold the same", func() bool {
		return first.Status().Converged && second.Status().Converged && first.Status().Records == second.Status().Records
	})
	// Either is enough.
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	send(t, alice, bob, "still")
	send(t, bob, alice, "there")
}

// Who may register at a pillar whose registration is closed: whom it was told
// of, running or not.
func TestClosedRegistration(t *testing.T) {
	t.Parallel()
	alice, bob := openNode(t, nodeConfig(t)), openNode(t, nodeConfig(t))
	cfg := pillarConfig(t)
	cfg.Registration = obelisk.RegistrationClosed
	p := openPillar(t, cfg)
	if err := obelisk.AllowAccount(cfg.Dir, alice.Account()); !errors.Is(err, obelisk.ErrLocked) {
		t.Errorf("while it runs: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := obelisk.AllowAccount(cfg.Dir, alice.Account()); err != nil {
			t.Fatal(err)
		}
	}
	p = openPillar(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := alice.AddPillar(ctx, p.JoinLink()); err != nil {
		t.Errorf("alice, who is allowed: %v", err)
	}
	if err := bob.AddPillar(ctx, p.JoinLink()); overlay.CodeOf(err) != overlay.CodeRegistrationClosed {
		t.Errorf("bob, who is not: %v", err)
	}
	if err := p.Allow(bob.Account()); err != nil {
		t.Fatal(err)
	}
	if err := bob.AddPillar(ctx, p.JoinLink()); err != nil {
		t.Errorf("bob, once he is: %v", err)
	}
}

// Two networks do not mix.
func TestWrongNetwork(t *testing.T) {
	t.Parallel()
	ours, theirs := openPillar(t, pillarConfig(t)), openPillar(t, pillarConfig(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	wrong := &overlay.Error{Code: overlay.CodeWrongNetwork}
	if err := ours.AddPillar(ctx, theirs.JoinLink()); !errors.Is(err, wrong) {
		t.Errorf("by link: %v", err)
	}
	if err := ours.AddPillar(ctx, theirs.Listen()[0]); !errors.Is(err, wrong) {
		t.Errorf("by address: %v", err)
	}
	cfg := nodeConfig(t, ours.JoinLink())
	n := openNode(t, cfg)
	if err := n.AddPillar(ctx, theirs.JoinLink()); !errors.Is(err, wrong) {
		t.Errorf("a node, by link: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Join = []string{theirs.JoinLink()}
	if _, err := obelisk.OpenNode(ctx, cfg); !errors.Is(err, wrong) {
		t.Errorf("a node that moves: %v", err)
	}
}
