package store_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// bench is the records of a benchmark: 700 bytes that do not compress, expiring
// within thirty days, most of them on the last.
type bench struct {
	seq uint64
	raw [700]byte
}

func (b *bench) id(seq uint64) overlay.RecordID {
	// Spread like a hash: an odd factor permutes the integers.
	var id overlay.RecordID
	for i := range 4 {
		binary.LittleEndian.PutUint64(id[8*i:], (seq+1)*(0x9e3779b97f4a7c15+2*uint64(i)))
	}
	return id
}

func (b *bench) day(seq uint64) overlay.Day {
	if seq%4 != 0 {
		return 20_030
	}
	return overlay.Day(20_000 + seq/4%30)
}

// fill makes a commit of n new records, each for one of boxes accounts (all of
// them if shared) and with its place in a log.
func (b *bench) fill(c *overlay.Commit, n, boxes int, shared bool) {
	c.Time = time.UnixMilli(1_800_000_000_000)
	c.Records = c.Records[:0]
	c.Logs = []overlay.LogAppend{{From: b.seq + 1}}
	for range n {
		rand.Read(b.raw[:])
		a := overlay.Arrival{
			ID: b.id(b.seq), Expires: uint64(b.day(b.seq)) * overlay.DayMillis, Raw: append([]byte(nil), b.raw[:]...),
			Dot: overlay.Dot{Seq: b.seq + 1}, Via: overlay.ViaSubmit,
		}
		if shared {
			for i := range boxes {
				a.Boxes = append(a.Boxes, benchBox(i))
			}
		} else {
			a.Boxes = []overlay.BoxID{benchBox(int(b.seq) % boxes)}
		}
		c.Records = append(c.Records, a)
		c.Logs[0].Entries = append(c.Logs[0].Entries, overlay.LogEntry{Expires: a.Expires, ID: a.ID})
		b.seq++
	}
}

func benchBox(i int) (box overlay.BoxID) {
	binary.LittleEndian.PutUint64(box[:], uint64(i+1)*0x9e3779b97f4a7c15)
	return box
}

func openBench(b *testing.B) *store.Pebble {
	p, err := store.OpenPebble(store.PebbleConfig{Dir: b.TempDir(), Memory: 128 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := openBench(b)
			var made bench
			c := &overlay.Commit{}
			for b.Loop() {
				b.StopTimer()
				made.fill(c, n, 10_000, false)
				b.StartTimer()
				if _, err := p.Commit(c); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// load commits total records by 1,024.
func load(b *testing.B, p *store.Pebble, total, boxes int, shared bool) *bench {
	made := &bench{}
	c := &overlay.Commit{}
	for made.seq < uint64(total) {
		made.fill(c, min(1024, total-int(made.seq)), boxes, shared)
		if _, err := p.Commit(c); err != nil {
			b.Fatal(err)
		}
	}
	return made
}

func BenchmarkHas(b *testing.B) {
	const total, page = 200_000, 256
	p := openBench(b)
	made := load(b, p, total, 10_000, false)
	for _, hit := range []bool{true, false} {
		for _, known := range []bool{true, false} {
			b.Run(fmt.Sprintf("hit=%v/day=%v", hit, known), func(b *testing.B) {
				refs := make([]overlay.Ref, page)
				n := uint64(0)
				for b.Loop() {
					for i := range refs {
						seq := n * 7919 % total
						n++
						refs[i] = overlay.Ref{ID: made.id(seq)}
						if known {
							refs[i].Day = made.day(seq)
						}
						if !hit {
							refs[i].ID = made.id(seq + total)
						}
					}
					v := p.View()
					if _, err := v.Has(refs); err != nil {
						b.Fatal(err)
					}
					v.Close()
				}
				b.ReportMetric(float64(b.N*page)/b.Elapsed().Seconds(), "ids/s")
			})
		}
	}
}

// BenchmarkBox reads boxes of 10,000 records by pages of 1,000: in the box that
// has the bytes, and in one that has to fetch them elsewhere.
func BenchmarkBox(b *testing.B) {
	const total, page = 100_000, 1000
	for _, c := range []struct {
		name   string
		boxes  int
		shared bool
		read   []int
	}{
		{"own bytes", 10, false, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"bytes elsewhere", 2, true, []int{1}},
	} {
		p := openBench(b)
		load(b, p, total, c.boxes, c.shared)
		for _, bodies := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/bodies=%v", c.name, bodies), func(b *testing.B) {
				read := 0
				var sum int
				for b.Loop() {
					for _, i := range c.read {
						for after, more := uint64(0), true; more; {
							v := p.View()
							n := 0
							if err := v.Box(benchBox(i), after, math.MaxUint64, 0, bodies, func(e overlay.BoxEntry) bool {
								n++
								after = e.Local
								sum += len(e.Raw)
								return n < page
							}); err != nil {
								b.Fatal(err)
							}
							v.Close()
							read += n
							more = n == page
						}
					}
				}
				b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

func BenchmarkRecords(b *testing.B) {
	const total = 200_000
	p := openBench(b)
	load(b, p, total, 10_000, false)
	n := 0
	for b.Loop() {
		v := p.View()
		if err := v.Records(0, func(overlay.Day, overlay.StoredRecord) bool { n++; return true }); err != nil {
			b.Fatal(err)
		}
		v.Close()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "ids/s")
}

func BenchmarkView(b *testing.B) {
	p := openBench(b)
	made := load(b, p, 50_000, 100, false)
	b.Run("open and close", func(b *testing.B) {
		for b.Loop() {
			p.View().Close()
		}
	})
	b.Run("get one", func(b *testing.B) {
		n := uint64(0)
		for b.Loop() {
			v := p.View()
			n++
			if err := v.Get([]overlay.Ref{{ID: made.id(n % 50_000), Day: made.day(n % 50_000)}}, func(int, overlay.StoredRecord) bool { return true }); err != nil {
				b.Fatal(err)
			}
			v.Close()
		}
	})
	b.Run("box with nothing new", func(b *testing.B) {
		for b.Loop() {
			v := p.View()
			if err := v.Box(benchBox(1), 49_000, math.MaxUint64, 0, true, func(overlay.BoxEntry) bool { return true }); err != nil {
				b.Fatal(err)
			}
			v.Close()
		}
	})
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			p.Stats()
		}
	})
}
