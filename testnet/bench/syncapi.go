package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	obelisk "github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/testnet"
)

// The part of a pillar's admin port that is about anti-entropy, as far as the
// bench reads it.

// syncState is GET /v1/sync.
type syncState struct {
	Peers []struct {
		ID           string      `json:"id"`
		VectorBehind uint64      `json:"vector_behind"`
		LastRound    *auditRound `json:"last_round"`
	} `json:"peers"`
}

// auditRound is an audit round. Bytes are those of our protocol, frames included,
// records left out.
type auditRound struct {
	At            time.Time `json:"at"`
	Result        string    `json:"result"`
	Differences   int       `json:"differences"`
	BytesSent     uint64    `json:"bytes_sent"`
	BytesReceived uint64    `json:"bytes_received"`
	RoundTrips    int       `json:"round_trips"`
	TookMS        float64   `json:"took_ms"`
}

// askSync asks p's admin port and decodes what it answers into out.
func askSync(ctx context.Context, p *testnet.Process, method, path string, query url.Values, out any) error {
	token, err := admin.LoadToken(obelisk.TokenFile(p.Data, obelisk.RolePillar))
	if err != nil {
		return err
	}
	to := "http://" + p.Admin + path
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s of %s: %s: %s", method, path, p.Name, resp.Status, strings.TrimSpace(string(body)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(body, out)
}

// lastRound is the newest round that p knows of with peer; nil before the first.
func lastRound(ctx context.Context, p, peer *testnet.Process) (*auditRound, error) {
	var s syncState
	if err := askSync(ctx, p, http.MethodGet, "/v1/sync", nil, &s); err != nil {
		return nil, err
	}
	for _, of := range s.Peers {
		if of.ID == peer.ID {
			return of.LastRound, nil
		}
	}
	return nil, nil
}

// beginRound has p begin a round with peer and returns when it is over.
func beginRound(ctx context.Context, p, peer *testnet.Process) error {
	return askSync(ctx, p, http.MethodPost, "/v1/sync/round", url.Values{"peer": {peer.ID}}, nil)
}

// pauseAudit stops or resumes the rounds that p begins by itself.
func pauseAudit(ctx context.Context, p *testnet.Process, on bool) error {
	path := "/v1/sync/resume"
	if on {
		path = "/v1/sync/pause"
	}
	return askSync(ctx, p, http.MethodPost, path, nil, nil)
}
