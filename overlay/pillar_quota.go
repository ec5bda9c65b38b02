package overlay

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/obelisk-network/obelisk/identity"
)

// Quotas are what a pillar lets one author, one part of the internet and one
// author for one recipient put on its disk. What a submission costs is its bytes
// times the time they will lie there, which is until a day after its expiry day,
// see pillar_expiry.go. So the rate at which a debt is forgiven, in byte
// milliseconds a millisecond, is a number of bytes: what a debtor that always
// owes keeps on the disk in the long run. What it may do at once is quotaBurst
// of it.
type Quotas struct {
	// Author, Source and Pair are the bytes that an account, an IPv4 /24 or IPv6
	// /48 of remote addresses, and an account for one recipient may keep on the
	// disk in the long run. 0: an eighth, a quarter and a sixteenth of the store's
	// limit. Loopback addresses are nobody's source.
	Author, Source, Pair uint64
	// Log is how many bytes the logs of one other pillar may keep on the disk;
	// over it they are not followed until some of it expired. 0: half of the
	// store's limit.
	Log uint64
}

// Shares of the store's limit, as divisors.
const (
	authorShare = 8
	sourceShare = 4
	pairShare   = 16
	logShare    = 2
)

const (
	// quotaBurst is for how long what is kept in the long run may be paid at once.
	quotaBurst = 7 * 24 * time.Hour
	// As the store fills, the longest life taken falls from the longest there is
	// at lifeFalls of the limit left to lifeLeast at two reserves left.
	lifeFalls = 0.25
	lifeLeast = 24 * time.Hour
	// lifeRetry is when a record that lives too long for a full store is worth
	// trying again: its life is shorter by then, or there is more room.
	lifeRetry = 10 * time.Minute
)

// with fills in the shares of a store of limit bytes.
func (q Quotas) with(limit uint64) Quotas {
	share := func(v *uint64, of uint64) {
		if *v == 0 {
			*v = max(1, limit/of)
		}
	}
	share(&q.Author, authorShare)
	share(&q.Source, sourceShare)
	share(&q.Pair, pairShare)
	share(&q.Log, logShare)
	return q
}

// keptMillis is how long a record's bytes lie on the disk from now on.
func keptMillis(expires, now uint64) uint64 {
	gone := (uint64(DayOf(expires)) + 2) * DayMillis
	return max(gone, now+1) - now
}

// Meters have meterRows hash functions over meterCells cells each.
const (
	meterRows  = 2
	meterCells = 1 << 14
	meterPart  = 1 << 11 // cells of one value on disk
)

// meter keeps the debts of any number of debtors in bounded memory, as a
// count-min sketch of leaky buckets: a debtor owes the least that its cells say,
// so strangers that share one cell by chance do not matter, and who shares all
// of them cannot be found without the key. It never forgives too much.
type meter struct {
	key   [quotaKeyLen]byte
	cells [meterRows][meterCells]debt
	dirty [meterRows][meterCells / meterPart]bool // parts that are to be saved
}

// debtor is an author, a source, or an author and a recipient.
type debtor struct{ who, to string }

// hash is a number that says nothing of the debtor to who has not got the key.
func (d *debtor) hash(key *[quotaKeyLen]byte) uint64 {
	var room [192]byte
	b := append(room[:0], key[:]...)
	b = append(append(b, byte(len(d.who))), d.who...)
	sum := sha256.Sum256(append(b, d.to...))
	return binary.BigEndian.Uint64(sum[:])
}

type debt struct {
	owed float64 // byte milliseconds
	at   uint64  // Unix ms
}

// at returns the debtor's cells, each brought up to now at rate bytes.
func (m *meter) at(who debtor, now, rate uint64) (cells [meterRows]*debt) {
	for i, k := range m.places(who) {
		cells[i] = &m.cells[i][k]
		cells[i].forgive(now, rate)
	}
	return cells
}

// places are the indexes of the debtor's cells.
func (m *meter) places(who debtor) (at [meterRows]int) {
	h := who.hash(&m.key)
	for i := range at {
		at[i] = int(h % meterCells)
		h /= meterCells
	}
	return at
}

// forgive brings the debt up to now at rate bytes. A clock that goes back
// forgives nothing.
func (d *debt) forgive(now, rate uint64) {
	if now > d.at {
		d.owed = max(0, d.owed-float64(now-d.at)*float64(rate))
		d.at = now
	}
}

// wait returns how many milliseconds it is until cost can be paid, 0 if it can
// now. Who owes nothing can pay anything, or it never could.
func (d *debt) wait(cost float64, rate uint64) float64 {
	most := float64(rate) * float64(quotaBurst.Milliseconds())
	if d.owed <= 0 || d.owed+cost <= most {
		return 0
	}
	return min(d.owed, d.owed+cost-most) / float64(rate)
}

