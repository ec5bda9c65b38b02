package overlay_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func TestRoster(t *testing.T) {
	n := newTestNetwork(t)
	now := millis(testNow)
	key := identity.NewPillarKey()
	roster := overlay.NewRoster(overlay.NewVerifier(n.id))
	var told int
	roster.Watch(func(added []*overlay.Record) { told += len(added) })

	old := n.pillarRecord(key, now-1000, nil)
	added, err := roster.Add(now, false, old.Raw)
	if err != nil || len(added) != 1 || !roster.Admitted(key.ID(), now) || roster.Living(now) != 1 {
		t.Fatalf("a new pillar: added %d, admitted %v, %v", len(added), roster.Admitted(key.ID(), now), err)
	}
	if added, err := roster.Add(now, false, old.Raw); err != nil || len(added) != 0 {
		t.Errorf("the same record again: added %d, %v", len(added), err)
	}
	newer := n.pillarRecord(key, now, nil)
	if added, _ := roster.Add(now, false, newer.Raw, old.Raw); len(added) != 1 || added[0].ID != newer.ID {
		t.Errorf("a newer and an older record: added %d", len(added))
	}
	if got := roster.Get(newer.ID); !bytes.Equal(got, newer.Raw) {
		t.Error("Get does not find the newest record")
	}
	if roster.Get(old.ID) != nil {
		t.Error("Get finds a record that was replaced")
	}
	if told != 2 {
		t.Errorf("watchers were told of %d records, want 2", told)
	}
}

func TestRosterAuthority(t *testing.T) {
	n := newTestNetwork(t)
	now := millis(testNow)
	stranger := newTestNetwork(t)
	fresh := func() *overlay.Roster { return overlay.NewRoster(overlay.NewVerifier(n.id)) }

	t.Run("expired records are addresses, not authority", func(t *testing.T) {
		r, key := fresh(), identity.NewPillarKey()
		rec := n.pillarRecord(key, now-15*overlay.DayMillis, nil)
		if added, err := r.Add(now, false, rec.Raw); err != nil || len(added) != 1 {
			t.Fatalf("added %d, %v", len(added), err)
		}
		if len(r.DialAddrs(key.ID(), false)) != 1 || r.Admitted(key.ID(), now) || r.Living(now) != 0 {
			t.Error("an expired record is lost, or counts")
		}
	})
	t.Run("an admission that ended is none", func(t *testing.T) {
		r, key := fresh(), identity.NewPillarKey()
		rec := n.pillarRecord(key, now-1000, func(i *overlay.PillarInfo, _ *overlay.Draft) {
			i.Admission = n.key.Admit(key.ID(), 1, now-1)
		})
		r.Add(now, false, rec.Raw)
		if r.Admitted(key.ID(), now) {
			t.Error("admitted")
		}
	})
	t.Run("admissions by another network or for another pillar are refused", func(t *testing.T) {
		r, key := fresh(), identity.NewPillarKey()
		for _, adm := range []identity.Admission{
			stranger.key.Admit(key.ID(), now, now+overlay.DayMillis),
			n.key.Admit(identity.NewPillarKey().ID(), now, now+overlay.DayMillis),
		} {
			rec := n.pillarRecord(key, now, func(i *overlay.PillarInfo, _ *overlay.Draft) { i.Admission = adm })
			if added, err := r.Add(now, false, rec.Raw); len(added) != 0 || overlay.CodeOf(err) != overlay.CodeNotAdmitted {
				t.Errorf("added %d, %v", len(added), err)
			}
		}
	})
	t.Run("a revocation beats serials up to its own, in either order", func(t *testing.T) {
		for _, revokedFirst := range []bool{true, false} {
			r, key := fresh(), identity.NewPillarKey()
			rec, rev := n.pillarRecord(key, now, nil), n.revocation(key.ID(), now, now)
			if revokedFirst {
				r.Add(now, false, rev.Raw, rec.Raw)
			} else {
				r.Add(now, false, rec.Raw, rev.Raw)
			}
			if r.Admitted(key.ID(), now) || !r.Revoked(key.ID(), now) || r.Revoked(key.ID(), now+1) {
				t.Error("the revocation does not count, or counts too much")
			}
			again := n.pillarRecord(key, now+1, nil)
			if r.Add(now+1, false, again.Raw); !r.Admitted(key.ID(), now+1) {
				t.Error("a later admission does not count")
			}
			if got := len(r.Records()); got != 2 {
				t.Errorf("%d records, want a pillar and a revocation", got)
			}
		}
	})
	t.Run("a pillar that left is none", func(t *testing.T) {
		r, key := fresh(), identity.NewPillarKey()
		rec := n.pillarRecord(key, now, func(i *overlay.PillarInfo, _ *overlay.Draft) { i.Left = true })
		r.Add(now, false, rec.Raw)
		if r.Admitted(key.ID(), now) {
			t.Error("admitted")
		}
	})
	t.Run("a pillar that says it left at the end of all calendars can be shown", func(t *testing.T) {
		r, key := fresh(), identity.NewPillarKey()
		r.Add(now, false, n.pillarRecord(key, overlay.MaxTime-overlay.MaxLife, func(i *overlay.PillarInfo, _ *overlay.Draft) { i.Left = true }).Raw)
		trouble := r.Trouble(key.ID(), now)
		if b, err := json.Marshal(trouble); err != nil || trouble.Error == "" {
			t.Errorf("%s, %v", b, err)
		}
	})
	t.Run("other kinds and garbage do not belong there", func(t *testing.T) {
		r, key := fresh(), identity.NewPillarKey()
		rec := n.pillarRecord(key, now, nil)
		bad := bytes.Clone(rec.Raw)
		bad[len(bad)-1] ^= 1
		added, err := r.Add(now, false, []byte("garbage"), bad, rec.Raw)
		if len(added) != 1 || err == nil {
			t.Errorf("added %d, %v: a bad record must not touch its neighbours, nor go unnoticed", len(added), err)
		}
	})
}

