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

// PauseRounds stops audit rounds from being begun here, or lets them go on.
func (p *Pillar) PauseRounds(on bool) { p.mesh.PauseRounds(on) }

// Convergence asks the pillars it is connected to for everybody's newest
// summaries, verifies each against the roster, and compares them.
func (n *Node) Convergence(ctx context.Context) ([]overlay.Statement, error) {
	return n.core().Convergence(ctx)
}
