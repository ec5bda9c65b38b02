package natlab

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Path is what the internet does to a packet on its way, in each direction.
type Path struct {
	// Delay is how long it takes at least.
	Delay time.Duration
	// Jitter is how much longer it takes at most, evenly spread. Packets from one
	// address to another never overtake each other: on real paths that is rare,
	// and TCP would take it for loss.
	Jitter time.Duration
	// Loss is the share of packets that are lost, 0 to 1, each by itself.
	Loss float64
}

// Traffic is what went from one public address to another, and arrived.
type Traffic struct {
	Packets uint64
	Bytes   uint64
}

// Dropped counts the packets that the Router did not deliver.
type Dropped struct {
	Lost      uint64 // by Path.Loss
	Nowhere   uint64 // nobody has the destination: the internet's usual silence
	Foreign   uint64 // the source is not the sender's address
	Overflow  uint64 // more than maxWaiting were on their way to one address
	Malformed uint64 // no IPv4 packet
}

const (
	// maxWaiting is how many packets may be on their way to one address; what
	// comes then is dropped, as a full buffer on the way does.
	maxWaiting = 16 << 10
	// maxPacket is the largest IPv4 packet.
	maxPacket = 64 << 10
)

// Router is the internet of a lab: it carries IPv4 packets between devices,
// each of which has one public address, with the delay, jitter and loss of one
// Path. It routes by destination and believes no source that is not the
// sender's own, as access providers do. Everything is in user space: there is
// no way out. All methods may be called from many goroutines.
//
// For each device it owns one goroutine that reads and one that writes.
type Router struct {
	work sync.WaitGroup

	mu      sync.Mutex
	path    Path                        // guarded by mu
	random  *rand.Rand                  // guarded by mu
	wires   map[netip.Addr]*wire        // guarded by mu
	traffic map[[2]netip.Addr]Traffic   // guarded by mu
	last    map[[2]netip.Addr]time.Time // guarded by mu; when the latest packet of a direction is due
	dropped Dropped                     // guarded by mu
	arrived uint64                      // guarded by mu; numbers packets, so that equal times keep their order
	closed  bool                        // guarded by mu
}

// wire is a device and the packets on their way to it.
type wire struct {
	dev     io.ReadWriteCloser
	waiting schedule      // guarded by Router.mu
	wake    chan struct{} // 1 deep: the first of waiting changed, or the device is gone
	gone    bool          // guarded by Router.mu
}

// NewRouter makes a router with nothing attached. What is random in it comes
// from seed.
func NewRouter(path Path, seed uint64) *Router {
	return &Router{
		path:    path,
		random:  rand.New(rand.NewPCG(seed, seed)),
		wires:   make(map[netip.Addr]*wire),
		traffic: make(map[[2]netip.Addr]Traffic),
		last:    make(map[[2]netip.Addr]time.Time),
	}
}

// Attach connects a device, every Read and Write of which is one IPv4 packet,
// under an address. The router closes it. A device whose Read fails is
// forgotten.
func (r *Router) Attach(addr netip.Addr, dev io.ReadWriteCloser) error {
	w := &wire{dev: dev, wake: make(chan struct{}, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("attach: the router is closed")
	}
	if r.wires[addr] != nil {
		return fmt.Errorf("attach: %s is taken", addr)
	}
	r.wires[addr] = w
	r.work.Go(func() { r.read(w) })
	r.work.Go(func() { r.write(w) })
	return nil
}

// Move gives the device at one address another one. Packets on their way to the
// old one arrive nowhere.
func (r *Router) Move(from, to netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.wires[from]
	if w == nil {
		return fmt.Errorf("move: nobody has %s", from)
	}
	if r.wires[to] != nil {
		return fmt.Errorf("move: %s is taken", to)
	}
	delete(r.wires, from)
	r.wires[to] = w
	r.dropped.Nowhere += uint64(len(w.waiting))
	w.waiting = nil
	return nil
}

// SetPath changes what happens to packets from now on.
func (r *Router) SetPath(p Path) {
	r.mu.Lock()
	r.path = p
	r.mu.Unlock()
}

// Traffic is what has arrived at one address from another.
func (r *Router) Traffic(from, to netip.Addr) Traffic {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.traffic[[2]netip.Addr{from, to}]
}

// Dropped counts what has not arrived.
func (r *Router) Dropped() Dropped {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// Close closes all devices and waits for the router's goroutines.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	for _, w := range r.wires {
		w.end()
	}
	r.mu.Unlock()
	r.work.Wait()
}

