package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// pillar is a pillar: keys and a disk that outlive its processes.
type pillar struct {
	w    *world
	name string
	key  *identity.PillarKey
	home string // the address that others were given by hand
	addr string // where it is
	disk *disk
	skew atomic.Int64 // its clock minus the world's, in ns
	lies lies

	past  effort      // of its earlier processes
	wrong *wrongClock // the driver's; nil while its clock is right enough
	dying bool        // the driver's: it is to lose its power
	proc  *process    // nil while it is down; world.mu guards it against others than the driver
}

// process is one run of a pillar.
//
//	mount (disk) ◄── overlay.Pillar ◄──► gossip.Mesh
//	                      │                  │
//	                      └──── memnet.Host ─┘
type process struct {
	host  *memnet.Host
	mount *mount
	core  *overlay.Pillar
	mesh  *gossip.Mesh
	met   *prometheus.Registry
	died  chan struct{} // closed when the power was cut by a commit
	end   func()
}

func (p *pillar) id() peer.ID { return peer.ID(p.key.ID()) }

func (p *pillar) now() time.Time { return time.Now().Add(time.Duration(p.skew.Load())) }

// given is how others are told of the pillar by hand.
func (p *pillar) given() overlay.PillarAddr { return p.at(p.home) }

// where is where the pillar is.
func (p *pillar) where() overlay.PillarAddr {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.at(p.addr)
}

func (p *pillar) at(addr string) overlay.PillarAddr {
	a, err := overlay.ParsePillarAddr(addr + "/p2p/" + p.id().String())
	if err != nil {
		panic(err) // all addresses are made here
	}
	return a
}

// start runs the pillar on its disk as it is.
func (p *pillar) start() error {
	w := p.w
	proc := &process{host: w.net.Host(p.id(), p.addr), met: prometheus.NewRegistry(), died: make(chan struct{})}
	proc.mount = &mount{Memory: p.disk.content, fsync: w.plan.fsync, scrub: w.plan.scrub, cut: func() {
		proc.host.Kill()
		close(proc.died)
	}}
	log := slog.New(slog.DiscardHandler)
	if w.log != nil {
		log = w.log.With("self", p.name)
	}
	core, err := overlay.NewPillar(overlay.PillarConfig{
		Network: w.key.ID(), Key: p.key, Store: proc.mount, Links: proc.host, Peers: proc.host, Name: p.name,
		Admit: func(now uint64) (identity.Admission, error) {
			return w.key.Admit(p.key.ID(), now, now+20*overlay.DayMillis), nil
		},
		Addrs: proc.host.Addrs, Now: p.now, Logger: log, Registerer: proc.met,
	})
	if err != nil {
		proc.host.Shutdown()
		return fmt.Errorf("%s does not start: %w", p.name, err)
	}
	var links overlay.Links = proc.host
	var packets overlay.Packets = proc.host
	if p.lies != (lies{}) {
		c := &crooked{Links: proc.host, packets: proc.host, p: p, lies: p.lies, rng: rand.New(rand.NewPCG(w.plan.seed, 3)),
			history: &histories{p: p, invent: p.lies.invent, network: w.key.ID(), core: core, logs: map[overlay.LogID]*twoFaced{}}}
		links, packets = c, c
	}
	cfg := gossip.Config{
		Network: w.key.ID(), Key: p.key, Links: links, Packets: packets, Peers: proc.host,
		Roster: core.Roster(), Replica: core, Records: core, Notes: core, Own: core.Record, Confirmed: core.ClockConfirmed,
		Now: p.now, Logger: log, Registerer: proc.met,
	}
	for _, other := range w.pillars {
		if other != p && len(cfg.Bootstrap) < 2 {
			cfg.Bootstrap = append(cfg.Bootstrap, other.given())
		}
	}
	mesh, err := gossip.New(cfg)
	if err != nil {
		proc.host.Shutdown()
		return fmt.Errorf("%s does not start: %w", p.name, err)
	}
	proc.core, proc.mesh = core, mesh
	coreCtx, endCore := context.WithCancel(context.Background())
	meshCtx, endMesh := context.WithCancel(context.Background())
	var coreRuns, meshRuns sync.WaitGroup
	coreRuns.Go(func() {
		if err := core.Run(coreCtx, mesh); err != nil {
			w.fail("%s: %v", p.name, err)
		}
	})
	meshRuns.Go(func() {
		if err := mesh.Run(meshCtx); err != nil {
			w.fail("%s: %v", p.name, err)
		}
	})
	proc.end = func() {
		endMesh()
		meshRuns.Wait()
		endCore()
		coreRuns.Wait()
		proc.host.Shutdown()
	}
	w.mu.Lock()
	p.proc, p.dying = proc, false
	w.mu.Unlock()
	return nil
}

// stop ends the process as SIGTERM does.
func (p *pillar) stop() { p.leave().end() }

// leave takes the process away from those that look for one.
func (p *pillar) leave() *process {
	past, err := effortOf(p.proc.met)
	if err != nil {
		p.w.fail("%s: %v", p.name, err)
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	proc := p.proc
	p.proc = nil
	p.past.add(past)
	return proc
}

// kill ends the process as a power cut does, now or at its next commit, should
// one come within a few seconds.
func (p *pillar) kill(at crashPoint) {
	proc := p.proc
	if at != noCrash {
		proc.mount.arm(at)
		select {
		case <-proc.died:
		case <-time.After(5 * time.Second):
			at = noCrash
		}
	}
	proc.mount.powerOff()
	proc.host.Kill()
	p.leave().end()
	switch at {
	case beforeCommit:
		p.w.history.add("%s lost its power just before a commit was durable", p.name)
	case afterCommit:
		p.w.history.add("%s lost its power just after a commit was durable", p.name)
	default:
		p.w.history.add("%s lost its power", p.name)
	}
}
