package gossip

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// Heads are kept as notes "gossip/heads/" + LogID + chunk (two bytes big-endian),
// each a list of up to headsPerNote heads: with them any holder can serve a log's
// history in runs that link to signed heads. Those kept since these were written are
// the note "gossip/fresh/" + LogID, those at which something ends "gossip/ends/" +
// LogID, and those that say of gone entries that they have expired "gossip/gone/" +
// LogID. These three are written in the commit of the entries that need them.
const (
	headsPrefix  = "gossip/heads/"
	freshPrefix  = "gossip/fresh/"
	endsPrefix   = "gossip/ends/"
	gonePrefix   = "gossip/gone/"
	headsPerNote = 192 // of some 250 bytes each; a note holds 64 KiB
	maxHeadNotes = 4096
	maxFresh     = headsPerNote / 2 // are written to the large notes before the next tick
	keepTick     = 5 * time.Second
	forgetEvery  = 12 // ticks
)

func headsKey(log overlay.LogID, chunk int) string {
	return headsPrefix + string(log[:]) + string(binary.BigEndian.AppendUint16(nil, uint16(chunk)))
}

func noteKey(prefix string, log overlay.LogID) string { return prefix + string(log[:]) }

// loadLogs takes what the Replica and the notes have of every log.
func (m *Mesh) loadLogs() error {
	for _, s := range m.cfg.Replica.Logs() {
		var disk storedHeads
		for chunk := range maxHeadNotes {
			part, err := m.loadHeads(s.Log, headsKey(s.Log, chunk))
			if err != nil {
				return err
			}
			disk.kept = append(disk.kept, part...)
			if len(part) < headsPerNote {
				break
			}
		}
		var err error
		if disk.fresh, err = m.loadHeads(s.Log, noteKey(freshPrefix, s.Log)); err != nil {
			return err
		}
		if disk.ends, err = m.loadHeads(s.Log, noteKey(endsPrefix, s.Log)); err != nil {
			return err
		}
		if disk.covers, err = m.loadCovers(s.Log); err != nil {
			return err
		}
		m.logs.load(s, &disk, m.now())
	}
	return nil
}

// loadCovers reads the covers of a log; none if their note is damaged.
func (m *Mesh) loadCovers(log overlay.LogID) ([]cover, error) {
	data, err := m.cfg.Notes.LoadNote(noteKey(gonePrefix, log))
	if err != nil {
		return nil, fmt.Errorf("gossip: load heads: %w", err)
	}
	if data == nil {
		return nil, nil
	}
	list, err := decodeCovers(log, data)
	if err != nil {
		m.log.Warn("stored heads are damaged: what is gone of a log is served by others", "log", log, "err", err)
		return nil, nil
	}
	return list, nil
}

// loadHeads reads one note of heads; none if it is damaged.
func (m *Mesh) loadHeads(log overlay.LogID, key string) ([]*overlay.Head, error) {
	data, err := m.cfg.Notes.LoadNote(key)
	if err != nil {
		return nil, fmt.Errorf("gossip: load heads: %w", err)
	}
	if data == nil {
		return nil, nil
	}
	heads, err := decodeHeads(data)
	if err != nil {
		m.log.Warn("stored heads are damaged: history is served by others", "log", log, "err", err)
		return nil, nil
	}
	return heads, nil
}

func decodeHeads(data []byte) ([]*overlay.Head, error) {
	r := canon.NewReader(data)
	n := r.ArrayMax(headsPerNote)
	heads := make([]*overlay.Head, 0, n)
	for range n {
		h := overlay.ReadHead(r)
		heads = append(heads, &h)
	}
	return heads, r.End()
}

// keep writes heads to disk, gives back memory and removes what is left of logs
// that are held no more, until ctx ends.
func (m *Mesh) keep(ctx context.Context) {
	tick := time.NewTicker(keepTick)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-m.logs.full:
		case <-ctx.Done():
			return
		}
		for _, log := range m.logs.maintain(time.Now()) {
			if err := m.storeHeads(ctx, log); err != nil && ctx.Err() == nil {
				m.log.Warn("store heads", "log", log, "err", err)
			}
		}
		if dead := m.logs.deadHeld(); len(dead) > 0 { // an Apply was under way when its log was dropped
			if err := m.cfg.Replica.Drop(ctx, dead...); err != nil && ctx.Err() == nil {
				m.log.Warn("drop logs", "err", err)
			}
		}
		m.acks.drop(func(p identity.PillarID) bool { return m.cfg.Roster.Standing(p, m.now()) == overlay.StandingRevoked })
		if n%forgetEvery == 0 {
			if m.clocks.agree() {
				m.forks.expire(ctx)
			}
		}
		for log, stored := range m.logs.takeLitter() {
			m.sweepHeads(ctx, log, stored)
		}
	}
}

