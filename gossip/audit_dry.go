package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// A dry round finds what a round of the audit finds and moves nothing: both
// sides name what only they hold, and the side that lacks it says why.

// Rules of dry rounds.
const (
	dryMost   = 16_384           // differences that are named; of more, it is said that there are
	unsettled = 30 * time.Second // a record younger than that may still be on its way
)

// dryRound is what a dry round found.
type dryRound struct {
	here, there []overlay.Stub
	more        bool // not all are named
	later       bool // it takes a deep round, and there was one a moment ago
}

// list names what differs instead of exchanging it: exchange does the one or the
// other.
func (r *round) list(ctx context.Context, names naming, push []place, wanted []uint64) error {
	d := r.dry
	room := dryMost - len(d.here) - len(d.there)
	if len(push) > room {
		push, d.more = push[:max(0, room)], true
	}
	room -= len(push)
	if len(wanted) > room {
		wanted, d.more = wanted[:max(0, room)], true
	}
	sortPlaces(push)
	here, err := r.m.stubs(r.key, push)
	if err != nil {
		return err
	}
	d.here = append(d.here, here...)
	for len(wanted) > 0 {
		asked := wanted[:min(len(wanted), overlay.MaxStubs)]
		reply, err := r.ask(ctx, &overlay.Stubs{N: r.n, Shorts: asked})
		if err != nil {
			return err
		}
		msg, ok := reply.(*overlay.Stubs)
		if !ok || msg.Next == 0 || msg.Next > uint64(len(asked)) {
			return r.fault(faultRound, "no Stubs")
		}
		open := make(map[uint64]bool, len(asked))
		for _, s := range asked[:msg.Next] {
			open[s] = true
		}
		for i := range msg.Stubs {
			if !open[names.record(&msg.Stubs[i].ID)] {
				return r.fault(faultGarbage, "a record that was not asked for")
			}
		}
		d.there = append(d.there, msg.Stubs...)
		wanted = wanted[msg.Next:]
	}
	return nil
}

