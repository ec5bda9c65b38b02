package gossip

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of repair.
const (
	freshFor  = 5 * time.Second        // what was received later is not repaired yet
	repairFor = 90 * time.Second       // after that a round leaves the rest to the next
	logsWait  = 5 * time.Second        // for logs to bring what is missing
	logsTick  = 100 * time.Millisecond // how often that is looked at

	usualRecord = 512 // bytes
)

// naming says how records are named in a round: by their short IDs under the
// network's key, or the one that stands for it, or under the key of a deep round.
type naming struct {
	network hashing
	deep    *overlay.ShortKey
}

func (n naming) item(short, prefix uint64) uint64 {
	if n.deep == nil {
		return short
	}
	name, _ := n.deep.DeepTerms(prefix, short)
	return name
}

func (n naming) record(id *overlay.RecordID) uint64 {
	return n.item(n.network.short(id), prefixOf(id))
}

// repairByShort repairs differences found under the network's key: onlyHere are
// short IDs that only we have, onlyThere those that only the other side has.
func (r *round) repairByShort(ctx context.Context, onlyHere, onlyThere []uint64) error {
	r.await(ctx, len(onlyHere) > 0, len(onlyThere) > 0, func() (missing bool) {
		onlyThere = r.m.without(r.key, onlyThere)
		return len(onlyThere) > 0
	})
	var push []place
	if len(onlyHere) > 0 && !r.skipPush {
		if push = r.m.holdings.find(r.key, onlyHere); len(push) == 0 && r.m.holdings.key() == r.key {
			// Cells cannot name what only we have, and is not here: they were made up,
			// unless it has just expired.
			r.young += len(onlyHere)
			if st := r.m.holdings.state(); st.front == r.front {
				r.m.scores.offend(r.s.peer, faultCells)
			}
		}
	}
	if r.skipFetch {
		onlyThere = nil
	}
	if err := r.exchange(ctx, naming{network: r.m.hashing(r.key)}, push, onlyThere); err != nil {
		return err
	}
	r.conclude()
	return nil
}

// late reports whether the round has gone on for long enough.
func (r *round) late() bool { return time.Since(r.begun) > repairFor }

// conclude sets the result after everything was tried.
func (r *round) conclude() {
	switch {
	case r.late():
		r.Result = overlay.RoundDiffers
	case r.skipPush || r.skipFetch || r.young > 0:
		r.Result = overlay.RoundWaits
	case r.owed > 0:
		r.Result = overlay.RoundDiffers
	default:
		r.Result = overlay.RoundRepaired
	}
}

// without returns those of shorts that are not held.
func (m *Mesh) without(key overlay.ShortKey, shorts []uint64) []uint64 {
	held := map[uint64]bool{}
	for _, p := range m.holdings.find(key, shorts) {
		held[p.short] = true
	}
	return slices.DeleteFunc(slices.Clone(shorts), func(s uint64) bool { return held[s] })
}

// exchange gives the other side the records of push and gets those named in
// wanted, a message at a time.
func (r *round) exchange(ctx context.Context, names naming, push []place, wanted []uint64) error {
	if r.dry != nil {
		return r.list(ctx, names, push, wanted)
	}
	sortPlaces(push)
	fit := overlay.FrameTarget / usualRecord // records that an answer has room for
	for (len(push) > 0 || len(wanted) > 0) && !r.late() {
		given, err := r.m.load(names.network.key, &push)
		if err != nil {
			return err
		}
		r.young += given.young
		asked := wanted[:min(len(wanted), fit)]
		if len(given.records) == 0 && len(asked) == 0 {
			return nil
		}
		reply, err := r.ask(ctx, &overlay.IDs{N: r.n, Shorts: asked, Records: given.records})
		if err != nil {
			return err
		}
		// Records travel inside of messages, but are what the round is for.
		r.BytesSent -= given.bytes
		r.RecordBytes += given.bytes
		r.Sent += len(given.records)
		msg, ok := reply.(*overlay.IDs)
		if !ok || msg.Next > uint64(len(asked)) || len(msg.Shorts) > len(asked) {
			return r.fault(faultRound, "no IDs")
		}
		n := recordBytes(msg.Records)
		r.BytesReceived -= n
		r.RecordBytes += n
		if err := r.takeAnswer(ctx, names, asked[:msg.Next], msg); err != nil {
			return err
		}
		if msg.Next == 0 && len(asked) > 0 {
			r.owed += len(wanted)
			return r.fault(faultUndelivered, "nothing of what was asked for")
		}
		wanted = wanted[msg.Next:]
		if len(msg.Records) > 0 {
			fit = min(overlay.MaxIDs, max(16, overlay.FrameTarget*len(msg.Records)/int(n)))
		}
	}
	return nil
}