// end closes the device, once. Router.mu is held.
func (w *wire) end() {
	if !w.gone {
		w.gone = true
		_ = w.dev.Close() // nothing is left to be written to it
		w.nudge()
	}
}

func (w *wire) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// read takes what a device sends until it cannot be read.
func (r *Router) read(w *wire) {
	buf := make([]byte, maxPacket)
	for {
		n, err := w.dev.Read(buf)
		if err != nil {
			break
		}
		r.forward(w, buf[:n], time.Now())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for addr, other := range r.wires {
		if other == w {
			delete(r.wires, addr)
		}
	}
	w.end()
}

// forward decides what becomes of a packet that w sent at now.
func (r *Router) forward(w *wire, packet []byte, now time.Time) {
	from, to, ok := addresses(packet)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !ok:
		r.dropped.Malformed++
		return
	case r.wires[from] != w:
		r.dropped.Foreign++
		return
	}
	dest := r.wires[to]
	if dest == nil || dest == w {
		r.dropped.Nowhere++
		return
	}
	// The dice are thrown for every packet, so that a run with the same seed
	// differs only where its traffic does.
	lost := r.random.Float64() < r.path.Loss
	due := now.Add(r.path.Delay + time.Duration(r.random.Float64()*float64(r.path.Jitter)))
	if lost {
		r.dropped.Lost++
		return
	}
	if len(dest.waiting) >= maxWaiting {
		r.dropped.Overflow++
		return
	}
	direction := [2]netip.Addr{from, to}
	if last := r.last[direction]; due.Before(last) {
		due = last
	}
	r.last[direction] = due
	r.arrived++
	heap.Push(&dest.waiting, delivery{due: due, order: r.arrived, direction: direction, packet: append([]byte(nil), packet...)})
	if dest.waiting[0].order == r.arrived {
		dest.nudge()
	}
}

// write delivers what is due to a device until that is gone.
func (r *Router) write(w *wire) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, wait, ok := r.next(w, time.Now())
		if !ok {
			return
		}
		if next == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-w.wake:
			}
			continue
		}
		if _, err := w.dev.Write(next); err != nil {
			continue // a device that is down drops packets; one that is closed ends read
		}
	}
}

// next takes the packet that is due at now, or says how long nothing will be.
// It is false when the device is gone.
func (r *Router) next(w *wire, now time.Time) (packet []byte, wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.gone {
		return nil, 0, false
	}
	if len(w.waiting) == 0 {
		return nil, time.Hour, true
	}
	if wait := w.waiting[0].due.Sub(now); wait > 0 {
		return nil, wait, true
	}
	d := heap.Pop(&w.waiting).(delivery)
	t := r.traffic[d.direction]
	t.Packets++
	t.Bytes += uint64(len(d.packet))
	r.traffic[d.direction] = t
	return d.packet, 0, true
}

// addresses reads source and destination of an IPv4 packet (RFC 791).
func addresses(p []byte) (from, to netip.Addr, ok bool) {
	const header = 20
	if len(p) < header || p[0]>>4 != 4 || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
		return from, to, false
	}
	return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), true
}

// delivery is a packet on its way.
type delivery struct {
	due       time.Time
	order     uint64
	direction [2]netip.Addr
	packet    []byte
}

// schedule is a heap of deliveries: the first is the next that is due.
type schedule []delivery

func (s schedule) Len() int { return len(s) }

func (s schedule) Less(i, j int) bool {
	if c := s[i].due.Compare(s[j].due); c != 0 {
		return c < 0
	}
	return s[i].order < s[j].order
}

func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

func (s *schedule) Push(x any) { *s = append(*s, x.(delivery)) }

func (s *schedule) Pop() any {
	old := *s
	last := old[len(old)-1]
	old[len(old)-1] = delivery{}
	*s = old[:len(old)-1]
	return last
}
