package gossip

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/overlay"
)

// Heads are kept as notes "gossip/heads/" + LogID + chunk (two bytes
// big-endian), each a list of up to headsPerNote heads: with them any holder
// can serve a log's history in runs that link to signed heads.
const (
	headsPrefix  = "gossip/heads/"
	headsPerNote = 192 // of some 250 bytes each; a note holds 64 KiB
	maxHeadNotes = 4096
	keepTick     = 5 * time.Second
	forgetEvery  = 12 // ticks
)

func headsKey(log overlay.LogID, chunk int) string {
	return headsPrefix + string(log[:]) + string(binary.BigEndian.AppendUint16(nil, uint16(chunk)))
}

// loadLogs takes what the Replica and the notes have of every log.
func (m *Mesh) loadLogs() error {
	for _, s := range m.cfg.Replica.Logs() {
		var heads []*overlay.Head
		for chunk := range maxHeadNotes {
			data, err := m.cfg.Notes.LoadNote(headsKey(s.Log, chunk))
			if err != nil {
				return fmt.Errorf("gossip: load heads: %w", err)
			}
			if data == nil {
				break
			}
			part, err := decodeHeads(data)
			if err != nil {
				m.log.Warn("stored heads are damaged: history is served by others", "log", s.Log, "err", err)
				break
			}
			heads = append(heads, part...)
			if len(part) < headsPerNote {
				break
			}
		}
		m.logs.load(s, heads)
	}
	return nil
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

// keep writes heads and the short key to disk and gives back memory, until ctx
// ends.
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
		if n%forgetEvery == 0 {
			for log, stored := range m.logs.forget(m.now()) {
				for chunk := 0; chunk*headsPerNote < stored; chunk++ {
					m.cfg.Notes.SaveNote(ctx, headsKey(log, chunk), nil)
				}
			}
		}
	}
}

// storeHeads writes the notes of a log from the first that is not full.
func (m *Mesh) storeHeads(ctx context.Context, log overlay.LogID) error {
	for chunk := m.logs.headsStored(log) / headsPerNote; chunk < maxHeadNotes; chunk++ {
		leads := m.logs.headsFrom(log, chunk*headsPerNote)
		leads = leads[:min(len(leads), headsPerNote)]
		if len(leads) == 0 {
			return nil
		}
		b := canon.AppendArray(nil, len(leads))
		for _, l := range leads {
			h := l.get(m.signHead)
			if h == nil {
				return errNoHead
			}
			b = h.Append(b)
		}
		if err := m.cfg.Notes.SaveNote(ctx, headsKey(log, chunk), b); err != nil {
			return err
		}
		m.logs.headsWritten(log, chunk*headsPerNote+len(leads))
	}
	return nil
}
