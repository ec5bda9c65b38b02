package overlay

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// What the inbox has seen of the mailbox: the key under which it is noted, and
// the steps that only what is new goes through.

func seenKey(expires uint64, id RecordID) []byte {
	k := binary.BigEndian.AppendUint32([]byte(keySeen), uint32(DayOf(expires)))
	return append(k, id[:]...)
}

// Lengths of what stands under seen/: created and expires, and a byte more for
// a record that no pillar has shown yet. A mailbox check speaks only of the
// others: what devices hand each other a pillar need not have.
const (
	seenShown  = 16
	seenDirect = 17
)

// seenValue is what stands under seenKey.
func seenValue(rec *Record, shown bool) []byte {
	b := make([]byte, 0, seenDirect)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, rec.Created), rec.Expires)
	if !shown {
		b = append(b, 1)
	}
	return b
}

// readSeen returns whether the value is one, and whether a pillar has shown the
// record.
func readSeen(v []byte) (ok, shown bool) {
	return len(v) == seenShown || len(v) == seenDirect, len(v) == seenShown
}

// fresh returns the verified records among raws, which a pillar shows, that are
// for us, alive and not seen before, in the order to take them.
func (b *nodeInbox) fresh(raws [][]byte) ([]*Record, error) {
	v, self := b.n.verify(), b.n.account()
	recs := make([]*Record, 0, len(raws))
	for _, raw := range raws {
		rec, err := v.Parse(raw)
		if err != nil || !rec.IsTo(self) {
			b.n.metrics.dropped.WithLabelValues("invalid").Inc()
			continue
		}
		recs = append(recs, rec)
	}
	recs, err := b.unseen(recs, func(rec *Record, seen []byte) {
		if _, shown := readSeen(seen); !shown {
			b.n.disk.rider(Write{seenKey(rec.Expires, rec.ID), seenValue(rec, true)})
		}
	})
	if err != nil {
		return nil, err
	}
	return b.valid(recs, func(*Record) {}), nil
}

// unseen returns the records that are alive and not seen before, each once, and
// calls again for those that were seen, with what stands in the table.
func (b *nodeInbox) unseen(recs []*Record, again func(*Record, []byte)) ([]*Record, error) {
	now := b.n.now()
	list := make([]*Record, 0, len(recs))
	batch := make(map[RecordID]struct{}, len(recs))
	for _, rec := range recs {
		if _, twice := batch[rec.ID]; twice || rec.Expires <= now && !b.n.sessions.clockWrong() {
			continue
		}
		batch[rec.ID] = struct{}{}
		seen, err := b.n.disk.get(seenKey(rec.Expires, rec.ID))
		if err != nil {
			return nil, err
		}
		if seen != nil {
			again(rec, seen)
			continue
		}
		list = append(list, rec)
	}
	return list, nil
}

// valid returns those whose signatures are right, in the order to take them, and
// calls refuse for the others.
func (b *nodeInbox) valid(recs []*Record, refuse func(*Record)) []*Record {
	errs := make([]error, len(recs))
	b.n.verify().Verify(recs, errs)
	good := make([]*Record, 0, len(recs))
	for i, rec := range recs {
		if errs[i] != nil {
			b.n.metrics.dropped.WithLabelValues("invalid").Inc()
			refuse(rec)
			continue
		}
		good = append(good, rec)
	}
	slices.SortStableFunc(good, func(x, y *Record) int { return cmp.Compare(rank(x), rank(y)) })
	sortBySender(good, b.n.account())
	return good
}
