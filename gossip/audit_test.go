package gossip_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/overlay"
)

// parse makes records of raws.
func (w *world) parse(raws [][]byte) []*overlay.Record {
	w.t.Helper()
	recs := make([]*overlay.Record, len(raws))
	for i, raw := range raws {
		rec, err := overlay.ParseRecord(w.key.ID(), raw)
		if err != nil {
			w.t.Fatal(err)
		}
		recs[i] = rec
	}
	return recs
}

// old returns n records that were created a while ago and live for a day.
func (w *world) old(n int) []*overlay.Record {
	w.t.Helper()
	author := replicatest.NewAuthor(w.t, w.key.ID(), func() time.Time { return time.Now().Add(-time.Hour) })
	return w.parse(author.Messages(w.t, n))
}

func (p *pillar) keep(recs ...[]*overlay.Record) *pillar {
	for _, list := range recs {
		for _, r := range list {
			p.disk.Keep(r)
		}
	}
	return p
}

// quiet makes a pillar that begins no rounds by itself and trusts signatures.
func (w *world) quiet() *pillar {
	p := w.pillar()
	p.every = time.Hour
	p.disk.Trusting = true
	return p
}

// pair runs two pillars that know each other and share their short key.
func (w *world) pair(a, b *pillar) {
	w.t.Helper()
	a.start()
	b.start(a)
	until(w.t, 30*time.Second, "a session and one short key", func() bool {
		_, ka := a.mesh.Tally()
		_, kb := b.mesh.Tally()
		return meshed(a, b) && ka == kb
	})
	time.Sleep(15 * time.Second) // past what a recount guards against
}

// round does a round of a with b and checks the books of both sides.
func (w *world) round(a, b *pillar, want overlay.RoundResult) overlay.Round {
	w.t.Helper()
	before := b.mesh.Rounds(a.key.ID()).Totals
	r, err := a.mesh.Round(w.t.Context(), b.key.ID())
	if err != nil || r.Result != want {
		w.t.Fatalf("%s (%v), want %s; %+v", r.Result, err, want, r)
	}
	if last := a.mesh.Rounds(b.key.ID()).Last; last == nil || *last != r {
		w.t.Errorf("the last round is said to be %+v, not %+v", last, r)
	}
	synctest.Wait()
	there := b.mesh.Rounds(a.key.ID())
	if there.Last == nil {
		w.t.Fatal("the other side knows of no round")
	}
	o := *there.Last
	if o.BytesSent != r.BytesReceived || o.BytesReceived != r.BytesSent || o.RecordBytes != r.RecordBytes ||
		o.RoundTrips != r.RoundTrips || o.Fetched != r.Sent || o.Sent != r.Fetched {
		w.t.Errorf("the books differ:\n%+v\n%+v", r, o)
	}
	if there.Totals.Rounds != before.Rounds+1 {
		w.t.Errorf("%d rounds counted there, %d before", there.Totals.Rounds, before.Rounds)
	}
	return r
}

func TestRoundInSync(t *testing.T) {
	inBubble(t, func(w *world) {
		common := w.old(500)
		a, b := w.quiet().keep(common), w.quiet().keep(common)
		w.pair(a, b)
		r := w.round(a, b, overlay.RoundEqual)
		t.Logf("%d and %d bytes, %d round trips", r.BytesSent, r.BytesReceived, r.RoundTrips)
		if r.BytesSent > 100 || r.BytesReceived > 100 || r.RoundTrips != 1 || r.Differences != 0 {
			t.Errorf("a pair in sync: %+v", r)
		}
		if o := b.mesh.Rounds(a.key.ID()).Last; o.Result != overlay.RoundEqual {
			t.Errorf("the other side says %s", o.Result)
		}
		empty := w.quiet()
		w2 := w.quiet()
		w.pair(empty, w2)
		if r := w.round(empty, w2, overlay.RoundEqual); r.BytesSent > 100 {
			t.Errorf("nothing held: %+v", r)
		}
	})
}

