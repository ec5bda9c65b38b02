package overlay

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Bounds of the epochs that the node seals with.
const (
	maxEpochs    = 4096             // sets of recipients kept
	epochRecheck = 30 * time.Second // between looks at the clock's side of an epoch's end
)

// nodeEpochs are the epochs that the node seals with: one for each list of
// recipients and way of sending, in memory only, so every start makes new ones.
//
// Locks: an epochSet's may be held when the outbox's is taken, and the
// outbox's when nodeEpochs' own is.
type nodeEpochs struct {
	n    *Node
	mu   sync.Mutex
	sets map[string]*epochSet       // guarded by mu
	live map[seal.EpochID]*epochSet // guarded by mu; the epochs to seal with
}

// epochSet is what belongs to one list of recipients and way of sending: what
// no pillar gets is sealed in an epoch that none gets.
type epochSet struct {
	mu         sync.Mutex
	evicted    bool             // guarded by mu; it is no more among the sets
	current    *liveEpoch       // guarded by mu; nil: none
	policy     seal.EpochPolicy // guarded by mu
	generation uint64           // guarded by mu; of the directory, when current was last checked
	checked    uint64           // guarded by mu; Unix ms
}

// liveEpoch is an epoch to seal with. It never changes.
type liveEpoch struct {
	epoch   *seal.Epoch
	missing []identity.DeviceID
}

func newNodeEpochs(n *Node) *nodeEpochs {
	return &nodeEpochs{n: n, sets: map[string]*epochSet{}, live: map[seal.EpochID]*epochSet{}}
}

// get returns the epoch for messages to exactly these accounts, with only for
// those that no pillar gets. A new one is on disk and ahead of them in line. It
// lasts as long as the key of every device. Errors are seal.NewEpoch's.
func (p *nodeEpochs) get(to []identity.AccountID, only bool) (*liveEpoch, error) {
	return p.of(to, only, 0)
}

// lasting is get for those devices alone whose keys outlive everything that may be
// sealed to them today: the others have been away for days.
func (p *nodeEpochs) lasting(to []identity.AccountID, only bool) (*liveEpoch, error) {
	return p.of(to, only, MaxLife)
}

// of returns the epoch for the devices whose keys last that many ms, 0 for all.
func (p *nodeEpochs) of(to []identity.AccountID, only bool, lasts uint64) (*liveEpoch, error) {
	name := setOf(to)
	if only {
		name += "only"
	}
	if lasts > 0 {
		name += "lasting"
	}
	set := p.lock(name)
	defer set.mu.Unlock()
	now := p.n.now()
	generation := p.n.dir.generation()
	if set.current != nil && set.generation == generation && p.uses(set.current.epoch.ID()) &&
		now >= set.checked && now-set.checked < uint64(epochRecheck.Milliseconds()) {
		return set.current, nil
	}
	devices, err := p.n.dir.sealingDevices(to, now)
	if err != nil {
		return nil, err
	}
	if lasts > 0 {
		devices = slices.DeleteFunc(devices, func(d seal.Device) bool { return d.Key.Until < now+lasts })
	}
	if c := set.current; c != nil {
		if p.uses(c.epoch.ID()) && set.policy.Check(c.epoch, now, devices) == seal.Keep {
			set.generation, set.checked = generation, now
			return c, nil
		}
		p.end(set)
	}
	sender := seal.Sender{Account: []byte(p.n.account()), Device: []byte(p.n.device())}
	epoch, err := seal.NewEpoch(p.n.network(), sender, rawAccounts(to), devices, now, MaxKeyLife)
	if err != nil {
		return nil, err
	}
	live := &liveEpoch{epoch: epoch}
	for _, d := range epoch.Missing() {
		live.missing = append(live.missing, identity.DeviceID(d.Device))
	}
	rec, err := p.sign(Draft{Kind: KindEpoch, To: to, Created: epoch.Created(), Expires: epoch.Expires(), Bin: epoch.Bin()})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.live[epoch.ID()] = set
	p.mu.Unlock()
	if err := p.n.outbox.sendEpoch(rec, epoch.ID(), only); err != nil {
		p.forget(epoch.ID())
		return nil, err
	}
	set.current, set.generation, set.checked = live, generation, now
	return live, nil
}

// lock returns the set of that name, made if need be, with its mu held.
func (p *nodeEpochs) lock(name string) *epochSet {
	for {
		set, evicted := p.set(name)
		for _, other := range evicted {
			p.evict(other)
		}
		set.mu.Lock()
		if !set.evicted {
			return set
		}
		set.mu.Unlock() // a moment ago: there is another one
	}
}

