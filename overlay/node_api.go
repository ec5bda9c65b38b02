package overlay

import (
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// What a Node takes and gives, in the JSON shapes of its local API.

// State is a message's state at its sender.
type State string

// States, in order; the last three are final.
const (
	StateQueued     State = "queued"     // on this disk
	StateStored     State = "stored"     // durable on one pillar
	StateReplicated State = "replicated" // durable on as many as asked for
	StateDelivered  State = "delivered"  // a device of every recipient has it
	StateExpired    State = "expired"    // its life ended before
	StateRejected   State = "rejected"   // no pillar takes it; the reason says why
)

// Final reports whether the state never changes again.
func (s State) Final() bool {
	return s == StateDelivered || s == StateExpired || s == StateRejected
}

// Reached reports whether a message in state s is at least at want: what a
// Send that waits for want is waiting for. Final states end every wait.
func (s State) Reached(want State) bool { return s.Final() || s.rank() >= want.rank() }

func (s State) rank() int {
	switch s {
	case StateStored:
		return 1
	case StateReplicated:
		return 2
	case StateDelivered, StateExpired, StateRejected:
		return 3
	default:
		return 0
	}
}

// Outgoing is a message to send.
type Outgoing struct {
	To   []identity.AccountID // 1..MaxTo; any order, repeated ones count once
	Type BodyType
	Body []byte
	TTL  time.Duration // default DefaultTTL, at most 30 days
	// ClientID, if not empty, makes sending idempotent: a second Send with the
	// same one returns the first message. At most 64 bytes.
	ClientID string
	Concern  int // 0: the node's default
}

// DefaultTTL is how long a message lives if its sender does not say.
const DefaultTTL = 72 * time.Hour

// OutMessage is a message sent, in the shape of the outbox.
type OutMessage struct {
	Handle  Handle               `json:"handle"`
	ID      *RecordID            `json:"id"` // nil while unsealed
	To      []identity.AccountID `json:"to"`
	State   State                `json:"state"`
	Reason  Code                 `json:"reason"`
	Sent    time.Time            `json:"sent"`
	Expires time.Time            `json:"expires"`
	Copies  int                  `json:"copies"`
	// DevicesMissing are devices it could not be sealed to.
	DevicesMissing []identity.DeviceID `json:"devices_missing"`
	Recipients     []RecipientState    `json:"recipients"`
	Text           *string             `json:"text,omitempty"`
	// Order is its place in the outbox, ascending; pages go on after it.
	Order uint64 `json:"order"`
}

// RecipientState is what became of a message at one account.
type RecipientState struct {
	Account identity.AccountID `json:"account"`
	State   State              `json:"state"`
	At      *time.Time         `json:"at"`
	Reason  string             `json:"reason"`
}

// InMessage is a message received, in the shape of the inbox.
type InMessage struct {
	ID          RecordID             `json:"id"`
	From        identity.AccountID   `json:"from"`
	FromContact string               `json:"from_contact"` // local contact name
	FromClaims  string               `json:"from_claims"`  // name the sender claims
	To          []identity.AccountID `json:"to"`
	Sent        time.Time            `json:"sent"`     // the sender's clock
	Received    time.Time            `json:"received"` // on this disk
	Text        *string              `json:"text,omitempty"`
	Body        []byte               `json:"body_base64,omitzero"`
	Path        Path                 `json:"path"` // how it came first
	Gap         bool                 `json:"gap"`  // an earlier one of that device is missing
	Acked       bool                 `json:"acked"`
	// Order is its place in the inbox, ascending; pages go on after it.
	Order uint64 `json:"order"`
}

// Contact is a local contact.
type Contact struct {
	Name     string             `json:"name"`
	Account  identity.AccountID `json:"account"`
	Blocked  bool               `json:"blocked"`
	Verified bool               `json:"verified"`
}

// NodeStatus is GET /v1/status of a node.
type NodeStatus struct {
	Account      identity.AccountID `json:"account"`
	Device       identity.DeviceID  `json:"device"`
	Name         string             `json:"name"`
	Network      string             `json:"network"` // "" until pinned
	Pillar       string             `json:"pillar"`  // "" while none
	Standby      string             `json:"standby"`
	PillarsKnown int                `json:"pillars_known"`
	NodesKnown   int                `json:"nodes_known"`
	Reachability string             `json:"reachability"` // public, private or unknown
	Outbox       OutboxCounts       `json:"outbox"`
	Inbox        InboxCounts        `json:"inbox"`
	Failovers    int                `json:"failovers"`
	// LastFailoverMS is how long the last failover took: until another pillar was
	// active, from the moment the lost one began to be missed (an answer was owed,
	// mail it should have brought, a sign of life it was asked for), or, if its
	// connection broke, from then.
	LastFailoverMS int64 `json:"last_failover_ms"`
	ClockSkewMS    int64 `json:"clock_skew_ms"`
}

// OutboxCounts counts messages that are not in a final state.
type OutboxCounts struct {
	Queued     int `json:"queued"`
	Stored     int `json:"stored"`
	Replicated int `json:"replicated"`
}

// InboxCounts counts messages received.
type InboxCounts struct {
	Total   int `json:"total"`
	Unacked int `json:"unacked"`
}

// NodePillar is a pillar as a node sees it.
type NodePillar struct {
	ID        identity.PillarID     `json:"id"`
	Name      string                `json:"name"`
	Home      bool                  `json:"home"` // behind a NAT, reached through others
	Addrs     []multiaddr.Multiaddr `json:"addrs"`
	State     PillarState           `json:"state"`
	Connected bool                  `json:"connected"`
	Active    bool                  `json:"active"`
	Standby   bool                  `json:"standby"`
	// Reason is why a pillar that is alive does not take this node.
	Reason   Code       `json:"reason,omitempty"`
	Path     Path       `json:"path"`
	RTTMS    float64    `json:"rtt_ms"`
	LastSeen *time.Time `json:"last_seen"`
	// Trouble is why it is neither active nor the standby, if the node tried.
	Trouble
}

// EventKind says what an Event is about.
type EventKind string

// Kinds of events.
const (
	EventMessage  EventKind = "message"  // a message was received
	EventState    EventKind = "state"    // a sent one changed its state
	EventFailover EventKind = "failover" // the active pillar changed
	EventPath     EventKind = "path"     // a contact became direct or relayed
	EventResync   EventKind = "resync"   // events were missed: read everything anew
)

// Event is something that happened at a node. Exactly the field that fits its
// Kind is set.
type Event struct {
	Seq      uint64         `json:"seq"` // ascending within one run
	Kind     EventKind      `json:"kind"`
	Message  *InMessage     `json:"message,omitempty"`
	Sent     *OutMessage    `json:"state,omitempty"`
	Failover *FailoverEvent `json:"failover,omitempty"`
	Path     *PathEvent     `json:"path,omitempty"`
}

// FailoverEvent is a change of the active pillar.
type FailoverEvent struct {
	From   string `json:"from"`
	To     string `json:"to"`
	TookMS int64  `json:"took_ms"` // from losing the one to being registered at the other
}

// PathEvent is a change of how an account's device is reached.
type PathEvent struct {
	Account identity.AccountID `json:"account"`
	Device  identity.DeviceID  `json:"device"`
	Path    Path               `json:"path"`
}
