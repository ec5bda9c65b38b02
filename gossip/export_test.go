package gossip

import "github.com/hashicorp/memberlist"

// WithoutMember makes a Mesh do without memberlist.
func (c *Config) WithoutMember() { c.noMember = true }

// CheckMember judges what memberlist says of a member.
func (m *Mesh) CheckMember(n *memberlist.Node) error { return m.member.NotifyAlive(n) }

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
