package obelisk

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Sync describes replication.
func (p *Pillar) Sync() overlay.SyncStatus { return p.mesh.SyncStatus() }

// Convergence returns every pillar's newest signed summary and how it compares
// with the others at equal instants.
func (p *Pillar) Convergence() []overlay.Statement { return p.core.Statements() }

// Round does an audit round with a connected pillar now.
func (p *Pillar) Round(ctx context.Context, with PillarID) (overlay.Round, error) {
	if _, known := p.core.Roster().Lookup(with); !known {
		return overlay.Round{}, overlay.Refuse(overlay.CodeNotFound, "no pillar %s is known", with)
	}
	if _, connected := p.host.Info(peer.ID(with)); !connected {
		return overlay.Round{}, overlay.Refuse(overlay.CodeUnreachable, "pillar %s is not connected", with)
	}
	return p.mesh.Round(ctx, with)
}

// Diff lists what two pillars hold differently, without moving a record, in the
// order of IDs and after one: this pillar, which an empty of stands for, or
// another one, and with.
func (p *Pillar) Diff(ctx context.Context, of, with PillarID, after RecordID) (overlay.Diff, error) {
	return p.mesh.Diff(ctx, of, with, after)
}

// Repair exchanges what two pillars hold differently: this one, or of, and with.
func (p *Pillar) Repair(ctx context.Context, of, with PillarID) (overlay.Repaired, error) {
	return p.mesh.Repair(ctx, of, with)
}

// Describe tells of a record that this pillar holds; false if it does not.
func (p *Pillar) Describe(id RecordID) (overlay.RecordInfo, bool, error) { return p.core.Describe(id) }

// Trace asks every pillar of the roster for a record and returns within two
// seconds what each says, or that it said nothing.
func (p *Pillar) Trace(ctx context.Context, id RecordID) ([]overlay.Trace, error) {
	return p.mesh.Trace(ctx, id)
}

// Links asks every connected pillar who it is connected to and returns within
// two seconds who is connected to whom, as they say. What they said in the last
// three seconds is not asked again. The map must not be modified.
func (p *Pillar) Links(ctx context.Context) (*overlay.LinkMap, error) { return p.mesh.Links(ctx) }

// PauseRounds stops audit rounds from being begun here, or lets them go on.
func (p *Pillar) PauseRounds(on bool) { p.mesh.PauseRounds(on) }

// Convergence asks the pillars it is connected to for everybody's newest
// summaries, verifies each against the roster, and compares them.
func (n *Node) Convergence(ctx context.Context) ([]overlay.Statement, error) {
	return n.core().Convergence(ctx)
}
