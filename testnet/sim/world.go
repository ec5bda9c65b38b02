package sim

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// world is the network of one seed.
type world struct {
	plan    *plan
	history *history
	ledger  *ledger
	net     *memnet.Network
	key     *identity.NetworkKey
	pillars []*pillar
	devices []*device
	nodes   []*node
	log     *slog.Logger // nil: pillars log nothing

	mu       sync.Mutex
	failures []string   // guarded by mu
	rng      *rand.Rand // guarded by mu
	moves    int        // guarded by mu; addresses given out later

	work sync.WaitGroup // crashes that wait for a commit
}

// Result is what came of a seed.
type Result struct {
	Seed     uint64
	Plan     string
	Failures []string // what did not hold; none if all did
	History  string   // what happened, in order
	Messages int      // written
	Acked    int      // with the copies that were asked for
	Lost     int      // not there at the end, and excused: too many disks were lost
}

// Options are what a run is told besides its seed.
type Options struct {
	Quiet  bool         // nothing goes wrong, whatever the seed says
	Dir    string       // an empty directory for what is not in memory: sealing keys
	Logger *slog.Logger // what pillars log; nil: nothing
}

// Run lives through a seed and checks what must hold.
func Run(seed uint64, opt Options) *Result {
	plan := newPlan(seed)
	if opt.Quiet {
		plan = quietPlan(seed)
	}
	w := &world{plan: plan, history: &history{began: time.Now()}, ledger: newLedger(), key: identity.NewNetworkKey(),
		log: opt.Logger, rng: rand.New(rand.NewPCG(seed, 2))}
	r := &Result{Seed: seed, Plan: w.plan.String()}
	if err := w.live(r, opt.Dir); err != nil {
		w.fail("%v", err)
	}
	r.Failures, r.History = w.failures, w.history.String()
	return r
}

// live starts everything, has the plan happen, heals, checks and ends all.
func (w *world) live(r *Result, dir string) error {
	w.net = memnet.New(memnet.WithLatency(w.plan.latency), memnet.WithPacketLoss(w.plan.loss, w.plan.jitter, w.plan.seed),
		memnet.WithDialTimeout(5*time.Second))
	for i := range w.plan.pillars {
		home := fmt.Sprintf("/ip4/10.1.0.%d/tcp/4001", i+1)
		w.pillars = append(w.pillars, &pillar{w: w, name: pillarName(i), key: identity.NewPillarKey(), disk: newDisk(),
			home: home, addr: home})
	}
	w.pillars[len(w.pillars)-1].lies = w.plan.lies
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	defer func() {
		cancel()
		clients.Wait()
		w.work.Wait()
		for _, p := range w.pillars {
			if p.proc != nil {
				p.stop()
			}
		}
		time.Sleep(time.Minute) // what memberlist leaves running notices
	}()
	for i, p := range w.pillars {
		if i > 0 && i == w.plan.late {
			continue
		}
		if err := p.start(); err != nil {
			return err
		}
	}
	for i := range w.plan.devices {
		d, err := newDevice(w, fmt.Sprintf("device-%d", i+1), rand.New(rand.NewPCG(w.plan.seed, uint64(100+i))))
		if err != nil {
			return err
		}
		w.devices = append(w.devices, d)
	}
	for i, d := range w.devices {
		rng := rand.New(rand.NewPCG(w.plan.seed, uint64(200+i)))
		clients.Go(func() { d.run(ctx) })
		clients.Go(func() { w.load(ctx, d, rng) })
	}
	if w.plan.nodes {
		for i, name := range []string{"node-1", "node-2"} {
			n, err := newNode(w, name, dir, rand.New(rand.NewPCG(w.plan.seed, uint64(300+i))))
			if err != nil {
				return err
			}
			w.nodes = append(w.nodes, n)
		}
		w.nodes[0].partner, w.nodes[1].partner = w.nodes[1], w.nodes[0]
		for _, n := range w.nodes {
			clients.Go(func() { n.live(ctx) })
		}
	}
	clients.Go(func() { w.backups(ctx) })
	w.happen()
	w.heal()
	w.check(r)
	return nil
}

// happen carries out the plan.
func (w *world) happen() {
	for _, s := range w.plan.steps {
		time.Sleep(time.Until(w.history.began.Add(s.at)))
		w.history.add("%s", s.what)
		s.do(w)
	}
	time.Sleep(time.Until(w.history.began.Add(w.plan.last)))
}

// load writes one device's messages over the time of the plan.
func (w *world) load(ctx context.Context, d *device, rng *rand.Rand) {
	every := w.plan.last / time.Duration(w.plan.messages)
	for range w.plan.messages {
		if !pause(ctx, time.Duration(rng.Int64N(int64(2*every)))) || time.Since(w.history.began) > w.plan.last {
			return
		}
		var to []*device
		for _, other := range w.devices {
			if other != d && (len(to) == 0 || rng.IntN(3) == 0) {
				to = append(to, other)
			}
		}
		life := time.Hour
		if rng.IntN(6) == 0 {
			life = time.Duration(5+rng.IntN(60)) * time.Second
		}
		if err := d.write(rng, to, 1+rng.IntN(min(3, w.plan.pillars)), life); err != nil {
			w.fail("%s: %v", d.name, err)
			return
		}
	}
}

