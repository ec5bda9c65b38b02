package overlay

import (
	"bytes"
	"sort"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
)

// Roster is who is a pillar of a network, and at which addresses: for every
// pillar its newest admitted pillar record, and its newest revocation, which
// counts for ever, whatever its expiry: an admission that it beats may become
// valid at any time. Pillars and nodes have one each. It checks what it is given, so it can be fed from
// anywhere. Safe for concurrent use.
type Roster struct {
	verifier *Verifier

	mu          sync.Mutex
	pillars     map[identity.PillarID]*RosterEntry
	revocations map[identity.PillarID]*Record
	watchers    []func([]*Record)
}

// RosterEntry is what a Roster knows of a pillar.
type RosterEntry struct {
	Pillar identity.PillarID
	Info   *PillarInfo
	Record *Record
	// Local: its record was learned over a private or loopback connection, or
	// given by hand, so private and loopback addresses in it may be dialled.
	Local bool
}

// NewRoster returns an empty roster of v's network.
func NewRoster(v *Verifier) *Roster {
	return &Roster{verifier: v, pillars: map[identity.PillarID]*RosterEntry{},
		revocations: map[identity.PillarID]*Record{}}
}

// Network is whose roster it is.
func (r *Roster) Network() identity.NetworkID { return r.verifier.network }

// Watch calls fn with every set of records that Add took, after they count.
// Calls come from the goroutines that Add, one at a time for one Add; fn must
// not call Add.
func (r *Roster) Watch(fn func(added []*Record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers = append(r.watchers, fn)
}

// Add verifies records and takes the pillar records and revocations among them
// that are newer than what it has. It returns those it took, and the first
// reason why one was refused; a stale record is neither. An expired admission
// or record is taken for its addresses if nothing better is known: it gives no
// authority, see Admitted. now is in Unix ms.
func (r *Roster) Add(now uint64, local bool, raws ...[]byte) (added []*Record, err error) {
	recs := make([]*Record, 0, len(raws))
	for _, raw := range raws {
		rec, e := ParseRecord(r.verifier.network, bytes.Clone(raw))
		if e == nil && rec.Kind != KindPillar && rec.Kind != KindRevocation {
			e = invalid(ErrShape, "a %s record in a roster", rec.Kind)
		}
		if e != nil {
			err = firstError(err, e)
			continue
		}
		if !r.held(rec, local) {
			recs = append(recs, rec)
		}
	}
	errs := make([]error, len(recs))
	r.verifier.Verify(recs, errs)
	r.mu.Lock()
	for i, rec := range recs {
		if errs[i] == nil {
			var took bool
			took, errs[i] = r.add(rec, now, local)
			if took {
				added = append(added, rec)
			}
		}
		err = firstError(err, errs[i])
	}
	watchers := r.watchers
	r.mu.Unlock()
	if len(added) > 0 {
		for _, fn := range watchers {
			fn(added)
		}
	}
	return added, err
}

// held reports whether there is nothing to take from a record: it is the one
// held, or older. Every Hello brings one, so that is found out before its
// signatures are checked.
func (r *Roster) held(rec *Record, local bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.Kind != KindPillar {
		return false
	}
	old := r.pillars[rec.Pillar()]
	if old == nil {
		return false
	}
	if old.Record.ID == rec.ID {
		old.Local = old.Local || local
		return true
	}
	return !newer(rec, old.Record)
}

// add takes one verified record. r.mu is held.
func (r *Roster) add(rec *Record, now uint64, local bool) (bool, error) {
	if rec.Kind == KindRevocation {
		info, err := ParseRevocationInfo(rec.Bin)
		if err != nil {
			return false, err
		}
		old := r.revocations[info.Pillar]
		if old != nil && serialOf(old) >= info.Serial {
			return false, nil
		}
		r.revocations[info.Pillar] = rec
		return true, nil
	}
	info, err := ParsePillarInfo(rec.Bin)
	if err != nil {
		return false, err
	}
	adm := &info.Admission
	if adm.Pillar != rec.Pillar() || !adm.Verify(r.verifier.network) {
		return false, Refuse(CodeNotAdmitted, "pillar %s is not admitted by the network key", rec.Pillar())
	}
	old := r.pillars[rec.Pillar()]
	if old != nil {
		if old.Record.ID == rec.ID {
			old.Local = old.Local || local
			return false, nil
		}
		if !newer(rec, old.Record) {
			return false, nil
		}
		local = local || old.Local
	}
	r.pillars[rec.Pillar()] = &RosterEntry{Pillar: rec.Pillar(), Info: info, Record: rec, Local: local}
	return true, nil
}

// newer reports whether a counts instead of b: the highest (created, ID).
func newer(a, b *Record) bool {
	if a.Created != b.Created {
		return a.Created > b.Created
	}
	return bytes.Compare(a.ID[:], b.ID[:]) > 0
}

func serialOf(revocation *Record) uint64 {
	info, err := ParseRevocationInfo(revocation.Bin)
	if err != nil {
		return 0
	}
	return info.Serial
}

// Admitted reports whether p is a pillar of the network at now (Unix ms): its
// record and admission in force, not revoked, not left.
func (r *Roster) Admitted(p identity.PillarID, now uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admitted(r.pillars[p], now)
}

// admitted is Admitted for an entry. r.mu is held.
func (r *Roster) admitted(e *RosterEntry, now uint64) bool {
	if e == nil || e.Info.Left || e.Record.Expires <= now || e.Info.Admission.NotAfter < now ||
		e.Info.Admission.NotAfter-now > uint64(identity.MaxAdmissionLife.Milliseconds()) {
		return false
	}
	return !r.revoked(e.Pillar, e.Info.Admission.Serial)
}

// Standing is by what right a pillar is one.
type Standing string

// Standings.
const (
	StandingAdmitted Standing = "admitted"
	StandingRevoked  Standing = "revoked" // the network key took its admission back
	StandingLeft     Standing = "left"    // it left for good
	StandingExpired  Standing = "expired" // its record or its admission is out of date
	StandingUnknown  Standing = "unknown"
)

// Standing says by what right p is a pillar at now (Unix ms).
func (r *Roster) Standing(p identity.PillarID, now uint64) Standing {
	s, _ := r.standing(p, now)
	return s
}

// standing is Standing, and since when (Unix ms): by its record, or by what ended
// its admission.
func (r *Roster) standing(p identity.PillarID, now uint64) (s Standing, since uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pillars[p]
	switch {
	case e == nil:
		return StandingUnknown, 0
	case r.revoked(p, e.Info.Admission.Serial):
		return StandingRevoked, r.revocations[p].Created
	case e.Info.Left:
		return StandingLeft, e.Record.Created
	case r.admitted(e, now):
		return StandingAdmitted, e.Record.Created
	default:
		return StandingExpired, min(e.Record.Expires, e.Info.Admission.NotAfter)
	}
}

// Trouble is why p is no pillar at now (Unix ms), without a plan; none if it is
// admitted or not known.
func (r *Roster) Trouble(p identity.PillarID, now uint64) Trouble {
	switch s, since := r.standing(p, now); s {
	case StandingAdmitted, StandingUnknown:
		return Trouble{}
	default:
		return s.trouble(since)
	}
}

// Revocation returns the newest revocation of p, nil if there is none.
func (r *Roster) Revocation(p identity.PillarID) *Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revocations[p]
}

