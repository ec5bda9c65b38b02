package overlay

import (
	"errors"
	"slices"
	"strings"

	"github.com/multiformats/go-multiaddr"
)

// ErrNoAddress: nothing is known of where the peer could be dialled, or nothing
// that may be.
var ErrNoAddress = errors.New("no address to dial")

// Transports of an address, as they are named in JSON.
const (
	TransportQUIC      = "quic"
	TransportTCP       = "tcp"
	TransportWebSocket = "ws"
	TransportCircuit   = "circuit" // through a relay, whatever that is reached by
)

// TransportOf says by what an address is reached: TCP, unless it says otherwise.
func TransportOf(a multiaddr.Multiaddr) string {
	if IsCircuit(a) {
		return TransportCircuit
	}
	if t := transportOf(a); t != LinkOther {
		return t.String()
	}
	return TransportTCP
}

// Fault says in a word what came of an attempt to connect at one address. Words
// may be added; none changes its meaning.
type Fault string

// Faults.
const (
	FaultWrongPeer   Fault = "wrong_peer"  // somebody else answers there
	FaultTurnedAway  Fault = "turned_away" // it is there, or its relay is, and takes no more connections, or none of ours
	FaultRefused     Fault = "refused"     // the machine is there, and nobody listens at that port
	FaultNoPillar    Fault = "no_pillar"   // something else listens there
	FaultHungUp      Fault = "hung_up"     // the connection was made and broke off
	FaultNoRelay     Fault = "no_relay"    // the pillar in between cannot be reached, or does not reach it
	FaultTimeout     Fault = "timeout"     // nothing came back
	FaultNoRoute     Fault = "no_route"    // this machine knows no way there, or may not send there
	FaultNoName      Fault = "no_name"     // the DNS does not know the name
	FaultUnsupported Fault = "unsupported" // this version does not speak that
	FaultFailed      Fault = "failed"      // anything else, see the text
)

// DialAttempt is what came of one address.
type DialAttempt struct {
	Addr  multiaddr.Multiaddr
	Fault Fault
	// Detail is what noticed it says, in one line. Some of it may be the peer's
	// own words, whatever they are: see Plain.
	Detail string
}

// DialError is why Links.Connect made no connection. It is ErrWrongPeer if
// somebody else answered at an address, else ErrUnreachable, and ErrFull too if
// the peer turned this host away.
type DialError struct {
	Attempts []DialAttempt // in no order; none if no address came to be tried
	Cause    error         // ErrNoAddress, the context's error …; nil if Attempts say all
}

func (e *DialError) has(f Fault) bool {
	return slices.ContainsFunc(e.Attempts, func(a DialAttempt) bool { return a.Fault == f })
}

// Unwrap returns what Links documents.
func (e *DialError) Unwrap() []error {
	var is []error
	switch {
	case e.has(FaultWrongPeer):
		is = append(is, ErrWrongPeer)
	case e.has(FaultTurnedAway):
		is = append(is, ErrUnreachable, ErrFull)
	default:
		is = append(is, ErrUnreachable)
	}
	if e.Cause != nil {
		is = append(is, e.Cause)
	}
	return is
}

// Error names every address. It is for logs: parts of it are foreign, and as
// long as they like.
func (e *DialError) Error() string {
	var b strings.Builder
	for i, is := range e.Unwrap() {
		if i > 0 {
			b.WriteString(": ")
		}
		b.WriteString(is.Error())
	}
	for i, a := range e.Attempts {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(a.Addr.String() + ": " + a.Detail)
	}
	return b.String()
}
