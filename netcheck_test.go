package obelisk_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
)

// moods are peers by how they take being probed.
type moods struct {
	overlay.Peers
	probed map[peer.ID]func(context.Context) error
}

func (m moods) Probe(ctx context.Context, p peer.ID) error { return m.probed[p](ctx) }

// TestSilent: only who had the time to answer, and did not, is silent.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("probe: %w", ctx.Err())
		}
		m := moods{probed: map[peer.ID]func(context.Context) error{
			"answers": func(context.Context) error { return nil },
			"gone":    func(context.Context) error { return overlay.ErrUnreachable },
			"busy":    func(context.Context) error { return context.Canceled },
			"slow": func(ctx context.Context) error {
				time.Sleep(3 * time.Second)
				return ctx.Err()
			},
			"mute": wait,
		}}
		all := []peer.ID{"answers", "gone", "busy", "slow", "mute"}
		for i := range 400 { // more than are asked at once
			p := peer.ID(fmt.Sprint("also mute ", i))
			m.probed[p] = wait
			all = append(all, p)
		}
		begin := time.Now()
		got := obelisk.Silent(t.Context(), m, all)
		if took := time.Since(begin); took > 9*time.Second {
			t.Errorf("it took %v", took)
		}
		want := map[peer.ID]bool{"mute": true}
		for i := range 400 {
			want[peer.ID(fmt.Sprint("also mute ", i))] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("silent are %d: %v; want %d", len(got), got, len(want))
		}
	})
}
