package overlay

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// A pillar's own record: who it is, where it is, that it is admitted.

// pillarLife is how long a pillar record lives; it is renewed at half of it. A
// pillar that is gone for good counts in write concerns as long.
const pillarLife = 7 * DayMillis

// Value keys of the roster: the data is 1 if the record was learned locally,
// else 0, and then the record.
const (
	rosterPillarPrefix     = "roster/p/"
	rosterRevocationPrefix = "roster/r/"
)

// pillarSelf is the pillar's own record.
type pillarSelf struct {
	mu     sync.Mutex
	record *Record         // guarded by mu
	locals map[string]bool // guarded by mu; what was saved of the Local flags, by value key

	renewing  sync.Mutex // held while the record is renewed, taken before mu
	bin       []byte     // guarded by renewing; what record says
	admission identity.Admission
	asked     uint64 // guarded by renewing, as is admission: when it was obtained, Unix ms
	left      bool   // guarded by renewing; the pillar leaves for good
}

// Record returns the pillar's own newest record. It is never nil.
func (p *Pillar) Record() *Record {
	p.own.mu.Lock()
	defer p.own.mu.Unlock()
	return p.own.record
}

// Readdress signs and spreads a new record if Addrs says something else than the
// last one.
func (p *Pillar) Readdress() error { return p.renewRecord(false) }

// renewRecord signs a new record if force is set, the one there is lived half
// its life, or what it says has changed, and adds it to the roster. A pillar
// whose admission was revoked looks for another one every time.
func (p *Pillar) renewRecord(force bool) error {
	own := &p.own
	own.renewing.Lock()
	defer own.renewing.Unlock()
	return p.renewLocked(force)
}

// renewLocked is renewRecord with own.renewing held.
func (p *Pillar) renewLocked(force bool) error {
	now := p.now()
	own := &p.own
	old := p.Record()
	revoked := old != nil && p.roster.Revoked(p.id, own.admission.Serial)
	ahead := own.asked > now+uint64(maxClockOff/time.Millisecond) // by a clock that went back since
	if life := own.admission.NotAfter - own.asked; force || revoked || ahead || now >= own.asked+life/2 {
		admission, err := p.admission(now)
		switch {
		case err == nil:
			own.admission, own.asked = admission, now
		case old == nil:
			return fmt.Errorf("admission: %w", err)
		case revoked && !force:
			return nil // what is wrong was logged when it became so
		default:
			p.log.Warn("admission not renewed", "ends", millisText(own.admission.NotAfter), "err", err)
		}
	}
	info := PillarInfo{Left: own.left, Home: p.cfg.Home, Name: p.cfg.Name, Addrs: p.cfg.Addrs(), Admission: own.admission}
	last, known := p.roster.Lookup(p.id)
	if info.Addrs == nil && info.Home && known && last.Info.Home {
		info.Addrs = last.Info.Addrs
	}
	if len(info.Addrs) > MaxAddrs {
		info.Addrs = info.Addrs[:MaxAddrs]
	}
	bin := info.Append(nil)
	if !force && bytes.Equal(bin, own.bin) && now < old.Created+pillarLife/2 {
		return nil
	}
	created := now
	if known {
		created = max(created, last.Record.Created+1)
	}
	draft := Draft{Kind: KindPillar, Author: string(p.id), Created: created, Expires: created + pillarLife, Bin: bin}
	record, err := draft.Sign(p.cfg.Network, p.cfg.Key)
	if err != nil {
		return fmt.Errorf("own record: %w", err)
	}
	if _, err := p.roster.Add(now, true, record.Raw); err != nil {
		return fmt.Errorf("own record: %w", err)
	}
	own.bin = bin
	own.mu.Lock()
	defer own.mu.Unlock()
	own.record = record
	return nil
}

// admission asks for an admission and checks that it counts.
func (p *Pillar) admission(now uint64) (identity.Admission, error) {
	a, err := p.cfg.Admit(now)
	switch {
	case err != nil:
		return a, err
	case a.Pillar != p.id:
		return a, fmt.Errorf("it is for pillar %s", a.Pillar)
	case p.roster.Revoked(p.id, a.Serial):
		return a, Refuse(CodeNotAdmitted, "pillar %s was revoked: whoever holds the network key can admit it again with `obelisk network admit %s`; "+
			"bring the file here and start with --admission FILE", p.id, p.id)
	}
	return a, a.Valid(p.cfg.Network, now)
}

// checkLeft refuses to go on as a pillar that said it left for good.
func (p *Pillar) checkLeft() error {
	last, ok := p.roster.Lookup(p.id)
	if !ok || !last.Info.Left || p.cfg.Rejoin {
		return nil
	}
	return Refuse(CodeNotAdmitted, "pillar %s left the network at %s: start it with --rejoin to belong to it again, "+
		"or make a new pillar in another directory with --data", p.id, millisText(last.Record.Created))
}