// TestRoundRepairs deletes records on either side, which no log explains, and
// wants them back in one round, for few bytes.
func TestRoundRepairs(t *testing.T) {
	for _, c := range []struct {
		name         string
		common, a, b int // held by both, only by a, only by b
		trips        int
		bytes        uint64 // at most, both ways, beside the records
	}{
		{"one is missing here", 2000, 0, 1, 2, 600},
		{"one is missing there", 2000, 1, 0, 2, 600},
		{"one on each side", 2000, 1, 1, 2, 650},
		{"some scattered", 2000, 20, 30, 5, 3000},
		{"a thousand scattered", 2000, 500, 500, 6, 40_000},
		{"all are missing here", 0, 0, 300, 4, 12_000},
		{"all are missing there", 0, 300, 0, 4, 12_000},
		{"many are missing here", 100, 0, 3000, 12, 100_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				common, onlyA, onlyB := w.old(c.common), w.old(c.a), w.old(c.b)
				a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
				w.pair(a, b)
				r := w.round(a, b, overlay.RoundRepaired)
				overhead := r.BytesSent + r.BytesReceived
				t.Logf("%d bytes beside %d of records, %d round trips, %s", overhead, r.RecordBytes, r.RoundTrips, r.Took)
				if r.Differences != c.a+c.b || r.Fetched != c.b || r.Sent != c.a {
					t.Errorf("%d differences, %d fetched, %d sent", r.Differences, r.Fetched, r.Sent)
				}
				if overhead > c.bytes || r.RoundTrips > c.trips {
					t.Errorf("%d bytes and %d round trips, at most %d and %d", overhead, r.RoundTrips, c.bytes, c.trips)
				}
				if a.disk.Count() != c.common+c.a+c.b || b.disk.Count() != a.disk.Count() {
					t.Errorf("%d and %d records held", a.disk.Count(), b.disk.Count())
				}
				w.round(a, b, overlay.RoundEqual)
			})
		})
	}
}

// TestRoundDeep has more differences than the kept sketch can tell.
func TestRoundDeep(t *testing.T) {
	inBubble(t, func(w *world) {
		onlyHere, onlyThere := 12_000, 18_000
		if raced {
			onlyHere, onlyThere = 5000, 8000
		}
		common, onlyA, onlyB := w.old(2000), w.old(onlyHere), w.old(onlyThere)
		all := 2000 + onlyHere + onlyThere
		a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
		w.pair(a, b)
		r := w.round(a, b, overlay.RoundRepaired)
		t.Logf("%d bytes beside %d of records, %d round trips", r.BytesSent+r.BytesReceived, r.RecordBytes, r.RoundTrips)
		if r.Differences != onlyHere+onlyThere || a.disk.Count() != all || b.disk.Count() != all {
			t.Errorf("%d differences; %d and %d records held", r.Differences, a.disk.Count(), b.disk.Count())
		}
		if a.count("rounds_deep_total") != 1 || b.count("rounds_deep_total") != 1 {
			t.Error("not by a deep round")
		}
		w.round(a, b, overlay.RoundEqual)
	})
}

// TestRoundCollisions has short IDs of 10 bits, so most are several records'.
func TestRoundCollisions(t *testing.T) {
	inBubble(t, func(w *world) {
		common, onlyA, onlyB := w.old(300), w.old(200), w.old(250)
		a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
		a.omit, b.omit = math.MaxUint64-1023, math.MaxUint64-1023
		w.pair(a, b)
		until(w.t, 5*time.Minute, "all records on both", func() bool {
			time.Sleep(5 * time.Second)
			if _, err := a.mesh.Round(w.t.Context(), b.key.ID()); err != nil {
				t.Fatal(err)
			}
			return a.disk.Count() == 750 && b.disk.Count() == 750
		})
		w.round(a, b, overlay.RoundEqual)
		if a.count("rounds_deep_total") == 0 {
			t.Error("without a deep round?")
		}
		if n := a.count("offences_total", "garbage") + b.count("offences_total", "garbage"); n > 0 {
			t.Errorf("%v records were taken for garbage", n)
		}
	})
}

// TestRoundEqualShorts swaps a record for another with the same short ID: the
// sketches are equal, the sums are not.
func TestRoundEqualShorts(t *testing.T) {
	inBubble(t, func(w *world) {
		common, onlyA, onlyB := w.old(50), w.old(1), w.old(1)
		a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
		a.omit, b.omit = math.MaxUint64, math.MaxUint64
		w.pair(a, b)
		r := w.round(a, b, overlay.RoundRepaired)
		if r.Differences != 2 || a.disk.Count() != 52 || b.disk.Count() != 52 {
			t.Errorf("%+v", r)
		}
		w.round(a, b, overlay.RoundEqual)
	})
}

