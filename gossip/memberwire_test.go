package gossip_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/identity"
)

// tap is a memberlist.NodeAwareTransport that keeps what memberlist says.
type tap struct {
	packets chan *memberlist.Packet
	streams chan net.Conn

	mu    sync.Mutex
	said  [][]byte            // packets
	asks  []gossip.MemberWord // requests for pings, of all time
	dials chan net.Conn       // the other ends of dialled streams
}

func (*tap) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.ParseIP("fd00::1"), 1, nil
}
func (*tap) WriteTo([]byte, string) (time.Time, error)           { return time.Time{}, errors.New("no name") }
func (*tap) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errors.New("no name") }
func (t *tap) PacketCh() <-chan *memberlist.Packet               { return t.packets }
func (t *tap) StreamCh() <-chan net.Conn                         { return t.streams }
func (*tap) Shutdown() error                                     { return nil }

func (t *tap) WriteToAddress(b []byte, _ memberlist.Address) (time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said = append(t.said, bytes.Clone(b))
	return time.Now(), nil
}

func (t *tap) DialAddressTimeout(memberlist.Address, time.Duration) (net.Conn, error) {
	ours, theirs := net.Pipe()
	t.dials <- theirs
	return ours, nil
}

func (t *tap) hear(words ...gossip.MemberWord) {
	t.packets <- &memberlist.Packet{Buf: gossip.MemberPacket(words...), From: &net.UDPAddr{IP: net.ParseIP("fd00::2"), Port: 1}, Timestamp: time.Now()}
}

// words returns what was said since the last call, by type.
func (t *tap) words(test *testing.T) map[byte][]gossip.MemberWord {
	test.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	by := map[byte][]gossip.MemberWord{}
	for _, b := range t.said {
		words, why := gossip.ReadMemberPacket(b)
		if why != "" {
			test.Fatalf("memberlist's own packet %x: %s", b, why)
		}
		if again, why := gossip.ReadMemberPacket(gossip.MemberPacket(words...)); why != "" || !reflect.DeepEqual(again, words) {
			test.Fatalf("written back, %+v is %+v, %s", words, again, why)
		}
		for _, w := range words {
			by[w.Kind] = append(by[w.Kind], w)
		}
	}
	t.said, t.asks = nil, append(t.asks, by[gossip.WordPingFor]...)
	return by
}

// memberName is a name that a member may have.
func memberName(run string) string { return identity.NewPillarKey().ID().String() + "." + run }