// set returns the set of that name, made if need be, and those that had to give
// way to it.
func (p *nodeEpochs) set(name string) (set *epochSet, evicted []*epochSet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sets[name]
	if s == nil {
		if len(p.sets) >= maxEpochs {
			for other, set := range p.sets { // any: the next message makes a new epoch
				delete(p.sets, other)
				evicted = append(evicted, set)
				if len(p.sets) < maxEpochs*7/8 {
					break
				}
			}
		}
		s = &epochSet{}
		p.sets[name] = s
	}
	return s, evicted
}

// evict ends a set that is no more among the sets.
func (p *nodeEpochs) evict(set *epochSet) {
	set.mu.Lock()
	defer set.mu.Unlock()
	set.evicted = true
	if set.current != nil {
		p.end(set)
	}
}

// end erases the set's epoch. set.mu is held.
func (p *nodeEpochs) end(set *epochSet) {
	id := set.current.epoch.ID()
	set.current.epoch.Erase()
	set.current = nil
	p.forget(id)
	p.n.outbox.epochEnded(id)
}

// uses reports whether messages are still sealed in the epoch.
func (p *nodeEpochs) uses(id seal.EpochID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[id] != nil
}

// forget makes sure that nothing more is sealed in the epoch.
func (p *nodeEpochs) forget(id seal.EpochID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.live, id)
}

// erase zeroes all secrets.
func (p *nodeEpochs) erase() {
	p.mu.Lock()
	sets := p.sets
	p.sets, p.live = map[string]*epochSet{}, map[seal.EpochID]*epochSet{}
	p.mu.Unlock()
	for _, s := range sets {
		s.mu.Lock()
		if s.current != nil {
			s.current.epoch.Erase()
			s.current = nil
		}
		s.mu.Unlock()
	}
}

// sign completes a draft of this device's and signs it.
func (p *nodeEpochs) sign(d Draft) (*Record, error) {
	d.Author, d.Signer = string(p.n.account()), p.n.self.certificate()
	return p.n.self.sign(&d)
}

// sealRecord makes the record of d with body sealed into its bin. It lives no
// longer than the epoch.
func (p *nodeEpochs) sealRecord(ep *liveEpoch, d Draft, body []byte) (*Record, error) {
	if len(body) > seal.MaxBody {
		return nil, Refuse(CodeTooLarge, "a body of %d bytes", len(body))
	}
	d.Author, d.Signer = string(p.n.account()), p.n.self.certificate()
	d.Created = max(d.Created, ep.epoch.Created())
	d.Expires = seal.MessageExpiry(d.Expires, ep.epoch.Expires())
	if d.Expires <= d.Created {
		return nil, Refuse(CodeNoSealingKey, "the epoch ends before the message")
	}
	size := seal.SealedLen(len(body))
	payload, err := ep.epoch.Seal(d.AppendPrefix(make([]byte, 0, size+512+len(d.Signer)+64*len(d.To)), size), body)
	if err != nil {
		return nil, err
	}
	network := p.n.network()
	if network.IsZero() {
		return nil, errors.New("no network is pinned")
	}
	return SignPayload(network, p.n.cfg.Device, payload)
}

// sendEpoch puts an epoch record on its way, ahead of what is sealed in it. With
// only it goes to devices, in front of that.
func (o *nodeOutbox) sendEpoch(rec *Record, id seal.EpochID, only bool) error {
	o.mu.Lock()
	s := o.hide(rec, only)
	s.epoch, s.done = id, only
	o.byEpoch[id] = s
	g := o.n.disk.stage(Write{s.hiddenKey(), rec.Raw})
	o.mu.Unlock()
	if err := o.n.disk.commit(g); err != nil {
		o.call(s.ticket, nil)
		return err
	}
	o.call(s.ticket, s)
	return nil
}

// epochEnded drops the epoch's record if it is on its pillars and no message
// waits.
func (o *nodeOutbox) epochEnded(id seal.EpochID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.byEpoch[id]; s != nil {
		o.release(s)
	}
}

func rawAccounts(list []identity.AccountID) [][]byte {
	raw := make([][]byte, len(list))
	for i, a := range list {
		raw[i] = []byte(a)
	}
	return raw
}

// bindingOf is what a record says of itself, for seal.
func bindingOf(rec *Record, device identity.DeviceID) seal.Binding {
	return seal.Binding{Account: []byte(rec.Author), Device: []byte(device), To: rawAccounts(rec.To), Created: rec.Created, Expires: rec.Expires}
}
