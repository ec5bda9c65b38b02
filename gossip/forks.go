package gossip

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// A pillar that signed two histories of a log is proven to have done so by two
// signed heads that cannot be on one chain: overlay.Forked. Whoever has such a
// proof drops the log and tells everybody. The records stay; those that are not
// everywhere are the audit's to spread.
//
// Proofs are kept as notes: the index "gossip/forks", a list of [log, since,
// chunks], and each proof as "gossip/fork/" + LogID + chunk (one byte).
const (
	forkIndex     = "gossip/forks"
	forkPrefix    = "gossip/fork/"
	forkChunk     = 60 << 10
	maxForksOf    = 64   // proofs kept of one pillar; its further logs are not begun
	maxForks      = 1024 // of all pillars
	forkKeep      = 40 * 24 * time.Hour
	maxForkChunks = 1 + overlay.MaxFrame/forkChunk
)

// forks are the logs that were forked.
type forks struct {
	m *Mesh

	saving chan struct{} // has room for one: who writes notes

	mu    sync.Mutex
	known map[overlay.LogID]*forkedLog           // guarded by mu
	of    map[identity.PillarID]int              // guarded by mu
	said  map[peer.ID]map[overlay.LogID]struct{} // guarded by mu; long proofs that pillars were told in this run
}

type forkedLog struct {
	pillar identity.PillarID
	since  time.Time
	proof  *overlay.Forked
	chunks int // on disk
}

// newForks loads the proofs.
func newForks(m *Mesh) (*forks, error) {
	f := &forks{m: m, saving: make(chan struct{}, 1), known: map[overlay.LogID]*forkedLog{}, of: map[identity.PillarID]int{},
		said: map[peer.ID]map[overlay.LogID]struct{}{}}
	data, err := m.cfg.Notes.LoadNote(forkIndex)
	if err != nil {
		return nil, fmt.Errorf("gossip: load forks: %w", err)
	}
	if data == nil {
		return f, nil
	}
	r := canon.NewReader(data)
	for range r.ArrayMax(maxForks) {
		r.Array(3)
		var log overlay.LogID
		copy(log[:], r.BinExact(len(log)))
		since, chunks := r.Uint(), int(r.UintMax(maxForkChunks))
		if r.Err() != nil {
			break
		}
		if err := f.load(log, time.UnixMilli(int64(since)), chunks); err != nil {
			return nil, err
		}
	}
	if err := r.End(); err != nil {
		m.log.Warn("the list of forked logs is damaged: others tell again", "err", err)
	}
	return f, nil
}

// load reads one proof. One that is damaged is left out: others tell it again.
func (f *forks) load(log overlay.LogID, since time.Time, chunks int) error {
	var b []byte
	for i := range chunks {
		part, err := f.m.cfg.Notes.LoadNote(forkKey(log, i))
		if err != nil {
			return fmt.Errorf("gossip: load fork: %w", err)
		}
		b = append(b, part...)
	}
	msg, err := overlay.DecodeMessage(b)
	proof, ok := msg.(*overlay.Forked)
	if err != nil || !ok || !proof.Proves(f.m.cfg.Network) {
		f.m.log.Warn("the proof of a forked log is damaged: others tell it again", "log", log, "err", err)
		return nil
	}
	f.known[log] = &forkedLog{pillar: proof.Head.Pillar, since: since, proof: proof, chunks: chunks}
	f.of[proof.Head.Pillar]++
	f.m.logs.kill(log)
	return nil
}

func forkKey(log overlay.LogID, chunk int) string {
	return forkPrefix + string(log[:]) + string([]byte{byte(chunk)})
}

// tellOnce reports whether a pillar was not told of a fork yet, and takes it for
// told.
func (f *forks) tellOnce(p peer.ID, log overlay.LogID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, said := f.said[p][log]; said {
		return false
	}
	if f.said[p] == nil {
		f.said[p] = map[overlay.LogID]struct{}{}
	}
	f.said[p][log] = struct{}{}
	return true
}

// untell takes back that a pillar was told.
func (f *forks) untell(p peer.ID, log overlay.LogID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.said[p], log)
}

// tooMany reports whether so many logs of a pillar were forked that no further
// one is begun.
func (f *forks) tooMany(p identity.PillarID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of[p] >= maxForksOf
}

// proof returns the proof that a log was forked; nil if it was not.
func (f *forks) proof(log overlay.LogID) *overlay.Forked {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.known[log]; k != nil {
		return k.proof
	}
	return nil
}

