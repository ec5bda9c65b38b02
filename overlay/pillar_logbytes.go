package overlay

import (
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// logBytesPrefix begins the value keys of logBytes: "share/" + pillar ID, the
// data a list of [expiry day, bytes].
const logBytesPrefix = "share/"

// logBytes counts what the logs of each other pillar brought and still lies on
// the disk, by expiry day. It is saved once a minute: a crash forgets a minute's
// worth at most.
type logBytes struct {
	mu    sync.Mutex
	of    map[identity.PillarID]*pillarBytes // guarded by mu
	dirty map[identity.PillarID]bool         // guarded by mu; not saved yet
}

type pillarBytes struct {
	total uint64
	days  map[Day]uint64
}

func (l *logBytes) load(view View) error {
	l.of, l.dirty = map[identity.PillarID]*pillarBytes{}, map[identity.PillarID]bool{}
	return view.Values(logBytesPrefix, func(key string, data []byte) bool {
		p, err := identity.PillarFromBytes([]byte(key[len(logBytesPrefix):]))
		r := canon.NewReader(data)
		n := r.ArrayMax(MaxDays)
		b := &pillarBytes{days: map[Day]uint64{}}
		for range n {
			r.Array(2)
			day, size := Day(r.UintMax(1<<32-1)), r.Uint()
			b.days[day] += size
			b.total += size
		}
		if err == nil && r.End() == nil { // else it is counted from now on
			l.of[p] = b
		}
		return true
	})
}

// add counts a record that a log of p brought.
func (l *logBytes) add(p identity.PillarID, day Day, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.of[p]
	if b == nil {
		b = &pillarBytes{days: map[Day]uint64{}}
		l.of[p] = b
	}
	b.total += uint64(size)
	b.days[day] += uint64(size)
	l.dirty[p] = true
}

// drop forgets the days before one: their bytes are gone.
func (l *logBytes) drop(before Day) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, b := range l.of {
		for day, size := range b.days {
			if day < before {
				b.total -= size
				delete(b.days, day)
				l.dirty[p] = true
			}
		}
	}
}

// over returns the refusal of another run of p's logs, nil if it has room.
func (l *logBytes) over(p identity.PillarID, share, now uint64) *Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.of[p]
	if b == nil || b.total < share {
		return nil
	}
	first := DayOf(now)
	if len(b.days) > 0 {
		first = slices.MinFunc(daysOf(b.days), func(a, b Day) int { return int(a) - int(b) })
	}
	err := Refuse(CodeQuota, "the logs of pillar %s keep %d bytes here, their share is %d: they are paused until some of it expired", p, b.total, share)
	err.Retry = time.Duration(min(keptMillis(uint64(first)*DayMillis, now), maxRetryMillis)) * time.Millisecond
	return err
}

func daysOf(days map[Day]uint64) []Day {
	list := make([]Day, 0, len(days))
	for day := range days {
		list = append(list, day)
	}
	return list
}

// values returns what is to be saved.
func (l *logBytes) values() (values []Value) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.dirty {
		v := Value{Key: logBytesPrefix + string(p)}
		if b := l.of[p]; b.total > 0 {
			days := daysOf(b.days)
			slices.Sort(days)
			days = days[max(0, len(days)-MaxDays):]
			v.Data = canon.AppendArray(nil, len(days))
			for _, day := range days {
				v.Data = canon.AppendArray(v.Data, 2)
				v.Data = canon.AppendUint(v.Data, uint64(day))
				v.Data = canon.AppendUint(v.Data, b.days[day])
			}
		} else {
			delete(l.of, p)
		}
		values = append(values, v)
	}
	clear(l.dirty)
	return values
}

// logShare is how many bytes the logs of one other pillar may keep here.
func (p *Pillar) logShare() uint64 { return p.cfg.Quotas.with(p.disk.limit.Load()).Log }

// LogsPaused reports whether the logs of another pillar are not followed because
// they have used up their share of the disk.
func (p *Pillar) LogsPaused(id identity.PillarID) bool {
	return id != p.id && p.logBytes.over(id, p.logShare(), p.now()) != nil
}
