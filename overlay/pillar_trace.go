package overlay

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// What operators ask of single records.

// RecordInfo is what a pillar tells of a record it holds, without its body.
type RecordInfo struct {
	Trace
	ID     RecordID
	Author string // the ID of an account, or of a pillar, as bytes
	To     []identity.AccountID
}

// Describe describes a record; false if it is not held, or expired. Roster
// records are found too: those have no place in a log.
func (p *Pillar) Describe(id RecordID) (info RecordInfo, ok bool, err error) {
	now := p.past()
	view := p.cfg.Store.View()
	defer view.Close()
	var raw []byte
	err = view.Get([]Ref{{ID: id}}, func(_ int, r StoredRecord) bool {
		if r.Expires > now {
			info.Trace, ok = p.traceOf(&r), true
			raw = slices.Clone(r.Raw)
		}
		return false
	})
	if err != nil {
		return info, false, fmt.Errorf("read record: %w", err)
	}
	if !ok {
		if raw = p.roster.Get(id); raw == nil {
			return info, false, nil
		}
	}
	rec, err := p.verifier.Parse(raw)
	if err != nil {
		return info, false, fmt.Errorf("read record: %w", err)
	}
	if !ok {
		info.Trace = Trace{Pillar: p.id, Answered: true, Has: true, Kind: rec.Kind, Created: rec.Created, Expires: rec.Expires, Size: uint64(len(raw))}
	}
	info.ID, info.Author, info.To = id, strings.Clone(string(rec.Author)), slices.Clone(rec.To)
	return info, true, nil
}

// traceOf describes a stored record.
func (p *Pillar) traceOf(r *StoredRecord) Trace {
	t := Trace{Pillar: p.id, Answered: true, Has: true, Created: r.Created, Expires: r.Expires, Size: uint64(len(r.Raw)),
		Received: r.Received.UTC(), Via: r.Via, Dots: slices.Clone(r.Dots)}
	if f, err := readStored(r.Raw, ""); err == nil {
		t.Kind = f.kind
	}
	return t
}

