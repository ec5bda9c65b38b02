package gossip

import (
	"context"
	"errors"

	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/overlay"
)

// Sizes of the exchange of cells.
const (
	firstCells = 24     // at least so many come as the answer to an unequal Root
	deepAbove  = 12_000 // differences that the kept sketch cannot tell
)

var (
	// errDeep: the kept sketches do not tell the difference; a deep round may.
	errDeep = errors.New("not told by the sketches")
	// errNotNow: the other side keeps too many sketches for others.
	errNotNow = errors.New("the other side is busy")
)

// reconcile finds out what differs, from the kept sketches if they tell it, and
// repairs it. first is the answer to our Root, nil if that was a Root.
func (r *round) reconcile(ctx context.Context, first *overlay.Cells) error {
	r.Result = overlay.RoundDiffers
	tally, mine, ok := r.m.holdings.sketchAt(r.key, r.settled, r.front)
	if !ok {
		r.Result = r.apartAs()
		return nil
	}
	d := sketch.NewDecoder(sketch.Key(r.key.CellKey()), sketchCells)
	err := r.decode(ctx, first, mine, d)
	onlyHere, onlyThere := d.Symbols()
	switch {
	case errors.Is(err, errDeep):
		return r.goDeep(ctx)
	case errors.Is(err, errNotNow):
		return nil // the next round goes on
	case err != nil:
		return err
	case len(onlyHere)+len(onlyThere) > 0:
		r.Differences = len(onlyHere) + len(onlyThere)
		return r.repairByShort(ctx, onlyHere, onlyThere)
	case tally == r.sent:
		// Sums differ, short IDs do not: there are different records with equal ones.
		return r.goDeep(ctx)
	default:
		r.Result = overlay.RoundEqual // what was missing has come meanwhile
		return nil
	}
}

// decode feeds d until it is done.
func (r *round) decode(ctx context.Context, first *overlay.Cells, mine *sketch.Sketch, d *sketch.Decoder) error {
	want := sketch.CellsFor(countsApart(r.sent.Count, r.count))
	var all []sketch.Cell // of the difference
	for questions := 0; !d.Done(); questions++ {
		if questions == maxQuestions {
			return r.fault(faultCells, "cells without end")
		}
		at := d.Len()
		msg := first
		if first = nil; msg == nil {
			reply, err := r.ask(ctx, &overlay.Cells{N: r.n, Runs: []overlay.CellRun{{From: uint64(at), Count: uint64(max(firstCells, want-at))}}})
			if err != nil {
				return err
			}
			var ok bool
			if msg, ok = reply.(*overlay.Cells); !ok {
				return r.fault(faultRound, "no cells")
			}
		}
		if len(msg.Runs) == 0 {
			return errNotNow
		}
		if len(msg.Runs) != 1 || msg.Runs[0].Part != 0 || msg.Runs[0].From != uint64(at) {
			return r.fault(faultRound, "other cells than asked for")
		}
		diff, err := r.readRun(&msg.Runs[0], mine)
		if err != nil {
			return err
		}
		if err := d.Feed(diff); err != nil {
			r.m.scores.offend(r.s.peer, faultCells)
			return errDeep
		}
		if d.Done() {
			break
		}
		all = append(all, diff...)
		r.guess = sketch.Estimate(all)
		if r.guess > deepAbove || d.Len() >= sketchCells {
			return errDeep
		}
		want = min(sketch.Next(all), sketchCells)
	}
	return nil
}

// countsApart is by how much two counts differ, no more than matters.
func countsApart(a, b uint64) int { return int(min(max(a, b)-min(a, b), sketchCells)) }

// readRun reads the cells of a run and takes them off ours.
func (r *round) readRun(run *overlay.CellRun, mine *sketch.Sketch) ([]sketch.Cell, error) {
	from := int(run.From)
	theirs, err := sketch.ReadCells(run.Cells, from, mine.Len()-from, uint32(run.Count))
	if err != nil || len(theirs) == 0 {
		return nil, r.fault(faultCells, "cells that do not decode, or none")
	}
	r.m.met.cells.WithLabelValues("received").Add(float64(len(theirs)))
	return sketch.Diff(mine.Cells(from, from+len(theirs)), theirs), nil
}
