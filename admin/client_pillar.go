package admin

import (
	"context"
	"net/url"
	"strconv"

	"github.com/obelisk-network/obelisk/identity"
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