// TestRoundClocks compares pillars whose clocks disagree by ten seconds.
func TestRoundClocks(t *testing.T) {
	for _, off := range []time.Duration{10 * time.Second, -10 * time.Second, 25 * time.Second} {
		t.Run(off.String(), func(t *testing.T) {
			inBubble(t, func(w *world) {
				common, onlyA, onlyB := w.old(300), w.old(3), w.old(2)
				a, b := w.quiet().keep(common, onlyA), w.quiet().keep(common, onlyB)
				a.now = func() time.Time { return time.Now().Add(off) }
				w.pair(a, b)
				for range 30 { // fresh and short-lived records of all ages
					a.disk.Submit(w.author.Message(t, 10, 25*time.Second), w.author.Message(t, 10, time.Hour))
					b.disk.Submit(w.author.Message(t, 10, 40*time.Second))
					time.Sleep(900 * time.Millisecond)
				}
				r := w.round(a, b, overlay.RoundRepaired)
				if r.Differences != 5 {
					t.Errorf("%d differences", r.Differences)
				}
				for range 15 {
					a.disk.Submit(w.author.Message(t, 10, 30*time.Second))
					time.Sleep(1300 * time.Millisecond)
					w.round(a, b, overlay.RoundEqual)
					w.round(b, a, overlay.RoundEqual)
				}
			})
		})
	}
}

// TestRoundUnsettled: clocks an hour apart have no common instant.
func TestRoundUnsettled(t *testing.T) {
	inBubble(t, func(w *world) {
		common := w.old(10)
		a, b := w.quiet().keep(common), w.quiet().keep(common)
		b.now = func() time.Time { return time.Now().Add(50 * time.Minute) }
		w.pair(a, b)
		w.round(a, b, overlay.RoundUnsettled)
		w.round(b, a, overlay.RoundUnsettled)
	})
}

// TestRoundExpiry lets what differs expire while rounds go on.
func TestRoundExpiry(t *testing.T) {
	inBubble(t, func(w *world) {
		author := replicatest.NewAuthor(t, w.key.ID(), func() time.Time { return time.Now().Add(-time.Minute) })
		var dying []*overlay.Record
		for i := range 200 {
			dying = append(dying, w.parse([][]byte{author.Message(t, 10, 80*time.Second+time.Duration(i)*500*time.Millisecond)})...)
		}
		a, b := w.quiet(), w.quiet().keep(dying)
		a.disk.Refuse(overlay.Refuse(overlay.CodeFull, "full"))
		w.pair(a, b)
		for range 20 {
			r, err := a.mesh.Round(w.t.Context(), b.key.ID())
			if err == nil && r.Result != overlay.RoundEqual {
				t.Fatalf("a full pillar's round: %+v", r)
			}
			time.Sleep(3 * time.Second)
		}
		a.disk.Refuse(nil)
		if r, err := a.mesh.Round(w.t.Context(), b.key.ID()); err != nil || r.Fetched == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		time.Sleep(2 * time.Minute)
		w.round(a, b, overlay.RoundEqual)
		if tally, _ := a.mesh.Tally(); tally.Count != 0 {
			t.Errorf("%d records after all expired", tally.Count)
		}
		if n := a.count("offences_total") + b.count("offences_total"); n > 0 {
			t.Errorf("%v offences", n)
		}
	})
}

// TestRoundKeyChange changes the short key while rounds go on.
func TestRoundKeyChange(t *testing.T) {
	inBubble(t, func(w *world) {
		common, onlyB := w.old(1000), w.old(10)
		a, b := w.quiet().keep(common), w.quiet().keep(common, onlyB)
		w.pair(a, b)
		_, key := a.mesh.Tally()
		better := key
		for i := byte(0); ; i++ { // one of a few is better
			better[0] = key[0] + i + 1
			n, o := better.Name(), key.Name()
			if string(n[:]) < string(o[:]) {
				break
			}
		}
		a.mesh.OfferKey(better)
		results := map[overlay.RoundResult]int{}
		until(w.t, time.Minute, "all records on both, under the better key", func() bool {
			time.Sleep(time.Second) // no more rounds than are allowed
			r, err := a.mesh.Round(w.t.Context(), b.key.ID())
			if err != nil {
				t.Fatal(err)
			}
			results[r.Result]++
			_, ka := a.mesh.Tally()
			_, kb := b.mesh.Tally()
			return ka == better && kb == better && r.Result == overlay.RoundEqual
		})
		t.Log(results)
		if a.disk.Count() != 1010 {
			t.Errorf("%d records", a.disk.Count())
		}
		ta, _ := a.mesh.Tally()
		if ta.Count != 1010 {
			t.Errorf("%d records counted", ta.Count)
		}
	})
}

// TestRoundFresh: what was received just now is left alone.
func TestRoundFresh(t *testing.T) {
	inBubble(t, func(w *world) {
		a, b := w.quiet(), w.quiet()
		w.pair(a, b)
		late := w.old(1)
		b.disk.SetReceived(late[0].ID, time.Now())
		if _, err := b.disk.Take(w.t.Context(), overlay.ViaBundle, [][]byte{late[0].Raw}); err != nil {
			t.Fatal(err)
		}
		w.round(a, b, overlay.RoundWaits)
		w.round(b, a, overlay.RoundWaits)
		if a.disk.Count() != 0 {
			t.Fatal("a record was repaired as soon as it had come")
		}
		time.Sleep(6 * time.Second)
		w.round(a, b, overlay.RoundRepaired)
	})
}