// all returns every proof, oldest first.
func (f *forks) all() []overlay.ForkStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]overlay.ForkStatus, 0, len(f.known))
	for log, k := range f.known {
		all = append(all, overlay.ForkStatus{Pillar: k.pillar, Log: log, Since: k.since, Proof: k.proof})
	}
	slices.SortFunc(all, func(a, b overlay.ForkStatus) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return bytes.Compare(a.Log[:], b.Log[:])
	})
	return all
}

// received takes what another pillar says is a proof.
func (f *forks) received(ctx context.Context, from *session, msg *overlay.Forked) {
	if msg.Head == nil || msg.Other == nil {
		f.frameUp(from)
		return
	}
	if f.proof(msg.Head.Position(f.m.cfg.Network).Log) != nil {
		return
	}
	if !f.m.knows(msg.Head.Pillar) {
		return // who it is about is nobody here, so nothing of it is held
	}
	if !msg.Proves(f.m.cfg.Network) {
		f.frameUp(from)
		return
	}
	f.add(ctx, msg, from)
}

// frameUp is a proof that proves nothing: it costs who sent it.
func (f *forks) frameUp(from *session) {
	f.m.met.forged.WithLabelValues("fork").Inc()
	f.m.scores.offend(from.peer, faultFork)
}

// add takes a proof that holds: the log is dead from here on. from, if any, has
// it already.
func (f *forks) add(ctx context.Context, proof *overlay.Forked, from *session) {
	m := f.m
	log, pillar := proof.Head.Position(m.cfg.Network).Log, proof.Head.Pillar
	f.mu.Lock()
	if f.known[log] != nil || f.of[pillar] >= maxForksOf || len(f.known) >= maxForks {
		f.mu.Unlock()
		return
	}
	f.known[log] = &forkedLog{pillar: pillar, since: m.cfg.Now(), proof: proof}
	f.of[pillar]++
	f.mu.Unlock()
	m.logs.kill(log)
	m.follows.end(log, errForked)
	m.met.forks.Inc()
	m.log.Error("log forked: its pillar signed two histories of it; it is dropped, its records stay",
		"pillar", pillar, "log", log, "at", proof.Head.Seq, "and", proof.Other.Seq)
	m.sessions.spreadFork(proof, from)
	m.spawn(func(ctx context.Context) {
		if err := f.save(ctx, log); err != nil && ctx.Err() == nil {
			m.log.Warn("store the proof of a fork", "log", log, "err", err)
		}
		if err := m.cfg.Replica.Drop(ctx, log); err != nil && ctx.Err() == nil {
			m.log.Warn("drop a forked log", "log", log, "err", err)
		}
	})
}