// What the real memberlist says is read, and it understands what is written
// here, message by message.
func TestMemberlistSpeaksThis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net1 := &tap{packets: make(chan *memberlist.Packet, 16), streams: make(chan net.Conn), dials: make(chan net.Conn, 16)}
		self, b, c := memberName("1"), memberName("2"), memberName("3")
		cfg := memberlist.DefaultLANConfig()
		cfg.Name, cfg.Transport, cfg.EnableCompression, cfg.RequireNodeNames = self, net1, false, true
		cfg.DisableTcpPings = true
		cfg.LogOutput, cfg.Logger = nil, log.New(io.Discard, "", 0)
		list, err := memberlist.Create(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			list.Shutdown()
			time.Sleep(time.Minute) // probes end by themselves
		}()
		meta := bytes.Repeat([]byte("meta"), 26)
		net1.hear(gossip.MemberWord{Kind: gossip.WordAlive, Node: b, Incarnation: 300, Meta: meta},
			gossip.MemberWord{Kind: gossip.WordAlive, Node: c, Incarnation: 1 << 30, Meta: meta})
		synctest.Wait()
		if n := list.NumMembers(); n != 3 {
			t.Fatalf("%d members, want 3", n)
		}
		for _, n := range list.Members() {
			if n.Name != self && (!bytes.Equal(n.Meta, meta) || !n.Addr.Equal(gossip.MemberAddr(pillarOf(t, n.Name))) || n.Port != 1 || n.PMax != 5 || n.PCur != 2) {
				t.Errorf("member %+v", n)
			}
		}

		net1.hear(gossip.MemberWord{Kind: gossip.WordPing, Seq: 70_000, Node: self, From: b})
		synctest.Wait()
		if acks := net1.words(t)[gossip.WordAck]; len(acks) != 1 || acks[0].Seq != 70_000 {
			t.Errorf("acks %+v", acks)
		}
		net1.hear(gossip.MemberWord{Kind: gossip.WordPingFor, Seq: 9, Node: c, From: b, Nack: true})
		time.Sleep(cfg.ProbeTimeout * 2)
		said := net1.words(t)
		asked := false
		for _, p := range said[gossip.WordPing] {
			asked = asked || p.Node == c && p.From == self
		}
		if nacks := said[gossip.WordNack]; !asked || len(nacks) != 1 || nacks[0].Seq != 9 {
			t.Errorf("pings %+v, nacks %+v", said[gossip.WordPing], nacks)
		}

		net1.hear(gossip.MemberWord{Kind: gossip.WordSuspect, Node: self, Incarnation: 1, From: b})
		time.Sleep(time.Second)
		refuted := net1.words(t)[gossip.WordAlive]
		if len(refuted) == 0 || refuted[0].Node != self || refuted[0].Incarnation != 2 {
			t.Errorf("refutation %+v", refuted)
		}

		// Nobody answers: both are suspected, the other asked, and then dead.
		time.Sleep(time.Minute)
		said = net1.words(t)
		for what, words := range map[string][]gossip.MemberWord{"suspicions": said[gossip.WordSuspect], "deaths": said[gossip.WordDead]} {
			for _, w := range words {
				if w.From != self || w.Node == b && w.Incarnation != 300 || w.Node == c && w.Incarnation != 1<<30 {
					t.Errorf("%s: %+v", what, w)
				}
			}
			if len(words) == 0 {
				t.Errorf("no %s", what)
			}
		}
		for _, w := range net1.asks {
			if w.From != self || !w.Nack {
				t.Errorf("ping request %+v", w)
			}
		}
		if len(net1.asks) == 0 {
			t.Error("no ping requests")
		}

		// Push/pull, both ways.
		joined := make(chan error)
		go func() {
			_, err := list.Join([]string{b + "/[fd00::2]:1"})
			joined <- err
		}()
		theirs := <-net1.dials
		words, _, err := gossip.ReadMemberPush(theirs)
		if err != nil || len(words) == 0 {
			t.Fatalf("state %+v, %v", words, err)
		}
		for _, w := range words {
			if w.Node == self && (w.State != 0 || w.Incarnation < 2) || w.Node == b && w.State != 2 {
				t.Errorf("state %+v", w)
			}
		}
		theirs.Write(gossip.MemberPush(nil, gossip.MemberWord{Node: b, Incarnation: 301, Meta: meta}))
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
		if n := list.NumMembers(); n != 2 {
			t.Errorf("%d members after the push/pull, want 2", n)
		}
		net1.hear(gossip.MemberWord{Kind: gossip.WordDead, Node: b, Incarnation: 301, From: b})
		synctest.Wait()
		if n := list.NumMembers(); n != 1 {
			t.Errorf("%d members after the leave, want 1", n)
		}
	})
}

func pillarOf(t *testing.T, name string) identity.PillarID {
	t.Helper()
	id, _, _ := strings.Cut(name, ".")
	p, err := identity.ParsePillar(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// checksummed adds memberlist's checksum.
func checksummed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{gossip.WordChecksum}, crc32.ChecksumIEEE(b)), b...)
}

