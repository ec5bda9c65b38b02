package gossip_test

import (
	"context"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// slowDisk is a Replica whose commits take time, one after the other.
type slowDisk struct {
	*replicatest.Memory
	each, entry time.Duration // of a commit, and of an entry in it
	turn        chan struct{} // a mutex that the bubble's time passes for
}

func (d *slowDisk) Apply(ctx context.Context, run overlay.LogRun) (overlay.LogState, error) {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	time.Sleep(d.each + time.Duration(len(run.Entries))*d.entry)
	return d.Memory.Apply(ctx, run)
}

// slow gives p a disk that stores 20,000 entries a second, and says so of a
// commit that takes longer than a fresh record should wait for.
func (p *pillar) slow() *pillar {
	d := &slowDisk{Memory: p.disk, each: 5 * time.Millisecond, entry: 50 * time.Microsecond, turn: make(chan struct{}, 1)}
	p.config = func(c *gossip.Config) { c.Replica = d }
	return p
}

// chronicle is a log of a pillar that is gone: n entries that have expired, but
// for the last, which lives.
func (w *world) chronicle(n int) *replicatest.Log {
	l := replicatest.NewLog(w.key.ID(), identity.NewPillarKey())
	past := uint64(time.Now().Add(-time.Hour).UnixMilli())
	for i := range n - 1 {
		l.AddEntry(overlay.BatchEntry{Expires: past, ID: overlay.RecordID{byte(i), byte(i >> 8), byte(i >> 16), 1}, Why: overlay.WhyExpired})
	}
	l.Add(w.t, w.author.Message(w.t, 10, 24*time.Hour))
	return l
}

// hold has p hold entries from..to of a log, with a head every 2000 entries, and
// know whose it is.
func (p *pillar) hold(l *replicatest.Log, from, to uint64) *pillar {
	p.w.t.Helper()
	p.roster.Add(uint64(time.Now().UnixMilli()), true, replicatest.PillarRecord(p.w.t, p.w.key, l.Key, time.Now(), 20*24*time.Hour).Raw)
	var kept []*overlay.Head
	for at := from; at <= to; {
		end := min(to, (at/2000+1)*2000)
		if _, err := p.disk.Apply(context.Background(), l.Run(at, end)); err != nil {
			p.w.t.Fatal(err)
		}
		kept = append(kept, l.Head(end))
		at = end + 1
	}
	if err := gossip.SaveHeads(p.disk, l.ID, kept, l.Head(max(1, from-1))); err != nil {
		p.w.t.Fatal(err)
	}
	return p
}

// held is how a pillar holds a log.
func (p *pillar) held(log overlay.LogID) (held overlay.LogState) {
	for _, s := range p.disk.Logs() {
		if s.Log == log {
			held = s
		}
	}
	return held
}

// A pillar that lacks a long history is a copy of what is fresh at once, and
// what is fresh waits for a commit of history at most, while 200,000 entries
// come in.
func TestFreshBesideHistory(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		end := a.submit(1)
		old := w.chronicle(200_000)
		b := w.pillar().hold(old, 1, 200_000).start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, b) })
		until(t, time.Minute, "the history at both", func() bool { return a.held(old.ID).Seq == 200_000 })
		time.Sleep(3 * time.Second) // and told
		n := w.pillar().slow().start(a)
		until(t, 5*time.Second, "meshed with the new one", func() bool { return meshed(a, b, n) })
		time.Sleep(time.Second)
		worst, fresh := time.Duration(0), 0
		for n.held(old.ID).Seq < 200_000 {
			began := time.Now()
			end = a.submit(1)
			fresh++
			until(t, time.Second, "a fresh record at both", func() bool { return copies(a, end) == 2 })
			worst = max(worst, time.Since(began))
			if backlog := n.mesh.SyncStatus().Backlog; fresh == 10 && (backlog < 50_000 || backlog > 199_000) {
				t.Errorf("a backlog of %d entries after %d fresh records", backlog, fresh)
			}
			time.Sleep(100 * time.Millisecond)
			if fresh > 600 {
				t.Fatalf("history does not come: %+v", n.held(old.ID).Position)
			}
		}
		// Half a commit of history takes 105 ms here, and two may be before us.
		if worst > 250*time.Millisecond {
			t.Errorf("a fresh record waited for %s", worst)
		}
		if fresh < 30 {
			t.Errorf("only %d fresh records came while history did: the test says nothing", fresh)
		}
		t.Logf("%d fresh records, %s at worst", fresh, worst)
		if got, new := n.count("entries_received_total"), n.count("entries_new_total"); got > 1.05*new {
			t.Errorf("%v entries received for %v new ones", got, new)
		}
		until(t, 5*time.Second, "a status of nothing missing", func() bool {
			st := n.mesh.SyncStatus()
			return st.Missing == 0 && st.Backlog == 0
		})
	}, memnet.WithLatency(5*time.Millisecond))
}

