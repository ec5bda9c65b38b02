package store

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/google/btree"

	"github.com/obelisk-network/obelisk/overlay"
)

// MemoryTable is a node's table that is gone with the process: the twin of
// PebbleTable. It implements overlay.Table.
type MemoryTable struct {
	mu     sync.Mutex
	tree   *btree.BTreeG[memoryValue]
	failed error
	closed bool
}

// NewMemoryTable returns an empty table.
func NewMemoryTable() *MemoryTable {
	return &MemoryTable{tree: btree.NewG(memoryDegree, func(a, b memoryValue) bool { return a.key < b.key })}
}

// Fail makes every later Apply fail with cause, as a disk would.
func (t *MemoryTable) Fail(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = fmt.Errorf("%w: %w", overlay.ErrStoreFailed, cause)
	}
}

// Apply implements overlay.Table.
func (t *MemoryTable) Apply(ws []overlay.Write) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return overlay.ErrStoreClosed
	}
	if t.failed != nil {
		return fmt.Errorf("apply: %w", t.failed)
	}
	for _, w := range ws {
		if w.Data == nil {
			t.tree.Delete(memoryValue{key: string(w.Key)})
		} else {
			t.tree.ReplaceOrInsert(memoryValue{string(w.Key), append([]byte{}, w.Data...)})
		}
	}
	return nil
}

// Get implements overlay.Table.
func (t *MemoryTable) Get(key []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, overlay.ErrStoreClosed
	}
	v, _ := t.tree.Get(memoryValue{key: string(key)})
	return bytes.Clone(v.data), nil
}

// Scan implements overlay.Table. Like PebbleTable's it sees one state.
func (t *MemoryTable) Scan(prefix, after []byte, fn func(key, data []byte) bool) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return overlay.ErrStoreClosed
	}
	tree := t.tree.Clone()
	t.mu.Unlock()
	from := prefix
	if after != nil && bytes.Compare(after, prefix) >= 0 {
		from = append(bytes.Clone(after), 0)
	}
	tree.AscendGreaterOrEqual(memoryValue{key: string(from)}, func(v memoryValue) bool {
		return bytes.HasPrefix([]byte(v.key), prefix) && fn([]byte(v.key), bytes.Clone(v.data))
	})
	return nil
}

// Close implements overlay.Table.
func (t *MemoryTable) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}
