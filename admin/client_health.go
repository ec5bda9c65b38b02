package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Health is GET /healthz: whether the pillar does its job at all, check by check.
// A check that fails is no error.
func (p *PillarClient) Health(ctx context.Context) (checks []Check, ok bool, err error) {
	return p.c.checks(ctx, "/healthz")
}

// Ready is GET /readyz: whether the pillar should be given work, check by check.
// A check that fails is no error; that the port does not answer, as long as the
// store opens, is ErrNotRunning.
func (p *PillarClient) Ready(ctx context.Context) (checks []Check, ok bool, err error) {
	return p.c.checks(ctx, "/readyz")
}

// checks asks for checks, which come with 200 or 503.
func (c *client) checks(ctx context.Context, path string) ([]Check, bool, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		return nil, false, err
	}
	if c.target.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.target.Token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		return nil, false, fmt.Errorf("%w: %s: %w", ErrNotRunning, c.target.Addr, cause(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return nil, false, answerError(resp)
	}
	var list checkList
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&list); err != nil {
		return nil, false, fmt.Errorf("GET %s: answer: %w", path, err)
	}
	if len(list.Checks) == 0 {
		return nil, false, errors.New("GET " + path + ": an answer without checks")
	}
	return list.Checks, resp.StatusCode == http.StatusOK, nil
}
