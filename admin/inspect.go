package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// PillarInspect is what explains and mends a difference.
type PillarInspect interface {
	// Diff lists what two pillars hold differently, without moving a record, in
	// the order of IDs and after one: this pillar, which an empty of stands for,
	// or another and with.
	Diff(ctx context.Context, of, with identity.PillarID, after overlay.RecordID) (overlay.Diff, error)
	// Repair exchanges what two pillars hold differently.
	Repair(ctx context.Context, of, with identity.PillarID) (overlay.Repaired, error)
	// Describe tells of a record that is held here; false if it is not.
	Describe(id overlay.RecordID) (overlay.RecordInfo, bool, error)
	// Trace asks every pillar for a record.
	Trace(ctx context.Context, id overlay.RecordID) ([]overlay.Trace, error)
}

// DiffAnswer is GET /v1/sync/diff. Next is what to ask the next page with, ""
// after the last.
type DiffAnswer struct {
	Of           identity.PillarID `json:"of"`   // whom "here" means
	Peer         identity.PillarID `json:"peer"` // whom "there" means
	Equal        bool              `json:"equal"`
	OnlyHere     []DiffEntry       `json:"only_here"`
	OnlyThere    []DiffEntry       `json:"only_there"`
	SettledUntil time.Time         `json:"settled_until"` // what was created later is not compared
	Bytes        uint64            `json:"bytes"`
	RoundTrips   int               `json:"round_trips"`
	TookMS       float64           `json:"took_ms"`
	Next         string            `json:"next"`
}

// DiffEntry is a record that one side lacks, and why.
type DiffEntry struct {
	ID      overlay.RecordID `json:"id"`
	Kind    string           `json:"kind"`
	Created time.Time        `json:"created"`
	Expires time.Time        `json:"expires"`
	Why     overlay.Absence  `json:"why"`
	Detail  string           `json:"detail"`
}

// newDiffAnswer gives a diff of overlay its JSON shape.
func newDiffAnswer(d *overlay.Diff) DiffAnswer {
	a := DiffAnswer{Of: d.Here, Peer: d.There, Equal: d.Equal, OnlyHere: diffEntries(d.OnlyHere), OnlyThere: diffEntries(d.OnlyThere),
		SettledUntil: overlay.PlainTime(d.Settled), Bytes: d.Bytes, RoundTrips: d.RoundTrips, TookMS: tookMS(d.Took)}
	if d.More {
		last := overlay.RecordID{}
		for _, list := range [][]overlay.Difference{d.OnlyHere, d.OnlyThere} {
			if n := len(list); n > 0 && string(list[n-1].ID[:]) > string(last[:]) {
				last = list[n-1].ID
			}
		}
		a.Next = last.String()
	}
	return a
}

func diffEntries(list []overlay.Difference) []DiffEntry {
	out := make([]DiffEntry, len(list))
	for i := range list {
		d := &list[i]
		out[i] = DiffEntry{ID: d.ID, Kind: d.Kind.String(), Created: overlay.PlainTime(d.Created), Expires: overlay.PlainTime(d.Expires), Why: d.Why, Detail: d.Detail}
	}
	return out
}

// RepairAnswer is POST /v1/sync/repair.
type RepairAnswer struct {
	Fetched int     `json:"fetched"`
	Sent    int     `json:"sent"`
	Bytes   uint64  `json:"bytes"` // both ways, the records' too
	TookMS  float64 `json:"took_ms"`
}

// RecordEntry is GET /v1/records/{id}: what is known of a record, never its
// body.
type RecordEntry struct {
	ID         overlay.RecordID `json:"id"`
	Kind       string           `json:"kind"`
	Author     string           `json:"author"`
	To         []string         `json:"to"`
	Created    time.Time        `json:"created"`
	Expires    time.Time        `json:"expires"`
	Size       uint64           `json:"size"`
	Dots       []DotEntry       `json:"dots"`
	ReceivedAt *time.Time       `json:"received_at"` // null for a roster record, which is in no store
	Via        string           `json:"via"`
}

// DotEntry is a record's place in a log.
type DotEntry struct {
	Log overlay.LogID `json:"log"`
	Seq uint64        `json:"seq"`
}

// TraceEntry is what one pillar says of a record, in GET /v1/trace/{id}. What
// it does not know is null or empty.
type TraceEntry struct {
	Pillar     identity.PillarID `json:"pillar"`
	Answered   bool              `json:"answered"`
	Has        bool              `json:"has"`
	ReceivedAt *time.Time        `json:"received_at"`
	Via        string            `json:"via"`
	Dots       []DotEntry        `json:"dots"`
	Expires    *time.Time        `json:"expires"`
	Why        overlay.Absence   `json:"why"` // why it has it not
	Detail     string            `json:"detail"`
	// Recipients, of a message: one for each account whose receipt its author
	// waits for.
	Recipients []RecipientEntry `json:"recipients"`
}