// TestSpotCheck deletes records behind the ledger's back: memory still counts
// them, so the roots are equal, until a sample shows it.
func TestSpotCheck(t *testing.T) {
	inBubble(t, func(w *world) {
		common := w.old(400)
		a, b := w.quiet().keep(common), w.quiet().keep(common)
		a.every = 5 * time.Second
		w.pair(a, b)
		a.disk.Erase(common[7].ID, common[200].ID)
		until(w.t, 20*time.Minute, "the records back", func() bool { return a.disk.Count() == 400 })
		if a.count("ledger_corrections_total", "lost") == 0 {
			t.Error("no correction counted")
		}
		// The other way round: the disk has what memory does not know.
		extra := w.old(3)
		a.keep(extra)
		until(w.t, 30*time.Minute, "the records on both", func() bool { return b.disk.Count() == 403 })
		if a.count("ledger_corrections_total", "unknown") == 0 {
			t.Error("no correction counted")
		}
	})
}

// TestGone: records that a scrub finds lost are missed at once.
func TestGone(t *testing.T) {
	inBubble(t, func(w *world) {
		common := w.old(100)
		a, b := w.quiet().keep(common), w.quiet().keep(common)
		w.pair(a, b)
		a.disk.Lose(common[3].ID, common[4].ID)
		if r := w.round(b, a, overlay.RoundRepaired); r.Sent != 2 {
			t.Errorf("%+v", r)
		}
	})
}

// TestAuditByItself: rounds are begun, repair, and can be paused.
func TestAuditByItself(t *testing.T) {
	inBubble(t, func(w *world) {
		common, missing := w.old(100), w.old(5)
		a, b := w.pillar().keep(common), w.pillar().keep(common, missing)
		w.pair(a, b)
		until(w.t, time.Minute, "equal sets", func() bool { return a.disk.Count() == 105 })
		a.mesh.PauseRounds(true)
		b.mesh.PauseRounds(true)
		time.Sleep(10 * time.Second)
		n := a.mesh.Rounds(b.key.ID()).Totals.Rounds
		time.Sleep(time.Minute)
		if m := a.mesh.Rounds(b.key.ID()).Totals.Rounds; m != n {
			t.Errorf("%d rounds while paused", m-n)
		}
		w.round(a, b, overlay.RoundEqual) // by hand all the same
		a.mesh.PauseRounds(false)
		time.Sleep(time.Minute)
		if m := a.mesh.Rounds(b.key.ID()).Totals.Rounds; m < n+8 {
			t.Errorf("%d rounds in a minute", m-n)
		}
	})
}

func TestRoundWithNobody(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.quiet().start()
		other := w.quiet()
		if _, err := a.mesh.Round(context.Background(), other.key.ID()); overlay.CodeOf(err) != overlay.CodeUnreachable {
			t.Errorf("a round with nobody: %v", err)
		}
	})
}

// TestRoundWholeIDs has two records, one on either side, be the same in all that
// is in memory of them, as who knows the short key could make them in 2^64 steps.
// Rounds that compare memory see that sums differ, and nothing else; then one
// reads the disks.
func TestRoundWholeIDs(t *testing.T) {
	inBubble(t, func(w *world) {
		common, two := w.old(300), w.old(2)
		a, b := w.quiet().keep(common, two[:1]), w.quiet().keep(common, two[1:])
		b.config = func(c *gossip.Config) { c.Alike(two[1].ID, two[0].ID) }
		w.pair(a, b)
		var last overlay.Round
		rounds := 0
		until(w.t, 10*time.Minute, "both on both sides", func() bool {
			time.Sleep(10 * time.Second)
			var err error
			if last, err = a.mesh.Round(w.t.Context(), b.key.ID()); err != nil {
				t.Fatal(err)
			}
			rounds++
			one, _ := a.mesh.Tally()
			other, _ := b.mesh.Tally()
			return one.Count == 302 && one == other
		})
		t.Logf("%d rounds, the last %d and %d bytes", rounds, last.BytesSent, last.BytesReceived)
		if last.Fetched != 1 || last.Sent != 1 {
			t.Errorf("%+v", last)
		}
		w.round(a, b, overlay.RoundEqual)
		if n := a.count("offences_total") + b.count("offences_total"); n > 0 {
			t.Errorf("%v offences", n)
		}
	})
}
