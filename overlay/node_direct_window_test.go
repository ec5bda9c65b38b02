package overlay_test

import (
	"testing"

	"github.com/obelisk-network/obelisk/overlay"
)

// TestDirectWindowOfEpochs: the last record that the window has room for may have
// an epoch in front of it, which goes over it. Then nothing more goes until there
// is room, however few records the device answers at a time.
func TestDirectWindowOfEpochs(t *testing.T) {
	lane := overlay.NewLaneRig(600)
	fill := func() {
		t.Helper()
		for {
			if n, err := lane.Send(); err != nil {
				t.Fatal(err)
			} else if n == 0 {
				return
			}
		}
	}
	fill()
	for answered := range 100 {
		if err := lane.Answer(1); err != nil {
			t.Fatal(err)
		}
		fill()
		if n := lane.Flight(); n < 256 || n > 257 {
			t.Fatalf("%d records under way after %d answers", n, answered+1)
		}
	}
}

// TestDirectSettlesWhatWasSent: an answer that comes while a batch is about to be
// written says nothing about that batch: it goes again should the stream end now.
func TestDirectSettlesWhatWasSent(t *testing.T) {
	lane := overlay.NewLaneRig(10)
	if err := lane.Take(); err != nil {
		t.Fatal(err)
	}
	lane.Settle()
	if acked := lane.Acked(); acked != 0 {
		t.Fatalf("%d records count as answered, and none was sent", acked)
	}
}
