package gossip

import (
	"bytes"
	"encoding/binary"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// memberDrop says why something of memberlist's was dropped. Echo, stale and run
// are what gossip among honest pillars brings every day.
type memberDrop string

const (
	dropEcho        memberDrop = "echo"        // about this pillar, which knows better
	dropStale       memberDrop = "stale"       // older than what is known
	dropRun         memberDrop = "run"         // about or for a run that is not the newest known
	dropMalformed   memberDrop = "malformed"   // no message, or one out of bounds
	dropNested      memberDrop = "nested"      // packets in packets
	dropEncoded     memberDrop = "encoded"     // compressed or encrypted
	dropUnknown     memberDrop = "unknown"     // a type that is not known or has no place there
	dropStranger    memberDrop = "stranger"    // about or by a pillar that is not admitted
	dropForged      memberDrop = "forged"      // not signed by, or not sent by, whom it names
	dropLeave       memberDrop = "leave"       // that somebody left, from somebody else
	dropIncarnation memberDrop = "incarnation" // about an incarnation its pillar never told of
	dropUnasked     memberDrop = "unasked"     // an answer of who was not asked
	dropStorm       memberDrop = "storm"       // more than one needs
)

var memberDrops = []memberDrop{dropEcho, dropStale, dropRun, dropMalformed, dropNested, dropEncoded, dropUnknown,
	dropStranger, dropForged, dropLeave, dropIncarnation, dropUnasked, dropStorm}

// Limits of what others can make this pillar do through memberlist.
const (
	// Every refutation raises the own incarnation by one, which at this rate takes
	// longer than a century to come around; and it makes memberlist probe more
	// slowly for a while. A suspicion takes eight seconds at least.
	refuteEvery = 3 * time.Second
	refuteBurst = 3
	// Pings on behalf of one pillar.
	pingForEvery = 200 * time.Millisecond
	pingForBurst = 10
	// Pings that are remembered, and how long at least. Those on behalf of others
	// leave half of the room.
	maxAsked  = 1024
	askedFor  = 20 * time.Second // longer than memberlist's slowest probe
	maxAskers = 4096
	maxNames  = 4096 // remembered
)

// memberFilter stands between memberlist and the connections, in both
// directions, because memberlist believes every member: one forged message and
// a pillar is gone for all, for good. The filter knows who sent a message, whom
// the roster has admitted, and which run and incarnation each pillar last spoke
// of, for it signs the own incarnation into the own meta on the way out and
// checks that of others on the way in.
//
//   - Only a pillar itself says that it is alive, and in which incarnation.
//   - Only a pillar itself says that it left.
//   - Anybody may suspect a pillar in its newest incarnation and no other. That
//     somebody is dead is passed on as a suspicion, which the accused can refute
//     and which otherwise leads to the same end.
//   - Answers count from those who were asked.
//
// What memberlist is given is written anew, with the address and the protocol
// versions that a member must have.
type memberFilter struct {
	m    *Mesh
	name string        // this member's
	run  string        // the part of it behind the dot
	owes chan struct{} // capacity 1: a refutation is owed

	mu       sync.Mutex
	names    map[string]memberName            // guarded by mu; cache
	own      uint32                           // guarded by mu; newest incarnation told of
	seal     memberSeal                       // guarded by mu; newest own signature
	members  map[identity.PillarID]memberRun  // guarded by mu; admitted pillars, not this one
	verified map[[32]byte]struct{}            // guarded by mu; hashes of metas that verified
	asked    map[uint32]askedPing             // guarded by mu; by sequence number
	refutes  allowance                        // guarded by mu
	owed     memberMsg                        // guarded by mu; newest accusation not refuted yet, for want of allowance; no node: none
	news     []byte                           // guarded by mu; own alive message of a new incarnation
	replaced [][]byte                         // guarded by mu; that runs are over, for memberlist
	pingFors map[identity.PillarID]*allowance // guarded by mu
}

// memberRun is the newest a pillar said of itself.
type memberRun struct {
	run         string
	incarnation uint32
}

// newer reports whether r is a later run than o.
func (r memberRun) newer(o memberRun) bool {
	return len(r.run) > len(o.run) || len(r.run) == len(o.run) && r.run > o.run
}

// memberSeal is the signature of an incarnation.
type memberSeal struct {
	incarnation uint32
	meta        []byte
}

// askedPing is a ping, or a request for one, that was sent.
type askedPing struct {
	at time.Time
	of []identity.PillarID // who may answer
}

// memberName is what a member's name says.
type memberName struct {
	pillar identity.PillarID
	run    string
}

func newMemberFilter(m *Mesh, run string) *memberFilter {
	return &memberFilter{m: m, name: m.self.String() + "." + run, run: run, owes: make(chan struct{}, 1),
		names: map[string]memberName{}, members: map[identity.PillarID]memberRun{}, verified: map[[32]byte]struct{}{}, asked: map[uint32]askedPing{},
		pingFors: map[identity.PillarID]*allowance{}}
}

// whose returns whose a member's name is, and the run. Reading the key in it
// costs more than all the rest, so names that are in use are remembered.
func (f *memberFilter) whose(name string) (identity.PillarID, string, error) {
	f.mu.Lock()
	n, ok := f.names[name]
	f.mu.Unlock()
	if ok {
		return n.pillar, n.run, nil
	}
	p, run, err := memberPillar(name)
	if err != nil {
		return "", "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names) >= maxNames {
		clear(f.names)
	}
	f.names[name] = memberName{p, run}
	return p, run, nil
}

func (f *memberFilter) dropped(why memberDrop) {
	f.m.met.memberDropped.WithLabelValues(string(why)).Inc()
}

// droppedOf is dropped for what came from a pillar. What no honest one sends or
// passes on costs it.
func (f *memberFilter) droppedOf(from identity.PillarID, why memberDrop) {
	f.dropped(why)
	switch why {
	case dropMalformed, dropNested, dropEncoded, dropForged:
		f.m.scores.offend(peer.ID(from), faultMember)
	}
}

// incoming returns what memberlist gets of a packet, nil if nothing.
func (f *memberFilter) incoming(from identity.PillarID, b []byte) []byte {
	parts, why := splitPacket(b)
	if why != "" {
		f.droppedOf(from, why)
		return nil
	}
	kept := parts[:0]
	for _, part := range parts {
		msg, err := readMember(part)
		why := dropMalformed
		if err == nil {
			why = f.judge(from, msg)
		}
		if why != "" {
			f.droppedOf(from, why)
			continue
		}
		kept = append(kept, msg.append(nil))
	}
	return joinPacket(kept)
}

// judge decides on a message that came in a packet; it may change it.
func (f *memberFilter) judge(from identity.PillarID, msg *memberMsg) memberDrop {
	switch msg.kind {
	case wirePing:
		return f.pinged(from, msg)
	case wirePingFor:
		target, _, err := f.whose(msg.node)
		switch {
		case err != nil:
			return dropMalformed
		case !f.isOf(msg.from, from):
			return dropForged
		case target == f.m.self:
			return dropEcho
		case !f.m.cfg.Roster.Admitted(target, f.m.now()):
			return dropStranger
		case !f.mayAsk(from):
			return dropStorm
		}
		return ""
	case wireAck, wireNack:
		return f.answered(from, msg)
	case wireSuspect, wireDead:
		return f.accused(from, msg)
	case wireAlive:
		return f.alive(msg)
	case wireUser:
		return ""
	}
	return dropUnknown
}

// isOf reports whether name is one of p's.
func (f *memberFilter) isOf(name string, p identity.PillarID) bool {
	q, _, err := f.whose(name)
	return err == nil && p == q
}

// pinged judges a ping: the answer goes to whom it names.
func (f *memberFilter) pinged(from identity.PillarID, msg *memberMsg) memberDrop {
	switch {
	case msg.node != f.name:
		return dropRun
	case !f.isOf(msg.from, from):
		return dropForged
	}
	return ""
}

// mayAsk reports whether from may have one more member pinged.
func (f *memberFilter) mayAsk(from identity.PillarID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) >= maxAsked/2 {
		f.sweep()
	}
	if len(f.asked) >= maxAsked/2 {
		return false
	}
	if len(f.pingFors) >= maxAskers {
		clear(f.pingFors)
	}
	a := f.pingFors[from]
	if a == nil {
		a = &allowance{}
		f.pingFors[from] = a
	}
	return a.take(time.Now(), pingForEvery, pingForBurst)
}

