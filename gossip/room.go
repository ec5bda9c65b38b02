package gossip

import (
	"context"
	"sync"
	"sync/atomic"
)

// room bounds what waits of one provider, in bytes: maxQueuedOf, or a single
// piece that is larger. The zero value is ready.
type room struct {
	mu    sync.Mutex
	used  int           // guarded by mu
	freed chan struct{} // guarded by mu; closed when something is given back, nil if nobody waits
}

// take waits until there is room for n bytes, which then are holder's too.
func (r *room) take(ctx context.Context, holder *atomic.Int64, n int) error {
	for {
		r.mu.Lock()
		if r.used == 0 || r.used+n <= maxQueuedOf || n == 0 {
			r.used += n
			r.mu.Unlock()
			holder.Add(int64(n))
			return nil
		}
		if r.freed == nil {
			r.freed = make(chan struct{})
		}
		freed := r.freed
		r.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give gives n of holder's bytes back.
func (r *room) give(holder *atomic.Int64, n int) {
	holder.Add(int64(-n))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used -= n; n > 0 && r.freed != nil {
		close(r.freed)
		r.freed = nil
	}
}
