package overlay_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/seal"
)

// A rawDevice speaks the direct protocol frame by frame to one node.
type rawDevice struct {
	r       *directRig
	account *identity.AccountKey
	key     *identity.DeviceKey
	cert    []byte
	host    *memnet.Host
	to      *testNode
	stream  overlay.Stream
	frames  *overlay.FrameReader
	seq     uint64
}

// rawContact is a device of an account that n has as a contact, and that n lets
// in.
func (r *directRig) rawContact(n *testNode) *rawDevice {
	r.t.Helper()
	account, err := identity.NewAccountKey(identity.KeyEd25519, 0)
	d := &rawDevice{r: r, account: must(r.t, account, err), key: identity.NewDeviceKey(), to: n, seq: 1}
	d.certify(1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	d.host = r.net.Host(peer.ID(d.key.ID()), "-")
	r.t.Cleanup(func() { d.host.Shutdown() })
	n.host.Admit(d.host.Self(), time.Now().Add(time.Hour))
	if err := n.AddContact("raw "+account.ID().String()[40:], account.ID()); err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (d *rawDevice) certify(serial uint64, from, to time.Time) {
	cert, err := d.account.Certify(d.r.id, d.key.ID(), serial, millis(from), millis(to))
	d.cert = must(d.r.t, cert, err).Append(nil)
}

func (d *rawDevice) hello() *overlay.Hello {
	return &overlay.Hello{Role: overlay.RoleNode, Formats: overlay.Format, Network: d.r.id, Time: millis(time.Now()),
		Account: d.account.ID(), Credential: d.cert}
}

// open opens a stream and says nothing.
func (d *rawDevice) open() *rawDevice {
	d.r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.host.DialThrough(ctx, peerID(d.to), d.r.addrs()); err != nil {
		d.r.t.Fatal(err)
	}
	s, err := d.host.Open(ctx, peerID(d.to), overlay.ProtoDirect)
	d.stream = must(d.r.t, s, err)
	d.frames = overlay.NewFrameReader(d.stream)
	d.frames.Accept()
	return d
}

// greet opens a stream and exchanges Hellos.
func (d *rawDevice) greet() *rawDevice {
	d.r.t.Helper()
	d.open().send(d.hello())
	if m, err := d.read(); err != nil {
		d.r.t.Fatalf("no Hello: %v", err)
	} else if h, ok := m.(*overlay.Hello); !ok || h.Account != d.to.id() {
		d.r.t.Fatalf("expected a Hello, got %T %+v", m, m)
	}
	return d
}

func (d *rawDevice) send(m overlay.Message) {
	_, _ = d.stream.Write(overlay.AppendFrame(nil, m)) // that the other end is gone is seen by reading
}

func (d *rawDevice) read() (overlay.Message, error) {
	d.stream.SetReadDeadline(time.Now().Add(time.Minute))
	return d.frames.Next()
}

// record signs a record to the node.
func (d *rawDevice) record(change func(*overlay.Draft)) []byte {
	d.r.t.Helper()
	now := millis(time.Now())
	draft := overlay.Draft{Kind: overlay.KindMessage, Author: string(d.account.ID()), Signer: d.cert, To: []identity.AccountID{d.to.id()},
		Sequences: []overlay.Sequence{{Seq: d.seq, Prev: d.seq - 1}}, Created: now, Expires: now + overlay.DayMillis, Bin: []byte("not sealed")}
	d.seq++
	if change != nil {
		change(&draft)
	}
	rec, err := draft.Sign(d.r.id, d.key)
	return must(d.r.t, rec, err).Raw
}

// lines reads answers until there are n.
func (d *rawDevice) lines(n int) (lines []overlay.DeliveredLine) {
	d.r.t.Helper()
	for len(lines) < n {
		m, err := d.read()
		if err != nil {
			d.r.t.Fatalf("after %d lines: %v", len(lines), err)
		}
		a, ok := m.(*overlay.Delivered)
		if !ok {
			d.r.t.Fatalf("expected Delivered, got %T", m)
		}
		lines = append(lines, a.Lines...)
	}
	return lines
}

// ended checks that the node ends the stream within a time.
func (d *rawDevice) ended(within time.Duration) {
	d.r.t.Helper()
	start := time.Now()
	for {
		m, err := d.read()
		if errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > within {
			d.r.t.Fatalf("not ended after %v", time.Since(start))
		}
		if err != nil {
			return
		}
		if _, ok := m.(*overlay.Delivered); !ok {
			d.r.t.Fatalf("expected the end, got %T %+v", m, m)
		}
	}
}

// TestDirectHelloRefusals: who a node does not take anything from is told so, or
// cut off, before it is told anything of the node.
func TestDirectHelloRefusals(t *testing.T) {
	cases := []struct {
		name  string
		setup func(r *directRig, d *rawDevice)
		hello func(d *rawDevice, h *overlay.Hello)
		code  overlay.Code // "": cut off
	}{
		{"another network", nil, func(d *rawDevice, h *overlay.Hello) { h.Network[0] ^= 1 }, overlay.CodeWrongNetwork},
		{"no network", nil, func(d *rawDevice, h *overlay.Hello) { h.Network = identity.NetworkID{} }, overlay.CodeWrongNetwork},
		{"a pillar", nil, func(d *rawDevice, h *overlay.Hello) { h.Role = overlay.RolePillar }, overlay.CodeInvalid},
		{"another account", nil, func(d *rawDevice, h *overlay.Hello) { h.Account = d.to.id() }, overlay.CodeInvalid},
		{"another's certificate", nil, func(d *rawDevice, h *overlay.Hello) {
			key := d.key
			d.key = identity.NewDeviceKey()
			d.certify(1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			d.key, h.Credential = key, d.cert
		}, overlay.CodeInvalid},
		{"a certificate out of date", nil, func(d *rawDevice, h *overlay.Hello) {
			d.certify(1, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
			h.Credential = d.cert
		}, overlay.CodeInvalid},
		{"a removed device", func(_ *directRig, d *rawDevice) { d.remove() }, nil, overlay.CodeRemovedDevice},
		{"a blocked contact", func(r *directRig, d *rawDevice) {
			if err := d.to.BlockContact(d.account.ID().String(), true); err != nil {
				r.t.Fatal(err)
			}
		}, nil, overlay.CodeNotAdmitted},
		{"a stranger", func(r *directRig, d *rawDevice) {
			if err := d.to.RemoveContact(d.account.ID().String()); err != nil {
				r.t.Fatal(err)
			}
		}, nil, overlay.CodeNotAdmitted},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			directBubble(t, 1, func(t *testing.T, r *directRig) {
				bob := r.node(newNodeHome(t, r.net))
				d := r.rawContact(bob)
				if c.setup != nil {
					c.setup(r, d)
				}
				h := d.hello()
				if c.hello != nil {
					c.hello(d, h)
				}
				d.open().send(h)
				m, err := d.read()
				b, ok := m.(*overlay.Busy)
				if err != nil || !ok || b.Err == nil || b.Err.Code != c.code {
					t.Fatalf("answer %T %+v, %v; want Busy with %s", m, m, err, c.code)
				}
				d.ended(time.Minute)
				if len(bob.ContactPaths()) != 0 {
					t.Errorf("it was met: %v", bob.ContactPaths())
				}
			})
		})
	}
	t.Run("a frame too large", func(t *testing.T) {
		directBubble(t, 1, func(t *testing.T, r *directRig) {
			d := r.rawContact(r.node(newNodeHome(t, r.net))).open()
			d.stream.Write(binary.BigEndian.AppendUint32(nil, overlay.MaxHelloFrame+1))
			d.ended(time.Second)
		})
	})
	t.Run("silence", func(t *testing.T) {
		directBubble(t, 1, func(t *testing.T, r *directRig) {
			d := r.rawContact(r.node(newNodeHome(t, r.net))).open()
			d.stream.Write([]byte{0, 0})
			d.ended(11 * time.Second)
		})
	})
}

// TestDirectViolations: a device that does what none of ours does is cut off and
// not listened to for a minute; nothing of it is kept.
func TestDirectViolations(t *testing.T) {
	deliver := func(raws ...[]byte) overlay.Message { return &overlay.Deliver{First: 1, Records: raws} }
	cases := []struct {
		name string
		do   func(d *rawDevice)
	}{
		{"a record of another account", func(d *rawDevice) {
			other := d.r.rawContact(d.to)
			d.send(deliver(other.record(nil)))
		}},
		{"a record of another device of the account", func(d *rawDevice) {
			other := d.r.rawContact(d.to)
			other.account = d.account
			other.certify(1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			d.send(deliver(other.record(nil)))
		}},
		{"a record for somebody else", func(d *rawDevice) {
			d.send(deliver(d.record(func(dr *overlay.Draft) { dr.To = []identity.AccountID{d.account.ID()} })))
		}},
		{"a device record", func(d *rawDevice) {
			d.send(deliver(d.record(func(dr *overlay.Draft) { dr.Kind, dr.To, dr.Sequences = overlay.KindDevice, nil, nil })))
		}},
		{"a wrong signature", func(d *rawDevice) {
			raw := d.record(nil)
			raw[len(raw)-1] ^= 1
			d.send(deliver(raw))
		}},
		{"a wrong number", func(d *rawDevice) { d.send(&overlay.Deliver{First: 2, Records: [][]byte{d.record(nil)}}) }},
		{"no records", func(d *rawDevice) { d.send(&overlay.Deliver{First: 1}) }},
		{"a submission", func(d *rawDevice) { d.send(&overlay.Submit{First: 1, Records: [][]byte{d.record(nil)}}) }},
		{"no message", func(d *rawDevice) { d.stream.Write([]byte{0, 0, 0, 1, 0xc0}) }},
		{"a frame too large", func(d *rawDevice) { d.stream.Write(binary.BigEndian.AppendUint32(nil, overlay.MaxFrame+1)) }},
		{"where it is, over and over", func(d *rawDevice) {
			for range 5 {
				d.send(&overlay.Near{Public: []netip.Addr{netip.MustParseAddr("203.0.113.1")}})
			}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			directBubble(t, 1, func(t *testing.T, r *directRig) {
				bob := r.node(newNodeHome(t, r.net))
				d := r.rawContact(bob).greet()
				c.do(d)
				d.ended(time.Second)
				d.open().send(d.hello())
				d.ended(time.Second)
				if st := bob.Status().Inbox; st.Total != 0 {
					t.Errorf("inbox: %+v", st)
				}
				time.Sleep(2 * time.Minute)
				d.greet()
			})
		})
	}
}

// TestDirectRefusedAlone: what is refused of an honest device has a line of its
// own, and the stream goes on.
func TestDirectRefusedAlone(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		bob := r.node(newNodeHome(t, r.net))
		d := r.rawContact(bob).greet()
		ok := d.record(nil)
		expired := d.record(func(dr *overlay.Draft) { dr.Created -= 10_000; dr.Expires = dr.Created + 5_000 })
		ahead := d.record(func(dr *overlay.Draft) { dr.Created += 60_000 })
		d.send(&overlay.Deliver{First: 1, Records: [][]byte{ok, expired, ahead, ok}})
		d.send(&overlay.Deliver{First: 5, Records: [][]byte{ok}})
		for i, l := range d.lines(5) {
			want := map[int]overlay.Code{1: overlay.CodeInvalid, 2: overlay.CodeClockWrong}[i]
			if l.N != uint64(i+1) || (l.Err == nil) != (want == "") || l.Err != nil && l.Err.Code != want {
				t.Errorf("line %d: %+v, want %q", i, l, want)
			}
		}
	})
}

// TestDirectStall: a device that stops within a frame is cut off; one that is
// silent between frames is not, for some minutes.
func TestDirectStall(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		bob := r.node(newNodeHome(t, r.net))
		d := r.rawContact(bob).greet()
		time.Sleep(5 * time.Minute)
		d.send(&overlay.Deliver{First: 1, Records: [][]byte{d.record(nil)}})
		d.lines(1)
		frame := overlay.AppendFrame(nil, &overlay.Deliver{First: 2, Records: [][]byte{d.record(nil)}})
		d.stream.Write(frame[:len(frame)-1])
		d.ended(21 * time.Second)
		d.greet() // it may have lost its connection: no violation
		for _, b := range frame[:len(frame)/2] {
			d.stream.Write([]byte{b})
			time.Sleep(15 * time.Second)
		}
		d.ended(time.Second)
	})
}

