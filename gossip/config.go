package gossip

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Config is what a Mesh is made of. Fields without a default are required.
type Config struct {
	Network identity.NetworkID
	Key     *identity.PillarKey
	Links   overlay.Links
	Packets overlay.Packets
	Peers   overlay.Peers
	Roster  *overlay.Roster
	Replica Replica
	Records Records
	Notes   Notes
	// Devices asks the devices connected here where they are, for other pillars.
	// Nil: nobody's devices are found here.
	Devices Devices

	// Own returns the pillar's newest record of itself, nil while it has none:
	// then it opens no session. It must not block.
	Own func() *overlay.Record
	// Bootstrap are addresses given by hand: tried for ever, beside the roster.
	Bootstrap []overlay.PillarAddr

	// Now is the clock. Default time.Now.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics

	// Full, if set, says that the pillar takes nothing for want of disk: no log is
	// followed meanwhile. It must not block.
	Full func() bool

	// Confirmed, if set, says whether the pillar's clock is right enough to say
	// what is settled and what has expired: audits stop meanwhile, those that
	// others begin too. It must not block.
	Confirmed func() bool

	// MaxFollowers is how many live followers of one log are served; who comes
	// beyond is sent to one of them. Default 64.
	MaxFollowers int

	// VectorEvery is how often changed positions are told to connected pillars.
	// Default 2 s.
	VectorEvery time.Duration
	// DialMin and DialMax bound the pause between two attempts to reach a
	// pillar. Default 1 s and 60 s.
	DialMin, DialMax time.Duration
	// Silent is how long a provider may send nothing while others show that the
	// log has moved. Default 3 s.
	Silent time.Duration
	// FollowIdle is how long a follow is kept in which nothing moves; the log is
	// followed again as soon as it does. Default 5 min.
	FollowIdle time.Duration
	// RejoinEvery is how often memberlist is told again of connected pillars it
	// lacks. Default 15 s.
	RejoinEvery time.Duration

	// AuditEvery is about how often a round with a random connected pillar is
	// begun. Default 5 s.
	AuditEvery time.Duration

	tolerant  bool                                  // tests: offences are counted, and nobody is refused
	noMember  bool                                  // tests: no memberlist
	omitShort uint64                                // tests: bits that short IDs lack
	alike     map[overlay.RecordID]overlay.RecordID // tests: records that are in memory what another is
}

// Validate fills in defaults and says what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Network.IsZero():
		return errors.New("gossip: no network")
	case c.Key == nil, c.Links == nil, c.Packets == nil, c.Peers == nil, c.Roster == nil:
		return errors.New("gossip: key, links, packets, peers and roster are required")
	case c.Replica == nil, c.Records == nil, c.Notes == nil, c.Own == nil:
		return errors.New("gossip: replica, records, notes and own are required")
	case c.Roster.Network() != c.Network:
		return errors.New("gossip: the roster is another network's")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxFollowers <= 0 {
		c.MaxFollowers = 64
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.VectorEvery, 2 * time.Second},
		{&c.DialMin, time.Second},
		{&c.DialMax, time.Minute},
		{&c.Silent, 3 * time.Second},
		{&c.FollowIdle, 5 * time.Minute},
		{&c.RejoinEvery, 15 * time.Second},
		{&c.AuditEvery, 5 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return nil
}
