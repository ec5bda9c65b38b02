package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// PillarControl is what takes a pillar out of the network, for a while or for
// good.
type PillarControl interface {
	// SetDrain moves nodes to other pillars and takes no new ones, or ends that.
	// On: it returns when all have gone or ctx ends, with how many are still here.
	SetDrain(ctx context.Context, on bool) (nodes int, err error)
	// Leave leaves the network for good and returns when others know it and hold
	// what this pillar held; then the process ends.
	Leave(ctx context.Context) error
	// Revoke takes a revocation by the network key, as text, and spreads it.
	Revoke(ctx context.Context, revocation string) (Revoked, error)
}

// DrainAnswer is POST /v1/drain.
type DrainAnswer struct {
	Draining       bool `json:"draining"`
	NodesConnected int  `json:"nodes_connected"` // still
}

// LeaveAnswer is POST /v1/leave.
type LeaveAnswer struct {
	Left bool `json:"left"`
}

// Revoked is POST /v1/revocations: admissions of the pillar up to the serial
// count no more.
type Revoked struct {
	Pillar identity.PillarID `json:"pillar"`
	Serial uint64            `json:"serial"`
}

type revocationRequest struct {
	Revocation string `json:"revocation"`
}

const (
	drainWait = 10 * time.Second // for nodes to move
	leaveWait = 5 * time.Minute  // the most that leaving may take
)

// handleControl registers what PillarControl does.
func handleControl(m *mux, p PillarControl) {
	m.handle("POST", "/v1/drain", func(w http.ResponseWriter, r *http.Request) error {
		var on bool
		switch off := r.URL.Query().Get("off"); off {
		case "", "0":
			on = true
		case "1":
		default:
			return overlay.Refuse(overlay.CodeBadRequest, "off=%q: want 1, or leave it out", off)
		}
		ctx, cancel := context.WithTimeout(r.Context(), drainWait)
		defer cancel()
		nodes, err := p.SetDrain(ctx, on)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, DrainAnswer{on, nodes})
		return nil
	})
	m.handle("POST", "/v1/leave", func(w http.ResponseWriter, r *http.Request) error {
		allow(w, leaveWait+requestTime)
		ctx, cancel := context.WithTimeout(r.Context(), leaveWait)
		defer cancel()
		if err := p.Leave(ctx); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, LeaveAnswer{true})
		return nil
	})
	m.handle("POST", "/v1/revocations", func(w http.ResponseWriter, r *http.Request) error {
		var req revocationRequest
		if err := readJSON(r, &req); err != nil {
			return err
		}
		revoked, err := p.Revoke(r.Context(), req.Revocation)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, revoked)
		return nil
	})
}
