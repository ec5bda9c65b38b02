package overlay

import (
	"context"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// PeerTable counts the connections with each peer and tells watchers what
// changes: the part of Peers that every implementation shares. The zero value
// is ready. All methods may be called from many goroutines; none calls out
// while it holds a lock.
type PeerTable struct {
	mu       sync.Mutex
	conns    map[peer.ID]connCount     // guarded by mu; no entry without a connection
	watchers map[*peerWatcher]struct{} // guarded by mu
}

type connCount struct{ direct, relayed int }

// Add notes a new connection with p.
func (t *PeerTable) Add(p peer.ID, path Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		t.conns = make(map[peer.ID]connCount)
	}
	before := t.conns[p]
	after := before
	if path == PathRelayed {
		after.relayed++
	} else {
		after.direct++
	}
	t.conns[p] = after
	switch {
	case before == connCount{}:
		t.tell(PeerEvent{Peer: p, What: PeerConnected})
	case before.direct == 0 && after.direct > 0:
		t.tell(PeerEvent{Peer: p, What: PeerUpgraded})
	}
}

// Remove notes that a connection with p, added before, is gone. It reports
// whether it was the last.
func (t *PeerTable) Remove(p peer.ID, path Path) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.conns[p]
	if !ok {
		return false
	}
	if path == PathRelayed {
		c.relayed--
	} else {
		c.direct--
	}
	if c.direct+c.relayed > 0 {
		t.conns[p] = c
		return false
	}
	delete(t.conns, p)
	t.tell(PeerEvent{Peer: p, What: PeerLost})
	return true
}

// tell queues e for all watchers. t.mu is held, so that all see one order.
func (t *PeerTable) tell(e PeerEvent) {
	for w := range t.watchers {
		w.add(e)
	}
}

// Watch implements Peers.Watch.
func (t *PeerTable) Watch(ctx context.Context, fn func(PeerEvent)) {
	w := &peerWatcher{pending: make(map[peer.ID][]PeerChange), wake: make(chan struct{}, 1)}
	t.mu.Lock()
	for p := range t.conns {
		w.add(PeerEvent{Peer: p, What: PeerConnected})
	}
	if t.watchers == nil {
		t.watchers = make(map[*peerWatcher]struct{})
	}
	t.watchers[w] = struct{}{}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.watchers, w)
		t.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		for {
			p, changes := w.take()
			if changes == nil {
				break
			}
			for _, c := range changes {
				if ctx.Err() != nil {
					return
				}
				fn(PeerEvent{Peer: p, What: c})
			}
		}
	}
}

// peerWatcher is one Watch's queue: peers in the order of their oldest
// undelivered change, and for each at most lost, connected, upgraded.
type peerWatcher struct {
	wake chan struct{}

	mu      sync.Mutex
	order   []peer.ID                // guarded by mu; exactly the keys of pending
	pending map[peer.ID][]PeerChange // guarded by mu
}

func (w *peerWatcher) add(e PeerEvent) {
	w.mu.Lock()
	old := w.pending[e.Peer]
	if old == nil {
		w.order = append(w.order, e.Peer)
	}
	w.pending[e.Peer] = mergeChange(old, e.What)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// mergeChange appends c to the undelivered changes of a peer, leaving out what
// c made meaningless. A loss stays in front of a new connection: everything
// tied to the old one is gone, and the watcher has to know.
func mergeChange(old []PeerChange, c PeerChange) []PeerChange {
	switch c {
	case PeerLost:
		return append(old[:0], PeerLost)
	case PeerConnected:
		if len(old) > 0 && old[0] == PeerLost {
			return append(old[:1], PeerConnected)
		}
		return append(old[:0], PeerConnected)
	default:
		if len(old) > 0 && old[len(old)-1] == c {
			return old
		}
		return append(old, c)
	}
}

// take returns the next peer and its changes, nil if there is none.
func (w *peerWatcher) take() (peer.ID, []PeerChange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		w.order = nil // gives the array back after a burst
		return "", nil
	}
	p := w.order[0]
	w.order = w.order[1:]
	c := w.pending[p]
	delete(w.pending, p)
	return p, c
}
