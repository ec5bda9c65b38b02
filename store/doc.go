// Package store keeps a pillar's records, logs and mailboxes, and a node's
// small table, on disk (Pebble) and in memory.
//
// It implements overlay.Store and overlay.Table and adds nothing to them: no
// signatures, no clocks, no policy. The disk and the memory implementations
// pass the same conformance suite, overlay/storetest.
//
//	s, err := store.OpenPebble(store.PebbleConfig{Dir: dir, Memory: 256 << 20})
//	…
//	defer s.Close()
//	committed, err := s.Commit(&overlay.Commit{Time: now, Records: arrivals})
//	view := s.View()
//	defer view.Close()
//
// How the keys lie on disk is in layout.go; what happens when the disk refuses
// a write is in guard.go, when it gives back other bytes than were written in mend.go;
// how commits become visible is in engine.go.
package store

import (
	"errors"

	"github.com/obelisk-network/obelisk/overlay"
)

// Errors of opening.
var (
	// ErrInUse: another process, or this one, has the directory open.
	ErrInUse = errors.New("the data directory is in use by another process: stop it, or use another directory")
	// ErrNewer: a newer version of the program wrote the directory.
	ErrNewer = errors.New("the data directory was written by a newer version: run that version or a later one, or start with an empty directory")
	// ErrForeign: the directory holds a database that is none of this kind.
	ErrForeign = errors.New("the data directory holds something else: choose an empty directory")
)

var (
	_ overlay.Store = (*Pebble)(nil)
	_ overlay.Store = (*Memory)(nil)
	_ overlay.Table = (*PebbleTable)(nil)
	_ overlay.Table = (*MemoryTable)(nil)
)
