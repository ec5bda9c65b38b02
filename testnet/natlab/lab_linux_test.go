package natlab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// needLab skips where there can be no lab, with the reason.
func needLab(t *testing.T) {
	t.Helper()
	if missing := Missing(); missing != "" {
		t.Skip(missing)
	}
}

// open builds a topology without processes.
func open(t *testing.T, topology Topology) *Lab {
	t.Helper()
	needLab(t)
	l, err := Open(t.Context(), topology, "none", 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// socket is a UDP socket at a place of a lab.
type socket struct {
	*net.UDPConn
	t *testing.T
}

func (l *Lab) socket(t *testing.T, place string, port uint16) socket {
	t.Helper()
	var s socket
	err := l.box.inside(place, func() (err error) {
		s.UDPConn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.t = t
	return s
}

func (s socket) send(to netip.AddrPort, text string) {
	s.t.Helper()
	if _, err := s.WriteToUDPAddrPort([]byte(text), to); err != nil {
		s.t.Fatal(err)
	}
}

// receive returns where the next packet came from, which must be text.
func (s socket) receive(text string) netip.AddrPort {
	s.t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		s.t.Fatalf("waiting for %q: %v", text, err)
	}
	if got := string(b[:n]); got != text {
		s.t.Fatalf("received %q, want %q", got, text)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// TestNATs shows that the lab's NATs are what they are called: what follows from
// a scenario is worth as much as this.
func TestNATs(t *testing.T) {
	const port = 4001
	pillar1, pillar2 := netip.AddrPortFrom(pillarAddr(0), port), netip.AddrPortFrom(pillarAddr(1), port)
	l := open(t, Topology{Pillars: 2, Gateways: []Gateway{
		{NAT: Cone, Egress: Everything, Behind: []string{"cone", "neighbour"}},
		{NAT: Symmetric, Egress: Everything, Behind: []string{"symmetric"}},
		{NAT: Cone, Egress: NoUDP, Behind: []string{"no-udp"}},
		{NAT: Cone, Egress: WebOnly, Behind: []string{"web-only"}},
	}})
	p1, p2 := l.socket(t, "pillar-1", port), l.socket(t, "pillar-2", port)

	t.Run("cone", func(t *testing.T) {
		s, neighbour := l.socket(t, "cone", 5001), l.socket(t, "neighbour", 5002)
		s.send(pillar1, "to 1")
		mapped := p1.receive("to 1")
		if want := netip.AddrPortFrom(gatewayAddr(0), 5001); mapped != want {
			t.Errorf("mapped to %s, want %s", mapped, want)
		}
		// Filtering is address and port-dependent, and there is no hairpin: what
		// was not called for, from outside or from the neighbour, would arrive
		// before what was, and does not.
		p2.send(mapped, "uncalled")
		l.socket(t, "pillar-1", port+1).send(mapped, "uncalled, from another port")
		neighbour.send(mapped, "hairpin")
		p1.send(mapped, "answer")
		s.receive("answer")
		s.send(pillar2, "to 2")
		if again := p2.receive("to 2"); again != mapped {
			t.Errorf("mapped to %s for another destination, want %s still", again, mapped)
		}
		p2.send(mapped, "answer of 2")
		s.receive("answer of 2")
		// Neighbours reach each other.
		neighbour.send(netip.AddrPortFrom(lanAddr(0, 0), 5001), "near")
		s.receive("near")
	})

	t.Run("symmetric", func(t *testing.T) {
		s := l.socket(t, "symmetric", 5001)
		s.send(pillar1, "to 1")
		s.send(pillar2, "to 2")
		m1, m2 := p1.receive("to 1"), p2.receive("to 2")
		if m1 == m2 || m1.Port() == 5001 || m2.Port() == 5001 {
			t.Errorf("mapped to %s and %s, want random ports for each", m1, m2)
		}
		p2.send(m1, "from another address")
		p1.send(m1, "answer")
		s.receive("answer")
	})

	t.Run("no udp", func(t *testing.T) {
		l.socket(t, "no-udp", 5001).send(pillar1, "blocked")
		l.socket(t, "cone", 5003).send(pillar1, "open")
		p1.receive("open")
	})

	t.Run("tcp", func(t *testing.T) {
		for _, port := range []string{"443", "4001"} {
			var listener net.Listener
			err := l.box.inside("pillar-1", func() (err error) {
				listener, err = net.Listen("tcp4", net.JoinHostPort("0.0.0.0", port))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
		}
		for _, tt := range []struct {
			place, to string
			want      bool
		}{
			{"cone", pillarAddr(0).String() + ":4001", true},
			{"no-udp", pillarAddr(0).String() + ":4001", true},
			{"web-only", pillarAddr(0).String() + ":443", true},
			{"web-only", pillarAddr(0).String() + ":4001", false},
			{"pillar-2", gatewayAddr(0).String() + ":443", false}, // silent, not refused
			{"pillar-2", "1.1.1.1:443", false},                    // there is no way out
			{"cone", "1.1.1.1:443", false},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if !tt.want {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			conn, err := l.box.dial(tt.place)(ctx, "tcp4", tt.to)
			cancel()
			if err == nil {
				conn.Close()
			}
			if ok := err == nil; ok != tt.want {
				t.Errorf("%s to %s: %v, want success %t", tt.place, tt.to, err, tt.want)
			}
			var timeout net.Error
			if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
				t.Errorf("%s to %s: %v, want silence", tt.place, tt.to, err)
			}
		}
	})

	t.Run("move", func(t *testing.T) {
		s := l.socket(t, "cone", 5004)
		s.send(pillar1, "before")
		old := p1.receive("before")
		if err := l.Move(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		p1.send(old, "to the old address")
		s.send(pillar1, "after")
		mapped := p1.receive("after")
		if want := netip.AddrPortFrom(movedAddr(0, 1), 5004); mapped != want {
			t.Errorf("mapped to %s, want %s", mapped, want)
		}
		p1.send(mapped, "answer")
		s.receive("answer")
	})

	t.Run("forget", func(t *testing.T) {
		s := l.socket(t, "cone", 5005)
		s.send(pillar1, "hello")
		mapped := p1.receive("hello")
		if err := l.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		p1.send(mapped, "forgotten")
		s.send(pillar2, "hello again")
		p2.send(p2.receive("hello again"), "answer")
		s.receive("answer")
	})
}

// TestSweep: what a lab that died left is removed by the next, processes too,
// and a lab that lives is left alone.
func TestSweep(t *testing.T) {
	needLab(t)
	living := open(t, Topology{Pillars: 1})
	died, err := newSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := died.add(t.Context(), "left"); err != nil {
		t.Fatal(err)
	}
	line := append(died.exec("left"), "sleep", "60")
	left := exec.Command(line[0], line[1:]...)
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	// ip enters the namespace before it becomes sleep.
	for inside := false; !inside; {
		out, err := exec.Command("ip", "netns", "pids", died.name("left")).Output()
		if err != nil {
			t.Fatal(err)
		}
		inside = len(strings.Fields(string(out))) > 0
	}
	died.lock.Close() // as the kernel does when a process dies

	next := open(t, Topology{})
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("a process that a dead lab left still runs")
	}
	for _, path := range []string{died.dir, filepath.Join(netnsDir, died.name("left")), died.lock.Name()} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	for _, path := range []string{living.box.dir, filepath.Join(netnsDir, living.box.name("pillar-1")), living.box.lock.Name(), next.box.dir} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("of a lab that lives: %v", err)
		}
	}
}

// TestScenario plays the quickest of what must hold with the real binary. The
// whole table is the lab command's.
func TestScenario(t *testing.T) {
	needLab(t)
	if testing.Short() {
		t.Skip("starts real processes; not with -short")
	}
	binary := build(t)
	for _, s := range Scenarios {
		if s.Name != "cone-quic" {
			continue
		}
		r, err := Play(t.Context(), s, Options{Binary: binary, Runs: 1, Seed: 1, After: func(_ Scenario, r Run, l *Lab) {
			if len(r.Failures) == 0 {
				return
			}
			for _, p := range l.Processes() {
				t.Logf("%s:\n%s", p.Name, p.LogTail())
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range r.Runs {
			t.Logf("%+v", run)
		}
		if !r.OK() {
			t.Errorf("%s: %v", s.Name, r.Failures)
		}
	}
}

// build makes the real binary.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "obelisk")
	out, err := exec.Command("go", "build", "-o", binary, "github.com/obelisk-network/obelisk/cmd/obelisk").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
