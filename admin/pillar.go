package admin

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Pillar is what a pillar's admin port shows and steers. obelisk.Pillar is one.
type Pillar interface {
	Status() PillarStatus
	// Checks says whether the process does its job (healthz: alive at all) and
	// whether it should be given work (readyz).
	Checks() (health, ready []Check)
	PillarNetwork
	PillarSync
	PillarInspect
	PillarLinks
	PillarControl
	PillarBundles
}

// PillarNetwork is who a pillar knows and lets in.
type PillarNetwork interface {
	// Pillars describes every other pillar of the network.
	Pillars() []PillarEntry
	// AddPillar connects to a pillar, given as a multiaddr or join link, and
	// returns when it is in the roster.
	AddPillar(ctx context.Context, addr string) error
	// Nodes is a page of the directory after an account ("": from the first);
	// next is "" after the last.
	Nodes(after identity.AccountID, limit int) (nodes []overlay.NodeEntry, next identity.AccountID, err error)
	// Allow lets an account register where registration is closed.
	Allow(a identity.AccountID) error
}

// NewPillarHandler returns the admin port of p. Metrics come from gatherer,
// nil for none.
func NewPillarHandler(p Pillar, gatherer prometheus.Gatherer, cfg Config) http.Handler {
	m := newMux(cfg.Logger)
	handleDashboard(m, p, cfg.Watch)
	m.handle("GET", "/healthz", func(w http.ResponseWriter, r *http.Request) error {
		health, _ := p.Checks()
		writeChecks(w, health)
		return nil
	})
	m.handle("GET", "/readyz", func(w http.ResponseWriter, r *http.Request) error {
		_, ready := p.Checks()
		writeChecks(w, ready)
		return nil
	})
	if gatherer != nil {
		metrics := promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
		m.handle("GET", "/metrics", func(w http.ResponseWriter, r *http.Request) error {
			metrics.ServeHTTP(w, r)
			return nil
		})
	}
	handleProfiles(m)
	m.handle("GET", "/v1/status", answer(func(*http.Request) (PillarStatus, error) {
		s := p.Status()
		s.Listen, s.Relays = listed(s.Listen), listed(s.Relays)
		return s, nil
	}))
	m.handle("GET", "/v1/pillars", answer(func(*http.Request) ([]PillarEntry, error) { return listed(p.Pillars()), nil }))
	m.handle("POST", "/v1/pillars", func(w http.ResponseWriter, r *http.Request) error {
		return addPillar(w, r, p.AddPillar)
	})
	m.handle("GET", "/v1/nodes", answer(func(r *http.Request) (NodePage, error) { return nodePage(r, p.Nodes) }))
	m.handle("POST", "/v1/accounts", func(w http.ResponseWriter, r *http.Request) error {
		var req accountRequest
		if err := readJSON(r, &req); err != nil {
			return err
		}
		a, err := identity.ParseAccount(req.Account)
		if err != nil {
			return err
		}
		if err := p.Allow(a); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, accountRequest{a.String()})
		return nil
	})
	handleSync(m, p)
	handleInspect(m, p)
	handleLinks(m, p)
	handleControl(m, p)
	handleBundles(m, p)
	m.describes("Obelisk pillar", pillarOps)
	return newGuard(cfg, true, m)
}

func writeChecks(w http.ResponseWriter, checks []Check) {
	status := http.StatusOK
	for _, c := range checks {
		if !c.OK {
			status = http.StatusServiceUnavailable
		}
	}
	writeJSON(w, status, checkList{listed(checks)})
}

// listed makes an empty list [] in JSON, not null.
func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func addPillar(w http.ResponseWriter, r *http.Request, add func(context.Context, string) error) error {
	var req addrRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime/2)
	defer cancel()
	if err := add(ctx, req.Addr); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, req)
	return nil
}

func nodePage(r *http.Request, list func(identity.AccountID, int) ([]overlay.NodeEntry, identity.AccountID, error)) (NodePage, error) {
	limit, err := limitOf(r)
	if err != nil {
		return NodePage{}, err
	}
	var after identity.AccountID
	if s := r.URL.Query().Get("after"); s != "" {
		if after, err = identity.ParseAccount(s); err != nil {
			return NodePage{}, err
		}
	}
	nodes, next, err := list(after, limit)
	if err != nil {
		return NodePage{}, err
	}
	page := NodePage{Nodes: listed(nodes)}
	if next != "" {
		page.Next = next.String()
	}
	return page, nil
}