// answered judges an ack or nack.
func (f *memberFilter) answered(from identity.PillarID, msg *memberMsg) memberDrop {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.asked[msg.seq].of {
		if p == from {
			return "" // several may: they pass on the same answer
		}
	}
	return dropUnasked
}

// note remembers a ping, or a request for one, to p.
func (f *memberFilter) note(seq uint32, p identity.PillarID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, known := f.asked[seq]
	if !known && len(f.asked) >= maxAsked {
		f.sweep()
	}
	if !known && len(f.asked) >= maxAsked {
		return
	}
	if !known {
		a.at = time.Now()
	}
	a.of = append(a.of, p)
	f.asked[seq] = a
}

// sweep forgets pings that nobody waits for any more. f.mu is held.
func (f *memberFilter) sweep() {
	for seq, a := range f.asked {
		if time.Since(a.at) > askedFor {
			delete(f.asked, seq)
		}
	}
}

// waiting returns the sequence numbers of pings that may lack an answer.
func (f *memberFilter) waiting() []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	seqs := make([]uint32, 0, len(f.asked))
	for seq := range f.asked {
		seqs = append(seqs, seq)
	}
	return seqs
}

// alive judges that a member is alive: it must say so itself, by its signature
// over incarnation, name and record. A record that is not known is asked for.
func (f *memberFilter) alive(msg *memberMsg) memberDrop {
	p, run, err := f.whose(msg.node)
	told := memberRun{run, msg.incarnation}
	switch {
	case err != nil || run == "":
		return dropMalformed
	case p == f.m.self:
		return dropEcho
	case len(msg.meta) != metaLen || msg.port != memberPort || !bytes.Equal(msg.addr, memberAddr(p)):
		return dropForged
	}
	if why := f.outdated(p, told); why != "" {
		return why
	}
	if !f.verify(p, msg) {
		return dropForged
	}
	record, created := overlay.RecordID(msg.meta[:32]), binary.BigEndian.Uint64(msg.meta[32:])
	admitted := f.m.cfg.Roster.Admitted(p, f.m.now())
	entry, known := f.m.cfg.Roster.Lookup(p)
	if !known || entry.Record.ID != record && entry.Record.Created < created {
		f.m.fetcher.want(record)
	}
	if !admitted {
		return dropStranger
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if why := f.outdatedLocked(p, told); why != "" {
		return why
	}
	if old := f.members[p]; old.run != "" && old.run != told.run {
		over := memberMsg{kind: wireDead, node: p.String() + "." + old.run, from: f.name, incarnation: old.incarnation}
		f.replaced = append(f.replaced, over.append(nil))
	}
	f.members[p] = told
	return ""
}

// takeReplaced returns what memberlist has to be told of runs that newer ones
// replaced: to memberlist two runs of a pillar are two members.
func (f *memberFilter) takeReplaced() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	replaced := f.replaced
	f.replaced = nil
	return replaced
}

