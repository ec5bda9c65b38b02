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

// Heads are kept as notes "gossip/heads/" + LogID + chunk (two bytes
// big-endian), each a list of up to headsPerNote heads: with them any holder
// can serve a log's history in runs that link to signed heads. Those at which
// something ends, and the one that says of gone entries that they have expired, are
// the note "gossip/ends/" + LogID.
const (
	headsPrefix  = "gossip/heads/"
	endsPrefix   = "gossip/ends/"
	headsPerNote = 192 // of some 250 bytes each; a note holds 64 KiB
	maxHeadNotes = 4096
	keepTick     = 5 * time.Second
	forgetEvery  = 12 // ticks
)

func headsKey(log overlay.LogID, chunk int) string {
	return headsPrefix + string(log[:]) + string(binary.BigEndian.AppendUint16(nil, uint16(chunk)))
}

func endsKey(log overlay.LogID) string { return endsPrefix + string(log[:]) }

// loadLogs takes what the Replica and the notes have of every log.
func (m *Mesh) loadLogs() error {
	for _, s := range m.cfg.Replica.Logs() {
		var kept []*overlay.Head
		for chunk := range maxHeadNotes {
			part, err := m.loadHeads(s.Log, headsKey(s.Log, chunk))
			if err != nil {
				return err
			}
			kept = append(kept, part...)
			if len(part) < headsPerNote {
				break
			}
		}
		ends, err := m.loadHeads(s.Log, endsKey(s.Log))
		if err != nil {
			return err
		}
		m.logs.load(s, kept, ends)
	}
	return nil
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
			for chunk := 0; chunk*headsPerNote < stored; chunk++ {
				m.cfg.Notes.SaveNote(ctx, headsKey(log, chunk), nil)
			}
			m.cfg.Notes.SaveNote(ctx, endsKey(log), nil)
		}
	}
}

// storeHeads writes the notes of a log that changed.
func (m *Mesh) storeHeads(ctx context.Context, log overlay.LogID) error {
	kept, from, ends, rev := m.logs.headsOf(log)
	for chunk := from / headsPerNote; chunk < maxHeadNotes; chunk++ {
		part := kept[min(len(kept), chunk*headsPerNote):min(len(kept), (chunk+1)*headsPerNote)]
		if len(part) == 0 {
			break
		}
		if err := m.saveHeads(ctx, headsKey(log, chunk), part); err != nil {
			return err
		}
	}
	if ends != nil {
		if err := m.saveHeads(ctx, endsKey(log), ends); err != nil {
			return err
		}
	}
	m.logs.headsStored(log, rev)
	return nil
}

func (m *Mesh) saveHeads(ctx context.Context, key string, leads []*lead) error {
	note, err := m.encodeHeads(leads)
	if err != nil {
		return err
	}
	return m.cfg.Notes.SaveNote(ctx, key, note)
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

// endsNote is what a run that is to be stored adds to the ends of its log, to be
// written with it: after a crash its last entries would be told and, without the
// head that they lead to, could not be served. What of it is no end is left out
// when it is read, and written over in a moment.
func (m *Mesh) endsNote(log overlay.LogID, run *taken) ([]overlay.Value, error) {
	ends := m.logs.endsWith(log, run)
	if ends == nil {
		return nil, nil
	}
	note, err := m.encodeHeads(ends)
	if err != nil {
		return nil, err
	}
	return []overlay.Value{{Key: endsKey(log), Data: note}}, nil
}
