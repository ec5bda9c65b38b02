package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// pillarView is a pillar's page.
type pillarView struct {
	frame
	Row   pillarRow
	Names []pillarName // whom it can be compared with
	Of    pillarName   // whom it is compared with: this pillar, or another
	State *ConvergenceEntry
	Round *roundRow
	Notes []note
	Diff  *diffView
	Links []linkRow
	Asked time.Time // for them
}

// diffView is what was found to differ, or why it could not be found out.
type diffView struct {
	DiffAnswer
	Here, There pillarName
	Err         string
}

// note is what became of something that was asked for on a page.
type note struct {
	At     time.Time
	Pillar identity.PillarID
	What   string
	Text   string
	Failed bool
}

// notes keep the last of them, so that a form can lead back to the page.
type notes struct {
	mu   sync.Mutex
	list []note // guarded by mu; newest first, at most maxNotes
}

const (
	maxNotes = 32
	noteLife = 15 * time.Minute
)

func (n *notes) add(x note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = slices.Insert(n.list, 0, x)
	n.list = n.list[:min(len(n.list), maxNotes)]
}

func (n *notes) of(p identity.PillarID, now time.Time) (list []note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range n.list {
		if x.Pillar == p && now.Sub(x.At) < noteLife {
			list = append(list, x)
		}
	}
	return list
}

func (d *dashboard) pillarPage(w http.ResponseWriter, r *http.Request) error {
	id, err := identity.ParsePillar(r.PathValue("id"))
	if err != nil {
		return err
	}
	now := time.Now()
	s := d.p.Status()
	v := &pillarView{frame: d.frame(r, ""), Notes: d.notes.of(id, now)}
	statements := NewConvergence(d.p.Convergence(), now)
	found := false
	for _, row := range pillarRows(&s, v.Self, d.p.Pillars(), statements) {
		if row.ID == id {
			v.Row, found = row, true
		} else {
			v.Names = append(v.Names, row.Name)
		}
	}
	if !found {
		return overlay.Refuse(overlay.CodeNotFound, "no pillar %s is known here", id)
	}
	v.Title = v.Row.Name.Text
	if v.Of = v.Self; v.Row.Name.Self && len(v.Names) > 0 {
		v.Of = v.Names[0]
	}
	if of := r.URL.Query().Get("of"); of != "" {
		i := slices.IndexFunc(v.Names, func(n pillarName) bool { return n.ID.String() == of })
		if i < 0 {
			return overlay.Refuse(overlay.CodeNotFound, "no other pillar %s is known here", of)
		}
		v.Of = v.Names[i]
	}
	for i := range statements {
		if statements[i].Pillar == id {
			v.State = &statements[i]
		}
	}
	if links := d.watch.linkSight(now); links != nil {
		names := map[identity.PillarID]pillarName{id: v.Row.Name}
		for _, n := range v.Names {
			names[n.ID] = n
		}
		v.Links, v.Asked = linkRows(links, id, names), links.round.At
	}
	sy := d.p.Sync()
	for i := range sy.Peers {
		if p := &sy.Peers[i]; p.Pillar == id && p.Last != nil {
			v.Round = &roundRow{v.Row.Name, newRoundEntry(p.Last), RoundTotals(p.Totals)}
		}
	}
	if r.URL.Query().Has("diff") && v.Of.ID != id {
		if v.Diff, err = d.diff(w, r, v.Of, v.Row.Name); err != nil {
			return err
		}
	}
	return d.render(w, http.StatusOK, "pillar", v)
}

// diff compares two pillars; what goes wrong between them is part of the answer.
func (d *dashboard) diff(w http.ResponseWriter, r *http.Request, of, with pillarName) (*diffView, error) {
	var after overlay.RecordID
	if s := r.URL.Query().Get("after"); s != "" {
		if err := after.UnmarshalText([]byte(s)); err != nil {
			return nil, overlay.Refuse(overlay.CodeBadRequest, "after=%q: want the next of the page before", s)
		}
	}
	allow(w, diffTime+requestTime)
	ctx, cancel := context.WithTimeout(r.Context(), diffTime)
	defer cancel()
	v := &diffView{Here: of, There: with}
	found, err := d.p.Diff(ctx, pairedWith(of), with.ID, after)
	if err != nil {
		v.Err = detailOf(err).Message
		return v, nil
	}
	v.DiffAnswer = newDiffAnswer(&found)
	return v, nil
}

