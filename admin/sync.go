package admin

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// PillarSync is replication as operators see and steer it.
type PillarSync interface {
	Sync() overlay.SyncStatus
	// Convergence is every pillar's newest summary and how it compares.
	Convergence() []overlay.Statement
	// Round does an audit round with a connected pillar now.
	Round(ctx context.Context, with identity.PillarID) (overlay.Round, error)
	// PauseRounds stops audit rounds from being begun here, or lets them go on.
	PauseRounds(on bool)
}

// SyncStatus is GET /v1/sync.
type SyncStatus struct {
	Vector      map[string]VectorEntry `json:"vector"` // by log: what is held of it, from its beginning
	Settled     SettledEntry           `json:"settled"`
	Peers       []SyncPeer             `json:"peers"`
	Missing     uint64                 `json:"missing"` // log entries that connected pillars have and this one lacks
	Wanted      int                    `json:"wanted"`  // records asked for by ID
	Backlog     uint64                 `json:"backlog"` // of missing, what is history that still comes
	BacklogRate float64                `json:"backlog_per_s"`
	Unreachable []UnreachableEntry     `json:"unreachable"`
	Forks       []ForkEntry            `json:"forks"`
	Paused      bool                   `json:"paused"`
	PausedBy    overlay.Pause          `json:"paused_by"` // operator, or clock: while it is in doubt no round is answered either; "" if not paused
}

// VectorEntry is how far a log is held.
type VectorEntry struct {
	Pillar identity.PillarID `json:"pillar"`
	Seq    uint64            `json:"seq"`
	Hash   overlay.Hash      `json:"hash"`
}

// SettledEntry is what the pillar's newest summary says. Until is null before
// the first.
type SettledEntry struct {
	Until  *time.Time `json:"until"`
	Count  uint64     `json:"count"`
	Digest string     `json:"digest"`
}

// SyncPeer is a connected pillar. LastRound is null before the first.
type SyncPeer struct {
	ID           identity.PillarID `json:"id"`
	VectorBehind uint64            `json:"vector_behind"` // entries it has and this pillar lacks
	LastRound    *RoundEntry       `json:"last_round"`
	Totals       RoundTotals       `json:"totals"`
}

// RoundEntry is an audit round.
type RoundEntry struct {
	At            time.Time           `json:"at"`
	Result        overlay.RoundResult `json:"result"`
	Differences   int                 `json:"differences"`
	Fetched       int                 `json:"fetched"`
	Sent          int                 `json:"sent"`
	BytesSent     uint64              `json:"bytes_sent"`
	BytesReceived uint64              `json:"bytes_received"`
	RecordBytes   uint64              `json:"record_bytes"`
	RoundTrips    int                 `json:"round_trips"`
	TookMS        float64             `json:"took_ms"`
	Error         string              `json:"error"`
}

// RoundTotals sums the rounds with a pillar.
type RoundTotals struct {
	Rounds        uint64 `json:"rounds"`
	Equal         uint64 `json:"equal"`
	Failed        uint64 `json:"failed"`
	Differences   uint64 `json:"differences"`
	Fetched       uint64 `json:"fetched"`
	Sent          uint64 `json:"sent"`
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
}

// UnreachableEntry is a part of a log that no pillar in reach holds.
type UnreachableEntry struct {
	Pillar  identity.PillarID `json:"pillar"` // who may still have it
	Log     overlay.LogID     `json:"log"`
	From    uint64            `json:"from"`
	To      uint64            `json:"to"`
	Records uint64            `json:"records"`
}

// ForkEntry is a log that its pillar signed two histories of.
type ForkEntry struct {
	Pillar identity.PillarID `json:"pillar"`
	Log    overlay.LogID     `json:"log"`
	Since  time.Time         `json:"since"`
}

// NewSyncStatus gives a status of overlay its JSON shape.
func NewSyncStatus(s *overlay.SyncStatus) SyncStatus {
	out := SyncStatus{
		Vector: map[string]VectorEntry{}, Peers: []SyncPeer{}, Unreachable: []UnreachableEntry{}, Forks: []ForkEntry{},
		Settled: SettledEntry{Count: s.Settled.Count, Digest: digestText(s.Settled.Digest)},
		Missing: s.Missing, Wanted: s.Wanted, Backlog: s.Backlog, BacklogRate: s.BacklogRate, Paused: s.Paused != "", PausedBy: s.Paused,
	}
	for i := range s.Logs {
		l := &s.Logs[i]
		told, _ := l.Told()
		out.Vector[l.Log.String()] = VectorEntry{Pillar: l.Pillar, Seq: told.Seq, Hash: told.Hash}
	}
	if s.Settled.At != 0 {
		until := overlay.PlainTime(s.Settled.Settled)
		out.Settled.Until = &until
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		peer := SyncPeer{ID: p.Pillar, VectorBehind: p.Behind, Totals: RoundTotals(p.Totals)}
		if p.Last != nil {
			r := newRoundEntry(p.Last)
			peer.LastRound = &r
		}
		out.Peers = append(out.Peers, peer)
	}
	for _, u := range s.Unreachable {
		out.Unreachable = append(out.Unreachable, UnreachableEntry{u.Pillar, u.Log, u.From, u.To, u.To - u.From + 1})
	}
	for _, f := range s.Forks {
		out.Forks = append(out.Forks, ForkEntry{f.Pillar, f.Log, f.Since.UTC()})
	}
	return out
}

