package overlay_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// A clock is a pillar's, off by so much from that of all others.
type clock struct{ off atomic.Int64 }

func (c *clock) set(off time.Duration) { c.off.Store(int64(off)) }

func (c *clock) option(cfg *overlay.PillarConfig) {
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(c.off.Load())) }
	admit := cfg.Admit
	cfg.Admit = func(now uint64) (identity.Admission, error) { return admit(now) }
}

// inYears is how far the clock is off that says it is that year.
func inYears(year int) time.Duration {
	return time.Until(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
}

// TestWrongClockDeletesNothing: a pillar that boots with a clock far off deletes
// nothing, hides nothing it should show, says what is wrong, at every restart,
// for as long as that lasts; and once the clock is right, all is as it should be.
func TestWrongClockDeletesNothing(t *testing.T) {
	for _, year := range []int{2040, 1971} {
		t.Run(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Format("2006"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ahead := year > 2020
				mesh := newFakeMesh()
				var c clock
				rig := newPillarRig(t, mesh, c.option)
				defer func() { rig.stop() }()
				alice, bob := rig.device(nil), rig.device(nil)
				life := func(d *overlay.Draft) { d.Expires = d.Created + 3*overlay.DayMillis }
				message := func() []byte {
					return alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte{1}, life)
				}
				var raws [][]byte
				for range 4 {
					raws = append(raws, message())
				}
				log := newHandLog(rig, raws...)
				log.apply(1, 2)
				time.Sleep(2 * time.Minute) // virtual: the time is saved
				if text := rig.pillar.Status().ClockText; text != "" {
					t.Fatalf("a right clock: %s", text)
				}
				records := rig.pillar.Status().Records
				for round := range 2 {
					rig.stop()
					c.set(inYears(year))
					rig.start(mesh, identity.NewPillarKey(), c.option)
					time.Sleep(25 * time.Hour) // a day alone makes a clock right that was merely off
					st := rig.pillar.Status()
					if want := map[bool]string{true: "ahead of", false: "behind"}[ahead]; !strings.Contains(st.ClockText, want) || !strings.Contains(st.ClockText, time.Now().Add(inYears(year)).Format("2006")) {
						t.Fatalf("round %d: the clock's problem is %q", round, st.ClockText)
					}
					if st.Records < records {
						t.Fatalf("round %d: %d records, before %d", round, st.Records, records)
					}
					if held := log.held(); held.Seq < 2 || len(held.Lacks) != 0 {
						t.Fatalf("round %d: log at %d", round, held.Seq)
					}
				}
				// Others' logs go on under it.
				if st := log.apply(3, 4, 4); st.Seq != 4 || len(st.Lacks) != 1 {
					t.Fatalf("log at %d with %d lacks", st.Seq, len(st.Lacks))
				}
				got, cursor := rig.device(bob.account).session().resume(overlay.BoxMail, nil, false)
				sameRecords(t, "shown", got, raws[:3])
				wantCursor(t, cursor, log, 3)
				// Right again, without a restart.
				c.set(0)
				time.Sleep(10 * time.Second)
				if text := rig.pillar.Status().ClockText; text != "" {
					t.Fatalf("a clock that is right again: %s", text)
				}
				got, cursor = bob.session().resume(overlay.BoxMail, nil, false)
				sameRecords(t, "there", got, raws[:3])
				wantCursor(t, cursor, log, 3)
				if l := rig.device(nil).session().one(raws[3]); l.Err != nil {
					t.Fatal(l.Err)
				}
				if st := log.held(); len(st.Lacks) != 0 {
					t.Fatalf("%d lacks", len(st.Lacks))
				}
				time.Sleep(4 * 24 * time.Hour) // all of it is over for a day
				ids := []overlay.RecordID{idOf(t, rig.id, raws[0]), idOf(t, rig.id, raws[2])}
				if has, err := rig.pillar.Has(ids); err != nil || has[0] || has[1] {
					t.Fatalf("kept for ever: %v %v", has, err)
				}
				rig.stop()
			})
		})
	}
}

// TestClockAhead: what only looks expired is shown, and no cursor says that it
// was read.
func TestClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		rig := newPillarRig(t, nil, c.option)
		defer func() { rig.stop() }()
		alice, bob := rig.device(nil), rig.device(nil)
		raw := alice.message(bob.id()) // lives a day
		long := alice.sign(overlay.KindMessage, []identity.AccountID{bob.id()}, []byte{1}, func(d *overlay.Draft) { d.Expires = d.Created + 20*overlay.DayMillis })
		log := newHandLog(rig, raw, long)
		log.apply(1, 2)
		time.Sleep(2 * time.Minute)
		rig.stop()
		c.set(5 * 24 * time.Hour)
		rig.start(nil, identity.NewPillarKey(), c.option)
		got, cursor := bob.session().resume(overlay.BoxMail, nil, false)
		sameRecords(t, "shown", got, [][]byte{raw, long})
		wantCursor(t, cursor, log, 2)
		if records, _, err := rig.pillar.Get([]overlay.RecordID{idOf(t, rig.id, raw)}, 1<<20); err != nil || len(records) != 1 {
			t.Fatalf("get: %d, %v", len(records), err)
		}
		rig.stop()
	})
}