func recordBytes(records [][]byte) (n uint64) {
	for _, raw := range records {
		n += uint64(len(raw))
	}
	return n
}

// takeAnswer stores the records of an answer that were asked for.
func (r *round) takeAnswer(ctx context.Context, names naming, asked []uint64, msg *overlay.IDs) error {
	open := make(map[uint64]bool, len(asked)) // not given yet
	for _, s := range asked {
		open[s] = true
	}
	keep := msg.Records[:0]
	for _, raw := range msg.Records {
		rec, err := overlay.ParseRecord(r.m.cfg.Network, raw)
		if err != nil {
			r.m.scores.offend(r.s.peer, faultGarbage)
			continue
		}
		name := names.record(&rec.ID)
		if _, wanted := open[name]; !wanted {
			r.m.scores.offend(r.s.peer, faultGarbage)
			continue
		}
		open[name] = false
		keep = append(keep, raw)
	}
	for _, s := range msg.Shorts {
		if open[s] {
			open[s] = false
			r.owed++
			r.young++
		}
	}
	for _, missing := range open {
		if missing {
			r.owed++
			r.silent++
		}
	}
	taken, err := r.m.take(ctx, r.s, keep)
	r.Fetched += taken
	return err
}

// take stores records that the other side gave, and says how many of them are
// held now.
func (m *Mesh) take(ctx context.Context, s *session, raws [][]byte) (n int, err error) {
	if len(raws) == 0 {
		return 0, nil
	}
	taken, err := m.cfg.Replica.Take(ctx, overlay.ViaAudit, raws)
	if err != nil {
		return 0, fmt.Errorf("store what was given: %w", err)
	}
	now := m.now()
	for i, ok := range taken {
		if ok {
			n++
			continue
		}
		rec, err := overlay.ParseRecord(m.cfg.Network, raws[i])
		if err != nil || rec.Expires > now+stepMillis {
			m.scores.offend(s.peer, faultGarbage)
		}
	}
	return n, nil
}

// loaded is what was read of some places.
type loaded struct {
	records [][]byte
	bytes   uint64
	young   int     // received too lately
	lost    []place // not on the disk, whatever the ledger says
}

// at finds the stored record of a place; fn is called at most once.
func (m *Mesh) at(hash hashing, p place, fn func(rec *overlay.StoredRecord)) error {
	prefix := binary.BigEndian.AppendUint64(nil, p.prefix)
	err := m.cfg.Records.Near(stepDay(p.expires), prefix, func(rec overlay.StoredRecord) bool {
		if hash.short(&rec.ID) != p.short || rec.Expires/stepMillis != p.expires {
			return true
		}
		fn(&rec)
		return false
	})
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	return nil
}

// sortPlaces puts places in the order of the disk.
func sortPlaces(places []place) {
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(stepDay(a.expires), stepDay(b.expires)), cmp.Compare(a.prefix, b.prefix))
	})
}

