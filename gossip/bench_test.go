package gossip_test

import (
	"context"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// trio is three connected pillars in real time whose disks check nothing.
func trio(b *testing.B) [3]*pillar {
	w := newWorld(b)
	var all [3]*pillar
	for i := range all {
		all[i] = w.pillar()
		all[i].disk.Trusting = true
		all[i].start(all[:min(i, 1)]...)
	}
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	end := all[0].submit(1)
	if err := all[0].disk.Wait(ctx, func() bool { return copies(all[0], end) == 2 }); err != nil {
		b.Fatal(err)
	}
	return all
}

// copies is at how many other pillars a position is durable.
func copies(p *pillar, end overlay.Position) (n int) {
	for _, d := range p.disk.Durable(end.Log) {
		if d.To >= end.Seq {
			n = max(n, d.Copies)
		}
	}
	return n
}

// BenchmarkAck is one message in flight: commit at one pillar to ack of
// another.
func BenchmarkAck(b *testing.B) {
	all := trio(b)
	raws := all[0].w.author.Messages(b, b.N)
	b.ResetTimer()
	for _, raw := range raws {
		end := all[0].disk.Submit(raw)
		if err := all[0].disk.Wait(b.Context(), func() bool { return copies(all[0], end) >= 1 }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStream is commits of 64 messages of 512 bytes, until they are
// durable at both others; one op is one message.
func BenchmarkStream(b *testing.B) {
	all := trio(b)
	raws := make([][]byte, 2048)
	for i := range raws {
		raws[i] = all[0].w.author.Message(b, 512, time.Hour)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var end overlay.Position
	for n := 0; n < b.N; n += 64 {
		at := n % len(raws)
		end = all[0].disk.Submit(raws[at : at+64]...)
	}
	if err := all[0].disk.Wait(b.Context(), func() bool { return copies(all[0], end) == 2 }); err != nil {
		b.Fatal(err)
	}
}