// sweepHeads removes the notes of a log that is held no more, of which so many heads
// were kept.
func (m *Mesh) sweepHeads(ctx context.Context, log overlay.LogID, stored int) {
	var notes []overlay.Value
	for chunk := 0; chunk*headsPerNote < stored; chunk++ {
		notes = append(notes, overlay.Value{Key: headsKey(log, chunk)})
	}
	for _, prefix := range []string{freshPrefix, endsPrefix, gonePrefix} {
		notes = append(notes, overlay.Value{Key: noteKey(prefix, log)})
	}
	err := m.cfg.Notes.SaveNotes(ctx, func() ([]overlay.Value, error) {
		if m.logs.holdsAny(log) {
			return nil, nil
		}
		return notes, nil
	})
	if err != nil && ctx.Err() == nil {
		m.log.Warn("remove heads", "log", log, "err", err)
	}
}

// storeHeads writes the notes of a log that changed.
func (m *Mesh) storeHeads(ctx context.Context, log overlay.LogID) error {
	var kept []*lead
	var c changes
	// What goes with a run is written in the order of commits, and so is this.
	err := m.cfg.Notes.SaveNotes(ctx, func() ([]overlay.Value, error) {
		var from int
		if kept, from, c = m.logs.headsOf(log); len(kept)+len(c.ends)+len(c.covers) == 0 {
			return nil, nil
		}
		notes, err := m.notes(log, c)
		for chunk := from / headsPerNote; chunk < maxHeadNotes && err == nil; chunk++ {
			part := kept[min(len(kept), chunk*headsPerNote):min(len(kept), (chunk+1)*headsPerNote)]
			if len(part) == 0 {
				break
			}
			var note []byte
			note, err = m.encodeHeads(part)
			notes = append(notes, overlay.Value{Key: headsKey(log, chunk), Data: note})
		}
		return notes, err
	})
	m.logs.headsStored(log, kept, c.covers, err)
	return err
}

// notes are the notes of what of a log's heads is in none of the large ones.
func (m *Mesh) notes(log overlay.LogID, c changes) (notes []overlay.Value, err error) {
	for prefix, leads := range map[string][]*lead{endsPrefix: c.ends, freshPrefix: c.fresh} {
		var data []byte
		if len(leads) > 0 {
			if data, err = m.encodeHeads(leads[max(0, len(leads)-headsPerNote):]); err != nil {
				return nil, err
			}
		}
		if leads != nil {
			notes = append(notes, overlay.Value{Key: noteKey(prefix, log), Data: data})
		}
	}
	if len(c.covers) > 0 {
		data, err := m.encodeCovers(c.covers[max(0, len(c.covers)-3*maxCovers):])
		if err != nil {
			return nil, err
		}
		notes = append(notes, overlay.Value{Key: noteKey(gonePrefix, log), Data: data})
	}
	return notes, nil
}

func (m *Mesh) encodeHeads(leads []*lead) ([]byte, error) {
	b := canon.AppendArray(nil, len(leads))
	for _, l := range leads {
		h := l.get(m.signHead)
		if h == nil {
			return nil, errNoHead
		}
		b = h.Append(b)
	}
	return b, nil
}

// runNotes are written with a run that is to be stored: after a crash its entries
// would be told and, without the heads that they lead to, could not be served. What
// of it is no end is left out when it is read, and written over in a moment.
func (m *Mesh) runNotes(log overlay.LogID, run *taken) ([]overlay.Value, error) {
	return m.notes(log, m.logs.with(log, run))
}

// Notes implements overlay.Mesh.
func (m *Mesh) Notes(c *overlay.LogCommit) ([]overlay.Value, error) {
	return m.notes(c.State.Log, changes{fresh: m.logs.dueWith(c)})
}