// load reads records from the disk, as many as go into a message, and takes
// their places off the list.
func (m *Mesh) load(key overlay.ShortKey, places *[]place) (got loaded, err error) {
	oldest := m.cfg.Now().Add(-freshFor)
	now := m.now()
	hash := m.hashing(key)
	for len(*places) > 0 && len(got.records) < overlay.MaxIDs && got.bytes < overlay.FrameTarget {
		p := (*places)[0]
		found, full := false, false
		err := m.at(hash, p, func(rec *overlay.StoredRecord) {
			found = true
			switch {
			case rec.Expires <= now:
			case rec.Received.After(oldest):
				got.young++
			case len(got.records) > 0 && got.bytes+uint64(len(rec.Raw)) > overlay.FrameTarget:
				full = true
			default:
				got.records = append(got.records, bytes.Clone(rec.Raw))
				got.bytes += uint64(len(rec.Raw))
			}
		})
		if err != nil {
			return got, err
		}
		if full {
			break
		}
		if !found && (p.expires+1)*stepMillis > now {
			got.lost = append(got.lost, p)
		}
		*places = (*places)[1:]
	}
	if n := len(got.lost); n > 0 {
		m.met.corrections.WithLabelValues("lost").Add(float64(n))
		m.holdings.distrust(n, 0)
	}
	return got, nil
}

// await waits, for a while, for what logs bring: here while missing says that
// we lack something, there while the other side does. What logs do bring, but
// have not brought by then, is left to them. Nothing is given to who is full.
func (r *round) await(ctx context.Context, there, here bool, missing func() bool) {
	if r.dry != nil {
		return
	}
	r.skipPush = r.m.summaries.all()[r.s.id].Full
	mine := r.m.toldHere()
	gapsHere, gapsThere := map[overlay.LogID]uint64{}, map[overlay.LogID]uint64{}
	if here {
		gapsHere = r.m.gapsHere(r.s)
	}
	if there {
		gapsThere = gapsThereOf(mine, r.s)
	}
	end := time.NewTimer(logsWait)
	defer end.Stop()
	tick := time.NewTicker(logsTick)
	defer tick.Stop()
	for {
		nowHere, nowThere := map[overlay.LogID]uint64{}, map[overlay.LogID]uint64{}
		if here = here && missing(); here && len(gapsHere) > 0 {
			nowHere = r.m.gapsHere(r.s)
		}
		if len(gapsThere) > 0 {
			nowThere = gapsThereOf(mine, r.s)
		}
		if !open(gapsHere, nowHere) && !open(gapsThere, nowThere) {
			return
		}
		select {
		case <-tick.C:
			continue
		case <-end.C:
		case <-ctx.Done():
		}
		r.skipFetch = here && closing(gapsHere, nowHere)
		r.skipPush = r.skipPush || closing(gapsThere, nowThere)
		return
	}
}

// gapsHere counts, log by log, the entries that the other side tells of and
// that are not held here.
func (m *Mesh) gapsHere(s *session) map[overlay.LogID]uint64 {
	mine := m.toldHere()
	gaps := map[overlay.LogID]uint64{}
	s.eachTold(func(log overlay.LogID, t told) {
		if n := t.runs.minus(mine[log]).count(); n > 0 && !m.logs.isDead(log) {
			gaps[log] = n
		}
	})
	return gaps
}

// gapsThereOf counts, log by log, the entries of mine that the other side has
// not told of.
func gapsThereOf(mine map[overlay.LogID]spans, s *session) map[overlay.LogID]uint64 {
	gaps := map[overlay.LogID]uint64{}
	for log, runs := range mine {
		if n := runs.minus(s.told(log).runs).count(); n > 0 {
			gaps[log] = n
		}
	}
	return gaps
}

// open reports whether a gap of before is one still.
func open(before, now map[overlay.LogID]uint64) bool {
	for log := range before {
		if now[log] > 0 {
			return true
		}
	}
	return false
}

// closing reports whether a gap that is still open got smaller.
func closing(before, now map[overlay.LogID]uint64) bool {
	for log, n := range before {
		if now[log] > 0 && now[log] < n {
			return true
		}
	}
	return false
}
