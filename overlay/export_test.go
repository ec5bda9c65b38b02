package overlay

import (
	"context"
	"time"
)

// ScrubNow does a pass of the scrub, as the one at the start of Run.
func ScrubNow(ctx context.Context, p *Pillar) error {
	return (&scrubber{p: p, first: true, at: time.Now()}).pass(ctx)
}