// Leave publishes that the pillar left for good and returns its record when
// that is durable here: other pillars and nodes part from it as they learn of
// it. With back it publishes that the pillar is there again.
func (p *Pillar) Leave(ctx context.Context, back bool) (*Record, error) {
	own := &p.own
	own.renewing.Lock()
	own.left = !back
	err := p.renewLocked(true)
	own.renewing.Unlock()
	if err != nil {
		return nil, err
	}
	rec := p.Record()
	if v, ok := p.rosterValue(rec); ok {
		err = p.commitValues(ctx, []Value{v})
	}
	return rec, err
}

// Revoke takes a revocation by the network key into the roster, from where it
// spreads. It refuses one that leaves the pillar's admission in force.
func (p *Pillar) Revoke(ctx context.Context, rec *Record) error {
	info, err := ParseRevocationInfo(rec.Bin)
	if err != nil {
		return err
	}
	if e, ok := p.roster.Lookup(info.Pillar); ok && e.Info.Admission.Serial > info.Serial {
		return Refuse(CodeBadRequest, "the revocation covers admissions of %s up to serial %d, the one it has is %d: "+
			"sign it with --serial %d", info.Pillar, info.Serial, e.Info.Admission.Serial, e.Info.Admission.Serial)
	}
	if _, err := p.roster.Add(p.now(), true, rec.Raw); err != nil {
		return err
	}
	if v, ok := p.rosterValue(rec); ok {
		return p.commitValues(ctx, []Value{v})
	}
	return nil
}

// checkStanding notices when the pillar becomes none, and when it is one again.
func (p *Pillar) checkStanding() {
	now := p.now()
	standing := p.roster.Standing(p.id, now)
	var out *Error
	if standing == StandingRevoked || standing == StandingLeft {
		out = p.roster.NotAdmitted(p.id, now)
	}
	before := p.out.Swap(out)
	switch {
	case out == nil && before != nil:
		p.log.Info("this pillar is admitted again")
		return
	case out == nil, before != nil && before.Text == out.Text:
		return
	case standing == StandingRevoked:
		p.log.Error("this pillar was revoked by the network key: no other pillar and no node takes it any more, and it takes nothing; "+
			"an admission made after that counts as soon as it is in its file", "pillar", p.id)
	default:
		p.log.Info("this pillar left the network", "pillar", p.id)
	}
	p.endAll(out)
}

// loadRoster reads the roster's values.
func (p *Pillar) loadRoster(view View) error {
	p.own.locals = map[string]bool{}
	now := p.now()
	return view.Values("roster/", func(key string, data []byte) bool {
		if len(data) == 0 {
			return true
		}
		local := data[0] == 1
		if _, err := p.roster.Add(now, local, data[1:]); err != nil {
			p.log.Warn("roster record not loaded", "err", err)
			return true
		}
		p.own.locals[key] = local
		return true
	})
}

// rosterChanged is the roster's watcher.
func (p *Pillar) rosterChanged(added []*Record) {
	p.mu.Lock()
	p.rosterNews = append(p.rosterNews, added...)
	p.mu.Unlock()
	select {
	case p.rosterWake <- struct{}{}:
	default:
	}
}

// rosterNewsOut saves what is new in the roster and pushes it to all sessions.
func (p *Pillar) rosterNewsOut(ctx context.Context) {
	p.mu.Lock()
	news := p.rosterNews
	p.rosterNews = nil
	p.mu.Unlock()
	for len(news) > 0 {
		n := min(len(news), 64) // a few frames' worth at most
		msg := &RosterMsg{}
		values := make([]Value, 0, n)
		for _, rec := range news[:n] {
			msg.Records = append(msg.Records, rec.Raw)
			if v, ok := p.rosterValue(rec); ok {
				values = append(values, v)
			}
		}
		news = news[n:]
		if err := p.commitValues(ctx, values); err != nil && ctx.Err() == nil {
			p.log.Warn("roster not saved", "err", err)
		}
		p.tellAll(msg)
	}
}

func (p *Pillar) rosterValue(rec *Record) (Value, bool) {
	if rec.Kind == KindRevocation {
		info, err := ParseRevocationInfo(rec.Bin)
		if err != nil {
			return Value{}, false
		}
		return Value{Key: rosterRevocationPrefix + string(info.Pillar), Data: append([]byte{0}, rec.Raw...)}, true
	}
	entry, ok := p.roster.Lookup(rec.Pillar())
	if !ok {
		return Value{}, false
	}
	v := Value{Key: rosterPillarPrefix + string(entry.Pillar),
		Data: append([]byte{byte(btoi(entry.Local))}, entry.Record.Raw...)}
	p.own.mu.Lock()
	p.own.locals[v.Key] = entry.Local
	p.own.mu.Unlock()
	return v, true
}

// rosterLocals returns the values of pillars that became local since they were
// saved.
func (p *Pillar) rosterLocals() (values []Value) {
	for _, e := range p.roster.Entries() {
		p.own.mu.Lock()
		saved := p.own.locals[rosterPillarPrefix+string(e.Pillar)]
		p.own.mu.Unlock()
		if saved != e.Local {
			if v, ok := p.rosterValue(e.Record); ok {
				values = append(values, v)
			}
		}
	}
	return values
}
