package overlay

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/seal"
)

// Admission is what a pillar asks of submissions beyond validity. It is policy
// of this pillar and this moment: replication never asks it.

// minReserve is the least a reserve can be, in bytes; see diskState.
const minReserve = 1 << 30

// plainKindLimit is the largest bin of other kinds than messages that every
// pillar takes: an epoch record's.
const plainKindLimit = 64 << 10

var (
	errClockWrong = &Error{Code: CodeClockWrong, Text: "this pillar's clock is not that of the other pillars", Retry: time.Minute}
	errDiskFull   = &Error{Code: CodeFull, Text: "this pillar's disk is nearly full", Retry: time.Minute}
)

// diskState is what is known of the disk. A reserve is max(1 GiB, 5 %): below
// two of them submissions are refused, below one the pillar is full.
type diskState struct {
	low     atomic.Bool
	full    atomic.Bool
	limit   atomic.Uint64 // of the store in bytes
	longest atomic.Int64  // the longest life taken, a time.Duration; 0: any
}

// checkDisk looks at the disk anew.
func (p *Pillar) checkDisk() {
	free, total, err := p.cfg.Disk()
	if err != nil {
		p.log.Warn("free disk space unknown", "err", err)
		return
	}
	limit := p.cfg.StoreLimit
	if limit == 0 {
		limit = total / 10 * 9
	}
	if used := p.cfg.Store.Stats().Bytes; used < limit {
		free = min(free, limit-used)
	} else {
		free = 0
	}
	reserve := max(minReserve, total/20)
	if p.cfg.StoreLimit != 0 {
		// A small limit of the operator's gets reserves in proportion.
		reserve = min(reserve, max(p.cfg.StoreLimit/20, 1))
	}
	p.disk.limit.Store(limit)
	p.disk.longest.Store(int64(longestLife(free, 2*reserve, limit)))
	p.disk.low.Store(free < 2*reserve)
	if full := free < reserve; p.disk.full.Swap(full) != full {
		p.log.Warn("disk", "full", full, "free", free, "reserve", reserve)
	}
}

// refusal returns why nothing is taken now, nil if something may be.
func (p *Pillar) refusal() *Error {
	if p.clock.inDoubt(p.now()) {
		p.checkClock()
	}
	switch {
	case p.failure() != nil:
		return errStoreBroken
	case p.out.Load() != nil:
		return p.out.Load()
	case p.draining.Load():
		return errDraining
	case p.disk.low.Load():
		return errDiskFull
	case !p.clock.trusted(p.now()):
		return errClockWrong
	}
	return p.newLogRefusal()
}

// admit sets the errs of the valid, new submissions of a chunk that are
// refused.
func (p *Pillar) admit(ch *chunk) {
	now := p.now()
	all := p.refusal()
	for i := range ch.subs {
		sub := &ch.subs[i]
		if ch.errs[i] != nil || sub.known && sub.dot != (Dot{}) {
			continue
		}
		err := all
		if err == nil {
			err = p.admitOne(sub, now)
		}
		if err == nil && !sub.known { // a known one costs nothing more
			err = p.payFor(sub.rec, sub.s, now)
		}
		if err != nil {
			ch.errs[i] = err
		}
	}
}

func (p *Pillar) admitOne(sub *submission, now uint64) *Error {
	rec := sub.rec
	limit := seal.SealedLen(p.cfg.MaxBody + BodyOverhead)
	switch rec.Kind {
	case KindPillar, KindRevocation:
		return Refuse(CodeInvalid, "%s records are not submitted", rec.Kind)
	case KindMessage:
	default:
		limit = max(limit, plainKindLimit)
	}
	if len(rec.Bin) > limit {
		return Refuse(CodeTooLarge, "%d bytes sealed, this pillar takes %d: bodies of at most %d bytes", len(rec.Bin), limit, p.cfg.MaxBody)
	}
	if err := p.checkTime(rec, now); err != nil {
		return err
	}
	if rec.Expires > now && rec.Created <= now+uint64(maxClockOff/time.Millisecond) {
		p.clock.witness()
	}
	if !rec.Certified() {
		return nil
	}
	cert := sub.certificate()
	if cert == nil {
		return Refuse(CodeInvalid, "certificate: unreadable")
	}
	if !p.inForce(cert) {
		return p.refuseTime("certificate: out of date: it holds from %s to %s", millisText(cert.NotBefore), millisText(cert.NotAfter))
	}
	info, err := p.newestAccount(rec.Account())
	if err != nil {
		return errReading
	}
	if info != nil && info.IsRemoved(cert.Device, cert.Serial) {
		return removedDevice(cert.Device)
	}
	return nil
}

