package gossip_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/overlay"
)

// crowd is a disk with many records that are IDs only, beside those of a
// Memory: enough for what rounds compare, and nothing that they may exchange.
type crowd struct {
	*replicatest.Memory
	ids              []overlay.RecordID // ascending
	created, expires uint64
}

func newCrowd(n int) crowd {
	now := uint64(time.Now().UnixMilli())
	c := crowd{created: now - 3_600_000, expires: now + 40*3_600_000}
	for i := range n {
		c.ids = append(c.ids, sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))))
	}
	slices.SortFunc(c.ids, func(a, b overlay.RecordID) int { return bytes.Compare(a[:], b[:]) })
	return c
}

// expiry spreads expiries over two days.
func (c *crowd) expiry(id *overlay.RecordID) uint64 {
	return c.expires + uint64(binary.BigEndian.Uint16(id[20:]))*2000
}

func (c *crowd) Each(from uint64, fn func(id overlay.RecordID, created, expires uint64) bool) error {
	for i := range c.ids {
		if !fn(c.ids[i], c.created, c.expiry(&c.ids[i])) {
			return nil
		}
	}
	return c.Memory.Each(from, fn)
}

func (c *crowd) Near(day overlay.Day, prefix []byte, fn func(r overlay.StoredRecord) bool) error {
	i, _ := slices.BinarySearchFunc(c.ids, prefix, func(id overlay.RecordID, p []byte) int { return bytes.Compare(id[:], p) })
	for ; i < len(c.ids) && bytes.HasPrefix(c.ids[i][:], prefix); i++ {
		if r := (overlay.StoredRecord{ID: c.ids[i], Created: c.created, Expires: c.expiry(&c.ids[i])}); overlay.DayOf(r.Expires) == day && !fn(r) {
			return nil
		}
	}
	return c.Memory.Near(day, prefix, fn)
}

// BenchmarkRound is a round of two pillars that hold a million records, of which
// the one that begins it lacks some that no log explains: until it has them.
func BenchmarkRound(b *testing.B) {
	common := newCrowd(1_000_000)
	w := newWorld(b)
	const most = 30_000
	extra := w.old(most)
	var all [2]*pillar
	for i := range all {
		p := w.quiet().keep(extra)
		c := common
		c.Memory = p.disk
		p.records = &c
		all[i] = p.start(all[:i]...)
	}
	here, there := all[0], all[1]
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if r, err := here.mesh.Round(b.Context(), there.key.ID()); err == nil && r.Result == overlay.RoundEqual {
			break
		} else if time.Now().After(end) {
			b.Fatal(r, err)
		}
	}
	for _, n := range []int{0, 1, 1000, most} {
		b.Run(fmt.Sprint(n, "_missing"), func(b *testing.B) {
			var bytes, trips uint64
			pause := time.Second // no more rounds than are allowed
			for b.Loop() {
				b.StopTimer()
				time.Sleep(pause)
				if n == most {
					pause = 46 * time.Second // or deep rounds
				}
				var ids []overlay.RecordID
				for _, r := range extra[:n] {
					ids = append(ids, r.ID)
				}
				here.disk.Lose(ids...)
				b.StartTimer()
				r, err := here.mesh.Round(b.Context(), there.key.ID())
				if err != nil || r.Fetched != n {
					b.Fatalf("%+v, %v", r, err)
				}
				bytes, trips = r.BytesSent+r.BytesReceived, uint64(r.RoundTrips)
			}
			b.ReportMetric(float64(bytes), "overhead-B")
			b.ReportMetric(float64(trips), "trips")
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/round")
		})
	}
}

var _ gossip.Records = (*crowd)(nil)
