package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/store"
	"github.com/obelisk-network/obelisk/testnet"
)

// resyncExplained has records written to one pillar while the other is away, and
// the other fetch them by their log when it is back.
func (b *bench) resyncExplained(ctx context.Context, r *resyncResult, whole, gap *testnet.Process) error {
	startCtx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := whole.Restart(startCtx); err != nil {
		return err
	}
	if err := b.writeWhileAway(ctx); err != nil {
		return fmt.Errorf("write while %s is away: %w", gap.Name, err)
	}
	want, err := whole.PillarStatus(ctx)
	if err != nil {
		return err
	}
	earlier, err := scrapeAll(ctx, []*testnet.Process{whole})
	if err != nil {
		return err
	}
	before := measure(b.pillars)
	if err := gap.Restart(startCtx); err != nil {
		return err
	}
	ready := time.Now()
	if err := testnet.Until(startCtx, func() string {
		have, err := gap.PillarStatus(startCtx)
		if err != nil {
			return err.Error()
		}
		if have.Records < want.Records {
			return fmt.Sprintf("%s holds %d of %d records", gap.Name, have.Records, want.Records)
		}
		return ""
	}); err != nil {
		return err
	}
	r.TookMS = round(millisOf(time.Since(ready)), 1)
	after := measure(b.pillars)
	r.CPUMS, r.WireBytes = millisOf(after.pillars-before.pillars), after.wire-before.wire
	later, err := scrapeAll(ctx, []*testnet.Process{whole})
	if err != nil {
		return err
	}
	r.OverheadBytes = uint64(later[replicationBytes] - earlier[replicationBytes])
	return nil
}

// replicationBytes counts what a pillar reads and writes on its streams with
// others, frames and records included.
const replicationBytes = "obelisk_gossip_bytes_total"

// writeWhileAway writes the missing messages to the first pillar.
func (b *bench) writeWhileAway(ctx context.Context) error {
	receiver, err := b.device(ctx)
	if err != nil {
		return err
	}
	b.concern = 1
	l, err := b.clients(ctx, receiver)
	if err != nil {
		return err
	}
	var readers sync.WaitGroup
	for _, c := range l.clients {
		readers.Go(func() { _ = c.read(l) }) // the pump reports it
	}
	defer readers.Wait()
	defer func() {
		for _, c := range l.clients {
			c.stream.Reset()
		}
	}()
	return l.run(ctx, b.missing)
}

// streamed is a log as a follower gets it: everything in one stream.
type streamed struct {
	state   overlay.LogState
	entries []overlay.BatchEntry
	bytes   uint64 // of the records
}

// readLogs reads the logs on the disk of a pillar that is down.
func readLogs(p *testnet.Process) (logs []streamed, err error) {
	disk, err := openStore(p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	view := disk.View()
	defer view.Close()
	var bad error
	err = view.Values("log/", func(_ string, data []byte) bool {
		var s overlay.LogState
		if s, bad = overlay.DecodeLogState(data); bad != nil {
			return false
		}
		logs = append(logs, streamed{state: s})
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	for i := range logs {
		l := &logs[i]
		var refs []overlay.Ref
		err := view.Log(l.state.Log, 1, func(_ uint64, e overlay.LogEntry) bool {
			l.entries = append(l.entries, overlay.BatchEntry{ID: e.ID, Expires: e.Expires})
			refs = append(refs, overlay.Ref{ID: e.ID, Day: overlay.DayOf(e.Expires)})
			return true
		})
		if err != nil {
			return nil, err
		}
		if err := view.Get(refs, func(j int, rec overlay.StoredRecord) bool {
			l.entries[j].Raw = bytes.Clone(rec.Raw)
			l.bytes += uint64(len(rec.Raw))
			return true
		}); err != nil {
			return nil, err
		}
	}
	return logs, nil
}

// oneStream measures how long a pillar of its own, without a network, takes to
// verify and store the logs on the disk of p, which is down, and returns how
// many bytes the records have.
func (b *bench) oneStream(ctx context.Context, p *testnet.Process, network identity.NetworkID) (took time.Duration, bytes uint64, err error) {
	key, err := identity.LoadPillarKey(filepath.Join(p.Data, "pillar.key"))
	if err != nil {
		return 0, 0, err
	}
	networkKey, err := identity.LoadNetworkKey(filepath.Join(b.pillars[0].Data, "network.key"))
	if err != nil {
		return 0, 0, err
	}
	logs, err := readLogs(p)
	if err != nil {
		return 0, 0, err
	}
	disk, err := store.OpenPebble(store.PebbleConfig{Dir: filepath.Join(b.work, "one-stream"), Memory: 256 << 20})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	follower := identity.NewPillarKey()
	host := memnet.New().Host(peer.ID(follower.ID()), "")
	defer host.Shutdown()
	core, err := overlay.NewPillar(overlay.PillarConfig{Network: network, Key: follower, Store: disk, Links: host, Peers: host,
		Admit: func(now uint64) (identity.Admission, error) {
			return networkKey.Admit(follower.ID(), now, now+overlay.DayMillis), nil
		},
		Addrs: host.Addrs})
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = core.Run(ctx, overlay.NoMesh{}) }) // it fails only if run twice
	for i := range logs {
		if logs[i].state.Pillar != key.ID() {
			continue
		}
		bytes += logs[i].bytes
		d, err := logs[i].apply(ctx, core, network, key)
		if err != nil {
			return 0, 0, err
		}
		took += d
	}
	return took, bytes, nil
}

// apply hands the log to a pillar in batches under heads of its own pillar and
// returns how long that took.
func (l *streamed) apply(ctx context.Context, core *overlay.Pillar, network identity.NetworkID, key *identity.PillarKey) (time.Duration, error) {
	const batch = 512
	var runs []overlay.LogRun
	before := overlay.ChainStart(l.state.Log)
	for from := 0; from < len(l.entries); from += batch {
		entries := l.entries[from:min(from+batch, len(l.entries))]
		run := overlay.LogRun{From: uint64(from + 1), Before: before, Entries: entries,
			State: overlay.LogState{Pillar: l.state.Pillar, Nonce: l.state.Nonce}}
		for i := range entries {
			before = overlay.ChainEntry(before, &entries[i])
		}
		run.State.Position = overlay.Position{Log: l.state.Log, Seq: uint64(from + len(entries)), Hash: before}
		head := &overlay.Head{Pillar: l.state.Pillar, Nonce: l.state.Nonce, Seq: run.State.Seq, Hash: before,
			BaseHash: overlay.ChainStart(l.state.Log), Dies: l.state.Dies}
		head.Sign(network, key)
		run.State.Head = head
		runs = append(runs, run)
	}
	began := time.Now()
	for _, run := range runs {
		if _, err := core.Apply(ctx, run); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}