// TestRosterPrivateAddrs: private addresses are dialled only if the record was
// learned over such a connection.
func TestRosterPrivateAddrs(t *testing.T) {
	n := newTestNetwork(t)
	now := millis(testNow)
	key := identity.NewPillarKey()
	rec := n.pillarRecord(key, now, func(i *overlay.PillarInfo, _ *overlay.Draft) {
		for _, a := range []string{"/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/0.0.0.0/tcp/1"} {
			i.Addrs = append(i.Addrs, multiaddr.StringCast(a))
		}
	})
	roster := overlay.NewRoster(overlay.NewVerifier(n.id))
	roster.Add(now, false, rec.Raw)
	if addrs := roster.DialAddrs(key.ID(), false); len(addrs) != 1 {
		t.Errorf("learned from afar: %v may be dialled", addrs)
	}
	if addrs := roster.DialAddrs(key.ID(), true); len(addrs) != 6 {
		t.Errorf("given by hand: only %v may be dialled", addrs)
	}
	roster.Add(now, true, rec.Raw)
	if addrs := roster.DialAddrs(key.ID(), false); len(addrs) != 6 {
		t.Errorf("learned nearby: only %v may be dialled", addrs)
	}
}

// TestRosterAdmissionLife: an admission counts to its last millisecond, and
// not at all while it ends more than 30 days ahead, however it came.
func TestRosterAdmissionLife(t *testing.T) {
	n := newTestNetwork(t)
	now := millis(testNow)
	cases := []struct {
		notAfter uint64
		want     bool
	}{{now, true}, {now - 1, false}, {now + 30*overlay.DayMillis, true}, {now + 30*overlay.DayMillis + 1, false}}
	for _, c := range cases {
		roster, key := overlay.NewRoster(overlay.NewVerifier(n.id)), identity.NewPillarKey()
		rec := n.pillarRecord(key, now-1000, func(i *overlay.PillarInfo, _ *overlay.Draft) {
			i.Admission = n.key.Admit(key.ID(), 1, c.notAfter)
		})
		roster.Add(now, false, rec.Raw)
		if got := roster.Admitted(key.ID(), now); got != c.want {
			t.Errorf("an admission until now%+d ms: admitted %v", int64(c.notAfter-now), got)
		}
	}
}

