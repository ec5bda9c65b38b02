package gossip

import "github.com/hashicorp/memberlist"

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

// MaxFollowers is the budget of a provider, MaxFollowersOf what one pillar gets
// of it.
const (
	MaxFollowers   = maxFollowers
	MaxFollowersOf = maxFollowersOf
)

// MaxLogsOf is how many logs of one pillar are held.
const MaxLogsOf = maxLogsOf
