package store

import (
	"fmt"
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/overlay"
)

// spaceTable begins every key of a table. A node's directory is another one
// than a pillar's, so nothing else is in it but the format.
const spaceTable = 't'

// PebbleTable is a node's table on disk. It implements overlay.Table.
type PebbleTable struct {
	e *engine

	writing sync.Mutex // held for the whole of an Apply: puts them one after the other
}

// OpenTable opens the table in cfg.Dir, or makes one. ErrInUse, ErrNewer and
// ErrForeign are wrapped by its errors and say what to do.
func OpenTable(cfg TableConfig) (*PebbleTable, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e, err := (&opening{dir: cfg.Dir, kind: "node", fs: cfg.FS, memory: cfg.Memory, log: cfg.Logger, rot: newRot(cfg.Logger)}).engine(func(*engine) error { return nil })
	if err != nil {
		return nil, err
	}
	return &PebbleTable{e: e}, nil
}

func tableKey(key []byte) []byte {
	return append(append(make([]byte, 0, 1+len(key)), spaceTable), key...)
}

// Apply implements overlay.Table.
func (t *PebbleTable) Apply(ws []overlay.Write) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if err := t.e.begin(); err != nil {
		return err
	}
	defer t.e.end()
	if err := t.e.failure(); err != nil {
		return err
	}
	if len(ws) == 0 {
		return nil
	}
	b := t.e.db.NewBatch()
	for i := range ws {
		var err error
		if ws[i].Data == nil {
			err = b.Delete(tableKey(ws[i].Key), nil)
		} else {
			err = b.Set(tableKey(ws[i].Key), ws[i].Data, nil)
		}
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	if err := t.e.write(b, summary{}); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// Get implements overlay.Table.
func (t *PebbleTable) Get(key []byte) ([]byte, error) {
	var got []byte
	err := t.read(func(ep *epoch) error {
		at, err := newPoint(ep.snap)
		if err != nil {
			return err
		}
		v, found, err := at.get(tableKey(key))
		if err == nil && found {
			got = append([]byte{}, v...) // an empty value is not nil
		}
		if cerr := at.close(); err == nil {
			err = cerr
		}
		return err
	})
	return got, err
}

// Scan implements overlay.Table.
func (t *PebbleTable) Scan(prefix, after []byte, fn func(key, data []byte) bool) error {
	low := tableKey(prefix)
	high := successor(low)
	if after != nil {
		// The first key greater than after is after and a zero byte.
		if next := append(tableKey(after), 0); slices.Compare(next, low) > 0 {
			low = next
		}
	}
	return t.read(func(ep *epoch) error {
		if slices.Compare(low, high) >= 0 {
			return nil
		}
		return scan(ep.snap, low, high, func(k, val []byte) (bool, error) { return fn(k[1:], val), nil })
	})
}

// read calls fn with the newest durable state.
func (t *PebbleTable) read(fn func(ep *epoch) error) error {
	ep := t.e.ref()
	if ep == nil {
		return overlay.ErrStoreClosed
	}
	defer t.e.unref(ep)
	if err := t.e.begin(); err != nil {
		return err
	}
	defer t.e.end()
	return fn(ep)
}

// Close implements overlay.Table.
func (t *PebbleTable) Close() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.e.close()
}
