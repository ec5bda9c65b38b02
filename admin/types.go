package admin

import (
	"fmt"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// PillarStatus is GET /v1/status of a pillar.
type PillarStatus struct {
	Role            string    `json:"role"`
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	Network         string    `json:"network"`
	Version         string    `json:"version"`
	Started         time.Time `json:"started"`
	UptimeS         int64     `json:"uptime_s"`
	Listen          []string  `json:"listen"`
	Log             LogStatus `json:"log"`
	Records         uint64    `json:"records"`
	Mailboxes       uint64    `json:"mailboxes"`
	StoreBytes      uint64    `json:"store_bytes"`
	NodesConnected  int       `json:"nodes_connected"`
	RelayedCircuits int       `json:"relayed_circuits"`
	PillarsAlive    int       `json:"pillars_alive"` // this one counts
	Converged       bool      `json:"converged"`
	ClockSkewMS     int64     `json:"clock_skew_ms"`
	// ClockWarning says in words what is wrong with the clock; "" if nothing is.
	ClockWarning string `json:"clock_warning"`
	// Standing is by what right it is a pillar: admitted, revoked, left, expired.
	Standing   overlay.Standing `json:"standing"`
	Draining   bool             `json:"draining"`
	Full       bool             `json:"full"`
	CatchingUp bool             `json:"catching_up"` // what others had at its start is still coming
	Diverged   int              `json:"diverged"`    // pillars whose summaries differ three times in a row
	// Home says that it is behind a NAT; Relays are the public pillars at which
	// it holds reservations then, so that it is reached through them.
	Home   bool                `json:"home"`
	Relays []identity.PillarID `json:"relays"`
	// Expiring is what it knows of messages that are about to expire unconfirmed.
	Expiring ExpiringStatus `json:"expiring_unconfirmed"`
}

// ExpiringStatus counts messages that end within a day, have lived half of their
// life, and of which at least one recipient has written no receipt to their
// author since they were created.
type ExpiringStatus struct {
	Messages int        `json:"messages"`
	Accounts int        `json:"accounts"` // recipients that have not
	AtLeast  bool       `json:"at_least"` // there may be more: not everything was looked at
	LookedAt *time.Time `json:"looked_at"`
}

// NewExpiringStatus gives what overlay knows its JSON shape.
func NewExpiringStatus(e *overlay.Expiring) ExpiringStatus {
	s := ExpiringStatus{Messages: e.Messages, Accounts: e.Accounts, AtLeast: e.AtLeast}
	if !e.At.IsZero() {
		at := e.At.UTC()
		s.LookedAt = &at
	}
	return s
}

// Text says it in words; "" if there are none.
func (e *ExpiringStatus) Text() string {
	if e.Messages == 0 {
		return ""
	}
	atLeast := ""
	if e.AtLeast {
		atLeast = "at least "
	}
	return fmt.Sprintf("%s%s %s within a day, and %s %s written no receipt to the author since", atLeast,
		countText(e.Messages), plural(e.Messages, "message ends", "messages end"), countText(e.Accounts), plural(e.Accounts, "recipient has", "recipients have"))
}

// LogStatus is the log a pillar writes in this run; ID is "" before its first
// entry.
type LogStatus struct {
	ID  string `json:"id"`
	Seq uint64 `json:"seq"`
}

// PillarEntry is another pillar as a pillar sees it, in GET /v1/pillars.
type PillarEntry struct {
	ID           identity.PillarID   `json:"id"`
	Name         string              `json:"name"`
	Home         bool                `json:"home"` // behind a NAT, reached through others
	Addrs        []string            `json:"addrs"`
	State        overlay.PillarState `json:"state"`
	Connected    bool                `json:"connected"`
	Path         overlay.Path        `json:"path"`
	RTTMS        float64             `json:"rtt_ms"`
	MissingHere  uint64              `json:"missing_here"`
	MissingThere uint64              `json:"missing_there"`
	LastSeen     *time.Time          `json:"last_seen"`
	Standing     overlay.Standing    `json:"standing"`
	LogsPaused   bool                `json:"logs_paused"` // its logs have used up their share of this pillar's disk
	// Trouble is why there is no session with it, "" if there is one.
	overlay.Trouble
}

// NewPillarEntry gives a status of overlay its JSON shape.
func NewPillarEntry(s *overlay.PillarStatus) PillarEntry {
	e := PillarEntry{
		ID: s.ID, Name: s.Name, Home: s.Home, Addrs: addrTexts(s.Addrs), State: s.State, Connected: s.Connected,
		Path: s.Path, RTTMS: float64(s.RTT.Microseconds()) / 1000,
		MissingHere: s.MissingHere, MissingThere: s.MissingThere, Trouble: s.Trouble,
	}
	e.Attempts = listed(e.Attempts)
	if !s.LastSeen.IsZero() {
		at := s.LastSeen.UTC()
		e.LastSeen = &at
	}
	return e
}

func addrTexts(addrs []multiaddr.Multiaddr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// NodePillarEntry is a pillar as a node sees it, in GET /v1/pillars of a node.
type NodePillarEntry struct {
	ID        identity.PillarID   `json:"id"`
	Name      string              `json:"name"`
	Home      bool                `json:"home"` // behind a NAT, reached through others
	Addrs     []string            `json:"addrs"`
	State     overlay.PillarState `json:"state"`
	Connected bool                `json:"connected"`
	Active    bool                `json:"active"`
	Standby   bool                `json:"standby"`
	// Reason is why a pillar that is alive does not take this node.
	Reason   overlay.Code `json:"reason,omitempty"`
	Path     overlay.Path `json:"path"`
	RTTMS    float64      `json:"rtt_ms"`
	LastSeen *time.Time   `json:"last_seen"`
	// Trouble is why it is neither active nor the standby, "" if the node did not
	// try, or does not need it.
	overlay.Trouble
}

func nodePillars(list []overlay.NodePillar) []NodePillarEntry {
	out := make([]NodePillarEntry, len(list))
	for i, p := range list {
		out[i] = NodePillarEntry{ID: p.ID, Name: p.Name, Home: p.Home, Addrs: addrTexts(p.Addrs), State: p.State,
			Connected: p.Connected, Active: p.Active, Standby: p.Standby, Reason: p.Reason, Path: p.Path, RTTMS: p.RTTMS, LastSeen: p.LastSeen,
			Trouble: p.Trouble}
		out[i].Attempts = listed(p.Attempts)
	}
	return out
}

// NodePage is a page of a directory. Next is the account to ask for the next
// page with, "" after the last.
type NodePage struct {
	Nodes []overlay.NodeEntry `json:"nodes"`
	Next  string              `json:"next"`
}

// Check is one line of /healthz and /readyz.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

type checkList struct {
	Checks []Check `json:"checks"`
}

// SendRequest is the body of POST /v1/messages. Exactly one of Text and Body is
// set.
type SendRequest struct {
	To   []string `json:"to"` // accounts, contact links or names of local contacts
	Text *string  `json:"text,omitempty"`
	Body []byte   `json:"body_base64,omitzero"`
	TTLS int64    `json:"ttl_s,omitempty"` // seconds; 0: the default
	// Wait is the state to wait for, at most TimeoutMS; "" or queued: not at all.
	Wait      overlay.State `json:"wait,omitempty"`
	TimeoutMS int64         `json:"timeout_ms,omitempty"` // default 30,000, at most 600,000
	ClientID  string        `json:"client_id,omitempty"`
}

// SendResult is its answer, and what `send --json` prints.
type SendResult struct {
	ID             *overlay.RecordID   `json:"id"` // null while unsealed
	Handle         overlay.Handle      `json:"handle"`
	State          overlay.State       `json:"state"`
	Reason         overlay.Code        `json:"reason"`
	Copies         int                 `json:"copies"`
	Expires        time.Time           `json:"expires"`
	DevicesMissing []identity.DeviceID `json:"devices_missing"`
}

// NewSendResult is m in the shape of a SendResult.
func NewSendResult(m *overlay.OutMessage) SendResult {
	missing := m.DevicesMissing
	if missing == nil {
		missing = []identity.DeviceID{}
	}
	return SendResult{ID: m.ID, Handle: m.Handle, State: m.State, Reason: m.Reason,
		Copies: m.Copies, Expires: m.Expires.UTC(), DevicesMissing: missing}
}

// InboxPage is GET /v1/messages?direction=in. Next is the after of the next
// page, 0 after the last.
type InboxPage struct {
	Messages []overlay.InMessage `json:"messages"`
	Next     uint64              `json:"next"`
}

// OutboxPage is GET /v1/messages?direction=out.
type OutboxPage struct {
	Messages []overlay.OutMessage `json:"messages"`
	Next     uint64               `json:"next"`
}

// Directions of a message.
const (
	DirectionIn  = "in"
	DirectionOut = "out"
)

// Message is one message, received or sent: exactly one of In and Out is set.
// Its JSON is that of the one with a "direction" beside.
type Message struct {
	In  *overlay.InMessage
	Out *overlay.OutMessage
}

type directedIn struct {
	Direction string `json:"direction"`
	overlay.InMessage
}

type directedOut struct {
	Direction string `json:"direction"`
	overlay.OutMessage
}

// ContactRequest is the body of POST and PATCH /v1/contacts. In a PATCH only
// what is there changes.
type ContactRequest struct {
	Name     *string `json:"name,omitempty"`
	Account  string  `json:"account,omitempty"` // POST only: an account or a contact link
	Blocked  *bool   `json:"blocked,omitempty"`
	Verified *bool   `json:"verified,omitempty"`
}

type addrRequest struct {
	Addr string `json:"addr"`
}

type accountRequest struct {
	Account string `json:"account"`
}
