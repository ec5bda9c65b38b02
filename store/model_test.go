package store_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/storetest"
	"github.com/obelisk-network/obelisk/store"
)

// dump writes out everything a view shows. Pebble and Memory share no code
// below the contract, so equal dumps mean that both are right.
func dump(t interface{ Fatal(...any) }, v overlay.View, ids int) string {
	var b bytes.Buffer
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(&b, "last", v.LastLocal())
	check(v.Records(0, func(day overlay.Day, r overlay.StoredRecord) bool {
		fmt.Fprintln(&b, "record", day, r.ID, r.Local, r.Created, r.Expires, r.Received, r.Via, r.Dots, r.Raw)
		return true
	}))
	var refs []overlay.Ref
	for n := range ids {
		refs = append(refs, overlay.Ref{ID: storetest.RecordID(n)}, overlay.Ref{ID: storetest.RecordID(n), Day: storetest.FirstDay + 1})
	}
	check(v.Get(refs, func(i int, r overlay.StoredRecord) bool {
		fmt.Fprintln(&b, "get", i, r.ID, r.Local, r.Created, r.Expires, r.Received, r.Via, r.Dots, r.Raw)
		return true
	}))
	has, err := v.Has(refs)
	check(err)
	fmt.Fprintln(&b, "has", has)
	for i := range 4 {
		for _, min := range []overlay.Day{0, storetest.FirstDay + 2} {
			for _, bodies := range []bool{true, false} {
				fmt.Fprintln(&b, "box", i, min, bodies)
				check(v.Box(storetest.Box(i), 2, math.MaxUint64, min, bodies, func(e overlay.BoxEntry) bool {
					fmt.Fprintln(&b, e.Local, e.ID, e.Created, e.Expires, e.Dot, e.Raw)
					return true
				}))
			}
		}
		fmt.Fprintln(&b, "log", i)
		check(v.Log(storetest.Log(i), 2, func(seq uint64, e overlay.LogEntry) bool {
			fmt.Fprintln(&b, seq, e.Expires, e.ID, e.Why)
			return true
		}))
	}
	check(v.Values("", func(key string, data []byte) bool {
		fmt.Fprintf(&b, "value %q %q\n", key, data)
		return true
	}))
	return b.String()
}

// TestModel does the same random things to both stores and compares everything
// that can be seen, in the newest state and in older views.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const ids = 30
		dir, fs := "store", vfs.NewMem()
		open := func() *store.Pebble {
			p, err := store.OpenPebble(store.PebbleConfig{Dir: dir, FS: fs, Memory: small})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p, m := open(), store.NewMemory()
		defer func() { p.Close() }()
		var views [][2]overlay.View
		compare := func(pv, mv overlay.View) {
			if got, want := dump(t, pv, ids), dump(t, mv, ids); got != want {
				t.Fatalf("pebble shows\n%s\nmemory shows\n%s", got, want)
			}
		}
		number := rapid.IntRange(0, 3)
		drawCommit := func(t *rapid.T) *overlay.Commit {
			c := &overlay.Commit{Time: time.UnixMilli(rapid.Int64Range(-1, 1<<40).Draw(t, "time"))}
			for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, ids-1), 0, 8, rapid.ID).Draw(t, "records") {
				var boxes []overlay.BoxID
				for _, i := range rapid.SliceOfN(number, 0, 4).Draw(t, "boxes") {
					boxes = append(boxes, storetest.Box(i))
				}
				a := storetest.Arrival(n, n%5, n, boxes...) // the day follows from the ID, as in life
				a.Dot = overlay.Dot{}
				if rapid.Bool().Draw(t, "in a log") {
					a.Dot = overlay.Dot{Log: storetest.Log(number.Draw(t, "log")), Seq: rapid.Uint64Range(1, 9).Draw(t, "seq")}
				}
				a.Via = overlay.Via(number.Draw(t, "via") + 1)
				c.Records = append(c.Records, a)
			}
			for _, i := range rapid.SliceOfN(number, 0, 2).Draw(t, "logs") {
				c.Logs = append(c.Logs, overlay.LogAppend{
					Log: storetest.Log(i), From: rapid.Uint64Range(0, 9).Draw(t, "from"),
					Entries: make([]overlay.LogEntry, number.Draw(t, "entries")),
				})
				for j := range c.Logs[len(c.Logs)-1].Entries {
					c.Logs[len(c.Logs)-1].Entries[j] = overlay.LogEntry{Expires: uint64(i), Why: overlay.Why(number.Draw(t, "why"))}
				}
			}
			if rapid.IntRange(0, 4).Draw(t, "drop a log") == 0 {
				c.DropLog = append(c.DropLog, storetest.Log(number.Draw(t, "log")))
			}
			if rapid.IntRange(0, 3).Draw(t, "cut a log") == 0 {
				from := rapid.Uint64Range(0, 9).Draw(t, "cut from")
				c.CutLog = append(c.CutLog, overlay.LogCut{Log: storetest.Log(number.Draw(t, "log")), From: from, To: from + rapid.Uint64Range(0, 4).Draw(t, "cut")})
			}
			for _, n := range rapid.SliceOfN(rapid.IntRange(0, ids-1), 0, 2).Draw(t, "forget") {
				f := overlay.Forgotten{ID: storetest.RecordID(n), Day: storetest.FirstDay + overlay.Day(n%5)}
				if v := m.View(); rapid.IntRange(0, 3).Draw(t, "stale") > 0 {
					locals, err := v.Parts().Locals([]overlay.Ref{{ID: f.ID, Day: f.Day}})
					if err != nil {
						t.Fatal(err)
					}
					f.Local = locals[0]
				}
				for i := range 4 {
					f.Boxes = append(f.Boxes, storetest.Box(i))
				}
				c.Forget = append(c.Forget, f)
			}
			for _, k := range rapid.SliceOfN(number, 0, 3).Draw(t, "values") {
				v := overlay.Value{Key: []string{"", "a", "a\xff", "\xff"}[k]}
				if rapid.Bool().Draw(t, "set") {
					v.Data = rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "data")
				}
				c.Values = append(c.Values, v)
			}
			return c
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				c := drawCommit(t)
				got, err := p.Commit(c)
				if err != nil {
					t.Fatal(err)
				}
				want, err := m.Commit(c)
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("pebble says %v, memory %v", got, want)
				}
			},
			"drop": func(t *rapid.T) {
				before := storetest.FirstDay + overlay.Day(rapid.IntRange(0, 5).Draw(t, "before"))
				if err := p.Drop(before); err != nil {
					t.Fatal(err)
				}
				if err := m.Drop(before); err != nil {
					t.Fatal(err)
				}
			},
			"view": func(t *rapid.T) {
				if len(views) < 4 {
					views = append(views, [2]overlay.View{p.View(), m.View()})
				}
			},
			"close view": func(t *rapid.T) {
				if len(views) > 0 {
					compare(views[0][0], views[0][1])
					views[0][0].Close()
					views[0][1].Close()
					views = views[1:]
				}
			},
			"reopen": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "really") != 0 {
					return
				}
				for _, v := range views {
					v[0].Close()
				}
				views = nil
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
				p = open()
			},
			"": func(t *rapid.T) {
				pv, mv := p.View(), m.View()
				compare(pv, mv)
				pv.Close()
				mv.Close()
				if ps, ms := p.Stats(), m.Stats(); ps.Records != ms.Records || ps.LastLocal != ms.LastLocal {
					t.Fatalf("pebble's stats %+v, memory's %+v", ps, ms)
				}
			},
		})
	})
}
