package overlay

import (
	"context"
	"sync"
)

// eventsKept is how many recent events a late subscriber can still get.
const eventsKept = 1024

// nodeEvents is a ring of what happened lately. It drops the oldest; who was
// too slow is told to read everything anew.
type nodeEvents struct {
	mu      sync.Mutex
	ring    [eventsKept]Event
	last    uint64        // guarded by mu; Seq of the newest event
	changed chan struct{} // guarded by mu; closed at the next event
}

func newNodeEvents() *nodeEvents { return &nodeEvents{changed: make(chan struct{})} }

// add appends e. It takes no other lock, so it may be called under any.
func (v *nodeEvents) add(e Event) {
	v.mu.Lock()
	v.last++
	e.Seq = v.last
	v.ring[e.Seq%eventsKept] = e
	close(v.changed)
	v.changed = make(chan struct{})
	v.mu.Unlock()
}

// after returns up to 64 events after seq, or whether some were missed.
func (v *nodeEvents) after(seq uint64) (list []Event, missed bool, last uint64, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if seq > v.last || v.last-seq > eventsKept {
		return nil, true, v.last, v.changed
	}
	for s := seq + 1; s <= v.last && len(list) < 64; s++ {
		list = append(list, v.ring[s%eventsKept])
	}
	return list, false, v.last, v.changed
}

// Subscribe calls fn, one event after the other, with every event after the
// one numbered after and with those to come, until ctx ends or fn fails, and
// returns why. Events are numbered from 1 in every run, and the last 1,024 are
// kept: if after is older than that, or of another run, or the subscriber falls
// behind by as much, it gets an EventResync, numbered as the newest event, and
// goes on from there. fn may call any method of the Node.
func (n *Node) Subscribe(ctx context.Context, after uint64, fn func(Event) error) error {
	for {
		list, missed, last, changed := n.events.after(after)
		if missed {
			list = []Event{{Seq: last, Kind: EventResync}}
		}
		for _, e := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