func TestHostileMemberPackets(t *testing.T) {
	name := memberName("1")
	good := gossip.MemberWord{Kind: gossip.WordSuspect, Node: name, Incarnation: 1, From: name}
	raw := string(good.Bytes())
	for _, c := range []struct {
		name string
		b    string
		why  string // "" accepts it
	}{
		{"one message", raw, ""},
		{"with a checksum", string(checksummed([]byte(raw))), ""},
		{"two messages", string(gossip.MemberPacket(good, good)), ""},
		{"a name of a newer memberlist", "\x03\x84" + raw[2:] + "\xa5Newer\x01", ""},
		{"empty", "", "malformed"},
		{"a type and nothing else", "\x03", "EOF"},
		{"wrong checksum", "\x0c\x00\x00\x00\x01" + raw, "malformed"},
		{"a checksum of nothing", "\x0c\x00\x00\x00\x00", "malformed"},
		{"a checksum twice", string(checksummed(checksummed([]byte(raw)))), "nested"},
		{"a checksum in a compound", "\x07\x01\x00\x05\x0c\x00\x00\x00\x00", "nested"},
		{"a compound in a compound", "\x07\x01\x00\x02\x07\x01", "nested"},
		{"a compound of none", "\x07\x00", "malformed"},
		{"a compound without lengths", "\x07\x02\x00\x01", "malformed"},
		{"a compound cut off", "\x07\x01\x00\x09\x03", "malformed"},
		{"a compound with more behind it", "\x07\x01\x00\x01\x0312", "malformed"},
		{"an empty part", "\x07\x02\x00\x01\x00\x00\x08", "malformed"},
		{"compressed", "\x09whatever", "encoded"},
		{"compressed in a compound", "\x07\x01\x00\x02\x09x", "encoded"},
		{"encrypted", "\x0awhatever", "encoded"},
		{"bytes behind the message", raw + "\x00", "bytes more"},
		{"no map", "\x03\x93\x01\x02\x03", "no map"},
		{"a map of 65535", "\x03\xde\xff\xff", "a map of"},
		{"a map of four billion", "\x03\xdf\xff\xff\xff\xff", "no map"},
		{"a name twice", "\x03\x82\xa4Node\xa1x\xa4Node\xa1y", "twice"},
		{"a name that is a number", "\x03\x81\x01\x01", "no string"},
		{"a long name", "\x03\x81\xa4Node\xda\xff\xff", "a string of"},
		{"a string of four billion", "\x03\x81\xa4Node\xdb\xff\xff\xff\xff", "no string"},
		{"a string cut off", "\x03\x81\xa4Node\xa9abc", "too long"},
		{"a number as name", "\x03\x81\xa4Node\x05", "no string"},
		{"an incarnation that is too large", "\x03\x81\xabIncarnation\xcf\x00\x00\x00\x01\x00\x00\x00\x00", "out of range"},
		{"a negative incarnation", "\x03\x81\xabIncarnation\xd0\xff", "out of range"},
		{"a fraction", "\x03\x81\xabIncarnation\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", "no number"},
		{"nested values", "\x03\x81\xa5Newer\x91\x01", "a value of type"},
		{"an extension", "\x03\x81\xa5Newer\xc7\xff\x01", "a value of type"},
		{"large meta", "\x04\x81\xa4Meta\xda\x02\x01" + strings.Repeat("x", 513), "a string of"},
		{"a state that is none", "\x04\x81\xa5State\x04", "out of range"},
		{"neither true nor false", "\x01\x81\xa4Nack\x01", "no truth"},
	} {
		words, why := gossip.ReadMemberPacket([]byte(c.b))
		if c.why == "" && (why != "" || len(words) == 0 || words[0].Node != name) || !strings.Contains(why, c.why) {
			t.Errorf("%s: %+v, %q, want %q", c.name, words, why, c.why)
		}
	}
}

// endless is a stream that never ends; it counts what was taken of it.
type endless struct {
	head  string
	taken int
	fill  byte
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, e.head)
	e.head = e.head[n:]
	for i := n; i < len(b); i++ {
		b[i] = e.fill
	}
	e.taken += len(b)
	return len(b), nil
}