// TestPillarKeepsUnderDoubt: a pillar that is alone and was off for long does
// not delete at once: its clock may be wrong. After a day it does, if nodes think
// that it is the same time.
func TestPillarKeepsUnderDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newPillarRig(t, nil)
		defer func() { rig.stop() }()
		c := rig.device(nil).session()
		raw := c.message(c.id()) // lives a day
		if l := c.one(raw); l.Err != nil {
			t.Fatal(l.Err)
		}
		rig.stop()
		time.Sleep(6 * 24 * time.Hour) // virtual
		rig.start(nil, identity.NewPillarKey())
		ids := []overlay.RecordID{idOf(t, rig.id, raw)}
		kept := func(want bool) {
			t.Helper()
			if has, err := rig.pillar.Has(ids); err != nil || has[0] != want {
				t.Fatalf("kept %v, want %v; %v", has, want, err)
			}
		}
		time.Sleep(48 * time.Hour)
		kept(true)
		node := rig.device(nil).session()
		if l := node.one(node.message(node.id())); l.Err != nil {
			t.Fatal(l.Err)
		}
		time.Sleep(time.Hour)
		kept(false)
		rig.stop()
	})
}

// TestClocksOfOthers: what others' clocks say decides over what was saved.
func TestClocksOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := newFakeMesh()
		var c clock
		rig := newPillarRig(t, mesh, c.option)
		defer func() { rig.stop() }()
		say := func(skews ...time.Duration) {
			mesh.mu.Lock()
			mesh.others = nil
			for _, skew := range skews {
				mesh.others = append(mesh.others, overlay.PillarStatus{Connected: true, ClockKnown: true, ClockSkew: skew})
			}
			mesh.mu.Unlock()
			time.Sleep(10 * time.Second) // virtual
		}
		node := rig.device(nil).session()
		for _, tt := range []struct {
			name    string
			skews   []time.Duration
			text    string // part of what is said, "" for nothing
			refused bool
		}{
			{"alone", nil, "", false},
			{"two that agree", []time.Duration{time.Second}, "", false},
			{"two that do not", []time.Duration{time.Minute}, "no majority", false},
			{"a majority that agrees", []time.Duration{time.Second, 3 * time.Hour}, "", false},
			{"a majority that does not", []time.Duration{time.Minute, time.Minute}, "submissions are refused", true},
			{"all again", []time.Duration{0, 0, 0}, "", false},
		} {
			say(tt.skews...)
			if text := rig.pillar.Status().ClockText; (text == "") != (tt.text == "") || !strings.Contains(text, tt.text) {
				t.Errorf("%s: %q", tt.name, text)
			}
			if l := node.one(node.message(node.id())); (l.Err != nil) != tt.refused {
				t.Errorf("%s: submission answered %+v", tt.name, l)
			}
		}
		// A clock that others confirmed is the measure, not what an older run saved.
		rig.stop()
		time.Sleep(5 * 24 * time.Hour)
		rig.start(mesh, identity.NewPillarKey(), c.option)
		say()
		if text := rig.pillar.Status().ClockText; !strings.Contains(text, "ahead of") {
			t.Errorf("off for days: %q", text)
		}
		say(0, 0)
		say()
		if text := rig.pillar.Status().ClockText; text != "" {
			t.Errorf("others had confirmed it: %q", text)
		}
		rig.stop()
	})
}

// TestFullTakesNothing: below a reserve of free disk nothing is taken, by
// whatever way, and the pillar goes on by itself.
func TestFullTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		const gib = 1 << 30
		free.Store(100 * gib)
		rig := newPillarRig(t, nil, func(c *overlay.PillarConfig) {
			c.Disk = func() (uint64, uint64, error) { return free.Load(), 200 * gib, nil }
		})
		defer func() { rig.stop() }()
		alice, bob := rig.device(nil), rig.device(nil)
		c := alice.session()
		log := newHandLog(rig, alice.message(bob.id()), alice.message(bob.id()))
		apply := func() error {
			_, err := rig.pillar.Apply(context.Background(), log.part(1, 2))
			return err
		}
		take := func() error {
			_, err := rig.pillar.Take(context.Background(), overlay.ViaAudit, [][]byte{alice.message(bob.id())})
			return err
		}
		for _, tt := range []struct {
			free         uint64
			low, full    bool
			took, status string
		}{
			{15 * gib, true, false, "follows", ""},
			{9 * gib, true, true, "", ""},
			{15 * gib, true, false, "follows", ""},
			{50 * gib, false, false, "follows", ""},
		} {
			free.Store(tt.free)
			time.Sleep(2 * time.Second) // virtual
			if l := c.one(alice.message(bob.id())); (l.Err != nil) != tt.low || tt.low && l.Err.Code != overlay.CodeFull {
				t.Fatalf("%d GiB free: submission answered %+v", tt.free/gib, l)
			}
			for _, err := range []error{apply(), take()} {
				if (err != nil) != tt.full || tt.full && overlay.CodeOf(err) != overlay.CodeFull {
					t.Fatalf("%d GiB free: %v", tt.free/gib, err)
				}
			}
			if rig.pillar.Status().Full != tt.full {
				t.Fatalf("%d GiB free: full %v", tt.free/gib, !tt.full)
			}
		}
		rig.stop()
	})
}
