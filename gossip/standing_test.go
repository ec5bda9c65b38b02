package gossip_test

import (
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// says makes the pillar's new record, with an admission of now or as before, and
// lets its own roster know.
func (p *pillar) says(left bool, admission time.Time) *overlay.Record {
	p.w.t.Helper()
	now := uint64(p.now().UnixMilli())
	info := overlay.PillarInfo{Left: left, Addrs: p.host.Addrs(),
		Admission: p.w.key.Admit(p.key.ID(), uint64(admission.UnixMilli()), now+20*overlay.DayMillis)}
	d := overlay.Draft{Kind: overlay.KindPillar, Author: string(p.key.ID()), Created: now, Expires: now + overlay.DayMillis, Bin: info.Append(nil)}
	rec, err := d.Sign(p.w.key.ID(), p.key)
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.record.Store(rec)
	if _, err := p.roster.Add(now, true, rec.Raw); err != nil {
		p.w.t.Fatal(err)
	}
	return rec
}

// revoke takes back what q was admitted by so far, as p's operator.
func (p *pillar) revoke(q *pillar) {
	p.w.t.Helper()
	now := uint64(p.now().UnixMilli())
	rec, err := overlay.Revoke(p.w.key, q.key.ID(), now, now)
	if err == nil {
		_, err = p.roster.Add(now, true, rec.Raw)
	}
	if err != nil {
		p.w.t.Fatal(err)
	}
}

func (p *pillar) sees(q *pillar) overlay.PillarState {
	for _, s := range p.mesh.Pillars() {
		if s.ID == q.key.ID() {
			return s.State
		}
	}
	return ""
}

func (p *pillar) standing(q *pillar) overlay.Standing {
	return p.roster.Standing(q.key.ID(), uint64(p.now().UnixMilli()))
}

// TestRevocationSpreads: everybody parts from a revoked pillar within seconds,
// it learns why, nobody dials anybody in vain, and admitted again it is one.
func TestRevocationSpreads(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b, c, bad := w.pillar().start(a), w.pillar().start(a), w.pillar().start(a)
		all := []*pillar{a, b, c, bad}
		until(w.t, 10*time.Second, "a mesh", func() bool { return meshed(all...) })
		time.Sleep(time.Second) // the revocation is of what was before
		a.revoke(bad)
		until(w.t, 5*time.Second, "everybody parts from it", func() bool {
			for _, p := range []*pillar{a, b, c} {
				if s := p.sees(bad); s == overlay.PillarAlive || p.standing(bad) != overlay.StandingRevoked {
					return false
				}
			}
			return meshed(bad) || bad.standing(bad) == overlay.StandingRevoked && bad.sees(a) != overlay.PillarAlive
		})
		if bad.standing(bad) != overlay.StandingRevoked {
			t.Error("the revoked pillar does not know")
		}
		bad.submit(10)
		time.Sleep(5 * time.Second)
		dials := bad.count("rejoin_attempts_total") + a.count("rejoin_attempts_total")
		time.Sleep(time.Hour)
		if again := bad.count("rejoin_attempts_total") + a.count("rejoin_attempts_total"); again != dials {
			t.Errorf("%v dials in vain", again-dials)
		}
		if a.sees(bad) == overlay.PillarAlive || converged(a, bad) {
			t.Error("what it accepted went on")
		}
		bad.says(false, time.Now())
		until(w.t, 10*time.Second, "it is one again", func() bool { return meshed(all...) && converged(all...) })
	})
}

// TestRevokedWhileAway: who was not there is told when it comes, with proof.
func TestRevokedWhileAway(t *testing.T) {
	for _, opens := range []string{"it opens", "the others open"} {
		t.Run(opens, func(t *testing.T) {
			inBubble(t, func(w *world) {
				a, bad := w.pillar().start(), w.pillar()
				bad.start(a)
				until(w.t, 10*time.Second, "a pair", func() bool { return meshed(a, bad) })
				bad.stop()
				time.Sleep(time.Minute)
				a.revoke(bad)
				// Its admission is the one from before.
				before := time.Now().Add(-time.Minute)
				bad.restart()
				bad.says(false, before)
				if opens == "the others open" {
					a.mesh.Inject(w.t.Context(), bad.where())
				} else {
					bad.mesh.Inject(w.t.Context(), a.where())
				}
				until(w.t, 2*time.Minute, "it knows", func() bool { return bad.standing(bad) == overlay.StandingRevoked })
				if a.sees(bad) == overlay.PillarAlive {
					t.Error("it has a session")
				}
			})
		})
	}
}

// TestLeftSpreads: a record that says left reaches everybody, is shown as left,
// and ends the sessions; nobody dials it.
func TestLeftSpreads(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		b, gone := w.pillar().start(a), w.pillar().start(a)
		until(w.t, 10*time.Second, "a mesh", func() bool { return meshed(a, b, gone) })
		time.Sleep(time.Second)
		gone.says(true, time.Now())
		until(w.t, 5*time.Second, "it is shown", func() bool { return a.sees(gone) == overlay.PillarLeft && b.sees(gone) == overlay.PillarLeft })
		until(w.t, 5*time.Second, "its sessions end", func() bool { return a.count("sessions") == 1 && b.count("sessions") == 1 })
		dials := a.count("rejoin_attempts_total")
		time.Sleep(time.Hour)
		if again := a.count("rejoin_attempts_total"); again != dials {
			t.Errorf("%v dials of who has left", again-dials)
		}
		now := uint64(time.Now().UnixMilli())
		if n := a.roster.Living(now - 1000); n != 2 {
			t.Errorf("%d pillars count", n)
		}
	})
}
