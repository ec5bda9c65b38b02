package sim

import (
	"errors"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/store"
)

// errPowerCut is what a commit of a process that is gone returns. Nobody sees
// it: the process cannot say anything to anybody any more.
var errPowerCut = errors.New("the power is off")

// disk is what stays of a pillar when its process is gone. It can be copied, put
// back as it was at a copy, and lost.
type disk struct {
	content *store.Memory
	copies  []diskCopy // oldest first
	reverts []time.Time
}

type diskCopy struct {
	at      time.Time
	content *store.Memory
}

func newDisk() *disk { return &disk{content: store.NewMemory()} }

// copy keeps the disk as it is now.
func (d *disk) copy() {
	const kept = 8
	if len(d.copies) == kept {
		d.copies = append(d.copies[:0], d.copies[1:]...)
	}
	d.copies = append(d.copies, diskCopy{time.Now(), d.content.Clone()})
}

// putBack makes the disk what it was at the n-th newest copy, and returns when
// that was.
func (d *disk) putBack(n int) (time.Time, bool) {
	i := len(d.copies) - 1 - n
	if i < 0 {
		return time.Time{}, false
	}
	c := d.copies[i]
	d.copies = d.copies[:i+1]
	d.content = c.content.Clone()
	d.reverts = append(d.reverts, time.Now())
	return c.at, true
}

// lose empties the disk.
func (d *disk) lose() {
	d.content = store.NewMemory()
	d.copies = nil
	d.reverts = append(d.reverts, time.Now())
}

// revertedSince reports whether anything written since then may be gone.
func (d *disk) revertedSince(t time.Time) bool {
	return len(d.reverts) > 0 && d.reverts[len(d.reverts)-1].After(t)
}

// crashPoint is when a mount cuts the power.
type crashPoint int

const (
	noCrash crashPoint = iota
	beforeCommit
	afterCommit
)

// mount is a disk as one process sees it: an overlay.Store whose commits take
// time, until the power is cut. From then on nothing reaches the disk. Looking
// through it takes time as well: what is missing is not found at once.
type mount struct {
	*store.Memory
	fsync time.Duration
	scrub time.Duration
	cut   func() // the process is gone; called once, before a commit returns

	mu   sync.Mutex
	off  bool       // guarded by mu
	next crashPoint // guarded by mu
}

// View implements overlay.Store.
func (m *mount) View() overlay.View { return slowView{m.Memory.View(), m.scrub} }

// slowView is a view that a scrub takes its time with.
type slowView struct {
	overlay.View
	scrub time.Duration
}

// Parts implements overlay.View.
func (v slowView) Parts() overlay.Parts {
	time.Sleep(v.scrub)
	return v.View.Parts()
}

// Commit implements overlay.Store.
func (m *mount) Commit(c *overlay.Commit) (overlay.Committed, error) {
	if m.fsync > 0 {
		time.Sleep(m.fsync / 2)
	}
	done, err, died := m.commit(c)
	if died {
		m.cut()
	}
	if err == nil && m.fsync > 0 {
		time.Sleep(m.fsync / 2)
	}
	return done, err
}

func (m *mount) commit(c *overlay.Commit) (done overlay.Committed, err error, died bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off || m.next == beforeCommit {
		died = !m.off
		m.off = true
		return done, errors.Join(overlay.ErrStoreFailed, errPowerCut), died
	}
	done, err = m.Memory.Commit(c)
	if err == nil && m.next == afterCommit {
		m.off = true
		return overlay.Committed{}, errors.Join(overlay.ErrStoreFailed, errPowerCut), true
	}
	return done, err, false
}

// Drop implements overlay.Store.
func (m *mount) Drop(before overlay.Day) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return errors.Join(overlay.ErrStoreFailed, errPowerCut)
	}
	return m.Memory.Drop(before)
}

// powerOff ends all writing now.
func (m *mount) powerOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = true
}

// arm makes the next commit the last.
func (m *mount) arm(at crashPoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = at
}