// TestDirectFlood: a device that hands over more than it may is slowed down, and
// one that reads no answers is cut off; others are not held up.
func TestDirectFlood(t *testing.T) {
	directBubble(t, 1, func(t *testing.T, r *directRig) {
		alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
		befriend(t, alice, bob)
		d := r.rawContact(bob).greet()
		raw := d.record(nil)
		many := make([][]byte, overlay.MaxDeliver)
		for i := range many {
			many[i] = raw
		}
		const frames = 20
		start := time.Now()
		go func() {
			for i := range uint64(frames) {
				d.send(&overlay.Deliver{First: 1 + i*overlay.MaxDeliver, Records: many})
			}
		}()
		time.Sleep(5 * time.Second)
		before := time.Now()
		alice.send(overlay.StateDelivered, "meanwhile", bob.id())
		if took := time.Since(before); took > 2*time.Second {
			t.Errorf("another's message took %v", took)
		}
		d.lines(frames * overlay.MaxDeliver)
		if took := time.Since(start); took < 14*time.Second {
			t.Errorf("%d records within %v", frames*overlay.MaxDeliver, took)
		}
		// And now without reading: the node's answers find no room at some time.
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for i := uint64(frames); ; i++ {
				if _, err := d.stream.Write(overlay.AppendFrame(nil, &overlay.Deliver{First: 1 + i*overlay.MaxDeliver, Records: many})); err != nil {
					return
				}
			}
		}()
		select {
		case <-gone:
		case <-time.After(30 * time.Minute):
			t.Error("it still delivers")
		}
	})
}