// NotAdmitted is the refusal of a pillar that is not admitted at now (Unix ms),
// and says why it is not.
func (r *Roster) NotAdmitted(p identity.PillarID, now uint64) *Error {
	switch standing := r.Standing(p, now); standing {
	case StandingRevoked:
		return Refuse(CodeNotAdmitted, "pillar %s: its admission is revoked", p)
	case StandingLeft:
		return Refuse(CodeNotAdmitted, "pillar %s has left", p)
	default:
		return Refuse(CodeNotAdmitted, "pillar %s is not admitted: %s", p, standing)
	}
}

// Revoked reports whether an admission of p with this serial is revoked.
func (r *Roster) Revoked(p identity.PillarID, serial uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revoked(p, serial)
}

// revoked is Revoked with r.mu held.
func (r *Roster) revoked(p identity.PillarID, serial uint64) bool {
	rev := r.revocations[p]
	return rev != nil && serialOf(rev) >= serial
}

// Lookup returns what is known of p, admitted or not.
func (r *Roster) Lookup(p identity.PillarID) (RosterEntry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.pillars[p]; e != nil {
		return *e, true
	}
	return RosterEntry{}, false
}

// Entries returns all entries, expired ones too, ascending by pillar ID.
func (r *Roster) Entries() []RosterEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]RosterEntry, 0, len(r.pillars))
	for _, e := range r.pillars {
		all = append(all, *e)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Pillar < all[j].Pillar })
	return all
}

// Living returns how many pillars are admitted at now. The write concern is
// capped by it, never by who happens to be reachable.
func (r *Roster) Living(now uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.pillars {
		if r.admitted(e, now) {
			n++
		}
	}
	return n
}

// Records returns the bytes of all records: pillars ascending, then
// revocations. They must not be modified.
func (r *Roster) Records() [][]byte {
	var raws [][]byte
	for _, e := range r.Entries() {
		raws = append(raws, e.Record.Raw)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	start := len(raws)
	for _, rev := range r.revocations {
		raws = append(raws, rev.Raw)
	}
	revs := raws[start:]
	sort.Slice(revs, func(i, j int) bool { return bytes.Compare(revs[i], revs[j]) < 0 })
	return raws
}

// Get returns the record with this ID, nil if the roster does not have it.
func (r *Roster) Get(id RecordID) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.pillars {
		if e.Record.ID == id {
			return e.Record.Raw
		}
	}
	for _, rev := range r.revocations {
		if rev.ID == id {
			return rev.Raw
		}
	}
	return nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
