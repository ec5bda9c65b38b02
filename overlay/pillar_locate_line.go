package overlay

import (
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// maxWaitingAsks is how many questions wait until the other pillars may be asked
// more: what they may be asked while one is open.
const maxWaitingAsks = LocateRate * int(locateWindow/time.Second)

// askLine is where questions wait for the other pillars to be asked. Parts of the
// internet take turns, and in each its accounts: however much others ask, who asks
// now and then waits for one question of each source that waits, and then for one
// of each account at its own. When too many wait, the newest of the account that
// has most waiting, at the source that has most, waits in vain.
//
// The zero value is empty. It is not safe for concurrent use.
type askLine struct {
	waiting int
	by      map[string]*sourceAsks
	turns   []*sourceAsks // those of by; the first is next
}

// sourceAsks are the waiting questions of a part of the internet: at least one.
type sourceAsks struct {
	source  string
	waiting int
	by      map[identity.AccountID]*accountAsks
	turns   []*accountAsks // those of by; the first is next
}

// accountAsks are those of an account at one source, the oldest first: at least
// one.
type accountAsks struct {
	account identity.AccountID
	waits   []waitingAsk
}

// waitingAsk is a question as the other pillars are to be asked it.
type waitingAsk struct {
	q *question
	m *Locate
}

// push has a question wait. It returns the one that must not any more, which may
// be the same, or nil.
func (l *askLine) push(w waitingAsk) (dropped *question) {
	s := l.by[w.q.source]
	if s == nil {
		if l.by == nil {
			l.by = make(map[string]*sourceAsks)
		}
		s = &sourceAsks{source: w.q.source, by: make(map[identity.AccountID]*accountAsks)}
		l.by[s.source], l.turns = s, append(l.turns, s)
	}
	a := s.by[w.q.account]
	if a == nil {
		a = &accountAsks{account: w.q.account}
		s.by[a.account], s.turns = a, append(s.turns, a)
	}
	a.waits = append(a.waits, w)
	s.waiting++
	l.waiting++
	if l.waiting <= maxWaitingAsks {
		return nil
	}
	most := slices.MaxFunc(l.turns, func(x, y *sourceAsks) int { return x.waiting - y.waiting })
	longest := slices.MaxFunc(most.turns, func(x, y *accountAsks) int { return len(x.waits) - len(y.waits) })
	return l.take(most, longest, len(longest.waits)-1).q
}

// pop takes the question whose turn it is.
func (l *askLine) pop() (w waitingAsk, ok bool) {
	if l.waiting == 0 {
		return w, false
	}
	s := l.turns[0]
	a := s.turns[0]
	// Both come again when all others have had their turn.
	l.turns = append(l.turns[1:], s)
	s.turns = append(s.turns[1:], a)
	return l.take(s, a, 0), true
}

// take removes one question, and who has none waiting any more.
func (l *askLine) take(s *sourceAsks, a *accountAsks, i int) waitingAsk {
	w := a.waits[i]
	a.waits = slices.Delete(a.waits, i, i+1)
	s.waiting--
	l.waiting--
	if len(a.waits) == 0 {
		delete(s.by, a.account)
		s.turns = slices.DeleteFunc(s.turns, func(o *accountAsks) bool { return o == a })
	}
	if s.waiting == 0 {
		delete(l.by, s.source)
		l.turns = slices.DeleteFunc(l.turns, func(o *sourceAsks) bool { return o == s })
	}
	return w
}
