package overlay

import (
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// What devices may put on this node's disk without a pillar's quota in between:
// bytes kept in the long run, see Quotas.
const (
	directQuotaAccount = 256 << 20
	directQuotaAll     = 1 << 30
	directDebtors      = 1024
)

// directQuota are the debts of accounts that deliver directly. The zero value is
// ready.
type directQuota struct {
	mu  sync.Mutex
	all debt                         // guarded by mu
	of  map[identity.AccountID]*debt // guarded by mu
}

// take charges cost, in byte milliseconds, or says why not.
func (q *directQuota) take(a identity.AccountID, cost float64, now uint64) *Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.of[a]
	if d == nil {
		d = q.enter(a)
	}
	d.forgive(now, directQuotaAccount)
	q.all.forgive(now, directQuotaAll)
	wait := max(d.wait(cost, directQuotaAccount), q.all.wait(cost, directQuotaAll))
	if wait > 0 {
		err := Refuse(CodeQuota, "what this account may put here directly is used up")
		err.Retry = time.Duration(min(wait+1, maxRetryMillis)) * time.Millisecond
		return err
	}
	d.owed += cost
	q.all.owed += cost
	return nil
}

// enter makes an entry; of too many, the one that owes least is forgotten, whose
// debt still counts in all. q.mu is held.
func (q *directQuota) enter(a identity.AccountID) *debt {
	if q.of == nil {
		q.of = map[identity.AccountID]*debt{}
	}
	if len(q.of) >= directDebtors {
		var least identity.AccountID
		for o, d := range q.of {
			if least == "" || d.owed < q.of[least].owed {
				least = o
			}
		}
		delete(q.of, least)
	}
	d := &debt{}
	q.of[a] = d
	return d
}
