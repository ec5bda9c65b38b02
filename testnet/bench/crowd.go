package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// A crowd is many devices that are connected and do nothing. They keep their
// sessions as overlay's nodes do: asking the pillar's host for a sign of life
// from time to time, dialling again at once when it gave none, and with growing,
// spread pauses after that.

const (
	crowdDialers  = 16               // devices that connect at the same time at first
	crowdOpen     = 10 * time.Second // for an attempt, more if it is not the first
	crowdLook     = 15 * time.Second // between signs of life asked for
	crowdPatience = 4 * time.Second  // the most a node has: all share these processors
	crowdBackoff  = time.Second
	crowdMost     = time.Minute
	stormLimit    = 10 * time.Minute // then it counts as failed
)

// crowd makes devices that share one sealing key: nobody writes to them.
func (b *bench) crowd(ctx context.Context, n int) ([]*device, error) {
	st, err := b.pillars[0].PillarStatus(ctx)
	if err != nil {
		return nil, err
	}
	network, err := identity.ParseNetwork(st.Network)
	if err != nil {
		return nil, err
	}
	ring, key, err := newRing(filepath.Join(b.work, "sealing-crowd"))
	if err != nil {
		return nil, err
	}
	devices, errs := make([]*device, n), make([]error, n)
	var work sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for i := range next {
				devices[i], errs[i] = newDevice(network, ring, key)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
	for _, d := range devices {
		if d != nil {
			b.devices = append(b.devices, d)
		}
	}
	return devices, errors.Join(errs...)
}

// closeDevices ends all devices of the bench, several at once.
func (b *bench) closeDevices() error {
	errs := make([]error, len(b.devices))
	var work sync.WaitGroup
	places := make(chan struct{}, crowdDialers)
	for i, d := range b.devices {
		places <- struct{}{}
		work.Go(func() {
			errs[i] = d.close()
			<-places
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// place has the pillars of a bench with --address listen there.
func (b *bench) place(role, _ string) testnet.Place {
	if role != testnet.RolePillar || b.address == "" {
		return testnet.Place{}
	}
	port := 0
	if u, err := net.ListenPacket("udp", net.JoinHostPort(b.address, "0")); err == nil { // else the pillar says why
		port = u.LocalAddr().(*net.UDPAddr).Port
		_ = u.Close()
	}
	var p testnet.Place
	if b.transport != "tcp" {
		p.Listen = append(p.Listen, fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", b.address, port))
	}
	if b.transport != "quic" {
		p.Listen = append(p.Listen, fmt.Sprintf("/ip4/%s/tcp/%d", b.address, port))
	}
	if b.perIP > 0 {
		p.Args = []string{"--per-ip", fmt.Sprint(b.perIP)}
	}
	return p
}

// stormResult is what --mode storm prints: how a pillar that was killed and
// started again gets its crowd back.
type stormResult struct {
	Nodes       int     `json:"nodes"`
	DownS       float64 `json:"down_s"`     // from the kill until it is ready again
	AllBackS    float64 `json:"all_back_s"` // from then until all sessions are registered again
	HalfBackS   float64 `json:"half_back_s"`
	Refused     int64   `json:"attempts_failed"`
	PillarCPUS  float64 `json:"pillar_cpu_s"` // its CPU time for that
	ClientCPUS  float64 `json:"client_cpu_s"`
	CPUMSPer    float64 `json:"pillar_cpu_ms_per_node"`
	RSSMB       float64 `json:"pillar_rss_mb"`
	FirstS      float64 `json:"first_s"` // how long the first connecting took, without a storm
	Transport   string  `json:"transport"`
	Address     string  `json:"address"`
	LoadAverage string  `json:"load_average"` // of the machine, before
	Mode        string  `json:"mode"`
	Machine     string  `json:"machine"`
}

// String is the table for people.
func (r *stormResult) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "storm\t%d devices of one pillar, killed (-9) and started again, transport %s, at %s\n", r.Nodes, r.Transport, r.Address)
	fmt.Fprintf(w, "back\tall %.1f s, half of them %.1f s after it was ready, which took %.1f s\n", r.AllBackS, r.HalfBackS, r.DownS)
	fmt.Fprintf(w, "CPU\t%.1f s of the pillar, %.2f ms a device; %.1f s of the devices\n", r.PillarCPUS, r.CPUMSPer, r.ClientCPUS)
	fmt.Fprintf(w, "attempts that failed\t%d\n", r.Refused)
	fmt.Fprintf(w, "machine\t%s, load average before %s\n", r.Machine, r.LoadAverage)
	w.Flush()
	return b.String()
}

// keeper keeps the sessions of a crowd.
type keeper struct {
	pillar pillar
	up     atomic.Int64
	failed atomic.Int64
	work   sync.WaitGroup
}

// storm kills the pillar under a crowd and starts it again.
func (b *bench) storm(ctx context.Context) (*stormResult, error) {
	devices, err := b.crowd(ctx, b.nodes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	k := &keeper{pillar: b.addrs[0]}
	defer k.work.Wait()
	defer cancel()
	r := &stormResult{Nodes: b.nodes, Transport: b.transport, Address: b.address, LoadAverage: loadAverage(), Mode: "storm", Machine: machine()}
	began := time.Now()
	places := make(chan struct{}, crowdDialers) // at first they come one after the other
	for _, d := range devices {
		k.work.Go(func() { k.keep(ctx, d, places) })
	}
	n := int64(b.nodes)
	if err := k.wait(ctx, n); err != nil {
		return nil, err
	}
	r.FirstS = round(time.Since(began).Seconds(), 1)
	k.failed.Store(0)
	p := b.pillars[0]
	killed := time.Now()
	if err := p.Kill(ctx); err != nil {
		return nil, err
	}
	first := measure(nil)
	if err := p.Restart(ctx); err != nil {
		return nil, err
	}
	ready := time.Now()
	r.DownS = round(ready.Sub(killed).Seconds(), 1)
	half := false
	err = testnet.Until(ctx, func() string {
		if time.Since(ready) > stormLimit {
			return ""
		}
		st, err := p.PillarStatus(ctx)
		if err != nil {
			return err.Error()
		}
		back := int64(st.NodesConnected)
		if !half && back >= n/2 {
			half, r.HalfBackS = true, round(time.Since(ready).Seconds(), 1)
		}
		if back < n {
			return fmt.Sprintf("%d of %d devices are back", back, n)
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(ready)
	if took > stormLimit {
		return nil, fmt.Errorf("not all of %d devices came back within %v", n, stormLimit)
	}
	r.AllBackS, r.Refused = round(took.Seconds(), 1), k.failed.Load()
	cpu := cpuTime(p.PID)
	r.PillarCPUS, r.ClientCPUS = round(cpu.Seconds(), 1), round((measure(nil).self-first.self).Seconds(), 1)
	r.CPUMSPer = round(cpu.Seconds()*1000/float64(n), 2)
	r.RSSMB = megabytes(rss(p.PID))
	return r, nil
}

// wait waits until n sessions are up.
func (k *keeper) wait(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, stormLimit)
	defer cancel()
	return testnet.Until(ctx, func() string {
		if up := k.up.Load(); up < n {
			return fmt.Sprintf("%d of %d devices are connected, %d attempts failed", up, n, k.failed.Load())
		}
		return ""
	})
}

// keep keeps one device's session until ctx ends. places bounds the first
// attempts only.
func (k *keeper) keep(ctx context.Context, d *device, places chan struct{}) {
	id := peer.ID(k.pillar.id)
	first := true
	for tries := 0; ctx.Err() == nil; {
		if first {
			places <- struct{}{}
		}
		octx, cancel := context.WithTimeout(ctx, crowdOpen<<min(tries, 2))
		s, err := d.dial(octx, k.pillar)
		cancel()
		if first {
			<-places
		}
		if err != nil {
			k.failed.Add(1)
			sleep(ctx, spread(min(crowdMost, crowdBackoff<<min(tries, 6))))
			tries++
			continue
		}
		first, tries = false, 0
		k.up.Add(1)
		silent := k.watch(ctx, d, s)
		k.up.Add(-1)
		_ = d.host.Close(id)
		if !silent { // the pillar went, and nobody is the only one to lose it
			sleep(ctx, spread(crowdBackoff))
		}
	}
}

// watch returns when the session is over, and whether that was silence.
func (k *keeper) watch(ctx context.Context, d *device, s *session) (silent bool) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		if s.write(&overlay.Resume{Box: overlay.BoxMail, Live: true}) == nil {
			s.discard()
		}
	}()
	defer func() {
		_ = s.stream.Reset()
		<-over
	}()
	timer := time.NewTimer(rand.N(crowdLook))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over:
			return false
		case <-timer.C:
		}
		pctx, cancel := context.WithTimeout(ctx, crowdPatience)
		err := d.host.Probe(pctx, peer.ID(k.pillar.id))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, overlay.ErrUnreachable) {
			return true
		}
		timer.Reset(crowdLook)
	}
}

// spread is between half of d and one and a half.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d) }

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
