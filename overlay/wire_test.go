package overlay_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

const wireFile = "testdata/wire.json"

type wireVector struct {
	Name  string `json:"name"`
	Frame string `json:"frame"` // hex, with its length
}

func fill[T ~[16]byte | ~[32]byte](b byte) (v T) {
	p := reflect.ValueOf(&v).Elem()
	for i := range p.Len() {
		p.Index(i).SetUint(uint64(b) + uint64(i))
	}
	return v
}

// sampleMessages has every message with every field set to something that can
// be told apart.
func sampleMessages(t testing.TB) map[string]overlay.Message {
	t.Helper()
	w := &vectorWriter{netKey: seedKey("network"), account: seedKey("account"), device: seedKey("device"), other: seedKey("other")}
	copy(w.network[:], w.netKey.Public().(ed25519.PublicKey))
	account := identity.AccountID(edID(w.account))
	other := identity.AccountID(edID(w.other))
	pillar := identity.PillarID(edID(w.other))
	raw := w.sign(w.device, w.payload(w.message()))
	dot := overlay.Dot{Log: fill[overlay.LogID](0x10), Seq: 300}
	vector := overlay.Vector{{Log: fill[overlay.LogID](1), Seq: 1, Hash: fill[overlay.Hash](2)}, {Log: fill[overlay.LogID](9), Seq: 70_000, Hash: fill[overlay.Hash](3)}}
	refusal := &overlay.Error{Code: overlay.CodeQuota, Text: "too many", Retry: 1500 * time.Millisecond}
	ids := []overlay.RecordID{fill[overlay.RecordID](1), fill[overlay.RecordID](2)}
	head := &overlay.Head{Pillar: pillar, Nonce: fill[[16]byte](5), Seq: 7, Hash: fill[overlay.Hash](6), BaseSeq: 2,
		BaseHash: fill[overlay.Hash](7), Dies: vectorCreated, Sig: bytes.Repeat([]byte{8}, 64)}
	summary := overlay.Summary{Pillar: pillar, Head: vector[0], Vector: fill[overlay.Hash](1), Settled: 5, Front: 6, Count: 7,
		Digest: overlay.Sum{Hi: 1 << 60, Lo: 2}, Key: fill[overlay.Hash](4), At: vectorCreated, Full: true, Sig: bytes.Repeat([]byte{9}, 64)}
	samples := map[string]overlay.Message{
		"hello of a pillar": &overlay.Hello{Role: overlay.RolePillar, Formats: 1, Network: w.network, Time: vectorCreated, Credential: raw, ShortKey: bytes.Repeat([]byte{1}, 32)},
		"hello of a node":   &overlay.Hello{Role: overlay.RoleNode, Formats: 1, Network: w.network, Time: vectorCreated, Account: account, Credential: []byte("certificate"), ShortKey: []byte{}},
		"vector":            &overlay.VectorMsg{Full: true, Positions: vector, Islands: []overlay.Span{{Log: fill[overlay.LogID](1), From: 4, To: 9}}},
		"follow":            &overlay.Follow{Log: dot.Log, From: 301, Before: fill[overlay.Hash](5), To: 0},
		"batch": &overlay.Batch{Log: dot.Log, From: 1, Head: head, Entries: []overlay.BatchEntry{{Raw: raw},
			{Expires: vectorCreated, ID: ids[0], Why: overlay.WhyExpired},
			{Expires: vectorCreated, ID: ids[0], Why: overlay.WhyGone, Count: 70_000},
			{Expires: vectorCreated, ID: ids[1], Why: overlay.WhyVoid, Void: []byte("offending bytes")}}},
		"batch without a head": &overlay.Batch{Log: dot.Log, From: 9, Entries: []overlay.BatchEntry{}},
		"probe":                &overlay.Probe{What: overlay.ProbeReach},
		"probe for somebody":   &overlay.Probe{What: overlay.ProbeFor, Addr: multiaddr.StringCast("/ip4/203.0.113.9/udp/4001/quic-v1")},
		"probed":               &overlay.Probed{What: overlay.ProbeReach, Addr: multiaddr.StringCast("/ip4/203.0.113.9/udp/4001/quic-v1"), Outcome: overlay.ProbeUnreached},
		"probe of another":     &overlay.Probe{What: overlay.ProbeOther, Except: []identity.PillarID{pillar}},
		"probed by another":    &overlay.Probed{What: overlay.ProbeOther, Addr: multiaddr.StringCast("/ip4/203.0.113.9/udp/4001/quic-v1"), Outcome: overlay.ProbeReached, By: pillar},
		"probe refused":        &overlay.Probed{What: overlay.ProbeFor, Err: refusal},
		"ack":                  &overlay.Ack{Log: dot.Log, Seq: 1 << 40},
		"elsewhere":            &overlay.Elsewhere{Peer: pillar},
		"forked": &overlay.Forked{Head: head, Other: head, Before: fill[overlay.Hash](1),
			Links: []overlay.LogEntry{{Expires: vectorCreated, ID: ids[0]}, {Expires: vectorCreated, ID: ids[1]}}},
		"forked, in answer to a follow": &overlay.Forked{Other: head, Before: fill[overlay.Hash](1), Links: []overlay.LogEntry{}},
		"get":                           &overlay.Get{N: 1, IDs: ids},
		"got":                           &overlay.Got{N: 1, Records: [][]byte{raw, raw}, Next: 2},
		"has":                           &overlay.Has{N: 2, IDs: ids},
		"held":                          &overlay.Held{N: 2, Bits: []byte{0x80}},
		"summary asked":                 &overlay.SummaryMsg{},
		"root":                          &overlay.Root{N: 5, Settled: 178_000_000, Front: 178_000_002, Tally: overlay.Tally{Count: 1_000_000, Sum: overlay.Sum{Hi: 3, Lo: 4}}, Key: [8]byte{1, 2}, Spot: &overlay.Spot{Day: 20_000, Bits: 8, Seed: [8]byte{3}, Digest: [8]byte{4}}},
		"root without a spot":           &overlay.Root{N: 5, Answer: true, Settled: 178_000_000, Front: 178_000_002, Key: [8]byte{1, 2}},
		"cells asked for":               &overlay.Cells{N: 5, Runs: []overlay.CellRun{{From: 24, Count: 100, Cells: []byte{}}}},
		"cells":                         &overlay.Cells{N: 5, Answer: true, Runs: []overlay.CellRun{{Part: 7, From: 24, Count: 1000, Cells: bytes.Repeat([]byte{5}, 26)}}},
		"buckets":                       &overlay.Buckets{N: 5, Settled: 178_000_000, Front: 178_000_002, Seed: fill[[16]byte](1), Whole: true, Bits: 2, Parts: []overlay.AuditPart{{Index: 0, Count: 9, Digest: 1}, {Index: 3, Count: 1, Digest: 1 << 63}}},
		"ids asked for":                 &overlay.IDs{N: 5, Parts: []uint64{3, 9}, Items: []byte{}, Shorts: []uint64{1 << 60, 2}, Records: [][]byte{raw}},
		"ids":                           &overlay.IDs{N: 5, Answer: true, Items: bytes.Repeat([]byte{6}, 32), Shorts: []uint64{2}, Records: [][]byte{raw}, Next: 2},
		"summary":                       &overlay.SummaryMsg{Summaries: []overlay.Summary{summary}},
		"register":                      &overlay.Register{Account: raw, Device: raw},
		"registered":                    &overlay.Registered{Roster: [][]byte{raw}, Run: 5, Place: 6, MaxBody: 65536},
		"registered refused":            &overlay.Registered{Err: refusal},
		"submit":                        &overlay.Submit{First: 128, Concern: 2, Records: [][]byte{raw}},
		"result":                        &overlay.Result{Lines: []overlay.ResultLine{{N: 128, Dot: dot, Copies: 2}, {N: 129, Err: refusal}}},
		"watermark":                     &overlay.Watermark{Log: dot.Log, From: 1, To: 300, Copies: 3},
		"resume":                        &overlay.Resume{Box: overlay.BoxDirectory, Cursor: vector, Live: true},
		"page":                          &overlay.Page{Box: overlay.BoxMail, To: 99, Last: true, Records: [][]byte{raw}},
		"cursor":                        &overlay.CursorMsg{Box: overlay.BoxMail, Cursor: vector},
		"push":                          &overlay.Push{To: 100, Records: [][]byte{raw}},
		"saved":                         &overlay.Saved{Box: overlay.BoxMail, To: 100},
		"check":                         &overlay.Check{N: 3, Key: fill[overlay.ShortKey](1), Before: 10, Front: 20, Days: []overlay.DayTally{{Day: 20_000, Tally: overlay.Tally{Count: 3, Sum: overlay.Sum{Hi: 1, Lo: 2}}}}},
		"checked":                       &overlay.Checked{N: 3, More: true, Days: []overlay.Day{20_000}, IDs: ids},
		"find":                          &overlay.Find{N: 4, Watch: true, Accounts: []identity.AccountID{account, other}, IDs: ids, OnlyHeld: true},
		"found":                         &overlay.Found{N: 4, More: true, Err: refusal, Records: [][]byte{raw}, Held: []byte{0x40}},
		"roster":                        &overlay.RosterMsg{Records: [][]byte{raw}},
		"busy":                          &overlay.Busy{Err: refusal},
		"deliver":                       &overlay.Deliver{First: 70_000, Records: [][]byte{raw, raw}},
		"delivered":                     &overlay.Delivered{Lines: []overlay.DeliveredLine{{N: 70_000}, {N: 70_001, Err: refusal}}},
		"near":                          &overlay.Near{Public: []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")}, Near: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/192.168.1.7/udp/4001/quic-v1")}},
		"near of nobody near":           &overlay.Near{Public: []netip.Addr{netip.MustParseAddr("203.0.113.7")}},
		"nudge":                         &overlay.Nudge{},
	}
	maps.Copy(samples, inspectSamples(ids, dot, pillar, refusal))
	maps.Copy(samples, w.locateMessages(account, other, pillar, refusal))
	return samples
}

