package testnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	obelisk "github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// Node returns a client of a node's local API.
func (p *Process) Node() (*admin.NodeClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node != nil {
		return p.node, nil
	}
	token, err := admin.LoadToken(obelisk.TokenFile(p.Data, obelisk.RoleNode))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a Unix socket needs none
		return nil, err
	}
	p.node, err = admin.NewNodeClient(admin.Target{Addr: p.API, Token: token, Dial: p.place.Dial})
	return p.node, err
}

// Pillar returns a client of a pillar's admin port.
func (p *Process) Pillar() (*admin.PillarClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pillar != nil {
		return p.pillar, nil
	}
	token, err := admin.LoadToken(obelisk.TokenFile(p.Data, obelisk.RolePillar))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // reads need none
		return nil, err
	}
	p.pillar, err = admin.NewPillarClient(admin.Target{Addr: p.Admin, Token: token, Dial: p.place.Dial})
	return p.pillar, err
}

// askTime bounds one question. A paused process takes it and never answers.
const askTime = 5 * time.Second

// PillarStatus asks a pillar how it is.
func (p *Process) PillarStatus(ctx context.Context) (admin.PillarStatus, error) {
	c, err := p.Pillar()
	if err != nil {
		return admin.PillarStatus{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return c.Status(ctx)
}

// NodeStatus asks a node how it is.
func (p *Process) NodeStatus(ctx context.Context) (overlay.NodeStatus, error) {
	c, err := p.Node()
	if err != nil {
		return overlay.NodeStatus{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return c.Status(ctx)
}

// Inbox returns everything a node has received, oldest first.
func (p *Process) Inbox(ctx context.Context) ([]overlay.InMessage, error) {
	c, err := p.Node()
	if err != nil {
		return nil, err
	}
	var all []overlay.InMessage
	for after := uint64(0); ; {
		page, err := c.Inbox(ctx, after, 0, false)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Messages...)
		if page.Next == 0 {
			return all, nil
		}
		after = page.Next
	}
}

// Until asks again and again, pausing a little, until ok is true. When ctx ends
// first, the error ends in what was still missing.
func Until(ctx context.Context, ok func() (missing string)) error {
	const pause = 100 * time.Millisecond
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		missing := ok()
		if missing == "" {
			return nil
		}
		t.Reset(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w while waiting: %s", ctx.Err(), missing)
		}
	}
}

// WaitTogether returns when each of the pillars sees want pillars, itself
// included.
func WaitTogether(ctx context.Context, pillars []*Process, want int) error {
	return Until(ctx, func() string {
		for _, p := range pillars {
			s, err := p.PillarStatus(ctx)
			if err != nil {
				return fmt.Sprintf("%s: %v", p.Name, err)
			}
			if s.PillarsAlive < want {
				return fmt.Sprintf("%s sees %d of %d pillars", p.Name, s.PillarsAlive, want)
			}
		}
		return ""
	})
}

// WaitConnected returns when each of the nodes has a pillar, a standby if there
// is more than one pillar, and knows all of want pillars.
func WaitConnected(ctx context.Context, nodes []*Process, want int) error {
	return Until(ctx, func() string {
		for _, p := range nodes {
			s, err := p.NodeStatus(ctx)
			switch {
			case err != nil:
				return fmt.Sprintf("%s: %v", p.Name, err)
			case s.Pillar == "":
				return p.Name + " has no pillar"
			case s.Standby == "" && want > 1:
				return p.Name + " has no standby"
			case s.PillarsKnown < want:
				return fmt.Sprintf("%s knows %d of %d pillars", p.Name, s.PillarsKnown, want)
			}
		}
		return ""
	})
}

// WaitEqual returns when all pillars hold equally many records, which stay the
// same from one look to the next. It returns their statuses.
func WaitEqual(ctx context.Context, pillars []*Process) ([]admin.PillarStatus, error) {
	return waitEqual(ctx, pillars, func(admin.PillarStatus) string { return "" })
}

// WaitConverged is WaitEqual, and each pillar also says that the signed
// summaries of all are equal: summaries that speak of everything written until
// last. Since they leave out what is newest, that takes 10 to 20 s.
func WaitConverged(ctx context.Context, pillars []*Process, last time.Time) ([]admin.PillarStatus, error) {
	covered := covered(last, len(pillars))
	return waitEqual(ctx, pillars, func(s admin.PillarStatus) string {
		switch {
		case time.Now().Before(covered):
			return "the summaries that speak of everything are not due yet"
		case s.PillarsAlive < len(pillars):
			return fmt.Sprintf("it sees %d of %d pillars", s.PillarsAlive, len(pillars))
		case !s.Converged:
			return "it does not see all summaries equal"
		}
		return ""
	})
}

// covered returns when every pillar has the summaries of all that speak of what
// was written until last. Summaries are made at the multiples t of max(10 s,
// pillars × 100 ms) and speak of records created before t - 10 s (protocol.md,
// section 8); a few seconds are for their way.
func covered(last time.Time, pillars int) time.Time {
	const settle, travel = 10 * time.Second, 3 * time.Second
	grid := max(10*time.Second, time.Duration(pillars)*100*time.Millisecond)
	at := time.UnixMilli(last.Add(settle).UnixMilli() / grid.Milliseconds() * grid.Milliseconds()).Add(grid)
	return at.Add(travel)
}

// waitEqual returns when all pillars hold equally many records, twice, and
// lacks finds nothing missing in any status.
func waitEqual(ctx context.Context, pillars []*Process, lacks func(admin.PillarStatus) string) ([]admin.PillarStatus, error) {
	var last []admin.PillarStatus
	err := Until(ctx, func() string {
		now := make([]admin.PillarStatus, len(pillars))
		missing := ""
		for i, p := range pillars {
			s, err := p.PillarStatus(ctx)
			if err != nil {
				return fmt.Sprintf("%s: %v", p.Name, err)
			}
			now[i] = s
			if s.Records != now[0].Records {
				missing = fmt.Sprintf("%s holds %d records, %s holds %d", pillars[0].Name, now[0].Records, p.Name, s.Records)
			} else if what := lacks(s); what != "" && missing == "" {
				missing = p.Name + ": " + what
			}
		}
		if missing == "" && (last == nil || last[0].Records != now[0].Records) {
			missing = "records are still coming"
		}
		last = now
		return missing
	})
	return last, err
}
