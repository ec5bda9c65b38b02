package relay_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// probe asks one question of a connected host.
func probe(t testing.TB, h, pillar *relay.Host, q *overlay.Probe) *overlay.Probed {
	t.Helper()
	m, err := probeRaw(t, h, pillar, overlay.AppendFrame(nil, q))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func probeRaw(t testing.TB, h, pillar *relay.Host, raw []byte) (*overlay.Probed, error) {
	t.Helper()
	s, err := h.Open(within(t), pillar.Self(), overlay.ProtoProbe)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	if err := s.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(raw); err != nil {
		return nil, err
	}
	_ = s.CloseWrite() // fails when the answer was faster
	m, err := overlay.NewFrameReader(s).Next()
	if err != nil {
		return nil, err
	}
	a, ok := m.(*overlay.Probed)
	if !ok {
		t.Fatalf("answered with a %T", m)
	}
	return a, nil
}

func connect(t testing.TB, from, to *relay.Host) {
	t.Helper()
	if err := from.Connect(within(t), to.Self(), to.Addrs()); err != nil {
		t.Fatal(err)
	}
}

// admittedPillars makes two pillars that know each other as such, connected.
func admittedPillars(t testing.TB, a, b *relay.Host) {
	t.Helper()
	a.Protect(b.Self(), true)
	b.Protect(a.Self(), true)
	connect(t, a, b)
}

func pillarHost(t testing.TB, listen ...string) (*relay.Host, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	return listening(t, relay.Config{Role: relay.RolePillar, Registerer: reg}, listen...), reg
}

func TestProbe(t *testing.T) {
	t.Parallel()
	first, _ := pillarHost(t, quic)
	second, _ := pillarHost(t, quic)
	node := listening(t, relay.Config{}, quic)
	connect(t, node, first)
	at := node.Addrs()[0] // it listens on one

	a := probe(t, node, first, &overlay.Probe{What: overlay.ProbeSeen})
	if a.Err != nil || !at.Equal(a.Addr) || a.Outcome != overlay.ProbeUntried {
		t.Errorf("seen: %+v, want %s", a, at)
	}
	if a = probe(t, node, first, &overlay.Probe{What: overlay.ProbeReach}); a.Err != nil || a.Outcome != overlay.ProbeReached {
		t.Errorf("reach: %+v", a)
	}
	if a = probe(t, node, first, &overlay.Probe{What: overlay.ProbeOther}); overlay.CodeOf(a.Err) != overlay.CodeUnreachable || a.Outcome != overlay.ProbeUntried {
		t.Errorf("other, of a pillar that is alone: %+v", a)
	}
	admittedPillars(t, first, second)
	third, _ := pillarHost(t, quic)
	admittedPillars(t, first, third)
	for range 4 { // whom it would take by chance
		a = probe(t, node, first, &overlay.Probe{What: overlay.ProbeOther, Except: []identity.PillarID{identity.PillarID(second.Self())}})
		if a.Err != nil || a.Outcome != overlay.ProbeReached || a.By != identity.PillarID(third.Self()) {
			t.Errorf("other, but not the second: %+v", a)
		}
	}
	both := []identity.PillarID{identity.PillarID(second.Self()), identity.PillarID(third.Self())}
	if a = probe(t, node, first, &overlay.Probe{What: overlay.ProbeOther, Except: both}); a.Err != nil || a.Outcome != overlay.ProbeReached {
		t.Errorf("other, none of those that there are: %+v", a)
	}
}

// TestProbeRefused: nobody has a pillar knock where he is not himself.
func TestProbeRefused(t *testing.T) {
	t.Parallel()
	pillar, reg := pillarHost(t, quic, tcp)
	node := listening(t, relay.Config{}, quic)
	connect(t, node, pillar)
	for_ := func(at string) *overlay.Probe {
		return &overlay.Probe{What: overlay.ProbeFor, Addr: multiaddr.StringCast(at)}
	}
	victim, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	there := "/ip4/127.0.0.1/udp/" + strings.Split(victim.LocalAddr().String(), ":")[1] + "/quic-v1"
	if a := probe(t, node, pillar, for_(there)); overlay.CodeOf(a.Err) != overlay.CodeNotAdmitted {
		t.Errorf("a node asks for somebody else: %+v", a)
	}
	overTCP := listening(t, relay.Config{}, tcp)
	connect(t, overTCP, pillar)
	if a := probe(t, overTCP, pillar, &overlay.Probe{What: overlay.ProbeSeen}); a.Err != nil || a.Addr == nil {
		t.Errorf("seen over TCP: %+v", a)
	}
	if a := probe(t, overTCP, pillar, &overlay.Probe{What: overlay.ProbeReach}); overlay.CodeOf(a.Err) != overlay.CodeBadRequest {
		t.Errorf("reach over TCP: %+v", a)
	}
	other, _ := pillarHost(t, quic)
	admittedPillars(t, other, pillar)
	for _, at := range []string{
		"/ip4/10.0.0.1/udp/4001/quic-v1",               // no network that the asking pillar is in
		"/ip4/169.254.169.254/udp/4001/quic-v1",        // nor this
		"/ip4/0.0.0.0/udp/4001/quic-v1",                // nobody
		"/ip4/224.0.0.1/udp/4001/quic-v1",              // everybody
		"/ip4/127.0.0.1/udp/53/quic-v1",                // a service of the system
		"/ip4/127.0.0.1/tcp/4001",                      // not UDP
		"/ip4/127.0.0.1/udp/4001",                      // not QUIC
		"/dns4/example.com/udp/4001/quic-v1",           // a name
		"/ip4/127.0.0.1/udp/4001/quic-v1/webtransport", // more than an address
	} {
		if a := probe(t, other, pillar, for_(at)); overlay.CodeOf(a.Err) != overlay.CodeBadRequest || a.Outcome != overlay.ProbeUntried {
			t.Errorf("knock at %s: %+v", at, a)
		}
	}
	if err := victim.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := victim.ReadFrom(make([]byte, 2000)); err == nil {
		t.Errorf("%d bytes went to somebody who did not ask", n)
	}
	// What is silent is not reached, and gets three packets at most.
	if a := probe(t, other, pillar, for_(there)); a.Err != nil || a.Outcome != overlay.ProbeUnreached {
		t.Errorf("knock at a silent port: %+v", a)
	}
	if err := victim.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	packets := 0
	for buf := make([]byte, 2000); ; packets++ {
		if n, _, err := victim.ReadFrom(buf); err != nil {
			break
		} else if n > 1200 {
			t.Errorf("a packet of %d bytes", n)
		}
	}
	if packets == 0 || packets > 3 {
		t.Errorf("%d packets, want 1 to 3", packets)
	}
	if n := counter(t, reg, "obelisk_relay_nat_questions_total", "refused"); n != 11 {
		t.Errorf("%v questions counted as refused, want 11", n)
	}
}

func TestProbeGarbage(t *testing.T) {
	t.Parallel()
	pillar, reg := pillarHost(t, quic)
	node := listening(t, relay.Config{}, quic)
	connect(t, node, pillar)
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	bad := [][]byte{
		{}, {0}, {0xff, 0xff, 0xff, 0xff}, frame(""), frame("hello"),
		overlay.AppendFrame(nil, &overlay.Probed{}),
		overlay.AppendFrame(nil, &overlay.Nudge{}),
		frame("\x94\x46\x00\xc4\x01\xff\x90"), // an address that is none
		frame("\x94\x46\x04\xc4\x00\x90"),     // asks for what there is not
		overlay.AppendFrame(nil, &overlay.Probe{What: overlay.ProbeReach})[:6],
	}
	for i, raw := range bad {
		if a, err := probeRaw(t, node, pillar, raw); err == nil {
			t.Errorf("%d: %x is answered: %+v", i, raw, a)
		}
	}
	if n := counter(t, reg, "obelisk_relay_nat_questions_total", "malformed"); int(n) != len(bad) {
		t.Errorf("%v counted as malformed, want %d", n, len(bad))
	}
	if a := probe(t, node, pillar, &overlay.Probe{What: overlay.ProbeSeen}); a.Err != nil {
		t.Errorf("afterwards: %+v", a)
	}
	home := listening(t, relay.Config{Role: relay.RolePillar, Home: true}, quic)
	connect(t, node, home)
	if _, err := probeRaw(t, node, home, overlay.AppendFrame(nil, &overlay.Probe{})); err == nil {
		t.Error("a home pillar answers, and cannot know")
	}
}

// TestProbesAreLimited: an address asks only so often, and knocks cost more.
func TestProbesAreLimited(t *testing.T) {
	t.Parallel()
	pillar, _ := pillarHost(t, quic)
	node := listening(t, relay.Config{}, quic)
	connect(t, node, pillar)
	answered := 0
	for ; answered < 300; answered++ {
		if a := probe(t, node, pillar, &overlay.Probe{What: overlay.ProbeReach}); a.Err != nil {
			if overlay.CodeOf(a.Err) != overlay.CodeBusy {
				t.Errorf("refused with %v", a.Err)
			}
			break
		}
	}
	if answered < 32 || answered == 300 { // 256 tokens at 8 each, and what comes back meanwhile
		t.Errorf("%d knocks were answered at once", answered)
	}
}

// TestKnock: only a QUIC listener that answers this very knock counts.
func TestKnock(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func([]byte) []byte{
		"echo":    func(b []byte) []byte { return b },
		"garbage": func([]byte) []byte { return []byte("\x80\x00\x00\x00\x00") },
		"another's": func(b []byte) []byte {
			out := append([]byte{0x80, 0, 0, 0, 0, 8}, b[15:23]...)
			return append(append(out, 8), make([]byte, 12)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				buf := make([]byte, 2000)
				for {
					n, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo(answer(buf[:n]), from)
				}
			}()
			reached, err := relay.KnockAt(within(t), c.LocalAddr().(*net.UDPAddr).AddrPort())
			c.Close()
			<-done
			if err != nil || reached {
				t.Errorf("reached %t, %v", reached, err)
			}
		})
	}
	closed, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	to := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	closed.Close()
	if reached, err := relay.KnockAt(within(t), to); err != nil || reached {
		t.Errorf("nobody is there: reached %t, %v", reached, err)
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if reached, _ := relay.KnockAt(ctx, to); reached {
		t.Error("reached though cancelled")
	}
}

func TestSurvey(t *testing.T) {
	t.Parallel()
	pillars := make([]*relay.Host, 2)
	known := make([]relay.SurveyPillar, len(pillars))
	for i := range pillars {
		pillars[i], _ = pillarHost(t, quic, tcp, ws)
		known[i] = relay.SurveyPillar{ID: pillars[i].Self(), Addrs: pillars[i].Addrs()}
	}
	admittedPillars(t, pillars[0], pillars[1])
	nobody := listening(t, relay.Config{}, tcp)
	known[1].Addrs = append(known[1].Addrs, nobody.Addrs()...)                                                                       // somebody else's
	known[1].Addrs = append(known[1].Addrs, multiaddr.StringCast("/ip4/127.0.0.1/tcp/1"))                                            // nobody's
	known[1].Addrs = append(known[1].Addrs, multiaddr.StringCast("/ip4/127.0.0.1/tcp/1/p2p/"+nobody.Self().String()+"/p2p-circuit")) // not its own
	node := listening(t, relay.Config{}, quic, tcp)
	connect(t, node, pillars[0])
	s := node.Survey(within(t), known, true)
	// The second pillar has the first one's address: whether others get in cannot be
	// known, but there is no NAT.
	if s.Mapping != overlay.NATNone || s.TCPMapping != overlay.NATNone || s.Filtering != overlay.NATUnknown || s.Reachability != "public" || s.Punched {
		t.Errorf("%+v", s)
	}
	count := map[string]int{}
	for i, p := range known {
		for _, x := range s.Tried[p.ID] {
			if x.OK {
				count[x.Transport]++
				if x.RTTMS <= 0 || x.Error != "" {
					t.Errorf("pillar %d: %+v", i, x)
				}
			} else if x.Error == "" || strings.Contains(x.Error, "\n") {
				t.Errorf("pillar %d: %+v", i, x)
			}
		}
	}
	if len(s.Tried[known[0].ID]) != 3 || len(s.Tried[known[1].ID]) != 5 || count["quic"] != 2 || count["tcp"] != 2 || count["ws"] != 2 {
		t.Errorf("tried %+v", s.Tried)
	}
	own := slices.ContainsFunc(node.Addrs(), func(a multiaddr.Multiaddr) bool { return len(s.Seen) > 0 && a.String() == s.Seen[0].Addr })
	if len(s.Seen) != 5 || !own || s.Seen[0].Transport != "quic" {
		t.Errorf("seen %+v, want first where QUIC listens of %v", s.Seen, node.Addrs())
	}
	if len(node.Connected()) != 1 {
		t.Errorf("connected afterwards to %+v", node.Connected())
	}
	quick := node.Survey(within(t), known, false)
	if quick.Mapping != overlay.NATNone || quick.Reachability != "public" || quick.Tried != nil {
		t.Errorf("without transports: %+v", quick)
	}
	alone := listening(t, relay.Config{}, quic)
	if s := alone.Survey(within(t), nil, true); s.Mapping != overlay.NATUnknown || s.Filtering != overlay.NATUnknown || s.Reachability != "unknown" {
		t.Errorf("without pillars: %+v", s)
	}
}

// TestLyingPillars: what pillars say decides nothing but what is shown, and what
// makes no sense is not an answer.
func TestLyingPillars(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() []byte{
		"silence":    func() []byte { return nil },
		"garbage":    func() []byte { return []byte("garbage garbage") },
		"another's":  func() []byte { return overlay.AppendFrame(nil, &overlay.Probed{What: overlay.ProbeFor}) },
		"no address": func() []byte { return overlay.AppendFrame(nil, &overlay.Probed{What: overlay.ProbeSeen}) },
		"a name": func() []byte {
			return overlay.AppendFrame(nil, &overlay.Probed{What: overlay.ProbeSeen, Addr: multiaddr.StringCast("/dns4/x.example/tcp/1")})
		},
		"not a message": func() []byte { return overlay.AppendFrame(nil, &overlay.Nudge{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			liar := newHost(t, relay.Config{Role: relay.RolePillar, Home: true}, quic)
			liar.Handle(overlay.ProtoProbe, func(s overlay.Stream) {
				_, _ = io.CopyN(io.Discard, s, 8)
				_, _ = s.Write(answer())
				_ = s.Close()
			})
			if err := liar.Listen(); err != nil {
				t.Fatal(err)
			}
			node := listening(t, relay.Config{}, quic)
			connect(t, node, liar)
			s := node.Survey(within(t), []relay.SurveyPillar{{ID: liar.Self(), Addrs: liar.Addrs()}}, true)
			if s.Mapping != overlay.NATUnknown || s.Filtering != overlay.NATUnknown || s.Reachability != "unknown" {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestBehaviour(t *testing.T) {
	t.Parallel()
	const (
		local = "0.0.0.0:4000"
		a1    = "45.10.1.2:4001"
		a2    = "45.10.1.2:4002"
		b1    = "45.10.2.2:4001"
		out   = "45.10.100.2:4000"
		out2  = "45.10.100.2:5000"
		moved = "45.10.101.2:4000"
	)
	own := []netip.Addr{netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("45.10.9.9")}
	for _, tt := range []struct {
		name    string
		sockets [][3]string
		want    overlay.NATBehaviour
	}{
		{"nothing seen", nil, overlay.NATUnknown},
		{"one pillar", [][3]string{{local, out, a1}}, overlay.NATUnknown},
		{"one pillar twice", [][3]string{{local, out, a1}, {local, out2, a1}}, overlay.NATUnknown},
		{"own address", [][3]string{{local, "45.10.9.9:4000", a1}}, overlay.NATNone},
		{"own address, another port", [][3]string{{local, "45.10.9.9:4001", a1}}, overlay.NATUnknown},
		{"one for both", [][3]string{{local, out, a1}, {local, out, b1}}, overlay.NATEndpointIndependent},
		{"one for both ports of one", [][3]string{{local, out, a1}, {local, out, a2}}, overlay.NATUnknown},
		{"one each", [][3]string{{local, out, a1}, {local, out2, b1}}, overlay.NATPortDependent},
		{"an address each", [][3]string{{local, out, a1}, {local, moved, b1}}, overlay.NATPortDependent},
		{"one a port", [][3]string{{local, out, a1}, {local, out2, a2}}, overlay.NATPortDependent},
		{"one an address", [][3]string{{local, out, a1}, {local, out, a2}, {local, out2, b1}}, overlay.NATAddressDependent},
		{"of two sockets", [][3]string{{local, out, a1}, {"0.0.0.0:6000", out2, b1}}, overlay.NATUnknown},
		{"of two families", [][3]string{{local, out, a1}, {"[::]:4000", "[2001:db8::1]:4000", "[2001:db8::2]:4001"}}, overlay.NATUnknown},
	} {
		if got := relay.MappingOf(own, tt.sockets...); got != tt.want {
			t.Errorf("mapping, %s: %s, want %s", tt.name, got, tt.want)
		}
	}
	type k = relay.Knock
	for _, tt := range []struct {
		name    string
		mapping overlay.NATBehaviour
		knocks  []relay.Knock
		want    overlay.NATBehaviour
		reach   string
	}{
		{"not tried", overlay.NATEndpointIndependent, nil, overlay.NATUnknown, "unknown"},
		{"not tried, no NAT", overlay.NATNone, nil, overlay.NATUnknown, "unknown"},
		{"a stranger gets in", overlay.NATEndpointIndependent, []k{{true, true}, {false, true}}, overlay.NATEndpointIndependent, "public"},
		{"another port gets in, a stranger does not", overlay.NATEndpointIndependent, []k{{true, true}, {false, false}}, overlay.NATAddressDependent, "private"},
		{"nobody gets in", overlay.NATEndpointIndependent, []k{{true, false}, {false, false}}, overlay.NATPortDependent, "private"},
		{"no stranger tried, nobody gets in", overlay.NATEndpointIndependent, []k{{true, false}, {true, false}}, overlay.NATPortDependent, "private"},
		{"no stranger tried", overlay.NATEndpointIndependent, []k{{true, true}, {true, true}}, overlay.NATUnknown, "unknown"},
		{"no stranger tried, no NAT", overlay.NATNone, []k{{true, true}}, overlay.NATUnknown, "public"},
		{"a firewall", overlay.NATNone, []k{{true, false}, {false, false}}, overlay.NATPortDependent, "private"},
		{"a stranger alone, in vain", overlay.NATNone, []k{{false, false}}, overlay.NATUnknown, "unknown"},
	} {
		if got, reach := relay.FilteringOf(tt.mapping, tt.knocks...); got != tt.want || reach != tt.reach {
			t.Errorf("filtering, %s: %s and %s, want %s and %s", tt.name, got, reach, tt.want, tt.reach)
		}
	}
}

// TestTelling: what counts is what the internet sees.
func TestTelling(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ seen, want string }{
		{"", ""},
		{"127.0.0.1", "127.0.0.1"},
		{"192.168.1.2 45.10.1.2 10.0.0.1 45.10.1.3", "45.10.1.2 45.10.1.3"},
		{"2a00::1 192.168.1.2", "2a00::1"},
		{"2a00::1 45.10.1.2", "45.10.1.2"},
		{"::1 127.0.0.1", "127.0.0.1"},
		{"::1", "::1"},
	} {
		if got := strings.Join(relay.Telling(strings.Fields(tt.seen)...), " "); got != tt.want {
			t.Errorf("of %q: %q, want %q", tt.seen, got, tt.want)
		}
	}
}
