package sim

import (
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// face is which history of its logs a pillar that lies shows.
type face int

const (
	trueFace  face = iota
	otherFace      // another record at every fifth place
)

// otherEvery is at which places the other history differs.
const otherEvery = 5

// histories are the two histories of the logs of one pillar that lies: what its
// code wrote, and what it says to some.
type histories struct {
	p       *pillar
	invent  bool // the other records are invented; else they are the one before
	network identity.NetworkID

	mu   sync.Mutex
	core *overlay.Pillar             // guarded by mu; of the run
	logs map[overlay.LogID]*twoFaced // guarded by mu
}

// twoFaced is a log as far as it was shown.
type twoFaced struct {
	own     bool
	entries []overlay.BatchEntry // of the other history
	hashes  [2][]overlay.Hash    // by face; h(0), h(1), …
}

// of returns a log up to seq; nil if it is another pillar's, or not held so far.
// h.mu is held.
func (h *histories) of(log overlay.LogID, seq uint64) *twoFaced {
	l := h.logs[log]
	if l == nil {
		l = &twoFaced{}
		for _, s := range h.core.Logs() {
			l.own = l.own || s.Log == log && s.Pillar == h.p.key.ID()
		}
		for f := range l.hashes {
			l.hashes[f] = []overlay.Hash{overlay.ChainStart(log)}
		}
		h.logs[log] = l
	}
	if !l.own {
		return nil
	}
	for uint64(len(l.entries)) < seq {
		next, err := h.core.Read(log, uint64(len(l.entries)+1), 1<<20)
		if err != nil || len(next) == 0 {
			return nil
		}
		for i := range next {
			h.append(l, &next[i])
		}
	}
	return l
}

// append continues both histories. h.mu is held.
func (h *histories) append(l *twoFaced, e *overlay.BatchEntry) {
	identify(h.network, e)
	other := *e
	if n := len(l.entries); (n+1)%otherEvery == 0 && e.Raw != nil {
		if h.invent {
			other = h.forged(e)
		} else {
			other = l.entries[n-1]
		}
	}
	l.entries = append(l.entries, other)
	for f, e := range []*overlay.BatchEntry{e, &other} {
		l.hashes[f] = append(l.hashes[f], overlay.ChainEntry(l.hashes[f][len(l.hashes[f])-1], e))
	}
}

// identify fills in ID and expiry of an entry with a record.
func identify(network identity.NetworkID, e *overlay.BatchEntry) {
	if e.Raw == nil {
		return
	}
	if rec, err := overlay.ParseRecord(network, e.Raw); err == nil {
		e.ID, e.Expires = rec.ID, rec.Expires
	}
}

// forged is a record that its author never signed: another content under the
// same author.
func (h *histories) forged(e *overlay.BatchEntry) overlay.BatchEntry {
	rec, err := overlay.ParseRecord(h.network, e.Raw)
	if err != nil {
		return *e
	}
	draft := overlay.Draft{Kind: rec.Kind, Author: rec.Author, Signer: rec.Signer, To: rec.To, Sequences: rec.Sequences,
		Created: rec.Created, Expires: rec.Expires, Bin: append([]byte("what nobody said"), rec.Bin...)}
	forged, err := draft.Sign(h.network, identity.NewDeviceKey())
	if err != nil {
		return *e
	}
	return overlay.BatchEntry{Raw: forged.Raw, ID: forged.ID, Expires: forged.Expires}
}

// show has a batch say what its reader is to believe.
func (h *histories) show(m *overlay.Batch, f face) {
	if f == trueFace {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	end := m.From
	for i := range m.Entries {
		end += m.Entries[i].Len()
	}
	if m.Head != nil {
		end = max(end, m.Head.Seq+1)
	}
	l := h.of(m.Log, end-1)
	if l == nil {
		return
	}
	for i := range m.Entries {
		if m.Entries[i].Raw != nil {
			m.Entries[i] = l.entries[m.From-1+uint64(i)]
		}
	}
	if m.Head != nil {
		m.Head.Hash = l.hashes[f][m.Head.Seq]
		m.Head.Sign(h.network, h.p.key)
	}
}

// showVector has positions in the own logs say what their reader is to believe.
func (h *histories) showVector(v overlay.Vector, f face) {
	if f == trueFace {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range v {
		if l := h.of(v[i].Log, v[i].Seq); l != nil {
			v[i].Hash = l.hashes[f][v[i].Seq]
		}
	}
}

// undo turns a Follow from the other history into one from the true one.
func (h *histories) undo(frame []byte, f face) []byte {
	m, err := overlay.DecodeMessage(append([]byte(nil), frame[4:]...))
	req, ok := m.(*overlay.Follow)
	if err != nil || !ok || f == trueFace || req.From == 0 {
		return frame
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if req.From-1 > 1<<20 {
		return frame
	}
	l := h.of(req.Log, req.From-1)
	if l == nil || req.Before != l.hashes[f][req.From-1] {
		return frame
	}
	req.Before = l.hashes[trueFace][req.From-1]
	return overlay.AppendFrame(nil, req)
}
