package admin

import (
	"cmp"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// maxMatrix bounds the rows of the matrix; those that differ come first.
const maxMatrix = 24

// accord is how two pillars compare.
type accord string

const (
	accordSelf    accord = "self"
	accordEqual   accord = "equal"
	accordTraffic accord = "traffic" // unequal, perhaps only because records are on their way
	accordDiffers accord = "differs" // unequal three times in a row
	accordUnknown accord = "unknown"
)

// matrixView is who holds the same as whom, by signed summaries.
type matrixView struct {
	Names []pillarName
	Rows  []matrixRow
	Many  bool // the cells are small
	More  int  // pillars that are not shown, for want of room
}

type matrixRow struct {
	Of    pillarName
	Cells []matrixCell
}

type matrixCell struct {
	Of, With pillarName
	Accord   accord
	Delta    int64      // records that With has more than Of, by count
	Since    *time.Time // the first comparison that failed
}

// newMatrix compares the statements of pillars pairwise. All of them get a row,
// whether they made a statement or not.
func newMatrix(pillars []pillarName, statements []ConvergenceEntry) matrixView {
	of := map[identity.PillarID]*ConvergenceEntry{}
	for i := range statements {
		of[statements[i].Pillar] = &statements[i]
	}
	shown := slices.Clone(pillars)
	if len(shown) > maxMatrix {
		slices.SortStableFunc(shown, func(a, b pillarName) int { return cmp.Compare(weight(of[b.ID]), weight(of[a.ID])) })
		shown = shown[:maxMatrix]
	}
	v := matrixView{Names: shown, Many: len(shown) > 8, More: len(pillars) - len(shown)}
	for _, a := range shown {
		row := matrixRow{Of: a}
		for _, b := range shown {
			c := matrixCell{Of: a, With: b, Accord: accordSelf}
			if a.ID != b.ID {
				c.Accord, c.Delta, c.Since = compareStatements(of[a.ID], of[b.ID])
			}
			row.Cells = append(row.Cells, c)
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

// weight is how much a statement is worth looking at.
func weight(s *ConvergenceEntry) int {
	switch {
	case s == nil:
		return 1
	case s.Agreement == overlay.AgreeDiverged:
		return 3
	case s.Agreement == overlay.AgreeTraffic:
		return 2
	default:
		return 0
	}
}

// compareStatements compares two pillars: by their sets where both statements
// are of one instant, else by how each compares with most.
func compareStatements(a, b *ConvergenceEntry) (accord, int64, *time.Time) {
	if a == nil || b == nil || a.Full || b.Full {
		return accordUnknown, 0, nil
	}
	unequal := accordTraffic
	if a.Agreement == overlay.AgreeDiverged || b.Agreement == overlay.AgreeDiverged {
		unequal = accordDiffers
	}
	since := a.Since
	if since == nil || b.Since != nil && b.Since.Before(*since) {
		since = b.Since
	}
	if a.SettledUntil.Equal(b.SettledUntil) && a.Key == b.Key {
		if a.Digest == b.Digest && a.Count == b.Count {
			return accordEqual, 0, nil
		}
		return unequal, int64(b.Count) - int64(a.Count), since
	}
	switch {
	case a.Agreement == overlay.AgreeEqual && b.Agreement == overlay.AgreeEqual:
		return accordEqual, 0, nil
	case a.Agreement == overlay.AgreeUnknown || b.Agreement == overlay.AgreeUnknown,
		a.Agreement != overlay.AgreeEqual && b.Agreement != overlay.AgreeEqual:
		return accordUnknown, 0, nil
	default:
		return unequal, 0, since
	}
}