// stubs describes the records of places, as far as they are on the disk.
func (m *Mesh) stubs(key overlay.ShortKey, places []place) (list []overlay.Stub, err error) {
	hash := m.hashing(key)
	for _, p := range places {
		err := m.at(hash, p, func(r *overlay.StoredRecord) {
			s := overlay.Stub{ID: r.ID, Created: r.Created, Expires: r.Expires}
			if rec, err := overlay.ParseRecord(m.cfg.Network, r.Raw); err == nil {
				s.Kind = rec.Kind
			}
			if len(r.Dots) > 0 {
				s.Dot = r.Dots[0]
			}
			list = append(list, s)
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// answerStubs names the records asked for. What two names share is named twice.
func (h *host) answerStubs(msg *overlay.Stubs) overlay.Message {
	shorts := msg.Shorts[:min(len(msg.Shorts), overlay.MaxStubs)]
	reply := &overlay.Stubs{N: h.n, Answer: true, Next: uint64(len(shorts))}
	places := h.locate(shorts)
	if len(places) > overlay.MaxStubs {
		h.m.scores.offend(h.s.peer, faultRound)
		return nil
	}
	sortPlaces(places)
	var err error
	if reply.Stubs, err = h.m.stubs(h.key, places); err != nil {
		h.m.log.Warn("name records for a round", "err", err)
		return nil
	}
	return reply
}

// diff compares what is held here with what the pillar of s holds, and lists
// the differences whose IDs follow after, at most limit of them.
func (m *Mesh) diff(ctx context.Context, s *session, after overlay.RecordID, limit int) (overlay.Diff, error) {
	r := &round{m: m, s: s, dry: &dryRound{}}
	err := r.do(ctx)
	out := overlay.Diff{Here: m.self, There: s.id, Settled: r.settled * overlay.AuditGrid, Front: r.front * overlay.AuditGrid}
	switch {
	case errors.As(err, new(*overlay.Error)):
		return out, err
	case err != nil:
		return out, overlay.Refuse(overlay.CodeUnreachable, "the comparison with %s failed: %v", s.id, err)
	}
	switch r.Result {
	case overlay.RoundEqual:
		out.Equal = len(r.dry.here)+len(r.dry.there) == 0
	case overlay.RoundNotNow:
		return out, overlay.Refuse(overlay.CodeClockWrong, "%s audits nothing while its clock is in doubt", s.id)
	case overlay.RoundUnsettled:
		return out, overlay.Refuse(overlay.CodeClockWrong, "%s and this pillar have no instant in common to compare at: a clock is off, or one of them has just started", s.id)
	case overlay.RoundOtherKey:
		return out, later(15*time.Second, "%s and this pillar are still agreeing on a key to compare under", s.id)
	default:
		if r.dry.later || len(r.dry.here)+len(r.dry.there) == 0 {
			return out, later(deepEvery, "there was a large comparison with %s a moment ago, or it is busy", s.id)
		}
	}
	out.More = r.dry.more
	page(&r.dry.here, &r.dry.there, after, limit, &out.More)
	if err := m.explain(ctx, s, r, &out); err != nil {
		return out, err
	}
	out.Bytes, out.RoundTrips, out.Took = r.BytesSent+r.BytesReceived, r.RoundTrips, time.Since(r.begun)
	return out, nil
}

// page keeps of both lists what follows after in the order of IDs, at most limit
// together.
func page(here, there *[]overlay.Stub, after overlay.RecordID, limit int, more *bool) {
	for _, list := range []*[]overlay.Stub{here, there} {
		slices.SortFunc(*list, func(a, b overlay.Stub) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		*list = slices.CompactFunc(*list, func(a, b overlay.Stub) bool { return a.ID == b.ID })
		i, _ := slices.BinarySearchFunc(*list, after, func(s overlay.Stub, id overlay.RecordID) int { return bytes.Compare(s.ID[:], id[:]) })
		if i < len(*list) && (*list)[i].ID == after {
			i++
		}
		*list = (*list)[i:]
	}
	h, t := 0, 0
	for h+t < limit && h+t < len(*here)+len(*there) {
		if t == len(*there) || h < len(*here) && bytes.Compare((*here)[h].ID[:], (*there)[t].ID[:]) < 0 {
			h++
		} else {
			t++
		}
	}
	*more = *more || h < len(*here) || t < len(*there)
	*here, *there = (*here)[:h], (*there)[:t]
}

// explain asks the side that lacks each record why. What it has by now is no
// difference any more.
func (m *Mesh) explain(ctx context.Context, s *session, r *round, out *overlay.Diff) error {
	mine, err := m.trace(soughtOf(r.dry.there))
	if err != nil {
		return err
	}
	theirs, err := m.traceAt(ctx, s, soughtOf(r.dry.here), r)
	if err != nil {
		return overlay.Refuse(overlay.CodeUnreachable, "%s did not say why it lacks what it lacks: %v", s.id, err)
	}
	young := m.now() - min(m.now(), uint64(unsettled.Milliseconds()))
	list := func(stubs []overlay.Stub, why []overlay.Trace) (list []overlay.Difference) {
		for i := range stubs {
			st, t := &stubs[i], &why[i]
			if t.Has {
				continue
			}
			d := overlay.Difference{ID: st.ID, Kind: st.Kind, Created: st.Created, Expires: st.Expires, Why: t.Why, Detail: t.Detail}
			if st.Created > young && (d.Why == overlay.AbsentNever || d.Why == overlay.AbsentComing) {
				d.Why = overlay.AbsentUnsettled
			}
			list = append(list, d)
		}
		return list
	}
	out.OnlyHere, out.OnlyThere = list(r.dry.here, theirs), list(r.dry.there, mine)
	return nil
}

func soughtOf(stubs []overlay.Stub) []overlay.Sought {
	out := make([]overlay.Sought, len(stubs))
	for i := range stubs {
		out[i] = overlay.Sought{ID: stubs[i].ID, Expires: stubs[i].Expires, Dot: stubs[i].Dot}
	}
	return out
}

// later refuses for a while.
func later(retry time.Duration, format string, args ...any) *overlay.Error {
	return &overlay.Error{Code: overlay.CodeBusy, Text: fmt.Sprintf(format, args...), Retry: retry}
}
