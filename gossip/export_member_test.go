package gossip

import (
	"bufio"
	"bytes"
	"io"

	"github.com/obelisk-network/obelisk/identity"
)

// Types of MemberWord.
const (
	WordPing       = byte(wirePing)
	WordPingFor    = byte(wirePingFor)
	WordAck        = byte(wireAck)
	WordSuspect    = byte(wireSuspect)
	WordAlive      = byte(wireAlive)
	WordDead       = byte(wireDead)
	WordPushPull   = byte(wirePushPull)
	WordCompound   = byte(wireCompound)
	WordUser       = byte(wireUser)
	WordCompressed = byte(wireCompressed)
	WordEncrypted  = byte(wireEncrypted)
	WordNack       = byte(wireNack)
	WordChecksum   = byte(wireChecksum)
)

// MemberWord is a message of memberlist for tests to say and to look at.
type MemberWord struct {
	Kind        byte
	Seq         uint32
	Node, From  string
	Incarnation uint32
	Meta        []byte
	State       int
	Nack        bool
	Body        []byte
}

func (w MemberWord) msg() *memberMsg {
	return &memberMsg{kind: wireType(w.Kind), seq: w.Seq, node: w.Node, from: w.From, incarnation: w.Incarnation,
		meta: w.Meta, state: w.State, nack: w.Nack, body: w.Body}
}

func wordOf(m *memberMsg) MemberWord {
	return MemberWord{byte(m.kind), m.seq, m.node, m.from, m.incarnation, m.meta, m.state, m.nack, bytes.Clone(m.body)}
}

// Bytes is the word as memberlist would write it.
func (w MemberWord) Bytes() []byte { return w.msg().append(nil) }

// MemberPacket makes a packet of words; of none, nil.
func MemberPacket(words ...MemberWord) []byte {
	var parts [][]byte
	for _, w := range words {
		parts = append(parts, w.Bytes())
	}
	return joinPacket(parts)
}

// ReadMemberPacket returns the words of a packet, or why they are refused.
func ReadMemberPacket(b []byte) (words []MemberWord, why string) {
	parts, drop := splitPacket(b)
	if drop != "" {
		return nil, string(drop)
	}
	for _, p := range parts {
		m, err := readMember(p)
		if err != nil {
			return nil, err.Error()
		}
		words = append(words, wordOf(m))
	}
	return words, ""
}

// MemberPush makes a push/pull.
func MemberPush(user []byte, words ...MemberWord) []byte {
	s := &memberState{user: user, join: true}
	for _, w := range words {
		s.nodes = append(s.nodes, *w.msg())
	}
	return s.append(nil)
}

// ReadMemberPush reads a push/pull, type byte and all.
func ReadMemberPush(r io.Reader) (words []MemberWord, user []byte, err error) {
	src := bufio.NewReader(r)
	if _, err := src.ReadByte(); err != nil {
		return nil, nil, err
	}
	s, err := readState(src)
	if err != nil {
		return nil, nil, err
	}
	for i := range s.nodes {
		words = append(words, wordOf(&s.nodes[i]))
	}
	return words, s.user, nil
}

// MembersAlive returns whom memberlist holds for alive, or suspects only.
func (m *Mesh) MembersAlive() map[identity.PillarID]bool { return m.member.alive() }

// FilterPacket returns what memberlist gets of a packet that from sent.
func (m *Mesh) FilterPacket(from identity.PillarID, b []byte) []byte {
	return m.member.filter.incoming(from, b)
}

// FilterStream returns what memberlist gets of a stream that from opened, or
// answers on.
func (m *Mesh) FilterStream(from identity.PillarID, r io.Reader, dialled bool) ([]byte, error) {
	return m.member.filter.readStream(from, r, dialled)
}

// MemberName is the name of this pillar's member.
func (m *Mesh) MemberName() string { return m.member.filter.name }

// MemberNames lists the names that memberlist holds for alive, or suspects only.
func (m *Mesh) MemberNames() (names []string) {
	m.member.mu.Lock()
	list := m.member.list
	m.member.mu.Unlock()
	if list == nil {
		return nil
	}
	for _, n := range list.Members() {
		names = append(names, n.Name)
	}
	return names
}

// BelieveDead has memberlist find a pillar dead, as after probes that failed.
func (m *Mesh) BelieveDead(p identity.PillarID) {
	f := m.member.filter
	f.mu.Lock()
	known := f.members[p]
	f.mu.Unlock()
	dead := memberMsg{kind: wireDead, node: p.String() + "." + known.run, from: f.name, incarnation: known.incarnation}
	m.member.current().give(packetOf(m.self, dead.append(nil)))
}
