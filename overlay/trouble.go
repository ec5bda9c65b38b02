package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Bounds of what a Trouble keeps.
const (
	maxTroubleText  = 240 // bytes of a sentence
	maxTroubleAddrs = 2 * MaxAddrs
	maxForeign      = 120 // bytes of foreign words in it
	maxCode         = 32  // bytes of a code that is not one of ours
)

// Trouble is why a pillar is not in use, or not connected, in the JSON shape of
// GET /v1/pillars: what came of the newest attempt. Its texts are short and safe
// to show, whoever caused them. The zero value is none.
type Trouble struct {
	// Error is a sentence without a capital and a full stop; "" if there is no
	// trouble.
	Error     string `json:"error"`
	ErrorCode Code   `json:"error_code"`
	// ErrorSince is when the first attempt failed, or the connection was lost,
	// since it worked the last time; ErrorAt is when the newest did. nil: never.
	ErrorSince *time.Time `json:"error_since"`
	ErrorAt    *time.Time `json:"error_at"`
	// NextTry is when it is tried next, at the earliest; nil if nothing is planned,
	// as where a node has the two pillars that it needs.
	NextTry *time.Time `json:"next_try"`
	Trying  bool       `json:"trying"` // it is being tried now
	// Attempts are the addresses of the newest attempt, if it came to nothing at
	// all of them.
	Attempts []AddrTrouble `json:"attempts"`
}

// AddrTrouble is what came of trying one address.
type AddrTrouble struct {
	Addr      string `json:"addr"`
	Transport string `json:"transport"` // quic, tcp, ws or circuit
	Fault     Fault  `json:"fault"`
	Error     string `json:"error"`
}

// Failed takes note of an attempt that failed, or of a connection that was lost,
// at a time.
func (t *Trouble) Failed(err error, at time.Time) {
	at = at.UTC()
	since := t.ErrorSince
	if since == nil || t.Error == "" {
		since = &at
	}
	*t = troubleOf(err)
	t.ErrorSince, t.ErrorAt = since, &at
}

// Planned says when it is tried next, the zero time if that is not planned.
func (t *Trouble) Planned(next time.Time) {
	t.NextTry = nil
	if !next.IsZero() {
		next = next.UTC().Round(time.Millisecond) // two clocks take part
		t.NextTry = &next
	}
}

// troubleOf says what an error means.
func troubleOf(err error) Trouble {
	var (
		clock   *clockDoubt
		dial    *DialError
		refusal *Error
	)
	unreachable := func(text string) Trouble { return Trouble{Error: text, ErrorCode: CodeUnreachable} }
	switch {
	case errors.As(err, &clock):
		return Trouble{Error: clock.words(), ErrorCode: CodeClockWrong}
	case errors.As(err, &dial):
		return dial.trouble()
	case errors.As(err, &refusal):
		return Trouble{Error: refusal.words(), ErrorCode: Code(Plain(string(refusal.Code), maxCode))}
	case errors.Is(err, ErrCloned):
		return Trouble{Error: "this device's data is a restored or cloned copy", ErrorCode: CodeRemovedDevice}
	case errors.Is(err, errSilent):
		return unreachable("it stopped answering: the pillar, or the way to it, is dead")
	case errors.Is(err, errNoAnswer):
		return unreachable("it is connected and does not answer")
	case errors.Is(err, errCrowded):
		return Trouble{Error: "it has no room to relay for this node", ErrorCode: CodeBusy}
	case errors.Is(err, ErrWrongPeer):
		return Trouble{Error: "somebody else answers at its address", ErrorCode: CodeWrongPeer}
	case errors.Is(err, ErrProtocol):
		return Trouble{Error: "it is there and does not speak as a pillar does", ErrorCode: CodeNotAdmitted}
	case errors.Is(err, ErrFrame) && !errors.Is(err, ErrCut):
		return Trouble{Error: "it breaks the rules of the protocol: " + Plain(err.Error(), maxForeign), ErrorCode: CodeInvalid}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return unreachable("no answer in time")
	case errors.Is(err, ErrLinksClosed):
		return unreachable("this process is stopping")
	default: // EOF, resets, whatever a transport calls them
		return unreachable("the connection broke off")
	}
}

// words says what a refusal means. Its own text is foreign, and is added only
// where the code says too little.
func (e *Error) words() string {
	switch e.Code {
	case CodeBusy:
		return "it has too much to do at the moment"
	case CodeFull:
		return "it is full"
	case CodeDraining:
		return "it sends its nodes to other pillars: it is being drained, or stopped"
	case CodeClockWrong:
		return "its clock and that of this machine differ too much"
	case CodeRegistrationClosed:
		return "registration is closed there, and this account is not allowed in"
	case CodeRemovedDevice:
		return "the account removed this device"
	case CodeWrongNetwork:
		return "it belongs to another network"
	case CodeNotAdmitted:
		text := e.Text
		if strings.HasPrefix(text, "pillar ") { // which one is known
			if _, why, ok := strings.Cut(text, ": "); ok {
				text = why
			}
		}
		return "not admitted: " + Plain(text, maxForeign)
	default:
		return fmt.Sprintf("refused (%s): %s", Plain(string(e.Code), maxCode), Plain(e.Text, maxForeign))
	}
}

// trouble is why who has that standing is no pillar, since since (Unix ms).
func (s Standing) trouble(since uint64) Trouble {
	t := Trouble{ErrorCode: CodeNotAdmitted}
	switch s {
	case StandingRevoked:
		t.Error = "its admission was revoked: it is no pillar any more"
	case StandingLeft:
		t.Error = "it left the network for good"
	case StandingExpired:
		t.Error = "its admission has run out"
	default:
		t.Error = "it is not known to be admitted"
	}
	at := time.UnixMilli(int64(min(since, 1<<53))).UTC()
	t.ErrorSince, t.ErrorAt = &at, &at
	return t
}