// pairedWith is how a pillar is named to Diff and Repair: this one by no ID.
func pairedWith(n pillarName) identity.PillarID {
	if n.Self {
		return ""
	}
	return n.ID
}

// repair is the button: it exchanges what differs and leads back to the page.
func (d *dashboard) repair(w http.ResponseWriter, r *http.Request) error {
	return d.act(w, r, "Repair", repairTime, func(ctx context.Context, of pillarName, with identity.PillarID) (string, error) {
		done, err := d.p.Repair(ctx, pairedWith(of), with)
		if err != nil {
			return "", err
		}
		if done.Fetched+done.Sent == 0 {
			return fmt.Sprintf("nothing differed (%s, %s)", bytesText(done.Bytes), msText(tookMS(done.Took))), nil
		}
		return fmt.Sprintf("%s %s fetched, %s sent (%s, %s)", countText(done.Fetched), plural(done.Fetched, "record", "records"), countText(done.Sent),
			bytesText(done.Bytes), msText(tookMS(done.Took))), nil
	})
}

// round is the button that has an audit round done now.
func (d *dashboard) round(w http.ResponseWriter, r *http.Request) error {
	return d.act(w, r, "Audit round", roundTime, func(ctx context.Context, _ pillarName, with identity.PillarID) (string, error) {
		round, err := d.p.Round(ctx, with)
		if err != nil {
			return "", err
		}
		if round.Result == overlay.RoundFailed {
			return "", overlay.Refuse(overlay.CodeUnreachable, "the round failed: %s", round.Err)
		}
		return fmt.Sprintf("%s, %s %s, %s fetched, %s sent (%s, %s)", round.Result, countText(round.Differences),
			plural(round.Differences, "difference", "differences"), countText(round.Fetched), countText(round.Sent),
			bytesText(round.BytesSent+round.BytesReceived+round.RecordBytes), msText(tookMS(round.Took))), nil
	})
}

// act does what a form asks for and leads back to the pillar's page, which says
// what became of it.
func (d *dashboard) act(w http.ResponseWriter, r *http.Request, what string, most time.Duration,
	do func(ctx context.Context, of pillarName, with identity.PillarID) (string, error)) error {
	id, err := identity.ParsePillar(r.PathValue("id"))
	if err != nil {
		return err
	}
	s := d.p.Status()
	of, with, back := selfName(&s), id, "/pillar/"+id.String()
	if text := r.URL.Query().Get("of"); text != "" {
		other, err := identity.ParsePillar(text)
		if err != nil {
			return err
		}
		if other != of.ID {
			of, back = nameOf(other, ""), back+"?of="+other.String()
		}
	}
	if id == of.ID {
		return overlay.Refuse(overlay.CodeBadRequest, "a pillar has nothing to exchange with itself: choose another")
	}
	allow(w, most+requestTime)
	ctx, cancel := context.WithTimeout(r.Context(), most)
	defer cancel()
	n := note{Pillar: id, What: what}
	if n.Text, err = do(ctx, of, with); err != nil {
		n.Text, n.Failed = detailOf(err).Message, true
	}
	n.At = time.Now()
	d.notes.add(n)
	http.Redirect(w, r, back+"#done", http.StatusSeeOther)
	return nil
}

// resume is the button that lets audit rounds go on.
func (d *dashboard) resume(w http.ResponseWriter, r *http.Request) error {
	d.p.PauseRounds(false)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// absenceText says in words why a pillar does not hold a record.
func absenceText(a overlay.Absence) string {
	switch a {
	case overlay.AbsentNot:
		return "it holds it by now"
	case overlay.AbsentUnsettled:
		return "not yet settled: too new, or too old, for all to agree on it"
	case overlay.AbsentExpired:
		return "expired there"
	case overlay.AbsentVoid:
		return "void: its bytes are no valid record"
	case overlay.AbsentFull:
		return "full: that pillar takes nothing for want of disk"
	case overlay.AbsentDeleted:
		return "deleted there: a log names it, and its bytes are gone"
	case overlay.AbsentDeadLog:
		return "in a log that forked, and not brought by an audit yet"
	case overlay.AbsentPaused:
		return "in a log that used up its share of the disk there"
	case overlay.AbsentComing:
		return "still coming: in a part of a log that is not there yet"
	case overlay.AbsentRefused:
		return "refused there when it was submitted"
	case overlay.AbsentNever:
		return "never arrived: nothing there ever named it"
	case overlay.AbsentUnknown:
		return "unknown: that pillar could not be asked"
	default:
		return string(a)
	}
}
