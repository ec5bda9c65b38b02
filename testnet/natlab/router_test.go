package natlab

import (
	"encoding/binary"
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	here  = netip.MustParseAddr("45.10.1.2")
	there = netip.MustParseAddr("45.10.2.2")
	other = netip.MustParseAddr("45.10.3.2")
)

// pipe is a device in memory: sent is what the test sends into the router, got
// what comes out of it, with the time.
type pipe struct {
	sent chan []byte
	gone chan struct{}
	once sync.Once

	mu  sync.Mutex
	got []landing // guarded by mu
}

type landing struct {
	at     time.Time
	number uint32
}

func newPipe() *pipe { return &pipe{sent: make(chan []byte), gone: make(chan struct{})} }

func (p *pipe) Read(b []byte) (int, error) {
	select {
	case packet := <-p.sent:
		return copy(b, packet), nil
	case <-p.gone:
		return 0, io.EOF
	}
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, landing{at: time.Now(), number: binary.BigEndian.Uint32(b[20:])})
	return len(b), nil
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.gone) })
	return nil
}

func (p *pipe) arrivals() []landing {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]landing(nil), p.got...)
}

// numbered is an IPv4 packet with a number as its payload.
func numbered(from, to netip.Addr, n uint32) []byte {
	b := make([]byte, 24)
	b[0] = 4<<4 | 5
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint32(b[20:], n)
	return b
}

// internet is a router with a pipe at each address.
func internet(t *testing.T, path Path, addrs ...netip.Addr) (*Router, []*pipe) {
	t.Helper()
	r := NewRouter(path, 1)
	var pipes []*pipe
	for _, a := range addrs {
		p := newPipe()
		if err := r.Attach(a, p); err != nil {
			t.Fatal(err)
		}
		pipes = append(pipes, p)
	}
	return r, pipes
}

func TestRouterDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := Path{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond}
		r, p := internet(t, path, here, there, other)
		defer r.Close()
		const count = 500
		sent := make([]time.Time, count)
		for i := range count {
			sent[i] = time.Now()
			p[0].sent <- numbered(here, there, uint32(i))
			time.Sleep(time.Millisecond) // virtual: packets that jitter could let overtake
		}
		time.Sleep(time.Second)
		got := p[1].arrivals()
		if len(got) != count {
			t.Fatalf("%d of %d packets arrived", len(got), count)
		}
		slow := 0
		for i, a := range got {
			if a.number != uint32(i) {
				t.Fatalf("packet %d came as number %d", a.number, i)
			}
			took := a.at.Sub(sent[i])
			if took < path.Delay || took > path.Delay+path.Jitter {
				t.Errorf("packet %d took %v, want %v to %v", i, took, path.Delay, path.Delay+path.Jitter)
			}
			if took > path.Delay+path.Jitter/2 {
				slow++
			}
		}
		if slow < count/4 {
			t.Errorf("%d of %d packets took more than the middle of the jitter", slow, count)
		}
		if n := len(p[0].arrivals()) + len(p[2].arrivals()); n != 0 {
			t.Errorf("%d packets came where they were not sent", n)
		}
		if want := (Traffic{Packets: count, Bytes: count * 24}); r.Traffic(here, there) != want || r.Traffic(there, here) != (Traffic{}) {
			t.Errorf("traffic %v there and %v back, want %v and none", r.Traffic(here, there), r.Traffic(there, here), want)
		}
	})
}

func TestRouterLoses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, p := internet(t, Path{Loss: 0.03}, here, there)
		defer r.Close()
		const count = 10_000
		for i := range count {
			p[0].sent <- numbered(here, there, uint32(i))
		}
		time.Sleep(time.Second)
		got, lost := len(p[1].arrivals()), int(r.Dropped().Lost)
		if got+lost != count {
			t.Errorf("%d arrived and %d lost of %d", got, lost, count)
		}
		if lost < 240 || lost > 360 { // 3.5 standard deviations
			t.Errorf("%d of %d lost, want about 3 %%", lost, count)
		}
		r.SetPath(Path{})
		p[0].sent <- numbered(here, there, count)
		time.Sleep(time.Millisecond)
		if len(p[1].arrivals()) != got+1 {
			t.Error("a packet was lost on a path without loss")
		}
	})
}

func TestRouterDrops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, p := internet(t, Path{}, here, there)
		defer r.Close()
		v6 := numbered(here, there, 1)
		v6[0] = 6 << 4
		short := numbered(here, there, 1)[:19]
		lying := numbered(here, there, 1)
		lying[3]++
		for _, packet := range [][]byte{
			numbered(here, other, 1), numbered(here, here, 1), // nowhere
			numbered(there, here, 1), numbered(other, there, 1), // foreign
			v6, short, lying, {}, // malformed
		} {
			p[0].sent <- packet
		}
		time.Sleep(time.Second)
		if got, want := r.Dropped(), (Dropped{Nowhere: 2, Foreign: 2, Malformed: 4}); got != want {
			t.Errorf("dropped %+v, want %+v", got, want)
		}
		if n := len(p[0].arrivals()) + len(p[1].arrivals()); n != 0 {
			t.Errorf("%d arrived", n)
		}
		r.SetPath(Path{Delay: time.Hour})
		for i := range maxWaiting + 3 {
			p[0].sent <- numbered(here, there, uint32(i))
		}
		synctest.Wait()
		if got := r.Dropped().Overflow; got != 3 {
			t.Errorf("%d dropped because too many were on their way, want 3", got)
		}
	})
}

func TestRouterMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, p := internet(t, Path{Delay: time.Second}, here, there)
		defer r.Close()
		if err := r.Attach(here, newPipe()); err == nil {
			t.Error("an address was given twice")
		}
		if err := r.Move(here, there); err == nil {
			t.Error("a device moved to an address that is taken")
		}
		p[1].sent <- numbered(there, here, 1) // on its way when here moves
		time.Sleep(time.Millisecond)
		if err := r.Move(here, other); err != nil {
			t.Fatal(err)
		}
		p[0].sent <- numbered(here, there, 2)  // no longer its address
		p[0].sent <- numbered(other, there, 3) // its new one
		p[1].sent <- numbered(there, here, 4)  // nobody's
		p[1].sent <- numbered(there, other, 5)
		time.Sleep(2 * time.Second)
		if got := p[0].arrivals(); len(got) != 1 || got[0].number != 5 {
			t.Errorf("the moved device got %v, want 5 alone", got)
		}
		if got := p[1].arrivals(); len(got) != 1 || got[0].number != 3 {
			t.Errorf("the other got %v, want 3 alone", got)
		}
		if got, want := r.Dropped(), (Dropped{Nowhere: 2, Foreign: 1}); got != want {
			t.Errorf("dropped %+v, want %+v", got, want)
		}
		if err := r.Move(here, netip.MustParseAddr("45.10.4.2")); err == nil {
			t.Error("a device moved from an address that nobody has")
		}
	})
}

// A device that is gone is forgotten, and its address is free.
func TestRouterForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, p := internet(t, Path{}, here, there)
		p[1].Close()
		synctest.Wait()
		again := newPipe()
		if err := r.Attach(there, again); err != nil {
			t.Fatal(err)
		}
		p[0].sent <- numbered(here, there, 1)
		time.Sleep(time.Millisecond)
		if len(again.arrivals()) != 1 || len(p[1].arrivals()) != 0 {
			t.Error("the packet did not come to the device that has the address now")
		}
		r.Close()
		if err := r.Attach(other, newPipe()); err == nil {
			t.Error("a closed router took a device")
		}
		r.Close()
	})
}
