package admin

import (
	"net/http"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// traceView is a record's page: what it is, and what every pillar says of it.
type traceView struct {
	frame
	ID       overlay.RecordID
	Record   *RecordEntry // nil: it is not held here
	Rows     []traceRow
	Outcomes []outcomeRow
	Holders  int
	Silent   int
	Answered int
}

type traceRow struct {
	TraceEntry
	Name pillarName
}

// outcomeRow is a recipient of the message.
type outcomeRow struct {
	Outcome
	Devices []deviceRow
}

type deviceRow struct {
	DeliveryAt
	At pillarName
}

func (d *dashboard) tracePage(w http.ResponseWriter, r *http.Request) error {
	id, err := recordOf(r)
	if err != nil {
		return err
	}
	v := &traceView{frame: d.frame(r, "Record "+tailText(id.String())), ID: id}
	v.Query = id.String()
	info, held, err := d.p.Describe(id)
	if err != nil {
		return err
	}
	if held {
		e := newRecordEntry(&info)
		v.Record = &e
	}
	list, err := d.p.Trace(r.Context(), id)
	if err != nil {
		return err
	}
	names := map[identity.PillarID]pillarName{v.Self.ID: v.Self}
	for _, p := range d.p.Pillars() {
		names[p.ID] = nameOf(p.ID, p.Name)
	}
	entries := newTrace(list)
	for _, o := range Outcomes(entries) {
		row := outcomeRow{Outcome: o}
		for _, x := range o.Devices {
			row.Devices = append(row.Devices, deviceRow{x, naming(names, x.Pillar)})
		}
		v.Outcomes = append(v.Outcomes, row)
	}
	for _, t := range entries {
		v.Rows = append(v.Rows, traceRow{t, naming(names, t.Pillar)})
		switch {
		case !t.Answered:
			v.Silent++
		case t.Has:
			v.Holders++
			v.Answered++
		default:
			v.Answered++
		}
	}
	return d.render(w, http.StatusOK, "trace", v)
}
