package sim

import (
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// maxCopies is the highest concern that is asked for.
const maxCopies = 4

// signed is a message that an author signed, and what it was told of it.
type signed struct {
	id      overlay.RecordID
	author  *device
	to      []*device
	bytes   int
	created time.Time
	expires time.Time
	// acked[k] is when the author first heard of k copies; zero: never.
	acked [maxCopies + 1]time.Time
}

// ledger knows what was really signed, whatever pillars say.
type ledger struct {
	mu       sync.Mutex
	messages map[overlay.RecordID]*signed  // guarded by mu
	others   map[overlay.RecordID]struct{} // guarded by mu; account and device records
	nodes    map[string]bool               // accounts of nodes, whose records are not in here
}

func newLedger() *ledger {
	return &ledger{messages: map[overlay.RecordID]*signed{}, others: map[overlay.RecordID]struct{}{},
		nodes: map[string]bool{}}
}

// sign notes a message before anybody gets it.
func (l *ledger) sign(m *signed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages[m.id] = m
}

// signOther notes a record that is no message.
func (l *ledger) signOther(id overlay.RecordID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.others[id] = struct{}{}
}

// acknowledge notes that the author heard of so many copies.
func (l *ledger) acknowledge(id overlay.RecordID, copies uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.messages[id]
	for k := 1; k <= int(min(copies, maxCopies)); k++ {
		if m.acked[k].IsZero() {
			m.acked[k] = time.Now()
		}
	}
}

// message returns what was signed under an ID.
func (l *ledger) message(id overlay.RecordID) (signed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.messages[id]; m != nil {
		return *m, true
	}
	return signed{}, false
}

// knows reports whether anybody signed id.
func (l *ledger) knows(id overlay.RecordID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, other := l.others[id]
	return other || l.messages[id] != nil
}

// all returns every message.
func (l *ledger) all() []signed {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]signed, 0, len(l.messages))
	for _, m := range l.messages {
		all = append(all, *m)
	}
	return all
}
