package overlay

import (
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
)

// New logs come from a bucket, for every log is a position in everybody's vector
// until its last entry expires: a pillar that restarts in a loop, or whose logs
// keep dying, must not fill them.
const (
	newLogKey    = "newlog"    // value: [tokens, when they were counted in Unix ms]
	newLogTokens = 16          // at most
	newLogEvery  = time.Minute // for one more
	maxOwnLogs   = 4096        // living logs of a pillar; others follow no more
)

// newLogs is the bucket. What it had when a log was begun is written with the
// log's first entry.
type newLogs struct {
	mu     sync.Mutex
	tokens uint64 // guarded by mu
	at     uint64 // guarded by mu; Unix ms
}

func (b *newLogs) load(view View, now uint64) error {
	b.tokens, b.at = newLogTokens, now
	return view.Values(newLogKey, func(_ string, data []byte) bool {
		r := canon.NewReader(data)
		r.Array(2)
		tokens, at := r.UintMax(newLogTokens), r.Uint()
		if r.End() == nil {
			b.tokens, b.at = tokens, at
		}
		return false
	})
}

// fill adds what came since. A clock that went back adds nothing, and what it
// went back by is not waited for. b.mu is held.
func (b *newLogs) fill(now uint64) {
	every := uint64(newLogEvery / time.Millisecond)
	if now < b.at {
		b.at = now
	}
	n := (now - b.at) / every
	b.at += n * every
	if b.tokens += min(n, newLogTokens); b.tokens >= newLogTokens {
		b.tokens, b.at = newLogTokens, now
	}
}

// wait is how long until there is a token; 0 if there is one.
func (b *newLogs) wait(now uint64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fill(now); b.tokens > 0 {
		return 0
	}
	return newLogEvery - time.Duration(now-b.at)*time.Millisecond
}

// take takes a token if there is one and returns what is to be written.
func (b *newLogs) take(now uint64) Value {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fill(now); b.tokens > 0 {
		b.tokens--
	}
	data := canon.AppendArray(nil, 2)
	data = canon.AppendUint(data, b.tokens)
	return Value{Key: newLogKey, Data: canon.AppendUint(data, b.at)}
}

// newLogRefusal says why submissions that would begin a log are sent elsewhere,
// nil if they are not: one is written already, there is a token, or nobody else
// is there to take them.
func (p *Pillar) newLogRefusal() *Error {
	now := p.now()
	p.mu.Lock()
	own := p.logs[p.ownLog] != nil
	p.mu.Unlock()
	if own {
		return nil
	}
	wait := p.newLogs.wait(now)
	if wait == 0 && p.ownLogs(now) >= maxOwnLogs {
		wait = newLogEvery
	}
	if wait == 0 || !p.hasOthers() {
		return nil
	}
	return &Error{Code: CodeBusy, Text: "this pillar began too many logs lately", Retry: wait}
}

// ownLogs counts the living logs that this pillar wrote, in all its runs.
func (p *Pillar) ownLogs(now uint64) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.logs {
		if s.Pillar == p.id && s.Dies > now {
			n++
		}
	}
	return n
}

// hasOthers reports whether nodes could go to another pillar.
func (p *Pillar) hasOthers() bool {
	for _, s := range p.mesh.Pillars() {
		if s.State == PillarAlive && s.Connected {
			return true
		}
	}
	return false
}