// beginSave waits for its turn to write notes; false if ctx ended.
func (f *forks) beginSave(ctx context.Context) bool {
	select {
	case f.saving <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *forks) endSave() { <-f.saving }

// save writes one proof and the index.
func (f *forks) save(ctx context.Context, log overlay.LogID) error {
	if !f.beginSave(ctx) {
		return ctx.Err()
	}
	defer f.endSave()
	proof := f.proof(log)
	if proof == nil {
		return nil
	}
	chunks := 0
	for part := range slices.Chunk(overlay.EncodeMessage(proof), forkChunk) {
		if err := f.m.cfg.Notes.SaveNote(ctx, forkKey(log, chunks), part); err != nil {
			return err
		}
		chunks++
	}
	f.mu.Lock()
	if k := f.known[log]; k != nil {
		k.chunks = chunks
	}
	f.mu.Unlock()
	return f.saveIndex(ctx)
}

// saveIndex writes the index of the proofs that are on disk, between beginSave
// and endSave.
func (f *forks) saveIndex(ctx context.Context) error {
	f.mu.Lock()
	n, list := 0, []byte(nil)
	for log, k := range f.known {
		if k.chunks == 0 {
			continue
		}
		n++
		list = canon.AppendArray(list, 3)
		list = canon.AppendBin(list, log[:])
		list = canon.AppendUint(list, uint64(max(0, k.since.UnixMilli())))
		list = canon.AppendUint(list, uint64(k.chunks))
	}
	f.mu.Unlock()
	return f.m.cfg.Notes.SaveNote(ctx, forkIndex, append(canon.AppendArray(nil, n), list...))
}

// expire forgets the forks of logs that cannot live any more.
func (f *forks) expire(ctx context.Context) {
	now := f.m.cfg.Now()
	gone := map[overlay.LogID]int{}
	f.mu.Lock()
	for log, k := range f.known {
		if now.Sub(k.since) > forkKeep {
			gone[log] = k.chunks
			delete(f.known, log)
			if f.of[k.pillar]--; f.of[k.pillar] == 0 {
				delete(f.of, k.pillar)
			}
		}
	}
	for log := range gone {
		for _, logs := range f.said {
			delete(logs, log)
		}
	}
	f.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	if !f.beginSave(ctx) {
		return
	}
	defer f.endSave()
	if err := f.saveIndex(ctx); err != nil {
		return // they are forgotten at the next start
	}
	for log, chunks := range gone {
		f.m.logs.revive(log)
		for i := range chunks {
			f.m.cfg.Notes.SaveNote(ctx, forkKey(log, i), nil)
		}
	}
}

// answered judges the answer to a Follow from at, which is on another history
// than the provider's: a proof, once our own head there completes it.
func (f *forks) answered(log overlay.LogID, at overlay.Mark, msg *overlay.Forked) error {
	network := f.m.cfg.Network
	if msg.Other == nil || msg.Other.Position(network).Log != log {
		return faulty(faultFork, "a proof about another log")
	}
	if msg.Head != nil {
		if !msg.Proves(network) {
			return faulty(faultFork, "a proof that proves nothing")
		}
		return &forkError{msg}
	}
	if msg.Other.Seq < at.Seq || msg.Other.Seq-at.Seq != uint64(len(msg.Links)) || msg.Before == at.Hash ||
		overlay.ChainAll(msg.Before, msg.Links) != msg.Other.Hash || !msg.Other.Verify(network) {
		return faulty(faultFork, "another history that is none")
	}
	if proof := f.complete(log, at, msg); proof != nil && proof.Proves(network) {
		return &forkError{proof}
	}
	return errUnproven
}

// complete makes a proof of another pillar's history behind at, which is not
// ours there: with our own first signed head behind at, if theirs goes as far,
// or with theirs and what leads us from there to our next one. nil if neither
// can be had. Only heads that were signed before take part: what the disk has of a
// log of our own may be damaged, and must not become a second history of it.
func (f *forks) complete(log overlay.LogID, at overlay.Mark, msg *overlay.Forked) *overlay.Forked {
	m := f.m
	if mine := m.logs.headFrom(log, at.Seq, msg.Other.Seq); mine != nil && mine.known() != nil {
		common := mine.pos.Seq - at.Seq
		return &overlay.Forked{Head: mine.known(), Other: msg.Other,
			Before: overlay.ChainAll(msg.Before, msg.Links[:common]), Links: msg.Links[common:]}
	}
	hash, ok := m.hashBefore(log, msg.Other.Seq+1)
	if !ok {
		return nil
	}
	proof := m.contradict(log, msg.Other.Seq+1, hash)
	if proof != nil {
		proof.Head = msg.Other
	}
	return proof
}

// contradict makes the answer to a Follow whose hash before entry from is not
// the one here: this side's history, up to a signed head. nil if it cannot be
// shown.
func (m *Mesh) contradict(log overlay.LogID, from uint64, hash overlay.Hash) *overlay.Forked {
	state, ok := m.logs.state(log)
	if !ok {
		return nil
	}
	held, ok := heldSpans(&state).find(max(1, from-1))
	if !ok {
		return nil
	}
	end := m.logs.headFrom(log, from-1, held.to)
	if end == nil || end.pos.Seq-(from-1) > overlay.MaxLinks {
		return nil
	}
	msg := &overlay.Forked{Other: end.get(m.signHead), Before: hash}
	if end.pos.Seq >= from {
		links, err := m.cfg.Replica.Links(log, from, end.pos.Seq)
		if err != nil {
			return nil
		}
		msg.Links = links
	}
	if msg.Other == nil {
		return nil
	}
	return msg
}

// hashBefore returns h(from-1) of what is held here; ok is false if it is not
// known one by one from a place that is.
func (m *Mesh) hashBefore(log overlay.LogID, from uint64) (hash overlay.Hash, ok bool) {
	at, ok := m.logs.before(log, from-1)
	if !ok || from-1-at.Seq > overlay.MaxLinks {
		return hash, false
	}
	if at.Seq == from-1 {
		return at.Hash, true
	}
	links, err := m.cfg.Replica.Links(log, at.Seq+1, from-1)
	if err != nil {
		return hash, false
	}
	return overlay.ChainAll(at.Hash, links), true
}