// outdated says why what p is told to be is not news.
func (f *memberFilter) outdated(p identity.PillarID, told memberRun) memberDrop {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.outdatedLocked(p, told)
}

func (f *memberFilter) outdatedLocked(p identity.PillarID, told memberRun) memberDrop {
	known := f.members[p]
	switch {
	case known.newer(told):
		return dropRun
	case known.run == told.run && told.incarnation < known.incarnation:
		return dropStale
	}
	return ""
}

// accused judges that a member is suspected, dead, or left.
func (f *memberFilter) accused(from identity.PillarID, msg *memberMsg) memberDrop {
	p, run, err := f.whose(msg.node)
	by, _, byErr := f.whose(msg.from)
	leave := msg.kind == wireDead && msg.node == msg.from
	switch {
	case err != nil || byErr != nil:
		return dropMalformed
	case leave && p != from:
		return dropLeave
	case by != f.m.self && !f.m.cfg.Roster.Admitted(by, f.m.now()):
		return dropStranger
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.members[p]
	if p == f.m.self {
		known = memberRun{f.run, f.own}
	}
	switch {
	case run == "" || run != known.run:
		return dropRun
	case msg.incarnation > known.incarnation:
		return dropIncarnation
	case msg.incarnation < known.incarnation:
		return dropStale
	case p == f.m.self && !f.refutes.take(time.Now(), refuteEvery, refuteBurst):
		f.oweLocked(memberMsg{kind: wireSuspect, node: msg.node, from: msg.from, incarnation: msg.incarnation})
		return dropStorm
	}
	if !leave {
		msg.kind = wireSuspect
	}
	return ""
}

// oweLocked keeps an accusation of this member that it may not refute yet. Its
// accuser may hold it for dead, and says so only once. One is enough, for what
// refutes one refutes all before it.
func (f *memberFilter) oweLocked(accusation memberMsg) {
	f.owed = accusation
	select {
	case f.owes <- struct{}{}:
	default:
	}
}

// takeOwed returns the accusation that is to be refuted now, nil if none is;
// with a wait if one is to be by then.
func (f *memberFilter) takeOwed() (accusation []byte, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	owed := f.owed
	if owed.node == "" || owed.incarnation < f.own {
		f.owed = memberMsg{}
		return nil, 0
	}
	if !f.refutes.take(time.Now(), refuteEvery, refuteBurst) {
		return nil, f.refutes.wait(refuteEvery, refuteBurst)
	}
	f.owed = memberMsg{}
	return owed.append(nil), 0
}

// verify checks the signature in the meta of an alive message.
func (f *memberFilter) verify(p identity.PillarID, msg *memberMsg) bool {
	signed := metaSigned(msg.meta, msg.incarnation, msg.node)
	hash := identity.Hash(identity.TagMember, []byte(p), signed, msg.meta[metaHead:])
	f.mu.Lock()
	_, ok := f.verified[hash]
	f.mu.Unlock()
	if ok {
		return true
	}
	key, err := identity.Ed25519Public(p.Ed25519Key())
	if err != nil || !identity.Verify(&identity.Check{Key: key, Tag: identity.TagMember, Network: f.m.cfg.Network,
		Message: signed, Signature: msg.meta[metaHead:]}) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.verified) >= metasKept {
		clear(f.verified)
	}
	f.verified[hash] = struct{}{}
	return true
}

