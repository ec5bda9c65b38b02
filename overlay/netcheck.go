package overlay

import (
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// NATBehaviour is how a NAT maps or filters, in the words of RFC 4787,
// sections 4.1 and 5.
type NATBehaviour string

// Behaviours of a NAT.
const (
	NATUnknown             NATBehaviour = "unknown" // too little was seen to tell
	NATNone                NATBehaviour = "none"    // there is no NAT
	NATEndpointIndependent NATBehaviour = "endpoint_independent"
	NATAddressDependent    NATBehaviour = "address_dependent"
	// NATPortDependent is "address and port-dependent".
	NATPortDependent NATBehaviour = "address_and_port_dependent"
)

// Netcheck is what a node found out about its way to the others, in the shape
// of GET /v1/netcheck.
type Netcheck struct {
	At        time.Time    `json:"at"`
	TookMS    float64      `json:"took_ms"`
	Mapping   NATBehaviour `json:"mapping"`   // of UDP; dependent mapping defeats hole punching with most others
	Filtering NATBehaviour `json:"filtering"` // of UDP
	// Reachability is public if others can connect without being called first.
	Reachability string `json:"reachability"` // public, private or unknown
	// HolePunching says in a word whether direct connections can be had: works
	// (it has), likely, unlikely or unknown; Why in words.
	HolePunching string            `json:"hole_punching"`
	Why          string            `json:"why"`
	Public       []SeenAddr        `json:"public"`
	Pillars      []NetcheckPillar  `json:"pillars"`
	Contacts     []NetcheckContact `json:"contacts"`
	Warnings     []string          `json:"warnings"` // what to do about what does not work
}

// SeenAddr is an address that a pillar sees this node at.
type SeenAddr struct {
	Transport string            `json:"transport"` // quic, tcp or ws
	Addr      string            `json:"addr"`      // multiaddr
	By        identity.PillarID `json:"by"`
}

// NetcheckPillar is how a pillar was reached.
type NetcheckPillar struct {
	ID         identity.PillarID   `json:"id"`
	Name       string              `json:"name"`
	Path       Path                `json:"path"` // of the connection in use; "" without one
	Reserved   bool                `json:"reserved"`
	Transports []NetcheckTransport `json:"transports"`
}

// NetcheckTransport is one attempt at one address of a pillar.
type NetcheckTransport struct {
	Transport string  `json:"transport"`
	Addr      string  `json:"addr"`
	OK        bool    `json:"ok"`
	RTTMS     float64 `json:"rtt_ms"`
	Error     string  `json:"error"`
}

// NetcheckContact is how a device of a contact is reached at the moment.
type NetcheckContact struct {
	Account identity.AccountID `json:"account"`
	Name    string             `json:"name"` // of the local contact; "" if it is none
	Device  identity.DeviceID  `json:"device"`
	Path    Path               `json:"path"`
	RTTMS   float64            `json:"rtt_ms"`
	Since   *time.Time         `json:"since"`
	Why     string             `json:"why"` // why it is not direct
}
