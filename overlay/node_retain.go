package overlay

import (
	"errors"
	"slices"
	"time"
)

// What a node keeps of messages that are over: sent ones in a final state, received
// ones that the app has acknowledged. From the oldest on they are removed from disk,
// with all that finds them,
//
//   - keptFinished after they were sent and expired, or were received;
//   - or earlier, where there are more than maxFinished of them.
//
// What is not final or not acknowledged is never removed. Nothing is while the clock
// is not confirmed by pillars. That a record was seen is kept on its own until it
// expires, so what was removed is not delivered again. A client ID is good for as
// long as its message is there.
const (
	keptFinished = 30 * 24 * time.Hour
	maxFinished  = 100_000 // sent, and as many received
	retainEvery  = time.Hour
	retainBatch  = 1000 // messages of one Apply
)

// retain removes what is kept no longer at now, but for the newest most of what
// is younger.
func (n *Node) retain(now uint64, most int) error {
	return errors.Join(n.outbox.retain(now, most), n.inbox.retain(now, most))
}

func (o *nodeOutbox) retain(now uint64, most int) error {
	if err := o.n.disk.flush(); err != nil { // final states may only be staged
		return err
	}
	o.mu.Lock()
	last := o.last // stays: numbers go on behind it after a restart
	busy := make(map[uint64]struct{}, len(o.handles))
	for _, e := range o.handles {
		busy[e.order] = struct{}{}
	}
	o.mu.Unlock()
	all, err := o.n.disk.count(keyOut)
	if err != nil {
		return err
	}
	_, err = o.n.disk.prune(keyOut, all-len(busy)-most, func(order uint64, data []byte) (ws []Write, old, skip bool) {
		if _, unfinished := busy[order]; unfinished || order >= last {
			return nil, false, true
		}
		e, err := decodeEntry(order, data)
		if err != nil || !e.state.Final() {
			return nil, false, true
		}
		ws = []Write{{Key: orderKey(keyOut, order)}, {Key: orderKey(keyOutBody, order)}, {Key: orderKey(keyOutRec, order)},
			{Key: nodeKey(keyOutHand, e.handle[:])}}
		if e.sealed {
			ws = append(ws, Write{Key: nodeKey(keyOutID, e.id[:])})
		}
		if e.client != "" {
			ws = append(ws, Write{Key: nodeKey(keyOutCli, e.client)})
		}
		return ws, max(e.sent, e.expires)+uint64(keptFinished.Milliseconds()) <= now, false
	})
	return err
}

func (b *nodeInbox) retain(now uint64, most int) error {
	b.mu.Lock()
	unacked := len(b.unacked)
	b.mu.Unlock()
	n, err := b.n.disk.prune(keyIn, int(b.total.Load())-unacked-most, func(order uint64, data []byte) (ws []Write, old, skip bool) {
		m, err := b.decode(order, data)
		if err != nil || !m.Acked {
			return nil, false, true
		}
		return []Write{{Key: orderKey(keyIn, order)}, {Key: nodeKey(keyInID, m.ID[:])}},
			uint64(m.Received.Add(keptFinished).UnixMilli()) <= now, false
	})
	b.total.Add(-int64(n))
	b.mu.Lock()
	b.counts.Total = int(b.total.Load())
	b.mu.Unlock()
	return err
}

// prune removes what look names for the values of a prefix, from the first on, until
// one comes that is not old and excess were removed. What look skips stays.
func (d *nodeDisk) prune(prefix string, excess int, look func(order uint64, data []byte) (ws []Write, old, skip bool)) (n int, err error) {
	var after []byte
	for more := true; more; {
		more = false
		var ws []Write
		batch := 0
		err := d.table.Scan([]byte(prefix), after, func(key, data []byte) bool {
			w, old, skip := look(orderOf(key), data)
			switch {
			case skip:
				return true
			case !old && n+batch >= excess:
				return false
			}
			ws = append(ws, w...)
			if batch++; batch == retainBatch {
				more, after = true, slices.Clone(key)
			}
			return !more
		})
		if err != nil {
			return n, err
		}
		if err := d.apply(ws...); err != nil {
			return n, err
		}
		n += batch
	}
	return n, nil
}

// count counts the keys of a prefix.
func (d *nodeDisk) count(prefix string) (n int, err error) {
	err = d.table.Scan([]byte(prefix), nil, func(_, _ []byte) bool {
		n++
		return true
	})
	return n, err
}