// metaSigned is what a pillar signs of itself as a member.
func metaSigned(meta []byte, incarnation uint32, name string) []byte {
	b := append(make([]byte, 0, metaHead+4+len(name)), meta[:metaHead]...)
	b = binary.BigEndian.AppendUint32(b, incarnation)
	return append(b, name...)
}

// outgoing returns what to is sent of a packet of memberlist's, nil if nothing:
// the own incarnation signed, no checksum, for the connection has better ones.
func (f *memberFilter) outgoing(to identity.PillarID, b []byte) []byte {
	parts, why := splitPacket(b)
	if why != "" {
		f.dropped(why)
		return nil
	}
	for i, part := range parts {
		switch wireType(part[0]) {
		case wirePing, wirePingFor, wireAlive:
		default:
			continue
		}
		msg, err := readMember(part)
		switch {
		case err != nil:
			f.dropped(dropMalformed)
			return nil
		case msg.kind != wireAlive:
			f.note(msg.seq, to)
		case msg.node == f.name && f.sign(msg):
			parts[i] = msg.append(nil) // part may be shared
		}
	}
	return joinPacket(parts)
}

// sign puts the own signature into an own alive message or state.
func (f *memberFilter) sign(msg *memberMsg) bool {
	if len(msg.meta) != metaLen {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seal.incarnation != msg.incarnation || !bytes.Equal(f.seal.meta[:metaHead], msg.meta[:metaHead]) {
		signature := f.m.cfg.Key.Sign(identity.TagMember, f.m.cfg.Network, metaSigned(msg.meta, msg.incarnation, f.name))
		f.seal = memberSeal{msg.incarnation, append(bytes.Clone(msg.meta[:metaHead]), signature...)}
	}
	msg.meta = f.seal.meta
	if msg.incarnation > f.own {
		f.own = msg.incarnation
		told := *msg
		told.kind = wireAlive
		f.news = told.append(nil)
	}
	return true
}

// takeNews returns the own alive message once for each incarnation. Everybody
// with a session gets it directly: memberlist sends it to a few at random, so
// that one who sees to it that it is sent to him keeps a refutation from others
// for longer than a suspicion takes.
func (f *memberFilter) takeNews() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	news := f.news
	f.news = nil
	return news
}

// incomingState takes out of a push/pull what memberlist must not see.
func (f *memberFilter) incomingState(from identity.PillarID, s *memberState) {
	kept := s.nodes[:0]
	for i := range s.nodes {
		n := &s.nodes[i]
		var why memberDrop
		if n.state == stateAlive {
			why = f.alive(n)
		} else {
			n.kind, n.from = wireSuspect, from.String()
			if n.state == stateLeft {
				n.kind, n.from = wireDead, n.node
			}
			why = f.accused(from, n)
			n.state = min(n.state, stateSuspect)
			if n.kind == wireDead {
				n.state = stateLeft
			}
		}
		if why != "" {
			f.dropped(why)
			continue
		}
		kept = append(kept, *n)
	}
	s.nodes = kept
}

// outgoingState signs the own incarnation in a push/pull.
func (f *memberFilter) outgoingState(s *memberState) {
	for i := range s.nodes {
		if n := &s.nodes[i]; n.node == f.name {
			f.sign(n)
		}
	}
}

// allowance is a token bucket that is full at first.
type allowance struct {
	used float64
	at   time.Time
}

// take uses one of burst, one of which comes back every interval.
func (a *allowance) take(now time.Time, every time.Duration, burst float64) bool {
	a.used = max(0, a.used-float64(now.Sub(a.at))/float64(every))
	a.at = now
	if a.used+1 > burst {
		return false
	}
	a.used++
	return true
}

// wait returns how long after a take that failed one succeeds.
func (a *allowance) wait(every time.Duration, burst float64) time.Duration {
	return time.Duration((a.used+1-burst)*float64(every)) + time.Millisecond
}