// certificate returns the certificate of a verified submission; nearly always
// it is the session's own.
func (sub *submission) certificate() *identity.Certificate {
	if s := sub.s; s != nil && sub.rec.Account() == s.account && bytes.Equal(sub.rec.Signer, s.credential) {
		return s.cert
	}
	cert, err := identity.ParseCertificate(sub.rec.Account(), sub.rec.Signer)
	if err != nil {
		return nil
	}
	return cert
}

// inForce reports whether a certificate holds now, whatever time that is.
func (p *Pillar) inForce(cert *identity.Certificate) bool {
	now := p.now()
	return cert.Covers(now) || cert.Covers(p.clock.likely(now))
}

// refuseTime refuses for good what a clock that is confirmed says is over. One
// that is not cannot tell.
func (p *Pillar) refuseTime(format string, args ...any) *Error {
	if p.clock.mayDelete(p.now()) {
		return Refuse(CodeInvalid, format, args...)
	}
	err := Refuse(CodeClockWrong, format, args...)
	err.Retry = time.Minute
	return err
}

// checkTime refuses what is expired or from the future by the clock here. Its
// author, who has a clock too, tries elsewhere until it is over by that one.
func (p *Pillar) checkTime(rec *Record, now uint64) *Error {
	likely := p.clock.likely(now)
	if rec.Expires <= min(now, likely) {
		return Refuse(CodeClockWrong, "expired at %s", millisText(rec.Expires))
	}
	if ahead := uint64(maxClockOff / time.Millisecond); rec.Created > max(now, likely)+ahead {
		late := rec.Created - max(now, likely)
		err := Refuse(CodeClockWrong, "created %d ms in the future", late)
		err.Retry = time.Duration(min(late-ahead, maxRetryMillis)) * time.Millisecond
		return err
	}
	return nil
}

// accountCache keeps the newest account record of recently active accounts, or
// that there is none. The committer corrects it with every account record that
// it stores.
type accountCache struct {
	mu            sync.Mutex
	recent, older map[identity.AccountID]*AccountInfo // guarded by mu; older is replaced by recent when that is full
	corrections   uint64                              // guarded by mu
}

const accountsCached = 4096

// newestAccount returns the content of the account's newest record, expired or
// not; nil if none is known. It must not be modified.
func (p *Pillar) newestAccount(a identity.AccountID) (*AccountInfo, error) {
	c := &p.accounts
	c.mu.Lock()
	info, ok := c.recent[a]
	if !ok {
		if info, ok = c.older[a]; ok {
			c.keep(a, info)
		}
	}
	corrections := c.corrections
	c.mu.Unlock()
	if ok {
		return info, nil
	}
	view := p.cfg.Store.View()
	defer view.Close()
	keys, err := readKeys(view, a, 0)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corrections == corrections { // else the view may be too old to be kept
		c.keep(a, keys.info)
	}
	return keys.info, nil
}

// keep stores an entry. c.mu is held.
func (c *accountCache) keep(a identity.AccountID, info *AccountInfo) {
	if len(c.recent) >= accountsCached || c.recent == nil {
		c.older, c.recent = c.recent, make(map[identity.AccountID]*AccountInfo)
	}
	c.recent[a] = info
}

// correct takes a new account record into account.
func (c *accountCache) correct(rec *Record) {
	info, err := ParseAccountInfo(rec.Bin)
	if err != nil {
		return // it does not count
	}
	a := rec.Account()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corrections++
	known, ok := c.recent[a]
	if !ok {
		known, ok = c.older[a]
	}
	if ok && (known == nil || info.Counter > known.Counter) {
		c.keep(a, info)
	}
}

// allowList is which accounts may register while registration is closed.
type allowList struct {
	mu       sync.Mutex
	accounts map[identity.AccountID]struct{} // guarded by mu
}

const allowPrefix = "allow/"

func (l *allowList) load(view View) error {
	l.accounts = map[identity.AccountID]struct{}{}
	return view.Values(allowPrefix, func(key string, _ []byte) bool {
		l.accounts[identity.AccountID(key[len(allowPrefix):])] = struct{}{}
		return true
	})
}

func (l *allowList) has(a identity.AccountID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.accounts[a]
	return ok
}

// Allow lets an account register although registration is closed, from now on
// and after restarts. It returns when that is durable; the pillar must run.
func (p *Pillar) Allow(a identity.AccountID) error {
	if p.allowed.has(a) {
		return nil
	}
	if _, err := identity.AccountFromBytes([]byte(a)); err != nil {
		return Refuse(CodeBadRequest, "%v", err)
	}
	err := p.commitValues(context.Background(), []Value{{Key: allowPrefix + string(a), Data: []byte{1}}})
	if err != nil {
		return fmt.Errorf("allow account: %w", err)
	}
	p.allowed.mu.Lock()
	defer p.allowed.mu.Unlock()
	p.allowed.accounts[a] = struct{}{}
	return nil
}
