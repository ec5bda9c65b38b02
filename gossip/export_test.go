package gossip

import (
	"context"

	"github.com/hashicorp/memberlist"

	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// WithoutMember makes a Mesh do without memberlist.
func (c *Config) WithoutMember() { c.noMember = true }

// CheckMember says why a member is not told to memberlist as alive; "" if it is.
func (m *Mesh) CheckMember(n *memberlist.Node, incarnation uint32) string {
	return string(m.member.filter.alive(&memberMsg{kind: wireAlive, node: n.Name, addr: n.Addr, port: n.Port, meta: n.Meta, incarnation: incarnation}))
}

// MetaSigned is what a pillar signs of itself as a member.
var MetaSigned = metaSigned

// MemberAddr is the address a pillar has in memberlist.
var MemberAddr = memberAddr

// MaxRangesOf is how many ranges of history one pillar is served at once.
const MaxRangesOf = maxRangesOf

// MaxLogsOf is how many logs of one pillar are held.
const MaxLogsOf = maxLogsOf

// SetMaxQueuedOf changes how many bytes of runs wait for one provider.
func SetMaxQueuedOf(n int) (undo func()) {
	old := maxQueuedOf
	maxQueuedOf = n
	return func() { maxQueuedOf = old }
}

// SaveHeads puts heads of a log on a disk as a Mesh leaves them there.
func SaveHeads(notes Notes, log overlay.LogID, kept []*overlay.Head, ends ...*overlay.Head) error {
	m := &Mesh{cfg: Config{Notes: notes}}
	save := func(key string, heads []*overlay.Head) error {
		note, err := m.encodeHeads(withHeads(log, nil, heads))
		if err != nil {
			return err
		}
		return notes.SaveNote(context.Background(), key, note)
	}
	for chunk := 0; chunk*headsPerNote < len(kept); chunk++ {
		if err := save(headsKey(log, chunk), kept[chunk*headsPerNote:min(len(kept), (chunk+1)*headsPerNote)]); err != nil {
			return err
		}
	}
	return save(noteKey(endsPrefix, log), ends)
}

// KeptHeads is where a log's heads stand that its history is served with.
func (m *Mesh) KeptHeads(log overlay.LogID) (at []uint64) {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	if h := m.logs.held[log]; h != nil {
		for _, l := range h.heads.kept {
			at = append(at, l.pos.Seq)
		}
	}
	return at
}

// HeadEvery is how many entries lie between two of them.
const HeadEvery = headEvery

// DeafMembers makes a Mesh's memberlist hear nothing, or hear again.
func (m *Mesh) DeafMembers() (undo func()) {
	m.member.mu.Lock()
	defer m.member.mu.Unlock()
	t := m.member.transport
	m.member.transport = nil
	return func() {
		m.member.mu.Lock()
		defer m.member.mu.Unlock()
		m.member.transport = t
	}
}

// AliveMembers is how many members memberlist holds for alive, this one
// included.
func (m *Mesh) AliveMembers() int { return len(m.member.alive()) }

// Ledger is what is held, for tests.
type Ledger struct{ l *ledger }

// NewLedger returns an empty one.
func NewLedger(key overlay.ShortKey, now uint64) *Ledger { return &Ledger{newLedger(key, now)} }

// Add counts records.
func (l *Ledger) Add(stubs ...overlay.RecordStub) {
	entries := make([]entry, len(stubs))
	for i := range stubs {
		entries[i] = hashing{key: l.l.key}.entry(&stubs[i])
	}
	l.l.add(entries)
}

// Remove uncounts one.
func (l *Ledger) Remove(stub overlay.RecordStub) bool {
	e := hashing{key: l.l.key}.entry(&stub)
	return l.l.remove(&e)
}

// Advance moves it to now.
func (l *Ledger) Advance(now uint64) bool { return l.l.advance(now) }

// At returns all that is told of S, its short IDs last.
func (l *Ledger) At(settled, front uint64) (overlay.Tally, *sketch.Sketch, []uint64) {
	if !l.l.knows(settled, front) {
		panic("instants too far apart")
	}
	var shorts []uint64
	for _, p := range l.l.all(settled, front) {
		shorts = append(shorts, p.short)
	}
	return l.l.tallyAt(settled, front), l.l.sketchAt(settled, front), shorts
}

// Find counts the records with these short IDs.
func (l *Ledger) Find(shorts ...uint64) int { return len(l.l.find(shorts)) }

// OmitShort has short IDs lack bits, so that some are equal.
func (c *Config) OmitShort(bits uint64) { c.omitShort = bits }

// Tolerant has offences counted, and nobody refused for them.
func (c *Config) Tolerant() { c.tolerant = true }

// Alike has one record be in memory what another is, as if somebody had found two
// IDs that are.
func (c *Config) Alike(id, as overlay.RecordID) {
	c.alike = map[overlay.RecordID]overlay.RecordID{id: as}
}

// Rounds is what the Mesh knows of rounds with a pillar.
func (m *Mesh) Rounds(p identity.PillarID) overlay.PeerSync {
	st := overlay.SyncStatus{Peers: []overlay.PeerSync{{Pillar: p}}}
	m.auditStatus(&st)
	return st.Peers[0]
}

// Tally is what the ledger says now, and under which key.
func (m *Mesh) Tally() (overlay.Tally, overlay.ShortKey) {
	st := m.holdings.state()
	return st.tally, st.key
}

// OfferKey has the Mesh take a short key, if it is better than its own.
func (m *Mesh) OfferKey(key overlay.ShortKey) { m.holdings.offer(key) }

// Wanted is how many records are wanted.
func (m *Mesh) Wanted() int { return m.wants.count() }

// WantedIDs are those that would be asked for.
func (m *Mesh) WantedIDs() []overlay.RecordID { return m.wants.list() }

// FollowsOfOwners is how many logs are followed live at their own pillars.
func (m *Mesh) FollowsOfOwners() (n int) {
	m.follows.mu.Lock()
	defer m.follows.mu.Unlock()
	for log, f := range m.follows.active {
		if m.follows.owns(f.provider, log) {
			n++
		}
	}
	return n
}

// WithoutStrangers is withoutStrangers.
var WithoutStrangers = withoutStrangers