// backups copies every disk now and then.
func (w *world) backups(ctx context.Context) {
	for pause(ctx, 11*time.Second) {
		w.mu.Lock()
		for _, p := range w.pillars {
			p.disk.copy()
		}
		w.mu.Unlock()
	}
}

// fail notes what does not hold.
func (w *world) fail(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.history.add("WRONG: %s", what)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.failures) < 50 {
		w.failures = append(w.failures, what)
	}
}

// trace notes something that may explain a failure.
func (w *world) trace(format string, args ...any) { w.history.add(format, args...) }

// anyPillar returns a pillar that runs, nil if none does.
func (w *world) anyPillar(rng *rand.Rand) *pillar {
	w.mu.Lock()
	defer w.mu.Unlock()
	var up []*pillar
	for _, p := range w.pillars {
		if p.proc != nil {
			up = append(up, p)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[rng.IntN(len(up))]
}

// honest returns the pillars that do not lie; there are at least two.
func (w *world) honest() []*pillar {
	if w.plan.lies != (lies{}) {
		return w.pillars[:len(w.pillars)-1]
	}
	return w.pillars
}

// number is which pillar p is, -1 if none.
func (w *world) number(p peer.ID) int {
	return slices.IndexFunc(w.pillars, func(x *pillar) bool { return x.id() == p })
}

// The faults. The driver's goroutine calls them.

func (w *world) split(side []bool, on bool) {
	for i := range side {
		for j := range i {
			if side[i] != side[j] {
				w.cut(i, j, on)
			}
		}
	}
}

func (w *world) cut(i, j int, on bool) {
	if on {
		w.net.Cut(w.pillars[i].id(), w.pillars[j].id())
	} else {
		w.net.Heal(w.pillars[i].id(), w.pillars[j].id())
	}
}

func (w *world) flap(n int) {
	for i := range w.pillars {
		if i != n {
			w.cut(n, i, true)
			w.cut(n, i, false)
		}
	}
}

func (w *world) stop(n int) {
	w.work.Wait()
	if p := w.pillars[n]; p.proc != nil {
		p.stop()
	}
}

func (w *world) crash(n int, at crashPoint) {
	p := w.pillars[n]
	if p.proc == nil || p.dying {
		return
	}
	p.dying = true
	w.work.Go(func() { p.kill(at) })
}

func (w *world) start(n int) {
	w.work.Wait()
	p := w.pillars[n]
	if p.proc != nil {
		return
	}
	if err := p.start(); err != nil {
		w.fail("%v", err)
	}
}

// move gives a pillar that is down another address.
func (w *world) move(n int) {
	w.work.Wait()
	p := w.pillars[n]
	if p.proc != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moves++
	p.addr = fmt.Sprintf("/ip4/10.2.%d.%d/tcp/4001", w.moves, n+1)
}

func (w *world) startOlder(n, back int) {
	w.work.Wait()
	p := w.pillars[n]
	if p.proc != nil {
		return
	}
	w.mu.Lock()
	at, ok := p.disk.putBack(back)
	w.mu.Unlock()
	if ok {
		w.history.add("%s has the disk of %.1fs", p.name, at.Sub(w.history.began).Seconds())
	}
	w.start(n)
}

func (w *world) startEmpty(n int) {
	w.work.Wait()
	p := w.pillars[n]
	if p.proc != nil {
		return
	}
	w.mu.Lock()
	p.disk.lose()
	w.mu.Unlock()
	w.start(n)
}

func (w *world) startSpoilt(n int, what damage, seed uint64) {
	w.work.Wait()
	p := w.pillars[n]
	if p.proc != nil {
		return
	}
	if err := p.disk.spoil(what, rand.New(rand.NewPCG(seed, 0))); err != nil {
		w.fail("%s: %v", p.name, err)
	}
	w.start(n)
}

// skew makes a clock wrong by so much. While it is wrong by more than is allowed
// nothing that lives may go.
func (w *world) skew(n int, by time.Duration) {
	p := w.pillars[n]
	if was := p.wrong; was != nil {
		p.wrong = nil
		w.checkKept(p, was)
	}
	p.skew.Store(int64(by))
	if by.Abs() > 30*time.Second {
		held, err := p.unexpired(time.Now())
		if err != nil {
			w.fail("%v", err)
		}
		p.wrong = &wrongClock{at: time.Now(), held: held}
	}
}

// wrongClock is what a pillar had when its clock went wrong.
type wrongClock struct {
	at   time.Time
	held map[overlay.RecordID]bool
}

// checkKept looks for what went while the clock was wrong.
func (w *world) checkKept(p *pillar, was *wrongClock) {
	held, err := p.unexpired(time.Now())
	if err != nil {
		w.fail("%v", err)
	}
	if p.disk.revertedSince(was.at) {
		return
	}
	for id := range was.held {
		if m, ok := w.ledger.message(id); ok && m.expires.After(time.Now()) && !held[id] {
			w.fail("%s deleted %s while its clock was wrong", p.name, w.name(id))
		}
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.history.add("everything heals")
	for i, p := range w.pillars {
		for j := range i {
			w.cut(i, j, false)
		}
		if p.wrong != nil {
			w.skew(i, 0)
		}
		w.start(i)
	}
}

func compareIDs(a, b identity.AccountID) int { return bytes.Compare([]byte(a), []byte(b)) }

func millis(t time.Time) uint64 { return uint64(t.UnixMilli()) }