func TestHostileMemberStreams(t *testing.T) {
	inBubble(t, func(w *world) {
		a := w.pillar().start()
		from := identity.NewPillarKey().ID()
		state := func(nodes, user, more string) string {
			return "\x06\x83\xa5Nodes" + nodes + "\xacUserStateLen" + user + "\xa4Join\xc2" + more
		}
		for _, c := range []struct {
			name   string
			stream string
			why    string
		}{
			{"nobody and nothing", state("\x00", "\x00", ""), ""},
			{"more members than there may be", state("\xcd\x10\x01", "\x00", ""), "malformed"},
			{"fewer than none", state("\xd0\xff", "\x00", ""), "malformed"},
			{"members without end", state("\xcd\x10\x00", "\x00", strings.Repeat("\x81\xa4Meta\xda\x02\x00"+strings.Repeat("x", 512), 4096)), "malformed"},
			{"more state than there may be", state("\x00", "\xce\x00\x10\x00\x01", ""), "malformed"},
			{"compressed", "\x09\x82\xa4Algo\x00\xa3Buf\xdb\xff\xff\xff\xff", "encoded"},
			{"encrypted", "\x0a\xff\xff\xff\xff", "encoded"},
			{"a user message", "\x08\x81\xaaUserMsgLen\xce\x01\x00\x00\x00", "unknown"},
			{"a label", "\xf4\x04abcd", "unknown"},
			{"an unasked answer", "\x02\x81\xa5SeqNo\x01", "unknown"},
			{"a ping of somebody else", string(gossip.MemberWord{Kind: gossip.WordPing, Node: a.mesh.MemberName(), From: memberName("1")}.Bytes()), "forged"},
			{"a ping for somebody else", string(gossip.MemberWord{Kind: gossip.WordPing, Node: memberName("1"), From: from.String() + ".1"}.Bytes()), "run"},
			{"a long ping", "\x00\x8f" + strings.Repeat("\xa1a\xda\x00\xf0"+strings.Repeat("x", 240), 15), "malformed"},
		} {
			before := a.count("member_dropped_total", c.why)
			src := &endless{head: c.stream}
			b, err := a.mesh.FilterStream(from, src, false)
			if (err == nil) != (c.why == "") {
				w.t.Errorf("%s: %x, %v", c.name, b, err)
			}
			if c.why != "" && a.count("member_dropped_total", c.why) != before+1 {
				w.t.Errorf("%s: not counted as %s", c.name, c.why)
			}
			if limit := 1<<20 + 8192; src.taken > limit {
				w.t.Errorf("%s: %d bytes taken", c.name, src.taken)
			}
			// Cut off anywhere it is an error and nothing else.
			for _, n := range []int{0, 1, 2, len(c.stream) / 2, len(c.stream) - 1} {
				if b, err := a.mesh.FilterStream(from, strings.NewReader(c.stream[:max(0, n)]), false); err == nil {
					w.t.Errorf("%s, cut after %d: %x", c.name, n, b)
				}
			}
		}
		a.stop()
	})
}

func FuzzMemberPacket(f *testing.F) {
	name := memberName("1")
	for kind := range byte(14) {
		word := gossip.MemberWord{Kind: kind, Seq: 300, Node: name, From: name, Incarnation: 70_000, Meta: []byte("meta"), Body: []byte("body")}
		f.Add(word.Bytes())
		f.Add(gossip.MemberPacket(word, word))
		f.Add(checksummed(gossip.MemberPacket(word, word)))
	}
	f.Add([]byte("\x07\x02\x00\x01\x00\x00\x08"))
	f.Fuzz(func(t *testing.T, b []byte) {
		words, why := gossip.ReadMemberPacket(b)
		if why != "" {
			return
		}
		again, why := gossip.ReadMemberPacket(gossip.MemberPacket(words...))
		if why != "" || len(again) != len(words) {
			t.Fatalf("%x: written back it is %+v, %s, want %+v", b, again, why, words)
		}
		for i, w := range words {
			if a := again[i]; a.Kind != w.Kind {
				t.Fatalf("message %d was of type %d and is of %d", i, w.Kind, a.Kind)
			}
		}
	})
}