// Trace says of each record whether it is held here, since when and how it
// came, or why it is not, as far as that can be known. It reads the disk for
// each; at most MaxStubs are asked for at once. Of the first alone it says, if
// that is sought, what is seen of its recipients.
func (p *Pillar) Trace(sought []Sought) ([]Trace, error) {
	now := p.past()
	traces := make([]Trace, len(sought))
	refs := make([]Ref, len(sought))
	for i := range sought {
		refs[i] = Ref{ID: sought[i].ID}
		if sought[i].Expires != 0 {
			refs[i].Day = DayOf(sought[i].Expires)
		}
	}
	view := p.cfg.Store.View()
	defer view.Close()
	var message StoredRecord
	err := view.Get(refs, func(i int, r StoredRecord) bool {
		if r.Expires > now {
			traces[i] = p.traceOf(&r)
			if i == 0 && sought[0].Recipients {
				message = r
				message.Raw, message.Dots = slices.Clone(r.Raw), traces[i].Dots
			}
		} else {
			traces[i] = Trace{Why: AbsentExpired, Detail: expiredAt(r.Expires)}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("trace records: %w", err)
	}
	if message.Raw != nil {
		if traces[0].Recipients, err = p.recipientsOf(view, &message, now); err != nil {
			return nil, fmt.Errorf("trace recipients: %w", err)
		}
	}
	for i := range traces {
		t := &traces[i]
		t.Pillar, t.Answered = p.id, true
		if t.Has || t.Why != AbsentNot {
			continue
		}
		if raw := p.roster.Get(sought[i].ID); raw != nil {
			t.Has, t.Kind, t.Size = true, KindPillar, uint64(len(raw))
			continue
		}
		if t.Why, t.Detail, err = p.missing(view, &sought[i], now); err != nil {
			return nil, fmt.Errorf("trace records: %w", err)
		}
	}
	return traces, nil
}

func expiredAt(ms uint64) string {
	return "at " + PlainTime(ms).Format(time.RFC3339)
}

// missing says why a record is not held here.
func (p *Pillar) missing(view View, s *Sought, now uint64) (Absence, string, error) {
	if s.Expires != 0 && s.Expires <= now {
		return AbsentExpired, expiredAt(s.Expires), nil
	}
	why, detail := AbsentNever, ""
	if s.Dot != (Dot{}) {
		var err error
		if why, detail, err = p.placeOf(view, s); err != nil || why == AbsentVoid || why == AbsentDeleted || why == AbsentExpired {
			return why, detail, err
		}
	}
	switch refused, known := p.refused.find(s.ID); {
	case known:
		return AbsentRefused, refused, nil
	case p.disk.full.Load():
		return AbsentFull, "", nil
	}
	return why, detail, nil
}

// placeOf says what is at the place of a log where a record should be.
func (p *Pillar) placeOf(view View, s *Sought) (Absence, string, error) {
	state, ok := p.held(s.Dot.Log)
	switch {
	case !ok:
		return AbsentNever, fmt.Sprintf("nothing is held of log %s", s.Dot.Log), nil
	case !state.Holds(s.Dot.Seq):
		if p.LogsPaused(state.Pillar) {
			return AbsentPaused, fmt.Sprintf("log %s of %s has used up its share of the disk", s.Dot.Log, state.Pillar), nil
		}
		return AbsentComing, fmt.Sprintf("log %s is held up to %d, it is entry %d", s.Dot.Log, state.Seq, s.Dot.Seq), nil
	}
	why, detail := AbsentDeleted, fmt.Sprintf("entry %d of log %s is held and its record is not", s.Dot.Seq, s.Dot.Log)
	err := view.Log(s.Dot.Log, s.Dot.Seq, func(seq uint64, e LogEntry) bool {
		switch {
		case e.Why == WhyGone:
			why, detail = AbsentExpired, fmt.Sprintf("entry %d of log %s is in a run that is over", s.Dot.Seq, s.Dot.Log)
		case seq != s.Dot.Seq:
		case e.ID != s.ID:
			why, detail = AbsentNever, fmt.Sprintf("entry %d of log %s is another record", seq, s.Dot.Log)
		case e.Why == WhyVoid:
			why, detail = AbsentVoid, fmt.Sprintf("the bytes that came as entry %d of log %s are no valid record", seq, s.Dot.Log)
		case e.Why == WhyExpired:
			why, detail = AbsentExpired, expiredAt(e.Expires)
		}
		return false
	})
	return why, detail, err
}

// maxRefused bounds the refusals that are remembered; the oldest are forgotten
// first.
const maxRefused = 4096

// refusals remember what was not taken from nodes lately, for whoever asks
// where a message went. They decide nothing.
type refusals struct {
	mu   sync.Mutex
	ring []refusal            // guarded by mu; at most maxRefused, from next on the oldest
	next int                  // guarded by mu
	at   map[RecordID]refusal // guarded by mu; exactly those of ring
}

type refusal struct {
	id   RecordID
	code Code
	at   time.Time
}

// note remembers a refusal.
func (r *refusals) note(id RecordID, code Code, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		r.at = make(map[RecordID]refusal)
	}
	x := refusal{id, code, now}
	if _, again := r.at[id]; again {
		r.at[id] = x
		return
	}
	r.at[id] = x
	if len(r.ring) < maxRefused {
		r.ring = append(r.ring, x)
		return
	}
	delete(r.at, r.ring[r.next].id)
	r.ring[r.next] = x
	r.next = (r.next + 1) % maxRefused
}

// find says in words what became of a record that was refused.
func (r *refusals) find(id RecordID) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, ok := r.at[id]
	if !ok {
		return "", false
	}
	return fmt.Sprintf("%s, at %s", x.code, x.at.UTC().Format(time.RFC3339)), true
}