// clockDoubt is the refusal of what may be valid by another clock.
type clockDoubt struct {
	skew time.Duration // the other's clock minus ours
	err  error
}

// DoubtClock marks err, why a pillar did not accept another, as a matter of
// clocks, if it may be one: skew is that pillar's clock, by its own word, minus
// ours. The code of the error stays.
func DoubtClock(err error, skew time.Duration) error {
	if CodeOf(err) != CodeNotAdmitted || skew.Abs() <= clockLimit {
		return err
	}
	return &clockDoubt{skew, err}
}

func (e *clockDoubt) Error() string { return e.words() + ": " + e.err.Error() }
func (e *clockDoubt) Unwrap() error { return e.err }

func (e *clockDoubt) words() string {
	how := "behind"
	if e.skew < 0 {
		how = "ahead of"
	}
	return fmt.Sprintf("the clocks differ: this machine's is %s %s that pillar's, and an admission is in force by one only", e.skew.Abs().Round(time.Second), how)
}

// trouble is troubleOf for who was not reached.
func (e *DialError) trouble() Trouble {
	t := Trouble{ErrorCode: CodeUnreachable}
	for _, a := range e.Attempts[:min(len(e.Attempts), maxTroubleAddrs)] {
		at := AddrTrouble{Addr: Plain(a.Addr.String(), 2*maxTroubleText), Transport: TransportOf(a.Addr), Fault: a.Fault}
		if at.Error = faultWords[a.Fault]; at.Error == "" {
			at.Error = Plain(a.Detail, maxForeign)
		}
		t.Attempts = append(t.Attempts, at)
	}
	slices.SortStableFunc(t.Attempts, func(a, b AddrTrouble) int { return transportPlace(a.Transport) - transportPlace(b.Transport) })
	if e.has(FaultWrongPeer) {
		t.ErrorCode = CodeWrongPeer
	}
	t.Error = Plain(e.sentence(t.Attempts), maxTroubleText)
	return t
}

// faultOrder has what tells most in front.
var faultOrder = []Fault{FaultWrongPeer, FaultTurnedAway, FaultNoPillar, FaultRefused, FaultHungUp, FaultTimeout, FaultNoRoute,
	FaultNoName, FaultNoRelay, FaultUnsupported, FaultFailed}

// faultWords of one address; those of FaultFailed are its detail.
var faultWords = map[Fault]string{
	FaultWrongPeer:   "somebody else answers there",
	FaultTurnedAway:  "it is there and turns this machine away: it has too many connections, or too many from this address",
	FaultRefused:     "connection refused",
	FaultNoPillar:    "something that is no pillar answers there",
	FaultHungUp:      "the connection broke off",
	FaultTimeout:     "timed out",
	FaultNoRoute:     "this machine has no way there",
	FaultNoName:      "the name is not known",
	FaultNoRelay:     "the pillar in between does not reach it",
	FaultUnsupported: "this version does not speak that",
}

// Words says f in a few words; "" for FaultFailed, of which only the attempt
// itself can say something.
func (f Fault) Words() string { return faultWords[f] }

var transportWords = []struct{ transport, words string }{
	{TransportQUIC, "over UDP"},
	{TransportTCP, "over TCP"},
	{TransportWebSocket, "over WebSocket"},
	{TransportCircuit, "through a relay"},
}

func transportPlace(transport string) int {
	for i, w := range transportWords {
		if w.transport == transport {
			return i
		}
	}
	return len(transportWords)
}

// sentence puts the addresses together: connection refused over TCP, timed out
// over UDP.
func (e *DialError) sentence(attempts []AddrTrouble) string {
	var parts []string
	for _, f := range faultOrder {
		words := faultWords[f]
		var by []string
		for _, a := range attempts {
			if a.Fault != f {
				continue
			}
			if words == "" {
				words = a.Error
			}
			if w := transportWords[min(transportPlace(a.Transport), len(transportWords)-1)].words; !slices.Contains(by, w) {
				by = append(by, w)
			}
		}
		if len(by) == 0 {
			continue
		}
		switch what, why, more := strings.Cut(words, ": "); {
		case f == FaultNoRelay || f == FaultNoName || f == FaultUnsupported: // however it would have been reached
			parts = append(parts, words)
		case f == FaultFailed:
			parts = append(parts, "fails "+joinWords(by)+": "+words)
		case more:
			parts = append(parts, what+" "+joinWords(by)+": "+why)
		default:
			parts = append(parts, what+" "+joinWords(by))
		}
	}
	switch {
	case len(parts) > 0:
		return strings.Join(parts, ", ")
	case errors.Is(e.Cause, ErrNoAddress):
		return "no address of it is known that may be dialled"
	case errors.Is(e.Cause, context.DeadlineExceeded):
		return "no connection in time"
	case errors.Is(e.Cause, ErrLinksClosed), errors.Is(e.Cause, context.Canceled):
		return "this process is stopping"
	case e.Cause != nil:
		return "no connection: " + Plain(e.Cause.Error(), maxForeign)
	default:
		return "no connection"
	}
}

// joinWords writes: over UDP, TCP and WebSocket.
func joinWords(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	out := words[0]
	for i, w := range words[1:] {
		if strings.HasPrefix(out, "over ") {
			w = strings.TrimPrefix(w, "over ")
		}
		if i == len(words)-2 {
			out += " and " + w
		} else {
			out += ", " + w
		}
	}
	return out
}
