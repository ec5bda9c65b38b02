package admin

import (
	"context"
	"net/url"
	"strconv"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// PillarClient asks a pillar's admin port. Errors are *overlay.Error with the
// code that the pillar gave, or wrap ErrNotRunning.
type PillarClient struct{ c *client }

// NewPillarClient returns a client; it connects with the first request.
func NewPillarClient(t Target) (*PillarClient, error) {
	c, err := newClient(t)
	if err != nil {
		return nil, err
	}
	return &PillarClient{c}, nil
}

// Close gives idle connections back.
func (p *PillarClient) Close() { p.c.close() }

// Status is GET /v1/status.
func (p *PillarClient) Status(ctx context.Context) (s PillarStatus, err error) {
	err = p.c.do(ctx, "GET", "/v1/status", nil, nil, &s)
	return s, err
}

// Pillars is GET /v1/pillars.
func (p *PillarClient) Pillars(ctx context.Context) (list []PillarEntry, err error) {
	err = p.c.do(ctx, "GET", "/v1/pillars", nil, nil, &list)
	return list, err
}

// AddPillar is POST /v1/pillars: addr is a multiaddr with /p2p or a join link.
func (p *PillarClient) AddPillar(ctx context.Context, addr string) error {
	return p.c.do(ctx, "POST", "/v1/pillars", nil, addrRequest{addr}, nil)
}

// Nodes is GET /v1/nodes: a page after an account, "" for the first.
func (p *PillarClient) Nodes(ctx context.Context, after string, limit int) (NodePage, error) {
	return nodes(ctx, p.c, after, limit)
}

// Allow is POST /v1/accounts: the account may register though registration is
// closed.
func (p *PillarClient) Allow(ctx context.Context, a identity.AccountID) error {
	return p.c.do(ctx, "POST", "/v1/accounts", nil, accountRequest{a.String()}, nil)
}

func nodes(ctx context.Context, c *client, after string, limit int) (page NodePage, err error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	err = c.do(ctx, "GET", "/v1/nodes", q, nil, &page)
	return page, err
}

// Sync is GET /v1/sync.
func (p *PillarClient) Sync(ctx context.Context) (s SyncStatus, err error) {
	err = p.c.do(ctx, "GET", "/v1/sync", nil, nil, &s)
	return s, err
}

// Convergence is GET /v1/convergence.
func (p *PillarClient) Convergence(ctx context.Context) ([]ConvergenceEntry, error) {
	return convergence(ctx, p.c)
}

// Round is POST /v1/sync/round: an audit round with a pillar, now.
func (p *PillarClient) Round(ctx context.Context, with identity.PillarID) (r RoundAnswer, err error) {
	err = p.c.do(ctx, "POST", "/v1/sync/round", url.Values{"peer": {with.String()}}, nil, &r)
	return r, err
}

// Diff is GET /v1/sync/diff: what two pillars hold differently, of being the
// pillar asked if it is empty. after is the Next of the page before, "" for the
// first.
func (p *PillarClient) Diff(ctx context.Context, of, with identity.PillarID, after string) (d DiffAnswer, err error) {
	q := pair(of, with)
	if after != "" {
		q.Set("after", after)
	}
	err = p.c.do(ctx, "GET", "/v1/sync/diff", q, nil, &d)
	return d, err
}

// Repair is POST /v1/sync/repair: what two pillars hold differently is
// exchanged.
func (p *PillarClient) Repair(ctx context.Context, of, with identity.PillarID) (r RepairAnswer, err error) {
	err = p.c.do(ctx, "POST", "/v1/sync/repair", pair(of, with), nil, &r)
	return r, err
}

func pair(of, with identity.PillarID) url.Values {
	q := url.Values{"peer": {with.String()}}
	if of != "" {
		q.Set("of", of.String())
	}
	return q
}

// Record is GET /v1/records/{id}: a record that the pillar holds.
func (p *PillarClient) Record(ctx context.Context, id overlay.RecordID) (r RecordEntry, err error) {
	err = p.c.do(ctx, "GET", "/v1/records/"+id.String(), nil, nil, &r)
	return r, err
}

// Trace is GET /v1/trace/{id}: what every pillar says of a record.
func (p *PillarClient) Trace(ctx context.Context, id overlay.RecordID) (list []TraceEntry, err error) {
	err = p.c.do(ctx, "GET", "/v1/trace/"+id.String(), nil, nil, &list)
	return list, err
}

// Links is GET /v1/links: who is connected to whom, as pillars say.
func (p *PillarClient) Links(ctx context.Context) (a LinksAnswer, err error) {
	err = p.c.do(ctx, "GET", "/v1/links", nil, nil, &a)
	return a, err
}

// ExportBundle is POST /v1/bundles: all that is held is written into a file on
// the pillar's machine.
func (p *PillarClient) ExportBundle(ctx context.Context) (b BundleAnswer, err error) {
	err = p.c.do(ctx, "POST", "/v1/bundles", nil, nil, &b)
	return b, err
}

// ImportBundle is POST /v1/bundles/import: name is a file's in the bundle
// directory.
func (p *PillarClient) ImportBundle(ctx context.Context, name string) (b BundleAnswer, err error) {
	err = p.c.do(ctx, "POST", "/v1/bundles/import", nil, bundleRequest{name}, &b)
	return b, err
}

// PauseRounds is POST /v1/sync/pause or /v1/sync/resume.
func (p *PillarClient) PauseRounds(ctx context.Context, on bool) error {
	path := "/v1/sync/resume"
	if on {
		path = "/v1/sync/pause"
	}
	return p.c.do(ctx, "POST", path, nil, nil, nil)
}

// Drain is POST /v1/drain, or with off its end.
func (p *PillarClient) Drain(ctx context.Context, off bool) (d DrainAnswer, err error) {
	q := url.Values{}
	if off {
		q.Set("off", "1")
	}
	err = p.c.do(ctx, "POST", "/v1/drain", q, nil, &d)
	return d, err
}

// Leave is POST /v1/leave: it returns when the pillar has left, and is stopping.
func (p *PillarClient) Leave(ctx context.Context) error {
	return p.c.do(ctx, "POST", "/v1/leave", nil, nil, nil)
}

// Revoke is POST /v1/revocations: revocation is what overlay.RevocationText
// returned.
func (p *PillarClient) Revoke(ctx context.Context, revocation string) (r Revoked, err error) {
	err = p.c.do(ctx, "POST", "/v1/revocations", nil, revocationRequest{revocation}, &r)
	return r, err
}

func convergence(ctx context.Context, c *client) (list []ConvergenceEntry, err error) {
	err = c.do(ctx, "GET", "/v1/convergence", nil, nil, &list)
	return list, err
}
