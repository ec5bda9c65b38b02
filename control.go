package obelisk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// controlTick is how often what has to happen elsewhere is looked for.
const controlTick = 100 * time.Millisecond

// leaveDrain is how long a pillar that leaves waits for its nodes to move; those
// that do not are parted from.
const leaveDrain = 10 * time.Second

// Drain tells connected nodes to move to other pillars and takes no new ones,
// until Close or SetDrain ends it. It returns when all have gone, ctx ends, or
// there is no other pillar to go to.
func (p *Pillar) Drain(ctx context.Context) {
	p.core.Drain(true)
	_ = p.until(ctx, func() bool { return p.core.Status().NodesConnected == 0 || !p.hasOthers() })
}

// SetDrain moves nodes to other pillars and refuses what they submit, as
// draining, while replication goes on; or, with on false, ends that. On, it
// returns how many nodes are still here when all have moved or ctx ends. Without
// another pillar that takes them it is refused.
func (p *Pillar) SetDrain(ctx context.Context, on bool) (nodes int, err error) {
	if !on {
		p.core.Drain(false)
		return p.core.Status().NodesConnected, nil
	}
	if !p.hasOthers() {
		return 0, overlay.Refuse(admin.CodeConflict, "no other pillar is connected that has room for the nodes: "+
			"look at `obelisk pillars`, or add one with `obelisk pillar add`")
	}
	p.Drain(ctx)
	return p.core.Status().NodesConnected, nil
}

// Leave takes the pillar out of the network for good: its nodes move, what only
// it holds goes to another pillar, and its record says that it left, which ends
// what others count on it for. Then it stops, as by Close. The data directory
// stays; a later OpenPillar needs Rejoin. If it cannot leave it stays, and says
// why: nobody is there to hold what it holds (conflict), or ctx ended before.
func (p *Pillar) Leave(ctx context.Context) error {
	if !p.leaving.TryLock() {
		return overlay.Refuse(admin.CodeConflict, "this pillar is leaving already")
	}
	defer p.leaving.Unlock()
	if !p.hasOthers() {
		return overlay.Refuse(admin.CodeConflict, "no other pillar is connected that has room: what this one holds would be lost")
	}
	p.log.Info("leaving the network")
	drained := p.core.Status().Draining
	if err := p.leave(ctx); err != nil {
		if !drained {
			p.core.Drain(false)
		}
		p.log.Warn("not left", "err", err)
		if errors.Is(err, context.DeadlineExceeded) {
			return overlay.Refuse(admin.CodeTimeout, "this pillar has not left: %v", err)
		}
		return fmt.Errorf("leave: %w", err)
	}
	p.log.Info("left the network")
	p.life.fail(nil)
	return nil
}

func (p *Pillar) leave(ctx context.Context) error {
	draining, cancel := context.WithTimeout(ctx, leaveDrain)
	p.Drain(draining)
	cancel()
	if err := p.handOver(ctx); err != nil {
		return fmt.Errorf("no other pillar holds all that this one does: %w", err)
	}
	var others []PillarID
	for _, o := range p.mesh.Pillars() {
		if present(&o) {
			others = append(others, o.ID)
		}
	}
	rec, err := p.core.Leave(ctx, false)
	if err == nil {
		err = p.awaitTold(ctx, rec.ID, others)
	}
	if err == nil {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveDrain)
	defer cancel()
	_, undo := p.core.Leave(back, true)
	return errors.Join(fmt.Errorf("the others were not told: %w", err), undo)
}

// handOver returns when one other pillar holds everything that this one does:
// all logs by its vector, and by an audit round with it what came by no log.
func (p *Pillar) handOver(ctx context.Context) error {
	for {
		var heir PillarID
		err := p.until(ctx, func() (found bool) {
			heir, found = heirOf(p.mesh.Pillars())
			return found
		})
		if err != nil {
			return err
		}
		round, err := p.mesh.Round(ctx, heir)
		switch {
		case err != nil:
		case round.Result == overlay.RoundEqual, round.Result == overlay.RoundRepaired:
			return nil
		case round.Result == overlay.RoundUnsettled:
			p.log.Warn("sets are not compared before leaving: a clock is off", "pillar", heir)
			return nil
		}
		p.log.Debug("round before leaving", "pillar", heir, "result", round.Result, "err", err)
		if err := p.pause(ctx, 10*controlTick); err != nil {
			return err
		}
	}
}

// heirOf finds a pillar that is there, has room, and lacks nothing that this one
// holds.
func heirOf(pillars []overlay.PillarStatus) (PillarID, bool) {
	for i := range pillars {
		if o := &pillars[i]; o.State == overlay.PillarAlive && o.Connected && o.MissingThere == 0 {
			return o.ID, true
		}
	}
	return "", false
}

// awaitTold returns when another pillar has the record, or when all that were
// there have parted from this one, which they do because of it.
func (p *Pillar) awaitTold(ctx context.Context, id RecordID, others []PillarID) error {
	return p.until(ctx, func() bool {
		if copies, err := p.mesh.Copies(ctx, []RecordID{id}); err == nil && copies[0] > 0 {
			return true
		}
		still := map[PillarID]bool{}
		for _, o := range p.mesh.Pillars() {
			still[o.ID] = present(&o)
		}
		for _, o := range others {
			if still[o] {
				return false
			}
		}
		return true
	})
}

// until returns when holds does, or why it cannot any more.
func (p *Pillar) until(ctx context.Context, holds func() bool) error {
	for !holds() {
		if err := p.pause(ctx, controlTick); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pillar) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.life.ask:
		return ErrClosed
	}
}

// present: there is a session with it.
func present(s *overlay.PillarStatus) bool {
	return s.State == overlay.PillarAlive || s.State == overlay.PillarFull
}

func (p *Pillar) hasOthers() bool {
	for _, o := range p.mesh.Pillars() {
		if o.State == overlay.PillarAlive && o.Connected {
			return true
		}
	}
	return false
}

// Revoke takes a revocation by the network key, as RevocationText gave it: the
// pillar it names is none any more, here at once and everywhere within seconds.
func (p *Pillar) Revoke(ctx context.Context, revocation string) (admin.Revoked, error) {
	rec, info, err := overlay.ParseRevocation(p.network, revocation)
	if err == nil {
		err = p.core.Revoke(ctx, rec)
	}
	if err != nil {
		return admin.Revoked{}, err
	}
	p.log.Warn("pillar revoked", "pillar", info.Pillar, "serial", info.Serial)
	return admin.Revoked{Pillar: info.Pillar, Serial: info.Serial}, nil
}

// SignRevocation signs, with the network key, that admissions of a pillar up to
// serial count no more, and returns the text that Pillar.Revoke takes. serial 0
// stands for now: all admissions made so far. It needs no network.
func SignRevocation(key *identity.NetworkKey, pillar PillarID, serial uint64) (string, error) {
	now := uint64(time.Now().UnixMilli())
	if serial == 0 {
		serial = now
	}
	rec, err := overlay.Revoke(key, pillar, serial, now)
	if err != nil {
		return "", err
	}
	return overlay.RevocationText(rec), nil
}
