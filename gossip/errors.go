package gossip

import "errors"

var (
	// errStopped: the Mesh does not run.
	errStopped = errors.New("replication is not running")
	// errStranger: a log's pillar is in no roster record that was seen, or has
	// more logs than a pillar may.
	errStranger = errors.New("not a pillar of this network that is known here, or one of too many logs")
	// errSessionLost: the session ended.
	errSessionLost = errors.New("the session ended")
	// errDied: everything in the log has expired.
	errDied = errors.New("the log has died")
	// errNoHead: a holder has no signed head for entries it was asked for.
	errNoHead = errors.New("no signed head reaches these entries")
)
