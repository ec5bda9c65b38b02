package overlay

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// Debts are saved once a minute and at the end: a crash forgives a minute's worth at
// most. What there is of them is at most 2 MB, of which a minute writes what changed.
//
//	"quota/key"                       the key that debtors are hashed with, 32 bytes
//	"quota/" meter1 row1 part1        at8 then, for each cell of the part that owes
//	                                  something: index2 owed8 (IEEE 754), big-endian
//
// meter is the first letter of author, source or pair. Nothing in them says who owes.
const (
	quotaPrefix  = "quota/"
	quotaKeyName = quotaPrefix + "key"
	quotaKeyLen  = sha256.Size
	quotaCellLen = 2 + 8
)

func (q *quotas) meters() map[byte]*meter {
	return map[byte]*meter{'a': q.author, 's': q.source, 'p': q.pairs}
}

// load takes what was saved. What is damaged is forgiven.
func (q *quotas) load(view View, now uint64) error {
	q.init()
	q.mu.Lock()
	defer q.mu.Unlock()
	meters := q.meters()
	err := view.Values(quotaPrefix, func(key string, data []byte) bool {
		if key == quotaKeyName {
			if len(data) == quotaKeyLen {
				q.setKey([quotaKeyLen]byte(data))
				q.keySaved = true
			}
			return true
		}
		if key = key[len(quotaPrefix):]; len(key) != 3 || meters[key[0]] == nil || key[1] >= meterRows || key[2] >= meterCells/meterPart {
			return true
		}
		meters[key[0]].load(int(key[1]), int(key[2]), data, now)
		return true
	})
	if !q.keySaved { // else strangers would owe it
		q.init()
	}
	return err
}

// load takes a part of a row. A time that is yet to come is that of a clock that was
// wrong, and would forgive nothing until then.
func (m *meter) load(row, part int, data []byte, now uint64) {
	if len(data) < 8 || (len(data)-8)%quotaCellLen != 0 {
		return
	}
	at := min(now, binary.BigEndian.Uint64(data))
	for data = data[8:]; len(data) > 0; data = data[quotaCellLen:] {
		i := binary.BigEndian.Uint16(data)
		owed := math.Float64frombits(binary.BigEndian.Uint64(data[2:]))
		if i < meterPart && owed > 0 && owed <= math.MaxFloat64 {
			m.cells[row][part*meterPart+int(i)] = debt{owed, at}
		}
	}
}

// values returns what is to be saved of the debts as they are at now. It counts as
// saved, unless unsaved is called.
func (q *quotas) values(now uint64, of Quotas) (values []Value, unsaved func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	rates := map[byte]uint64{'a': of.Author, 's': of.Source, 'p': of.Pair}
	var undo []*bool
	for letter, m := range q.meters() {
		for row := range m.dirty {
			for part := range m.dirty[row] {
				if dirty := &m.dirty[row][part]; *dirty {
					*dirty = false
					undo = append(undo, dirty)
					key := quotaPrefix + string([]byte{letter, byte(row), byte(part)})
					values = append(values, Value{Key: key, Data: m.save(row, part, now, rates[letter])})
				}
			}
		}
	}
	if len(values) > 0 && !q.keySaved {
		values = append(values, Value{Key: quotaKeyName, Data: append([]byte(nil), q.author.key[:]...)})
		q.keySaved = true
		undo = append(undo, nil)
	}
	return values, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, dirty := range undo {
			if dirty == nil {
				q.keySaved = false
			} else {
				*dirty = true
			}
		}
	}
}

// save returns the value of a part of a row.
func (m *meter) save(row, part int, now, rate uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, now)
	for i := range meterPart {
		c := &m.cells[row][part*meterPart+i]
		if c.forgive(now, rate); c.owed > 0 {
			b = binary.BigEndian.AppendUint16(b, uint16(i))
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(c.owed))
		}
	}
	return b
}

// quotaValues is quotas.values, nothing while the clock is in doubt: it would forgive.
func (p *Pillar) quotaValues() (values []Value, unsaved func()) {
	now := p.now()
	if !p.clock.mayDelete(now) {
		return nil, func() {}
	}
	return p.quotas.values(now, p.cfg.Quotas.with(p.disk.limit.Load()))
}