// wait returns how many milliseconds it is until the debtor can pay cost, 0 if
// it can now.
func (m *meter) wait(who debtor, cost float64, now, rate uint64) float64 {
	cells := m.at(who, now, rate)
	least := cells[0]
	for _, c := range cells[1:] {
		if c.owed < least.owed {
			least = c
		}
	}
	return least.wait(cost, rate)
}

func (m *meter) charge(who debtor, cost float64, now, rate uint64) {
	for i, k := range m.places(who) {
		c := &m.cells[i][k]
		c.forgive(now, rate)
		c.owed += cost
		m.dirty[i][k/meterPart] = true
	}
}

// quotas are the debts at one pillar. They are kept on its disk, as what was
// submitted is, see pillar_quotadisk.go: a restart makes nobody's store emptier.
type quotas struct {
	mu                    sync.Mutex
	author, source, pairs *meter // guarded by mu
	keySaved              bool   // guarded by mu
}

func (q *quotas) init() {
	q.author, q.source, q.pairs = &meter{}, &meter{}, &meter{}
	var key [quotaKeyLen]byte
	rand.Read(key[:]) // never fails since Go 1.24
	q.setKey(key)
}

func (q *quotas) setKey(key [quotaKeyLen]byte) {
	q.author.key, q.source.key, q.pairs.key = key, key, key
}

// payers are who pays for a record: its author, where it comes from, and the
// author for each whom it is to.
type payers struct {
	author identity.AccountID
	source string // "": nobody's
	to     []identity.AccountID
}

// take charges cost to all of who, or to none and says why.
func (q *quotas) take(who payers, cost float64, now uint64, of Quotas) *Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var longest float64
	var whose string
	ask := func(m *meter, d debtor, rate uint64, text string) {
		if w := m.wait(d, cost, now, rate); w > longest {
			longest, whose = w, text
		}
	}
	ask(q.author, debtor{who: string(who.author)}, of.Author, "this account")
	if who.source != "" {
		ask(q.source, debtor{who: who.source}, of.Source, "addresses near this one")
	}
	for _, to := range who.to {
		ask(q.pairs, debtor{string(who.author), string(to)}, of.Pair, "this account to one recipient")
	}
	if longest > 0 {
		err := Refuse(CodeQuota, "what %s may keep on this pillar is used up", whose)
		err.Retry = time.Duration(min(longest+1, maxRetryMillis)) * time.Millisecond
		return err
	}
	q.author.charge(debtor{who: string(who.author)}, cost, now, of.Author)
	if who.source != "" {
		q.source.charge(debtor{who: who.source}, cost, now, of.Source)
	}
	for _, to := range who.to {
		q.pairs.charge(debtor{string(who.author), string(to)}, cost, now, of.Pair)
	}
	return nil
}

// sourceOf returns the part of the internet that an address belongs to: an IPv4
// /24 or an IPv6 /48; of a relayed connection, the relay's. "" is for addresses
// of this machine, and for those without an IP.
func sourceOf(a multiaddr.Multiaddr) string {
	if a == nil {
		return ""
	}
	ip, err := manet.ToIP(a)
	if err != nil || ip.IsLoopback() {
		return ""
	}
	if v4 := ip.To4(); v4 != nil {
		return string(v4[:3])
	}
	return string(ip.To16()[:6])
}

// payFor charges a submission, or says why it is refused.
func (p *Pillar) payFor(rec *Record, s *pillarSession, now uint64) *Error {
	if err := p.checkLife(rec, now); err != nil {
		return err
	}
	who := payers{author: rec.Account(), to: rec.To}
	if s != nil {
		who.source = s.source
	}
	cost := float64(len(rec.Raw)) * float64(keptMillis(rec.Expires, now))
	return p.quotas.take(who, cost, now, p.cfg.Quotas.with(p.disk.limit.Load()))
}

// checkLife refuses messages that live longer than the store has room for. It
// is no reason to reject them for ever, so the code is quota: another pillar may
// have more room, and their life gets shorter. Keys and receipts are taken all
// the same: without them nothing that is stored already can be read, and nobody
// knows what became of it.
func (p *Pillar) checkLife(rec *Record, now uint64) *Error {
	switch rec.Kind {
	case KindAccount, KindDevice, KindEpoch, KindReceipt:
		return nil
	}
	longest := time.Duration(p.disk.longest.Load())
	if longest == 0 || rec.Expires-now <= uint64(longest.Milliseconds()) {
		return nil
	}
	err := Refuse(CodeQuota, "this pillar's store fills: it takes lives of at most %s now", longest.Round(time.Minute))
	err.Retry = lifeRetry
	return err
}

// longestLife is the longest life taken with free of limit bytes left, where
// low is two reserves; 0: any.
func longestLife(free, low, limit uint64) time.Duration {
	falls := uint64(float64(limit) * lifeFalls)
	if free >= falls || falls <= low {
		return 0
	}
	part := 0.0
	if free > low {
		part = float64(free-low) / float64(falls-low)
	}
	return lifeLeast + time.Duration(part*float64(MaxKeyLife*uint64(time.Millisecond)-uint64(lifeLeast)))
}
