//go:build unix

package overlay_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// A template is a signed record whose accounts and times are replaced: a store
// and what only takes records apart check no signature.
type template struct {
	raw              []byte
	author, to       identity.AccountID
	created, expires uint64
}

func newTemplate(d *testDevice, kind overlay.Kind, to identity.AccountID) *template {
	now := millis(time.Now())
	t := &template{author: d.id(), to: to, created: now, expires: now + overlay.DayMillis}
	t.raw = d.sign(kind, []identity.AccountID{to}, make([]byte, 300), func(r *overlay.Draft) { r.Created, r.Expires = t.created, t.expires })
	return t
}

func (t *template) arrival(id uint64, author, to identity.AccountID, created, expires uint64) overlay.Arrival {
	raw := bytes.Replace(t.raw, []byte(t.author), []byte(author), 1)
	raw = bytes.Replace(raw, []byte(t.to), []byte(to), 1)
	u64 := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
	raw = bytes.Replace(bytes.Replace(raw, u64(t.created), u64(created), 1), u64(t.expires), u64(expires), 1)
	a := overlay.Arrival{Created: created, Expires: expires, Raw: raw, Boxes: []overlay.BoxID{overlay.Mailbox(to)}, Via: overlay.ViaFollow}
	binary.LittleEndian.PutUint64(a.ID[:], id*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(a.ID[8:], id)
	return a
}

// BenchmarkExpiring is a pass of the look over a million records on disk: messages
// of three days' life, sent over three days among 20,000 accounts, nine of ten
// confirmed.
func BenchmarkExpiring(b *testing.B) {
	disk, err := store.OpenPebble(store.PebbleConfig{Dir: b.TempDir(), Memory: 128 << 20})
	if err != nil {
		b.Fatal(err)
	}
	rig := newPillarRig(b, nil, func(c *overlay.PillarConfig) { c.Store = disk })
	b.Cleanup(func() {
		rig.stop()
		disk.Close()
	})
	const total, accounts, hour = 1_000_000, 20_000, overlay.DayMillis / 24
	alice, bob := rig.device(nil), rig.device(nil)
	message, receipt := newTemplate(alice, overlay.KindMessage, bob.id()), newTemplate(alice, overlay.KindReceipt, bob.id())
	people := make([]identity.AccountID, accounts)
	for i := range people {
		id := []byte(alice.id())
		for j := 6; j < len(id); j++ {
			id[j] = byte(rand.Uint32())
		}
		people[i] = identity.AccountID(id)
	}
	now := millis(time.Now())
	for n := uint64(0); n < total; {
		c := &overlay.Commit{Time: time.Now()}
		for range 2048 {
			from, to := people[rand.IntN(accounts)], people[rand.IntN(accounts)]
			at := now - 72*hour + n*71*hour/total
			c.Records = append(c.Records, message.arrival(n, from, to, at, at+72*hour))
			n++
			if rand.IntN(10) != 0 {
				c.Records = append(c.Records, receipt.arrival(n, to, from, at+1000, at+96*hour))
				n++
			}
		}
		if _, err := disk.Commit(c); err != nil {
			b.Fatal(err)
		}
	}
	looks := 0
	runtime.GC()
	before := cpuTime()
	for b.Loop() {
		n, err := overlay.LookForExpiring(b.Context(), rig.pillar, overlay.Look{Hurry: true})
		if err != nil {
			b.Fatal(err)
		}
		looks += n
	}
	used := cpuTime() - before
	e := rig.pillar.Status().Expiring
	b.ReportMetric(float64(e.Messages), "messages")
	b.ReportMetric(float64(looks)/float64(b.N), "looks/pass")
	b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/pass")
	b.ReportMetric(float64(used.Microseconds())/1000/float64(looks), "cpu-ms/look")
}

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
