package gossip

import (
	"errors"

	"github.com/obelisk-network/obelisk/overlay"
)

var (
	// errStopped: the Mesh does not run.
	errStopped = errors.New("replication is not running")
	// errStranger: a log's pillar is in no roster record that was seen, or has
	// more logs than a pillar may, or signs what no log can be.
	errStranger = errors.New("not a pillar of this network that is known here, or one of too many logs")
	// errSessionLost: the session ended.
	errSessionLost = errors.New("the session ended")
	// errDied: everything in the log has expired.
	errDied = errors.New("the log has died")
	// errClocks: what a provider sends is wrong by our clock, but not by its own.
	errClocks = errors.New("the provider's clock says another time than ours")
	// errNoHead: a holder has no signed head for entries it was asked for.
	errNoHead = errors.New("no signed head reaches these entries")
	// errForked: the log was forked.
	errForked = errors.New("the log was forked")
	// errUnproven: the log was forked, but what would prove it to others is not
	// kept here.
	errUnproven = errors.New("the log was forked, which cannot be proven from here")
	// errVague: a provider's history differs from ours, and where it does he shows
	// no entries. That proves nothing, and changes nothing here.
	errVague = errors.New("another history, without the entries that make it one")
	// errBetter, errIdle: why a follow is ended that is not needed.
	errBetter = errors.New("somebody else offers more of it")
	errIdle   = errors.New("nothing moves in it")
	// errLowered: what a live follow brought turned out to be lost. Another one
	// begins where the log ends now.
	errLowered = errors.New("what is held of it ends lower now")
)

// misframed reports whether reading failed because the other side broke the
// rules of frames, not because its connection did.
func misframed(err error) bool {
	return errors.Is(err, overlay.ErrFrame) && !errors.Is(err, overlay.ErrCut)
}

// codeOf is overlay.CodeOf for errors of connections: no code of their own
// means unreachable.
func codeOf(err error) overlay.Code {
	var e *overlay.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return overlay.CodeUnreachable
}