// TestRosterCircuits: circuits are dialled through public pillars of the roster
// only, at those pillars' own addresses.
func TestRosterCircuits(t *testing.T) {
	n := newTestNetwork(t)
	now := millis(testNow)
	type pillar struct {
		key   *identity.PillarKey
		home  bool
		left  bool
		addrs []string
	}
	add := func(r *overlay.Roster, local bool, p *pillar) {
		t.Helper()
		rec := n.pillarRecord(p.key, now, func(i *overlay.PillarInfo, _ *overlay.Draft) {
			i.Home, i.Left, i.Addrs = p.home, p.left, nil
			for _, a := range p.addrs {
				i.Addrs = append(i.Addrs, multiaddr.StringCast(a))
			}
		})
		if _, err := r.Add(now, local, rec.Raw); err != nil {
			t.Fatal(err)
		}
	}
	through := func(p *pillar, at string) string { return at + "/p2p/" + p.key.ID().String() + "/p2p-circuit" }
	a := &pillar{key: identity.NewPillarKey(), addrs: []string{"/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.1/tcp/2", "/ip4/10.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"}}
	b := &pillar{key: identity.NewPillarKey(), addrs: []string{"/ip4/198.51.100.2/tcp/1", "/ip4/127.0.0.1/tcp/2"}}
	lan := &pillar{key: identity.NewPillarKey(), addrs: []string{"/ip4/127.0.0.1/tcp/3", "/ip4/192.168.0.3/tcp/3"}}
	gone := &pillar{key: identity.NewPillarKey(), left: true, addrs: []string{"/ip4/198.51.100.4/tcp/1"}}
	other := &pillar{key: identity.NewPillarKey(), home: true, addrs: []string{"/ip4/198.51.100.5/tcp/1"}}
	stranger := &pillar{key: identity.NewPillarKey()}
	home := &pillar{key: identity.NewPillarKey(), home: true}
	home.addrs = []string{
		through(a, "/ip4/203.0.113.66/tcp/22"), // not where a says it is
		through(stranger, "/ip4/203.0.113.66/tcp/23"),
		"/ip4/203.0.113.66/tcp/24",
		"/ip4/10.0.0.66/tcp/25",
		through(gone, gone.addrs[0]), through(other, other.addrs[0]),
		through(b, b.addrs[0]), through(lan, lan.addrs[0]),
	}
	r := overlay.NewRoster(overlay.NewVerifier(n.id))
	for _, p := range []*pillar{a, b, lan, gone, other, home} {
		add(r, false, p)
	}
	check := func(what string, got []multiaddr.Multiaddr, want ...string) {
		t.Helper()
		texts := make([]string, len(got))
		for i, g := range got {
			texts[i] = g.String()
		}
		if !slices.Equal(texts, want) {
			t.Errorf("%s: %v, want %v", what, texts, want)
		}
	}
	check("learned from afar", r.DialAddrs(home.key.ID(), false), "/ip4/203.0.113.66/tcp/24",
		through(a, a.addrs[0]), through(b, b.addrs[0]), through(a, a.addrs[1]))
	add(r, true, lan)
	check("the relay is near", r.DialAddrs(home.key.ID(), false), "/ip4/203.0.113.66/tcp/24",
		through(a, a.addrs[0]), through(b, b.addrs[0]), through(lan, lan.addrs[0]), through(a, a.addrs[1]), through(lan, lan.addrs[1]))
	check("given by hand", r.DialAddrs(home.key.ID(), true)[:2], "/ip4/203.0.113.66/tcp/24", "/ip4/10.0.0.66/tcp/25")
	check("nobody", r.DialAddrs(stranger.key.ID(), true))

	relays := []identity.PillarID{lan.key.ID(), gone.key.ID(), a.key.ID(), stranger.key.ID(), other.key.ID(), b.key.ID()}
	check("told", r.Circuits(8, relays), through(lan, lan.addrs[1]), through(a, a.addrs[0]), through(b, b.addrs[0]), through(a, a.addrs[1]))
	check("few told", r.Circuits(2, relays), through(lan, lan.addrs[1]), through(a, a.addrs[0]))
	check("none told", r.Circuits(0, relays))
	rev := n.revocation(a.key.ID(), now, now)
	if _, err := r.Add(now, false, rev.Raw); err != nil {
		t.Fatal(err)
	}
	check("one revoked", r.Circuits(8, relays), through(lan, lan.addrs[1]), through(b, b.addrs[0]))
}
