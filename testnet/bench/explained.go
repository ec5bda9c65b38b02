package main

import (
	"context"
	"fmt"
	"sync"
	"time"

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