// TestDirectNear: two devices behind one NAT that no hole can be punched through
// find each other on their own network; addresses there are told to nobody else.
func TestDirectNear(t *testing.T) {
	at := func(public, near string) overlay.Vicinity {
		return overlay.Vicinity{Public: []netip.Addr{netip.MustParseAddr(public)}, Near: []multiaddr.Multiaddr{multiaddr.StringCast(near)}}
	}
	t.Run("direct", func(t *testing.T) {
		directBubble(t, 1, func(t *testing.T, r *directRig) {
			alice, bob := r.node(newNodeHome(t, r.net)), r.node(newNodeHome(t, r.net))
			befriend(t, alice, bob)
			alice.host.SetVicinity(at("203.0.113.9", "/ip4/192.168.7.2/udp/4001/quic-v1"))
			bob.host.SetVicinity(at("203.0.113.9", "/ip4/192.168.7.3/udp/4001/quic-v1"))
			alice.send(overlay.StateDelivered, "first", bob.id())
			until(t, "a direct path", func() bool { return alice.path(bob) == overlay.PathDirect && bob.path(alice) == overlay.PathDirect })
			release := r.withhold(sealedKinds...)
			defer release()
			alice.send(overlay.StateDelivered, "second", bob.id())
			if m := bob.only("second"); m.Path != overlay.PathDirect {
				t.Errorf("it came %s", m.Path)
			}
		})
	})
	t.Run("told", func(t *testing.T) {
		directBubble(t, 1, func(t *testing.T, r *directRig) {
			bob := r.node(newNodeHome(t, r.net))
			bob.host.SetVicinity(at("203.0.113.9", "/ip4/192.168.7.3/udp/4001/quic-v1"))
			d := r.rawContact(bob).greet()
			d.send(&overlay.Near{Public: []netip.Addr{netip.MustParseAddr("203.0.113.10")}})
			d.send(&overlay.Deliver{First: 1, Records: [][]byte{d.record(nil)}})
			d.lines(1) // and nothing before
			d.send(&overlay.Near{Public: []netip.Addr{netip.MustParseAddr("203.0.113.9")}})
			m, err := d.read()
			if near, ok := m.(*overlay.Near); err != nil || !ok || len(near.Near) != 1 || !strings.Contains(near.Near[0].String(), "192.168.7.3") {
				t.Errorf("%T %+v %v", m, m, err)
			}
		})
	})
}

