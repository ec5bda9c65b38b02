package gossip_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/overlay"
)

const step = overlay.AuditGrid

func randomStub(r *rand.Rand, created, life uint64) overlay.RecordStub {
	var id overlay.RecordID
	for i := 0; i < len(id); i += 8 {
		binary.BigEndian.PutUint64(id[i:], r.Uint64())
	}
	return overlay.RecordStub{ID: id, Created: created, Expires: created + life}
}

// model is the ledger as its definition says it.
type model map[overlay.RecordStub]bool

func (m model) set(settled, front uint64) (in []overlay.RecordStub) {
	for r := range m {
		if r.Created/step < settled && r.Expires/step >= front {
			in = append(in, r)
		}
	}
	return in
}

func checkLedger(t interface{ Fatalf(string, ...any) }, l *gossip.Ledger, key overlay.ShortKey, m model, settled, front uint64) {
	in := m.set(settled, front)
	var want overlay.Tally
	var shorts []uint64
	for _, r := range in {
		term, short := key.Terms(r.ID)
		if term != key.Term(r.ID) {
			t.Fatalf("two terms of one record")
		}
		want = want.Add(overlay.Tally{Count: 1, Sum: term})
		shorts = append(shorts, short)
	}
	tally, sk, all := l.At(settled, front)
	if tally != want {
		t.Fatalf("created before step %d, expiring from %d: %d records, want %d; or another sum", settled, front, tally.Count, want.Count)
	}
	ws := sketch.New(sketch.Key(key.CellKey()), sk.Len())
	ws.Add(shorts...)
	if !slices.Equal(sk.Cells(0, sk.Len()), ws.Cells(0, ws.Len())) {
		t.Fatalf("created before step %d, expiring from %d: not the sketch of the set", settled, front)
	}
	slices.Sort(all)
	slices.Sort(shorts)
	if !slices.Equal(all, shorts) {
		t.Fatalf("created before step %d, expiring from %d: %d records listed, want %d", settled, front, len(all), len(shorts))
	}
}

// TestLedger lets time pass while records come and go, late, early, short-lived
// and long, and holds every set that can be asked for against the definition.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var key overlay.ShortKey
		key[0] = byte(r.Uint32())
		now := uint64(1_780_000_000_000) + r.Uint64N(step)
		l := gossip.NewLedger(key, now)
		m := model{}
		for range rapid.IntRange(1, 25).Draw(t, "rounds") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				var stubs []overlay.RecordStub
				for range r.IntN(30) {
					age := r.Uint64N(200_000)
					life := []uint64{1_000, 15_000, 40_000, 300_000, 86_400_000}[r.IntN(5)]
					s := randomStub(r, now+30_000-age, life+r.Uint64N(life))
					if s.Expires/step < now/step+1 {
						continue // F has passed: no longer counted, nor to be uncounted
					}
					stubs = append(stubs, s)
					m[s] = true
				}
				l.Add(stubs...)
			case 2:
				for s := range m {
					if r.IntN(4) == 0 {
						if got := l.Remove(s); got != (s.Expires/step >= now/step+1) {
							t.Fatalf("removed: %v", got)
						}
						delete(m, s)
					}
				}
			case 3:
				now += r.Uint64N([]uint64{5_000, 11_000, 60_000, 500_000}[r.IntN(4)])
				if !l.Advance(now) {
					t.Fatalf("the clock went forward, and the ledger wants to be made anew")
				}
			}
			settled, front := now/step-1, now/step+1
			checkLedger(t, l, key, m, settled, front)
			checkLedger(t, l, key, m, settled-r.Uint64N(5), front+r.Uint64N(4))
		}
	})
}

func TestLedgerClockBack(t *testing.T) {
	const now = 1_780_000_000_000
	l := gossip.NewLedger(overlay.ShortKey{}, now)
	if !l.Advance(now-30_000) || l.Advance(now-600_000) {
		t.Error("half a minute back must do, ten must not")
	}
}

func TestLedgerFind(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var key overlay.ShortKey
	l := gossip.NewLedger(key, 1_780_000_000_000)
	var stubs []overlay.RecordStub
	for range 10_000 {
		stubs = append(stubs, randomStub(r, 1_779_999_900_000, 1_000_000+r.Uint64N(1_000_000)))
	}
	l.Add(stubs[:9000]...)
	var shorts []uint64
	for _, s := range stubs[8000:] {
		_, short := key.Terms(s.ID)
		shorts = append(shorts, short)
	}
	if n := l.Find(shorts...); n != 1000 {
		t.Errorf("%d of 1000 found", n)
	}
}

// BenchmarkLedger is a record's whole way: hashed, taken up as fresh, settled,
// and taken out at its expiry, with all sums and the sketch.
func BenchmarkLedger(b *testing.B) {
	for _, life := range []struct {
		name  string
		steps uint64
	}{{"an hour", 360}, {"three days", 3 * 8640}, {"thirty days", 30 * 8640}} {
		b.Run(life.name, func(b *testing.B) {
			const records, perStep, start = 1_000_000, 10_000, 1_780_000_000_000
			r := rand.New(rand.NewPCG(3, 4))
			stubs := make([]overlay.RecordStub, records)
			for i := range stubs {
				created := start + uint64(i/perStep)*step
				stubs[i] = randomStub(r, created, 2_000_000+r.Uint64N(life.steps*step))
			}
			var key overlay.ShortKey
			var before, after runtime.MemStats
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				used -= cpuTime()
				now := uint64(start)
				l := gossip.NewLedger(key, now)
				for part := range slices.Chunk(stubs, perStep) {
					for few := range slices.Chunk(part, 64) {
						l.Add(few...)
					}
					now += step
					l.Advance(now)
				}
				used += cpuTime()
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/records, "B/record")
				b.StartTimer()
				used -= cpuTime()
				for range 50 {
					now += life.steps*step/50 + 50_000
					l.Advance(now)
				}
				used += cpuTime()
				if tally, _, _ := l.At(now/step-1, now/step+1); tally.Count != 0 {
					b.Fatal(fmt.Sprint(tally.Count, " records left"))
				}
			}
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)/records, "cpu-ns/record")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
		})
	}
}