func newRoundEntry(r *overlay.Round) RoundEntry {
	return RoundEntry{At: r.At.UTC(), Result: r.Result, Differences: r.Differences, Fetched: r.Fetched, Sent: r.Sent,
		BytesSent: r.BytesSent, BytesReceived: r.BytesReceived, RecordBytes: r.RecordBytes,
		RoundTrips: r.RoundTrips, TookMS: tookMS(r.Took), Error: r.Err}
}

func tookMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func digestText(s overlay.Sum) string {
	b := s.Bytes()
	return hex.EncodeToString(b[:])
}

// RoundAnswer is POST /v1/sync/round.
type RoundAnswer struct {
	Fetched     int                 `json:"fetched"`
	Sent        int                 `json:"sent"`
	Bytes       uint64              `json:"bytes"` // both ways, the records' too
	TookMS      float64             `json:"took_ms"`
	Result      overlay.RoundResult `json:"result"`
	Differences int                 `json:"differences"`
}

// ConvergenceEntry is a pillar's last signed summary and how it compares, in
// GET /v1/convergence of pillar and node.
type ConvergenceEntry struct {
	Pillar       identity.PillarID `json:"pillar"`
	SettledUntil time.Time         `json:"settled_until"`
	Count        uint64            `json:"count"`
	Digest       string            `json:"digest"`
	// Equal: it holds what most pillars hold, at the newest instant that both told.
	Equal     bool              `json:"equal"`
	AgeMS     int64             `json:"age_ms"`
	Agreement overlay.Agreement `json:"agreement"`
	Compared  *time.Time        `json:"compared"` // that instant; null: there is none
	Unequal   int               `json:"unequal"`  // comparisons that failed in a row
	Since     *time.Time        `json:"since"`    // the first of them
	Key       overlay.Hash      `json:"key"`
	Full      bool              `json:"full"`
}

// NewConvergence gives statements their JSON shape as of now.
func NewConvergence(list []overlay.Statement, now time.Time) []ConvergenceEntry {
	out := make([]ConvergenceEntry, 0, len(list))
	for i := range list {
		s := &list[i]
		out = append(out, ConvergenceEntry{
			Pillar: s.Pillar, SettledUntil: overlay.PlainTime(s.Settled), Count: s.Count, Digest: digestText(s.Digest),
			Equal: s.Agreement == overlay.AgreeEqual, AgeMS: now.UnixMilli() - int64(min(s.At, 1<<53)),
			Agreement: s.Agreement, Compared: instantOf(s.Compared), Unequal: s.Unequal, Since: instantOf(s.Since), Key: s.Key, Full: s.Full,
		})
	}
	return out
}

func instantOf(ms uint64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := overlay.PlainTime(ms)
	return &t
}

// handleSync registers what PillarSync shows and steers.
func handleSync(m *mux, p PillarSync) {
	m.handle("GET", "/v1/sync", answer(func(*http.Request) (SyncStatus, error) {
		s := p.Sync()
		return NewSyncStatus(&s), nil
	}))
	m.handle("GET", "/v1/convergence", answer(func(*http.Request) ([]ConvergenceEntry, error) {
		return NewConvergence(p.Convergence(), time.Now()), nil
	}))
	m.handle("POST", "/v1/sync/round", func(w http.ResponseWriter, r *http.Request) error {
		peer, err := peerOf(r)
		if err != nil {
			return err
		}
		allow(w, roundTime+requestTime)
		ctx, cancel := context.WithTimeout(r.Context(), roundTime)
		defer cancel()
		round, err := p.Round(ctx, peer)
		if err != nil {
			return err
		}
		if round.Result == overlay.RoundFailed {
			return overlay.Refuse(overlay.CodeUnreachable, "the round with %s failed: %s", peer, round.Err)
		}
		writeJSON(w, http.StatusOK, RoundAnswer{Fetched: round.Fetched, Sent: round.Sent,
			Bytes: round.BytesSent + round.BytesReceived + round.RecordBytes, TookMS: tookMS(round.Took),
			Result: round.Result, Differences: round.Differences})
		return nil
	})
	for path, on := range map[string]bool{"/v1/sync/pause": true, "/v1/sync/resume": false} {
		m.handle("POST", path, func(w http.ResponseWriter, r *http.Request) error {
			p.PauseRounds(on)
			writeJSON(w, http.StatusOK, pausedAnswer{on})
			return nil
		})
	}
}

// roundTime bounds an audit round that somebody asks for.
const roundTime = 2 * time.Minute

type pausedAnswer struct {
	Paused bool `json:"paused"`
}

// peerOf reads ?peer=.
func peerOf(r *http.Request) (identity.PillarID, error) {
	s := r.URL.Query().Get("peer")
	if s == "" {
		return "", overlay.Refuse(overlay.CodeBadRequest, "peer is missing: want the ID of a pillar")
	}
	return identity.ParsePillar(s)
}