// TestWireVectors reads the published frames and encodes them again to the same
// bytes.
func TestWireVectors(t *testing.T) {
	msgs := sampleMessages(t)
	if *update {
		writeWireVectors(t, msgs)
	}
	data, err := os.ReadFile(wireFile)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []wireVector
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != len(msgs) {
		t.Fatalf("%d vectors for %d messages", len(vectors), len(msgs))
	}
	for _, v := range vectors {
		frame, err := hex.DecodeString(v.Frame)
		if err != nil {
			t.Fatal(err)
		}
		if want := overlay.AppendFrame(nil, msgs[v.Name]); !bytes.Equal(frame, want) {
			t.Errorf("%s encodes to\n%x, want\n%x", v.Name, want, frame)
		}
		r := overlay.NewFrameReader(bytes.NewReader(frame))
		r.Accept()
		m, err := r.Next()
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if again := overlay.AppendFrame(nil, m); !bytes.Equal(again, frame) {
			t.Errorf("%s decodes to something else: %+v", v.Name, m)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: after the frame: %v", v.Name, err)
		}
	}
}

func writeWireVectors(t *testing.T, msgs map[string]overlay.Message) {
	var vectors []wireVector
	for name, m := range msgs {
		vectors = append(vectors, wireVector{name, hex.EncodeToString(overlay.AppendFrame(nil, m))})
	}
	slices.SortFunc(vectors, func(a, b wireVector) int { return strings.Compare(a.Name, b.Name) })
	out, err := json.MarshalIndent(vectors, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wireFile, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFramesCut cuts every frame everywhere: an error each time, and io.EOF
// only where nothing was lost.
func TestFramesCut(t *testing.T) {
	for name, m := range sampleMessages(t) {
		frame := overlay.AppendFrame(nil, m)
		for n := range frame {
			r := overlay.NewFrameReader(bytes.NewReader(frame[:n]))
			r.Accept()
			_, err := r.Next()
			if err == nil || (err == io.EOF) != (n == 0) {
				t.Fatalf("%s cut at %d of %d: %v", name, n, len(frame), err)
			}
		}
	}
}

// TestFrameBounds holds the reader against frames that announce too much.
func TestFrameBounds(t *testing.T) {
	announce := func(n uint32) io.Reader {
		return io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, n)), strings.NewReader("x"))
	}
	cases := []struct {
		name     string
		n        uint32
		accepted bool
	}{
		{"nothing", 0, true}, {"over the limit", overlay.MaxFrame + 1, true}, {"four gigabytes", 1<<32 - 1, true},
		{"over the limit before the hello", overlay.MaxHelloFrame + 1, false},
	}
	for _, c := range cases {
		r := overlay.NewFrameReader(announce(c.n))
		if c.accepted {
			r.Accept()
		}
		if _, err := r.Next(); !errors.Is(err, overlay.ErrFrame) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := overlay.NewFrameReader(announce(overlay.MaxFrame))
	r.Accept()
	r.Next()
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > overlay.MaxFrame/2 {
		t.Errorf("%d bytes allocated for a frame of which one byte came", grown)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range sampleMessages(f) {
		f.Add(overlay.EncodeMessage(m))
	}
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Add(bytes.Repeat([]byte{0x91}, 1000))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := overlay.DecodeMessage(b)
		if err != nil {
			return
		}
		if again := overlay.EncodeMessage(m); !bytes.Equal(again, b) {
			t.Fatalf("%T has two encodings: %x and %x", m, b, again)
		}
	})
}
