package overlay

import (
	"context"
	"slices"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// register publishes the account's and the device's records and opens the
// session for everything else. The answer comes when both are durable.
func (s *pillarSession) register(m *Register) *Error {
	if s.registered {
		return Refuse(CodeBadRequest, "this session is registered already")
	}
	p := s.p
	place, err := s.publish(m)
	if err != nil {
		p.metrics.refused.WithLabelValues(string(err.Code)).Inc()
		s.send(&Registered{Err: err})
		return errGone // the writer still sends the answer
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errEnding
	}
	s.registered, s.listed = true, true
	var old []*pillarSession
	for _, t := range p.live[s.account] {
		if t.cert.Device == s.cert.Device {
			old = append(old, t)
		}
	}
	for _, t := range old {
		p.unlist(t)
	}
	p.live[s.account] = append(p.live[s.account], s)
	p.devices[s.cert.Device]++
	p.owners[s.cert.Device] = s.account
	p.saw(s.cert.Device)
	p.mu.Unlock()
	for _, t := range old {
		t.end(errReplaced)
		t.stream.SetWriteDeadline(time.Now().Add(endTimeout)) // for a Write under way
	}
	p.metrics.sessions.Inc()
	roster := p.roster.Records()
	first := roster[:min(rosterPart, len(roster))]
	s.send(&Registered{Roster: first, Run: p.run, Place: place, MaxBody: uint64(p.cfg.MaxBody)})
	for part := range slices.Chunk(roster[len(first):], rosterPart) {
		s.send(&RosterMsg{Records: part})
	}
	return nil
}

// publish checks both records and makes them durable. It returns the local
// position up to which the directory is complete by then.
func (s *pillarSession) publish(m *Register) (place uint64, refusal *Error) {
	p := s.p
	subs := make([]submission, 0, 2)
	if len(m.Account) > 0 {
		subs = append(subs, submission{raw: m.Account})
	}
	subs = append(subs, submission{raw: m.Device})
	for i := range subs {
		var err error
		if subs[i].rec, err = p.verifier.Parse(subs[i].raw); err != nil {
			return 0, refusalOf(err)
		}
	}
	if err := s.checkRegistration(subs); err != nil {
		return 0, err
	}
	ch := p.newChunk()
	defer p.release(ch)
	ch.subs = append(ch.subs, subs...)
	if err := p.findKnown(ch); err != nil {
		return 0, errReading
	}
	p.verifyFresh(ch)
	for i := range ch.subs {
		if err := ch.errs[i]; err != nil {
			return 0, refusalOf(err)
		}
	}
	if err := s.admitRegistration(ch); err != nil {
		return 0, err
	}
	return p.commitRegistration(ch)
}

// checkRegistration checks that the records are the session's own.
func (s *pillarSession) checkRegistration(subs []submission) *Error {
	for i := range subs {
		rec := subs[i].rec
		want := KindAccount
		if i == len(subs)-1 {
			want = KindDevice
		}
		switch {
		case rec.Kind != want:
			return Refuse(CodeInvalid, "a %s record where the %s record belongs", rec.Kind, want)
		case rec.Account() != s.account:
			return Refuse(CodeInvalid, "registration for somebody else's account: the %s record is of %s, this session of %s",
				rec.Kind, rec.Account(), s.account)
		case want == KindDevice && rec.Device() != s.cert.Device:
			return Refuse(CodeInvalid, "registration for another device: the device record is of %s, this session of %s",
				rec.Device(), s.cert.Device)
		}
		if err := s.p.checkTime(rec, s.p.now()); err != nil {
			return err
		}
	}
	return nil
}

// admitRegistration holds the policy for accounts and devices.
func (s *pillarSession) admitRegistration(ch *chunk) *Error {
	p := s.p
	if p.cfg.Registration == RegistrationClosed && !p.allowed.has(s.account) {
		return Refuse(CodeRegistrationClosed, "this pillar takes only accounts that its operator allowed")
	}
	if p.draining.Load() {
		return errDraining
	}
	newest, err := p.newestAccount(s.account)
	if err != nil {
		return errReading
	}
	if len(ch.subs) == 2 {
		info, err := ParseAccountInfo(ch.subs[0].rec.Bin)
		if err != nil {
			return Refuse(CodeInvalid, "%v", err)
		}
		if newest == nil || info.Counter > newest.Counter {
			newest = info
		}
	}
	switch {
	case newest == nil:
		return Refuse(CodeNotFound, "no record of account %s is known here: register with one", s.account)
	case newest.IsRemoved(s.cert.Device, s.cert.Serial):
		return removedDevice(s.cert.Device)
	}
	for i := range ch.subs {
		if sub := &ch.subs[i]; !sub.known {
			if err := p.payFor(sub.rec, s, p.now()); err != nil {
				return err
			}
		}
	}
	return nil
}

func removedDevice(d identity.DeviceID) *Error {
	return Refuse(CodeRemovedDevice, "the account removed device %s", d)
}

// commitRegistration makes what is not yet known durable.
func (p *Pillar) commitRegistration(ch *chunk) (place uint64, refusal *Error) {
	ch.keep(func(sub *submission, _ error) bool { return !sub.known })
	if len(ch.subs) > 0 {
		// Little enough for the reserves of a full disk, so that its nodes can read.
		if p.failure() != nil {
			return 0, errStoreBroken
		}
		job := commitJob{chunk: ch, done: make(chan error, 1)}
		ch.done <- struct{}{} // verified
		ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
		defer cancel()
		if err := p.commit(ctx, job); err != nil {
			if p.failure() != nil {
				return 0, errStoreBroken
			}
			return 0, &Error{Code: CodeBusy, Text: err.Error(), Retry: time.Second}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.local, nil
}

// Registered reports whether the device has a registered session here now, and
// whose device it is. It is cheap and never blocks for long.
func (p *Pillar) Registered(d identity.DeviceID) (identity.AccountID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	account, ok := p.owners[d]
	return account, ok
}

// saw notes that a device was here. p.mu is held.
func (p *Pillar) saw(d identity.DeviceID) {
	const kept = 1 << 16
	if len(p.lastSeen) >= kept {
		clear(p.lastSeen) // a hint for operators, not worth an order
	}
	p.lastSeen[d] = p.cfg.Now()
}
