package gossip_test

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a network of pillars in memory.
type world struct {
	t      testing.TB
	net    *memnet.Network
	key    *identity.NetworkKey
	author *replicatest.Author
	member bool // with memberlist
}

func newWorld(t testing.TB, opts ...memnet.Option) *world {
	w := &world{t: t, net: memnet.New(opts...), key: identity.NewNetworkKey()}
	w.author = replicatest.NewAuthor(t, w.key.ID(), time.Now)
	return w
}

// pillar is one process: a disk, a host, a Mesh.
type pillar struct {
	w    *world
	key  *identity.PillarKey
	disk *replicatest.Memory
	// records is what is asked for single records; nil: disk.
	records gossip.Records
	// replica is what is replicated for; nil: disk.
	replica gossip.Replica
	roster  *overlay.Roster
	host    *memnet.Host
	mesh    *gossip.Mesh
	reg     *prometheus.Registry
	stop    func()
	addr    string
	now     func() time.Time
	admit   time.Duration
	every   time.Duration // between audit rounds; 0: as usual
	omit    uint64        // bits that short IDs lack
	record  atomic.Pointer[overlay.Record]
	config  func(*gossip.Config) // changes it before the start
	opened  atomic.Int64         // sessions and follows that it opened
}

// pillar makes a pillar that does not run yet.
func (w *world) pillar() *pillar {
	key := identity.NewPillarKey()
	return &pillar{w: w, key: key, disk: replicatest.NewMemory(w.key.ID(), key), now: time.Now, admit: 20 * 24 * time.Hour,
		roster: overlay.NewRoster(overlay.NewVerifier(w.key.ID()))}
}

// start runs the pillar, knowing bootstrap.
func (p *pillar) start(bootstrap ...*pillar) *pillar {
	t := p.w.t
	t.Helper()
	p.host = p.w.net.Host(peer.ID(p.key.ID()), p.addr)
	p.renew()
	p.reg = prometheus.NewRegistry()
	cfg := gossip.Config{
		Network: p.w.key.ID(), Key: p.key, Links: countedLinks{p.host, &p.opened}, Packets: p.host, Peers: p.host, Roster: p.roster,
		Replica: cmp.Or[gossip.Replica](p.replica, p.disk), Records: cmp.Or[gossip.Records](p.records, p.disk), Notes: p.disk, Registerer: p.reg, Now: p.now,
		Own: p.record.Load, AuditEvery: p.every,
	}
	cfg.OmitShort(p.omit)
	if testing.Verbose() && os.Getenv("GOSSIP_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("self", p.key.ID().String()[45:])
	}
	for _, b := range bootstrap {
		cfg.Bootstrap = append(cfg.Bootstrap, b.where())
	}
	if !p.w.member {
		cfg.WithoutMember()
	}
	if p.config != nil {
		p.config(&cfg)
	}
	mesh, err := gossip.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.mesh = mesh
	p.disk.SetMesh(mesh)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mesh.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		p.host.Shutdown()
	}
	t.Cleanup(p.stop)
	return p
}

// renew makes a new record of the pillar.
func (p *pillar) renew() *overlay.Record {
	rec := replicatest.PillarRecord(p.w.t, p.w.key, p.key, p.now(), p.admit, p.host.Addrs()...)
	p.record.Store(rec)
	p.roster.Add(uint64(p.now().UnixMilli()), true, rec.Raw)
	return rec
}

// restart runs the pillar again over its disk and roster, at a fresh address.
func (p *pillar) restart(bootstrap ...*pillar) {
	p.stop()
	p.disk = p.disk.Reopen()
	old := p.roster
	p.roster = overlay.NewRoster(overlay.NewVerifier(p.w.key.ID()))
	p.roster.Add(uint64(p.now().UnixMilli()), true, old.Records()...)
	p.start(bootstrap...)
}

func (p *pillar) where() overlay.PillarAddr {
	return overlay.PillarAddr{Pillar: p.key.ID(), Addr: p.host.Addrs()[0]}
}

func (p *pillar) id() peer.ID { return peer.ID(p.key.ID()) }

// submit has n fresh messages accepted in one commit.
func (p *pillar) submit(n int) overlay.Position {
	p.w.t.Helper()
	return p.disk.Submit(p.w.author.Messages(p.w.t, n)...)
}

// count reads a counter or gauge, all labels summed unless one is given.
func (p *pillar) count(name string, label ...string) (sum float64) {
	p.w.t.Helper()
	families, err := p.reg.Gather()
	if err != nil {
		p.w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "obelisk_gossip_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(label) == 0 || len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == label[0] {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// until waits, in the bubble's time, for cond.
func until(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// converged reports whether all hold the same logs to the same hashes.
func converged(all ...*pillar) bool {
	want := all[0].disk.Vector().Hash()
	for _, p := range all[1:] {
		if p.disk.Vector().Hash() != want {
			return false
		}
	}
	return true
}

// meshed reports whether everybody has a session with everybody.
func meshed(all ...*pillar) bool {
	for _, p := range all {
		n := 0
		for _, st := range p.mesh.Pillars() {
			if st.State == overlay.PillarAlive {
				n++
			}
		}
		if n != len(all)-1 {
			return false
		}
	}
	return true
}

// fill makes p say that its disk is full while full is set.
func (p *pillar) fill(full *atomic.Bool) {
	p.config = func(c *gossip.Config) { c.Full = func() bool { return full.Load() } }
}
