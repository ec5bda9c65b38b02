package admin

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Opening is the handler of a pillar's admin port from before there is a pillar
// until after it is gone, so that whoever watches the process gets an answer
// meanwhile: it is alive and not ready, and everything else has to wait.
type Opening struct {
	meanwhile http.Handler

	mu      sync.Mutex
	pillar  http.Handler       // guarded by mu; nil: there is none
	ctx     context.Context    // guarded by mu; that of requests to it
	end     context.CancelFunc // guarded by mu
	running sync.WaitGroup     // requests to it; added to under mu
}

// NewOpening returns the handler of a pillar that is not there yet.
func NewOpening(cfg Config) *Opening {
	m := newMux(cfg.Logger)
	m.handle("GET", "/healthz", func(w http.ResponseWriter, r *http.Request) error {
		writeChecks(w, []Check{{Name: "process", OK: true}})
		return nil
	})
	m.handle("GET", "/readyz", func(w http.ResponseWriter, r *http.Request) error {
		writeChecks(w, []Check{{Name: "store", Detail: "the store is being opened or closed"}})
		return nil
	})
	return &Opening{meanwhile: newGuard(cfg, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" {
			refuse(w, overlay.CodeBusy, "the pillar starts or stops: ask again when /readyz says so")
			return
		}
		m.ServeHTTP(w, r)
	}))}
}

// Open hands requests to a pillar's handler from now on.
func (o *Opening) Open(pillar http.Handler) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pillar = pillar
	o.ctx, o.end = context.WithCancel(context.Background())
}

// Shut takes the pillar's handler away again and returns when no request is with
// it any more, or after a second. Those that are get their context ended.
func (o *Opening) Shut() {
	o.mu.Lock()
	if o.pillar == nil {
		o.mu.Unlock()
		return
	}
	o.pillar = nil
	o.end()
	o.mu.Unlock()
	left := make(chan struct{})
	go func() {
		o.running.Wait()
		close(left)
	}()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-left:
	case <-grace.C: // it ends with its deadline
	}
}

// ServeHTTP implements http.Handler.
func (o *Opening) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	pillar, until := o.pillar, o.ctx
	if pillar != nil {
		o.running.Add(1)
	}
	o.mu.Unlock()
	if pillar == nil {
		o.meanwhile.ServeHTTP(w, r)
		return
	}
	defer o.running.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(until, cancel)()
	pillar.ServeHTTP(w, r.WithContext(ctx))
}
