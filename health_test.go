package obelisk_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
)

// watched opens a pillar with an admin port and returns a client of it.
func (n *network) watched(dir, adminAddr string, join ...string) (*obelisk.Pillar, *admin.PillarClient) {
	n.t.Helper()
	p, err := obelisk.OpenPillar(n.ctx, obelisk.PillarConfig{Dir: filepath.Join(dir, "pillar"), NetworkKey: n.key, Join: join,
		Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Memory: 16 << 20, StoreLimit: 1 << 30, Admin: adminAddr})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { p.Close() })
	return p, n.client(p.AdminAddr())
}

func (n *network) client(addr string) *admin.PillarClient {
	n.t.Helper()
	c, err := admin.NewPillarClient(admin.Target{Addr: addr})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

// failing names the checks of /readyz that fail, "" if none does, after holding
// the status of the answer against them.
func (n *network) failing(c *admin.PillarClient) string {
	n.t.Helper()
	checks, ok, err := c.Ready(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, x := range checks {
		if !x.OK {
			names = append(names, x.Name)
		}
		if x.OK == (x.Detail != "") && x.Name != "clock" {
			n.t.Errorf("%+v", x)
		}
	}
	if ok != (len(names) == 0) {
		n.t.Errorf("ready: %v, with %q failing", ok, names)
	}
	return strings.Join(names, " ")
}

// TestHealth: a pillar is alive all the while; it is ready if it never knew
// others, not while it reaches none of those it knows, and not before it has
// what they had when it started.
func TestHealth(t *testing.T) {
	n := newNetwork(t)
	dir := t.TempDir()
	one, c := n.watched(dir, "127.0.0.1:0")
	if failing := n.failing(c); failing != "" {
		t.Errorf("the only pillar is not ready: %s", failing)
	}
	// A hundred messages and more that one does not have while it is away.
	two, c2 := n.watched(t.TempDir(), "127.0.0.1:0", one.JoinLink())
	n.until("both are ready", func() bool {
		return one.Status().PillarsAlive == 2 && n.failing(c) == "" && n.failing(c2) == ""
	})
	alice, bob := n.addNode(two, "alice"), n.addNode(two, "bob")
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Ready(n.ctx); err == nil {
		t.Error("a closed pillar answers")
	}
	n.until("two is alone", func() bool { return n.failing(c2) == "peers" })
	if checks, ok, err := c2.Health(n.ctx); err != nil || !ok || len(checks) == 0 {
		t.Errorf("alone it is alive: %v, %v, %v", checks, ok, err)
	}
	for i := range 100 {
		n.send(alice, bob, fmt.Sprint("meanwhile ", i), obelisk.Stored)
	}
	held := two.Status().Records
	one, c = n.watched(dir, "127.0.0.1:0", two.JoinLink())
	n.until("one is ready again", func() bool {
		switch failing := n.failing(c); failing {
		case "":
			return true
		case "peers", "caught_up":
			return false
		default:
			t.Fatalf("%s", failing)
			return false
		}
	})
	if got := one.Status().Records; got < held {
		t.Errorf("ready with %d records, the other had %d", got, held)
	}
}