// TestDirectQuota: an account cannot put more on a node's disk than its quota,
// nor all of them more than theirs.
func TestDirectQuota(t *testing.T) {
	take := overlay.DirectQuotaTaker()
	account := func(i int) identity.AccountID { return identity.AccountID(rune(i)) }
	const week = float64(7 * overlay.DayMillis)
	now := uint64(1_790_000_000_000)
	if err := take(account(1), 256<<20*week, now); err != nil {
		t.Fatal(err)
	}
	err := take(account(1), 1<<20*week, now)
	if overlay.CodeOf(err) != overlay.CodeQuota {
		t.Fatalf("over its quota: %v", err)
	}
	var refusal *overlay.Error
	if !errors.As(err, &refusal) || refusal.Retry <= 0 {
		t.Fatalf("%v says no time", err)
	}
	if err := take(account(1), 1<<20*week, now+uint64(refusal.Retry.Milliseconds())); err != nil {
		t.Fatalf("after the time it said: %v", err)
	}
	for i := 2; i <= 4; i++ {
		if err := take(account(i), 200<<20*week, now); err != nil {
			t.Fatalf("account %d: %v", i, err)
		}
	}
	if err := take(account(5), 250<<20*week, now); overlay.CodeOf(err) != overlay.CodeQuota {
		t.Fatalf("all together: %v", err)
	}
	for i := 10; i < 3000; i++ {
		_ = take(account(i), 1, now)
	}
}

