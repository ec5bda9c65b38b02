package overlay

import (
	"github.com/obelisk-network/obelisk/seal"
)

// Records of ours that the user never sees: epochs, receipts, account and device
// record.

// hiddenKey is where a record is kept that the user never sees.
func (s *shipment) hiddenKey() []byte {
	if s.only {
		return nodeKey(keyHidOnly, s.id[:])
	}
	return nodeKey(keyHidden, s.id[:])
}

// sendHidden puts records of ours, which the user never sees, on their way.
func (o *nodeOutbox) sendHidden(recs ...*Record) error {
	if len(recs) == 0 {
		return nil
	}
	list := make([]hiddenRecord, len(recs))
	for i, rec := range recs {
		list[i].rec = rec
	}
	return o.sendWith(nil, list)
}

// hiddenRecord is a record to be sent that the user never sees.
type hiddenRecord struct {
	rec  *Record
	only bool // to devices, to no pillar
}

// sendWith is sendHidden with more to write in the same Apply.
func (o *nodeOutbox) sendWith(ws []Write, recs []hiddenRecord) error {
	ships := make([]*shipment, len(recs))
	o.mu.Lock()
	for i, h := range recs {
		s := o.hide(h.rec, h.only)
		if s.kind == KindReceipt {
			s.epoch, _ = seal.MessageEpoch(h.rec.Bin) // we sealed it
			o.hold(s)
		}
		ships[i] = s
		ws = append(ws, Write{s.hiddenKey(), h.rec.Raw})
	}
	g := o.n.disk.stage(ws...)
	o.mu.Unlock()
	err := o.n.disk.commit(g)
	for _, s := range ships {
		if err != nil {
			o.call(s.ticket, nil)
		} else {
			o.call(s.ticket, s)
		}
	}
	return err
}

// hide makes the shipment of a record that the user never sees. o.mu is held.
func (o *nodeOutbox) hide(rec *Record, only bool) *shipment {
	s := &shipment{id: rec.ID, raw: rec.Raw, kind: rec.Kind, to: rec.To, only: only, expires: rec.Expires,
		concern: o.n.cfg.Concern, ticket: o.line.ticket()}
	o.hidden[rec.ID] = s
	return s
}

// hold keeps the epoch's record as long as a receipt waits that no pillar gets:
// the epoch has to go in front of it. Messages always hold theirs. o.mu is held.
func (o *nodeOutbox) hold(s *shipment) {
	if !s.only || s.kind != KindReceipt {
		return
	}
	o.only = true
	if ep := o.byEpoch[s.epoch]; ep != nil {
		ep.refs++
	}
}

// release drops a hidden shipment that nobody needs any more. o.mu is held.
func (o *nodeOutbox) release(s *shipment) {
	if s.gone || !s.done || s.refs > 0 || s.kind == KindEpoch && o.n.epochs.uses(s.epoch) {
		return
	}
	o.drop(s)
}

// drop ends a shipment. o.mu is held.
func (o *nodeOutbox) drop(s *shipment) {
	if s.gone {
		return
	}
	s.gone, s.raw = true, nil
	for _, a := range s.to {
		o.due.ended(a)
	}
	if s.entry != nil {
		return
	}
	delete(o.hidden, s.id)
	ep := o.byEpoch[s.epoch]
	if s.kind == KindEpoch && ep == s {
		delete(o.byEpoch, s.epoch)
	}
	if s.kind == KindReceipt && s.only && ep != nil {
		ep.refs--
		o.release(ep)
	}
	o.n.disk.lazy(Write{Key: s.hiddenKey()})
}
