package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/obelisk-network/obelisk/testnet"
)

// proxies stand between pillars that talk over QUIC on 127.0.0.1, so that the
// network can be split without root and without the pillars' help: each pillar
// announces its proxy's address, and packets between the halves are dropped
// while the network is cut, as a broken link drops them.
//
//	pillar A ──▶ proxy of B ──(a socket for each flow)──▶ pillar B
//
// Who a flow is from is found out when the network is cut first: by whose process
// the socket belongs to that it came from. Needs /proc.
type proxies struct {
	cut  atomic.Bool
	work sync.WaitGroup

	mu     sync.Mutex
	halves map[int]int // guarded by mu; process ID to half
	open   []*net.UDPConn
}

func newProxies() *proxies { return &proxies{halves: make(map[int]int)} }

// place says in which half a process is.
func (x *proxies) place(p *testnet.Process, half int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.halves[p.PID] = half
}

// flowsMax bounds the flows of one proxy: sockets of other processes that talk
// to its pillar.
const flowsMax = 1024

// announce opens the proxy of a pillar that will listen on a UDP port, and
// returns the address to announce. half is the pillar's.
func (x *proxies) announce(port, half int) (string, error) {
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", err
	}
	_ = in.SetReadBuffer(4 << 20) // as much as the system allows
	x.mu.Lock()
	x.open = append(x.open, in)
	x.mu.Unlock()
	x.work.Go(func() { x.serve(in, port, half) })
	return fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", in.LocalAddr().(*net.UDPAddr).Port), nil
}

// flow is the packets between one socket and one pillar.
type flow struct {
	from *net.UDPAddr
	half int // the pillar's
	out  *net.UDPConn
	side atomic.Int32 // flowUnknown until it matters
}

const (
	flowUnknown = iota
	flowWithin  // one half
	flowAcross
)

// blocked reports whether the flow's packets are dropped now.
func (x *proxies) blocked(f *flow) bool {
	if !x.cut.Load() {
		return false
	}
	if f.side.Load() == flowUnknown {
		side := int32(flowAcross)
		if x.halfOf(f.from) == f.half {
			side = flowWithin
		}
		f.side.Store(side)
	}
	return f.side.Load() == flowAcross
}

// serve forwards what comes to a proxy until close.
func (x *proxies) serve(in *net.UDPConn, port, half int) {
	flows := make(map[string]*flow)
	defer func() {
		for _, f := range flows {
			f.out.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := in.ReadFromUDP(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a packet was refused at its target: it is lost
		}
		f := flows[from.String()]
		if f == nil && len(flows) < flowsMax {
			if f = x.flow(in, from, port, half); f != nil {
				flows[from.String()] = f
			}
		}
		if f != nil && !x.blocked(f) {
			_, _ = f.out.Write(buf[:n]) // lost if it cannot be
		}
	}
}

// flow opens the way for the packets of one socket, and back; nil if it cannot.
func (x *proxies) flow(in *net.UDPConn, from *net.UDPAddr, port, half int) *flow {
	out, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return nil
	}
	_ = out.SetReadBuffer(4 << 20)
	f := &flow{from: from, half: half, out: out}
	x.work.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				continue // the pillar is down
			case err != nil:
				return
			case !x.blocked(f):
				_, _ = in.WriteToUDP(buf[:n], from) // lost if it cannot be
			}
		}
	})
	return f
}

// halfOf returns the half of the process that a local address belongs to; -1 if
// it is none that was placed.
func (x *proxies) halfOf(addr *net.UDPAddr) int {
	inode := udpInode(addr.Port)
	if inode == "" {
		return -1
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for pid, half := range x.halves {
		if owns(pid, inode) {
			return half
		}
	}
	return -1
}

// close ends all proxies.
func (x *proxies) close() {
	x.mu.Lock()
	for _, c := range x.open {
		c.Close()
	}
	x.mu.Unlock()
	x.work.Wait()
}

// udpInode names the socket that has a UDP port of this machine, as
// /proc/net/udp does.
func udpInode(port int) string {
	want := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) > 9 && strings.HasSuffix(fields[1], want) {
				f.Close()
				return fields[9]
			}
		}
		f.Close()
	}
	return ""
}

// owns reports whether a process has the socket with this inode open.
func owns(pid int, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(dir + "/" + fd.Name()); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