// TestDirectBadReceivers: a device that answers what none of ours does, or not at
// all, is given up; the message is not believed to be delivered.
func TestDirectBadReceivers(t *testing.T) {
	answer := func(lines ...overlay.DeliveredLine) []byte {
		return overlay.AppendFrame(nil, &overlay.Delivered{Lines: lines})
	}
	cases := []struct {
		name  string
		hello func(d *rawDevice, h *overlay.Hello)
		say   []byte // to the first Deliver
	}{
		{"silence", nil, nil},
		{"a line for what was not sent", nil, answer(overlay.DeliveredLine{N: 9})},
		{"lines out of order", nil, answer(overlay.DeliveredLine{N: 2}, overlay.DeliveredLine{N: 1})},
		{"a line twice", nil, answer(overlay.DeliveredLine{N: 1}, overlay.DeliveredLine{N: 1})},
		{"a submission", nil, overlay.AppendFrame(nil, &overlay.Submit{First: 1})},
		{"a frame too large", nil, binary.BigEndian.AppendUint32(nil, overlay.MaxFrame+1)},
		{"half a frame", nil, answer(overlay.DeliveredLine{N: 1})[:5]},
		{"another account", func(d *rawDevice, h *overlay.Hello) {
			other := d.r.rawContact(d.to)
			other.key = d.key
			other.certify(1, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			h.Account, h.Credential = other.account.ID(), other.cert
		}, nil},
		{"another network", func(_ *rawDevice, h *overlay.Hello) { h.Network[3] ^= 1 }, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			directBubble(t, 1, func(t *testing.T, r *directRig) {
				alice := r.node(newNodeHome(t, r.net), withDirect("only"))
				d := r.rawContact(alice)
				d.publish()
				overlay.FindBy(alice.Node, func(context.Context, identity.AccountID) ([]overlay.Presence, error) {
					d.host.Admit(peerID(alice), time.Now().Add(time.Hour))
					p := overlay.Presence{Device: d.key.ID(), Asker: alice.Device(), Pillars: []identity.PillarID{r.pillars[0].key.ID()}}
					return []overlay.Presence{p}, nil
				})
				if err := d.host.Connect(context.Background(), r.pillars[0].host.Self(), r.pillars[0].host.Addrs()); err != nil {
					t.Fatal(err)
				}
				took := make(chan time.Duration, 1)
				d.host.Handle(overlay.ProtoDirect, func(s overlay.Stream) {
					start := time.Now()
					frames := overlay.NewFrameReader(s)
					frames.Accept()
					frames.Next() // its Hello
					h := d.hello()
					if c.hello != nil {
						c.hello(d, h)
					}
					s.Write(overlay.AppendFrame(nil, h))
					for said := false; ; said = true {
						m, err := frames.Next()
						if err != nil {
							break
						}
						if _, ok := m.(*overlay.Deliver); ok && !said {
							s.Write(c.say)
						}
					}
					select {
					case took <- time.Since(start):
					default:
					}
				})
				m := alice.post("hello?", d.account.ID())
				select {
				case d := <-took:
					if d > 20*time.Second {
						t.Errorf("given up after %v", d)
					}
				case <-time.After(5 * time.Minute):
					t.Error("never given up")
				}
				time.Sleep(time.Minute)
				if m, err := alice.Sent(m.Handle); err != nil || m.State != overlay.StateQueued || m.Reason != overlay.CodeUnreachable {
					t.Errorf("the message is %s, %s", m.State, m.Reason)
				}
			})
		})
	}
}

// publish makes the device known to the network, so that one can write to it.
func (d *rawDevice) publish() {
	d.r.t.Helper()
	now := millis(time.Now())
	ring, err := seal.OpenKeyring(filepath.Join(d.r.t.TempDir(), "sealing"))
	must(d.r.t, ring, err)
	key, err := ring.Rotate(now)
	must(d.r.t, key, err)
	info := overlay.AccountInfo{Counter: now, Devices: []overlay.DeviceSerial{{Device: d.key.ID(), Serial: 1}}}
	account := overlay.Draft{Kind: overlay.KindAccount, Author: string(d.account.ID()), Created: now, Expires: now + overlay.DayMillis, Bin: info.Append(nil)}
	device := overlay.Draft{Kind: overlay.KindDevice, Author: string(d.account.ID()), Signer: d.cert, Created: now, Expires: now + overlay.DayMillis,
		Bin: (&overlay.DeviceInfo{Keys: []seal.PublicKey{key}}).Append(nil)}
	a, err := account.Sign(d.r.id, d.account)
	must(d.r.t, a, err)
	b, err := device.Sign(d.r.id, d.key)
	must(d.r.t, b, err)
	d.r.take(nil, a.Raw)
	d.r.take(nil, b.Raw)
	until(d.r.t, "the directory", func() bool {
		list, _, err := d.to.Nodes("", 0)
		return err == nil && slices.ContainsFunc(list, func(e overlay.NodeEntry) bool { return e.Account == d.account.ID() && len(e.Devices) > 0 })
	})
}