// A log that its own pillar goes on writing is followed from now on, and its
// history comes beside it: copies are counted by range.
func TestLiveBeforeHistory(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar()
		a.disk.Trusting = true
		a.start()
		for range 20 {
			a.submit(500)
		}
		n := w.pillar()
		n.disk.Trusting = true
		n.slow().start(a)
		until(t, 5*time.Second, "meshed", func() bool { return meshed(a, n) })
		until(t, time.Second, "the live follow", func() bool { return n.count("follows") == 1 })
		time.Sleep(50 * time.Millisecond)
		end := a.submit(1)
		until(t, 400*time.Millisecond, "a copy of what is fresh", func() bool { return copies(a, end) == 1 })
		if s := n.held(end.Log); s.Seq > 9000 {
			t.Errorf("the history was there before, to %d: the test says nothing", s.Seq)
		}
		for _, d := range a.disk.Durable(end.Log) {
			if d.From <= 9000 && d.To >= 10_000 {
				t.Errorf("%+v: what is not there counts as a copy", d)
			}
		}
		until(t, 10*time.Second, "converged", func() bool { return converged(a, n) })
		until(t, 5*time.Second, "copies of all", func() bool {
			d := a.disk.Durable(end.Log)
			return len(d) == 1 && d[0] == overlay.Durable{From: 1, To: end.Seq, Copies: 1}
		})
		if got, fresh := n.count("entries_received_total"), n.count("entries_new_total"); got > 1.05*fresh || fresh != 10_001 {
			t.Errorf("%v entries received, %v new", got, fresh)
		}
	}, memnet.WithLatency(5*time.Millisecond))
}

// A new pillar gets a log of which everybody holds another part, from all of
// them, each part once.
func TestPartsFromEverybody(t *testing.T) {
	inBubble(t, func(w *world) {
		old := w.chronicle(90_000)
		first := w.pillar().hold(old, 1, 34_000).start()
		second := w.pillar().hold(old, 30_001, 66_000).start()
		third := w.pillar().hold(old, 60_001, 90_000).start()
		n := w.pillar().slow().start(first, second, third)
		until(t, time.Minute, "the whole log", func() bool { return n.held(old.ID).Position == old.Position() })
		if s := n.held(old.ID); len(s.Islands) > 0 {
			t.Errorf("islands %+v are left", s.Islands)
		}
		if got, fresh := n.count("entries_received_total"), n.count("entries_new_total"); got > 1.05*fresh {
			t.Errorf("%v entries received for %v new ones", got, fresh)
		}
		for i, p := range []*pillar{first, second, third} {
			if p.count("entries_sent_total") < 20_000 {
				t.Errorf("holder %d sent %v entries", i, p.count("entries_sent_total"))
			}
			if p.mesh != nil && n.count("follow_faults_total") > 0 {
				t.Errorf("%v faults of honest holders", n.count("follow_faults_total"))
			}
		}
		// They lack parts too, and get them the same way.
		until(t, 2*time.Minute, "converged", func() bool { return converged(first, second, third, n) })
	}, memnet.WithLatency(5*time.Millisecond))
}

// A part that no reachable pillar holds is shown, is in nobody's way, and comes
// once who holds it shows up.
func TestUnreachable(t *testing.T) {
	inBubble(t, func(w *world) {
		old := w.chronicle(30_000)
		rest := w.pillar().hold(old, 1, 20_000)
		top := w.pillar().hold(old, 20_001, 30_000).start()
		n := w.pillar().start(top)
		until(t, 20*time.Second, "the top", func() bool { held := n.held(old.ID); return held.Top().Seq == 30_000 })
		time.Sleep(2 * time.Second)
		st := n.mesh.SyncStatus()
		if len(st.Unreachable) != 1 || st.Unreachable[0] != (overlay.Unreachable{Pillar: old.Key.ID(), Log: old.ID, From: 1, To: 20_000}) {
			t.Errorf("unreachable: %+v", st.Unreachable)
		}
		if st.Missing != 0 {
			t.Errorf("%d missing that nobody in reach has", st.Missing)
		}
		rest.start(n)
		until(t, 30*time.Second, "the rest", func() bool { return n.held(old.ID).Position == old.Position() })
		if st := n.mesh.SyncStatus(); len(st.Unreachable) != 0 {
			t.Errorf("unreachable still: %+v", st.Unreachable)
		}
	}, memnet.WithLatency(5*time.Millisecond))
}

// What memberlist thinks of a member costs no data traffic: follows go by
// sessions.
func TestMembershipFlaps(t *testing.T) {
	inBubble(t, func(w *world) {
		w.member = true
		a := w.pillar().start()
		b := w.pillar().start(a)
		until(t, 20*time.Second, "meshed", func() bool { return meshed(a, b) })
		a.submit(10)
		until(t, 5*time.Second, "converged", func() bool { return converged(a, b) })
		streams := b.count("follow_batches_total")
		for range 3 {
			hearHere, hearThere := a.mesh.DeafMembers(), b.mesh.DeafMembers()
			until(t, 2*time.Minute, "a member thought dead", func() bool { return a.mesh.AliveMembers() == 1 })
			hearHere()
			hearThere()
			until(t, 2*time.Minute, "a member alive again", func() bool { return a.mesh.AliveMembers() == 2 })
		}
		a.submit(1)
		until(t, time.Second, "the next record", func() bool { return converged(a, b) })
		if got := b.count("entries_received_total"); got != 11 {
			t.Errorf("%v entries received, want 11", got)
		}
		if n := b.count("follow_batches_total") - streams; n != 1 {
			t.Errorf("%v batches while membership flapped, want the one of the last record", n)
		}
		stopAll([]*pillar{a, b})
	})
}
