package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
	"github.com/obelisk-network/obelisk/testnet"
)

// What is done to a pillar's disk while it is down.

// storeDir is a pillar's store in its data directory.
func storeDir(p *testnet.Process) string { return filepath.Join(p.Data, "store") }

func openStore(p *testnet.Process) (*store.Pebble, error) {
	s, err := store.OpenPebble(store.PebbleConfig{Dir: storeDir(p), Memory: 256 << 20})
	if err != nil {
		return nil, fmt.Errorf("the disk of %s: %w", p.Name, err)
	}
	return s, nil
}

// stub is a record that was written to the disks.
type stub struct {
	id      overlay.RecordID
	created uint64
	expires uint64
	size    int
}

// fillBatch is how many records are signed, verified and committed together.
const fillBatch = 4096

// fillSpread is over how long the records of fillDisks seem to have been written.
const fillSpread = 50 * time.Minute

// fillDisks writes n messages of d to itself to the disks of all pillars, which are
// down: signed, verified and stored as records that came by no log, as those of
// an imported bundle. It returns them by the time they were created.
func (b *bench) fillDisks(ctx context.Context, d *device, n int, disks []*store.Pebble) ([]stub, error) {
	verifier := overlay.NewVerifier(d.network)
	stubs := make([]stub, n)
	began := time.Now()
	batches := make(chan int)
	ready := make([]chan []*overlay.Record, (n+fillBatch-1)/fillBatch)
	for i := range ready {
		ready[i] = make(chan []*overlay.Record, 1)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var makers sync.WaitGroup
	defer makers.Wait()
	for range runtime.GOMAXPROCS(0) {
		makers.Go(func() {
			for i := range batches {
				recs, err := d.signBatch(verifier, min(fillBatch, n-i*fillBatch), func(j int) time.Time {
					return began.Add(-fillSpread + fillSpread*time.Duration(i*fillBatch+j)/time.Duration(n))
				}, b.size)
				if err != nil {
					cancel(err)
					return
				}
				ready[i] <- recs
			}
		})
	}
	makers.Go(func() {
		defer close(batches)
		for i := range ready {
			select {
			case batches <- i:
			case <-ctx.Done():
				return
			}
		}
	})
	for i := range ready {
		var recs []*overlay.Record
		select {
		case recs = <-ready[i]:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		commit := &overlay.Commit{Time: time.Now()}
		for j, rec := range recs {
			commit.Records = append(commit.Records, overlay.Arrival{ID: rec.ID, Created: rec.Created, Expires: rec.Expires,
				Raw: rec.Raw, Boxes: overlay.BoxesOf(rec), Via: overlay.ViaBundle})
			stubs[i*fillBatch+j] = stub{rec.ID, rec.Created, rec.Expires, len(rec.Raw)}
		}
		errs := make([]error, len(disks))
		var writers sync.WaitGroup
		for k, disk := range disks {
			writers.Go(func() { _, errs[k] = disk.Commit(commit) })
		}
		writers.Wait()
		if err := errors.Join(errs...); err != nil {
			cancel(err)
			return nil, err
		}
	}
	return stubs, nil
}

// signBatch signs and verifies n messages of d to itself.
func (d *device) signBatch(verifier *overlay.Verifier, n int, created func(i int) time.Time, size int) ([]*overlay.Record, error) {
	recs := make([]*overlay.Record, n)
	errs := make([]error, n)
	for i := range recs {
		at := created(i)
		draft := d.draft(overlay.KindMessage, millis(at))
		draft.To = append(draft.To, d.account)
		draft.Sequences = []overlay.Sequence{{Seq: uint64(at.UnixMicro()), Prev: 0}}
		draft.Bin = make([]byte, size)
		rand.Read(draft.Bin)
		rec, err := draft.Sign(d.network, d.key)
		if err != nil {
			return nil, err
		}
		if recs[i], err = verifier.Parse(rec.Raw); err != nil {
			return nil, err
		}
	}
	verifier.Verify(recs, errs)
	return recs, errors.Join(errs...)
}

// pick chooses n of stubs: anywhere, or the newest.
func pick(stubs []stub, n int, newest bool) []stub {
	if newest {
		return stubs[len(stubs)-n:]
	}
	chosen := slices.Clone(stubs)
	mathrand.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	return chosen[:n]
}

// deleteByHand removes records from the disk of a pillar that is down, key by
// key under the store's back, as no pillar would: what counts them is not told.
// See the layout in store/layout.go.
func deleteByHand(p *testnet.Process, stubs []stub) (err error) {
	db, err := pebble.Open(storeDir(p), &pebble.Options{DisableAutomaticCompactions: true, FormatMajorVersion: pebble.FormatValueSeparation, Logger: silent{}})
	if err != nil {
		return fmt.Errorf("the disk of %s: %w", p.Name, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	batch := db.NewBatch()
	for i := range stubs {
		day := binary.BigEndian.AppendUint32([]byte{'e'}, uint32(overlay.DayOf(stubs[i].expires)))
		record := append(append(slices.Clone(day), 'r'), stubs[i].id[:]...)
		head, closer, err := db.Get(record)
		if err != nil {
			return fmt.Errorf("record %s on the disk of %s: %w", stubs[i].id, p.Name, err)
		}
		if len(head) < 50 {
			return fmt.Errorf("record %s on the disk of %s: an entry of %d bytes", stubs[i].id, p.Name, len(head))
		}
		box := append(append(append(slices.Clone(day), 'b'), head[34:50]...), head[:8]...)
		if err := errors.Join(closer.Close(), batch.Delete(record, nil), batch.Delete(box, nil)); err != nil {
			return err
		}
	}
	return batch.Commit(pebble.Sync)
}

// silent is a logger that says nothing.
type silent struct{}

func (silent) Infof(string, ...any)           {}
func (silent) Errorf(string, ...any)          {}
func (silent) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// sameRecords compares what is on the disks of pillars that are down and
// returns how many unexpired records each holds.
func sameRecords(pillars []*testnet.Process) (int, error) {
	now := millis(time.Now())
	var first map[overlay.RecordID]struct{}
	for _, p := range pillars {
		held, err := unexpired(p, now)
		if err != nil {
			return 0, err
		}
		if first == nil {
			first = held
			continue
		}
		missing := 0
		for id := range first {
			if _, ok := held[id]; !ok {
				missing++
			}
		}
		if missing > 0 || len(held) != len(first) {
			return 0, fmt.Errorf("%s lacks %d of the %d records of %s, and holds %d", p.Name, missing, len(first), pillars[0].Name, len(held))
		}
	}
	return len(first), nil
}

// unexpired is which records are on a pillar's disk, with their bytes, that
// still live.
func unexpired(p *testnet.Process, now uint64) (held map[overlay.RecordID]struct{}, err error) {
	disk, err := openStore(p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	view := disk.View()
	defer view.Close()
	held = make(map[overlay.RecordID]struct{})
	err = view.Records(overlay.DayOf(now), func(_ overlay.Day, r overlay.StoredRecord) bool {
		if r.Expires > now {
			held[r.ID] = struct{}{}
		}
		return true
	})
	return held, err
}