// Whatever an admitted pillar sends, memberlist hears of no other pillar that it
// is alive, dead or left, and of no incarnation that it did not tell of.
func FuzzMemberFilter(f *testing.F) {
	w := newWorld(f)
	a, b := w.pillar().start(), w.pillar()
	b.start(a)
	eventually(f, func() bool { return meshed(a, b) })
	liar, victim := identity.NewPillarKey(), b.key.ID().String()+".5"
	rec, _ := a.roster.Lookup(b.key.ID())
	n := memberNode(w.key.ID(), b.key, rec.Record, "5", 7)
	if why := a.mesh.CheckMember(n, 7); why != "" {
		f.Fatal(why)
	}
	for kind := range byte(14) {
		for _, incarnation := range []uint32{6, 7, 8, 1<<32 - 1} {
			for _, node := range []string{victim, a.mesh.MemberName()} {
				word := gossip.MemberWord{Kind: kind, Node: node, From: victim, Incarnation: incarnation, Meta: n.Meta, Body: []byte("body")}
				f.Add(word.Bytes())
				f.Add(checksummed(gossip.MemberPacket(word, word)))
			}
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		out := a.mesh.FilterPacket(liar.ID(), packet)
		if out == nil {
			return
		}
		words, why := gossip.ReadMemberPacket(out)
		if why != "" {
			t.Fatalf("%x: memberlist gets %x, which is %s", packet, out, why)
		}
		for _, w := range words {
			switch w.Kind {
			case gossip.WordUser:
			case gossip.WordSuspect:
				if w.Node == victim && w.Incarnation != 7 {
					t.Errorf("%x: memberlist gets %+v", packet, w)
				}
			case gossip.WordAlive:
				if w.Node != victim || w.Incarnation != 7 || !bytes.Equal(w.Meta, n.Meta) {
					t.Errorf("%x: memberlist gets %+v", packet, w)
				}
			default:
				t.Errorf("%x: memberlist gets %+v", packet, w)
			}
		}
	})
}

func FuzzMemberState(f *testing.F) {
	name := memberName("1")
	for _, n := range []int{0, 1, 3} {
		var words []gossip.MemberWord
		for i := range n {
			words = append(words, gossip.MemberWord{Node: name, State: i, Incarnation: uint32(i) << 20, Meta: []byte(fmt.Sprint("meta", i))})
		}
		f.Add(gossip.MemberPush([]byte("user"), words...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		words, user, err := gossip.ReadMemberPush(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, user2, err := gossip.ReadMemberPush(bytes.NewReader(gossip.MemberPush(user, words...)))
		if err != nil || !bytes.Equal(user, user2) || len(again) != len(words) {
			t.Fatalf("%x: written back it is %+v, %v, want %+v", b, again, err, words)
		}
		for i, w := range words {
			if a := again[i]; a.Node != w.Node || a.State != w.State || a.Incarnation != w.Incarnation || !bytes.Equal(a.Meta, w.Meta) {
				t.Fatalf("member %d was %+v and is %+v", i, w, a)
			}
		}
	})
}

// BenchmarkFilterPacket is a packet as gossip brings it: an alive message whose
// signature was checked before, a suspicion and a summary's worth of user bytes.
func BenchmarkFilterPacket(b *testing.B) {
	w := newWorld(b)
	a, other := w.pillar().start(), w.pillar()
	other.start(a)
	eventually(b, func() bool { return meshed(a, other) })
	rec, _ := a.roster.Lookup(other.key.ID())
	n := memberNode(w.key.ID(), other.key, rec.Record, "5", 7)
	packet := gossip.MemberPacket(
		gossip.MemberWord{Kind: gossip.WordAlive, Node: n.Name, Incarnation: 7, Meta: n.Meta},
		gossip.MemberWord{Kind: gossip.WordSuspect, Node: n.Name, From: n.Name, Incarnation: 7},
		gossip.MemberWord{Kind: gossip.WordUser, Body: make([]byte, 300)})
	b.ReportAllocs()
	for b.Loop() {
		if a.mesh.FilterPacket(other.key.ID(), packet) == nil {
			b.Fatal("nothing is left")
		}
	}
}