func newTrace(list []overlay.Trace) []TraceEntry {
	out := make([]TraceEntry, len(list))
	for i := range list {
		t := &list[i]
		out[i] = TraceEntry{Pillar: t.Pillar, Answered: t.Answered, Has: t.Has, ReceivedAt: received(t), Via: viaText(t),
			Dots: dotEntries(t.Dots), Expires: instantOf(t.Expires), Why: t.Why, Detail: t.Detail, Recipients: newRecipients(t.Recipients)}
	}
	return out
}

func newRecordEntry(r *overlay.RecordInfo) RecordEntry {
	e := RecordEntry{ID: r.ID, Kind: r.Kind.String(), Author: identity.AccountID(r.Author).String(), To: make([]string, len(r.To)),
		Created: overlay.PlainTime(r.Created), Expires: overlay.PlainTime(r.Expires), Size: r.Size, Dots: dotEntries(r.Dots),
		ReceivedAt: received(&r.Trace), Via: viaText(&r.Trace)}
	for i, a := range r.To {
		e.To[i] = a.String()
	}
	return e
}

func dotEntries(dots []overlay.Dot) []DotEntry {
	out := make([]DotEntry, len(dots))
	for i, d := range dots {
		out[i] = DotEntry(d)
	}
	return out
}

func received(t *overlay.Trace) *time.Time {
	if !t.Has || t.Received.IsZero() {
		return nil
	}
	at := t.Received.UTC()
	return &at
}

func viaText(t *overlay.Trace) string {
	if !t.Has || t.Via == 0 {
		return ""
	}
	return t.Via.String()
}

const (
	diffTime   = time.Minute
	repairTime = 5 * time.Minute
)

// handleInspect registers what PillarInspect does.
func handleInspect(m *mux, p PillarInspect) {
	m.handle("GET", "/v1/sync/diff", func(w http.ResponseWriter, r *http.Request) error {
		peer, of, err := pairOf(r)
		if err != nil {
			return err
		}
		var after overlay.RecordID
		if s := r.URL.Query().Get("after"); s != "" {
			if err := after.UnmarshalText([]byte(s)); err != nil {
				return overlay.Refuse(overlay.CodeBadRequest, "after=%q: want the next of the page before", s)
			}
		}
		allow(w, diffTime+requestTime)
		ctx, cancel := context.WithTimeout(r.Context(), diffTime)
		defer cancel()
		d, err := p.Diff(ctx, of, peer, after)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, newDiffAnswer(&d))
		return nil
	})
	m.handle("POST", "/v1/sync/repair", func(w http.ResponseWriter, r *http.Request) error {
		peer, of, err := pairOf(r)
		if err != nil {
			return err
		}
		allow(w, repairTime+requestTime)
		ctx, cancel := context.WithTimeout(r.Context(), repairTime)
		defer cancel()
		done, err := p.Repair(ctx, of, peer)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, RepairAnswer{done.Fetched, done.Sent, done.Bytes, tookMS(done.Took)})
		return nil
	})
	m.handle("GET", "/v1/records/{id}", answer(func(r *http.Request) (RecordEntry, error) {
		id, err := recordOf(r)
		if err != nil {
			return RecordEntry{}, err
		}
		info, ok, err := p.Describe(id)
		if err != nil {
			return RecordEntry{}, err
		}
		if !ok {
			return RecordEntry{}, overlay.Refuse(overlay.CodeNotFound, "record %s is not held here: GET /v1/trace/%s asks the other pillars", id, id)
		}
		return newRecordEntry(&info), nil
	}))
	m.handle("GET", "/v1/trace/{id}", answer(func(r *http.Request) ([]TraceEntry, error) {
		id, err := recordOf(r)
		if err != nil {
			return nil, err
		}
		list, err := p.Trace(r.Context(), id)
		return newTrace(list), err
	}))
}

// pairOf reads ?peer= and ?of=, which may be left out.
func pairOf(r *http.Request) (peer, of identity.PillarID, err error) {
	if peer, err = peerOf(r); err != nil {
		return "", "", err
	}
	if s := r.URL.Query().Get("of"); s != "" {
		of, err = identity.ParsePillar(s)
	}
	return peer, of, err
}

func recordOf(r *http.Request) (id overlay.RecordID, err error) {
	s := r.PathValue("id")
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return id, overlay.Refuse(overlay.CodeBadRequest, "%q is no record ID: want 64 hex digits", s)
	}
	return id, nil
}
