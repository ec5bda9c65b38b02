// Command damage takes records out of the store of a pillar that is stopped, as
// a failing disk or a hand would, to practise finding and mending it:
//
//	go run ./testnet/damage -records 3 DIR
//
// DIR is the pillar's data directory. It prints the IDs of what it took, the
// records received last first. Only for networks that are there to be damaged.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

func main() {
	records := flag.Int("records", 1, "how many `records` to take, the newest")
	flag.Parse()
	if flag.NArg() != 1 || *records < 1 {
		fmt.Fprintln(os.Stderr, "usage: damage [-records N] DIR")
		os.Exit(2)
	}
	if err := take(os.Stdout, flag.Arg(0), *records); err != nil {
		fmt.Fprintln(os.Stderr, "damage:", err)
		os.Exit(1)
	}
}

// take deletes the newest n records of the pillar in dir and prints their IDs.
func take(out io.Writer, dir string, n int) (err error) {
	dir = filepath.Join(dir, "store")
	if _, err := os.Stat(dir); err != nil {
		return err // rather than make one
	}
	s, err := store.OpenPebble(store.PebbleConfig{Dir: dir, Memory: 16 << 20})
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	held, err := all(s)
	if err != nil {
		return err
	}
	slices.SortFunc(held, func(a, b overlay.Forgotten) int { return int(int64(b.Local) - int64(a.Local)) })
	held = held[:min(n, len(held))]
	if _, err := s.Commit(&overlay.Commit{Time: time.Now(), Forget: held}); err != nil {
		return err
	}
	for _, r := range held {
		fmt.Fprintln(out, r.ID)
	}
	return nil
}

// all lists the records of a store.
func all(s *store.Pebble) (held []overlay.Forgotten, err error) {
	view := s.View()
	defer view.Close()
	parts := view.Parts()
	days, err := parts.Days()
	if err != nil {
		return nil, err
	}
	for _, day := range days {
		err := parts.Heads(day, overlay.RecordID{}, func(r overlay.StoredRecord) bool {
			held = append(held, overlay.Forgotten{ID: r.ID, Day: day, Local: r.Local})
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return held, nil
}
